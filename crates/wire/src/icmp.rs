//! Message kinds of ICMP and ICMPv6, and the packet that an ICMP error quotes. Checksums are not
//! verified here.

use super::ip::Headers;
use super::packet::Packet;
use smoltcp::wire::{Icmpv4Message, Icmpv6Message, IpProtocol};
use std::net::IpAddr;

/// Length of an ICMP header in bytes. The checksum, the identifier of an echo and the quote of an
/// error have the same offsets in ICMPv6, so one reader and writer serves both.
pub const HEADER_LEN: usize = 8;

/// The version of ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmp {
    /// RFC 792.
    V4,
    /// RFC 4443.
    V6,
}

/// The kind of a message, as a router treats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A query with an identifier (RFC 5508 REQ-1): an echo request or a timestamp request, whose
    /// identifiers have the same offset.
    Request,
    /// The reply to such a query.
    Reply,
    /// An error that quotes another packet.
    Error,
    /// An information or address mask request: deprecated (RFC 6918).
    OldRequest,
    /// An error that routers do not forward: source quench (RFC 6633), redirect (RFC 1812 section
    /// 5.2.7.2), and unassigned errors of ICMPv6.
    StrayError,
    /// Any other message. Neighbour discovery and multicast listener messages are local to a link
    /// (RFC 4861, RFC 3810).
    Other,
}

impl Icmp {
    /// Returns the version of a packet with this protocol and source, or `None` if it is not ICMP of
    /// its own address family.
    pub fn of(protocol: IpProtocol, src: IpAddr) -> Option<Self> {
        match (protocol, src) {
            (IpProtocol::Icmp, IpAddr::V4(_)) => Some(Self::V4),
            (IpProtocol::Icmpv6, IpAddr::V6(_)) => Some(Self::V6),
            _ => None,
        }
    }

    /// Returns the kind of a message with this type.
    pub fn kind(self, message: u8) -> Kind {
        match self {
            Self::V4 => match message.into() {
                Icmpv4Message::EchoRequest | Icmpv4Message::Timestamp => Kind::Request,
                Icmpv4Message::EchoReply | Icmpv4Message::TimestampReply => Kind::Reply,
                Icmpv4Message::DstUnreachable
                | Icmpv4Message::TimeExceeded
                | Icmpv4Message::ParamProblem => Kind::Error,
                Icmpv4Message::Redirect => Kind::StrayError,
                Icmpv4Message::Unknown(4) => Kind::StrayError,
                Icmpv4Message::Unknown(15 | 17) => Kind::OldRequest,
                _ => Kind::Other,
            },
            Self::V6 => match message.into() {
                Icmpv6Message::EchoRequest => Kind::Request,
                Icmpv6Message::EchoReply => Kind::Reply,
                Icmpv6Message::DstUnreachable
                | Icmpv6Message::PktTooBig
                | Icmpv6Message::TimeExceeded
                | Icmpv6Message::ParamProblem => Kind::Error,
                // All below 128 are errors (RFC 4443 section 2.1).
                Icmpv6Message::Unknown(0..=127) => Kind::StrayError,
                _ => Kind::Other,
            },
        }
    }
}

/// Returns the kind of a packet, or `None` if it is not ICMP or lacks the ICMP header.
pub fn kind(packet: &Packet<'_>) -> Option<Kind> {
    let headers = &packet.headers;
    let icmp = Icmp::of(headers.protocol, headers.src).filter(|_| headers.has_l4())?;
    packet.l4().first().map(|message| icmp.kind(*message))
}

/// The beginning of the packet that caused an ICMP error.
#[derive(Debug, Clone, Copy)]
pub struct Quote<'a> {
    /// The parsed IP header.
    pub headers: Headers,
    bytes: &'a [u8],
}

impl<'a> Quote<'a> {
    /// Returns the quote in an ICMP error, or `None` if it contains no valid IP header.
    pub fn of(error: &'a Packet<'_>) -> Option<Self> {
        let bytes = error.l4().get(HEADER_LEN..)?;
        let headers = Headers::parse_quote(bytes).ok()?;
        Some(Self { headers, bytes })
    }

    /// Returns the IP header with its options or extensions.
    pub fn ip(&self) -> &'a [u8] {
        self.bytes.get(..self.headers.l4).unwrap_or_default()
    }

    /// Returns the bytes after the IP header that are quoted.
    pub fn l4(&self) -> &'a [u8] {
        self.bytes.get(self.headers.l4..).unwrap_or_default()
    }

    /// Returns the source and destination ports of a TCP or UDP packet, if they are quoted.
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.headers.ports(self.l4())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_type_has_its_kind() {
        let all = |icmp: Icmp, kind: Kind| -> Vec<u8> {
            (0..=255).filter(|m| icmp.kind(*m) == kind).collect()
        };
        assert_eq!(all(Icmp::V4, Kind::Request), [8, 13]);
        assert_eq!(all(Icmp::V4, Kind::Reply), [0, 14]);
        assert_eq!(all(Icmp::V4, Kind::Error), [3, 11, 12]);
        assert_eq!(all(Icmp::V4, Kind::OldRequest), [15, 17]);
        assert_eq!(all(Icmp::V4, Kind::StrayError), [4, 5]);
        assert_eq!(all(Icmp::V6, Kind::Request), [128]);
        assert_eq!(all(Icmp::V6, Kind::Reply), [129]);
        assert_eq!(all(Icmp::V6, Kind::Error), [1, 2, 3, 4]);
        assert!(all(Icmp::V6, Kind::OldRequest).is_empty());
        assert_eq!(all(Icmp::V6, Kind::StrayError).len(), 124);
        assert_eq!(all(Icmp::V6, Kind::Other).len(), 126);
    }
}
