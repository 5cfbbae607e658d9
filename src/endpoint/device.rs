//! The endpoint as `wg` sees and changes it, in the engine's terms.

use super::clock::Clock;
use crate::control::uapi::device::{
    AllowedIp, DeviceChange, Errno, KeyChange, PeerSection, PeerState, UapiError,
};
use crate::keys::{self, PrivateKey};
use boringtun::x25519::PublicKey;
use std::collections::HashMap;
use std::time::Instant;
use vcgate_core::engine::{Engine, Rule};
use vcgate_core::ids::PeerId;
use vcgate_core::tunnel::{PeerSettings, PeerStatus};

/// What is known of peers that `wg`, which knows keys only, may make.
#[derive(Debug, Clone)]
pub(super) struct PeerDirectory {
    /// Names and rules of those that the configuration or a command has named.
    pub peers: HashMap<keys::PublicKey, (String, Vec<Rule>)>,
    /// What others may reach.
    pub others: Vec<Rule>,
}

impl PeerDirectory {
    /// The name and the rules of a peer; a stranger is called by the beginning of its key.
    pub(super) fn of(&self, key: &keys::PublicKey) -> (String, Vec<Rule>) {
        let stranger = || {
            (
                key.to_string().chars().take(8).collect(),
                self.others.clone(),
            )
        };
        self.peers.get(key).cloned().unwrap_or_else(stranger)
    }
}

/// The endpoint's own key.
pub(super) fn private_key(engine: &Engine) -> PrivateKey {
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
        preshared_key: peer.preshared_key.cloned(),
        endpoint: peer.path.map(|path| path.remote),
        last_handshake: peer.last_handshake.map(|at| clock.time_of_day(at)),
        rx_bytes: peer.rx,
        tx_bytes: peer.tx,
        persistent_keepalive: peer.persistent_keepalive.unwrap_or(0),
        allowed_ips: peer.allowed_ips.to_vec(),
    }
}

/// Refuses what no endpoint of vcgate can do, before anything of the change is done.
pub(super) fn check(change: &DeviceChange) -> Result<(), UapiError> {
    let message = match change {
        DeviceChange {
            private_key: Some(KeyChange::Clear),
            ..
        } => {
            "an endpoint cannot be without a private key: no client could connect; set another one"
        }
        change if change.fwmark.is_some_and(|mark| mark != 0) => {
            "fwmark is not supported: vcgate routes nothing into its own tunnel"
        }
        _ => return Ok(()),
    };
    Err(UapiError::new(Errno::NotSupported, message))
}

/// Carries out what `wg set` asks, after [`check`].
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
            let (name, rules) = known.of(&section.public_key);
            let new = PeerSettings {
                name,
                public_key: key,
                preshared_key: None,
                allowed_ips: Vec::new(),
                endpoint: None,
                persistent_keepalive: None,
            };
            match engine.add_peer(new, rules, now) {
                Ok(id) => id,
                // Its own key, as every WireGuard skips it, or no index is left.
                Err(error) => return tracing::warn!(%error, "a peer was not added"),
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
    fn a_change_that_no_endpoint_can_make_is_refused() {
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
