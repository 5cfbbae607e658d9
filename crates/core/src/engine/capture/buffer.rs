//! The buffer that a capture fills and its reader takes: two flat arenas, so that a packet on the
//! hot path costs one copy and no allocation for its bytes.

use super::{PacketMetadata, Side};
use std::ops::Range;
use std::time::Instant;
use vcgate_wire::packet::Packet;

/// Maximum size of the packets in a buffer, in bytes.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// Maximum number of packets in a buffer.
pub(super) const MAX_PACKETS: usize = 1 << 16;

/// A captured packet or super-packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The time at which its batch was read.
    pub at: Instant,
    /// The side on which it was captured.
    pub side: Side,
    /// Its peer, its flow and its fate.
    pub metadata: PacketMetadata,
    range: Range<usize>,
}

/// The packets that were captured since the last call of
/// [`Engine::take_capture`](crate::engine::Engine::take_capture).
#[derive(Debug, Default)]
pub struct CaptureBuffer {
    frames: Vec<Frame>,
    bytes: Vec<u8>,
    dropped: [u64; 2],
}

impl CaptureBuffer {
    /// Makes an empty buffer that allocates all its memory now.
    pub fn preallocated() -> Self {
        Self {
            frames: Vec::with_capacity(MAX_PACKETS),
            bytes: Vec::with_capacity(MAX_BYTES),
            dropped: [0; 2],
        }
    }

    /// Iterates over the frames and their bytes, oldest first.
    pub fn frames(&self) -> impl Iterator<Item = (&Frame, &[u8])> {
        let bytes = |frame: &Frame| self.bytes.get(frame.range.clone()).unwrap_or_default();
        self.frames.iter().map(move |frame| (frame, bytes(frame)))
    }

    /// Returns the number of packets of a side for which there was no space.
    pub fn dropped(&self, side: Side) -> u64 {
        self.dropped[side as usize]
    }

    /// Empties the buffer and keeps its memory. Dropping the metadata of thousands of frames takes
    /// time: call it outside of the shard's thread.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes.clear();
        self.dropped = [0; 2];
    }

    /// Appends a copy of the packet; returns whether there was space for it.
    pub(super) fn push(
        &mut self,
        side: Side,
        metadata: PacketMetadata,
        packet: &Packet<'_>,
        at: Instant,
    ) -> bool {
        let start = self.bytes.len();
        let len: usize = packet.pieces().map(<[u8]>::len).sum();
        if start + len > MAX_BYTES || self.frames.len() == MAX_PACKETS {
            return false;
        }
        packet
            .pieces()
            .for_each(|piece| self.bytes.extend_from_slice(piece));
        let range = start..self.bytes.len();
        self.frames.push(Frame {
            at,
            side,
            metadata,
            range,
        });
        true
    }

    /// Replaces the metadata of the newest frame.
    pub(super) fn update_last(&mut self, metadata: PacketMetadata) {
        if let Some(newest) = self.frames.last_mut() {
            newest.metadata = metadata;
        }
    }

    /// Removes the newest frame.
    pub(super) fn pop(&mut self) {
        if let Some(newest) = self.frames.pop() {
            self.bytes.truncate(newest.range.start);
        }
    }

    /// Counts a packet for which there was no space.
    pub(super) fn count_dropped(&mut self, side: Side) {
        self.dropped[side as usize] += 1;
    }
}
