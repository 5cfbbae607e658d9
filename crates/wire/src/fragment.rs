//! Fragmentation, reassembly and the checks of a fragment (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! It keeps no fragments: the caller collects them and knows which datagram they belong to.

use crate::checksum::Checksum;
use crate::ip::{Fragment, Headers, IPV4_HEADER_LEN, IPV6_HEADER_LEN};
use crate::packet::Packet;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TCP_HEADER_LEN, TcpPacket, UdpPacket};
use std::net::IpAddr;
use std::ops::Range;

/// The length of IPv6's Fragment header, in bytes.
const FRAGMENT_HEADER_LEN: usize = 8;
/// All fragments but the last carry a multiple of this number of bytes.
const FRAGMENT_UNIT: usize = 8;

/// Returns the range of the datagram's payload that a fragment carries, in bytes, or `None` if no
/// datagram can have such a fragment.
///
/// A fragment that starts inside a TCP header is refused too: it could change the flags (RFC 3128).
/// A first fragment that is too short for an L4 header (RFC 1858) is left to the reader of that
/// header.
pub fn payload_range(headers: &Headers, fragment: Fragment) -> Option<Range<usize>> {
    let start = usize::from(fragment.offset);
    let len = headers.len.checked_sub(fragment.payload_start)?;
    let inside_tcp_header =
        headers.protocol == IpProtocol::Tcp && (1..TCP_HEADER_LEN).contains(&start);
    let uneven = fragment.more && !len.is_multiple_of(FRAGMENT_UNIT);
    // The length field of IPv4 counts the header, that of IPv6 only what follows it. The Fragment
    // header is not part of the datagram (RFC 8200 section 4.5).
    let counted_headers = match headers.src {
        IpAddr::V4(_) => fragment.payload_start,
        IpAddr::V6(_) => fragment
            .payload_start
            .saturating_sub(IPV6_HEADER_LEN + FRAGMENT_HEADER_LEN),
    };
    let too_long = counted_headers + start + len > usize::from(u16::MAX);
    if len == 0 || inside_tcp_header || uneven || too_long {
        return None;
    }
    Some(start..start + len)
}

/// Splits an IPv4 packet, or a fragment of one, into fragments of at most `mtu` bytes.
///
/// The caller has checked that DF is not set. A fragment carries at least 8 bytes, whatever the MTU.
pub fn fragment(packet: &Packet<'_>, mtu: u16) -> Vec<Vec<u8>> {
    let mut datagram = packet.to_vec();
    if packet.checksum == Checksum::Partial {
        complete_checksum(&mut datagram, &packet.headers);
    }
    let (header, payload) = datagram.split_at(packet.headers.l4.min(datagram.len()));
    let later_header = header_of_later_fragments(header);
    let (base, more) = packet
        .headers
        .fragment
        .map_or((0, false), |f| (f.offset, f.more));
    let available = usize::from(mtu).saturating_sub(header.len());
    let step = (available & !(FRAGMENT_UNIT - 1)).max(FRAGMENT_UNIT);
    let mut fragments = Vec::with_capacity(payload.len() / step + 1);
    let mut offset = 0;
    for part in payload.chunks(step) {
        let header = match base == 0 && offset == 0 {
            true => header,
            false => &later_header,
        };
        let mut fragment = [header, part].concat();
        let len = fragment.len() as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut fragment[..]);
        ip.set_header_len(header.len() as u8);
        ip.set_total_len(len);
        ip.set_frag_offset(base + offset as u16);
        offset += part.len();
        ip.set_more_frags(more || offset < payload.len());
        ip.fill_checksum();
        fragments.push(fragment);
    }
    fragments
}

/// Reassembles a datagram from all its fragments, in any order.
///
/// The result may be fragmented again. In IPv6 it keeps its Fragment header and is the only fragment
/// of its datagram (RFC 6946). Returns `None` if a packet cannot be that long, or if one of the
/// packets is not a fragment.
pub fn reassemble(fragments: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut parts = Vec::with_capacity(fragments.len());
    for bytes in fragments {
        let headers = Headers::parse(bytes).ok()?;
        parts.push((headers.fragment?, headers.len, bytes));
    }
    parts.sort_by_key(|(fragment, ..)| fragment.offset);
    let (first, _, bytes) = parts.first()?;
    let mut datagram = bytes.get(..first.payload_start)?.to_vec();
    for (fragment, len, bytes) in &parts {
        datagram.extend_from_slice(bytes.get(fragment.payload_start..*len)?);
    }
    let len = datagram.len();
    if bytes.first()? >> 4 == 4 {
        let mut ip = Ipv4Packet::new_unchecked(&mut datagram[..]);
        ip.set_total_len(len.try_into().ok()?);
        ip.clear_flags();
        ip.fill_checksum();
    } else {
        let payload_len = (len - IPV6_HEADER_LEN).try_into().ok()?;
        Ipv6Packet::new_unchecked(&mut datagram[..]).set_payload_len(payload_len);
        // The offset and the M flag are bytes 2 and 3 of the Fragment header.
        let fragment_header = first.payload_start - FRAGMENT_HEADER_LEN;
        datagram
            .get_mut(fragment_header + 2..fragment_header + 4)?
            .fill(0);
    }
    Some(datagram)
}

