//! ICMP errors: those about a translated flow, and those that the NAT itself sends (RFC 5508).

use super::Nat;
use super::counters::Reason;
use super::endpoint::{Endpoint, Inside, Protocol, Side};
use super::l4::{self, Ports};
use super::rewrite::{End, Rewrite};
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet,
    TcpPacket, checksum,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vcgate_wire::checksum::{Checksum, Delta};
use vcgate_wire::icmp::{HEADER as ICMP_HEADER, Icmp, Kind, Quote};
use vcgate_wire::ip::{Headers, IPV4_HEADER, IPV6_HEADER};
use vcgate_wire::packet::Packet;

/// The longest ICMP error, so that nobody has to fragment it (RFC 1812 section 4.3.2.3).
const MOST: usize = 576;
/// The longest ICMPv6 error: the least MTU (RFC 4443 section 2.4).
const MOST_V6: usize = 1280;
/// The least of L4 that a quote holds (RFC 792).
const LEAST_QUOTE: usize = 8;
/// The longest part of an L4 header that a rewrite may touch.
const TOUCHED_L4: usize = 20;

/// The flow that an ICMP error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About {
    pub protocol: Protocol,
    pub src: Endpoint,
    pub dst: Endpoint,
    /// Where its L4 header begins in the ICMP message.
    l4: usize,
}

impl About {
    /// Reads the quote of an ICMP error that came `from` this side: it is about a packet that
    /// went to that side. Options and extensions of the quoted header are skipped, and the quoted
    /// L4 checksum is not looked at: most of what it covers is not there (RFC 5508 REQ-3).
    ///
    /// The rest of the error stays as it is. So does the MTU of a Packet Too Big: translation
    /// makes no packet longer or shorter.
    pub(super) fn read(error: &Packet<'_>, from: Side) -> Result<Self, Reason> {
        if !is_intact(error) {
            return Err(Reason::BadChecksum);
        }
        let quote = Quote::of(error).ok_or(Reason::Quote)?;
        let (headers, head) = (quote.headers, quote.l4());
        let other_family = headers.src.is_ipv6() != error.headers.src.is_ipv6();
        if head.len() < LEAST_QUOTE || !headers.has_l4() || other_family {
            return Err(Reason::Quote);
        }
        if headers.src.is_ipv4() && !sums_up(quote.ip()) {
            return Err(Reason::BadChecksum);
        }
        let Ports {
            protocol, src, dst, ..
        } = read_ports(&headers, head, from).ok_or(Reason::Quote)?;
        Ok(Self {
            protocol,
            src: Endpoint {
                ip: headers.src,
                port: src,
            },
            dst: Endpoint {
                ip: headers.dst,
                port: dst,
            },
            l4: ICMP_HEADER + headers.l4,
        })
    }

    /// Rewrites one end of the quoted packet, its own checksums, and the checksum around it.
    pub(super) fn rewrite(&self, icmp: &mut [u8], end: End, rewrite: &Rewrite) {
        let touched = ICMP_HEADER..icmp.len().min(self.l4 + TOUCHED_L4);
        let sum = |icmp: &[u8]| icmp.get(touched.clone()).map_or(0, checksum::data);
        let before = sum(icmp);
        if let Some(ip) = icmp.get_mut(ICMP_HEADER..self.l4) {
            rewrite.write_ip(end, ip);
        }
        if let Some(l4) = icmp.get_mut(self.l4..) {
            rewrite.write_l4(end, l4, Checksum::Complete);
        }
        let delta = Delta::default().word(before, sum(icmp));
        let mut outer = Icmpv4Packet::new_unchecked(icmp);
        let field = outer.checksum();
        outer.set_checksum(delta.apply(field));
    }
}

/// Whether an ICMP error came as it was sent, as far as that can be told here.
fn is_intact(error: &Packet<'_>) -> bool {
    if error.headers.fragment.is_some_and(|f| f.more) || error.checksum == Checksum::Partial {
        return true;
    }
    let l4 = error.l4();
    let message = l4.get(..error.headers.l4_len()).unwrap_or(l4);
    match (error.headers.src, error.headers.dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Icmpv6Packet::new_unchecked(message).verify_checksum(&src, &dst)
        }
        _ => sums_up(message),
    }
}

/// Whether a checksum fits the bytes that it is a part of (RFC 1071).
fn sums_up(bytes: &[u8]) -> bool {
    checksum::data(bytes) == !0
}

/// `head` has at least 8 bytes.
fn read_ports(headers: &Headers, head: &[u8], from: Side) -> Option<Ports> {
    match headers.protocol {
        IpProtocol::Tcp | IpProtocol::Udp => {
            // The ports are where TCP has them too.
            let ports = TcpPacket::new_unchecked(head);
            Some(Ports {
                protocol: match headers.protocol {
                    IpProtocol::Tcp => Protocol::Tcp,
                    _ => Protocol::Udp,
                },
                src: ports.src_port(),
                dst: ports.dst_port(),
                segment: None,
            })
        }
        protocol => {
            let family = Icmp::of(protocol, headers.src)?;
            let icmp = Icmpv4Packet::new_unchecked(head);
            match (family.kind(icmp.msg_type().into()), from) {
                (Kind::Request, Side::Lan) | (Kind::Reply, Side::Inside) => {
                    Some(l4::query(from.other(), icmp.echo_ident()))
                }
                _ => None,
            }
        }
    }
}

impl Nat {
    /// Whether a client's ICMP error is about a packet of somebody to whom it sent from the same
    /// port. To others, whom an open filter lets in, it may say no more than its rules allow.
    pub fn answers_contact(&self, error: &Packet<'_>) -> bool {
        About::read(error, Side::Inside).is_ok_and(|about| {
            let mapping = self.table.by_inside(Inside(about.dst), about.protocol);
            mapping.is_some_and(|m| self.table.knows(m, about.src.ip))
        })
    }
}

