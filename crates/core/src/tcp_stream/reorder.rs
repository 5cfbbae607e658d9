//! A buffer for out-of-order segments, with limits for one flow, for all flows of a holder, and for
//! all flows. It never reads the segments.

use crate::tcp_stream::position::Position;
use std::collections::HashMap;
use vcgate_wire::packet::Payload;

/// Maximum number of segments of one flow, more than a window of 128 KB in full-sized segments.
const MAX_SEGMENTS: usize = 128;

/// The owner of a share of the budget, such as a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Holder(pub u32);

/// Maximum number of buffered bytes in all flows.
#[derive(Debug)]
pub struct MemoryBudget {
    left: usize,
    share: usize,
    /// Bytes of each holder.
    used: HashMap<Holder, usize>,
}

impl MemoryBudget {
    /// Creates a budget of `bytes`, which a single holder may use up.
    pub fn new(bytes: usize) -> Self {
        Self::in_shares(bytes, bytes)
    }

    /// Creates a budget of `bytes`, of which one holder may use at most `share`.
    pub fn in_shares(bytes: usize, share: usize) -> Self {
        Self {
            left: bytes,
            share,
            used: HashMap::new(),
        }
    }

    /// Returns the number of free bytes.
    pub fn left(&self) -> usize {
        self.left
    }

    fn fits(&self, holder: Holder, bytes: usize) -> bool {
        let used = self.used.get(&holder).copied().unwrap_or_default();
        bytes <= self.left && used + bytes <= self.share
    }

    fn take(&mut self, holder: Holder, bytes: usize) {
        self.left -= bytes;
        *self.used.entry(holder).or_default() += bytes;
    }

    fn give_back(&mut self, holder: Holder, bytes: usize) {
        self.left += bytes;
        if let Some(used) = self.used.get_mut(&holder) {
            *used -= bytes;
            if *used == 0 {
                self.used.remove(&holder);
            }
        }
    }
}

/// The out-of-order segments of one direction of a connection.
#[derive(Debug)]
pub struct ReorderBuffer {
    /// In the order of their positions, at most one for each position.
    waiting: Vec<(Position, Vec<u8>)>,
    bytes: usize,
    capacity: usize,
    holder: Holder,
}

