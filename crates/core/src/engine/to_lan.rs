//! Client → LAN: from a datagram to a packet or super-packet for the LAN.

use super::gro::GroResult;
use super::output::{Output, ShardMessage};
use super::route::Route;
use super::tap::Note;
use super::{DataPlane, Engine};
use crate::ids::PeerId;
use crate::nat::{Outcome, Reassembly};
use crate::smb::Ends;
use crate::tunnel::{Ecn, Path, Received, Tunnel};
use smoltcp::wire::IpProtocol;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::coalesce::{MAX_PIECES, Run, Segment};
use vcgate_wire::ip::{self, Headers};
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::{Gso, Header};

/// boringtun wants at least this much room for an answer, in bytes.
const MIN_ROOM: usize = 148;

impl Engine {
    /// Datagrams of `stride` bytes each (the last may be shorter), back to back, that came over
    /// one path with one outer ECN field.
    pub fn datagrams(
        &mut self,
        path: &Path,
        outer_ecn: Ecn,
        stride: usize,
        bytes: &[u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        for datagram in bytes.chunks(stride.max(1)) {
            self.datagram(path, outer_ecn, datagram, Tunnel::receive, now, out);
        }
    }

    /// One datagram, received from the network or from another shard.
    #[inline]
    pub(super) fn datagram(
        &mut self,
        path: &Path,
        outer_ecn: Ecn,
        datagram: &[u8],
        receive: impl for<'a> FnOnce(&mut Tunnel, &Path, &[u8], &'a mut [u8], Instant) -> Received<'a>,
        now: Instant,
        out: &mut impl Output,
    ) {
        if !self.gather.has_room(datagram.len().max(MIN_ROOM)) {
            self.flush_runs(now, out);
        }
        let tail = self.gather.tail();
        match receive(&mut self.rooms.tunnel, path, datagram, tail, now) {
            Received::Packet { peer, packet } => {
                let len = packet.len();
                let place = self.gather.keep(len);
                self.inner_packet(peer, outer_ecn, place, now, out);
            }
            Received::OtherShard { shard, initiator } => {
                let mail = ShardMessage::Datagram {
                    path: *path,
                    ecn: outer_ecn,
                    initiator,
                    bytes: datagram.to_vec(),
                };
                out.to_shard(shard, mail);
            }
            Received::Dropped(reason) => self.rooms.counters.dropped_by_tunnel(reason),
            Received::Nothing => {}
        }
    }

    fn inner_packet(
        &mut self,
        peer: PeerId,
        outer_ecn: Ecn,
        place: Range<usize>,
        now: Instant,
        out: &mut impl Output,
    ) {
        let packet = self.gather.bytes(place.clone());
        outer_ecn.apply_to(packet);
        let Ok(headers) = Headers::parse(packet) else {
            self.rooms.counters.malformed += 1;
            return;
        };
        if !ip::forwardable(headers.src) || !ip::forwardable(headers.dst) {
            self.rooms.counters.address += 1;
            return;
        }
        if self.rooms.gateway.owns(headers.dst) {
            if let Ok(packet) = Packet::parse(packet, Checksum::Complete) {
                self.rooms.tap_from_client(peer, &packet, now);
            }
            for answer in self.rooms.gateway.handle(packet, now) {
                self.rooms.answer(answer, now, out);
            }
            return;
        }
        let mergeable = match headers.protocol {
            IpProtocol::Tcp => self.rooms.merge.tcp,
            IpProtocol::Udp => self.rooms.merge.udp,
            _ => false,
        };
        match Segment::classify(&headers, packet).filter(|_| mergeable) {
            Some(segment) => self.gather_segment(peer, &segment, place, now, out),
            None => {
                let l4 = packet.get(headers.l4..).unwrap_or_default();
                let l4: [u8; 4] = l4.first_chunk().copied().unwrap_or_default();
                while let Some(at) = self.gather.run_before(&headers, &l4) {
                    self.emit(at, now, out);
                }
                let pieces = [place];
                let arena = self.gather.arena();
                let packet = Packet::in_pieces(headers, Checksum::Complete, arena, &pieces);
                self.rooms
                    .forward(peer, packet, &Header::default(), now, out);
            }
        }
    }

    fn gather_segment(
        &mut self,
        peer: PeerId,
        segment: &Segment,
        place: Range<usize>,
        now: Instant,
        out: &mut impl Output,
    ) {
        loop {
            match self.gather.offer(peer, segment, place.clone()) {
                GroResult::Wait => return,
                GroResult::Emit(at) => return self.emit(at, now, out),
                GroResult::EmitThenAgain(at) => self.emit(at, now, out),
            }
        }
    }

    fn emit(&mut self, at: usize, now: Instant, out: &mut impl Output) {
        let (peer, run) = self.gather.take(at);
        self.emit_run(peer, run, now, out);
    }

