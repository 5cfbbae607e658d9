//! Names for things that cross rooms. It holds identities only, never what they stand for.

use std::num::NonZeroU8;

/// A peer of the tunnel: a slot of the peer table, never reused while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// A translated flow: one inner endpoint, one remote endpoint, one protocol.
///
/// `slot` is small and dense, so a room may keep a table by it; `generation` tells a new flow in
/// a used slot from the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// The place in the table.
    pub slot: u32,
    /// How often the place was given away before.
    pub generation: u32,
}

/// One of the shards that share a port, a device and a LAN address, and what is its own: peers,
/// receiver indices, port blocks. Whose a thing is follows from its number, so that nobody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    number: u8,
    of: NonZeroU8,
}

impl Shard {
    /// The most shards that there can be: what is shared is enough for each of them.
    pub const MAX: u8 = 64;
    /// The only one.
    pub const ALONE: Self = Self {
        number: 0,
        of: NonZeroU8::MIN,
    };

    /// All of `count` shards, at least one and at most [`MAX`](Self::MOST).
    pub fn all(count: u8) -> impl Iterator<Item = Self> {
        let count = count.clamp(1, Self::MAX);
        let of = NonZeroU8::new(count).unwrap_or(NonZeroU8::MIN);
        (0..count).map(move |number| Self { number, of })
    }

    /// Which one it is, from 0.
    pub fn number(self) -> u8 {
        self.number
    }

    /// How many there are.
    pub fn of(self) -> u8 {
        self.of.get()
    }

    /// Whether there is no other.
    pub fn is_alone(self) -> bool {
        self.of == NonZeroU8::MIN
    }

    /// Whose the thing with this number is, in turns.
    pub fn owner(self, thing: u32) -> u8 {
        (thing % u32::from(self.of.get())) as u8
    }

    /// Whether it is this shard's.
    pub fn owns(self, thing: u32) -> bool {
        self.owner(thing) == self.number
    }

    /// As many bits as the number of a shard takes.
    pub fn bits(self) -> u32 {
        u8::BITS - (self.of.get() - 1).leading_zeros()
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self::ALONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_everything_and_nothing_twice() {
        for count in 1..=Shard::MAX {
            let all: Vec<_> = Shard::all(count).collect();
            assert_eq!(all.len(), usize::from(count));
            for thing in 0..200 {
                let owners = all.iter().filter(|shard| shard.owns(thing));
                assert_eq!(owners.count(), 1);
            }
            assert!(all.iter().all(|s| u32::from(s.number()) < 1 << s.bits()));
            assert_eq!(all[0].is_alone(), count == 1);
        }
        assert_eq!(Shard::all(0).count(), 1);
        assert_eq!(Shard::all(255).count(), 64);
        let bits = |count| Shard::all(count).next().map(Shard::bits);
        assert_eq!([1, 2, 3, 4, 5, 64].map(bits), [0, 1, 2, 2, 3, 6].map(Some));
    }
}
