//! One direction of a connection in order, from segments captured in any order.
//!
//! Unlike a receiver, a capture never gets the missed bytes. A gap is skipped when the other side
//! has acknowledged later bytes, or when too much data waits for it.

use vcgate_core::tcp_stream::position::Position;
use vcgate_core::tcp_stream::reorder::{MemoryBudget, ReorderBuffer};
use vcgate_wire::tcp::SeqNumber;

/// Maximum number of bytes of one direction that wait for a gap to be filled.
const MAX_BUFFERED: usize = 256 << 10;

/// The next part of a stream.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// Bytes that follow the last ones.
    Bytes { at: Position, bytes: &'a [u8] },
    /// A gap: the bytes before this position were sent and are not in the capture.
    Gap { to: Position },
}

/// One direction.
#[derive(Debug)]
pub(super) struct Stream {
    /// The first byte that was not captured yet.
    next: Position,
    early: ReorderBuffer,
}

impl Stream {
    /// Makes a direction whose first byte has this sequence number.
    pub(super) fn new(first: SeqNumber) -> Self {
        Self {
            next: Position::at(first),
            early: ReorderBuffer::new(MAX_BUFFERED),
        }
    }

    /// Takes a payload that begins at `seq` and whose last `missing` bytes were not captured; emits
    /// what is in order now.
    pub(super) fn take(
        &mut self,
        seq: SeqNumber,
        payload: &[u8],
        missing: usize,
        budget: &mut MemoryBudget,
        each: &mut dyn FnMut(Piece<'_>),
    ) {
        let start = self.next.near(seq);
        if start > self.next {
            // A gap ends at the captured part; the missing part is a separate gap.
            if !self.early.keep(start, payload.to_vec(), budget) {
                self.jump(budget, each);
                if self.next.near(seq) <= self.next {
                    self.hand_out(start, payload, missing, each);
                }
            }
        } else {
            self.hand_out(start, payload, missing, each);
        }
        self.hand_out_early(budget, each);
    }

    /// Notes that the receiver has everything before `ack`.
    pub(super) fn acknowledged(
        &mut self,
        ack: SeqNumber,
        budget: &mut MemoryBudget,
        each: &mut dyn FnMut(Piece<'_>),
    ) {
        while !self.early.is_empty() && self.next.near(ack) > self.next {
            self.jump(budget, each);
            self.hand_out_early(budget, each);
        }
    }

    /// Emits all waiting data, because no segment follows.
    pub(super) fn finish(&mut self, budget: &mut MemoryBudget, each: &mut dyn FnMut(Piece<'_>)) {
        while !self.early.is_empty() {
            self.jump(budget, each);
            self.hand_out_early(budget, each);
        }
    }

    /// Drops the segments that wait.
    pub(super) fn clear(&mut self, budget: &mut MemoryBudget) {
        self.early.clear(budget);
    }

    /// Skips the gap before the first waiting segment.
    fn jump(&mut self, budget: &mut MemoryBudget, each: &mut dyn FnMut(Piece<'_>)) {
        if let Some((start, bytes)) = self.early.take_any(budget) {
            if start > self.next {
                self.next = start;
                each(Piece::Gap { to: start });
            }
            self.hand_out(start, &bytes, 0, each);
        }
    }

    fn hand_out_early(&mut self, budget: &mut MemoryBudget, each: &mut dyn FnMut(Piece<'_>)) {
        while let Some((start, bytes)) = self.early.take(self.next, budget) {
            self.hand_out(start, &bytes, 0, each);
        }
    }

    fn hand_out(
        &mut self,
        start: Position,
        payload: &[u8],
        missing: usize,
        each: &mut dyn FnMut(Piece<'_>),
    ) {
        let end = start.plus(payload.len());
        if end > self.next {
            let at = self.next;
            let bytes = payload.get(at.since(start)..).unwrap_or_default();
            self.next = end;
            each(Piece::Bytes { at, bytes });
        }
        let end = end.plus(missing);
        if missing > 0 && end > self.next {
            self.next = end;
            each(Piece::Gap { to: end });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: SeqNumber = SeqNumber(u32::MAX - 3);

    struct TestStream {
        stream: Stream,
        budget: MemoryBudget,
        got: String,
    }

    impl TestStream {
        fn new() -> Self {
            Self {
                stream: Stream::new(FIRST),
                budget: MemoryBudget::new(1000),
                got: String::new(),
            }
        }

        /// Takes a segment `offset` bytes after the first byte; returns all emitted items.
        fn take(&mut self, offset: u32, text: &str, missing: usize) -> &str {
            let (got, seq) = (&mut self.got, FIRST.plus(offset));
            let each = &mut |piece: Piece<'_>| show(got, &piece);
            self.stream
                .take(seq, text.as_bytes(), missing, &mut self.budget, each);
            &self.got
        }

        fn acknowledged(&mut self, offset: u32) -> &str {
            let (got, ack) = (&mut self.got, FIRST.plus(offset));
            let each = &mut |piece: Piece<'_>| show(got, &piece);
            self.stream.acknowledged(ack, &mut self.budget, each);
            &self.got
        }
    }

    fn show(got: &mut String, piece: &Piece<'_>) {
        match piece {
            Piece::Bytes { bytes, .. } => *got += &String::from_utf8_lossy(bytes),
            Piece::Gap { .. } => *got += "|",
        }
    }

    #[test]
    fn puts_in_order_across_the_wrap_and_hands_nothing_out_twice() {
        let mut stream = TestStream::new();
        assert_eq!(stream.take(0, "abc", 0), "abc");
        assert_eq!(stream.take(6, "ghi", 0), "abc");
        assert_eq!(stream.take(3, "def", 0), "abcdefghi");
        assert_eq!(stream.take(4, "efghijk", 0), "abcdefghijk");
        assert_eq!(stream.take(0, "abc", 0), "abcdefghijk");
        assert_eq!(stream.budget.left(), 1000);
    }

    #[test]
    fn gives_a_gap_up_when_the_receiver_has_it() {
        let mut stream = TestStream::new();
        stream.take(0, "abc", 0);
        stream.take(5, "fg", 0);
        assert_eq!(stream.acknowledged(3), "abc");
        assert_eq!(stream.acknowledged(5), "abc|fg");
        assert_eq!(stream.take(3, "de", 0), "abc|fg");
    }

    #[test]
    fn what_was_not_captured_is_a_gap() {
        let mut stream = TestStream::new();
        assert_eq!(stream.take(0, "abc", 5), "abc|");
        assert_eq!(stream.take(8, "ij", 0), "abc|ij");
    }

    #[test]
    fn gives_a_gap_up_when_too_much_waits() {
        let mut stream = TestStream::new();
        stream.budget = MemoryBudget::new(4);
        stream.take(0, "a", 0);
        assert_eq!(stream.take(2, "cd", 0), "a");
        assert_eq!(stream.take(6, "gh", 0), "a");
        assert_eq!(stream.take(10, "kl", 0), "a|cd");
        let (got, budget) = (&mut stream.got, &mut stream.budget);
        let each = &mut |piece: Piece<'_>| show(got, &piece);
        stream.stream.finish(budget, each);
        assert_eq!(stream.got, "a|cd|gh");
        assert_eq!(stream.budget.left(), 4);
    }
}