/// Returns an IPv4 header with only those options that every fragment carries (RFC 791 section
/// 3.1: the copied flag).
fn header_of_later_fragments(header: &[u8]) -> Vec<u8> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const COPIED: u8 = 0x80;
    let (fixed, mut rest) = header.split_at(IPV4_HEADER_LEN.min(header.len()));
    let mut later = fixed.to_vec();
    loop {
        rest = match rest {
            [] | [END, ..] => break,
            [NOP, tail @ ..] => tail,
            [kind, len, ..] if (2..=rest.len()).contains(&usize::from(*len)) => {
                let (option, tail) = rest.split_at(usize::from(*len));
                if kind & COPIED != 0 {
                    later.extend_from_slice(option);
                }
                tail
            }
            _ => break,
        };
    }
    later.resize(later.len().next_multiple_of(4), END);
    later
}

/// Completes the L4 checksum of a packet whose checksum field holds the pseudo-header sum.
fn complete_checksum(packet: &mut [u8], headers: &Headers) {
    let (src, dst) = (headers.src.into(), headers.dst.into());
    let Some(l4) = packet.get_mut(headers.l4..) else {
        return;
    };
    match headers.protocol {
        IpProtocol::Tcp if l4.len() >= TCP_HEADER_LEN => {
            TcpPacket::new_unchecked(l4).fill_checksum(&src, &dst);
        }
        IpProtocol::Udp => {
            if let Ok(mut udp) = UdpPacket::new_checked(l4) {
                udp.fill_checksum(&src, &dst);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a UDP packet with these IP options and a payload of this length.
    fn datagram(options: &[u8], payload: usize) -> Vec<u8> {
        let header_len = IPV4_HEADER_LEN + options.len();
        let mut bytes = [&[0; IPV4_HEADER_LEN], options, &vec![5; 8 + payload]].concat();
        let len = bytes.len() as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
        ip.set_version(4);
        ip.set_header_len(header_len as u8);
        ip.set_total_len(len);
        ip.set_next_header(IpProtocol::Udp);
        ip.fill_checksum();
        bytes
    }

    fn fragments(bytes: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        fragment(&packet, mtu)
    }

    #[test]
    fn fragments_in_any_order_are_reassembled() {
        let original = datagram(&[], 3000);
        let mut fragments = fragments(&original, 576);
        assert_eq!(fragments.len(), 6);
        assert!(fragments.iter().all(|f| f.len() <= 576));
        fragments.reverse();
        assert_eq!(reassemble(&fragments), Some(original));
    }

    #[test]
    fn fragments_longer_than_a_packet_are_not_reassembled() {
        let mut fragments = fragments(&datagram(&[], 65_507), 1420);
        let whole = reassemble(&fragments);
        assert_eq!(whole.map(|whole| whole.len()), Some(65_535));
        let last = fragments.last_mut().unwrap();
        last.extend([0; 8]);
        let len = last.len() as u16;
        Ipv4Packet::new_unchecked(&mut last[..]).set_total_len(len);
        assert_eq!(reassemble(&fragments), None);
    }

    #[test]
    fn only_fragments_are_reassembled() {
        assert_eq!(reassemble(&[]), None);
        assert_eq!(reassemble(&[datagram(&[], 1)]), None);
    }

    #[test]
    fn rfc791_only_copied_options_are_in_every_fragment() {
        // Record route is not copied, router alert is (RFC 2113).
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0];
        let parts = fragments(&datagram(&options, 1000), 576);
        assert_eq!(parts[0][20..32], options);
        for later in &parts[1..] {
            assert_eq!((later[0], &later[20..24]), (0x46, &options[8..]));
        }
        let again = fragments(&parts[1], 300);
        assert_eq!(again[0][20..24], options[8..]);
    }

    #[test]
    fn a_fragment_beyond_the_maximum_length_or_of_a_wrong_size_has_no_range() {
        let parts = fragments(&datagram(&[], 1000), 576);
        let headers = Headers::parse(&parts[0]).unwrap();
        let fragment = headers.fragment.unwrap();
        assert_eq!(payload_range(&headers, fragment), Some(0..552));
        let beyond = Fragment {
            offset: 65_528,
            ..fragment
        };
        assert_eq!(payload_range(&headers, beyond), None);
        let uneven = Headers {
            len: headers.len - 1,
            ..headers
        };
        assert_eq!(payload_range(&uneven, fragment), None);
        let inside_tcp_header = (
            Headers {
                protocol: IpProtocol::Tcp,
                ..headers
            },
            Fragment {
                offset: 8,
                ..fragment
            },
        );
        assert_eq!(
            payload_range(&inside_tcp_header.0, inside_tcp_header.1),
            None
        );
    }
}
