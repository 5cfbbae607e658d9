//! Extracts the TCP segment of a frame, through encapsulations, even if the capture truncated the
//! packet.

use super::encapsulation;
use super::link::{self, Content};
use super::unread::Reason;
use smoltcp::wire::{IpProtocol, TcpPacket};
use std::net::SocketAddr;
use vcgate_wire::ip::Headers;
use vcgate_wire::tcp::SeqNumber;

/// A TCP segment as it was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub seq: SeqNumber,
    pub ack: Option<SeqNumber>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub ttl: u8,
    pub payload: &'a [u8],
    /// Number of bytes at the end that were not captured.
    pub missing: usize,
}

/// A packet as far as a diagnosis needs it.
#[derive(Debug)]
pub(super) enum Packet<'a> {
    Tcp(Segment<'a>),
    /// ICMP says that a TCP segment from the first address did not reach the second.
    Unreachable(SocketAddr, SocketAddr),
    /// A packet that is not understood.
    Unread(Reason),
    Other,
}

/// Reads a frame of this link, through all encapsulations that are known.
pub(super) fn parse(link: i32, frame: &[u8]) -> Packet<'_> {
    const MAX_DEPTH: usize = 5;
    let mut content = link::content(link, frame);
    for _ in 0..MAX_DEPTH {
        let packet = match content {
            Content::Ip(packet) => packet,
            Content::Other => return Packet::Other,
            Content::Unread(reason) => return Packet::Unread(reason),
        };
        content = match parse_ip(packet) {
            Ip::Packet(packet) => return packet,
            Ip::Content(content) => content,
        };
    }
    Packet::Unread(Reason::Depth)
}

/// The content of an IP packet.
enum Ip<'a> {
    Packet(Packet<'a>),
    Content(Content<'a>),
}

fn parse_ip(packet: &[u8]) -> Ip<'_> {
    let unread = |reason| Ip::Packet(Packet::Unread(reason));
    let Ok(headers) = Headers::parse_quote(packet) else {
        return unread(match is_cut(packet) {
            true => Reason::Cut,
            false => Reason::Malformed,
        });
    };
    // A packet that the network card has yet to segment has no length.
    let len = match headers.len <= headers.l4 {
        true => packet.len(),
        false => headers.len,
    };
    let l4 = packet.get(headers.l4..len.min(packet.len()));
    let (Some(l4), Some(l4_len)) = (l4, len.checked_sub(headers.l4)) else {
        return unread(Reason::Malformed);
    };
    if headers.fragment.is_some() {
        return match headers.protocol {
            IpProtocol::Tcp => unread(Reason::Fragment),
            _ => Ip::Packet(Packet::Other),
        };
    }
    match u8::from(headers.protocol) {
        TCP => Ip::Packet(tcp(&headers, l4, l4_len)),
        UDP => match encapsulation::udp(l4, l4_len) {
            Some(content) => Ip::Content(content),
            None => Ip::Packet(Packet::Other),
        },
        ICMP if headers.src.is_ipv4() => Ip::Packet(icmp(l4, 3)),
        ICMPV6 if headers.src.is_ipv6() => Ip::Packet(icmp(l4, 1)),
        IP_IN_IP | IPV6_IN_IP => Ip::Content(Content::Ip(l4)),
        GRE => Ip::Content(encapsulation::gre(l4)),
        ESP => unread(Reason::Vpn("IPsec")),
        // RFC 4302 section 2: it protects a packet and does not hide it.
        AH => unread(Reason::Encapsulation("IPsec AH")),
        _ => Ip::Packet(Packet::Other),
    }
}

const ICMP: u8 = 1;
const IP_IN_IP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;
const ICMPV6: u8 = 58;

/// Whether the end of the IP header is missing.
fn is_cut(packet: &[u8]) -> bool {
    match packet.first() {
        Some(first @ 0x45..=0x4F) => packet.len() < usize::from(first & 0x0F) * 4,
        Some(0x60..=0x6F) => packet.len() < 40,
        None => true,
        _ => false,
    }
}

/// RFC 792, RFC 4443 section 3.1: the undelivered packet is quoted after eight bytes.
fn icmp(message: &[u8], unreachable: u8) -> Packet<'_> {
    let quoted = match message {
        [kind, _, _, _, _, _, _, _, quoted @ ..] if *kind == unreachable => quoted,
        _ => return Packet::Other,
    };
    let Ok(headers) = Headers::parse_quote(quoted) else {
        return Packet::Other;
    };
    let l4 = quoted.get(headers.l4..).unwrap_or_default();
    match headers.ports(l4) {
        Some((from, to)) if headers.protocol == IpProtocol::Tcp => Packet::Unreachable(
            SocketAddr::new(headers.src, from),
            SocketAddr::new(headers.dst, to),
        ),
        _ => Packet::Other,
    }
}

