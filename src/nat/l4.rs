//! What the NAT reads behind the IP header, and no more than that.

use super::counters::Reason;
use super::endpoint::{Protocol, Side};
use super::tcp::Segment;
use crate::wire::packet::Packet;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, IpProtocol, TcpPacket, UDP_HEADER_LEN, UdpPacket,
};

/// The length of an ICMP header.
pub(super) const ICMP_HEADER: usize = 8;

/// What a packet is to the NAT.
#[derive(Debug)]
pub(super) enum L4 {
    /// A packet of a flow.
    Flow(Ports),
    /// An ICMP error about a packet of a flow.
    Error,
}

/// The ports of a packet; an echo request has its identifier as source port, a reply as
/// destination port, and 0 at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub protocol: Protocol,
    pub src: u16,
    pub dst: u16,
    /// For TCP.
    pub segment: Option<Segment>,
}

/// Reads a packet that came `from` this side: clients send echo requests, the LAN replies.
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
            Ok(L4::Flow(Ports {
                protocol: Protocol::Udp,
                src: udp.src_port(),
                dst: udp.dst_port(),
                segment: None,
            }))
        }
        IpProtocol::Icmp => read_icmp(l4, from),
        _ => Err(Reason::Protocol),
    }
}

/// The length of a packet's L4 header, which [`read`] accepted.
pub(super) fn header_len(packet: &Packet<'_>) -> usize {
    match packet.headers.protocol {
        IpProtocol::Tcp => TcpPacket::new_unchecked(packet.l4()).header_len().into(),
        _ => UDP_HEADER_LEN,
    }
}

fn read_icmp(l4: &[u8], from: Side) -> Result<L4, Reason> {
    if l4.len() < ICMP_HEADER {
        return Err(Reason::Truncated);
    }
    let icmp = Icmpv4Packet::new_unchecked(l4);
    match (icmp.msg_type(), from) {
        (Icmpv4Message::EchoRequest, Side::Inside) | (Icmpv4Message::EchoReply, Side::Lan) => {
            Ok(L4::Flow(echo(icmp.msg_type(), icmp.echo_ident())))
        }
        // Not source quench (RFC 6633) and not redirect, which no router passes on (RFC 1812
        // section 5.2.7.2).
        (
            Icmpv4Message::DstUnreachable
            | Icmpv4Message::TimeExceeded
            | Icmpv4Message::ParamProblem,
            _,
        ) => Ok(L4::Error),
        _ => Err(Reason::IcmpType),
    }
}

/// The ports of an echo message.
pub(super) fn echo(message: Icmpv4Message, identifier: u16) -> Ports {
    let (src, dst) = match message {
        Icmpv4Message::EchoReply => (0, identifier),
        _ => (identifier, 0),
    };
    Ports {
        protocol: Protocol::Echo,
        src,
        dst,
        segment: None,
    }
}
