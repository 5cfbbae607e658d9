//! What was changed in a stream, for as long as it may have to be changed again.

use super::position::Position;
use crate::wire::packet::Payload;
use std::collections::VecDeque;

/// More session setups than any client sends before the server acknowledges the first.
const MOST: usize = 256;

/// Two bytes of the stream that are other than the client sent them.
#[derive(Debug, Clone, Copy)]
struct Patch {
    at: Position,
    bytes: [u8; 2],
}

/// The patches that the server has not acknowledged, in the order of the stream.
#[derive(Debug, Default)]
pub(super) struct Patches(VecDeque<Patch>);

impl Patches {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From now on the two bytes at `at` are these. False if there are too many patches.
    #[must_use]
    pub fn add(&mut self, at: Position, bytes: [u8; 2]) -> bool {
        if self.0.len() >= MOST {
            return false;
        }
        self.0.push_back(Patch { at, bytes });
        true
    }

    /// The server has all before `ack`: nobody needs to see those bytes again.
    pub fn acknowledge(&mut self, ack: Position) {
        while self.0.front().is_some_and(|p| p.at.plus(2) <= ack) {
            self.0.pop_front();
        }
    }

    /// Changes what a payload that begins at `start` holds of the patched bytes.
    pub fn apply(&self, start: Position, payload: &mut Payload<'_>) {
        for patch in &self.0 {
            for (at, byte) in [
                (patch.at, patch.bytes[0]),
                (patch.at.plus(1), patch.bytes[1]),
            ] {
                if start <= at {
                    payload.write(at.since(start), byte);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(patches: &Patches, start: Position, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        patches.apply(start, &mut Payload::new(&mut bytes));
        bytes
    }

    #[test]
    fn patches_whole_and_half_until_acknowledged() {
        let origin = Position::behind_syn(u32::MAX - 3);
        let mut patches = Patches::default();
        assert!(patches.add(origin.plus(2), [7, 8]));
        assert!(patches.add(origin.plus(5), [9, 9]));
        assert_eq!(applied(&patches, origin, 8), [0, 0, 7, 8, 0, 9, 9, 0]);
        assert_eq!(applied(&patches, origin, 3), [0, 0, 7]);
        assert_eq!(applied(&patches, origin.plus(3), 2), [8, 0]);
        patches.acknowledge(origin.plus(3));
        assert_eq!(applied(&patches, origin.plus(3), 2), [8, 0]);
        patches.acknowledge(origin.plus(4));
        assert_eq!(applied(&patches, origin, 8), [0, 0, 0, 0, 0, 9, 9, 0]);
        patches.acknowledge(origin.plus(7));
        assert!(patches.is_empty());
    }

    #[test]
    fn has_a_bound() {
        let mut patches = Patches::default();
        let at = |n: usize| Position::behind_syn(0).plus(n * 2);
        assert!((0..MOST).all(|n| patches.add(at(n), [1, 0])));
        assert!(!patches.add(at(MOST), [1, 0]));
    }
}
