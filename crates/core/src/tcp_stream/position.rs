//! Positions in a TCP stream, as numbers that never wrap.

use vcgate_wire::tcp::SeqNumber;

/// A position in one direction of a connection: a sequence number and the count of its wraps.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Position {
    /// Returns the position of the first byte after a SYN with this sequence number.
    pub fn after_syn(isn: SeqNumber) -> Self {
        // One wrap ahead, so that older segments have positions too.
        Self((1 << 32) + u64::from(isn.plus(1).0))
    }

    /// Returns a position with this sequence number, in a stream whose SYN is not known.
    pub fn at(seq: SeqNumber) -> Self {
        Self::after_syn(seq.previous())
    }

    /// Returns the nearest position with the sequence number `seq`.
    pub fn near(self, seq: SeqNumber) -> Self {
        let distance = seq.distance_from(self.seq());
        Self(self.0.saturating_add_signed(distance.into()))
    }

    /// Returns the position `bytes` later.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }

    /// Returns the sequence number of the position.
    pub fn seq(self) -> SeqNumber {
        SeqNumber(self.0 as u32)
    }

    /// Returns the number of bytes since an earlier position; 0 if it is not earlier.
    pub fn since(self, earlier: Self) -> usize {
        self.0.saturating_sub(earlier.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9293_3_4_sequence_numbers_wrap_and_positions_do_not() {
        let start = Position::after_syn(SeqNumber(u32::MAX - 2));
        let later = start.near(SeqNumber(4));
        assert_eq!(later.since(start), 6);
        assert_eq!(later.near(SeqNumber(u32::MAX - 1)), start);
        assert_eq!(start.since(later), 0);
        assert_eq!(later, start.plus(6));
        assert!(
            Position::after_syn(SeqNumber(0)).near(SeqNumber(u32::MAX))
                < Position::after_syn(SeqNumber(0))
        );
    }
}
