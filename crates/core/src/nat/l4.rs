//! Reads L4 headers: ports, TCP segments, ICMP kinds, and the packets that ICMP errors quote.
//!
//! It writes nothing and looks nothing up.

use super::endpoint::{Endpoint, Protocol, Side};
use super::outcome::Reason;
use super::tcp::Segment;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv6Packet, IpProtocol, TcpPacket, UDP_HEADER_LEN, UdpPacket, checksum,
};
use std::net::IpAddr;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::icmp::{HEADER_LEN as ICMP_HEADER, Icmp, Kind, Quote};
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::Packet;

/// The minimum length of the L4 part of a quote, in bytes (RFC 792).
const MIN_QUOTED_L4: usize = 8;

/// The contents of a packet, as far as the NAT cares.
#[derive(Debug)]
pub(super) enum L4 {
    /// A packet of a flow.
    Flow(Ports),
    /// An ICMP error about a packet of a flow.
    Error,
}

/// The ports of a packet. The identifier of an ICMP query is its source port, that of the reply its
/// destination port; the other port is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub protocol: Protocol,
    pub src: u16,
    pub dst: u16,
    /// For TCP.
    pub segment: Option<Segment>,
}

impl Ports {
    /// Returns the ports of an ICMP query from a client, or of a reply from the LAN.
    fn of_query(from: Side, identifier: u16) -> Self {
        let (src, dst) = match from {
            Side::Inside => (identifier, 0),
            Side::Lan => (0, identifier),
        };
        Self {
            protocol: Protocol::Echo,
            src,
            dst,
            segment: None,
        }
    }

    pub(super) fn is_syn(&self) -> bool {
        self.segment.is_some_and(|s| s.syn)
    }

    pub(super) fn is_rst(&self) -> bool {
        self.segment.is_some_and(|s| s.rst)
    }

    /// Returns whether this is the first segment of a TCP connection.
    pub(super) fn opens_connection(&self) -> bool {
        self.segment.is_some_and(|s| s.opens())
    }
}

/// Reads a packet that came from this side; only clients send ICMP queries, only the LAN replies.
///
/// # Errors
/// The reason to drop the packet.
pub(super) fn read(packet: &Packet<'_>, from: Side) -> Result<L4, Reason> {
    let l4 = packet.l4();
    match packet.headers.protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(l4).map_err(|_| Reason::Truncated)?;
            let header = usize::from(tcp.header_len());
            let payload = packet.headers.l4_len().saturating_sub(header);
            Ok(L4::Flow(Ports {
                protocol: Protocol::Tcp,
                src: tcp.src_port(),
                dst: tcp.dst_port(),
                segment: Some(Segment::read(&tcp, payload)),
            }))
        }
        IpProtocol::Udp => {
            if l4.len() < UDP_HEADER_LEN {
                return Err(Reason::Truncated);
            }
            let udp = UdpPacket::new_unchecked(l4);
            // In IPv6 no other checksum protects the addresses, so 0 does not mean "none".
            let complete = packet.checksum == Checksum::Complete;
            if packet.headers.src.is_ipv6() && complete && udp.checksum() == 0 {
                return Err(Reason::NoChecksum);
            }
            Ok(L4::Flow(Ports {
                protocol: Protocol::Udp,
                src: udp.src_port(),
                dst: udp.dst_port(),
                segment: None,
            }))
        }
        protocol => match Icmp::of(protocol, packet.headers.src) {
            Some(family) => read_icmp(family, l4, from),
            None => Err(Reason::Protocol),
        },
    }
}

/// Returns whether [`read`] knows the protocol of a packet.
pub(super) fn is_known(headers: &Headers) -> bool {
    match headers.protocol {
        IpProtocol::Tcp | IpProtocol::Udp => true,
        protocol => Icmp::of(protocol, headers.src).is_some(),
    }
}

/// Returns the length of the L4 header of a packet that [`read`] accepted.
pub(super) fn header_len(packet: &Packet<'_>) -> usize {
    match packet.headers.protocol {
        IpProtocol::Tcp => TcpPacket::new_unchecked(packet.l4()).header_len().into(),
        _ => UDP_HEADER_LEN,
    }
}

