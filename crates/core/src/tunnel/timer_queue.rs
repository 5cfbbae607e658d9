//! When which peer needs a look: idle peers are not in here and cost nothing.

use crate::ids::PeerId;
use std::collections::BTreeSet;
use std::time::Instant;

/// The peers that something is due for, the earliest first. A peer is in it once at most.
#[derive(Debug, Default)]
pub struct TimerQueue(BTreeSet<(Instant, PeerId)>);

impl TimerQueue {
    /// Moves a peer to another time, or takes it out. `at` is the place the peer keeps its
    /// present time in.
    pub fn set(&mut self, peer: PeerId, at: &mut Option<Instant>, due: Option<Instant>) {
        if *at == due {
            return;
        }
        if let Some(old) = *at {
            self.0.remove(&(old, peer));
        }
        if let Some(new) = due {
            self.0.insert((new, peer));
        }
        *at = due;
    }

    /// The earliest time that something is due.
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The first peer that something is due for at `now`. It stays until it is set anew.
    pub fn due(&self, now: Instant) -> Option<PeerId> {
        let (at, peer) = self.0.first()?;
        (*at <= now).then_some(*peer)
    }
}