/// Why the NAT refuses a packet with an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No resources, or a limit: communication administratively prohibited (RFC 5508 REQ-8).
    Prohibited,
    /// Its address family is not translated.
    NoRoute,
    /// Nobody takes this connection (RFC 5382 REQ-4).
    PortUnreachable,
    /// The LAN address has no such protocol (RFC 1122 section 3.2.2.1, RFC 4443 section 3.4).
    ProtocolUnreachable,
    /// Fragmentation needed, or packet too big, and what would fit (RFC 1191 section 4, RFC 4443
    /// section 3.2, RFC 4787 REQ-13).
    TooBig(u16),
    /// Its TTL ended here.
    TimeExceeded,
}

/// An ICMP error to the sender of `packet`, which is still as it came; `None` if it must not be
/// answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4). `from` is of the packet's family.
pub(super) fn error(refusal: Refusal, from: IpAddr, packet: &Packet<'_>) -> Option<Vec<u8>> {
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
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(error_v4(refusal, from, to, packet.front())),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(error_v6(refusal, from, to, packet.front())),
        _ => None,
    }
}

fn error_v4(refusal: Refusal, from: Ipv4Addr, to: Ipv4Addr, about: &[u8]) -> Vec<u8> {
    let (message, code, mtu) = match refusal {
        Refusal::Prohibited => (Icmpv4Message::DstUnreachable, 13, 0),
        Refusal::NoRoute => (Icmpv4Message::DstUnreachable, 0, 0),
        Refusal::PortUnreachable => (Icmpv4Message::DstUnreachable, 3, 0),
        Refusal::ProtocolUnreachable => (Icmpv4Message::DstUnreachable, 2, 0),
        Refusal::TooBig(mtu) => (Icmpv4Message::DstUnreachable, 4, mtu),
        Refusal::TimeExceeded => (Icmpv4Message::TimeExceeded, 0, 0),
    };
    let mut bytes = quoting(about, IPV4_HEADER, MOST, mtu);
    let mut icmp = Icmpv4Packet::new_unchecked(&mut bytes[IPV4_HEADER..]);
    icmp.set_msg_type(message);
    icmp.set_msg_code(code);
    icmp.fill_checksum();
    let len = bytes.len() as u16;
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
    ip.set_version(4);
    ip.set_header_len(IPV4_HEADER as u8);
    ip.set_dscp(48); // CS6 (RFC 1812 section 4.3.2.5)
    ip.set_total_len(len);
    ip.set_dont_frag(true); // so that its identification needs not be unique (RFC 6864)
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Icmp);
    ip.set_src_addr(from);
    ip.set_dst_addr(to);
    ip.fill_checksum();
    bytes
}

fn error_v6(refusal: Refusal, from: Ipv6Addr, to: Ipv6Addr, about: &[u8]) -> Vec<u8> {
    // The word before the quote is the MTU of one error, and the pointer of another.
    let (message, code, word) = match refusal {
        Refusal::Prohibited => (Icmpv6Message::DstUnreachable, 1, 0),
        Refusal::NoRoute => (Icmpv6Message::DstUnreachable, 0, 0),
        Refusal::PortUnreachable => (Icmpv6Message::DstUnreachable, 4, 0),
        Refusal::ProtocolUnreachable => (Icmpv6Message::ParamProblem, 1, last_next_header(about)),
        Refusal::TooBig(mtu) => (Icmpv6Message::PktTooBig, 0, mtu),
        Refusal::TimeExceeded => (Icmpv6Message::TimeExceeded, 0, 0),
    };
    let mut bytes = quoting(about, IPV6_HEADER, MOST_V6, word);
    let mut icmp = Icmpv6Packet::new_unchecked(&mut bytes[IPV6_HEADER..]);
    icmp.set_msg_type(message);
    icmp.set_msg_code(code);
    icmp.fill_checksum(&from, &to);
    let len = (bytes.len() - IPV6_HEADER) as u16;
    let mut ip = Ipv6Packet::new_unchecked(&mut bytes[..]);
    ip.set_version(6);
    ip.set_payload_len(len);
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Icmpv6);
    ip.set_src_addr(from);
    ip.set_dst_addr(to);
    bytes
}

/// Where an IPv6 packet says which protocol follows its extension headers, which were walked before.
fn last_next_header(packet: &[u8]) -> u16 {
    /// In the fixed header.
    const NEXT_HEADER: usize = 6;
    let (mut said_at, mut next) = (NEXT_HEADER, IPV6_HEADER);
    loop {
        let [Some(protocol), Some(len)] = [said_at, next + 1].map(|at| packet.get(at)) else {
            return said_at as u16;
        };
        let len = match IpProtocol::from(*protocol) {
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route => {
                8 + usize::from(*len) * 8
            }
            IpProtocol::Ipv6Frag => 8,
            _ => return said_at as u16,
        };
        (said_at, next) = (next, next + len);
    }
}

/// Room for both headers, then as much of a packet as an error of `most` bytes may quote. Both
/// ICMPs have a word right before the quote: the MTU (RFC 1191 section 4, RFC 4443 section 3.2), in
/// ICMPv6 a pointer too (section 3.4).
fn quoting(about: &[u8], ip_header: usize, most: usize, word: u16) -> Vec<u8> {
    let start = ip_header + ICMP_HEADER;
    let quoted = &about[..about.len().min(most - start)];
    let mut bytes = vec![0; start + quoted.len()];
    bytes[start..].copy_from_slice(quoted);
    bytes[start - 2..start].copy_from_slice(&word.to_be_bytes());
    bytes
}
