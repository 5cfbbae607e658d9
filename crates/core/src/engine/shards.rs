//! Several engines on one port, one device and one LAN address: the lookup of the shard that
//! owns a packet.
//!
//! A shard has its own peers, with all their flows and ports. It knows the keys, prefixes, rules
//! and forwards of all shards, so the lookup needs no other shard. A packet that another shard owns
//! is passed on unchanged ([`ShardMessage`](super::ShardMessage)), and never twice.

use super::DataPlane;
use crate::nat::ShardLookup;
use std::collections::VecDeque;
use std::net::IpAddr;
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::Packet;

/// Maximum number of fragmented datagrams whose shard is remembered.
const MAX_FIRST_FRAGMENTS: usize = 1024;

/// The shard that owns a packet of the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardTarget {
    /// This shard, or none.
    Local,
    /// Another shard.
    Remote(u8),
    /// Every shard gets a copy, and the one that receives the first fragment sends it on: this is
    /// a later fragment of a datagram whose first fragment was not seen.
    Broadcast,
}

/// The shards to which the first fragments of datagrams went, oldest first.
#[derive(Debug, Default)]
pub(super) struct FirstFragments(VecDeque<(Datagram, u8)>);

/// The fields that all fragments of a datagram share: addresses and identification.
type Datagram = (IpAddr, IpAddr, u32);

impl FirstFragments {
    /// Remembers the shard of a datagram if this is its first fragment.
    pub(super) fn note(&mut self, headers: &Headers, shard: u8) {
        let Some(datagram) = datagram(headers).filter(|_| headers.has_l4()) else {
            return;
        };
        if self.0.len() == MAX_FIRST_FRAGMENTS {
            self.0.pop_front();
        }
        self.0.push_back((datagram, shard));
    }

    fn find(&self, headers: &Headers) -> Option<u8> {
        let datagram = datagram(headers)?;
        let newest = self.0.iter().rev();
        let mut found = newest.filter(|(known, _)| *known == datagram);
        found.next().map(|(_, shard)| *shard)
    }
}

fn datagram(headers: &Headers) -> Option<Datagram> {
    let fragment = headers.fragment?;
    Some((headers.src, headers.dst, fragment.id))
}

impl DataPlane {
    /// Looks up the shard of a packet for the LAN address, or for a client's own.
    pub(super) fn shard_target(&mut self, packet: &Packet<'_>) -> ShardTarget {
        let headers = &packet.headers;
        let lookup = match self.nat.is_lan(headers.dst) {
            true => self.nat.shard_lookup(packet),
            false => ShardLookup::Client(headers.dst),
        };
        let shard = match lookup {
            ShardLookup::Shard(shard) => shard,
            ShardLookup::Client(client) => match self.tunnel.route(client) {
                Some(peer) => self.tunnel.shard_of(peer),
                None => return ShardTarget::Local,
            },
            ShardLookup::Peer(peer) => self.tunnel.shard_of(peer),
            ShardLookup::Fragment => match self.first_fragments.find(headers) {
                Some(shard) => shard,
                None => return ShardTarget::Broadcast,
            },
            ShardLookup::Unknown => return ShardTarget::Local,
        };
        self.first_fragments.note(headers, shard);
        match shard == self.shard.number() {
            true => ShardTarget::Local,
            false => ShardTarget::Remote(shard),
        }
    }

    /// Whether this shard owns a client's address.
    pub(super) fn owns_client(&self, client: IpAddr) -> bool {
        let peer = self.tunnel.route(client);
        peer.is_some_and(|peer| self.shard.owns(peer.0))
    }

    /// The other shard that owns the port of the LAN address to which a client's packet goes.
    pub(super) fn shard_for_lan(&mut self, packet: &Packet<'_>) -> Option<u8> {
        if self.shard.is_alone() || !self.nat.is_lan(packet.headers.dst) {
            return None;
        }
        match self.shard_target(packet) {
            ShardTarget::Remote(shard) => Some(shard),
            // A later fragment waits here for its first one.
            ShardTarget::Local | ShardTarget::Broadcast => None,
        }
    }
}