impl ReorderBuffer {
    /// Creates a buffer for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self::held_by(Holder::default(), capacity)
    }

    /// Creates a buffer for `capacity` bytes of the share of `holder`.
    pub fn held_by(holder: Holder, capacity: usize) -> Self {
        Self {
            waiting: Vec::new(),
            bytes: 0,
            capacity,
            holder,
        }
    }

    /// Number of buffered segments.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no segment is buffered.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether `bytes` more bytes fit.
    pub fn fits(&self, bytes: usize, budget: &MemoryBudget) -> bool {
        self.has_space(bytes) && budget.fits(self.holder, bytes)
    }

    /// Whether `bytes` more bytes fit the limits of this flow alone.
    pub fn has_space(&self, bytes: usize) -> bool {
        self.waiting.len() < MAX_SEGMENTS && self.bytes + bytes <= self.capacity
    }

    /// Buffers a segment; of two at the same position only the longer one. False if it does not
    /// fit.
    #[must_use]
    pub fn keep(&mut self, at: Position, segment: Vec<u8>, budget: &mut MemoryBudget) -> bool {
        let place = self.waiting.binary_search_by_key(&at, |(at, _)| *at);
        if let Ok(same) = place
            && self.waiting[same].1.len() >= segment.len()
        {
            return true;
        }
        if !self.fits(segment.len(), budget) {
            return false;
        }
        self.bytes += segment.len();
        budget.take(self.holder, segment.len());
        match place {
            Ok(same) => {
                let shorter = std::mem::replace(&mut self.waiting[same].1, segment);
                self.bytes -= shorter.len();
                budget.give_back(self.holder, shorter.len());
            }
            Err(between) => self.waiting.insert(between, (at, segment)),
        }
        true
    }

    /// Buffers a copy of a payload, as [`keep`](Self::keep) does.
    #[must_use]
    pub fn copy(&mut self, at: Position, payload: &Payload<'_>, budget: &mut MemoryBudget) -> bool {
        if !self.fits(payload.len(), budget) {
            return false;
        }
        let mut bytes = vec![0; payload.len()];
        payload.read(0, &mut bytes);
        self.keep(at, bytes, budget)
    }

    /// Removes the first segment, if it begins at `until` or before.
    pub fn take(
        &mut self,
        until: Position,
        budget: &mut MemoryBudget,
    ) -> Option<(Position, Vec<u8>)> {
        if self.waiting.first()?.0 > until {
            return None;
        }
        Some(self.take_first(budget))
    }

    /// Removes the first segment.
    pub fn take_any(&mut self, budget: &mut MemoryBudget) -> Option<(Position, Vec<u8>)> {
        (!self.waiting.is_empty()).then(|| self.take_first(budget))
    }

    /// Removes all segments.
    pub fn clear(&mut self, budget: &mut MemoryBudget) {
        budget.give_back(self.holder, self.bytes);
        (self.waiting, self.bytes) = (Vec::new(), 0);
    }

    fn take_first(&mut self, budget: &mut MemoryBudget) -> (Position, Vec<u8>) {
        let first = self.waiting.remove(0);
        self.bytes -= first.1.len();
        budget.give_back(self.holder, first.1.len());
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate_wire::tcp::SeqNumber;

    fn at(offset: usize) -> Position {
        Position::after_syn(SeqNumber(0)).plus(offset)
    }

    #[test]
    fn gives_back_in_order_and_only_what_is_due() {
        let (mut early, mut budget) = (ReorderBuffer::new(100), MemoryBudget::new(100));
        for offset in [30, 10, 20] {
            assert!(early.keep(at(offset), vec![offset as u8; 5], &mut budget));
        }
        assert_eq!(early.take(at(9), &mut budget), None);
        assert_eq!(early.take(at(20), &mut budget), Some((at(10), vec![10; 5])));
        assert_eq!(early.take(at(20), &mut budget), Some((at(20), vec![20; 5])));
        assert_eq!(early.take(at(20), &mut budget), None);
        assert_eq!(early.take_any(&mut budget), Some((at(30), vec![30; 5])));
        assert_eq!((early.take_any(&mut budget), budget.left()), (None, 100));
    }

    #[test]
    fn of_two_at_one_place_the_longer_stays() {
        let (mut early, mut budget) = (ReorderBuffer::new(100), MemoryBudget::new(100));
        for len in [5, 8, 3] {
            assert!(early.keep(at(0), vec![0; len], &mut budget));
        }
        assert_eq!((early.len(), budget.left()), (1, 92));
        assert_eq!(early.take_any(&mut budget), Some((at(0), vec![0; 8])));
        assert_eq!(budget.left(), 100);
    }

    #[test]
    fn has_a_bound_for_one_and_for_all() {
        let mut budget = MemoryBudget::new(15);
        let (mut one, mut other) = (ReorderBuffer::new(10), ReorderBuffer::new(10));
        assert!(one.keep(at(0), vec![0; 10], &mut budget));
        assert!(!one.keep(at(1), vec![0; 1], &mut budget));
        assert!(!other.keep(at(0), vec![0; 6], &mut budget));
        assert!(other.keep(at(0), vec![0; 5], &mut budget));
        one.clear(&mut budget);
        assert!(one.is_empty());
        assert!(other.keep(at(9), vec![0; 5], &mut budget));
        let (mut many, mut budget) = (ReorderBuffer::new(1000), MemoryBudget::new(1000));
        assert!((0..MAX_SEGMENTS).all(|n| many.keep(at(n), vec![0], &mut budget)));
        assert!(!many.keep(at(MAX_SEGMENTS), vec![0], &mut budget));
    }

    #[test]
    fn a_holder_takes_its_share_and_no_more() {
        let mut budget = MemoryBudget::in_shares(25, 10);
        let mut stores = [1, 1, 2, 3].map(|n| ReorderBuffer::held_by(Holder(n), 100));
        let [one, same, other, last] = &mut stores;
        assert!(one.keep(at(0), vec![0; 6], &mut budget));
        assert!(!same.keep(at(0), vec![0; 5], &mut budget));
        assert!(same.keep(at(0), vec![0; 4], &mut budget));
        assert!(other.keep(at(0), vec![0; 10], &mut budget));
        assert!(!last.keep(at(0), vec![0; 6], &mut budget), "of all");
        assert!(last.has_space(6));
        one.clear(&mut budget);
        assert!(same.keep(at(9), vec![0; 6], &mut budget));
        for store in &mut stores {
            store.clear(&mut budget);
        }
        assert_eq!((budget.left(), budget.used.len()), (25, 0));
    }
}
