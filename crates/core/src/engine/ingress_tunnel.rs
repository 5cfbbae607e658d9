//! Client → LAN, first stage: from a datagram to a packet or super-packet of one client.
//!
//! Order within a flow is never changed: a packet that cannot be merged leaves after the run of its
//! flow.

use super::gro::GroResult;
use super::output::{Context, Output, ShardMessage};
use super::route::Route;
use super::shaper::{Flow, Waiting};
use super::{DataPlane, Engine};
use crate::ids::PeerId;
use crate::tunnel::{Ecn, Path, Received, Tunnel};
use smoltcp::wire::IpProtocol;
use std::ops::Range;
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::coalesce::{Run, Segment};
use vcgate_wire::ip::{self, Headers};
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::{Gso, Header};

/// Least space that boringtun needs for an answer: a handshake initiation, in bytes.
const MIN_SPACE: usize = 148;

impl Engine {
    /// Decrypts one datagram, received from the network or from another shard.
    #[inline]
    pub(super) fn datagram<O: Output>(
        &mut self,
        path: &Path,
        outer_ecn: Ecn,
        datagram: &[u8],
        receive: impl for<'a> FnOnce(&mut Tunnel, &Path, &[u8], &'a mut [u8], Instant) -> Received<'a>,
        cx: &mut Context<'_, O>,
    ) {
        if !self.gro.has_space(datagram.len().max(MIN_SPACE)) {
            self.flush_runs(cx);
        }
        let tail = self.gro.tail();
        match receive(&mut self.plane.tunnel, path, datagram, tail, cx.now) {
            Received::Packet { peer, packet } => {
                let len = packet.len();
                let range = self.gro.commit(len);
                self.inner_packet(peer, outer_ecn, range, cx);
            }
            Received::OtherShard { shard, initiator } => {
                let message = ShardMessage::Datagram {
                    path: *path,
                    ecn: outer_ecn,
                    initiator,
                    bytes: datagram.to_vec(),
                };
                cx.out.to_shard(shard, message);
            }
            Received::Dropped(reason) => self.plane.counters.dropped_by_tunnel(reason),
            Received::Nothing => {}
        }
    }

    fn inner_packet<O: Output>(
        &mut self,
        peer: PeerId,
        outer_ecn: Ecn,
        range: Range<usize>,
        cx: &mut Context<'_, O>,
    ) {
        let packet = self.gro.bytes(range.clone());
        outer_ecn.apply_to(packet);
        let Ok(headers) = Headers::parse(packet) else {
            self.plane.counters.malformed += 1;
            return;
        };
        if !ip::is_forwardable(headers.src) || !ip::is_forwardable(headers.dst) {
            self.plane.counters.address += 1;
            return;
        }
        if self.plane.local_stack.owns(headers.dst) {
            return self.plane.client_to_gateway(peer, packet, cx);
        }
        let mergeable = match headers.protocol {
            IpProtocol::Tcp => self.plane.merge.tcp,
            IpProtocol::Udp => self.plane.merge.udp,
            _ => false,
        };
        match Segment::classify(&headers, packet).filter(|_| mergeable) {
            Some(segment) => self.merge(peer, &segment, range, cx),
            None => {
                let l4 = packet.get(headers.l4..).unwrap_or_default();
                let l4: [u8; 4] = l4.first_chunk().copied().unwrap_or_default();
                while let Some(index) = self.gro.run_before(&headers, &l4) {
                    self.emit(index, cx);
                }
                let pieces = [range];
                let arena = self.gro.arena();
                let packet = Packet::in_pieces(headers, Checksum::Complete, arena, &pieces);
                self.plane
                    .client_to_lan(peer, packet, &Header::default(), cx);
            }
        }
    }

    fn merge<O: Output>(
        &mut self,
        peer: PeerId,
        segment: &Segment,
        range: Range<usize>,
        cx: &mut Context<'_, O>,
    ) {
        loop {
            match self.gro.offer(peer, segment, range.clone()) {
                GroResult::Queued => return,
                GroResult::Emit(index) => return self.emit(index, cx),
                GroResult::EmitThenRetry(index) => self.emit(index, cx),
            }
        }
    }

    fn emit<O: Output>(&mut self, index: usize, cx: &mut Context<'_, O>) {
        let (peer, run) = self.gro.take(index);
        self.emit_run(peer, run, cx);
    }

    fn emit_run<O: Output>(&mut self, peer: PeerId, run: Run, cx: &mut Context<'_, O>) {
        let (headers, checksum, vnet, pieces) = run.finish(self.gro.arena());
        let packet = Packet::in_pieces(headers, checksum, self.gro.arena(), pieces);
        self.plane.client_to_lan(peer, packet, &vnet, cx);
        self.gro.recycle(run);
    }

    /// Emits all runs that wait for more segments.
    pub(super) fn flush_runs<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        while let Some((peer, run)) = self.gro.take_oldest() {
            self.emit_run(peer, run, cx);
        }
        self.gro.reset();
    }
}

impl DataPlane {
    /// Runs a client's packet or super-packet through the remaining stages.
    fn client_to_lan<O: Output>(
        &mut self,
        peer: PeerId,
        mut packet: Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        packet.segment = (vnet.gso != Gso::None).then_some(vnet.gso_size);
        if self.has_edge() {
            return self.edge_from_client(peer, packet, vnet, cx);
        }
        self.tap_from_client(peer, &packet, cx.now);
        self.forward_to_lan(peer, packet, vnet, cx);
    }

    /// Takes a client's packet when its rate permits.
    #[cold]
    fn edge_from_client<O: Output>(
        &mut self,
        peer: PeerId,
        packet: Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        let (len, direction) = (packet.headers.len, (peer, Flow::Up));
        if self.passes_now(direction, vnet, len, || packet.to_vec(), cx.now) {
            self.mapped_from_client(peer, packet, vnet, cx);
        }
    }

    /// Replaces a mapped destination and runs the packet through the remaining stages.
    fn mapped_from_client<O: Output>(
        &mut self,
        peer: PeerId,
        mut packet: Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        self.tap_from_client(peer, &packet, cx.now);
        match self.map_from_client(&mut packet) {
            true => self.forward_to_lan(peer, packet, vnet, cx),
            false => self.deny_hidden(peer, &packet, cx),
        }
    }

    /// Runs a client's packet through the stages after the edge.
    #[inline]
    fn forward_to_lan<O: Output>(
        &mut self,
        peer: PeerId,
        packet: Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        match self.route(peer, &packet) {
            Route::Translated => self.translate(peer, packet, vnet, cx),
            Route::Untranslated(egress) => self.pass_outbound(peer, packet, egress, vnet, cx),
            Route::Denied => self.deny(peer, &packet, cx),
        }
        self.drain_events(cx);
    }

    /// Sends the packets that have waited long enough.
    pub(super) fn release_shaped<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        while let Some(waiting) = self.shaper.pop_due(cx.now) {
            let Waiting {
                peer,
                flow,
                header,
                mut bytes,
            } = waiting;
            match flow {
                Flow::Down => self.deliver_mapped(peer, &header, &mut bytes, cx),
                Flow::Up => {
                    let Ok(mut packet) = Packet::parse(&mut bytes, header.checksum()) else {
                        continue;
                    };
                    if self.local_stack.owns(packet.headers.dst) {
                        self.serve_client(peer, &mut bytes, cx);
                        continue;
                    }
                    packet.segment = (header.gso != Gso::None).then_some(header.gso_size);
                    self.mapped_from_client(peer, packet, &header, cx);
                }
            }
        }
    }
}
