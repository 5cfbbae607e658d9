//! The edge to the clients, for endpoints that have rate limits or mapped prefixes: packets wait for
//! their turn, and addresses are mapped. Without both, no packet passes here.

use super::DataPlane;
use super::output::{Context, Output};
use super::shaper::{Admission, Flow, Rates, Waiting};
use crate::ids::PeerId;
use std::time::Instant;
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::{Gso, Header};

impl DataPlane {
    /// Whether packets pass the edge at all.
    #[inline]
    pub(super) fn has_edge(&self) -> bool {
        self.has_edge
    }

    /// Records whether packets pass the edge.
    pub(super) fn update_edge(&mut self) {
        self.has_edge = self.has_netmap() || !self.shaper.is_empty();
    }

    /// Sets the rate limits of a peer.
    pub(super) fn set_rates(&mut self, peer: PeerId, rates: Rates, now: Instant) {
        if rates != Rates::default() || !self.shaper.is_empty() {
            self.shaper.set(peer, rates, now);
            self.update_edge();
        }
    }

    /// Takes a client's packet when its rate permits.
    #[cold]
    pub(super) fn edge_from_client<O: Output>(
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

    /// Takes a client's packet for the gateway itself when its rate permits.
    #[cold]
    pub(super) fn edge_to_gateway<O: Output>(
        &mut self,
        peer: PeerId,
        bytes: &mut [u8],
        cx: &mut Context<'_, O>,
    ) {
        let (vnet, direction) = (Header::default(), (peer, Flow::Up));
        if self.passes_now(direction, &vnet, bytes.len(), || bytes.to_vec(), cx.now) {
            self.serve_client(peer, bytes, cx);
        }
    }

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

    /// Delivers a packet to a peer of this shard when its rate permits.
    #[cold]
    pub(super) fn edge_to_client<O: Output>(
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

    /// Whether the rate permits a packet now. Otherwise its copy waits, or it is dropped and counted.
    fn passes_now(
        &mut self,
        (peer, flow): (PeerId, Flow),
        vnet: &Header,
        len: usize,
        copy: impl FnOnce() -> Vec<u8>,
        now: Instant,
    ) -> bool {
        match self.shaper.admit(peer, flow, len, now) {
            Admission::Pass => return true,
            Admission::Wait => self.shaper.queue(Waiting {
                peer,
                flow,
                header: *vnet,
                bytes: copy(),
            }),
            Admission::Drop => {
                self.counters.rate_limited += 1;
                self.peer_drops.entry(peer).limited += 1;
            }
        }
        false
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
