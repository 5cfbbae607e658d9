//! The endpoint as `wg` shows and changes it (the UAPI), translated for the engine.

use super::peer_directory::{PeerDirectory, PeerEntry};
use super::report::Clock;
use crate::config::Config;
use crate::control::uapi::device::{
    AllowedIp, DeviceChange, Errno, KeyChange, PeerSection, PeerState, UapiError,
};
use crate::keys::PrivateKey;
use crate::logging::AUDIT;
use boringtun::x25519::PublicKey;
use std::collections::HashMap;
use std::time::{Instant, SystemTime};
use vcgate_core::engine::Engine;
use vcgate_core::ids::PeerId;
use vcgate_core::tunnel::{PeerSettings, PeerStatus};

/// Returns the endpoint's private key.
pub(super) fn private_key(engine: &Engine) -> PrivateKey {
    engine.tunnel().private_key().to_bytes().into()
}

/// Returns the state of the shard's own peers.
pub(super) fn peers(engine: &Engine, clock: Clock) -> Vec<(PeerId, PeerState)> {
    let own = engine.tunnel().own_peers();
    own.map(|peer| (peer.id, peer_state(&peer, clock)))
        .collect()
}

fn peer_state(peer: &PeerStatus<'_>, clock: Clock) -> PeerState {
    PeerState {
        public_key: (*peer.public_key.as_bytes()).into(),
        preshared_key: peer.preshared_key.cloned(),
        endpoint: peer.path.map(|path| path.remote),
        last_handshake: peer.last_handshake.map(|at| clock.time_of_day(at)),
        rx_bytes: peer.rx,
        tx_bytes: peer.tx,
        persistent_keepalive: peer.persistent_keepalive.unwrap_or(0),
        allowed_ips: peer.allowed_ips.to_vec(),
    }
}

/// Checks a change before any part of it is made.
///
/// # Errors
/// If the change is one that vcgate does not support.
pub(super) fn check(change: &DeviceChange) -> Result<(), UapiError> {
    let message = match change {
        DeviceChange {
            private_key: Some(KeyChange::Clear),
            ..
        } => "cannot remove the private key: no client could connect; set another one",
        change if change.fwmark.is_some_and(|mark| mark != 0) => {
            "cannot set fwmark: vcgate routes nothing into its own tunnel; leave it out"
        }
        _ => return Ok(()),
    };
    Err(UapiError::new(Errno::NotSupported, message))
}

/// Removes the sections that would add a peer that may not connect, and logs each: `wg` does not know
/// that the configuration has disabled it. The rest of a `wg syncconf` is applied.
pub(super) fn drop_inactive(change: &mut DeviceChange, config: &Config, now: SystemTime) {
    let inactive: HashMap<_, _> = config
        .peers
        .iter()
        .filter(|peer| !peer.lifecycle.is_active(now))
        .map(|peer| (peer.public_key, &*peer.name))
        .collect();
    change.peers.retain(|section| {
        let name = match inactive.get(&section.public_key) {
            Some(name) if !section.remove && !section.update_only => name,
            Some(_) | None => return true,
        };
        tracing::warn!(
            target: AUDIT,
            peer = name,
            "cannot add the peer: the configuration has disabled it, or it has expired; see `vcgate peer \
             enable` and `vcgate peer set NAME expires=never`"
        );
        false
    });
}

/// Applies a change that passed [`check`].
pub(super) fn apply(
    engine: &mut Engine,
    change: DeviceChange,
    known: &PeerDirectory,
    now: Instant,
) {
    match change.private_key {
        Some(KeyChange::Set(key)) => {
            engine
                .tunnel_mut()
                .set_private_key(key.secret().clone(), now);
        }
        // `check` refuses to clear it.
        Some(KeyChange::Clear) | None => {}
    }
    if change.replace_peers {
        let all: Vec<PeerId> = engine.tunnel().peers().map(|peer| peer.id).collect();
        all.into_iter()
            .for_each(|peer| engine.remove_peer(peer, now));
    }
    for section in change.peers {
        apply_peer(engine, section, known, now);
    }
}

fn apply_peer(engine: &mut Engine, section: PeerSection, known: &PeerDirectory, now: Instant) {
    let key = PublicKey::from(*section.public_key.as_bytes());
    let id = match engine.tunnel().find(&key) {
        Some(id) if section.remove => return engine.remove_peer(id, now),
        Some(id) => id,
        None if section.remove || section.update_only => return,
        None => {
            let PeerEntry {
                name,
                rules,
                rates,
                lan_address,
            } = known.of(&section.public_key);
            let new = PeerSettings {
                name,
                public_key: key,
                preshared_key: None,
                allowed_ips: Vec::new(),
                endpoint: None,
                persistent_keepalive: None,
            };
            match engine.add_peer(new, rules, now) {
                Ok(id) => {
                    engine.set_rates(id, rates, now);
                    if let Err(error) = engine.set_lan_address(id, lan_address, now) {
                        tracing::warn!(peer = %section.public_key, %error, "a peer shares its LAN address");
                    }
                    id
                }
                // The endpoint's own key, which every WireGuard skips, or too many peers.
                Err(error) => {
                    return tracing::warn!(peer = %section.public_key, %error, "cannot add a peer");
                }
            }
        }
    };
    let tunnel = engine.tunnel_mut();
    match section.preshared_key {
        Some(KeyChange::Set(key)) => tunnel.set_preshared_key(id, Some(key), now),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_change_is_refused() {
        let without_key = DeviceChange {
            private_key: Some(KeyChange::Clear),
            ..DeviceChange::default()
        };
        let marked = |fwmark| DeviceChange {
            fwmark: Some(fwmark),
            ..DeviceChange::default()
        };
        for change in [without_key, marked(1)] {
            let error = check(&change).unwrap_err();
            assert_eq!(error.errno, Errno::NotSupported, "{error}");
        }
        assert_eq!(check(&marked(0)), Ok(()));
        assert_eq!(check(&DeviceChange::default()), Ok(()));
    }
}
