//! Merges consecutive segments of one flow into a super-packet, as the kernel's GRO does.
//!
//! A [`Run`] collects the positions of segments in one buffer; finishing it writes one header.
//! Only consecutive segments with equal headers and correct checksums are merged: splitting the
//! super-packet computes new checksums, which must not validate a damaged payload.

use super::checksum::Checksum;
use super::ip::{Headers, IPV4_HEADER_LEN, IPV6_HEADER_LEN};
use super::tcp::SeqNumber;
use super::tcp::flag::{ACK, ECE, PSH};
use super::virtio_net::{Gso, Header};
use smoltcp::wire::{IpProtocol, checksum};
use std::net::IpAddr;
use std::ops::Range;

/// Maximum length of an IP packet in bytes.
const MAX_LEN: usize = 65_535;
/// Maximum number of segments in a run. 47 segments fill 64 KB at an MTU of 1420.
pub const MAX_SEGMENTS: usize = 64;

/// A packet that can start or extend a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    headers: Headers,
    ports: [u8; 4],
    /// Length of the IP and L4 headers in bytes.
    header_len: usize,
    payload_len: usize,
    /// TCP: the sequence number. UDP: 0.
    seq: SeqNumber,
    closes: bool,
}

impl Segment {
    /// Returns the segment if `packet` can be merged: TCP data or a UDP datagram, without IP
    /// options or fragmentation, and with a correct checksum.
    pub fn classify(headers: &Headers, packet: &[u8]) -> Option<Self> {
        let plain = match headers.src {
            IpAddr::V4(_) => headers.l4 == IPV4_HEADER_LEN,
            IpAddr::V6(_) => headers.l4 == IPV6_HEADER_LEN,
        };
        if !plain || headers.fragment.is_some() {
            return None;
        }
        let l4 = packet.get(headers.l4..headers.len)?;
        let (l4_header, seq, closes) = match headers.protocol {
            IpProtocol::Tcp => {
                let flags = *l4.get(13)?;
                if flags & !(ACK | PSH | ECE) != 0 || flags & ACK == 0 {
                    return None;
                }
                let seq = SeqNumber(u32::from_be_bytes(l4[4..8].try_into().ok()?));
                (usize::from(l4[12] >> 4) * 4, seq, flags & PSH != 0)
            }
            IpProtocol::Udp => {
                let length = usize::from(u16::from_be_bytes(l4.get(4..6)?.try_into().ok()?));
                if length != l4.len() || l4.get(6..8)? == [0, 0] {
                    return None;
                }
                (8, SeqNumber(0), false)
            }
            _ => return None,
        };
        let min_header = if headers.protocol == IpProtocol::Tcp {
            20
        } else {
            8
        };
        if l4_header < min_header || l4_header >= l4.len() {
            return None;
        }
        let pseudo = headers.pseudo_header(l4.len());
        if checksum::combine(&[pseudo, checksum::data(l4)]) != 0xFFFF {
            return None;
        }
        Some(Self {
            headers: *headers,
            ports: l4[..4].try_into().ok()?,
            header_len: headers.l4 + l4_header,
            payload_len: l4.len() - l4_header,
            seq,
            closes,
        })
    }
}

/// Consecutive segments of one flow that will leave as one super-packet.
#[derive(Debug)]
pub struct Run {
    first: Segment,
    /// The whole first packet, then the payloads of the others.
    pieces: Vec<Range<usize>>,
    next_seq: SeqNumber,
    len: usize,
    push: bool,
    closed: bool,
}

/// The result of [`Run::try_merge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeResult {
    /// The segment is now part of the run.
    Merged,
    /// The segment is of the same flow but cannot be merged: the run must be sent before it.
    MustFlush,
    /// The segment is of another flow.
    OtherFlow,
}

impl Run {
    /// Starts a run with the packet at `range`.
    pub fn new(first: Segment, range: Range<usize>) -> Self {
        let mut pieces = Vec::with_capacity(MAX_SEGMENTS);
        pieces.push(range);
        Self {
            first,
            pieces,
            next_seq: first.seq.plus(first.payload_len as u32),
            len: first.headers.len,
            push: first.closes,
            closed: first.closes,
        }
    }

    /// Starts a new run and reuses the memory of this one.
    pub fn restart(&mut self, first: Segment, range: Range<usize>) {
        self.pieces.clear();
        self.pieces.push(range);
        self.next_seq = first.seq.plus(first.payload_len as u32);
        self.len = first.headers.len;
        (self.push, self.closed) = (first.closes, first.closes);
        self.first = first;
    }

    /// Returns whether the last segment was short or had PSH set, so that no segment can follow it.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns whether a packet belongs to the flow of this run, mergeable or not. `l4` may be
    /// truncated.
    pub fn same_flow(&self, headers: &Headers, l4: &[u8]) -> bool {
        self.first.headers.protocol == headers.protocol
            && self.first.headers.src == headers.src
            && self.first.headers.dst == headers.dst
            && (headers.fragment.is_some() || l4.get(..4) == Some(&self.first.ports))
    }

