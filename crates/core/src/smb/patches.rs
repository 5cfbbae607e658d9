//! Changed bytes of a stream, so that every retransmission is changed in the same way.
//!
//! A retransmission without its patch would give the server two streams. A client also retransmits
//! bytes whose acknowledgement was lost, so patches outlive the acknowledgement, and only
//! acknowledged ones are evicted. The module never decides what to change.

use super::numbers::VcNumber;
use super::report::Change;
use crate::tcp_stream::position::Position;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use vcgate_wire::packet::Payload;
use vcgate_wire::tcp::SeqNumber;

/// Maximum number of patches of a connection, more than the session setups of any client.
const MAX_PATCHES: usize = 256;

/// Two changed bytes of the stream.
#[derive(Debug, Clone, Copy)]
struct Patch {
    at: Position,
    /// Only the low byte until the second byte has arrived.
    sent: u16,
    given: VcNumber,
}

/// Two bytes of the stream that the client sent as `sent` and the server got as `given`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PatchSnapshot {
    at: SeqNumber,
    sent: u16,
    given: VcNumber,
}

impl PatchSnapshot {
    /// Returns the sequence number of the first changed byte.
    pub(super) fn at(&self) -> SeqNumber {
        self.at
    }
}

impl From<&Patch> for PatchSnapshot {
    fn from(&Patch { at, sent, given }: &Patch) -> Self {
        let at = at.seq();
        Self { at, sent, given }
    }
}

/// All [`MAX_PATCHES`] patches are unacknowledged.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The newest patches of a connection, in the order of the stream.
#[derive(Debug, Default)]
pub(super) struct Patches {
    patches: VecDeque<Patch>,
    /// Number of the newest patches that the server has not acknowledged.
    open: usize,
}

impl Patches {
    /// Whether the server has acknowledged every patch.
    pub(super) fn are_acknowledged(&self) -> bool {
        self.open == 0
    }

