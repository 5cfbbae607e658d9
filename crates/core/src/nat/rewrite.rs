//! Rewrites headers: addresses, ports, and the checksums over them (RFC 1624).
//!
//! It works on whole packets and on the truncated ones that ICMP errors quote: missing fields are
//! skipped. It decides nothing about a packet.

use super::endpoint::Protocol;
use super::l4::QuotedPacket;
use super::table::Mapping;
use smoltcp::wire::{Icmpv4Packet, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket, checksum};
use std::net::IpAddr;
use vcgate_wire::address;
pub(super) use vcgate_wire::address::{End, replace_in_header as replace_address};
use vcgate_wire::checksum::{Checksum, Delta};
use vcgate_wire::icmp::HEADER_LEN as ICMP_HEADER;
use vcgate_wire::packet::Packet;
use vcgate_wire::tcp;

/// The maximum length of the part of an L4 header that a rewrite changes, in bytes.
const MAX_REWRITTEN_L4: usize = 20;

/// The new address and port of an end, and the change of the checksums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rewrite {
    pub protocol: Protocol,
    pub ip: IpAddr,
    pub port: u16,
    address: Delta,
    l4: Delta,
}

impl Rewrite {
    /// Replaces the inside endpoint by the outside one; `lan` is of the client's family.
    pub(super) fn outward(mapping: &Mapping, lan: IpAddr) -> Self {
        Self {
            protocol: mapping.outside.protocol,
            ip: lan,
            port: mapping.outside.port,
            address: mapping.address,
            l4: mapping.l4,
        }
    }

    /// Replaces the outside endpoint by the inside one, in a packet of the client's family.
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
        match end {
            End::Source => packet.headers.src = self.ip,
            End::Destination => packet.headers.dst = self.ip,
        }
    }

    /// Rewrites one end of the packet that an ICMP error quotes, its checksums, and the checksum of
    /// the error.
    ///
    /// The MTU of a Packet Too Big stays: translation does not change the length of a packet.
    pub(super) fn apply_to_quote(&self, end: End, quoted: &QuotedPacket, icmp: &mut [u8]) {
        let range = ICMP_HEADER..icmp.len().min(quoted.l4 + MAX_REWRITTEN_L4);
        let sum = |icmp: &[u8]| icmp.get(range.clone()).map_or(0, checksum::data);
        let before = sum(icmp);
        if let Some(ip) = icmp.get_mut(ICMP_HEADER..quoted.l4) {
            self.write_ip(end, ip);
        }
        if let Some(l4) = icmp.get_mut(quoted.l4..) {
            self.write_l4(end, l4, Checksum::Complete);
        }
        let delta = Delta::default().word(before, sum(icmp));
        let mut error = Icmpv4Packet::new_unchecked(icmp);
        let field = error.checksum();
        error.set_checksum(delta.apply(field));
    }

    fn write_ip(&self, end: End, header: &mut [u8]) {
        address::write(header, end, self.ip, self.address);
    }

    /// Rewrites one end in an L4 header of which at least 8 bytes are present.
    fn write_l4(&self, end: End, l4: &mut [u8], checksum: Checksum) {
        match self.protocol {
            Protocol::Tcp => {
                let has_checksum = l4.len() >= 18;
                let mut tcp = TcpPacket::new_unchecked(l4);
                match end {
                    End::Source => tcp.set_src_port(self.port),
                    End::Destination => tcp.set_dst_port(self.port),
                }
                if has_checksum {
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

/// Replaces an address of an ICMP error. Unlike in ICMP, the checksum of ICMPv6 covers the addresses
/// (RFC 4443 section 2.3).
pub(super) fn replace_address_of_error(packet: &mut Packet<'_>, end: End, ip: IpAddr) {
    let delta = replace_address(packet, end, ip);
    if ip.is_ipv6() {
        let mut icmp = Icmpv4Packet::new_unchecked(packet.l4_mut());
        icmp.set_checksum(delta.apply(icmp.checksum()));
    }
}

/// Decrements the TTL or hop limit, which the caller has checked not to be 0.
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

/// Sets the identification of a packet: its lower 16 bits in IPv4, all of it in an IPv6 fragment.
pub(super) fn set_identification(packet: &mut Packet<'_>, id: u32) {
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
            // The last field of the Fragment header (RFC 8200 section 4.5).
            let end = packet.headers.fragment.map_or(0, |f| f.payload_start);
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

/// Clamps the MSS option of a SYN to the payload of a packet of `mtu` bytes.
pub(super) fn clamp_mss(packet: &mut Packet<'_>, mtu: u16) {
    let max = tcp::max_segment_size(mtu, packet.headers.src);
    let partial = packet.checksum == Checksum::Partial;
    let l4 = packet.l4_mut();
    let len = TcpPacket::new_unchecked(&*l4).header_len();
    let delta = match l4.get_mut(..usize::from(len)) {
        Some(header) => tcp::clamp_mss(header, max),
        None => return,
    };
    // A partial checksum does not cover options.
    if !partial && delta != Delta::default() {
        let mut tcp = TcpPacket::new_unchecked(l4);
        tcp.set_checksum(delta.apply(tcp.checksum()));
    }
}
