//! The endpoint as `wg` sees and changes it, in the engine's terms.

use super::clock::Clock;
use crate::control::endpoint::PeerChange;
use crate::control::key::SecretKey;
use crate::control::uapi::device::{AllowedIp, DeviceChange, KeyChange, PeerSection, PeerState};
use crate::engine::{Engine, Rule};
use crate::ids::PeerId;
use crate::keys::{self, PresharedKey};
use crate::tunnel::{PeerSettings, PeerStatus};
use boringtun::x25519::{PublicKey, StaticSecret};
use std::time::Instant;

/// The key as people write it.
pub(super) fn key_text(key: &PublicKey) -> String {
    keys::PublicKey::from(*key.as_bytes()).to_string()
}

/// A peer that was added by name.
pub(super) fn peer_settings(peer: PeerChange) -> PeerSettings {
    PeerSettings {
        name: peer.name,
        public_key: (*peer.public_key.as_bytes()).into(),
        preshared_key: peer.preshared_key.as_ref().map(preshared),
        allowed_ips: peer.allowed_ips,
        endpoint: peer.endpoint,
        persistent_keepalive: peer.persistent_keepalive.filter(|s| *s > 0),
    }
}

/// The endpoint's own key.
pub(super) fn private_key(engine: &Engine) -> SecretKey {
    engine.tunnel().private_key().to_bytes().into()
}

/// The shard's own peers.
pub(super) fn peers(engine: &Engine, clock: Clock) -> Vec<(PeerId, PeerState)> {
    let own = engine.tunnel().own_peers();
    own.map(|peer| (peer.id, peer_state(&peer, clock)))
        .collect()
}

fn peer_state(peer: &PeerStatus<'_>, clock: Clock) -> PeerState {
    PeerState {
        public_key: (*peer.public_key.as_bytes()).into(),
        preshared_key: peer.preshared_key.map(|key| (*key.as_bytes()).into()),
        endpoint: peer.path.map(|path| path.remote),
        last_handshake: peer.last_handshake.map(|at| clock.time_of_day(at)),
        rx_bytes: peer.rx,
        tx_bytes: peer.tx,
        persistent_keepalive: peer.persistent_keepalive.unwrap_or(0),
        allowed_ips: peer.allowed_ips.to_vec(),
    }
}

/// Carries out what `wg set` asks; peers that it makes get `rules`.
pub(super) fn apply(engine: &mut Engine, change: DeviceChange, rules: &[Rule], now: Instant) {
    match change.private_key {
        Some(KeyChange::Set(key)) => {
            engine
                .tunnel_mut()
                .set_private_key(StaticSecret::from(*key.as_bytes()), now);
        }
        // The kernel's interface can be without a key. An endpoint cannot: no handshake succeeds
        // with a key that nobody knows.
        Some(KeyChange::Clear) | None => {}
    }
    if change.replace_peers {
        let all: Vec<PeerId> = engine.tunnel().peers().map(|peer| peer.id).collect();
        all.into_iter()
            .for_each(|peer| engine.remove_peer(peer, now));
    }
    for section in change.peers {
        apply_peer(engine, section, rules, now);
    }
}

fn apply_peer(engine: &mut Engine, section: PeerSection, rules: &[Rule], now: Instant) {
    let key = PublicKey::from(*section.public_key.as_bytes());
    let id = match engine.tunnel().find(&key) {
        Some(id) if section.remove => return engine.remove_peer(id, now),
        Some(id) => id,
        None if section.remove || section.update_only => return,
        None => {
            let new = PeerSettings {
                name: key_text(&key).chars().take(8).collect(),
                public_key: key,
                preshared_key: None,
                allowed_ips: Vec::new(),
                endpoint: None,
                persistent_keepalive: None,
            };
            match engine.add_peer(new, rules.to_vec(), now) {
                Ok(id) => id,
                // Its own key, as every WireGuard skips it, or no index is left.
                Err(error) => return tracing::warn!(%error, "a peer was not added"),
            }
        }
    };
    let tunnel = engine.tunnel_mut();
    match section.preshared_key {
        Some(KeyChange::Set(key)) => tunnel.set_preshared_key(id, Some(preshared(&key)), now),
        Some(KeyChange::Clear) => tunnel.set_preshared_key(id, None, now),
        None => {}
    }
    if let Some(endpoint) = section.endpoint {
        tunnel.set_endpoint(id, endpoint, now);
    }
    if section.replace_allowed_ips {
        tunnel.clear_allowed_ips(id);
    }
    for change in section.allowed_ips {
        match change {
            AllowedIp::Add(net) => drop(tunnel.allow(id, net)),
            AllowedIp::Remove(net) => drop(tunnel.disallow(id, net)),
        }
    }
    if let Some(seconds) = section.persistent_keepalive {
        tunnel.set_persistent_keepalive(id, (seconds > 0).then_some(seconds), now);
    }
}

fn preshared(key: &SecretKey) -> PresharedKey {
    PresharedKey::from(*key.as_bytes())
}
