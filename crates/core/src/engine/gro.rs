//! Generic receive offload: decrypted packets are merged into super-packets, each until its run is
//! full or the batch ends. One arena has the bytes, and a few runs are open, as in the kernel's
//! GRO. The order within a flow is never changed.

use crate::ids::PeerId;
use std::ops::Range;
use vcgate_wire::coalesce::{MergeResult, Run, Segment};
use vcgate_wire::ip::Headers;

/// Size of the arena, in bytes: four full super-packets.
const ARENA_CAPACITY: usize = 4 * 65_536;
/// Maximum number of flows that interleave before the oldest run leaves, as in the kernel's GRO.
const MAX_RUNS: usize = 8;

/// An arena and the runs of packets in it.
#[derive(Debug)]
pub struct GroQueue {
    arena: Vec<u8>,
    used: usize,
    /// Oldest first.
    open: Vec<(PeerId, Run)>,
    spare: Vec<Run>,
}

/// The result of offering a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroResult {
    /// The packet waits in a run.
    Queued,
    /// The run of this index leaves, with the packet.
    Emit(usize),
    /// The run of this index leaves, then the packet has to be offered again.
    EmitThenRetry(usize),
}

impl GroQueue {
    /// Makes an empty queue.
    pub fn new() -> Self {
        Self {
            arena: vec![0; ARENA_CAPACITY],
            used: 0,
            open: Vec::with_capacity(MAX_RUNS),
            spare: Vec::with_capacity(MAX_RUNS),
        }
    }

    /// Whether a packet of `len` bytes fits without a flush.
    pub fn has_space(&self, len: usize) -> bool {
        self.arena.len() - self.used >= len
    }

    /// Returns the space for the next packet.
    pub fn tail(&mut self) -> &mut [u8] {
        &mut self.arena[self.used..]
    }

    /// Keeps the packet of `len` bytes that was written to the tail, and returns its place in the
    /// arena.
    pub fn commit(&mut self, len: usize) -> Range<usize> {
        let range = self.used..self.used + len;
        self.used = range.end;
        range
    }

    /// Returns a packet's bytes.
    pub fn bytes(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.arena[range]
    }

    /// Merges a packet into the run of its flow, or opens a run.
    pub fn offer(&mut self, peer: PeerId, segment: &Segment, range: Range<usize>) -> GroResult {
        for (index, (_, run)) in self.open.iter_mut().enumerate() {
            match run.try_merge(segment, range.clone(), &self.arena) {
                MergeResult::OtherFlow => {}
                MergeResult::MustFlush => return GroResult::EmitThenRetry(index),
                MergeResult::Merged if run.is_closed() => return GroResult::Emit(index),
                MergeResult::Merged => return GroResult::Queued,
            }
        }
        if self.open.len() == MAX_RUNS {
            return GroResult::EmitThenRetry(0);
        }
        let run = match self.spare.pop() {
            Some(mut run) => {
                run.restart(*segment, range);
                run
            }
            None => Run::new(*segment, range),
        };
        self.open.push((peer, run));
        match self.open.last() {
            Some((_, run)) if run.is_closed() => GroResult::Emit(self.open.len() - 1),
            _ => GroResult::Queued,
        }
    }

    /// Finds the open run of the flow of a packet that cannot be merged: it has to leave first.
    pub fn run_before(&self, headers: &Headers, l4: &[u8]) -> Option<usize> {
        self.open
            .iter()
            .position(|(_, run)| run.same_flow(headers, l4))
    }

    /// Takes a run out, to be given back with [`recycle`](Self::recycle).
    ///
    /// # Panics
    ///
    /// If there is no run of this index.
    pub fn take(&mut self, index: usize) -> (PeerId, Run) {
        self.open.remove(index)
    }

    /// Takes the oldest run out, to be given back with [`recycle`](Self::recycle).
    pub fn take_oldest(&mut self) -> Option<(PeerId, Run)> {
        (!self.open.is_empty()).then(|| self.open.remove(0))
    }

    /// Returns the arena, which the pieces of a run index.
    pub fn arena(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    /// Keeps the memory of a run that left for the next one.
    pub fn recycle(&mut self, run: Run) {
        if self.spare.len() < MAX_RUNS {
            self.spare.push(run);
        }
    }

    /// Empties the arena after all runs left.
    pub fn reset(&mut self) {
        debug_assert!(self.open.is_empty());
        self.used = 0;
    }
}

impl Default for GroQueue {
    fn default() -> Self {
        Self::new()
    }
}
