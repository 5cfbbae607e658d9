//! Writing headers: addresses, ports, and the checksums that follow (RFC 1624).
//!
//! It works on whole packets and on the cut ones that ICMP errors quote alike: what is not there
//! is not written.

use super::endpoint::Protocol;
use super::table::Mapping;
use smoltcp::wire::{Icmpv4Packet, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};
use std::net::IpAddr;
use vcgate_wire::checksum::{Checksum, Delta};
use vcgate_wire::packet::Packet;
use vcgate_wire::tcp;

/// Which end of a packet is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// What stands at an end from now on, and what that does to the checksums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rewrite {
    pub protocol: Protocol,
    pub ip: IpAddr,
    pub port: u16,
    address: Delta,
    l4: Delta,
}

impl Rewrite {
    /// The LAN's view in place of the client's; `lan` is of the client's family.
    pub(super) fn outward(mapping: &Mapping, lan: IpAddr) -> Self {
        Self {
            protocol: mapping.outside.protocol,
            ip: lan,
            port: mapping.outside.port,
            address: mapping.address,
            l4: mapping.l4,
        }
    }

    /// The client's view in place of the LAN's, in a packet of the client's family.
    pub(super) fn inward(mapping: &Mapping) -> Self {
        Self {
            protocol: mapping.outside.protocol,
            ip: mapping.inside.0.ip,
            port: mapping.inside.0.port,
            address: mapping.address.inverse(),
            l4: mapping.l4.inverse(),
        }
    }

    /// Rewrites one end of a packet.
    pub(super) fn apply(&self, end: End, packet: &mut Packet<'_>) {
        let checksum = packet.checksum;
        self.write_ip(end, packet.front_mut());
        self.write_l4(end, packet.l4_mut(), checksum);
        set_address(packet, end, self.ip);
    }

    /// Rewrites one end in an IP header.
    pub(super) fn write_ip(&self, end: End, header: &mut [u8]) {
        address(header, end, self.ip, self.address);
    }

    /// Rewrites one end in an L4 header of which at least 8 bytes are here.
    pub(super) fn write_l4(&self, end: End, l4: &mut [u8], checksum: Checksum) {
        match self.protocol {
            Protocol::Tcp => {
                let whole = l4.len() >= 18;
                let mut tcp = TcpPacket::new_unchecked(l4);
                match end {
                    End::Source => tcp.set_src_port(self.port),
                    End::Destination => tcp.set_dst_port(self.port),
                }
                if whole {
                    tcp.set_checksum(match checksum {
                        Checksum::Complete => self.l4.apply(tcp.checksum()),
                        Checksum::Partial => self.address.apply_partial(tcp.checksum()),
                    });
                }
            }
            Protocol::Udp => {
                let mut udp = UdpPacket::new_unchecked(l4);
                match end {
                    End::Source => udp.set_src_port(self.port),
                    End::Destination => udp.set_dst_port(self.port),
                }
                udp.set_checksum(match checksum {
                    Checksum::Complete => self.l4.apply_udp(udp.checksum()),
                    Checksum::Partial => self.address.apply_partial(udp.checksum()),
                });
            }
            Protocol::Echo => {
                let mut icmp = Icmpv4Packet::new_unchecked(l4);
                icmp.set_echo_ident(self.port);
                icmp.set_checksum(match checksum {
                    Checksum::Complete => self.l4.apply(icmp.checksum()),
                    Checksum::Partial => self.address.apply_partial(icmp.checksum()),
                });
            }
        }
    }
}

/// Replaces an address of a packet whose L4 header is not here; returns what that does to a sum
/// over it. `ip` is of the packet's family.
pub(super) fn replace_address(packet: &mut Packet<'_>, end: End, ip: IpAddr) -> Delta {
    let old = match end {
        End::Source => packet.headers.src,
        End::Destination => packet.headers.dst,
    };
    let delta = Delta::default().address(old, ip);
    address(packet.front_mut(), end, ip, delta);
    set_address(packet, end, ip);
    delta
}

