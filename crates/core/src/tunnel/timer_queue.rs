//! The peers by their next timeout. A peer without a timer is not stored and costs nothing.

use crate::ids::PeerId;
use std::collections::BTreeSet;
use std::time::Instant;

/// Peers and their timeouts, the earliest first; a peer has at most one.
#[derive(Debug, Default)]
pub(super) struct TimerQueue(BTreeSet<(Instant, PeerId)>);

impl TimerQueue {
    /// Sets or clears a peer's timeout. `current` is where the peer keeps the one in the queue.
    pub(super) fn set(
        &mut self,
        peer: PeerId,
        current: &mut Option<Instant>,
        new: Option<Instant>,
    ) {
        if *current == new {
            return;
        }
        if let Some(old) = *current {
            self.0.remove(&(old, peer));
        }
        if let Some(new) = new {
            self.0.insert((new, peer));
        }
        *current = new;
    }

    /// Returns the earliest timeout.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Returns the first peer whose timeout is not after `now`. It stays first until it is set.
    pub(super) fn due(&self, now: Instant) -> Option<PeerId> {
        let (at, peer) = self.0.first()?;
        (*at <= now).then_some(*peer)
    }
}
