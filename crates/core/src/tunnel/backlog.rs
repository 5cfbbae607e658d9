//! Packets that wait for a session, bounded in number and in bytes.
//!
//! When it is full the oldest goes, as in the kernel: the newest is the one still wanted.

use std::collections::VecDeque;

/// The most packets that wait for one peer (the kernel's MAX_STAGED_PACKETS).
pub const MOST_PACKETS: usize = 128;
/// The most bytes that wait for one peer: a few initial TCP windows.
pub const MOST_BYTES: usize = 64 * 1024;

/// The waiting packets of one peer, oldest first.
#[derive(Debug, Default)]
pub struct Backlog {
    packets: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Backlog {
    /// Adds a packet, at the cost of the oldest ones if need be.
    pub fn push(&mut self, packet: &[u8]) {
        if packet.len() > MOST_BYTES {
            return;
        }
        while self.packets.len() >= MOST_PACKETS || self.bytes + packet.len() > MOST_BYTES {
            self.pop();
        }
        self.bytes += packet.len();
        self.packets.push_back(packet.into());
    }

    /// The oldest packet; an emptied backlog holds no memory.
    pub fn pop(&mut self) -> Option<Box<[u8]>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        if self.packets.is_empty() {
            self.packets = VecDeque::new();
        }
        Some(packet)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.packets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn keeps_the_newest_in_order_and_within_both_bounds(
            lens in prop::collection::vec(prop_oneof![0usize..64, 1300usize..1420, 60_000usize..70_000], 0..300)
        ) {
            let mut backlog = Backlog::default();
            for (n, len) in lens.iter().enumerate() {
                let mut packet = vec![0; *len];
                packet.iter_mut().take(2).zip((n as u16).to_be_bytes()).for_each(|(b, v)| *b = v);
                backlog.push(&packet);
                prop_assert!(backlog.len() <= MOST_PACKETS && backlog.bytes <= MOST_BYTES);
            }
            let waiting: Vec<usize> = lens.iter().copied().filter(|len| *len <= MOST_BYTES).collect();
            let kept: Vec<usize> = std::iter::from_fn(|| backlog.pop()).map(|p| p.len()).collect();
            prop_assert!(waiting.ends_with(&kept));
            prop_assert_eq!(backlog.bytes, 0);
            prop_assert!(kept.len() == waiting.len() || !kept.is_empty());
        }
    }
}
