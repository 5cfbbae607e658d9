//! The binary format of a journal: a head of [`HEAD_LEN`] bytes, then frames.
//!
//! ```text
//! head    magic (8 bytes), format (u32)
//! frame   length of the body (u32), CRC-32 of length and body (u32), body
//! body    time stamp in milliseconds (postcard u64), records (postcard)
//! ```
//!
//! Integers of head and frame are little-endian. A frame contains the changes of one batch of packets,
//! or a part of a snapshot. A change of [`FORMAT`] is noted in CHANGELOG.md.

use super::Record;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// Version of the format.
pub const FORMAT: u32 = 5;
/// Length of the head, in bytes.
pub const HEAD_LEN: usize = MAGIC.len() + 4;
/// Maximum length of the body of a frame, in bytes.
pub const MAX_FRAME_LEN: usize = 1 << 20;

pub(super) const MAGIC: [u8; 8] = *b"vcgflow\n";
/// Length of a frame without its body, in bytes.
pub(super) const FRAME_OVERHEAD: usize = 8;
/// Length of a body from which the next record begins another frame, in bytes. The longest record is
/// that of an SMB flow with a full transcript, 40 KB.
const FRAME_TARGET: usize = 64 << 10;

/// A wall-clock time in milliseconds since 1970 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Returns the time since an earlier time stamp; zero if that is not earlier, as after a clock was
    /// set back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        Self(since.map_or(0, |since| since.as_millis() as u64))
    }
}

/// Returns the head of a journal.
pub fn head() -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    head[..MAGIC.len()].copy_from_slice(&MAGIC);
    head[MAGIC.len()..].copy_from_slice(&FORMAT.to_le_bytes());
    head
}

/// Appends records to a journal as frames. Without records it appends one frame, which states only the
/// time.
pub fn append<'a>(
    journal: &mut Vec<u8>,
    at: Timestamp,
    records: impl IntoIterator<Item = &'a Record>,
) {
    let mut frame = Frame::begin(journal, at);
    for record in records {
        if frame.len() >= FRAME_TARGET {
            frame.end();
            frame = Frame::begin(journal, at);
        }
        frame.put(record);
    }
    frame.end();
}

/// Appends a frame with this body, whatever it contains: for tests of readers.
pub fn append_body(journal: &mut Vec<u8>, body: &[u8]) {
    let start = journal.len();
    journal.extend([0; FRAME_OVERHEAD]);
    journal.extend(body);
    Frame { journal, start }.end();
}

/// A frame at the end of a journal, whose head is filled in when the frame ends.
struct Frame<'a> {
    journal: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Frame<'a> {
    fn begin(journal: &'a mut Vec<u8>, at: Timestamp) -> Self {
        let start = journal.len();
        journal.extend([0; FRAME_OVERHEAD]);
        let mut frame = Self { journal, start };
        frame.put(&at);
        frame
    }

    fn len(&self) -> usize {
        self.journal.len() - self.start
    }

    fn put(&mut self, value: &impl Serialize) {
        let end = self.journal.len();
        // Serialization into memory fails only for types that the records do not contain.
        if postcard::to_io(value, &mut *self.journal).is_err() {
            debug_assert!(false, "a record that cannot be encoded");
            self.journal.truncate(end);
        }
    }

    fn end(self) {
        let (overhead, body) = self.journal[self.start..].split_at_mut(FRAME_OVERHEAD);
        let len = (body.len() as u32).to_le_bytes();
        overhead[..4].copy_from_slice(&len);
        overhead[4..].copy_from_slice(&checksum(&len, body).to_le_bytes());
    }
}

/// Returns the checksum of a frame.
pub(super) fn checksum(len: &[u8], body: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    !len.iter().chain(body).fold(u32::MAX, step)
}

/// The CRC-32 of each byte, with the reversed polynomial of IEEE 802.3.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};
