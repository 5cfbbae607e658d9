//! What the NAT reads behind the IP header, and no more than that.

use super::counters::Reason;
use super::endpoint::{Protocol, Side};
use super::tcp::Segment;
use crate::wire::checksum::Checksum;
use crate::wire::packet::Packet;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, IpProtocol, TcpPacket, UDP_HEADER_LEN, UdpPacket,
};
use std::net::IpAddr;

/// The length of an ICMP header. In ICMPv6 the checksum, an echo's identifier and an error's
/// quote are where ICMP has them, so one reader and writer serves both.
pub(super) const ICMP_HEADER: usize = 8;

/// What a packet is to the NAT.
#[derive(Debug)]
pub(super) enum L4 {
    /// A packet of a flow.
    Flow(Ports),
    /// An ICMP error about a packet of a flow.
    Error,
}

/// The ports of a packet; an ICMP query has its identifier as source port, the reply to it as
/// destination port, and 0 at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub protocol: Protocol,
    pub src: u16,
    pub dst: u16,
    /// For TCP.
    pub segment: Option<Segment>,
}

/// Reads a packet that came `from` this side: clients send ICMP queries, the LAN replies.
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
            // In IPv6 nothing else protects the addresses, so 0 is not "none" there.
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

/// The length of a packet's L4 header, which [`read`] accepted.
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
            Ok(L4::Flow(query(from, icmp.echo_ident())))
        }
        (Kind::Error, _) => Ok(L4::Error),
        _ => Err(Reason::IcmpType),
    }
}

/// The ports of an ICMP query or reply from this side: a query from a client, a reply from the LAN.
pub(super) fn query(from: Side, identifier: u16) -> Ports {
    let (src, dst) = match from {
        Side::Inside => (identifier, 0),
        Side::Lan => (0, identifier),
    };
    Ports {
        protocol: Protocol::Echo,
        src,
        dst,
        segment: None,
    }
}

/// Which ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Icmp {
    V4,
    V6,
}

/// What an ICMP message is to the NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A query with an identifier (RFC 5508 REQ-1): an echo request, or a request for a
    /// timestamp, whose identifier is where an echo's is. The others are no more: information and
    /// address mask requests are deprecated (RFC 6918).
    Request,
    /// What answers it.
    Reply,
    /// About another packet, which it quotes.
    Error,
    Other,
}

impl Icmp {
    /// That of a packet with this source, if it is one: neither travels in the other's family.
    pub(super) fn of(protocol: IpProtocol, src: IpAddr) -> Option<Self> {
        match (protocol, src) {
            (IpProtocol::Icmp, IpAddr::V4(_)) => Some(Self::V4),
            (IpProtocol::Icmpv6, IpAddr::V6(_)) => Some(Self::V6),
            _ => None,
        }
    }

    /// What a message of this type is.
    pub(super) fn kind(self, message: u8) -> Kind {
        match self {
            Self::V4 => match message.into() {
                Icmpv4Message::EchoRequest | Icmpv4Message::Timestamp => Kind::Request,
                Icmpv4Message::EchoReply | Icmpv4Message::TimestampReply => Kind::Reply,
                // Not source quench (RFC 6633) and not redirect, which no router passes on (RFC
                // 1812 section 5.2.7.2).
                Icmpv4Message::DstUnreachable
                | Icmpv4Message::TimeExceeded
                | Icmpv4Message::ParamProblem => Kind::Error,
                _ => Kind::Other,
            },
            Self::V6 => match message.into() {
                Icmpv6Message::EchoRequest => Kind::Request,
                Icmpv6Message::EchoReply => Kind::Reply,
                Icmpv6Message::DstUnreachable
                | Icmpv6Message::PktTooBig
                | Icmpv6Message::TimeExceeded
                | Icmpv6Message::ParamProblem => Kind::Error,
                // Neighbour discovery and group membership are a link's own (RFC 4861, RFC 3810).
                _ => Kind::Other,
            },
        }
    }
}