/// Replaces an address of an ICMP error. Unlike ICMP's, ICMPv6's checksum covers the addresses
/// (RFC 4443 section 2.3).
pub(super) fn replace_address_of_error(packet: &mut Packet<'_>, end: End, ip: IpAddr) {
    let delta = replace_address(packet, end, ip);
    if ip.is_ipv6() {
        let mut icmp = Icmpv4Packet::new_unchecked(packet.l4_mut());
        icmp.set_checksum(delta.apply(icmp.checksum()));
    }
}

/// One hop less to live; the caller saw that there is one left.
pub(super) fn decrement_ttl(packet: &mut Packet<'_>) {
    let ttl = packet.headers.ttl.saturating_sub(1);
    if packet.headers.src.is_ipv6() {
        Ipv6Packet::new_unchecked(packet.front_mut()).set_hop_limit(ttl);
    } else {
        let mut ip = Ipv4Packet::new_unchecked(packet.front_mut());
        let delta = Delta::default().byte(false, ip.hop_limit(), ttl);
        ip.set_hop_limit(ttl);
        ip.set_checksum(delta.apply(ip.checksum()));
    }
    packet.headers.ttl = ttl;
}

/// Gives a packet another identification. IPv4 has room for the lower half of it; IPv6 has one
/// only in pieces.
pub(super) fn identify(packet: &mut Packet<'_>, id: u32) {
    let id = match packet.headers.src {
        IpAddr::V4(_) => {
            let id = id as u16;
            let mut ip = Ipv4Packet::new_unchecked(packet.front_mut());
            let delta = Delta::default().word(ip.ident(), id);
            ip.set_ident(id);
            ip.set_checksum(delta.apply(ip.checksum()));
            id.into()
        }
        IpAddr::V6(_) => {
            // The end of the Fragment header (RFC 8200 section 4.5).
            let end = packet.headers.fragment.map_or(0, |f| f.begins);
            let start = end.saturating_sub(4);
            if let Some(field @ [_, _, _, _]) = packet.front_mut().get_mut(start..end) {
                field.copy_from_slice(&id.to_be_bytes());
            }
            id
        }
    };
    if let Some(fragment) = &mut packet.headers.fragment {
        fragment.id = id;
    }
}

/// Lowers the MSS of a SYN, whose whole header is here, to what a packet of `mtu` bytes carries.
pub(super) fn clamp_mss(packet: &mut Packet<'_>, mtu: u16) {
    let max = tcp::max_segment_size(mtu, packet.headers.src);
    let partial = packet.checksum == Checksum::Partial;
    let l4 = packet.l4_mut();
    let len = TcpPacket::new_unchecked(&*l4).header_len();
    let delta = match l4.get_mut(..usize::from(len)) {
        Some(header) => tcp::clamp_mss(header, max),
        None => return,
    };
    // A partial sum covers no options.
    if !partial && delta != Delta::default() {
        let mut tcp = TcpPacket::new_unchecked(l4);
        tcp.set_checksum(delta.apply(tcp.checksum()));
    }
}

fn address(header: &mut [u8], end: End, new: IpAddr, delta: Delta) {
    match new {
        IpAddr::V4(new) => {
            let mut ip = Ipv4Packet::new_unchecked(header);
            match end {
                End::Source => ip.set_src_addr(new),
                End::Destination => ip.set_dst_addr(new),
            }
            ip.set_checksum(delta.apply(ip.checksum()));
        }
        // No checksum of its own.
        IpAddr::V6(new) => {
            let mut ip = Ipv6Packet::new_unchecked(header);
            match end {
                End::Source => ip.set_src_addr(new),
                End::Destination => ip.set_dst_addr(new),
            }
        }
    }
}

fn set_address(packet: &mut Packet<'_>, end: End, ip: IpAddr) {
    match end {
        End::Source => packet.headers.src = ip,
        End::Destination => packet.headers.dst = ip,
    }
}
