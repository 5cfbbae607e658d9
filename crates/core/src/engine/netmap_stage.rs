//! The map of prefixes at the edge to the clients: before the rules on the way to the LAN, and right
//! before encryption on the way back. All stages between see the LAN's own addresses.
//!
//! The map applies to the end on the LAN of a packet, and to the same end of the packet that an
//! ICMP error quotes. It keeps no state.

use super::DataPlane;
use std::net::IpAddr;
use vcgate_wire::address::{self, End};
use vcgate_wire::icmp::{self, Kind, Quote};
use vcgate_wire::packet::Packet;

impl DataPlane {
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
