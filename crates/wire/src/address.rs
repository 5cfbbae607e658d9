//! Replaces an address of a packet, in its IP header or in the packet that an ICMP error quotes,
//! and updates all checksums that cover it (RFC 1624).
//!
//! Ports stay as they are, and so do fields that are missing in a truncated packet. It decides
//! nothing about a packet.

use super::checksum::{Checksum, Delta};
use super::icmp::{HEADER_LEN as ICMP_HEADER, Quote};
use super::packet::Packet;
use smoltcp::wire::{Icmpv4Packet, IpProtocol, Ipv4Packet, Ipv6Packet, checksum};
use std::net::IpAddr;

/// The IP protocol number of DCCP (RFC 4340 section 9.1).
const DCCP: IpProtocol = IpProtocol::Unknown(33);
/// The IP protocol number of UDP-Lite (RFC 3828 section 3.1).
const UDP_LITE: IpProtocol = IpProtocol::Unknown(136);
/// The length of the part of an L4 header that contains its checksum, in bytes.
const MAX_REWRITTEN_L4: usize = 20;

/// The end of a packet that is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

/// Replaces an address of a packet, and updates the checksums of the IP and the L4 header. `new` is
/// of the packet's family.
pub fn replace(packet: &mut Packet<'_>, end: End, new: IpAddr) {
    let delta = replace_in_header(packet, end, new);
    if packet.headers.has_l4() {
        let (protocol, checksum) = (packet.headers.protocol, packet.checksum);
        update_l4(protocol, packet.l4_mut(), delta, checksum);
    }
}

/// Replaces an address in the IP header only, as in a later fragment; returns the change of a
/// checksum that covers the address. `new` is of the packet's family.
#[inline]
pub fn replace_in_header(packet: &mut Packet<'_>, end: End, new: IpAddr) -> Delta {
    let old = match end {
        End::Source => packet.headers.src,
        End::Destination => packet.headers.dst,
    };
    let delta = Delta::default().address(old, new);
    write(packet.front_mut(), end, new, delta);
    match end {
        End::Source => packet.headers.src = new,
        End::Destination => packet.headers.dst = new,
    }
    delta
}

/// Replaces an address of the packet that an ICMP error quotes, the checksums of that packet, and
/// the checksum of the error. Does nothing if the error quotes no valid IP header; `new` is of the
/// quoted packet's family.
pub fn replace_quoted(error: &mut Packet<'_>, end: End, new: IpAddr) {
    let Some(quoted) = Quote::of(error).map(|quote| quote.headers) else {
        return;
    };
    let old = match end {
        End::Source => quoted.src,
        End::Destination => quoted.dst,
    };
    let delta = Delta::default().address(old, new);
    let icmp = error.l4_mut();
    let l4 = ICMP_HEADER + quoted.l4;
    let range = ICMP_HEADER..icmp.len().min(l4 + MAX_REWRITTEN_L4);
    let sum = |icmp: &[u8]| icmp.get(range.clone()).map_or(0, checksum::data);
    let before = sum(icmp);
    if let Some(header) = icmp.get_mut(ICMP_HEADER..l4) {
        write(header, end, new, delta);
    }
    if let Some(l4) = icmp.get_mut(l4..).filter(|_| quoted.has_l4()) {
        update_l4(quoted.protocol, l4, delta, Checksum::Complete);
    }
    let delta = Delta::default().word(before, sum(icmp));
    let mut error = Icmpv4Packet::new_unchecked(icmp);
    let field = error.checksum();
    error.set_checksum(delta.apply(field));
}

/// Writes an address into an IP header of its family; `delta` is the change from the old address.
#[inline]
pub fn write(header: &mut [u8], end: End, new: IpAddr, delta: Delta) {
    match new {
        IpAddr::V4(new) => {
            let mut ip = Ipv4Packet::new_unchecked(header);
            match end {
                End::Source => ip.set_src_addr(new),
                End::Destination => ip.set_dst_addr(new),
            }
            ip.set_checksum(delta.apply(ip.checksum()));
        }
        // IPv6 has no header checksum.
        IpAddr::V6(new) => {
            let mut ip = Ipv6Packet::new_unchecked(header);
            match end {
                End::Source => ip.set_src_addr(new),
                End::Destination => ip.set_dst_addr(new),
            }
        }
    }
}

