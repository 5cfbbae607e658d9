//! A packet or super-packet on its way through the data plane.
//!
//! A super-packet is several segments of one flow under one header, up to 64 KB, made by the
//! kernel's offloads or by [`coalesce`](crate::coalesce). Its bytes may lie in several parts of one
//! buffer; the modules see one header and one payload.

use super::checksum::{Checksum, Delta};
use super::ip::{Headers, Malformed};
use std::ops::Range;

/// A packet or super-packet: one header and one payload, in one or more pieces of a buffer.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The parsed IP header. A module that rewrites an address also updates it here.
    pub headers: Headers,
    /// The state of the L4 checksum field.
    pub checksum: Checksum,
    /// For a super-packet, the L4 payload of each segment in bytes; the last one may be shorter.
    pub segment: Option<u16>,
    buffer: &'a mut [u8],
    pieces: &'a [Range<usize>],
    front: Range<usize>,
}

impl<'a> Packet<'a> {
    /// Parses a packet that lies in one piece.
    ///
    /// # Errors
    /// If the IP header is malformed.
    pub fn parse(bytes: &'a mut [u8], checksum: Checksum) -> Result<Self, Malformed> {
        let headers = Headers::parse(bytes)?;
        Ok(Self {
            headers,
            checksum,
            segment: None,
            front: 0..headers.len,
            buffer: bytes,
            pieces: &[],
        })
    }

    /// Makes a super-packet. `pieces[0]` starts with all headers, the others contain only payload.
    /// `headers` were parsed from the first piece, with the total length of all pieces.
    pub fn in_pieces(
        headers: Headers,
        checksum: Checksum,
        buffer: &'a mut [u8],
        pieces: &'a [Range<usize>],
    ) -> Self {
        let (front, rest) = match pieces {
            [front, rest @ ..] => (front.clone(), rest),
            [] => (0..0, pieces),
        };
        Self {
            headers,
            checksum,
            segment: None,
            buffer,
            pieces: rest,
            front,
        }
    }

    /// Returns the underlying buffer.
    pub fn into_bytes(self) -> &'a mut [u8] {
        self.buffer
    }

    /// Returns the first piece: from the IP header to at least the end of the L4 header.
    pub fn front(&self) -> &[u8] {
        &self.buffer[self.front.clone()]
    }

    /// Returns the first piece for writing.
    pub fn front_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.front.clone()]
    }

    /// Returns the first piece from the L4 header on.
    pub fn l4(&self) -> &[u8] {
        self.front().get(self.headers.l4..).unwrap_or_default()
    }

    /// Returns the first piece from the L4 header on, for writing.
    pub fn l4_mut(&mut self) -> &mut [u8] {
        let l4 = self.headers.l4;
        self.front_mut().get_mut(l4..).unwrap_or_default()
    }

    /// Returns the payload: the bytes of all pieces after an L4 header of `header` bytes.
    pub fn payload(&mut self, header: usize) -> Payload<'_> {
        let start = (self.front.start + self.headers.l4 + header).min(self.front.end);
        Payload {
            buffer: self.buffer,
            first: start..self.front.end,
            rest: self.pieces,
            delta: Delta::default(),
        }
    }

    /// Returns all bytes, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.front()).chain(self.pieces.iter().map(|r| &self.buffer[r.clone()]))
    }

    /// Copies the packet into one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.headers.len);
        self.pieces()
            .for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// Returns the source and destination ports of a TCP or UDP packet that contains its L4 header.
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.headers.ports(self.l4())
    }
}

/// A payload in one or more pieces, read and written by offset.
///
/// It accumulates the change that its writes make to a checksum over it.
#[derive(Debug)]
pub struct Payload<'a> {
    buffer: &'a mut [u8],
    first: Range<usize>,
    rest: &'a [Range<usize>],
    delta: Delta,
}

impl<'a> Payload<'a> {
    /// Makes a payload in one piece.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self {
            first: 0..bytes.len(),
            buffer: bytes,
            rest: &[],
            delta: Delta::default(),
        }
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.first.len() + self.rest.iter().map(ExactSizeIterator::len).sum::<usize>()
    }

    /// Returns whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes from `offset` to the end of their piece; empty at the end of the payload.
    pub fn run(&self, offset: usize) -> &[u8] {
        self.range_from(offset).map_or(&[], |r| &self.buffer[r])
    }

    /// Returns the byte at `offset`.
    pub fn byte(&self, offset: usize) -> Option<u8> {
        self.run(offset).first().copied()
    }

    /// Copies bytes from `offset` on into `out`; returns the number of bytes copied.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len() {
            let run = self.run(offset + done);
            if run.is_empty() {
                break;
            }
            let n = run.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&run[..n]);
            done += n;
        }
        done
    }

    /// Writes one byte; does nothing past the end.
    pub fn write(&mut self, offset: usize, new: u8) {
        let Some(range) = self.range_from(offset) else {
            return;
        };
        let old = std::mem::replace(&mut self.buffer[range.start], new);
        self.delta = self.delta.byte(offset % 2 == 1, old, new);
    }

    /// Returns the change that all writes so far made to a checksum over this payload. Its first
    /// byte is at an even offset of the segment, as it always is after a TCP header.
    pub fn delta(&self) -> Delta {
        self.delta
    }

    fn range_from(&self, offset: usize) -> Option<Range<usize>> {
        let mut offset = offset;
        for piece in std::iter::once(&self.first).chain(self.rest) {
            if offset < piece.len() {
                return Some(piece.start + offset..piece.end);
            }
            offset -= piece.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_payload_in_pieces_reads_and_writes_like_one_slice(bytes in prop::collection::vec(any::<u8>(), 1..200),
                                        cuts in prop::collection::vec(any::<usize>(), 0..6),
                                        writes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..20)) {
            // The pieces lie in the buffer with gaps between them.
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let (mut buffer, mut pieces) = (Vec::new(), Vec::new());
            for w in cuts.windows(2) {
                buffer.extend([0xEE; 3]);
                pieces.push(buffer.len()..buffer.len() + w[1] - w[0]);
                buffer.extend(&bytes[w[0]..w[1]]);
            }
            let mut expected = bytes.clone();
            let mut payload = Payload {
                buffer: &mut buffer, first: pieces[0].clone(), rest: &pieces[1..], delta: Delta::default(),
            };
            let before = !smoltcp::wire::checksum::data(&expected);
            for (at, new) in writes {
                let at = at % expected.len();
                expected[at] = new;
                payload.write(at, new);
            }
            let mut all = vec![0; expected.len() + 5];
            prop_assert_eq!(payload.read(0, &mut all), expected.len());
            prop_assert_eq!(payload.len(), expected.len());
            prop_assert_eq!(&all[..expected.len()], &expected[..]);
            let after = !smoltcp::wire::checksum::data(&expected);
            let got = payload.delta().apply(before);
            prop_assert!(got == after || (got ^ after) == 0xFFFF && (got == 0 || after == 0));
        }
    }
}