    /// Returns the number of patches that the server has not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.open
    }

    /// Exports the patches that the server has not acknowledged, and returns the position after them.
    pub(super) fn keep_unacknowledged(&self) -> Option<(Position, Vec<PatchSnapshot>)> {
        let end = self.patches.back()?.at.plus(2);
        let open = self.patches.range(self.patches.len() - self.open..);
        (self.open > 0).then(|| (end, open.map(PatchSnapshot::from).collect()))
    }

    /// Exports the patches whose position a sequence number identifies in a stream at `near`.
    pub(super) fn keep(&self, near: Position) -> Vec<PatchSnapshot> {
        let near = |patch: &&Patch| near.near(patch.at.seq()) == patch.at;
        let kept = self.patches.iter().filter(near);
        kept.map(PatchSnapshot::from).collect()
    }

    /// Imports patches into a stream at `near`.
    pub(super) fn restore(kept: &[PatchSnapshot], near: Position) -> Self {
        let patch = |&PatchSnapshot { at, sent, given }: &PatchSnapshot| Patch {
            at: near.near(at),
            sent,
            given,
        };
        let patches: VecDeque<_> = kept.iter().take(MAX_PATCHES).map(patch).collect();
        let open = patches.len();
        Self { patches, open }
    }

    /// Replaces the two bytes at `at` by those of `given`; the client's first byte was `low`.
    ///
    /// When the list is full, the oldest patch is evicted if the server has acknowledged it: a
    /// late copy then passes unchanged, and lies before the server's receive window (RFC 9293
    /// section 3.10.7.4).
    ///
    /// # Errors
    /// [`Full`] if the server has acknowledged none of the patches.
    pub(super) fn add(&mut self, at: Position, low: u8, given: VcNumber) -> Result<(), Full> {
        if self.patches.len() >= MAX_PATCHES {
            if self.open == self.patches.len() {
                return Err(Full);
            }
            self.patches.pop_front();
        }
        let sent = low.into();
        self.patches.push_back(Patch { at, sent, given });
        self.open += 1;
        Ok(())
    }

    /// Completes the client's number in the newest patch.
    pub(super) fn sent(&mut self, number: u16) {
        if let Some(newest) = self.patches.back_mut() {
            newest.sent = number;
        }
    }

    /// Notes that the server has received all bytes before `ack`.
    pub(super) fn acknowledge(&mut self, ack: Position) {
        if self.open > 0 {
            let acknowledged = self.patches.partition_point(|p| p.at.plus(2) <= ack);
            self.open = self.open.min(self.patches.len() - acknowledged);
        }
    }

    /// Patches a payload that begins at `start`.
    pub(super) fn apply(&self, start: Position, payload: &mut Payload<'_>) {
        // Most payloads follow the last logon.
        if self.patches.back().is_none_or(|p| p.at.plus(2) <= start) {
            return;
        }
        let end = start.plus(payload.len());
        for patch in self.within(start, end) {
            let [low, high] = patch.given.get().to_le_bytes();
            for (at, byte) in [(patch.at, low), (patch.at.plus(1), high)] {
                if start <= at {
                    payload.write(at.since(start), byte);
                }
            }
        }
    }

    /// Returns the patches that changed bytes of a payload that begins at `start`.
    pub(super) fn changes(&self, start: Position, len: usize) -> impl Iterator<Item = Change> + '_ {
        let end = start.plus(len);
        let differs = move |patch: &&Patch| {
            let (sent, given) = (patch.sent.to_le_bytes(), patch.given.get().to_le_bytes());
            let here = |offset| (start..end).contains(&patch.at.plus(offset));
            (0..2).any(|offset| here(offset) && sent[offset] != given[offset])
        };
        self.within(start, end).filter(differs).map(|patch| Change {
            asked: patch.sent,
            given: patch.given,
        })
    }

    /// Returns the patches with a byte in a range.
    fn within(&self, start: Position, end: Position) -> impl Iterator<Item = &Patch> {
        let first = self.patches.partition_point(|p| p.at.plus(2) <= start);
        let within = self.patches.range(first..);
        within.take_while(move |p| p.at < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vc(number: u16) -> VcNumber {
        VcNumber::new(number).unwrap()
    }

    fn applied(patches: &Patches, start: Position, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        patches.apply(start, &mut Payload::new(&mut bytes));
        bytes
    }

    #[test]
    fn patches_whole_and_half_whatever_is_acknowledged() {
        let origin = Position::after_syn(SeqNumber(u32::MAX - 3));
        let mut patches = Patches::default();
        assert_eq!(patches.add(origin.plus(2), 0, vc(0x0807)), Ok(()));
        assert_eq!(patches.add(origin.plus(5), 0, vc(0x0909)), Ok(()));
        for (ack, all) in [(0, false), (3, false), (4, false), (6, false), (7, true)] {
            patches.acknowledge(origin.plus(ack));
            assert_eq!(patches.are_acknowledged(), all);
            assert_eq!(applied(&patches, origin, 8), [0, 0, 7, 8, 0, 9, 9, 0]);
            assert_eq!(applied(&patches, origin, 3), [0, 0, 7]);
            assert_eq!(applied(&patches, origin.plus(3), 2), [8, 0]);
            assert_eq!(applied(&patches, origin.plus(4), 2), [0, 9]);
            assert_eq!(applied(&patches, origin.plus(6), 2), [9, 0]);
            assert_eq!(applied(&patches, origin.plus(7), 2), [0, 0]);
        }
        // An older acknowledgement that comes later takes nothing back.
        patches.acknowledge(origin);
        assert!(patches.are_acknowledged());
        assert_eq!(patches.add(origin.plus(8), 0, vc(1)), Ok(()));
        assert!(!patches.are_acknowledged());
    }

    #[test]
    fn a_change_is_where_a_byte_is_another() {
        let origin = Position::after_syn(SeqNumber(7));
        let mut patches = Patches::default();
        assert_eq!(patches.add(origin.plus(2), 0, vc(3)), Ok(()));
        let change = Change {
            asked: 0,
            given: vc(3),
        };
        let found = |patches: &Patches, at, len| -> Vec<Change> {
            patches.changes(origin.plus(at), len).collect()
        };
        assert_eq!(found(&patches, 0, 10), [change]);
        assert_eq!(found(&patches, 2, 1), [change]);
        assert_eq!(found(&patches, 0, 2), []);
        // The second byte is 0 before and after.
        assert_eq!(found(&patches, 3, 9), []);
        patches.sent(0x0100);
        let asked = 0x0100;
        assert_eq!(found(&patches, 3, 9), [Change { asked, ..change }]);
        patches.sent(3);
        assert_eq!(found(&patches, 0, 10), []);
    }

    #[test]
    fn rfc9293_3_4_half_the_sequence_numbers_later_a_place_is_not_kept() {
        let origin = Position::after_syn(SeqNumber(u32::MAX - 3));
        let mut patches = Patches::default();
        assert_eq!(patches.add(origin.plus(2), 0, vc(7)), Ok(()));
        assert_eq!(patches.add(origin.plus(3 << 30), 0, vc(8)), Ok(()));
        let kept = |sent| patches.keep(origin.plus(sent)).len();
        assert_eq!([3, 4, 5, 7].map(|gib: usize| kept(gib << 30)), [1, 1, 1, 0]);
        let near = origin.plus(3 << 30).plus(9);
        let restored = Patches::restore(&patches.keep(near), near);
        assert_eq!(applied(&restored, origin.plus(3 << 30), 3), [8, 0, 0]);
        assert_eq!(applied(&restored, origin.plus(2).plus(4 << 30), 3), [0; 3]);
    }

    #[test]
    fn only_what_the_server_has_acknowledged_is_evicted() {
        let mut patches = Patches::default();
        let at = |n: usize| Position::after_syn(SeqNumber(0)).plus(n * 2);
        assert!((0..MAX_PATCHES).all(|n| patches.add(at(n), 0, vc(1)).is_ok()));
        assert_eq!(patches.add(at(MAX_PATCHES), 0, vc(1)), Err(Full));
        patches.acknowledge(at(1));
        assert_eq!(patches.add(at(MAX_PATCHES), 0, vc(1)), Ok(()));
        let bytes = applied(&patches, at(0), 2 * MAX_PATCHES + 2);
        assert_eq!((bytes[0], bytes[2], bytes[2 * MAX_PATCHES]), (0, 1, 1));
        assert_eq!(patches.add(at(MAX_PATCHES + 1), 0, vc(1)), Err(Full));
    }
}
