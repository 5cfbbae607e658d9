//! Places in a TCP stream as numbers that never wrap.

use vcgate_wire::tcp::SeqNumber;

/// A place in one direction of a connection: a sequence number and how often it has wrapped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Position {
    /// Where the first byte of a stream lies whose SYN had this sequence number.
    pub fn after_syn(isn: u32) -> Self {
        // One turn up, so that old segments have places too.
        Self((1 << 32) + u64::from(isn.wrapping_add(1)))
    }

    /// A place with this sequence number, in a stream of which nothing else is known.
    pub fn at(seq: u32) -> Self {
        Self::after_syn(seq.wrapping_sub(1))
    }

    /// The place nearest to this one that has the sequence number `seq`.
    pub fn near(self, seq: u32) -> Self {
        let distance = SeqNumber(seq).distance_from(SeqNumber(self.seq()));
        Self(self.0.saturating_add_signed(distance.into()))
    }

    /// The place `bytes` further on.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }

    /// The sequence number of the byte there.
    pub fn seq(self) -> u32 {
        self.0 as u32
    }

    /// How many bytes lie between an earlier place and this one; 0 if it is not earlier.
    pub fn since(self, earlier: Self) -> usize {
        self.0.saturating_sub(earlier.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9293_3_4_sequence_numbers_wrap_and_places_do_not() {
        let start = Position::after_syn(u32::MAX - 2);
        let later = start.near(4);
        assert_eq!(later.since(start), 6);
        assert_eq!(later.near(u32::MAX - 1), start);
        assert_eq!(start.since(later), 0);
        assert_eq!(later, start.plus(6));
        assert!(Position::after_syn(0).near(u32::MAX) < Position::after_syn(0));
    }
}
