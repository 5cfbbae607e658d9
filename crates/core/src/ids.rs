//! Identifiers that several modules share. It defines identities only, never what they refer to.

use std::num::NonZeroU8;

/// A peer of the tunnel: an index of the peer table. An id is reused some time after its peer was
/// removed, when no table refers to it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// A translated flow: one inner endpoint, one remote endpoint, one protocol.
///
/// `slot` is small and dense, so it can index a table; `generation` distinguishes a flow from
/// earlier ones in the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// The index in the flow table.
    pub slot: u32,
    /// The number of earlier flows in the slot.
    pub generation: u32,
}

/// One of the shards that share a port, a device and a LAN address. Each shard owns part of the
/// peers, receiver indices and port blocks; the number of an object determines its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardId {
    number: u8,
    of: NonZeroU8,
}

impl ShardId {
    /// Maximum number of shards.
    pub const MAX: u8 = 64;
    /// The only shard of an endpoint.
    pub const ALONE: Self = Self {
        number: 0,
        of: NonZeroU8::MIN,
    };

    /// Returns all of `count` shards, at least one and at most [`MAX`](Self::MAX).
    pub fn all(count: u8) -> impl Iterator<Item = Self> {
        let count = count.clamp(1, Self::MAX);
        let of = NonZeroU8::new(count).unwrap_or(NonZeroU8::MIN);
        (0..count).map(move |number| Self { number, of })
    }

    /// Returns the shard's number, from 0.
    pub fn number(self) -> u8 {
        self.number
    }

    /// Returns the number of shards.
    pub fn of(self) -> u8 {
        self.of.get()
    }

    /// Returns whether this is the only shard.
    pub fn is_alone(self) -> bool {
        self.of == NonZeroU8::MIN
    }

    /// Returns the number of the shard that owns the object with this number, by turns.
    pub fn owner(self, object: u32) -> u8 {
        (object % u32::from(self.of.get())) as u8
    }

    /// Returns whether this shard owns the object with this number.
    pub fn owns(self, object: u32) -> bool {
        self.owner(object) == self.number
    }

    /// Returns the number of bits of a shard's number.
    pub fn bits(self) -> u32 {
        u8::BITS - (self.of.get() - 1).leading_zeros()
    }
}

impl Default for ShardId {
    fn default() -> Self {
        Self::ALONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_has_exactly_one_owner() {
        for count in 1..=ShardId::MAX {
            let all: Vec<_> = ShardId::all(count).collect();
            assert_eq!(all.len(), usize::from(count));
            for object in 0..200 {
                let owners = all.iter().filter(|shard| shard.owns(object));
                assert_eq!(owners.count(), 1);
            }
            assert!(all.iter().all(|s| u32::from(s.number()) < 1 << s.bits()));
            assert_eq!(all[0].is_alone(), count == 1);
        }
        assert_eq!(ShardId::all(0).count(), 1);
        assert_eq!(ShardId::all(255).count(), 64);
        let bits = |count| ShardId::all(count).next().map(ShardId::bits);
        assert_eq!([1, 2, 3, 4, 5, 64].map(bits), [0, 1, 2, 2, 3, 6].map(Some));
    }
}
