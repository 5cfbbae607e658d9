//! Receiver indices: the field of a message that identifies the peer and its session.
//!
//! A receiver index has 32 bits: boringtun counts sessions in the low 8; the high 24 belong to the
//! peer and are chosen here at random, so that they reveal nothing to an observer. Where several
//! shards share a port, the top bits of every index are the shard's number, which a filter on the
//! socket can read.

use crate::ids::{PeerId, ShardId};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use rand::{Rng, RngExt};

/// The bits of a receiver index that identify the peer.
const PEER_BITS: u32 = 24;
/// The bits of a receiver index that identify the session.
const SESSION_BITS: u32 = 8;

/// The peers by their index.
#[derive(Debug)]
pub(super) struct Indices {
    shard: ShardId,
    peers: HashMap<u32, PeerId>,
}

impl Indices {
    /// Returns an empty table for one shard's part of the space.
    pub(super) fn new(shard: ShardId) -> Self {
        let peers = HashMap::new();
        Self { shard, peers }
    }

    /// Returns the number of the shard in a receiver index; such a shard may not exist.
    pub(super) fn shard(&self, receiver: u32) -> u8 {
        let below = u32::BITS - self.shard.bits();
        receiver.checked_shr(below).unwrap_or(0) as u8
    }

    /// Returns the peer that has this receiver index.
    pub(super) fn peer(&self, receiver: u32) -> Option<PeerId> {
        self.peers.get(&(receiver >> SESSION_BITS)).copied()
    }

    /// Allocates a random index of 24 bits for a peer; `None` while half of the space is in use.
    pub(super) fn allocate(&mut self, peer: PeerId, rng: &mut impl Rng) -> Option<u32> {
        let free_bits = PEER_BITS - self.shard.bits();
        let space = 1 << free_bits;
        if self.peers.len() >= space / 2 {
            return None;
        }
        loop {
            let random = rng.random_range(0..1u32 << free_bits);
            let index = u32::from(self.shard.number()) << free_bits | random;
            if let Entry::Vacant(entry) = self.peers.entry(index) {
                entry.insert(peer);
                return Some(index);
            }
        }
    }

    /// Frees an index.
    pub(super) fn release(&mut self, index: u32) {
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
        let (mut indices, mut rng) = (Indices::new(ShardId::default()), StdRng::seed_from_u64(1));
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
        for shard in [1, 2, 5, 8, 64].into_iter().flat_map(ShardId::all) {
            let (mut indices, mut rng) = (Indices::new(shard), StdRng::seed_from_u64(2));
            for n in 0..20 {
                let index = indices.allocate(PeerId(n), &mut rng).unwrap();
                assert!(index < 1 << 24);
                assert_eq!(indices.shard(index << 8 | 0xFF), shard.number());
            }
        }
    }

    #[test]
    fn a_released_index_has_no_peer() {
        let (mut indices, mut rng) = (Indices::new(ShardId::default()), StdRng::seed_from_u64(3));
        let index = indices.allocate(PeerId(7), &mut rng).unwrap();
        indices.release(index);
        assert_eq!(indices.peer(index << 8), None);
    }

    #[test]
    fn a_half_full_space_allocates_no_more() {
        let last = ShardId::all(ShardId::MAX).last().unwrap();
        let (mut indices, mut rng) = (Indices::new(last), StdRng::seed_from_u64(4));
        let given = (0..).map_while(|n| indices.allocate(PeerId(n), &mut rng));
        assert_eq!(given.count(), 1 << 17);
    }
}
