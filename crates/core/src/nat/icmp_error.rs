//! Builds the ICMP errors that the NAT itself sends (RFC 5508, RFC 4443).
//!
//! It decides whether a packet may be answered with an error at all; the rate is limited elsewhere.

use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vcgate_wire::icmp::{HEADER_LEN as ICMP_HEADER, Icmp, Kind};
use vcgate_wire::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN};
use vcgate_wire::packet::Packet;

/// Maximum length of an ICMP error, in bytes: no path has to fragment it (RFC 1812 section 4.3.2.3).
const MAX_ERROR_LEN: usize = 576;
/// Maximum length of an ICMPv6 error, in bytes: the minimum MTU (RFC 4443 section 2.4).
const MAX_ERROR_LEN_V6: usize = 1280;

/// The reason for an ICMP error, which determines its type and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A limit or a rule: communication administratively prohibited (RFC 5508 REQ-8).
    Prohibited,
    /// The address family is not translated.
    NoRoute,
    /// The port is not mapped (RFC 5382 REQ-4).
    PortUnreachable,
    /// The L4 protocol is not supported (RFC 1122 section 3.2.2.1, RFC 4443 section 3.4).
    ProtocolUnreachable,
    /// Fragmentation needed, or packet too big, with the MTU (RFC 1191 section 4, RFC 4443 section
    /// 3.2, RFC 4787 REQ-13).
    TooBig(u16),
    /// The TTL or hop limit expired.
    TimeExceeded,
}

/// Builds an ICMP error to the sender of `packet`, which must still be unmodified.
///
/// Returns `None` if the packet must not be answered with an error (RFC 1122 section 3.2.2, RFC 4443
/// section 2.4). `from` is of the packet's family.
pub(super) fn build(refusal: Refusal, from: IpAddr, packet: &Packet<'_>) -> Option<Vec<u8>> {
    let headers = &packet.headers;
    let is_request = |family: Icmp| {
        let message = packet.l4().first();
        message.is_some_and(|message| family.kind(*message) == Kind::Request)
    };
    let icmp = Icmp::of(headers.protocol, headers.src);
    if !headers.has_l4() || icmp.is_some_and(|family| !is_request(family)) {
        return None;
    }
    match (from, headers.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(build_v4(refusal, from, to, packet.front())),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(build_v6(refusal, from, to, packet.front())),
        _ => None,
    }
}

fn build_v4(refusal: Refusal, from: Ipv4Addr, to: Ipv4Addr, offending: &[u8]) -> Vec<u8> {
    let (message, code, mtu) = match refusal {
        Refusal::Prohibited => (Icmpv4Message::DstUnreachable, 13, 0),
        Refusal::NoRoute => (Icmpv4Message::DstUnreachable, 0, 0),
        Refusal::PortUnreachable => (Icmpv4Message::DstUnreachable, 3, 0),
        Refusal::ProtocolUnreachable => (Icmpv4Message::DstUnreachable, 2, 0),
        Refusal::TooBig(mtu) => (Icmpv4Message::DstUnreachable, 4, mtu),
        Refusal::TimeExceeded => (Icmpv4Message::TimeExceeded, 0, 0),
    };
    let mut bytes = with_quote(offending, IPV4_HEADER_LEN, MAX_ERROR_LEN, mtu);
    let mut icmp = Icmpv4Packet::new_unchecked(&mut bytes[IPV4_HEADER_LEN..]);
    icmp.set_msg_type(message);
    icmp.set_msg_code(code);
    icmp.fill_checksum();
    let len = bytes.len() as u16;
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
    ip.set_version(4);
    ip.set_header_len(IPV4_HEADER_LEN as u8);
    ip.set_dscp(error_dscp(offending));
    ip.set_total_len(len);
    ip.set_dont_frag(true); // its identification need not be unique (RFC 6864)
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Icmp);
    ip.set_src_addr(from);
    ip.set_dst_addr(to);
    ip.fill_checksum();
    bytes
}

