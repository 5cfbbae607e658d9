//! The last stage: everything that leaves, to the LAN, to a client or to another shard. It decides
//! nothing about a packet except for which peer it is sealed.

use super::DataPlane;
use super::capture::Note;
use super::output::{Context, Output, ShardMessage};
use super::shaper::Flow;
use crate::ids::PeerId;
use crate::nat::Outcome;
use crate::tunnel::{Ecn, Path, Sealed, Transmit};
use std::io::IoSlice;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::coalesce::MAX_SEGMENTS;
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::Packet;
use vcgate_wire::split::{self, Split};
use vcgate_wire::virtio_net::{Gso, Header};

/// To the LAN.
impl DataPlane {
    /// Sends one packet or super-packet to the LAN.
    pub(super) fn send<O: Output>(
        &mut self,
        packet: &Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        self.tap_to_lan(packet, cx.now);
        let mut slices = [IoSlice::new(&[]); MAX_SEGMENTS];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(packet.pieces()) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        cx.out.lan_packet(vnet, &slices[..count]);
    }

    /// Sends a packet of vcgate's own to the LAN. A packet for the LAN address itself is received
    /// by the shard that owns its port: another one, or this one after the current packet.
    pub(super) fn originate_to_lan<O: Output>(
        &mut self,
        mut bytes: Vec<u8>,
        cx: &mut Context<'_, O>,
    ) {
        let Ok(packet) = Packet::parse(&mut bytes, Checksum::Complete) else {
            return;
        };
        let vnet = Header::default();
        match self.shard_for_lan(&packet) {
            Some(shard) => self.forward_to_shard(shard, &packet, &vnet, cx),
            None if self.nat.is_lan(packet.headers.dst) => self.looped_back.push_back(bytes),
            None => self.send(&packet, &vnet, cx),
        }
    }

    /// Answers a packet of the LAN that the NAT did not forward, if an answer is due.
    pub(super) fn drop_from_lan<O: Output>(&mut self, outcome: Outcome, cx: &mut Context<'_, O>) {
        match outcome {
            // A client of another shard may have sent the packet (hairpin).
            Outcome::Reply { error, .. } => {
                self.tap_note(Note::Refused);
                self.originate_to_lan(error, cx);
            }
            Outcome::Drop(reason) => self.tap_note(Note::Dropped(reason)),
            Outcome::Forward(_) | Outcome::Hairpin(_) | Outcome::Held => {}
        }
    }
}

/// To a client.
impl DataPlane {
    /// Delivers a packet that one client sent to another by way of the LAN address.
    pub(super) fn hairpin<O: Output>(
        &mut self,
        packet: &Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        let mut copy = packet.to_vec();
        self.deliver(vnet, &packet.headers, &mut copy, cx);
    }

    /// Delivers a packet of vcgate's own to a client.
    pub(super) fn originate_to_client<O: Output>(
        &mut self,
        mut packet: Vec<u8>,
        cx: &mut Context<'_, O>,
    ) {
        if let Ok(headers) = Headers::parse(&packet) {
            self.deliver(&Header::default(), &headers, &mut packet, cx);
        }
    }

    /// Answers a client's packet that the NAT did not forward, if an answer is due, and counts it if
    /// a limit stopped it.
    pub(super) fn drop_from_client<O: Output>(
        &mut self,
        peer: PeerId,
        outcome: Outcome,
        cx: &mut Context<'_, O>,
    ) {
        if outcome.is_limited() {
            self.peer_drops.entry(peer).limited += 1;
        }
        match outcome {
            Outcome::Reply { error, .. } => {
                self.tap_note(Note::Refused);
                self.originate_to_client(error, cx);
            }
            Outcome::Drop(reason) => self.tap_note(Note::Dropped(reason)),
            Outcome::Forward(_) | Outcome::Hairpin(_) | Outcome::Held => {}
        }
    }

    /// Delivers a packet or super-packet to the peer that owns the destination, or passes it to
    /// that peer's shard.
    pub(super) fn deliver<O: Output>(
        &mut self,
        vnet: &Header,
        headers: &Headers,
        bytes: &mut [u8],
        cx: &mut Context<'_, O>,
    ) {
        let Some(peer) = self.tunnel.route(headers.dst) else {
            self.counters.no_peer += 1;
            return;
        };
        if !self.shard.owns(peer.0) {
            let header = *vnet;
            let bytes = bytes.to_vec();
            return cx.out.to_shard(
                self.tunnel.shard_of(peer),
                ShardMessage::ToClient { header, bytes },
            );
        }
        if self.has_edge() {
            return self.deliver_limited(peer, vnet, bytes, cx);
        }
        self.tap_to_client(peer, bytes, headers.src, cx.now);
        self.deliver_to_peer(peer, vnet, headers, bytes, cx);
    }

