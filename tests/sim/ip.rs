//! Packets that a test makes by hand.

use smoltcp::wire::checksum;
use std::net::{Ipv4Addr, Ipv6Addr};
use vcgate::wire::coalesce::pseudo_header;
use vcgate::wire::ip::Headers;

/// A UDP datagram over IPv4 with right checksums.
pub fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    l4.extend((8 + payload.len() as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    packet(17, from.0, to.0, 6, l4)
}

/// A TCP segment without data that acknowledges.
pub fn ack(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), seq: u32, ack: u32) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, 0x10, 0x40, 0, 0, 0, 0, 0]);
    packet(6, from.0, to.0, 16, l4)
}

/// An ICMP echo request.
pub fn ping(from: Ipv4Addr, to: Ipv4Addr, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0];
    icmp.extend(id.to_be_bytes());
    icmp.extend([0, 1]);
    icmp.extend(payload);
    let sum = !checksum::data(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    header(1, from, to, icmp.len())
        .into_iter()
        .chain(icmp)
        .collect()
}

/// An ICMPv6 message of a type, 8 bytes long.
pub fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
    p.extend(from.octets());
    p.extend(to.octets());
    p.extend([kind, 0, 0, 0, 0x12, 0x34, 0, 1]);
    let headers = Headers::parse(&p).expect("just made");
    let sum = !checksum::combine(&[pseudo_header(&headers, 8), checksum::data(&p[40..])]);
    p[42..44].copy_from_slice(&sum.to_be_bytes());
    p
}

/// The ports and the payload of a UDP packet.
pub fn udp_parts(packet: &[u8]) -> Option<(u16, u16, &[u8])> {
    let headers = Headers::parse(packet).ok()?;
    let l4 = packet.get(headers.l4..headers.len)?;
    let port = |at: usize| Some(u16::from_be_bytes([*l4.get(at)?, *l4.get(at + 1)?]));
    (u8::from(headers.protocol) == 17).then_some(())?;
    Some((port(0)?, port(2)?, l4.get(8..)?))
}

fn packet(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, field: usize, mut l4: Vec<u8>) -> Vec<u8> {
    let mut packet = header(protocol, from, to, l4.len());
    let probe = [&packet[..], &l4[..]].concat();
    let headers = Headers::parse(&probe).expect("just made");
    let sum = !checksum::combine(&[pseudo_header(&headers, l4.len()), checksum::data(&l4)]);
    l4[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    packet.extend(l4);
    packet
}

fn header(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, l4: usize) -> Vec<u8> {
    let len = (20 + l4) as u16;
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    p[2..4].copy_from_slice(&len.to_be_bytes());
    p.extend(from.octets());
    p.extend(to.octets());
    let sum = !checksum::data(&p);
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    p
}
