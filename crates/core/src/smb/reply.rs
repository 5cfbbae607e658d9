//! Acknowledgements in the server's name.
//!
//! The server does not see buffered segments, so it cannot report that earlier ones are missing, and
//! the client would notice only by its timer. So for each buffered segment the client gets the
//! answer of a receiver that keeps it (RFC 5681 section 3.2): the server's last acknowledgement
//! again and, if both ends have agreed on SACK, the buffered ranges.
//!
//! They are delayed until the server has acknowledged all forwarded bytes. Until then its own
//! acknowledgements are under way, and duplicates would make the client retransmit bytes that have
//! arrived.
//!
//! A receiver may discard bytes that it has reported in a block (RFC 2018 section 8), as happens when
//! a buffered segment is lost between here and the server. The module never builds a packet.

use super::Segment;
use crate::tcp_stream::position::Position;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use vcgate_wire::tcp::{SeqNumber, TcpTimestamps, is_older};

/// Maximum number of blocks that fit beside timestamps (RFC 2018 section 3).
const MAX_BLOCKS: usize = 3;
/// Maximum number of pending acknowledgements: a window of 256 KB in full-sized segments.
const MAX_PENDING: usize = 192;

/// The blocks of a SACK option: sequence numbers of the first byte and of the one after the last.
pub type Blocks = [Option<(SeqNumber, SeqNumber)>; MAX_BLOCKS];

/// A range of the client's stream.
type Block = (Position, Position);

/// Acknowledgements of the buffered segments of a connection.
#[derive(Debug)]
pub(super) struct DupAckGenerator {
    pub selective: bool,
    /// The end of the forwarded bytes.
    passed: Position,
    acknowledged: Position,
    /// Buffered segments that are not reported, in the order of arrival.
    pending: VecDeque<Block>,
    /// Reported ranges, newest first; they do not touch.
    reported: Vec<Block>,
}

impl DupAckGenerator {
    /// Creates a generator for a stream that begins at `start`; `selective` if both ends support
    /// SACK.
    pub(super) fn new(start: Position, selective: bool) -> Self {
        Self {
            selective,
            passed: start,
            acknowledged: start,
            pending: VecDeque::new(),
            reported: Vec::new(),
        }
    }

    /// Returns the ends of the forwarded and of the acknowledged bytes.
    pub(super) fn reached(&self) -> (Position, Position) {
        (self.passed, self.acknowledged)
    }

    /// Notes that a segment was forwarded which ends at `end`.
    pub(super) fn passed(&mut self, end: Position) {
        self.passed = self.passed.max(end);
    }

    /// Notes an acknowledgement of the server.
    pub(super) fn acknowledged(&mut self, ack: Position) {
        self.acknowledged = self.acknowledged.max(ack);
    }

    /// Notes that `len` bytes at `at` were buffered, which arrived in segments of `size` bytes.
    pub(super) fn held(&mut self, at: Position, len: usize, size: usize) {
        for start in (0..len).step_by(size.max(1)) {
            if self.pending.len() < MAX_PENDING {
                let end = len.min(start + size.max(1));
                self.pending.push_back((at.plus(start), at.plus(end)));
            }
        }
    }

    /// Notes that the buffered segments were dropped: they are no longer reported (RFC 2018 section
    /// 8).
    pub(super) fn dropped(&mut self) {
        self.pending.clear();
        self.reported.clear();
    }

    /// Returns the blocks of the next acknowledgement. No buffered segment begins before `need`.
    pub(super) fn next(&mut self, need: Position) -> Option<Blocks> {
        if self.pending.is_empty() || self.acknowledged < self.passed {
            return None;
        }
        let newest = loop {
            match self.pending.pop_front()? {
                (start, _) if start <= need => {}
                held => break held,
            }
        };
        let mut blocks = Blocks::default();
        if self.selective {
            self.reported.retain(|(start, _)| *start > need);
            self.report(newest);
            for (block, (start, end)) in blocks.iter_mut().zip(&self.reported) {
                *block = Some((start.seq(), end.seq()));
            }
        }
        Some(blocks)
    }

    /// The first block is the one that the newest segment is in (RFC 2018 section 4).
    fn report(&mut self, newest: Block) {
        let mut whole = newest;
        self.reported.retain(|(start, end)| {
            let touches = *start <= whole.1 && whole.0 <= *end;
            if touches {
                whole = (whole.0.min(*start), whole.1.max(*end));
            }
            !touches
        });
        self.reported.insert(0, whole);
    }
}

/// Header fields of a segment in the server's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpReplyTemplate {
    /// The unscaled window; `None` before the first segment after the server's SYN, whose window has
    /// another scale (RFC 7323 section 2.2).
    pub window: Option<u16>,
    /// Present if both ends have agreed on timestamps: a segment without them may then be dropped
    /// (RFC 7323 section 3.2).
    pub timestamps: Option<TcpTimestamps>,
}