    /// Delivers a packet to a peer of this shard when its rate permits.
    #[cold]
    fn deliver_limited<O: Output>(
        &mut self,
        peer: PeerId,
        vnet: &Header,
        bytes: &mut [u8],
        cx: &mut Context<'_, O>,
    ) {
        let direction = (peer, Flow::Down);
        if self.passes_now(direction, vnet, bytes.len(), || bytes.to_vec(), cx.now) {
            self.deliver_mapped(peer, vnet, bytes, cx);
        }
    }

    /// Delivers a packet from the address by which clients know its sender.
    pub(super) fn deliver_mapped<O: Output>(
        &mut self,
        peer: PeerId,
        vnet: &Header,
        bytes: &mut [u8],
        cx: &mut Context<'_, O>,
    ) {
        let Ok(mut packet) = Packet::parse(bytes, vnet.checksum()) else {
            self.counters.malformed += 1;
            return;
        };
        let sender = packet.headers.src;
        if !self.map_to_client(&mut packet) {
            self.counters.address += 1;
            return;
        }
        let headers = packet.headers;
        self.tap_to_client(peer, bytes, sender, cx.now);
        self.deliver_to_peer(peer, vnet, &headers, bytes, cx);
    }

    /// Splits a super-packet and seals each segment for a peer of this shard.
    #[inline]
    pub(super) fn deliver_to_peer<O: Output>(
        &mut self,
        peer: PeerId,
        vnet: &Header,
        headers: &Headers,
        bytes: &mut [u8],
        cx: &mut Context<'_, O>,
    ) {
        let Some(path) = self.tunnel.path(peer).copied() else {
            self.counters.no_endpoint += 1;
            return;
        };
        // Packets that were queued for the session leave before this one.
        self.flush_tunnel(cx.out);
        if vnet.gso == Gso::None {
            match !vnet.needs_csum || split::complete(vnet, headers, bytes) {
                true => self.seal(peer, &path, &bytes[..headers.len], cx),
                false => self.counters.offload += 1,
            }
            return;
        }
        let Some(mut split) = Split::new(vnet, headers, bytes) else {
            self.counters.offload += 1;
            return;
        };
        while let Some(range) = split.next(bytes) {
            self.seal(peer, &path, &bytes[range], cx);
        }
    }

    /// Encrypts a packet into the tail of the GSO batch.
    fn seal<O: Output>(
        &mut self,
        peer: PeerId,
        path: &Path,
        packet: &[u8],
        cx: &mut Context<'_, O>,
    ) {
        let len = self.tunnel.sealed_len(packet.len());
        let space = self.gso.space(path, Ecn::of(packet).outer(), len, cx.out);
        match self.tunnel.seal(peer, packet, space, cx.now) {
            Sealed::Written(len) => self.gso.commit(len, cx.out),
            Sealed::NoEndpoint => self.counters.no_endpoint += 1,
            // No datagram is that long.
            Sealed::BufferTooSmall => self.counters.too_long += 1,
            Sealed::Queued | Sealed::NoPeer => {}
        }
    }

    /// Sends the tunnel's own messages and queued packets, then the GSO batch.
    pub(super) fn transmit(&mut self, out: &mut impl Output) {
        self.flush_tunnel(out);
        self.gso.flush(out);
    }

    /// Sends the tunnel's own messages and the packets that were queued for a session.
    fn flush_tunnel(&mut self, out: &mut impl Output) {
        while let Some(Transmit { path, bytes, ecn }) = self.tunnel.poll_transmit() {
            out.datagrams(&path, ecn, bytes.len(), &bytes);
        }
    }
}

/// To another shard.
impl DataPlane {
    /// Passes a client's translated packet to the shard that owns its port of the LAN address, which
    /// takes it as a packet of the LAN (hairpin).
    pub(super) fn forward_to_shard<O: Output>(
        &mut self,
        shard: u8,
        packet: &Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        self.first_fragments.note(&packet.headers, shard);
        let bytes = packet.to_vec();
        let header = *vnet;
        cx.out
            .to_shard(shard, ShardMessage::FromLan { header, bytes });
    }
}
