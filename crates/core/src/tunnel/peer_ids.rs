//! Allocation of peer ids.
//!
//! All shards add and remove the same peers in the same order, so they allocate the same ids. The
//! ids of removed peers are reused, oldest first: otherwise the tables indexed by id would grow
//! for the lifetime of the process. An id is never reused while state of its last peer may exist.

use crate::ids::PeerId;
use std::collections::VecDeque;

/// Minimum number of ids removed later than one that is reused. It keeps ids in the order of
/// addition, in which peers are listed, unless very many peers are removed.
const MIN_REMOVED: usize = 1024;

/// The ids that no peer has.
#[derive(Debug, Default)]
pub(super) struct PeerIds {
    /// The first id that no peer has had.
    unused: u32,
    /// The ids of removed peers, in the order of removal.
    removed: VecDeque<PeerId>,
    /// The number of `removed` ids, from the front, that no table refers to.
    reusable: usize,
}

impl PeerIds {
    /// Returns the id of the next peer.
    pub(super) fn next(&self) -> PeerId {
        let oldest = self.removed.front();
        oldest
            .filter(|_| self.can_reuse())
            .copied()
            .unwrap_or(PeerId(self.unused))
    }

    /// Marks the [`next`](Self::next) id as used.
    pub(super) fn take_next(&mut self) {
        if self.can_reuse() {
            self.removed.pop_front();
            self.reusable -= 1;
        } else {
            self.unused += 1;
        }
    }

    /// Skips the next unused id.
    pub(super) fn skip(&mut self) {
        self.unused += 1;
    }

    /// Notes that the peer with this id was removed.
    pub(super) fn note_removed(&mut self, id: PeerId) {
        self.removed.push_back(id);
    }

    /// Makes the ids of the peers removed so far reusable.
    pub(super) fn release_removed(&mut self) {
        self.reusable = self.removed.len();
    }

    fn can_reuse(&self) -> bool {
        self.reusable > 0 && self.removed.len() > MIN_REMOVED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(ids: &mut PeerIds) -> PeerId {
        let id = ids.next();
        ids.take_next();
        id
    }

    #[test]
    fn ids_are_reused_in_the_order_of_removal_once_enough_were_removed() {
        let mut ids = PeerIds::default();
        let first: Vec<_> = (0..2000).map(|_| add(&mut ids)).collect();
        assert!((0..).map(PeerId).zip(&first).all(|(n, id)| n == *id));
        first[..MIN_REMOVED]
            .iter()
            .for_each(|id| ids.note_removed(*id));
        ids.release_removed();
        assert_eq!(add(&mut ids), PeerId(2000));
        ids.note_removed(first[1500]);
        ids.release_removed();
        assert_eq!(add(&mut ids), first[0]);
        assert_eq!(add(&mut ids), PeerId(2001));
    }

    #[test]
    fn an_id_is_not_reused_before_it_is_released() {
        let mut ids = PeerIds::default();
        (0..2 * MIN_REMOVED as u32).for_each(|n| ids.note_removed(PeerId(n)));
        assert_eq!(add(&mut ids), PeerId(0), "an id that no peer has had");
        ids.release_removed();
        assert_eq!(add(&mut ids), PeerId(0), "the oldest removed id");
    }
}
