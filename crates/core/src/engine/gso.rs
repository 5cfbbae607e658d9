//! Generic segmentation offload: sealed datagrams of one client, back to back, until they leave in
//! one send. The batch holds ciphertext only, and no longer than the batch of reads that fills it.

use super::output::Output;
use crate::tunnel::{Ecn, Path};

/// Maximum payload of one UDP send (RFC 768 over IPv4), in bytes.
const MAX_BYTES: usize = 65_507;

/// Datagrams for one path, each as long as the first; the last one may be shorter.
#[derive(Debug)]
pub struct GsoBatch {
    buffer: Vec<u8>,
    len: usize,
    /// The length of each datagram, in bytes; 0 while the batch is empty.
    segment: usize,
    count: usize,
    max_segments: usize,
    path: Option<Path>,
    ecn: Ecn,
}

impl GsoBatch {
    /// Makes an empty batch of at most `max_segments` datagrams.
    pub fn new(max_segments: usize) -> Self {
        Self {
            buffer: vec![0; MAX_BYTES],
            len: 0,
            segment: 0,
            count: 0,
            max_segments: max_segments.max(1),
            path: None,
            ecn: Ecn::default(),
        }
    }

    /// Returns the space for a datagram of `len` bytes at the tail. Datagrams that cannot leave in
    /// the same send leave first.
    pub fn space(&mut self, path: &Path, ecn: Ecn, len: usize, out: &mut impl Output) -> &mut [u8] {
        let fits = self.count > 0
            && self.count < self.max_segments
            && len <= self.segment
            && self.len + len <= MAX_BYTES
            && self.ecn == ecn
            && self.path.as_ref() == Some(path);
        if !fits {
            self.flush(out);
            self.path = Some(*path);
            self.ecn = ecn;
            self.segment = len;
        }
        &mut self.buffer[self.len..]
    }

    /// Adds the datagram of `len` bytes that was written into the space.
    pub fn commit(&mut self, len: usize, out: &mut impl Output) {
        self.len += len;
        self.count += 1;
        if len < self.segment || self.count == self.max_segments {
            self.flush(out);
        }
    }

    /// Sends all datagrams of the batch.
    pub fn flush(&mut self, out: &mut impl Output) {
        if let (Some(path), 1..) = (&self.path, self.count) {
            out.datagrams(path, self.ecn, self.segment, &self.buffer[..self.len]);
        }
        (self.len, self.count, self.segment) = (0, 0, 0);
    }
}
