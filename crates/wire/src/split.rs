//! Splits a super-packet into segments in place, as the kernel's GSO does.
//!
//! Each segment's header overwrites the end of the payload before it, which has already been
//! encrypted and sent, so no payload is copied.

use super::ip::Headers;
use super::tcp::flag::{CWR, FIN, PSH};
use super::virtio_net::{Gso, Header};
use smoltcp::wire::{IpProtocol, checksum};
use std::ops::Range;

/// Maximum length of the IP header with options or extensions and the TCP header, in bytes.
const MAX_HEADERS: usize = 256;

/// A super-packet that is being split.
#[derive(Debug)]
pub struct Split {
    template: [u8; MAX_HEADERS],
    headers: Headers,
    header_len: usize,
    size: usize,
    end: usize,
    next: usize,
    index: u16,
}

impl Split {
    /// Prepares to split `packet` as its virtio header describes; returns `None` if that is not possible.
    pub fn new(header: &Header, headers: &Headers, packet: &[u8]) -> Option<Self> {
        let l4 = packet.get(headers.l4..headers.len)?;
        let l4_header = match (header.gso, headers.protocol) {
            (Gso::TcpV4 | Gso::TcpV6, IpProtocol::Tcp) => usize::from(l4.get(12)? >> 4)
                .checked_mul(4)
                .filter(|&n| n >= 20)?,
            (Gso::UdpL4, IpProtocol::Udp) => 8,
            _ => return None,
        };
        let header_len = headers.l4 + l4_header;
        let size = usize::from(header.gso_size);
        if size == 0 || l4_header > l4.len() || header_len > MAX_HEADERS {
            return None;
        }
        let mut template = [0; MAX_HEADERS];
        template[..header_len].copy_from_slice(&packet[..header_len]);
        Some(Self {
            template,
            headers: *headers,
            header_len,
            size,
            end: headers.len,
            next: header_len,
            index: 0,
        })
    }

    /// Writes the next segment's headers before its payload and returns the segment's position.
    /// The bytes before it in `buffer` are overwritten.
    pub fn next(&mut self, buffer: &mut [u8]) -> Option<Range<usize>> {
        let end = (self.next + self.size).min(self.end);
        if self.next >= end || end > buffer.len() {
            return None;
        }
        let start = self.next - self.header_len;
        let segment = &mut buffer[start..end];
        segment[..self.header_len].copy_from_slice(&self.template[..self.header_len]);
        let headers = Headers {
            len: segment.len(),
            ..self.headers
        };
        self.write_ip(segment, &headers);
        self.write_l4(segment, &headers, end == self.end);
        self.next = end;
        self.index = self.index.wrapping_add(1);
        Some(start..end)
    }

    fn write_ip(&self, segment: &mut [u8], headers: &Headers) {
        if headers.src.is_ipv4() {
            let id = u16::from_be_bytes([segment[4], segment[5]]).wrapping_add(self.index);
            segment[4..6].copy_from_slice(&id.to_be_bytes());
            segment[2..4].copy_from_slice(&(headers.len as u16).to_be_bytes());
            segment[10..12].fill(0);
            let sum = !checksum::data(&segment[..headers.l4]);
            segment[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            headers.write_len(segment);
        }
    }

    fn write_l4(&self, segment: &mut [u8], headers: &Headers, last: bool) {
        let l4 = &mut segment[headers.l4..];
        let field = if headers.protocol == IpProtocol::Tcp {
            let seq = u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]);
            let seq = seq.wrapping_add(u32::from(self.index) * self.size as u32);
            l4[4..8].copy_from_slice(&seq.to_be_bytes());
            if !last {
                l4[13] &= !(FIN | PSH);
            }
            if self.index > 0 {
                l4[13] &= !CWR;
            }
            16
        } else {
            let length = l4.len() as u16;
            l4[4..6].copy_from_slice(&length.to_be_bytes());
            6
        };
        write_checksum(headers, l4, field);
    }
}

