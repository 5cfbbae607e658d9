//! Packets that wait for a session, bounded in number and in bytes.
//!
//! A full backlog drops the oldest packet, as in the kernel: the newest is still wanted.

use std::collections::VecDeque;

/// Maximum number of packets that wait for one peer (the kernel's MAX_STAGED_PACKETS).
pub(super) const MAX_PACKETS: usize = 128;
/// Maximum size of the packets that wait for one peer, in bytes: a few initial TCP windows.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// The waiting packets of one peer, oldest first.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    packets: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Backlog {
    /// Adds a packet, dropping the oldest ones if there is no space.
    pub(super) fn push(&mut self, packet: &[u8]) {
        if packet.len() > MAX_BYTES {
            return;
        }
        while self.packets.len() >= MAX_PACKETS || self.bytes + packet.len() > MAX_BYTES {
            self.pop();
        }
        self.bytes += packet.len();
        self.packets.push_back(packet.into());
    }

    /// Removes the oldest packet; an empty backlog holds no memory.
    pub(super) fn pop(&mut self) -> Option<Box<[u8]>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        if self.packets.is_empty() {
            self.packets = VecDeque::new();
        }
        Some(packet)
    }

    /// Drops all packets.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns whether no packet waits.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Returns the number of packets that wait.
    pub(super) fn len(&self) -> usize {
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
        fn the_newest_packets_are_kept_in_order_and_within_both_bounds(
            lens in prop::collection::vec(prop_oneof![0usize..64, 1300usize..1420, 60_000usize..70_000], 0..300)
        ) {
            let mut backlog = Backlog::default();
            for (n, len) in lens.iter().enumerate() {
                let mut packet = vec![0; *len];
                packet.iter_mut().take(2).zip((n as u16).to_be_bytes()).for_each(|(b, v)| *b = v);
                backlog.push(&packet);
                prop_assert!(backlog.len() <= MAX_PACKETS && backlog.bytes <= MAX_BYTES);
            }
            let waiting: Vec<usize> = lens.iter().copied().filter(|len| *len <= MAX_BYTES).collect();
            let kept: Vec<usize> = std::iter::from_fn(|| backlog.pop()).map(|p| p.len()).collect();
            prop_assert!(waiting.ends_with(&kept));
            prop_assert_eq!(backlog.bytes, 0);
            prop_assert!(kept.len() == waiting.len() || !kept.is_empty());
        }
    }
}
