//! ICMP and ICMPv6: what a message is, and the packet that an error quotes. No checksum is looked at.

use super::ip::Headers;
use super::packet::Packet;
use smoltcp::wire::{Icmpv4Message, Icmpv6Message, IpProtocol};
use std::net::IpAddr;

/// The length of an ICMP header. In ICMPv6 the checksum, an echo's identifier and an error's
/// quote are where ICMP has them, so one reader and writer serves both.
pub const HEADER: usize = 8;

/// Which ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmp {
    /// RFC 792.
    V4,
    /// RFC 4443.
    V6,
}

/// What a message is to a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A query with an identifier (RFC 5508 REQ-1): an echo request, or a request for a
    /// timestamp, whose identifier is where an echo's is.
    Request,
    /// What answers it.
    Reply,
    /// About another packet, which it quotes.
    Error,
    /// A query for information or an address mask: deprecated (RFC 6918).
    OldRequest,
    /// An error that no router passes on: source quench (RFC 6633), redirect (RFC 1812 section
    /// 5.2.7.2), and what ICMPv6 has not defined yet.
    StrayError,
    /// Anything else. Neighbour discovery and group membership are a link's own (RFC 4861, RFC
    /// 3810).
    Other,
}

impl Icmp {
    /// That of a packet with this source, if it is one: neither travels in the other's family.
    pub fn of(protocol: IpProtocol, src: IpAddr) -> Option<Self> {
        match (protocol, src) {
            (IpProtocol::Icmp, IpAddr::V4(_)) => Some(Self::V4),
            (IpProtocol::Icmpv6, IpAddr::V6(_)) => Some(Self::V6),
            _ => None,
        }
    }

    /// What a message of this type is.
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

/// What a packet is, if it is ICMP with its header here.
pub fn kind(packet: &Packet<'_>) -> Option<Kind> {
    let headers = &packet.headers;
    let icmp = Icmp::of(headers.protocol, headers.src).filter(|_| headers.has_l4())?;
    packet.l4().first().map(|message| icmp.kind(*message))
}

/// The packet that an ICMP error is about, as far as it is quoted.
#[derive(Debug, Clone, Copy)]
pub struct Quote<'a> {
    /// What its IP header says.
    pub headers: Headers,
    bytes: &'a [u8],
}

impl<'a> Quote<'a> {
    /// The quote of a packet that is an error; `None` if there is no IP header in it.
    pub fn of(error: &'a Packet<'_>) -> Option<Self> {
        let bytes = error.l4().get(HEADER..)?;
        let headers = Headers::parse_quote(bytes).ok()?;
        Some(Self { headers, bytes })
    }

    /// Its IP header, with options or extensions.
    pub fn ip(&self) -> &'a [u8] {
        self.bytes.get(..self.headers.l4).unwrap_or_default()
    }

    /// What follows, as far as it is here.
    pub fn l4(&self) -> &'a [u8] {
        self.bytes.get(self.headers.l4..).unwrap_or_default()
    }

    /// Its ports, where it is TCP or UDP and they are here.
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.headers.ports(self.l4())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_of_its_kind() {
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
