//! Segments that came before the bytes that they follow.
//!
//! A store with bounds, for one flow and for all together; it does not know what it stores.

use crate::tcp_stream::position::Position;
use vcgate_wire::packet::Payload;

/// The most segments of one flow that wait: a window of 128 KB in full-sized segments and more.
const MOST_SEGMENTS: usize = 128;

/// How many bytes all flows together may keep waiting.
#[derive(Debug)]
pub struct MemoryBudget {
    /// Bytes that may still be taken.
    pub left: usize,
}

impl MemoryBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }
}

/// The segments of one direction of a connection that wait.
#[derive(Debug)]
pub struct ReorderBuffer {
    /// In the order of their places, one for each place.
    waiting: Vec<(Position, Vec<u8>)>,
    bytes: usize,
    most: usize,
}

impl ReorderBuffer {
    /// A store for at most so many bytes.
    pub fn new(most: usize) -> Self {
        Self {
            waiting: Vec::new(),
            bytes: 0,
            most,
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

    /// Whether that many bytes more would fit.
    pub fn fits(&self, bytes: usize, budget: &MemoryBudget) -> bool {
        self.waiting.len() < MOST_SEGMENTS
            && self.bytes + bytes <= self.most
            && bytes <= budget.left
    }

    /// Keeps a segment; of two at the same place only the longer one. False if it does not fit.
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
        budget.left -= segment.len();
        match place {
            Ok(same) => {
                let shorter = std::mem::replace(&mut self.waiting[same].1, segment);
                self.bytes -= shorter.len();
                budget.left += shorter.len();
            }
            Err(between) => self.waiting.insert(between, (at, segment)),
        }
        true
    }

    /// Keeps a copy of a payload, as [`keep`](Self::keep) does.
    #[must_use]
    pub fn copy(&mut self, at: Position, payload: &Payload<'_>, budget: &mut MemoryBudget) -> bool {
        if !self.fits(payload.len(), budget) {
            return false;
        }
        let mut bytes = vec![0; payload.len()];
        payload.read(0, &mut bytes);
        self.keep(at, bytes, budget)
    }

    /// Takes the first segment out, if it begins at `until` or before.
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

    /// Takes the first segment out.
    pub fn take_any(&mut self, budget: &mut MemoryBudget) -> Option<(Position, Vec<u8>)> {
        (!self.waiting.is_empty()).then(|| self.take_first(budget))
    }

    /// Throws all away.
    pub fn clear(&mut self, budget: &mut MemoryBudget) {
        budget.left += self.bytes;
        (self.waiting, self.bytes) = (Vec::new(), 0);
    }

    fn take_first(&mut self, budget: &mut MemoryBudget) -> (Position, Vec<u8>) {
        let first = self.waiting.remove(0);
        self.bytes -= first.1.len();
        budget.left += first.1.len();
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: usize) -> Position {
        Position::after_syn(0).plus(offset)
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
        assert_eq!((early.take_any(&mut budget), budget.left), (None, 100));
    }

    #[test]
    fn of_two_at_one_place_the_longer_stays() {
        let (mut early, mut budget) = (ReorderBuffer::new(100), MemoryBudget::new(100));
        for len in [5, 8, 3] {
            assert!(early.keep(at(0), vec![0; len], &mut budget));
        }
        assert_eq!((early.len(), budget.left), (1, 92));
        assert_eq!(early.take_any(&mut budget), Some((at(0), vec![0; 8])));
        assert_eq!(budget.left, 100);
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
        assert!((0..MOST_SEGMENTS).all(|n| many.keep(at(n), vec![0], &mut budget)));
        assert!(!many.keep(at(MOST_SEGMENTS), vec![0], &mut budget));
    }
}
