//! Builds packets of the family of their addresses, with correct checksums.

use smoltcp::wire::checksum;
use std::net::IpAddr;
use std::ops::Range;
use vcgate_core::tunnel::Ecn;
use vcgate_wire::ip::Headers;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const SYN_ACK: u8 = 0x12;
pub(crate) const ACK: u8 = 0x10;

/// Makes a UDP datagram.
pub(crate) fn udp(
    from: (impl Into<IpAddr>, u16),
    to: (impl Into<IpAddr>, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    l4.extend((8 + payload.len() as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    packet(17, from.0.into(), to.0.into(), 6, l4)
}

/// Makes a TCP segment without data.
pub(crate) fn tcp(
    from: (impl Into<IpAddr>, u16),
    to: (impl Into<IpAddr>, u16),
    numbers: (u8, u32, u32),
) -> Vec<u8> {
    tcp_data(from, to, numbers, b"")
}

/// Makes a TCP segment with flags, sequence and acknowledgement number.
pub(crate) fn tcp_data(
    from: (impl Into<IpAddr>, u16),
    to: (impl Into<IpAddr>, u16),
    (flags, seq, ack): (u8, u32, u32),
    data: &[u8],
) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags, 0x40, 0, 0, 0, 0, 0]);
    l4.extend(data);
    packet(6, from.0.into(), to.0.into(), 16, l4)
}

/// Makes an ICMP message with a type and code.
pub(crate) fn icmp(from: IpAddr, to: IpAddr, kind: [u8; 2], rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let l4 = [&kind[..], &[0, 0], &rest, body].concat();
    match from {
        IpAddr::V4(_) => packet(1, from, to, 2, l4),
        IpAddr::V6(_) => packet(58, from, to, 2, l4),
    }
}

/// Makes an echo request.
pub(crate) fn ping(
    from: impl Into<IpAddr>,
    to: impl Into<IpAddr>,
    id: u16,
    payload: &[u8],
) -> Vec<u8> {
    let (from, to) = (from.into(), to.into());
    let kind = if from.is_ipv4() { 8 } else { 128 };
    let [a, b] = id.to_be_bytes();
    icmp(from, to, [kind, 0], [a, b, 0, 1], payload)
}

/// Makes a packet of any protocol.
pub(crate) fn of_protocol(protocol: u8, from: IpAddr, to: IpAddr, body: &[u8]) -> Vec<u8> {
    let mut packet = [&header(protocol, from, to), body].concat();
    complete_header(&mut packet);
    packet
}

/// Changes the ECN mark.
pub(crate) fn with_ecn(mut packet: Vec<u8>, mark: Ecn) -> Vec<u8> {
    match packet[0] >> 4 {
        4 => packet[1] = packet[1] & !0b11 | mark as u8,
        _ => packet[1] = packet[1] & !0x30 | (mark as u8) << 4,
    }
    complete_header(&mut packet);
    packet
}

/// Makes a port unreachable error that quotes a packet.
pub(crate) fn unreachable(
    from: impl Into<IpAddr>,
    to: impl Into<IpAddr>,
    packet: &[u8],
) -> Vec<u8> {
    let (from, to) = (from.into(), to.into());
    let kind = if from.is_ipv4() { [3, 3] } else { [1, 4] };
    let quoted = header_len(packet) + 8;
    icmp(from, to, kind, [0; 4], &packet[..quoted])
}

/// Changes the TTL or hop limit.
pub(crate) fn with_ttl(mut packet: Vec<u8>, ttl: u8) -> Vec<u8> {
    match packet[0] >> 4 {
        4 => packet[8] = ttl,
        _ => packet[7] = ttl,
    }
    complete_header(&mut packet);
    packet
}

/// Sets the urgent pointer of a TCP segment.
pub(crate) fn with_urgent(mut packet: Vec<u8>, pointer: u16) -> Vec<u8> {
    let at = header_len(&packet);
    let sum = u16::from_be_bytes([packet[at + 16], packet[at + 17]]);
    let sum = !checksum::combine(&[!sum, pointer]);
    packet[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
    packet[at + 18..at + 20].copy_from_slice(&pointer.to_be_bytes());
    packet
}

/// Makes a datagram in two fragments.
pub(crate) fn fragments<A: Into<IpAddr>, B: Into<IpAddr>>(
    from: (A, u16),
    to: (B, u16),
    id: u16,
) -> [Vec<u8>; 2] {
    fragment_in_two(&udp(from, to, &[7; 40]), 24, id)
}

/// Splits a packet into two fragments, the first with `len` bytes after the IP header.
pub(crate) fn fragment_in_two(whole: &[u8], len: usize, id: u16) -> [Vec<u8>; 2] {
    let fragment = |range: Range<usize>, more: u16| {
        let part = &whole[header_len(whole)..][range.clone()];
        let mut fragment = whole[..header_len(whole)].to_vec();
        let offset = range.start as u16;
        match fragment[0] >> 4 {
            4 => {
                fragment[4..6].copy_from_slice(&id.to_be_bytes());
                fragment[6..8].copy_from_slice(&((offset / 8) | (more << 13)).to_be_bytes());
            }
            _ => {
                let header = [fragment[6], 0];
                fragment[6] = 44;
                fragment.extend(header);
                fragment.extend((offset | more).to_be_bytes());
                fragment.extend(u32::from(id).to_be_bytes());
            }
        }
        fragment.extend(part);
        complete_header(&mut fragment);
        fragment
    };
    let end = whole.len() - header_len(whole);
    [fragment(0..len, 1), fragment(len..end, 0)]
}

/// Returns the ports and the payload of a UDP packet.
pub(crate) fn udp_parts(packet: &[u8]) -> Option<(u16, u16, &[u8])> {
    let headers = Headers::parse(packet).ok()?;
    let l4 = packet.get(headers.l4..headers.len)?;
    let port = |at: usize| Some(u16::from_be_bytes([*l4.get(at)?, *l4.get(at + 1)?]));
    (u8::from(headers.protocol) == 17).then_some(())?;
    Some((port(0)?, port(2)?, l4.get(8..)?))
}

fn packet(protocol: u8, from: IpAddr, to: IpAddr, field: usize, mut l4: Vec<u8>) -> Vec<u8> {
    let mut packet = header(protocol, from, to);
    let at = packet.len();
    packet.extend(&l4);
    complete_header(&mut packet);
    let headers = Headers::parse(&packet).expect("just made");
    // ICMP has no pseudo-header.
    let pseudo = match protocol {
        1 => 0,
        _ => headers.pseudo_header(l4.len()),
    };
    let sum = !checksum::combine(&[pseudo, checksum::data(&l4)]);
    l4[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    packet.truncate(at);
    packet.extend(l4);
    packet
}

fn header(protocol: u8, from: IpAddr, to: IpAddr) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let head = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            [&head[..], &from.octets(), &to.octets()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let head = [0x60, 0, 0, 0, 0, 0, protocol, 64];
            [&head[..], &from.octets(), &to.octets()].concat()
        }
        other => panic!("two families: {other:?}"),
    }
}

/// Writes the length and IPv4's header checksum.
fn complete_header(packet: &mut [u8]) {
    let len = packet.len() as u16;
    match packet[0] >> 4 {
        4 => {
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            packet[10..12].fill(0);
            let sum = !checksum::data(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        _ => packet[4..6].copy_from_slice(&(len - 40).to_be_bytes()),
    }
}

fn header_len(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        4 => 20,
        _ => 40,
    }
}
