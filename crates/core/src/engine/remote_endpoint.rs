//! The remote endpoint of a packet, as rules name it. That of an ICMP error is the endpoint of the
//! packet that it quotes: a client that may reach an endpoint may exchange errors with it.

use smoltcp::wire::{IpProtocol, TcpPacket};
use std::net::IpAddr;
use vcgate_wire::icmp::{self, Kind, Quote};
use vcgate_wire::packet::Packet;

/// One end of a packet, as seen from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RemoteEndpoint {
    pub address: IpAddr,
    /// Whether it belongs to a client.
    pub is_client: bool,
    pub protocol: IpProtocol,
    /// The port; `None` unless the protocol is TCP or UDP.
    pub port: Option<u16>,
}

impl RemoteEndpoint {
    /// Returns the destination of a packet; `None` for an ICMP error that does not go to the sender
    /// of the packet that it quotes.
    pub(super) fn of_destination(packet: &Packet<'_>) -> Option<Self> {
        let dst = packet.headers.dst;
        match quote(packet) {
            Some(quote) => {
                let (quoted, port) = (quote.headers, quote.ports().map(|(from, _)| from));
                let remote = Self::new(quoted.src, quoted.protocol, port);
                (quoted.src == dst).then_some(remote)
            }
            None if is_error(packet) => None,
            None => {
                let port = packet.ports().map(|(_, to)| to);
                Some(Self::new(dst, packet.headers.protocol, port))
            }
        }
    }

    /// Returns the source of a packet. An ICMP error may come from a router on the path to the
    /// endpoint; `None` if it does not go to the sender of the packet that it quotes.
    pub(super) fn of_source(packet: &Packet<'_>) -> Option<Self> {
        match quote(packet) {
            Some(quote) => {
                let (quoted, port) = (quote.headers, quote.ports().map(|(_, to)| to));
                let remote = Self::new(quoted.dst, quoted.protocol, port);
                (quoted.src == packet.headers.dst).then_some(remote)
            }
            None if is_error(packet) => None,
            None => {
                let port = packet.ports().map(|(from, _)| from);
                Some(Self::new(packet.headers.src, packet.headers.protocol, port))
            }
        }
    }

    fn new(address: IpAddr, protocol: IpProtocol, port: Option<u16>) -> Self {
        Self {
            address,
            is_client: false,
            protocol,
            port,
        }
    }
}

/// Whether a packet opens an exchange and so is not an answer: a SYN, an ICMP query. UDP does not
/// show it.
pub(super) fn is_opening(packet: &Packet<'_>) -> bool {
    let l4 = packet.l4();
    match packet.headers.protocol {
        IpProtocol::Tcp => TcpPacket::new_checked(l4).is_ok_and(|tcp| tcp.syn() && !tcp.ack()),
        IpProtocol::Udp => false,
        _ => match icmp::kind(packet) {
            Some(kind) => matches!(kind, Kind::Request | Kind::OldRequest),
            // Other types are treated as requests.
            None => true,
        },
    }
}

/// Whether a packet is an ICMP error (RFC 1122 section 3.2.2, RFC 4443 section 2.1).
pub(super) fn is_error(packet: &Packet<'_>) -> bool {
    matches!(icmp::kind(packet), Some(Kind::Error | Kind::StrayError))
}

/// Returns the receiver of the packet that an ICMP error quotes.
pub(super) fn quoted_receiver(packet: &Packet<'_>) -> Option<IpAddr> {
    quote(packet).map(|quote| quote.headers.dst)
}

/// Returns the packet that an ICMP error quotes; `None` for errors that are never forwarded.
fn quote<'a>(packet: &'a Packet<'_>) -> Option<Quote<'a>> {
    match icmp::kind(packet)? {
        Kind::Error => Quote::of(packet),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate_wire::checksum::Checksum;

    const HERE: [u8; 4] = [10, 8, 0, 11];
    const THERE: [u8; 4] = [10, 1, 0, 5];
    const ROUTER: [u8; 4] = [10, 1, 0, 1];

    fn ip(protocol: u8, src: [u8; 4], dst: [u8; 4], l4: &[u8]) -> Vec<u8> {
        let len = 20 + l4.len() as u8;
        let head = [0x45, 0, 0, len, 0, 0, 0, 0, 64, protocol, 0, 0];
        [&head[..], &src, &dst, l4].concat()
    }

    fn ends(bytes: &[u8]) -> (Option<RemoteEndpoint>, Option<RemoteEndpoint>, bool) {
        let mut bytes = bytes.to_vec();
        let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        let (to, from) = (
            RemoteEndpoint::of_destination(&packet),
            RemoteEndpoint::of_source(&packet),
        );
        (to, from, is_opening(&packet))
    }

    fn tcp(flags: u8) -> Vec<u8> {
        let l4 = [
            0x30, 0x39, 1, 0xBD, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0,
        ];
        ip(6, HERE, THERE, &l4)
    }

    #[test]
    fn a_segment_has_the_ports_of_its_header() {
        let remote = |address: [u8; 4], port| {
            RemoteEndpoint::new(address.into(), IpProtocol::Tcp, Some(port))
        };
        assert_eq!(
            ends(&tcp(2)),
            (Some(remote(THERE, 445)), Some(remote(HERE, 12345)), true)
        );
        assert!(!ends(&tcp(0x12)).2);
    }

    #[test]
    fn an_error_has_the_endpoint_of_its_quote() {
        let error = |src, dst| {
            ip(
                1,
                src,
                dst,
                &[&[3, 4, 0, 0, 0, 0, 5, 0], &tcp(2)[..]].concat(),
            )
        };
        let remote = RemoteEndpoint::new(THERE.into(), IpProtocol::Tcp, Some(445));
        assert_eq!(ends(&error(ROUTER, HERE)).1, Some(remote));
        let back = RemoteEndpoint::new(HERE.into(), IpProtocol::Tcp, Some(12345));
        assert_eq!(ends(&error(THERE, HERE)).0, Some(back));
        // Not to the sender of the quoted packet.
        assert_eq!(ends(&error(ROUTER, ROUTER)).1, None);
        assert_eq!(ends(&error(THERE, ROUTER)).0, None);
        // A redirect is never forwarded, nor an error without its quote.
        let mut bytes = error(THERE, HERE);
        let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        assert_eq!(quoted_receiver(&packet), Some(THERE.into()));
        let redirect = ip(
            1,
            ROUTER,
            HERE,
            &[&[5, 1, 0, 0, 0, 0, 0, 0], &tcp(2)[..]].concat(),
        );
        assert_eq!(ends(&redirect).1, None);
        assert_eq!(
            ends(&ip(1, ROUTER, HERE, &[3, 1, 0, 0, 0, 0, 0, 0])).1,
            None
        );
    }

    #[test]
    fn a_query_opens_an_exchange_and_its_reply_does_not() {
        for (kind, opens) in [(8, true), (0, false), (13, true), (14, false), (17, true)] {
            let (to, _, opening) = ends(&ip(1, HERE, THERE, &[kind, 0, 0, 0, 0, 1, 0, 1]));
            assert_eq!(
                to,
                Some(RemoteEndpoint::new(THERE.into(), IpProtocol::Icmp, None))
            );
            assert_eq!(opening, opens);
        }
    }
}
