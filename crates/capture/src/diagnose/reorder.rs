//! Sorts packets by time: captures that were concatenated, or taken on several queues, are not in
//! order.
//!
//! It buffers a bounded number of bytes. A packet that arrives too late is passed on at once and
//! counted.

use super::timestamp::Timestamp;
use std::collections::BTreeMap;

/// Capacity of the buffer in bytes, at least the size of a typical capture that users send.
const CAPACITY: usize = 128 << 20;

/// A packet with its time and its number in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub time: Timestamp,
    pub number: u64,
    pub link: i32,
    pub bytes: Box<[u8]>,
}

/// Packets in the order of their times, then of their numbers.
#[derive(Debug)]
pub(super) struct Reorder {
    held: BTreeMap<(Timestamp, u64), Held>,
    bytes: usize,
    capacity: usize,
    last: Timestamp,
    /// Packets that came too late.
    pub late: u64,
}

impl Reorder {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            held: BTreeMap::new(),
            bytes: 0,
            capacity,
            last: Timestamp::default(),
            late: 0,
        }
    }

    /// Adds a packet. Returns the next one in order, if there are too many bytes.
    pub(super) fn push(&mut self, packet: Held) -> Option<Held> {
        self.bytes += cost(&packet.bytes);
        self.late += u64::from(packet.time < self.last);
        self.held.insert((packet.time, packet.number), packet);
        (self.bytes > self.capacity).then(|| self.pop()).flatten()
    }

    /// Removes the next packet in order.
    pub(super) fn pop(&mut self) -> Option<Held> {
        let (_, packet) = self.held.pop_first()?;
        self.bytes -= cost(&packet.bytes);
        self.last = self.last.max(packet.time);
        Some(packet)
    }
}

fn cost(bytes: &[u8]) -> usize {
    const OVERHEAD: usize = 64;
    bytes.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(reorder: &mut Reorder, times: &[u64]) -> Vec<u64> {
        let mut out = Vec::new();
        for (number, time) in (1..).zip(times) {
            out.extend(reorder.push(Held {
                time: Timestamp::from_nanoseconds(*time),
                number,
                link: 1,
                bytes: Box::new([0; 36]),
            }));
        }
        out.extend(std::iter::from_fn(|| reorder.pop()));
        out.iter().map(|held| held.number).collect()
    }

    #[test]
    fn sorts_by_time_and_then_by_number() {
        let mut reorder = Reorder::new();
        assert_eq!(pass(&mut reorder, &[5, 9, 5, 1, 7]), [4, 1, 3, 5, 2]);
        assert_eq!((reorder.late, reorder.bytes), (0, 0));
    }

    #[test]
    fn holds_no_more_than_it_may_and_counts_what_is_late() {
        let mut reorder = Reorder::with_capacity(200);
        assert_eq!(pass(&mut reorder, &[1, 3, 2, 4, 1, 5]), [1, 3, 5, 2, 4, 6]);
        assert_eq!(reorder.late, 1);
    }
}