    /// Appends the segment, at `range` of `buffer`, if it continues this run.
    pub fn try_merge(
        &mut self,
        segment: &Segment,
        range: Range<usize>,
        buffer: &[u8],
    ) -> MergeResult {
        let first = &self.first;
        if segment.ports != first.ports
            || segment.headers.src != first.headers.src
            || segment.headers.dst != first.headers.dst
            || segment.headers.protocol != first.headers.protocol
        {
            return MergeResult::OtherFlow;
        }
        let is_next = !self.closed
            && segment.seq == self.expected_seq()
            && segment.header_len == first.header_len
            && segment.payload_len <= first.payload_len
            && self.len + segment.payload_len <= MAX_LEN
            && self.pieces.len() < MAX_SEGMENTS
            && self.same_headers(&buffer[range.clone()], buffer);
        if !is_next {
            return MergeResult::MustFlush;
        }
        self.pieces
            .push(range.start + segment.header_len..range.start + segment.headers.len);
        self.next_seq = self.next_seq.plus(segment.payload_len as u32);
        self.len += segment.payload_len;
        self.push |= segment.closes;
        self.closed = segment.closes || segment.payload_len < first.payload_len;
        MergeResult::Merged
    }

    /// Writes the header of the super-packet and returns it with the positions of its parts.
    ///
    /// A run of one segment is left unchanged; its checksum is known to be correct.
    pub fn finish(&self, buffer: &mut [u8]) -> (Headers, Checksum, Header, &[Range<usize>]) {
        let mut headers = self.first.headers;
        if self.pieces.len() == 1 {
            let header = Header {
                data_valid: true,
                ..Header::default()
            };
            return (headers, Checksum::Complete, header, &self.pieces);
        }
        headers.len = self.len;
        let packet = &mut buffer[self.pieces[0].clone()];
        headers.write_len(packet);
        let l4_len = headers.l4_len();
        let sum = headers.pseudo_header(l4_len);
        let tcp = headers.protocol == IpProtocol::Tcp;
        let l4 = &mut packet[headers.l4..];
        let csum_offset: usize = if tcp { 16 } else { 6 };
        l4[csum_offset..csum_offset + 2].copy_from_slice(&sum.to_be_bytes());
        if !tcp {
            l4[4..6].copy_from_slice(&(l4_len as u16).to_be_bytes());
        } else if self.push {
            l4[13] |= PSH;
        }
        let gso = match (tcp, headers.src) {
            (false, _) => Gso::UdpL4,
            (true, IpAddr::V4(_)) => Gso::TcpV4,
            (true, IpAddr::V6(_)) => Gso::TcpV6,
        };
        let header = Header {
            needs_csum: true,
            gso,
            header_len: self.first.header_len as u16,
            gso_size: self.first.payload_len as u16,
            csum_start: headers.l4 as u16,
            csum_offset: csum_offset as u16,
            ..Header::default()
        };
        (headers, Checksum::Partial, header, &self.pieces)
    }

    fn expected_seq(&self) -> SeqNumber {
        match self.first.headers.protocol {
            IpProtocol::Tcp => self.next_seq,
            _ => SeqNumber(0),
        }
    }

    /// Returns whether all header fields that splitting copies to every segment are equal. Lengths,
    /// checksums, the sequence number and PSH are compared elsewhere.
    fn same_headers(&self, packet: &[u8], buffer: &[u8]) -> bool {
        let first = &buffer[self.pieces[0].clone()];
        let ip = match self.first.headers.src {
            IpAddr::V4(_) => {
                let id = |p: &[u8]| u16::from_be_bytes([p[4], p[5]]);
                // RFC 6864 section 4: the ID of an atomic datagram (DF) has no meaning.
                let id_follows = packet[6] & 0x40 != 0
                    || id(packet) == id(first).wrapping_add(self.pieces.len() as u16);
                first[..2] == packet[..2] && first[6..10] == packet[6..10] && id_follows
            }
            IpAddr::V6(_) => first[..4] == packet[..4] && first[7] == packet[7],
        };
        let l4 = self.first.headers.l4;
        let l4_header = l4..self.first.header_len;
        let (a, b) = (&first[l4_header.clone()], &packet[l4_header]);
        ip && match self.first.headers.protocol {
            // Acknowledgement and data offset; flags except PSH; window; urgent pointer and options.
            IpProtocol::Tcp => {
                a[8..13] == b[8..13]
                    && (a[13] ^ b[13]) & !PSH == 0
                    && a[14..16] == b[14..16]
                    && a[18..] == b[18..]
            }
            _ => true,
        }
    }
}