/// Returns the DSCP of an error: precedence "internetwork control" and the type of service of the
/// packet that caused it (RFC 1812 section 4.3.2.5).
fn error_dscp(offending: &[u8]) -> u8 {
    const INTERNETWORK_CONTROL: u8 = 0b110_000;
    let tos = offending.get(1).copied().unwrap_or_default();
    INTERNETWORK_CONTROL | tos >> 2 & 0b111
}

fn build_v6(refusal: Refusal, from: Ipv6Addr, to: Ipv6Addr, offending: &[u8]) -> Vec<u8> {
    // The word before the quote is the MTU in one type of error and the pointer in another.
    let (message, code, word) = match refusal {
        Refusal::Prohibited => (Icmpv6Message::DstUnreachable, 1, 0),
        Refusal::NoRoute => (Icmpv6Message::DstUnreachable, 0, 0),
        Refusal::PortUnreachable => (Icmpv6Message::DstUnreachable, 4, 0),
        Refusal::ProtocolUnreachable => {
            (Icmpv6Message::ParamProblem, 1, last_next_header(offending))
        }
        Refusal::TooBig(mtu) => (Icmpv6Message::PktTooBig, 0, mtu),
        Refusal::TimeExceeded => (Icmpv6Message::TimeExceeded, 0, 0),
    };
    let mut bytes = with_quote(offending, IPV6_HEADER_LEN, MAX_ERROR_LEN_V6, word);
    let mut icmp = Icmpv6Packet::new_unchecked(&mut bytes[IPV6_HEADER_LEN..]);
    icmp.set_msg_type(message);
    icmp.set_msg_code(code);
    icmp.fill_checksum(&from, &to);
    let len = (bytes.len() - IPV6_HEADER_LEN) as u16;
    let mut ip = Ipv6Packet::new_unchecked(&mut bytes[..]);
    ip.set_version(6);
    ip.set_payload_len(len);
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Icmpv6);
    ip.set_src_addr(from);
    ip.set_dst_addr(to);
    bytes
}

/// Returns the offset of the Next Header field that names the L4 protocol of an IPv6 packet, whose
/// extension headers were validated before.
fn last_next_header(packet: &[u8]) -> u16 {
    /// The offset of the field in the fixed header.
    const NEXT_HEADER: usize = 6;
    let (mut field, mut next) = (NEXT_HEADER, IPV6_HEADER_LEN);
    loop {
        let [Some(protocol), Some(len)] = [field, next + 1].map(|at| packet.get(at)) else {
            return field as u16;
        };
        let len = match IpProtocol::from(*protocol) {
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route => {
                8 + usize::from(*len) * 8
            }
            IpProtocol::Ipv6Frag => 8,
            _ => return field as u16,
        };
        (field, next) = (next, next + len);
    }
}

/// Returns zeros for both headers, then as much of a packet as an error of `max_len` bytes quotes.
///
/// `word` goes right before the quote. It is the MTU in ICMP (RFC 1191 section 4), and the lower
/// half of the MTU or the pointer in ICMPv6 (RFC 4443 sections 3.2 and 3.4).
fn with_quote(offending: &[u8], ip_header: usize, max_len: usize, word: u16) -> Vec<u8> {
    let start = ip_header + ICMP_HEADER;
    let quoted = &offending[..offending.len().min(max_len - start)];
    let mut bytes = vec![0; start + quoted.len()];
    bytes[start..].copy_from_slice(quoted);
    bytes[start - 2..start].copy_from_slice(&word.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_type_of_service_of_their_cause() {
        let error = |tos| {
            let mut packet = [0; 28];
            packet[..2].copy_from_slice(&[0x45, tos]);
            let (from, to) = (Ipv4Addr::new(10, 8, 0, 1), Ipv4Addr::new(10, 8, 0, 2));
            build_v4(Refusal::TimeExceeded, from, to, &packet)[1]
        };
        assert_eq!([0, 0x10, 0xB8, 0xFF].map(error), [0xC0, 0xD0, 0xD8, 0xDC]);
    }
}