fn read_icmp(family: Icmp, l4: &[u8], from: Side) -> Result<L4, Reason> {
    if l4.len() < ICMP_HEADER {
        return Err(Reason::Truncated);
    }
    let icmp = Icmpv4Packet::new_unchecked(l4);
    match (family.kind(icmp.msg_type().into()), from) {
        (Kind::Request, Side::Inside) | (Kind::Reply, Side::Lan) => {
            Ok(L4::Flow(Ports::of_query(from, icmp.echo_ident())))
        }
        (Kind::Error, _) => Ok(L4::Error),
        _ => Err(Reason::IcmpType),
    }
}

/// The packet that an ICMP error quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QuotedPacket {
    pub protocol: Protocol,
    pub src: Endpoint,
    pub dst: Endpoint,
    /// The offset of its L4 header in the ICMP message.
    pub l4: usize,
}

impl QuotedPacket {
    /// Reads the quote of an ICMP error that came from this side: the quoted packet went to it.
    ///
    /// Options and extensions of the quoted header are skipped. The quoted L4 checksum is not
    /// verified, because most of the bytes that it covers are missing (RFC 5508 REQ-3).
    ///
    /// # Errors
    /// The reason to drop the error.
    pub(super) fn read(error: &Packet<'_>, from: Side) -> Result<Self, Reason> {
        if !has_valid_checksum(error) {
            return Err(Reason::BadChecksum);
        }
        let quote = Quote::of(error).ok_or(Reason::Quote)?;
        let (headers, l4) = (quote.headers, quote.l4());
        let other_family = headers.src.is_ipv6() != error.headers.src.is_ipv6();
        if l4.len() < MIN_QUOTED_L4 || !headers.has_l4() || other_family {
            return Err(Reason::Quote);
        }
        if headers.src.is_ipv4() && !is_checksum_valid(quote.ip()) {
            return Err(Reason::BadChecksum);
        }
        let ports = read_quoted_ports(&headers, l4, from).ok_or(Reason::Quote)?;
        Ok(Self {
            protocol: ports.protocol,
            src: Endpoint {
                ip: headers.src,
                port: ports.src,
            },
            dst: Endpoint {
                ip: headers.dst,
                port: ports.dst,
            },
            l4: ICMP_HEADER + headers.l4,
        })
    }
}

/// Reads the ports of a quoted L4 header, of which at least 8 bytes are present.
fn read_quoted_ports(headers: &Headers, l4: &[u8], from: Side) -> Option<Ports> {
    match headers.protocol {
        protocol @ (IpProtocol::Tcp | IpProtocol::Udp) => {
            // TCP and UDP have their ports at the same offsets.
            let ports = TcpPacket::new_unchecked(l4);
            Some(Ports {
                protocol: protocol.try_into().ok()?,
                src: ports.src_port(),
                dst: ports.dst_port(),
                segment: None,
            })
        }
        protocol => {
            let family = Icmp::of(protocol, headers.src)?;
            let icmp = Icmpv4Packet::new_unchecked(l4);
            match (family.kind(icmp.msg_type().into()), from) {
                (Kind::Request, Side::Lan) | (Kind::Reply, Side::Inside) => {
                    Some(Ports::of_query(from.other(), icmp.echo_ident()))
                }
                _ => None,
            }
        }
    }
}

/// Returns whether the checksum of an ICMP error is valid, or cannot be verified here.
fn has_valid_checksum(error: &Packet<'_>) -> bool {
    if error.headers.fragment.is_some_and(|f| f.more) || error.checksum == Checksum::Partial {
        return true;
    }
    let l4 = error.l4();
    let message = l4.get(..error.headers.l4_len()).unwrap_or(l4);
    match (error.headers.src, error.headers.dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Icmpv6Packet::new_unchecked(message).verify_checksum(&src, &dst)
        }
        _ => is_checksum_valid(message),
    }
}

/// Returns whether bytes that include their checksum add up (RFC 1071).
fn is_checksum_valid(bytes: &[u8]) -> bool {
    checksum::data(bytes) == !0
}
