//! The bytes of a client's stream that were parsed, until the server has acknowledged them.
//!
//! A forwarded segment need not reach the server's stream: its hop limit may expire, and the server
//! drops it for an old timestamp (RFC 7323 section 5.3), an old acknowledgement (RFC 5961 section
//! 5.2), an option, or outside its window. A copy with other contents would then make hook and
//! server read two streams. So the first parsed copy counts, and later ones get its bytes: message
//! headers, commands and chains. The rest of a message is never stored.
//!
//! A server that has acknowledged a byte accepts no other copy of it.

use crate::tcp_stream::position::Position;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use vcgate_wire::packet::Payload;
use vcgate_wire::tcp::SeqNumber;

/// Capacity of one run, in bytes. A skipped message needs 9 bytes, one that may chain 41.
const RUN_CAPACITY: usize = 32;
/// Maximum number of runs, 48 bytes each: more messages than a client has under way at servers,
/// which announce a MaxMpxCount of 10 to 50 (MS-CIFS section 2.2.4.52.2).
const MAX_RUNS: usize = 1024;

/// Consecutive bytes of the stream.
#[derive(Debug)]
struct Run {
    at: Position,
    len: usize,
    bytes: [u8; RUN_CAPACITY],
}

impl Run {
    fn end(&self) -> Position {
        self.at.plus(self.len)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A run as plain data; its position is a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptRun {
    at: SeqNumber,
    bytes: Vec<u8>,
}

/// Parsed bytes that are not acknowledged, in the order of the stream.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    runs: VecDeque<Run>,
}

impl Transcript {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether no more may be read before the server acknowledges something.
    pub(super) fn is_full(&self) -> bool {
        self.runs.len() >= MAX_RUNS
    }

    /// Records bytes that were parsed at `at`, after all earlier ones.
    pub(super) fn record(&mut self, at: Position, bytes: &[u8]) {
        let mut rest = bytes;
        if let Some(last) = self.runs.back_mut()
            && last.end() == at
        {
            let (more, others) = rest.split_at(rest.len().min(RUN_CAPACITY - last.len));
            last.bytes[last.len..last.len + more.len()].copy_from_slice(more);
            last.len += more.len();
            rest = others;
        }
        let mut at = at.plus(bytes.len() - rest.len());
        for part in rest.chunks(RUN_CAPACITY) {
            let mut run = Run {
                at,
                len: part.len(),
                bytes: [0; RUN_CAPACITY],
            };
            run.bytes[..part.len()].copy_from_slice(part);
            self.runs.push_back(run);
            at = at.plus(part.len());
        }
    }

    /// Drops the bytes before `ack`, which the server has received.
    pub(super) fn acknowledge(&mut self, ack: Position) {
        while self.runs.front().is_some_and(|run| run.end() <= ack) {
            self.runs.pop_front();
        }
    }

    /// Overwrites a payload that begins at `start` with the bytes that were parsed.
    pub(super) fn apply(&self, start: Position, payload: &mut Payload<'_>) {
        // Most segments are sent once.
        if self.runs.back().is_none_or(|run| run.end() <= start) {
            return;
        }
        let end = start.plus(payload.len());
        let first = self.runs.partition_point(|run| run.end() <= start);
        for run in self.runs.range(first..).take_while(|run| run.at < end) {
            let before = start.since(run.at);
            let at = run.at.plus(before).since(start);
            for (at, byte) in (at..payload.len()).zip(&run.bytes()[before..]) {
                payload.write(at, *byte);
            }
        }
    }

    /// Exports the transcript.
    pub(super) fn keep(&self) -> Vec<KeptRun> {
        let kept = |run: &Run| KeptRun {
            at: run.at.seq(),
            bytes: run.bytes().to_vec(),
        };
        self.runs.iter().map(kept).collect()
    }

    /// Imports a transcript into a stream at `near`.
    pub(super) fn restore(kept: &[KeptRun], near: Position) -> Self {
        let mut transcript = Self::default();
        for run in kept.iter().take(MAX_RUNS) {
            transcript.record(near.near(run.at), &run.bytes);
        }
        transcript
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(transcript: &Transcript, start: Position, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        transcript.apply(start, &mut Payload::new(&mut bytes));
        bytes
    }

    #[test]
    fn copies_get_what_was_read_until_it_is_acknowledged() {
        let origin = Position::after_syn(SeqNumber(u32::MAX - 2));
        let mut transcript = Transcript::default();
        transcript.record(origin, &[1, 2]);
        transcript.record(origin.plus(2), &[3]);
        transcript.record(origin.plus(5), &[6, 7]);
        assert_eq!(transcript.runs.len(), 2);
        assert_eq!(applied(&transcript, origin, 8), [1, 2, 3, 0, 0, 6, 7, 0]);
        assert_eq!(applied(&transcript, origin.plus(1), 5), [2, 3, 0, 0, 6]);
        assert_eq!(applied(&transcript, origin.plus(6), 2), [7, 0]);
        assert_eq!(applied(&transcript, origin.plus(7), 2), [0, 0]);
        let restored = Transcript::restore(&transcript.keep(), origin.plus(9));
        assert_eq!(applied(&restored, origin, 8), [1, 2, 3, 0, 0, 6, 7, 0]);
        transcript.acknowledge(origin.plus(2));
        assert_eq!(applied(&transcript, origin, 4), [1, 2, 3, 0]);
        transcript.acknowledge(origin.plus(3));
        assert_eq!(applied(&transcript, origin, 7), [0, 0, 0, 0, 0, 6, 7]);
        transcript.acknowledge(origin.plus(7));
        assert!(transcript.is_empty());
    }

    #[test]
    fn long_runs_are_whole() {
        let origin = Position::after_syn(SeqNumber(0));
        let bytes: Vec<u8> = (1..=100).collect();
        for cut in [0, 1, RUN_CAPACITY - 1, RUN_CAPACITY, RUN_CAPACITY + 1, 99] {
            let mut transcript = Transcript::default();
            transcript.record(origin, &bytes[..cut]);
            transcript.record(origin.plus(cut), &bytes[cut..]);
            assert_eq!(applied(&transcript, origin, 100), bytes);
            assert_eq!(applied(&transcript, origin.plus(40), 20), bytes[40..60]);
        }
    }
}
