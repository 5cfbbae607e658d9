//! Decrypted packets gather here until the batch ends or their run is full: one arena for the
//! bytes, a few open runs as the kernel's GRO keeps them. Order within a flow is never changed.

use crate::ids::PeerId;
use std::ops::Range;
use vcgate_wire::coalesce::{MergeResult, Run, Segment};
use vcgate_wire::ip::Headers;

/// Room for a batch of datagrams: four full super-packets, in bytes.
const ARENA: usize = 4 * 65_536;
/// As many flows as may interleave before the oldest has to leave (the kernel's GRO has 8).
const MAX_RUNS: usize = 8;

/// The arena and the runs that lie in it.
#[derive(Debug)]
pub struct GroQueue {
    arena: Vec<u8>,
    used: usize,
    /// Oldest first.
    open: Vec<(PeerId, Run)>,
    spare: Vec<Run>,
}

/// What has to happen after a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroResult {
    /// Nothing: the packet waits in a run.
    Wait,
    /// This run leaves.
    Emit(usize),
    /// This run leaves, then the packet is to be offered again.
    EmitThenAgain(usize),
}

impl GroQueue {
    /// An empty arena.
    pub fn new() -> Self {
        Self {
            arena: vec![0; ARENA],
            used: 0,
            open: Vec::with_capacity(MAX_RUNS),
            spare: Vec::with_capacity(MAX_RUNS),
        }
    }

    /// Whether a packet of `len` bytes may be written without a flush before it.
    pub fn has_space(&self, len: usize) -> bool {
        self.arena.len() - self.used >= len
    }

    /// Where the next packet is to be written.
    pub fn tail(&mut self) -> &mut [u8] {
        &mut self.arena[self.used..]
    }

    /// A packet of `len` bytes was written to the tail and stays there.
    pub fn keep(&mut self, len: usize) -> Range<usize> {
        let place = self.used..self.used + len;
        self.used = place.end;
        place
    }

    /// The packet's bytes.
    pub fn bytes(&mut self, place: Range<usize>) -> &mut [u8] {
        &mut self.arena[place]
    }

    /// Offers a packet that may be merged.
    pub fn offer(&mut self, peer: PeerId, segment: &Segment, place: Range<usize>) -> GroResult {
        for at in 0..self.open.len() {
            match self.open[at]
                .1
                .try_merge(segment, place.clone(), &self.arena)
            {
                MergeResult::OtherFlow => {}
                MergeResult::MustFlush => return GroResult::EmitThenAgain(at),
                MergeResult::Merged if self.open[at].1.is_closed() => return GroResult::Emit(at),
                MergeResult::Merged => return GroResult::Wait,
            }
        }
        if self.open.len() == MAX_RUNS {
            return GroResult::EmitThenAgain(0);
        }
        let run = match self.spare.pop() {
            Some(mut run) => {
                run.restart(*segment, place);
                run
            }
            None => Run::new(*segment, place),
        };
        self.open.push((peer, run));
        match self.open.last() {
            Some((_, run)) if run.is_closed() => GroResult::Emit(self.open.len() - 1),
            _ => GroResult::Wait,
        }
    }

    /// The open run of the flow that a packet which cannot be merged belongs to.
    pub fn run_before(&self, headers: &Headers, l4: &[u8]) -> Option<usize> {
        self.open
            .iter()
            .position(|(_, run)| run.same_flow(headers, l4))
    }

    /// Takes a run out; give it back with [`recycle`](Self::recycle).
    pub fn take(&mut self, at: usize) -> (PeerId, Run) {
        self.open.remove(at)
    }

    /// Takes the oldest run out.
    pub fn take_oldest(&mut self) -> Option<(PeerId, Run)> {
        (!self.open.is_empty()).then(|| self.open.remove(0))
    }

    /// The whole arena, which a run's pieces point into.
    pub fn arena(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    /// A run that left: its memory is used again.
    pub fn recycle(&mut self, run: Run) {
        if self.spare.len() < MAX_RUNS {
            self.spare.push(run);
        }
    }

    /// All runs left: the arena is empty again.
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