fn tcp<'a>(headers: &Headers, l4: &'a [u8], l4_len: usize) -> Packet<'a> {
    const HEADER: usize = 20;
    if l4.len() < HEADER {
        return Packet::Unread(match l4_len < HEADER {
            true => Reason::Malformed,
            false => Reason::Cut,
        });
    }
    let tcp = TcpPacket::new_unchecked(l4);
    let header = usize::from(tcp.header_len());
    if header < HEADER || header > l4_len {
        return Packet::Unread(Reason::Malformed);
    }
    let payload = l4.get(header..).unwrap_or_default();
    Packet::Tcp(Segment {
        src: SocketAddr::new(headers.src, tcp.src_port()),
        dst: SocketAddr::new(headers.dst, tcp.dst_port()),
        seq: tcp.seq_number().into(),
        ack: tcp.ack().then(|| tcp.ack_number().into()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        ttl: headers.ttl,
        payload,
        missing: l4_len - header - payload.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RAW: i32 = 101;

    /// 10.8.0.11:49152 to 192.168.77.10:445, PSH and ACK, "abcd".
    #[rustfmt::skip]
    const PACKET: [u8; 44] = [
        0x45, 0, 0, 44, 0, 1, 0x40, 0, 63, 6, 0, 0, 10, 8, 0, 11, 192, 168, 77, 10,
        0xC0, 0, 0x01, 0xBD, 0, 0, 0, 5, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
        b'a', b'b', b'c', b'd',
    ];

    fn segment(packet: &[u8]) -> Option<(Vec<u8>, usize)> {
        match parse(RAW, packet) {
            Packet::Tcp(segment) => Some((segment.payload.to_vec(), segment.missing)),
            _ => None,
        }
    }

    #[test]
    fn reads_a_segment() {
        let Packet::Tcp(segment) = parse(RAW, &PACKET) else {
            panic!("no segment");
        };
        assert_eq!(segment.src, "10.8.0.11:49152".parse().unwrap());
        assert_eq!(segment.dst, "192.168.77.10:445".parse().unwrap());
        assert_eq!(
            (segment.seq, segment.ack),
            (SeqNumber(5), Some(SeqNumber(9)))
        );
        assert_eq!(segment.ttl, 63);
        assert!(!segment.syn && !segment.fin && !segment.rst);
        assert_eq!((segment.payload, segment.missing), (&b"abcd"[..], 0));
    }

    #[test]
    fn knows_what_is_missing_and_what_is_padding() {
        assert_eq!(segment(&PACKET[..42]), Some((b"ab".to_vec(), 2)));
        let padded = [&PACKET[..], &[0; 6]].concat();
        assert_eq!(segment(&padded), Some((b"abcd".to_vec(), 0)));
        let mut without_length = PACKET;
        without_length[3] = 0;
        assert_eq!(segment(&without_length), Some((b"abcd".to_vec(), 0)));
    }

    fn reason(packet: &[u8]) -> String {
        match parse(RAW, packet) {
            Packet::Unread(reason) => reason.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_what_it_cannot_read() {
        let mut fragment = PACKET;
        fragment[6] = 0x20;
        assert_eq!(reason(&fragment), "IP fragment, which is not reassembled");
        for len in [0, 19, 20, 39] {
            let cut = "captured without the end of the TCP header";
            assert_eq!(reason(&PACKET[..len]), cut);
        }
        let mut bad = PACKET;
        bad[0] = 0x35;
        assert_eq!(reason(&bad), "IP header with errors");
        let mut esp = PACKET;
        esp[9] = 50;
        assert_eq!(reason(&esp), "packet of a VPN: IPsec");
        let mut ah = PACKET;
        ah[9] = 51;
        assert_eq!(reason(&ah), "this form of IPsec AH is not supported");
        let mut udp = PACKET;
        udp[9] = 17;
        assert!(matches!(parse(RAW, &udp), Packet::Other));
    }

    #[test]
    fn reads_through_encapsulations() {
        let in_ip = |protocol: u8, header: &[u8], packet: &[u8]| {
            let mut outer = PACKET[..20].to_vec();
            outer[3] = (20 + header.len() + packet.len()) as u8;
            outer[9] = protocol;
            [&outer[..], header, packet].concat()
        };
        let gre = in_ip(47, &[0, 0, 8, 0], &PACKET);
        let both = in_ip(4, &[], &gre);
        assert_eq!(segment(&gre), Some((b"abcd".to_vec(), 0)));
        assert_eq!(segment(&both), Some((b"abcd".to_vec(), 0)));
        let mut deep = PACKET.to_vec();
        for _ in 0..5 {
            deep = in_ip(4, &[], &deep);
        }
        assert_eq!(reason(&deep), "too many encapsulations in one another");
    }

    #[test]
    fn knows_a_segment_that_did_not_arrive() {
        let mut icmp = PACKET[..20].to_vec();
        (icmp[3], icmp[9]) = (20 + 8 + 28, 1);
        icmp.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        icmp.extend(&PACKET[..28]);
        let Packet::Unreachable(from, to) = parse(RAW, &icmp) else {
            panic!("no unreachable");
        };
        assert_eq!(from, "10.8.0.11:49152".parse().unwrap());
        assert_eq!(to, "192.168.77.10:445".parse().unwrap());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0..44usize, with: u8) {
            let _ = parse(RAW, &bytes);
            let mut packet = PACKET;
            packet[at] = with;
            let _ = parse(RAW, &packet);
        }
    }
}
