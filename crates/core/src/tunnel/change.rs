//! Everything `wg set` and `vcgate reload` can change while packets flow.
//!
//! A change that touches no secret keeps the session. boringtun has no setter for the preshared
//! key, so that change makes a new state for the peer and, if it was connected, a handshake at
//! once. (With the old state goes the time stamp of the last initiation: as after a restart, an
//! old initiation could be played once more, to which only the true peer can follow up.)

use super::handshake_limiter::HandshakeLimiter;
use super::peer::Peer;
use super::settings::{Path, PeerError, PeerSettings};
use super::{Identity, MOST_PEERS, Tunnel, slot_mut};
use crate::ids::PeerId;
use crate::keys::PresharedKey;
use boringtun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::time::Instant;

/// What the peers of other shards have in place of an index, which is never used.
const NO_INDEX: u32 = 0;

impl Tunnel {
    /// Adds a peer. Nothing is changed when its key or one of its prefixes is another's.
    pub fn add_peer(&mut self, settings: PeerSettings, now: Instant) -> Result<PeerId, PeerError> {
        let key = *settings.public_key.as_bytes();
        if settings.public_key == self.identity.public {
            return Err(PeerError::OwnKey);
        }
        if let Some(other) = self.by_key.get(&key).and_then(|id| self.peer(*id)) {
            return Err(PeerError::DuplicateKey(other.name.clone()));
        }
        for net in &settings.allowed_ips {
            if let Some(owner) = self.allowed.owner(*net).and_then(|id| self.peer(id)) {
                let (net, owner) = (net.trunc(), owner.name.clone());
                return Err(PeerError::AllowedIpTaken { net, owner });
            }
        }
        // All shards must say the same, or their peers would not have the same ids.
        if self.by_key.len() >= MOST_PEERS {
            return Err(PeerError::TooMany);
        }
        let id = PeerId(u32::try_from(self.peers.len()).map_err(|_| PeerError::TooMany)?);
        let index = match self.shard.owns(id.0) {
            true => self.indices.allocate(id, &mut self.rng),
            false => Some(NO_INDEX),
        };
        let index = index.ok_or(PeerError::TooMany)?;
        let allowed_ips = settings.allowed_ips.clone();
        let peer = Peer::new(id, index, settings, now);
        let keepalive = peer.persistent_keepalive.is_some();
        self.peers.push(Some(Box::new(peer)));
        self.by_key.insert(key, id);
        for net in allowed_ips {
            self.allow(id, net);
        }
        if keepalive {
            self.with_peer(id, now, Peer::keepalive);
        }
        Ok(id)
    }

    /// The next number is nobody's, so that the peer behind it gets its own.
    pub fn skip_peer(&mut self) {
        self.peers.push(None);
    }

    /// Makes a peer, who it is apart, another one: its session stays, unless the preshared key is
    /// another. Prefixes are taken from whoever has them; where it is, it stays.
    pub fn change_peer(&mut self, id: PeerId, settings: PeerSettings, now: Instant) {
        let kept = |net: &IpNet| {
            settings
                .allowed_ips
                .iter()
                .any(|other| other.trunc() == *net)
        };
        let before = self.peer(id).map(|peer| peer.allowed_ips.clone());
        for net in before.unwrap_or_default() {
            if !kept(&net) {
                self.disallow(id, net);
            }
        }
        for net in &settings.allowed_ips {
            self.allow(id, *net);
        }
        self.set_name(id, settings.name);
        self.set_preshared_key(id, settings.preshared_key, now);
        self.set_persistent_keepalive(id, settings.persistent_keepalive, now);
    }

    /// Removes a peer and everything that was its.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.clear_allowed_ips(id);
        let Some(mut peer) = self.peers.get_mut(id.0 as usize).and_then(Option::take) else {
            return;
        };
        if peer.ready {
            peer.log_disconnect("it was removed");
        }
        self.by_key.remove(peer.public_key.as_bytes());
        if self.shard.owns(id.0) {
            self.indices.release(peer.index);
        }
        self.schedule.set(id, &mut peer.due_at, None);
    }

    /// The peer with this public key.
    pub fn find(&self, key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(key.as_bytes()).copied()
    }

    /// Gives an inner prefix to a peer, and takes it from the peer that had it, which is returned.
    pub fn allow(&mut self, id: PeerId, net: IpNet) -> Option<PeerId> {
        let net = net.trunc();
        let peer = slot_mut(&mut self.peers, id)?;
        let before = self.allowed.insert(net, id);
        if before == Some(id) {
            return None;
        }
        peer.allowed_ips.push(net);
        if let Some(loser) = before.and_then(|loser| slot_mut(&mut self.peers, loser)) {
            loser.allowed_ips.retain(|other| *other != net);
        }
        before
    }

    /// Takes an inner prefix from a peer; whether it was the peer's.
    pub fn disallow(&mut self, id: PeerId, net: IpNet) -> bool {
        let net = net.trunc();
        if self.allowed.owner(net) != Some(id) {
            return false;
        }
        self.allowed.remove(net);
        if let Some(peer) = slot_mut(&mut self.peers, id) {
            peer.allowed_ips.retain(|other| *other != net);
        }
        true
    }

    /// Takes all inner prefixes from a peer.
    pub fn clear_allowed_ips(&mut self, id: PeerId) {
        let Some(peer) = slot_mut(&mut self.peers, id) else {
            return;
        };
        for net in std::mem::take(&mut peer.allowed_ips) {
            self.allowed.remove(net);
        }
    }

    /// Gives a peer another name, for logs.
    pub fn set_name(&mut self, id: PeerId, name: String) {
        if let Some(peer) = slot_mut(&mut self.peers, id) {
            peer.name = name;
        }
    }

    /// Says where a peer is; it may still roam from there.
    pub fn set_endpoint(&mut self, id: PeerId, remote: SocketAddr, now: Instant) {
        let local = None;
        self.with_peer(id, now, |peer, _| peer.path = Some(Path { remote, local }));
    }

    /// Sets the seconds between keepalives; the first goes at once when there were none.
    pub fn set_persistent_keepalive(&mut self, id: PeerId, seconds: Option<u16>, now: Instant) {
        let seconds = seconds.filter(|seconds| *seconds > 0);
        self.with_peer(id, now, |peer, ctx| {
            let before = std::mem::replace(&mut peer.persistent_keepalive, seconds);
            if before.is_none() && seconds.is_some() {
                peer.tick(ctx);
                peer.keepalive(ctx);
            }
        });
    }

    /// Sets or removes a peer's preshared key.
    pub fn set_preshared_key(&mut self, id: PeerId, key: Option<PresharedKey>, now: Instant) {
        self.with_peer(id, now, |peer, ctx| {
            if peer.preshared_key != key {
                peer.preshared_key = key;
                peer.restart(ctx);
            }
        });
    }

    /// Takes on another private key. All sessions end; a peer that has the new public key is
    /// removed, as the kernel does.
    pub fn set_private_key(&mut self, private_key: StaticSecret, now: Instant) {
        if private_key.as_bytes() == self.identity.private.as_bytes() {
            return;
        }
        self.identity = Identity::new(private_key);
        self.gate = HandshakeLimiter::new(&self.identity.public, now);
        if let Some(own) = self.find(&self.identity.public) {
            self.remove_peer(own);
        }
        for id in (0u32..).map(PeerId).take(self.peers.len()) {
            self.with_peer(id, now, |peer, _| peer.forget());
        }
    }
}