/// Updates the checksum of an L4 header, if it covers the addresses. That of ICMPv4 does not.
fn update_l4(protocol: IpProtocol, l4: &mut [u8], delta: Delta, checksum: Checksum) {
    let offset = match protocol {
        IpProtocol::Tcp => 16,
        IpProtocol::Udp | UDP_LITE | DCCP => 6,
        IpProtocol::Icmpv6 => 2,
        _ => return,
    };
    let Some(field) = l4.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) else {
        return;
    };
    let old = u16::from_be_bytes(*field);
    let new = match (protocol, checksum) {
        (_, Checksum::Partial) => delta.apply_partial(old),
        (IpProtocol::Udp, Checksum::Complete) => delta.apply_udp(old),
        (_, Checksum::Complete) => delta.apply(old),
    };
    *field = new.to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::{Icmpv6Packet, TcpPacket, UdpPacket};
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The protocols of the property tests.
    const PROTOCOLS: [u8; 6] = [1, 6, 17, 33, 58, 136];

    /// Sums a pseudo-header and the L4 bytes from scratch: the oracle.
    fn slow_sum(src: IpAddr, dst: IpAddr, protocol: u8, l4: &[u8]) -> u16 {
        let mut all = match (src, dst) {
            (IpAddr::V4(a), IpAddr::V4(b)) => [a.octets(), b.octets()].concat(),
            (IpAddr::V6(a), IpAddr::V6(b)) => [a.octets(), b.octets()].concat(),
            _ => unreachable!("one family"),
        };
        all.extend((l4.len() as u32).to_be_bytes());
        all.extend([0, 0, 0, protocol]);
        all.extend(l4);
        !checksum::data(&all)
    }

    fn checksum_field(protocol: u8) -> usize {
        match protocol {
            6 => 16,
            1 | 58 => 2,
            _ => 6,
        }
    }

    fn covers_addresses(protocol: u8) -> bool {
        protocol != 1
    }

    /// An IP packet with valid checksums.
    fn packet(src: IpAddr, dst: IpAddr, protocol: u8, l4: &[u8]) -> Vec<u8> {
        let mut l4 = l4.to_vec();
        let at = checksum_field(protocol);
        l4[at..at + 2].fill(0);
        let sum = match covers_addresses(protocol) {
            true => slow_sum(src, dst, protocol, &l4),
            false => !checksum::data(&l4),
        };
        // RFC 768: 0 would mean that there is none.
        let sum = if sum == 0 { 0xFFFF } else { sum };
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut bytes = match (src, dst) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let len = (20 + l4.len()) as u16;
                let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
                ip[2..4].copy_from_slice(&len.to_be_bytes());
                ip.extend([a.octets(), b.octets()].concat());
                let sum = !checksum::data(&ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                ip
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let [high, low] = (l4.len() as u16).to_be_bytes();
                let mut ip = vec![0x60, 0, 0, 0, high, low, protocol, 64];
                ip.extend([a.octets(), b.octets()].concat());
                ip
            }
            _ => unreachable!("one family"),
        };
        bytes.extend(l4);
        bytes
    }

    /// Compares packets; the two zeros of ones' complement are the same.
    fn same_checksum(a: &[u8], b: &[u8]) -> bool {
        let number = |field: &[u8]| u16::from_be_bytes([field[0], field[1]]) % 0xFFFF;
        number(a) == number(b)
    }

    fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr, IpAddr)> {
        let v4 = any::<[u32; 3]>().prop_map(|a| a.map(|a| IpAddr::V4(Ipv4Addr::from(a))));
        let v6 = any::<[u128; 3]>().prop_map(|a| a.map(|a| IpAddr::V6(Ipv6Addr::from(a))));
        prop_oneof![v4, v6].prop_map(|[a, b, c]| (a, b, c))
    }

    fn end() -> impl Strategy<Value = End> {
        prop_oneof![Just(End::Source), Just(End::Destination)]
    }

    /// Whether the packet has the protocol's ICMP of the other family, which never occurs.
    fn is_foreign_icmp(address: IpAddr, protocol: u8) -> bool {
        matches!(
            (address, protocol),
            (IpAddr::V4(_), 58) | (IpAddr::V6(_), 1)
        )
    }

    proptest! {
        #[test]
        fn a_replaced_address_has_the_checksums_of_a_new_packet(
            (src, dst, new) in addresses(), end in end(),
            protocol in prop::sample::select(&PROTOCOLS[..]),
            l4 in prop::collection::vec(1u8.., 20..60),
        ) {
            prop_assume!(!is_foreign_icmp(src, protocol));
            let original = packet(src, dst, protocol, &l4);
            let mut bytes = original.clone();
            let mut parsed = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
            let start = parsed.headers.l4;
            replace(&mut parsed, end, new);
            let (from, to) = (parsed.headers.src, parsed.headers.dst);
            let (old, expected) = match end {
                End::Source => (src, (new, dst)),
                End::Destination => (dst, (src, new)),
            };
            prop_assert_eq!((from, to), expected);
            let mut fresh = packet(from, to, protocol, &l4);
            let at = start + checksum_field(protocol);
            prop_assert!(same_checksum(&bytes[at..], &fresh[at..]));
            if src.is_ipv4() {
                prop_assert!(same_checksum(&bytes[10..], &fresh[10..]));
                fresh[10..12].copy_from_slice(&bytes[10..12]);
            }
            fresh[at..at + 2].copy_from_slice(&bytes[at..at + 2]);
            prop_assert_eq!(&bytes, &fresh, "nothing else changes");

            let mut parsed = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
            replace(&mut parsed, end, old);
            prop_assert!(same_checksum(&bytes[at..], &original[at..]));
            bytes[at..at + 2].copy_from_slice(&original[at..at + 2]);
            if src.is_ipv4() {
                prop_assert!(same_checksum(&bytes[10..], &original[10..]));
                bytes[10..12].copy_from_slice(&original[10..12]);
            }
            prop_assert_eq!(bytes, original, "there and back");
        }

        #[test]
        fn a_quoted_address_is_replaced_with_all_checksums(
            (src, dst, new) in addresses(), end in end(),
            protocol in prop::sample::select(&PROTOCOLS[..]),
            l4 in prop::collection::vec(1u8.., 20..60), cut in 8usize..60,
        ) {
            prop_assume!(!is_foreign_icmp(src, protocol));
            let error = |cause: &[u8]| {
                let header = if src.is_ipv4() { 20 } else { 40 };
                let quote = &cause[..cause.len().min(header + cut)];
                let (icmp, kind) = if src.is_ipv4() { (1, 3) } else { (58, 1) };
                // From the receiver of the cause to its sender.
                packet(dst, src, icmp, &[&[kind, 1, 0, 0, 0, 0, 0, 0], quote].concat())
            };
            let mut bytes = error(&packet(src, dst, protocol, &l4));
            let mut parsed = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
            replace_quoted(&mut parsed, end, new);
            let quoted = Quote::of(&parsed).unwrap();
            let expected = match end {
                End::Source => (new, dst),
                End::Destination => (src, new),
            };
            prop_assert_eq!((quoted.headers.src, quoted.headers.dst), expected);
            let at = parsed.headers.l4 + 8 + quoted.headers.l4 + checksum_field(protocol);
            let ip_sum = parsed.headers.l4 + 8 + 10;
            let mut fresh = error(&packet(expected.0, expected.1, protocol, &l4));
            // The quoted checksums agree, and so the error's own is that of the bytes that it has.
            let sums = if src.is_ipv4() { vec![at, ip_sum] } else { vec![at] };
            let len = fresh.len();
            for sum in sums.into_iter().filter(|sum| *sum < len) {
                // Half a checksum stays as it is.
                let end = len.min(sum + 2);
                prop_assert!(end < sum + 2 || same_checksum(&bytes[sum..], &fresh[sum..]));
                fresh[sum..end].copy_from_slice(&bytes[sum..end]);
            }
            let icmp = parsed_l4(&bytes);
            let sum = match src.is_ipv4() {
                true => checksum::data(icmp),
                false => !slow_sum(dst, src, 58, icmp),
            };
            prop_assert_eq!(sum, 0xFFFF, "the error's checksum is valid");
            let own = bytes.len() - icmp.len() + 2;
            fresh[own..own + 2].copy_from_slice(&bytes[own..own + 2]);
            prop_assert_eq!(bytes, fresh);
        }

        #[test]
        fn no_packet_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..80),
                            version in prop_oneof![Just(0x45u8), Just(0x60)], end in end()) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let new = match version {
                0x45 => IpAddr::from([10, 0, 0, 1]),
                _ => IpAddr::from([1; 16]),
            };
            if let Ok(mut packet) = Packet::parse(&mut bytes, Checksum::Complete) {
                replace(&mut packet, end, new);
                replace_quoted(&mut packet, end, new);
            }
        }
    }

    fn parsed_l4(bytes: &[u8]) -> &[u8] {
        match bytes[0] >> 4 {
            4 => &bytes[20..],
            _ => &bytes[40..],
        }
    }

    #[test]
    fn a_udp_datagram_without_a_checksum_stays_without() {
        let (src, dst) = (IpAddr::from([10, 8, 0, 2]), IpAddr::from([10, 77, 1, 10]));
        let mut bytes = packet(src, dst, 17, &[1; 20]);
        bytes[26..28].fill(0);
        let mut parsed = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        replace(&mut parsed, End::Destination, [192, 168, 1, 10].into());
        assert_eq!(UdpPacket::new_unchecked(parsed.l4()).checksum(), 0);
    }

    #[test]
    fn a_partial_checksum_is_the_sum_of_the_new_pseudo_header() {
        let (src, dst) = (IpAddr::from([10, 8, 0, 2]), IpAddr::from([10, 77, 1, 10]));
        let mut bytes = packet(src, dst, 6, &[1; 20]);
        let pseudo = |bytes: &[u8]| {
            let headers = super::super::ip::Headers::parse(bytes).unwrap();
            headers.pseudo_header(20)
        };
        let partial = pseudo(&bytes);
        bytes[36..38].copy_from_slice(&partial.to_be_bytes());
        let mut parsed = Packet::parse(&mut bytes, Checksum::Partial).unwrap();
        replace(&mut parsed, End::Destination, [192, 168, 1, 10].into());
        let got = TcpPacket::new_unchecked(parsed.l4()).checksum();
        assert_eq!(got, pseudo(&bytes));
    }

    #[test]
    fn icmp_of_both_versions_keeps_a_valid_checksum() {
        let (src, dst) = (IpAddr::from([10, 8, 0, 2]), IpAddr::from([10, 77, 1, 10]));
        let echo = [8, 0, 0, 0, 0x12, 0x34, 0, 1, 1, 2, 3, 4];
        let mut bytes = packet(src, dst, 1, &echo);
        let mut parsed = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        replace(&mut parsed, End::Destination, [192, 168, 1, 10].into());
        assert!(
            Icmpv4Packet::new_checked(parsed.l4())
                .unwrap()
                .verify_checksum()
        );
        let (src, dst, new) = ([1; 16].into(), [2; 16].into(), Ipv6Addr::from([3; 16]));
        let mut bytes = packet(src, dst, 58, &[128, 0, 0, 0, 0x12, 0x34, 0, 1]);
        let mut parsed = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        replace(&mut parsed, End::Destination, new.into());
        let echo = Icmpv6Packet::new_checked(parsed.l4()).unwrap();
        assert!(echo.verify_checksum(&Ipv6Addr::from([1; 16]), &new));
    }
}
