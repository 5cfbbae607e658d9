//! Starts handshakes after a restart of the endpoint.
//!
//! The clients still use the sessions of the last run, which no longer exist, and a client that
//! sends notices that only after 15 s. So the endpoint starts a handshake with each peer that may
//! have a session. The responses pass the handshake limiter like all handshake messages, so the
//! handshakes are spread over time.

use super::Tunnel;
use super::handshake_limiter::LOAD_THRESHOLD;
use super::peer::Peer;
use crate::ids::PeerId;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time between two of these handshakes. The responses then arrive at four fifths of the rate
/// from which senders must prove their address.
pub(super) const RESUME_INTERVAL: Duration = Duration::from_millis(1250 / LOAD_THRESHOLD);

/// The peers that wait for a handshake, in order.
#[derive(Debug, Default)]
pub(super) struct Resuming {
    peers: VecDeque<PeerId>,
    /// The time of the first handshake.
    due: Option<Instant>,
}

impl Resuming {
    /// Returns the time of the next handshake.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.filter(|_| !self.peers.is_empty())
    }

    /// Removes and returns the next peer whose handshake is due.
    fn pop_due(&mut self, now: Instant) -> Option<PeerId> {
        let due = self.next().filter(|due| *due <= now)?;
        self.due = Some(due + RESUME_INTERVAL);
        self.peers.pop_front()
    }
}

impl Tunnel {
    /// Starts handshakes with these peers of this shard, the first one at once and the others every
    /// few milliseconds. A peer without a known address, or that has connected before its handshake
    /// is due, is skipped.
    pub fn resume(&mut self, peers: impl IntoIterator<Item = PeerId>, now: Instant) {
        self.resuming.due = Some(self.resuming.next().unwrap_or(now));
        self.resuming.peers.extend(peers);
    }

    /// Starts the handshakes that are due; the timers of the peers, which run next, send them.
    pub(super) fn resume_due(&mut self, now: Instant) {
        while let Some(peer) = self.resuming.pop_due(now) {
            self.with_peer(peer, now, |peer: &mut Peer, ctx| {
                if !peer.ready {
                    peer.initiate(ctx);
                }
            });
        }
    }
}
