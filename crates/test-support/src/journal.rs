//! Follows engines by the journal of their changes, as the next process would read it, and compares
//! the result with what the engines have.

use std::time::Instant;
use vcgate_core::engine::Engine;
use vcgate_core::journal::{Replayed, State, Timestamp, encode, replay};
use vcgate_core::nat::BlockEvent;

/// A journal of all engines of an endpoint, in memory.
pub struct JournalOracle {
    bytes: Vec<u8>,
    /// The block events of the engines, which a shard passes on to its log of ports.
    blocks: Vec<BlockEvent>,
    started: Instant,
}

impl JournalOracle {
    /// Begins a journal with a snapshot of these engines, and makes them report their changes.
    pub fn begin<'a>(engines: impl Iterator<Item = &'a mut Engine>, now: Instant) -> Self {
        let mut oracle = Self {
            bytes: encode::head().to_vec(),
            blocks: Vec::new(),
            started: now,
        };
        for engine in engines {
            engine.collect_changes();
            oracle.poll_blocks(engine);
            let records = engine.journal_snapshot(now);
            oracle.append(&records, now);
        }
        oracle
    }

    /// Appends the changes of an engine since the last call.
    pub fn take(&mut self, engine: &mut Engine, now: Instant) {
        self.poll_blocks(engine);
        if engine.has_changes() {
            let mut records = Vec::new();
            engine.append_changes(&mut records);
            self.append(&records, now);
        }
    }

    /// Panics if the state by the journal differs from the engines'.
    pub fn check<'a>(&self, engines: impl Iterator<Item = &'a Engine>, now: Instant) {
        let read = replayed(&self.bytes);
        let mut live = State::default();
        for engine in engines {
            let records = engine.journal_snapshot(now);
            records.into_iter().for_each(|record| live.apply(record));
        }
        assert_eq!(read.state.describe(), live.describe());
        // A snapshot of the result is the same again.
        let mut state = read.state;
        let mut snapshot = encode::head().to_vec();
        state.append_to(&mut snapshot);
        assert_eq!(replayed(&snapshot).state, state);
    }

    /// Returns the journal.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the block events of the engines so far.
    pub fn take_blocks(&mut self) -> Vec<BlockEvent> {
        std::mem::take(&mut self.blocks)
    }

    /// The engine reports a block to the journal when its event is polled.
    fn poll_blocks(&mut self, engine: &mut Engine) {
        let blocks = std::iter::from_fn(|| engine.poll_block());
        self.blocks.extend(blocks);
    }

    fn timestamp(&self, now: Instant) -> Timestamp {
        let since = now.saturating_duration_since(self.started);
        Timestamp(1_000_000_000_000 + since.as_millis() as u64)
    }

    fn append(&mut self, records: &[vcgate_core::journal::Record], now: Instant) {
        let at = self.timestamp(now);
        encode::append(&mut self.bytes, at, records);
    }
}

fn replayed(bytes: &[u8]) -> Replayed {
    replay(bytes).expect("it was written by this version")
}