    fn emit_run(&mut self, peer: PeerId, run: Run, now: Instant, out: &mut impl Output) {
        let (headers, checksum, vnet, pieces) = run.finish(self.gather.arena());
        let packet = Packet::in_pieces(headers, checksum, self.gather.arena(), pieces);
        self.rooms.forward(peer, packet, &vnet, now, out);
        self.gather.recycle(run);
    }

    /// Everything that waits to be merged leaves.
    pub(super) fn flush_runs(&mut self, now: Instant, out: &mut impl Output) {
        while let Some((peer, run)) = self.gather.take_oldest() {
            self.emit_run(peer, run, now, out);
        }
        self.gather.reset();
    }
}

impl DataPlane {
    /// One packet or super-packet: policy, then its way.
    fn forward(
        &mut self,
        peer: PeerId,
        mut packet: Packet<'_>,
        vnet: &Header,
        now: Instant,
        out: &mut impl Output,
    ) {
        packet.segment = (vnet.gso != Gso::None).then_some(vnet.gso_size);
        self.tap_from_client(peer, &packet, now);
        match self.way(peer, &packet) {
            Route::Translated => self.translate(peer, packet, vnet, now, out),
            Route::Untranslated(toward) => self.route_out(peer, packet, toward, vnet, now, out),
            Route::Denied => self.deny(peer, &packet, now, out),
        }
        self.drain_events(now, out);
    }

    /// NAT, hook, LAN.
    fn translate(
        &mut self,
        peer: PeerId,
        mut packet: Packet<'_>,
        vnet: &Header,
        now: Instant,
        out: &mut impl Output,
    ) {
        let (src, ports) = (packet.headers.src, packet.ports());
        let mate = self.shard_for_lan(&packet);
        let outcome = match self.join(&packet, now) {
            Reassembly::Separate if mate.is_some() => {
                self.nat
                    .outbound_cross_shard(&mut packet, &self.tunnel, now)
            }
            Reassembly::Separate => self.nat.outbound(&mut packet, &self.tunnel, now),
            Reassembly::Whole(mut whole) => {
                return match Packet::parse(&mut whole, Checksum::Complete) {
                    Ok(whole) => self.translate(peer, whole, vnet, now, out),
                    Err(_) => self.counters.malformed += 1,
                };
            }
            Reassembly::Stopped(outcome) => outcome,
        };
        self.note_limit(peer, &outcome);
        let flow = match &outcome {
            Outcome::Forward(flow) => *flow,
            Outcome::Hairpin(turned) => turned.from,
            _ => None,
        };
        if let Some(flow) = flow.filter(|flow| self.is_watched(flow)) {
            let client = SocketAddr::new(src, ports.map_or(0, |(from, _)| from));
            let ends = Ends {
                client,
                lan: packet.headers.src,
                server: flow.remote,
            };
            return self.inspect_outbound(flow.id, &ends, packet, vnet, now, out);
        }
        match outcome {
            Outcome::Forward(_) => match mate {
                Some(mate) => self.forward_to_shard(mate, &packet, vnet, out),
                None => self.send(&packet, vnet, now, out),
            },
            Outcome::Hairpin(turned) => {
                if let Some(flow) = turned.to.filter(|flow| self.is_watched(flow)) {
                    self.inspect_inbound(&flow, flow.remote.ip(), &mut packet, now, out);
                }
                self.hairpin(&packet, vnet, now, out);
            }
            Outcome::Reply { error, .. } => self.refuse(error, now, out),
            Outcome::Drop(reason) => self.tap_note(Note::Dropped(reason)),
            Outcome::Held => {}
        }
    }

    /// The hook sees all of a segment or nothing, so pieces of one for it leave together.
    fn join(&mut self, packet: &Packet<'_>, now: Instant) -> Reassembly {
        if packet.headers.fragment.is_none() {
            return Reassembly::Separate;
        }
        let watched = packet.headers.protocol == IpProtocol::Tcp
            && packet.ports().is_some_and(|(_, to)| self.hook.watches(to));
        self.nat.reassemble(packet, watched, &self.tunnel, now)
    }

    /// Counts a packet that a limit of its client stopped.
    pub(super) fn note_limit(&mut self, peer: PeerId, outcome: &Outcome) {
        if outcome.is_limited() {
            self.shares.of(peer).limited += 1;
        }
    }

    /// A client's packet is answered with an ICMP error.
    pub(super) fn refuse(&mut self, error: Vec<u8>, now: Instant, out: &mut impl Output) {
        self.tap_note(Note::Refused);
        self.answer(error, now, out);
    }

    /// One packet or super-packet leaves for the LAN.
    pub(super) fn send(
        &mut self,
        packet: &Packet<'_>,
        vnet: &Header,
        now: Instant,
        out: &mut impl Output,
    ) {
        self.tap_to_lan(packet, now);
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(packet.pieces()) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        out.lan_packet(vnet, &slices[..count]);
    }
}
