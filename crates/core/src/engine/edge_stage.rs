//! The edge to the clients, for endpoints that have rate limits or mapped prefixes: whether a packet
//! may pass now, and the map between the LAN's own addresses and those that clients know. Without
//! both, no packet is given to it.
//!
//! The map applies to the end on the LAN of a packet, and to the same end of the packet that an
//! ICMP error quotes. All stages between the two edges see the LAN's own addresses.

use super::DataPlane;
use super::shaper::{Admission, Flow, Rates, Waiting};
use crate::ids::PeerId;
use std::net::IpAddr;
use std::time::Instant;
use vcgate_wire::address::{self, End};
use vcgate_wire::icmp::{self, Kind, Quote};
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::Header;

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

    /// Whether the rate permits a packet now. Otherwise its copy waits, or it is dropped and counted.
    pub(super) fn passes_now(
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

    /// Whether prefixes are mapped at all.
    #[inline]
    pub(super) fn has_netmap(&self) -> bool {
        !self.policy.global.netmap.is_empty()
    }

    /// Replaces the destination of a client's packet by the LAN's own address. Returns false if the
    /// client may not use its destination, because the LAN's host has another address for clients.
    #[cold]
    pub(super) fn map_from_client(&mut self, packet: &mut Packet<'_>) -> bool {
        let netmap = &self.policy.global.netmap;
        let dst = packet.headers.dst;
        let Some(lan) = netmap.to_lan(dst) else {
            return false;
        };
        // The client reports an error about a packet from the address that it knows.
        let sender = quoted(packet, End::Source);
        if let Some(lan) = sender.and_then(|sender| netmap.to_lan(sender)) {
            address::replace_quoted(packet, End::Source, lan);
        }
        if lan != dst {
            address::replace(packet, End::Destination, lan);
            self.tap_mapped(packet, dst);
        }
        true
    }

    /// Replaces the source of a packet for a client by the address that the client knows. Returns
    /// false if there is none, because clients know another host by this address.
    pub(super) fn map_to_client(&self, packet: &mut Packet<'_>) -> bool {
        let netmap = &self.policy.global.netmap;
        let src = packet.headers.src;
        let Some(known) = netmap.to_client(src) else {
            return false;
        };
        let receiver = quoted(packet, End::Destination);
        if let Some(known) = receiver.and_then(|receiver| netmap.to_client(receiver)) {
            address::replace_quoted(packet, End::Destination, known);
        }
        if known != src {
            address::replace(packet, End::Source, known);
        }
        true
    }
}

/// Returns an address of the packet that an ICMP error quotes; `None` for other packets.
fn quoted(packet: &Packet<'_>, end: End) -> Option<IpAddr> {
    if icmp::kind(packet) != Some(Kind::Error) {
        return None;
    }
    let headers = Quote::of(packet)?.headers;
    Some(match end {
        End::Source => headers.src,
        End::Destination => headers.dst,
    })
}
