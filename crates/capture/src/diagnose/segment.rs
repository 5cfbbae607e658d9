//! From an IP packet to the TCP segment in it, even where the capture cut the packet short.

use smoltcp::wire::{IpProtocol, TcpPacket};
use std::net::SocketAddr;
use vcgate_wire::ip::Headers;

/// A TCP segment as it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub seq: u32,
    pub ack: Option<u32>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub ttl: u8,
    pub payload: &'a [u8],
    /// How many bytes of the payload, behind those, were not captured.
    pub missing: usize,
}

/// What a packet is to a diagnosis.
#[derive(Debug)]
pub enum Packet<'a> {
    Tcp(Segment<'a>),
    /// A piece of a TCP segment, which is not put together here.
    Fragment,
    /// WireGuard or IPsec: what is in it cannot be read.
    Tunnel,
    Other,
}

/// Looks into an IP packet, or the beginning of one.
pub fn parse(packet: &[u8]) -> Packet<'_> {
    let Ok(headers) = Headers::parse_quote(packet) else {
        return Packet::Other;
    };
    // A packet that the network card was going to cut has no length yet.
    let len = match headers.len <= headers.l4 {
        true => packet.len(),
        false => headers.len,
    };
    let l4 = packet.get(headers.l4..len.min(packet.len()));
    let (Some(l4), Some(l4_len)) = (l4, len.checked_sub(headers.l4)) else {
        return Packet::Other;
    };
    match headers.protocol {
        IpProtocol::Tcp if headers.fragment.is_some() => Packet::Fragment,
        IpProtocol::Tcp => tcp(&headers, l4, l4_len).map_or(Packet::Other, Packet::Tcp),
        IpProtocol::IpSecEsp => Packet::Tunnel,
        IpProtocol::Udp if is_tunnel(l4) => Packet::Tunnel,
        _ => Packet::Other,
    }
}

fn tcp<'a>(headers: &Headers, l4: &'a [u8], l4_len: usize) -> Option<Segment<'a>> {
    const LEAST: usize = 20;
    if l4.len() < LEAST {
        return None;
    }
    let tcp = TcpPacket::new_unchecked(l4);
    let header = usize::from(tcp.header_len());
    if header < LEAST || header > l4_len {
        return None;
    }
    let payload = l4.get(header..).unwrap_or_default();
    Some(Segment {
        src: SocketAddr::new(headers.src, tcp.src_port()),
        dst: SocketAddr::new(headers.dst, tcp.dst_port()),
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack().then(|| tcp.ack_number().0 as u32),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        ttl: headers.ttl,
        payload,
        missing: l4_len - header - payload.len(),
    })
}

/// WireGuard's messages (its paper, section 5.4), and IPsec's in UDP (RFC 3948 section 2.1).
fn is_tunnel(udp: &[u8]) -> bool {
    const IPSEC: [u8; 2] = 4500u16.to_be_bytes();
    match udp {
        [_, _, port @ .., _, _, _, _] if port.starts_with(&IPSEC) => true,
        [a, b, ..] if [*a, *b] == IPSEC => true,
        [_, _, _, _, _, _, _, _, 1..=4, 0, 0, 0, ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 10.8.0.11:49152 to 192.168.77.10:445, PSH and ACK, "abcd".
    #[rustfmt::skip]
    const PACKET: [u8; 44] = [
        0x45, 0, 0, 44, 0, 1, 0x40, 0, 63, 6, 0, 0, 10, 8, 0, 11, 192, 168, 77, 10,
        0xC0, 0, 0x01, 0xBD, 0, 0, 0, 5, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
        b'a', b'b', b'c', b'd',
    ];

    fn segment(packet: &[u8]) -> Option<(Vec<u8>, usize)> {
        match parse(packet) {
            Packet::Tcp(segment) => Some((segment.payload.to_vec(), segment.missing)),
            _ => None,
        }
    }

    #[test]
    fn reads_a_segment() {
        let Packet::Tcp(segment) = parse(&PACKET) else {
            panic!("no segment");
        };
        assert_eq!(segment.src, "10.8.0.11:49152".parse().unwrap());
        assert_eq!(segment.dst, "192.168.77.10:445".parse().unwrap());
        assert_eq!((segment.seq, segment.ack, segment.ttl), (5, Some(9), 63));
        assert!(!segment.syn && !segment.fin && !segment.rst);
        assert_eq!((segment.payload, segment.missing), (&b"abcd"[..], 0));
    }

    #[test]
    fn knows_what_is_missing_and_what_is_padding() {
        assert_eq!(segment(&PACKET[..42]), Some((b"ab".to_vec(), 2)));
        assert_eq!(segment(&PACKET[..39]), None);
        let padded = [&PACKET[..], &[0; 6]].concat();
        assert_eq!(segment(&padded), Some((b"abcd".to_vec(), 0)));
        let mut without_length = PACKET;
        without_length[3] = 0;
        assert_eq!(segment(&without_length), Some((b"abcd".to_vec(), 0)));
    }

    #[test]
    fn tells_fragments_and_tunnels() {
        let mut fragment = PACKET;
        fragment[6] = 0x20;
        assert!(matches!(parse(&fragment), Packet::Fragment));
        let mut wireguard = PACKET;
        wireguard[9] = 17;
        wireguard[28..32].copy_from_slice(&[4, 0, 0, 0]);
        assert!(matches!(parse(&wireguard), Packet::Tunnel));
        wireguard[28] = 9;
        assert!(matches!(parse(&wireguard), Packet::Other));
        wireguard[22..24].copy_from_slice(&4500u16.to_be_bytes());
        assert!(matches!(parse(&wireguard), Packet::Tunnel));
        let mut esp = PACKET;
        esp[9] = 50;
        assert!(matches!(parse(&esp), Packet::Tunnel));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0..44usize, with: u8) {
            let _ = parse(&bytes);
            let mut packet = PACKET;
            packet[at] = with;
            let _ = parse(&packet);
        }
    }
}
