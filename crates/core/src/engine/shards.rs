//! Several engines behind one port, one device and one LAN address: whose a packet of the LAN is,
//! and what one shard hands to another.
//!
//! A shard has its own peers, with all their flows and ports. It knows the keys, prefixes, rules
//! and forwards of all, so it can tell whose a thing is without asking; what is a mate's it hands
//! on whole ([`ShardMessage`]), and the mate takes it as if it had come there. Nothing is handed on twice.

use super::output::{Output, ShardMessage};
use super::{DataPlane, Engine};
use crate::nat::ShardLookup;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::Header;

/// Datagrams in pieces whose shard is remembered.
const MOST_PIECES: usize = 256;

/// Whose a packet of the LAN is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardTarget {
    /// This shard's, or nobody's.
    Local,
    /// Another shard's.
    Remote(u8),
    /// A piece of a datagram of which the first piece was not seen: each shard gets a copy, and
    /// whoever gets the first piece sends it on.
    Broadcast,
}

/// To which shards the first pieces of datagrams went, oldest first.
#[derive(Debug, Default)]
pub(super) struct Pieces(VecDeque<(Piece, u8)>);

/// What the pieces of a datagram have in common.
type Piece = (IpAddr, IpAddr, u32);

impl Pieces {
    fn note(&mut self, piece: Piece, shard: u8) {
        if self.0.len() == MOST_PIECES {
            self.0.pop_front();
        }
        self.0.push_back((piece, shard));
    }

    fn find(&self, piece: Piece) -> Option<u8> {
        let newest = self.0.iter().rev();
        let mut found = newest.filter(|(known, _)| *known == piece);
        found.next().map(|(_, shard)| *shard)
    }
}

fn piece(headers: &Headers) -> Option<Piece> {
    let fragment = headers.fragment?;
    Some((headers.src, headers.dst, fragment.id))
}

impl Engine {
    /// Takes what another shard handed on.
    pub fn deliver_message(&mut self, mail: ShardMessage, now: Instant, out: &mut impl Output) {
        match mail {
            ShardMessage::Datagram {
                path,
                ecn,
                initiator,
                bytes,
            } => {
                self.datagram(
                    &path,
                    ecn,
                    &bytes,
                    |tunnel, path, datagram, dst, now| {
                        tunnel.receive_from_shard(path, datagram, initiator, dst, now)
                    },
                    now,
                    out,
                );
            }
            ShardMessage::FromLan { header, mut bytes } => {
                self.own_lan_packet(&header, &mut bytes, now, out)
            }
            ShardMessage::ToClient { header, mut bytes } => {
                let headers = Headers::parse(&bytes).ok();
                match headers.filter(|h| self.rooms.is_here(h.dst)) {
                    Some(headers) => self.rooms.deliver(&header, &headers, &mut bytes, now, out),
                    None => self.rooms.counters.no_peer += 1,
                }
            }
        }
    }
}

impl DataPlane {
    /// Whose a packet is that is for the LAN address, or for a client's own.
    pub(super) fn shard_target(&mut self, packet: &Packet<'_>) -> ShardTarget {
        let headers = &packet.headers;
        let addressee = match self.nat.is_lan(headers.dst) {
            true => self.nat.shard_lookup(packet),
            false => ShardLookup::Client(headers.dst),
        };
        let shard = match addressee {
            ShardLookup::Shard(shard) => shard,
            ShardLookup::Client(client) => match self.tunnel.route(client) {
                Some(peer) => self.tunnel.shard_of(peer),
                None => return ShardTarget::Local,
            },
            ShardLookup::Fragment => match piece(headers).and_then(|p| self.pieces.find(p)) {
                Some(shard) => shard,
                None => return ShardTarget::Broadcast,
            },
            ShardLookup::Unknown => return ShardTarget::Local,
        };
        if let (Some(piece), true) = (piece(headers), headers.has_l4()) {
            self.pieces.note(piece, shard);
        }
        match shard == self.shard.number() {
            true => ShardTarget::Local,
            false => ShardTarget::Remote(shard),
        }
    }

    /// Whether a client's sessions are this shard's.
    fn is_here(&self, client: IpAddr) -> bool {
        let peer = self.tunnel.route(client);
        peer.is_some_and(|peer| self.shard.owns(peer.0))
    }

    /// The other shard that has the port of the LAN address which a client's packet is for.
    pub(super) fn shard_for_lan(&mut self, packet: &Packet<'_>) -> Option<u8> {
        if self.shard.is_alone() || !self.nat.is_lan(packet.headers.dst) {
            return None;
        }
        match self.shard_target(packet) {
            ShardTarget::Remote(mate) => Some(mate),
            // A piece without its first one waits for it here.
            ShardTarget::Local | ShardTarget::Broadcast => None,
        }
    }

    /// A client's translated packet for a port of another shard, which takes it as a packet of the LAN
    /// (hairpin).
    pub(super) fn forward_to_shard(
        &mut self,
        mate: u8,
        packet: &Packet<'_>,
        vnet: &Header,
        out: &mut impl Output,
    ) {
        if let (Some(piece), true) = (piece(&packet.headers), packet.headers.has_l4()) {
            self.pieces.note(piece, mate);
        }
        let bytes = packet.to_vec();
        let header = *vnet;
        out.to_shard(mate, ShardMessage::FromLan { header, bytes });
    }

    /// A packet that one of our own rooms made for the LAN; what is for the LAN address itself
    /// comes in at the shard that has its port.
    pub(super) fn send_to_lan_or_shard(
        &mut self,
        mut bytes: Vec<u8>,
        now: Instant,
        out: &mut impl Output,
    ) {
        let Ok(packet) = Packet::parse(&mut bytes, Checksum::Complete) else {
            return;
        };
        let vnet = Header::default();
        match self.shard_for_lan(&packet) {
            Some(mate) => self.forward_to_shard(mate, &packet, &vnet, out),
            None if self.nat.is_lan(packet.headers.dst) => {
                self.lan_to_client(&vnet, packet, now, out);
            }
            None => self.send(&packet, &vnet, now, out),
        }
    }
}