/// Completes the checksum of a single packet with a partial one (`NEEDS_CSUM`); returns false if
/// the offsets in `header` do not match the packet.
pub fn complete(header: &Header, headers: &Headers, packet: &mut [u8]) -> bool {
    let start = usize::from(header.csum_start);
    let field = usize::from(header.csum_offset);
    let Some(l4) = packet.get_mut(start..headers.len) else {
        return false;
    };
    if start != headers.l4 || field + 2 > l4.len() {
        return false;
    }
    let udp = headers.protocol == IpProtocol::Udp;
    // The field already holds the sum of the pseudo-header.
    let sum = !checksum::data(l4);
    let sum = if udp && sum == 0 { 0xFFFF } else { sum };
    l4[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

fn write_checksum(headers: &Headers, l4: &mut [u8], field: usize) {
    l4[field..field + 2].fill(0);
    let sum = !checksum::combine(&[headers.pseudo_header(l4.len()), checksum::data(l4)]);
    // RFC 768: a computed 0 is written as 0xFFFF.
    let sum = if sum == 0 && headers.protocol == IpProtocol::Udp {
        0xFFFF
    } else {
        sum
    };
    l4[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Checksum;
    use super::super::coalesce::{MergeResult, Run, Segment};
    use super::*;
    use proptest::prelude::*;

    const HEADERS: usize = 40;

    /// A TCP/IPv4 segment with correct checksums.
    fn segment(id: u16, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = (HEADERS + payload.len()) as u16;
        let mut p = vec![
            0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 8, 0, 11, 192, 168, 77, 10,
        ];
        p[2..4].copy_from_slice(&len.to_be_bytes());
        p[4..6].copy_from_slice(&id.to_be_bytes());
        let sum = !checksum::data(&p);
        p[10..12].copy_from_slice(&sum.to_be_bytes());
        p.extend([0xC0, 0, 0x01, 0xBD]);
        p.extend(seq.to_be_bytes());
        p.extend([0, 0, 0, 9, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
        p.extend(payload);
        let headers = Headers::parse(&p).unwrap();
        write_checksum(&headers, &mut p[20..], 16);
        p
    }

    /// Merges packets into one run and splits the result; returns the number of packets merged.
    fn round_trip(packets: &[Vec<u8>]) -> (usize, Vec<Vec<u8>>) {
        let mut arena = Vec::new();
        let mut run: Option<Run> = None;
        let mut merged = 0;
        for p in packets {
            let range = arena.len()..arena.len() + p.len();
            arena.extend(p);
            let headers = Headers::parse(p).unwrap();
            let Some(segment) = Segment::classify(&headers, p) else {
                break;
            };
            match &mut run {
                None => run = Some(Run::new(segment, range)),
                Some(run) => {
                    if run.try_merge(&segment, range, &arena) != MergeResult::Merged {
                        break;
                    }
                }
            }
            merged += 1;
        }
        let Some(run) = run else { return (0, vec![]) };
        let (headers, checksum, header, pieces) = run.finish(&mut arena);
        let mut flat: Vec<u8> = pieces
            .iter()
            .flat_map(|r| arena[r.clone()].to_vec())
            .collect();
        assert_eq!(flat.len(), headers.len);
        if merged == 1 {
            assert_eq!((checksum, header.gso), (Checksum::Complete, Gso::None));
            return (1, vec![flat]);
        }
        assert_eq!(Headers::parse(&flat).unwrap(), headers);
        let mut split = Split::new(&header, &headers, &flat).unwrap();
        let mut out = Vec::new();
        while let Some(range) = split.next(&mut flat) {
            out.push(flat[range].to_vec());
        }
        (merged, out)
    }

    proptest! {
        #[test]
        fn splitting_undoes_coalescing(payload in prop::collection::vec(any::<u8>(), 1..4000),
                                       size in 1usize..700, seq in any::<u32>(), id in any::<u16>()) {
            let chunks: Vec<_> = payload.chunks(size).collect();
            let last = chunks.len() - 1;
            let packets: Vec<_> = chunks.iter().enumerate().map(|(i, c)| {
                let flags = if i == last { ACK_PSH } else { ACK };
                segment(id.wrapping_add(i as u16), seq.wrapping_add((i * size) as u32), flags, c)
            }).take(64).collect();
            let (merged, out) = round_trip(&packets);
            prop_assert_eq!(merged, packets.len());
            prop_assert_eq!(out, packets);
        }

        #[test]
        fn a_damaged_segment_is_not_merged(at in 0usize..140, bit in 0u8..8) {
            let mut bad = segment(2, 101, ACK, &[7; 100]);
            bad[at] ^= 1 << bit;
            prop_assume!(at >= 20 || Headers::parse(&bad).is_ok());
            let first = segment(1, 1, ACK, &[7; 100]);
            let Ok(headers) = Headers::parse(&bad) else { return Ok(()) };
            let run = Run::new(Segment::classify(&Headers::parse(&first).unwrap(), &first).unwrap(), 0..140);
            if let Some(s) = Segment::classify(&headers, &bad) {
                // Only the checksum of the IPv4 header covers the other bytes. A change there makes
                // another flow or unequal headers.
                let mut arena = first.clone();
                arena.extend(&bad);
                let mut run = run;
                let range = 140..140 + headers.len;
                prop_assert!(at < 20);
                let offer = run.try_merge(&s, range, &arena);
                prop_assert!(offer != MergeResult::Merged || matches!(at, 4 | 5 | 10 | 11));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), gso_size in any::<u16>(), start in any::<u16>(), offset in any::<u16>()) {
            if let Ok(headers) = Headers::parse(&bytes) {
                let _ = Segment::classify(&headers, &bytes);
                for gso in [Gso::TcpV4, Gso::TcpV6, Gso::UdpL4] {
                    let header = Header { needs_csum: true, gso, gso_size, csum_start: start, csum_offset: offset, ..Header::default() };
                    let mut bytes = bytes.clone();
                    let _ = complete(&header, &headers, &mut bytes);
                    if let Some(mut split) = Split::new(&header, &headers, &bytes) {
                        while split.next(&mut bytes).is_some() {}
                    }
                }
            }
        }
    }

    const ACK: u8 = 0x10;
    const ACK_PSH: u8 = 0x18;

    #[test]
    fn a_run_ends_at_a_gap_and_after_psh_and_ignores_other_flows() {
        let a = segment(1, 1, ACK, &[1; 10]);
        let gap = segment(2, 12, ACK, &[1; 10]);
        let next = segment(2, 11, ACK_PSH, &[1; 10]);
        let more = segment(3, 21, ACK, &[1; 10]);
        let mut other = segment(2, 11, ACK, &[1; 10]);
        other[21] = 1; // another source port
        let h = Headers::parse(&other).unwrap();
        write_checksum(&h, &mut other[20..], 16);
        let arena: Vec<u8> = [&a, &gap, &next, &more, &other]
            .into_iter()
            .flatten()
            .copied()
            .collect();
        let classify = |p: &[u8]| Segment::classify(&Headers::parse(p).unwrap(), p).unwrap();
        let mut run = Run::new(classify(&a), 0..50);
        assert_eq!(
            run.try_merge(&classify(&gap), 50..100, &arena),
            MergeResult::MustFlush
        );
        assert_eq!(
            run.try_merge(&classify(&other), 200..250, &arena),
            MergeResult::OtherFlow
        );
        assert_eq!(
            run.try_merge(&classify(&next), 100..150, &arena),
            MergeResult::Merged
        );
        assert!(run.is_closed());
        assert_eq!(
            run.try_merge(&classify(&more), 150..200, &arena),
            MergeResult::MustFlush
        );
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        let whole = segment(1, 1, ACK, b"hello");
        let headers = Headers::parse(&whole).unwrap();
        let mut partial = whole.clone();
        let sum = headers.pseudo_header(headers.l4_len());
        partial[36..38].copy_from_slice(&sum.to_be_bytes());
        let header = Header {
            needs_csum: true,
            csum_start: 20,
            csum_offset: 16,
            ..Header::default()
        };
        assert!(complete(&header, &headers, &mut partial));
        assert_eq!(partial, whole);
    }
}
