//! Builds packets from a fuzz input, and checks that a packet is well-formed.

use super::input::Input;
use smoltcp::wire::checksum;
use std::net::IpAddr;
use vcgate_wire::ip::Headers;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Builds a packet with correct checksums between two addresses of one family. The input chooses
/// protocol, ports and length, and changes a few bytes.
pub(super) fn packet(input: &mut Input<'_>, src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let is_v4 = src.is_ipv4();
    let protocol = match input.u8() % 8 {
        0 | 1 => TCP,
        2..=4 => UDP,
        5 | 6 if is_v4 => ICMP,
        5 | 6 => ICMPV6,
        _ => input.u8(),
    };
    let ports = [
        4000 + u16::from(input.u8() % 4),
        445 + u16::from(input.u8() % 4),
    ];
    let len = usize::from(input.u16() % 1500);
    let mut l4: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
    l4.extend([0; 16]);
    match protocol {
        TCP => l4[12..14].copy_from_slice(&[0x50, input.u8()]),
        UDP => {
            l4.truncate(8);
            l4[4..6].copy_from_slice(&((8 + len) as u16).to_be_bytes());
        }
        _ => l4[..2].copy_from_slice(&[input.u8(), input.u8() % 8]),
    }
    l4.extend(std::iter::repeat_n(7, len));
    let mut packet = header(protocol, src, dst);
    packet.extend(l4);
    write_length(&mut packet);
    for _ in 0..input.u8() % 4 {
        let at = usize::from(input.u16()) % packet.len();
        packet[at] = input.u8();
    }
    fix_checksums(&mut packet);
    packet
}

/// Builds an IP header without options or extensions; the length is not set.
fn header(protocol: u8, src: IpAddr, dst: IpAddr) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let head = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
            [&head[..], &src.octets(), &dst.octets()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let head = [0x60, 0, 0, 0, 0, 0, protocol, 64];
            [&head[..], &src.octets(), &dst.octets()].concat()
        }
        _ => unreachable!("the callers choose one family"),
    }
}

fn write_length(packet: &mut [u8]) {
    let len = packet.len() as u16;
    match packet[0] >> 4 {
        4 => packet[2..4].copy_from_slice(&len.to_be_bytes()),
        _ => packet[4..6].copy_from_slice(&(len - 40).to_be_bytes()),
    }
}

/// Writes all checksums that the receiver of this packet can verify.
pub(super) fn fix_checksums(packet: &mut [u8]) {
    if let Some(header) = packet.first().map(|first| usize::from(first & 15) * 4)
        && packet[0] >> 4 == 4
        && (20..=packet.len()).contains(&header)
    {
        packet[10..12].fill(0);
        let sum = !checksum::data(&packet[..header]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let Ok(headers) = Headers::parse(packet) else {
        return;
    };
    let Some((at, pseudo)) = checksum_of(&headers) else {
        return;
    };
    let l4 = &mut packet[headers.l4..headers.len];
    if l4.len() < at + 2 {
        return;
    }
    l4[at..at + 2].fill(0);
    let sum = match !checksum::combine(&[pseudo, checksum::data(l4)]) {
        0 if at == 6 => u16::MAX,
        sum => sum,
    };
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Returns the offset of the L4 checksum and the sum of the pseudo-header, or `None` for fragments.
fn checksum_of(headers: &Headers) -> Option<(usize, u16)> {
    let pseudo = headers.pseudo_header(headers.l4_len());
    if headers
        .fragment
        .is_some_and(|fragment| fragment.has_others())
    {
        return None;
    }
    match (u8::from(headers.protocol), headers.src) {
        (TCP, _) => Some((16, pseudo)),
        (UDP, _) => Some((6, pseudo)),
        (ICMP, IpAddr::V4(_)) => Some((2, 0)),
        (ICMPV6, IpAddr::V6(_)) => Some((2, pseudo)),
        _ => None,
    }
}

/// Panics unless a packet is complete and its checksums are correct.
pub(super) fn assert_well_formed(packet: &[u8]) -> Headers {
    let headers = Headers::parse(packet).expect("a sent packet has a valid IP header");
    assert_eq!(
        headers.len,
        packet.len(),
        "bytes after the end of the packet"
    );
    if headers.src.is_ipv4() {
        let header = usize::from(packet[0] & 15) * 4;
        assert_eq!(checksum::data(&packet[..header]), u16::MAX, "IP checksum");
    }
    if let Some((at, pseudo)) = checksum_of(&headers) {
        let l4 = &packet[headers.l4..];
        let is_none = at == 6 && headers.src.is_ipv4() && l4.get(6..8) == Some(&[0, 0]);
        if l4.len() >= at + 2 && !is_none {
            let sum = checksum::combine(&[pseudo, checksum::data(l4)]);
            assert_eq!(sum, u16::MAX, "L4 checksum");
        }
    }
    headers
}
