//! Receiver indices: which peer a datagram names.
//!
//! A receiver index has 32 bits: boringtun counts sessions in the low 8, the high 24 are the
//! peer's and are made here, at random, so that they tell an observer nothing.

use crate::ids::PeerId;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use rand::{Rng, RngExt};

/// The share of the index space that one tunnel may use, when several share one port: its number
/// is in the top bits of every receiver index, where a filter on the socket can read it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shard {
    /// Which share, below `2^bits`.
    pub number: u8,
    /// How many bits of an index name the share, at most 8; 0 is the whole space.
    pub bits: u8,
}

/// The bits of a receiver index that name the peer.
const PEER_BITS: u32 = 24;
/// The bits of a receiver index that name the session.
const SESSION_BITS: u32 = 8;

/// The peers by their index.
#[derive(Debug)]
pub struct Indices {
    shard: Shard,
    peers: HashMap<u32, PeerId>,
}

impl Indices {
    /// An empty table for one share of the space.
    pub fn new(shard: Shard) -> Self {
        let bits = shard.bits.min(8);
        let number = shard.number & !u8::MAX.checked_shl(bits.into()).unwrap_or(0);
        let shard = Shard { number, bits };
        let peers = HashMap::new();
        Self { shard, peers }
    }

    /// The peer that a message's receiver index names.
    pub fn peer(&self, receiver: u32) -> Option<PeerId> {
        self.peers.get(&(receiver >> SESSION_BITS)).copied()
    }

    /// A fresh random index of 24 bits for a peer, or `None` while half of the space is in use.
    pub fn allocate(&mut self, peer: PeerId, rng: &mut impl Rng) -> Option<u32> {
        let free_bits = PEER_BITS - u32::from(self.shard.bits);
        let space = 1 << free_bits;
        if self.peers.len() >= space / 2 {
            return None;
        }
        loop {
            let random = rng.random_range(0..1u32 << free_bits);
            let index = u32::from(self.shard.number) << free_bits | random;
            if let Entry::Vacant(entry) = self.peers.entry(index) {
                entry.insert(peer);
                return Some(index);
            }
        }
    }

    /// Makes an index free again.
    pub fn release(&mut self, index: u32) {
        self.peers.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn indices_are_unique_within_24_bits_and_found_with_any_session() {
        let (mut indices, mut rng) = (Indices::new(Shard::default()), StdRng::seed_from_u64(1));
        for n in 0..5000 {
            let index = indices.allocate(PeerId(n), &mut rng).unwrap();
            assert!(index < 1 << 24);
            assert_eq!(indices.peer(index << 8), Some(PeerId(n)));
            assert_eq!(indices.peer(index << 8 | 0xFF), Some(PeerId(n)));
        }
        assert_eq!(indices.peers.len(), 5000);
    }

    #[test]
    fn the_shard_is_in_the_top_bits() {
        let shard = Shard { number: 5, bits: 3 };
        let (mut indices, mut rng) = (Indices::new(shard), StdRng::seed_from_u64(2));
        for n in 0..100 {
            let index = indices.allocate(PeerId(n), &mut rng).unwrap();
            assert_eq!((index << 8) >> 29, 5);
        }
    }

    #[test]
    fn a_released_index_names_nobody() {
        let (mut indices, mut rng) = (Indices::new(Shard::default()), StdRng::seed_from_u64(3));
        let index = indices.allocate(PeerId(7), &mut rng).unwrap();
        indices.release(index);
        assert_eq!(indices.peer(index << 8), None);
    }

    #[test]
    fn refuses_rather_than_search_a_full_space() {
        let shard = Shard { number: 0, bits: 8 };
        let (mut indices, mut rng) = (Indices::new(shard), StdRng::seed_from_u64(4));
        let given = (0..).map_while(|n| indices.allocate(PeerId(n), &mut rng));
        assert_eq!(given.count(), 1 << 15);
    }
}
