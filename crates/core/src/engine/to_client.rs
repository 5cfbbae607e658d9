//! LAN → client: from a packet or super-packet of the TUN device to sealed datagrams.

use super::output::{Output, ShardMessage};
use super::smb_stage::checksum_of;
use super::tap::Note;
use super::{DataPlane, Engine, ShardTarget};
use crate::ids::PeerId;
use crate::nat::{DeferredPacket, Outcome};
use crate::tunnel::{Ecn, Path, Sealed};
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::Packet;
use vcgate_wire::split::{self, Split};
use vcgate_wire::virtio_net::{Gso, Header};

impl Engine {
    /// A packet or super-packet that the host routed to the LAN address, and whose it is. The bytes
    /// are used up if it is this shard's; else they are as they were, to be handed on.
    pub fn lan_packet(
        &mut self,
        vnet: &Header,
        bytes: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) -> ShardTarget {
        let Some(packet) = self.rooms.parse(vnet, bytes) else {
            return ShardTarget::Local;
        };
        if !self.rooms.shard.is_alone() {
            match self.rooms.shard_target(&packet) {
                ShardTarget::Local => {}
                others => return others,
            }
        }
        self.rooms.lan_to_client(vnet, packet, now, out);
        self.rooms.drain_events(now, out);
        ShardTarget::Local
    }

    /// The same of which another shard said that it is this one's.
    pub(super) fn own_lan_packet(
        &mut self,
        vnet: &Header,
        bytes: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        if let Some(packet) = self.rooms.parse(vnet, bytes) {
            self.rooms.lan_to_client(vnet, packet, now, out);
            self.rooms.drain_events(now, out);
        }
    }
}

impl DataPlane {
    fn parse<'p>(&mut self, vnet: &Header, bytes: &'p mut [u8]) -> Option<Packet<'p>> {
        let packet = Packet::parse(bytes, checksum_of(vnet)).ok();
        self.counters.malformed += u64::from(packet.is_none());
        packet
    }

    pub(super) fn lan_to_client(
        &mut self,
        vnet: &Header,
        mut packet: Packet<'_>,
        now: Instant,
        out: &mut impl Output,
    ) {
        packet.segment = (vnet.gso != Gso::None).then_some(vnet.gso_size);
        self.tap_from_lan(&packet, now);
        if self.is_routed(&packet) {
            if self.route_in(&mut packet, now, out) {
                self.tap_translated(&packet);
                let headers = packet.headers;
                self.deliver(vnet, &headers, packet.into_bytes(), now, out);
            }
            return;
        }
        let lan = packet.headers.dst;
        match self.nat.inbound(&mut packet, &self.tunnel, now) {
            Outcome::Forward(flow) => {
                self.tap_translated(&packet);
                if let Some(flow) = flow.filter(|flow| self.is_watched(flow)) {
                    self.inspect_inbound(&flow, lan, &mut packet, now, out);
                }
                let headers = packet.headers;
                self.deliver(vnet, &headers, packet.into_bytes(), now, out);
            }
            outcome => self.handle_drop(outcome, now, out),
        }
    }

    /// A packet of the LAN that goes no further: its sender is told, if it is to be.
    pub(super) fn handle_drop(&mut self, outcome: Outcome, now: Instant, out: &mut impl Output) {
        match outcome {
            Outcome::Reply { error, .. } => {
                self.tap_note(Note::Refused);
                self.send_to_lan(error, now, out);
            }
            Outcome::Drop(reason) => self.tap_note(Note::Dropped(reason)),
            Outcome::Forward(_) | Outcome::Hairpin(_) | Outcome::Held => {}
        }
    }

    /// What NAT has to say later than the packet that caused it, which flows ended, and what the
    /// hook wants done.
    pub(super) fn drain_events(&mut self, now: Instant, out: &mut impl Output) {
        while let Some(late) = self.nat.poll_deferred() {
            match late {
                DeferredPacket::ToClient(packet) => self.answer(packet, now, out),
                DeferredPacket::ToLan(packet) => self.send_to_lan_or_shard(packet, now, out),
            }
        }
        while let Some(flow) = self.nat.poll_ended() {
            self.hook.connection_over(flow);
        }
        while let Some(flow) = self.nat.poll_closed() {
            self.hook.close(flow);
        }
        self.run_actions(now, out);
    }

    /// A packet that turned around at the LAN address goes to the client it is for.
    pub(super) fn hairpin(
        &mut self,
        packet: &Packet<'_>,
        vnet: &Header,
        now: Instant,
        out: &mut impl Output,
    ) {
        let mut copy = packet.to_vec();
        self.deliver(vnet, &packet.headers, &mut copy, now, out);
    }

    /// A packet that one of our own rooms made for a client.
    pub(super) fn answer(&mut self, mut packet: Vec<u8>, now: Instant, out: &mut impl Output) {
        if let Ok(headers) = Headers::parse(&packet) {
            self.deliver(&Header::default(), &headers, &mut packet, now, out);
        }
    }

    /// Cuts what needs cutting and seals each piece for the peer whose address it is.
    pub(super) fn deliver(
        &mut self,
        vnet: &Header,
        headers: &Headers,
        bytes: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        let Some(peer) = self.tunnel.route(headers.dst) else {
            self.counters.no_peer += 1;
            return;
        };
        if !self.shard.owns(peer.0) {
            let header = *vnet;
            let bytes = bytes.to_vec();
            return out.to_shard(
                self.tunnel.shard_of(peer),
                ShardMessage::ToClient { header, bytes },
            );
        }
        self.tap_to_client(peer, bytes, now);
        let Some(path) = self.tunnel.path(peer).copied() else {
            self.counters.no_endpoint += 1;
            return;
        };
        // What waited for the session leaves before what found it.
        self.flush_tunnel(out);
        if vnet.gso == Gso::None {
            match !vnet.needs_csum || split::complete(vnet, headers, bytes) {
                true => self.seal(peer, &path, &bytes[..headers.len], now, out),
                false => self.counters.offload += 1,
            }
            return;
        }
        let Some(mut split) = Split::new(vnet, headers, bytes) else {
            self.counters.offload += 1;
            return;
        };
        while let Some(place) = split.next(bytes) {
            self.seal(peer, &path, &bytes[place], now, out);
        }
    }

    /// A packet that one of our own rooms made for the LAN.
    pub(super) fn send_to_lan(&mut self, mut packet: Vec<u8>, now: Instant, out: &mut impl Output) {
        if let Ok(packet) = Packet::parse(&mut packet, Checksum::Complete) {
            self.send(&packet, &Header::default(), now, out);
        }
    }

    /// Encrypts a packet into the tail of the batch.
    fn seal(
        &mut self,
        peer: PeerId,
        path: &Path,
        packet: &[u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        let len = self.tunnel.sealed_len(packet.len());
        let room = self.batch.room(path, Ecn::of(packet).outer(), len, out);
        match self.tunnel.seal(peer, packet, room, now) {
            Sealed::Written(len) => self.batch.commit(len, out),
            Sealed::NoEndpoint => self.counters.no_endpoint += 1,
            // No datagram is that long.
            Sealed::BufferTooSmall => self.counters.too_long += 1,
            Sealed::Queued | Sealed::NoPeer => {}
        }
    }
}
