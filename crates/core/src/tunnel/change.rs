//! Changes that `wg set` and `vcgate reload` make while packets flow.
//!
//! A change of no secret keeps the session. boringtun has no setter for the preshared key, so that
//! change creates a new state for the peer and, if it was connected, starts a handshake at once.
//! (The time stamp of the last initiation is lost with the old state: as after a restart, an old
//! initiation could be replayed once, but only the true peer can complete the handshake.)

use super::handshake_limiter::HandshakeLimiter;
use super::peer::Peer;
use super::settings::{Path, PeerError, PeerHistory, PeerSettings};
use super::{Identity, MAX_PEERS, Tunnel, slot_mut};
use crate::ids::PeerId;
use crate::keys::PresharedKey;
use boringtun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::time::Instant;

/// The receiver index of the peers of other shards. It is never used.
const NO_INDEX: u32 = 0;

impl Tunnel {
    /// Adds a peer.
    ///
    /// # Errors
    /// If the peer's key or one of its prefixes belongs to another peer, if the key is the
    /// endpoint's own, or if there are too many peers; nothing is changed then.
    pub fn add_peer(&mut self, settings: PeerSettings, now: Instant) -> Result<PeerId, PeerError> {
        let key = *settings.public_key.as_bytes();
        if settings.public_key == self.identity.public {
            return Err(PeerError::OwnKey);
        }
        if let Some(other) = self.by_key.get(&key).and_then(|id| self.peer(*id)) {
            return Err(PeerError::DuplicateKey(other.name.clone()));
        }
        for net in &settings.allowed_ips {
            if let Some(owner) = self.allowed_ips.owner(*net).and_then(|id| self.peer(id)) {
                let (net, owner) = (net.trunc(), owner.name.clone());
                return Err(PeerError::AllowedIpTaken { net, owner });
            }
        }
        // All shards must decide alike, otherwise the ids of their peers would differ.
        if self.by_key.len() >= MAX_PEERS {
            return Err(PeerError::TooMany);
        }
        let id = self.ids.next();
        let index = match self.shard.owns(id.0) {
            true => self.indices.allocate(id, &mut self.rng),
            false => Some(NO_INDEX),
        };
        let index = index.ok_or(PeerError::TooMany)?;
        let allowed_ips = settings.allowed_ips.clone();
        let peer = Peer::new(id, index, settings, now);
        let keepalive = peer.persistent_keepalive.is_some();
        self.ids.take_next();
        let slot = id.0 as usize;
        if self.peers.len() <= slot {
            self.peers.resize_with(slot + 1, || None);
        }
        self.peers[slot] = Some(Box::new(peer));
        self.by_key.insert(key, id);
        for net in allowed_ips {
            self.allow(id, net);
        }
        if keepalive {
            self.with_peer(id, now, Peer::keepalive);
        }
        if self.shard.owns(id.0) {
            self.note_moved(id);
        }
        Ok(id)
    }

    /// Skips the next peer id, so that the next peer belongs to the next shard.
    pub fn skip_peer(&mut self) {
        self.ids.skip();
    }

    /// Makes the ids of the peers removed so far reusable. The caller has dropped all state that
    /// refers to them.
    pub fn release_removed_ids(&mut self) {
        self.ids.release_removed();
    }

    /// Replaces the settings of a peer except its public key and its endpoint. The session stays
    /// unless the preshared key changes. Prefixes are taken from the peers that have them.
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

    /// Removes a peer, its session and its prefixes.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.clear_allowed_ips(id);
        let Some(mut peer) = self.peers.get_mut(id.0 as usize).and_then(Option::take) else {
            return;
        };
        if peer.ready {
            peer.log_disconnect("it was removed");
        }
        self.failures.remove_peer(id);
        self.ids.note_removed(id);
        self.by_key.remove(peer.public_key.as_bytes());
        if self.shard.owns(id.0) {
            self.indices.release(peer.index);
        }
        self.timers.set(id, &mut peer.scheduled_at, None);
    }

    /// Returns the peer with this public key.
    pub fn find(&self, key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(key.as_bytes()).copied()
    }

    /// Assigns an inner prefix to a peer. Returns the other peer that it was taken from.
    pub fn allow(&mut self, id: PeerId, net: IpNet) -> Option<PeerId> {
        let net = net.trunc();
        let peer = slot_mut(&mut self.peers, id)?;
        let before = self.allowed_ips.insert(net, id);
        if before == Some(id) {
            return None;
        }
        peer.allowed_ips.push(net);
        if let Some(loser) = before.and_then(|loser| slot_mut(&mut self.peers, loser)) {
            loser.allowed_ips.retain(|other| *other != net);
        }
        before
    }

    /// Removes an inner prefix from a peer. Returns whether the peer had it.
    pub fn disallow(&mut self, id: PeerId, net: IpNet) -> bool {
        let net = net.trunc();
        if self.allowed_ips.owner(net) != Some(id) {
            return false;
        }
        self.allowed_ips.remove(net);
        if let Some(peer) = slot_mut(&mut self.peers, id) {
            peer.allowed_ips.retain(|other| *other != net);
        }
        true
    }

    /// Removes all inner prefixes from a peer.
    pub fn clear_allowed_ips(&mut self, id: PeerId) {
        let Some(peer) = slot_mut(&mut self.peers, id) else {
            return;
        };
        for net in std::mem::take(&mut peer.allowed_ips) {
            self.allowed_ips.remove(net);
        }
    }

    /// Renames a peer.
    pub fn set_name(&mut self, id: PeerId, name: String) {
        if let Some(peer) = slot_mut(&mut self.peers, id) {
            peer.name = name;
        }
    }

    /// Sets the address of a peer; it may still roam.
    pub fn set_endpoint(&mut self, id: PeerId, remote: SocketAddr, now: Instant) {
        let local = None;
        self.with_peer(id, now, |peer, _| {
            peer.path = Some(Path { remote, local });
            peer.has_moved = true;
        });
    }

    /// Lets the totals of a new peer continue from an earlier run.
    pub fn restore_history(&mut self, id: PeerId, history: PeerHistory) {
        if let Some(peer) = slot_mut(&mut self.peers, id) {
            peer.restore_history(history);
        }
    }

    /// Sets the seconds between persistent keepalives. If they were off, the first is sent at once.
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

    /// Replaces the private key. All sessions end; a peer with the new public key is removed, as
    /// the kernel does.
    pub fn set_private_key(&mut self, private_key: StaticSecret, now: Instant) {
        if private_key.as_bytes() == self.identity.private.as_bytes() {
            return;
        }
        self.identity = Identity::new(private_key);
        self.handshake_limiter = HandshakeLimiter::new(&self.identity.public, now);
        if let Some(own) = self.find(&self.identity.public) {
            self.remove_peer(own);
        }
        for id in (0u32..).map(PeerId).take(self.peers.len()) {
            self.with_peer(id, now, |peer, _| peer.erase());
        }
    }
}
