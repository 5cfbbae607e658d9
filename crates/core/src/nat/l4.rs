//! What the NAT reads behind the IP header, and no more than that.

use super::counters::Reason;
use super::endpoint::{Protocol, Side};
use super::tcp::Segment;
use smoltcp::wire::{Icmpv4Packet, IpProtocol, TcpPacket, UDP_HEADER_LEN, UdpPacket};
use vcgate_wire::checksum::Checksum;
use vcgate_wire::icmp::{self, Icmp, Kind};
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::Packet;

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

/// Whether [`read`] knows the protocol of a packet.
pub(super) fn is_known(headers: &Headers) -> bool {
    match headers.protocol {
        IpProtocol::Tcp | IpProtocol::Udp => true,
        protocol => Icmp::of(protocol, headers.src).is_some(),
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
    if l4.len() < icmp::HEADER {
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