impl TcpReplyTemplate {
    /// Updates the template from a segment of the server. The clock never runs backwards, and never
    /// ahead of the server: the client would then drop the server's next segments as old (RFC 7323
    /// section 5.3).
    pub(super) fn observe(&mut self, segment: &Segment) {
        if segment.syn {
            (self.window, self.timestamps) = (None, segment.timestamps);
            return;
        }
        let is_old = match (self.timestamps, segment.timestamps) {
            (Some(last), Some(this)) => is_older(this.value, last.value),
            _ => false,
        };
        if is_old || segment.rst {
            return;
        }
        self.window = Some(segment.window);
        self.timestamps = segment.timestamps.or(self.timestamps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's stream begins at sequence number 1; its first 100 bytes were forwarded.
    fn duplicates(selective: bool) -> (DupAckGenerator, Position) {
        let start = Position::after_syn(SeqNumber(0));
        let mut duplicates = DupAckGenerator::new(start, selective);
        duplicates.passed(start.plus(100));
        (duplicates, start)
    }

    fn all(duplicates: &mut DupAckGenerator, need: Position) -> Vec<Vec<(u32, u32)>> {
        std::iter::from_fn(|| duplicates.next(need))
            .map(|blocks| {
                let blocks = blocks.into_iter().flatten();
                blocks.map(|(start, end)| (start.0, end.0)).collect()
            })
            .collect()
    }

    #[test]
    fn rfc2018_4_the_first_block_has_the_segment_that_triggered_it() {
        let (mut duplicates, start) = duplicates(true);
        let need = start.plus(100);
        duplicates.acknowledged(need);
        for at in [200, 400, 210, 600, 800] {
            duplicates.held(start.plus(at), 10, 10);
        }
        assert_eq!(
            all(&mut duplicates, need),
            [
                vec![(201, 211)],
                vec![(401, 411), (201, 211)],
                vec![(201, 221), (401, 411)],
                vec![(601, 611), (201, 221), (401, 411)],
                vec![(801, 811), (601, 611), (201, 221)],
            ]
        );
        // The gap before 200 is filled, and the one between two blocks.
        duplicates.held(start.plus(611), 189, 1000);
        let need = start.plus(220);
        assert_eq!(
            all(&mut duplicates, need),
            [vec![(612, 811), (601, 611), (401, 411)]]
        );
        duplicates.held(start.plus(610), 1, 1000);
        assert_eq!(all(&mut duplicates, need), [vec![(601, 811), (401, 411)]]);
    }

    #[test]
    fn rfc5681_3_2_one_for_each_segment_and_none_for_forwarded_ones() {
        let (mut duplicates, start) = duplicates(false);
        let need = start.plus(100);
        duplicates.acknowledged(need);
        duplicates.held(start.plus(110), 25, 10);
        assert_eq!(all(&mut duplicates, need), vec![vec![]; 3]);
        duplicates.held(start.plus(110), 25, 10);
        assert_eq!(all(&mut duplicates, start.plus(125)), vec![vec![]; 1]);
        for _ in 0..3 {
            duplicates.held(start.plus(200), 100, 1);
        }
        assert_eq!(all(&mut duplicates, need).len(), MAX_PENDING);
    }

    #[test]
    fn acknowledgements_are_delayed_until_the_server_has_sent_its_own() {
        let (mut duplicates, start) = duplicates(true);
        let need = start.plus(150);
        duplicates.held(start.plus(160), 10, 10);
        duplicates.acknowledged(start.plus(99));
        assert_eq!(duplicates.next(need), None);
        duplicates.acknowledged(start.plus(100));
        // Late ones take nothing back.
        duplicates.passed(start.plus(50));
        duplicates.acknowledged(start.plus(40));
        assert_eq!(all(&mut duplicates, need), [[(161, 171)]]);
    }

    #[test]
    fn rfc7323_3_2_the_newest_segment_of_the_server_counts() {
        let said = |syn, window, value: Option<u32>| Segment {
            syn,
            window,
            timestamps: value.map(|value| TcpTimestamps { value, echo: 9 }),
            seq: SeqNumber(0),
            ack: Some(SeqNumber(0)),
            rst: false,
            fin: false,
            sack_permitted: false,
        };
        let (before_wrap, after_wrap) = (u32::MAX - 1, 3);
        let timestamps = |value| Some(TcpTimestamps { value, echo: 9 });
        let mut reply_template = TcpReplyTemplate::default();
        reply_template.observe(&said(true, 64_000, Some(before_wrap)));
        assert_eq!(
            (reply_template.window, reply_template.timestamps),
            (None, timestamps(before_wrap))
        );
        reply_template.observe(&said(false, 500, Some(after_wrap)));
        // One from before, late; and a RST, which has none.
        reply_template.observe(&said(false, 400, Some(before_wrap)));
        reply_template.observe(&Segment {
            rst: true,
            ..said(false, 0, None)
        });
        assert_eq!(
            (reply_template.window, reply_template.timestamps),
            (Some(500), timestamps(after_wrap))
        );
        // The next connection between the same ends goes without.
        reply_template.observe(&said(true, 64_000, None));
        reply_template.observe(&said(false, 300, None));
        assert_eq!(
            (reply_template.window, reply_template.timestamps),
            (Some(300), None)
        );
    }
}
