//! Unsolicited SYNs from the LAN, held because a SYN from the client may turn them into a
//! simultaneous open (RFC 5382 REQ-4).
//!
//! It keeps the ICMP errors that answer them, and sends nothing.

use super::endpoint::{LanId, Outside, Remote};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time for which a SYN is held before it is answered.
pub(super) const SYN_HOLD_TIME: Duration = Duration::from_secs(6);

/// Maximum number of held SYNs; further ones are dropped in silence.
const MAX_HELD_SYNS: usize = 1024;

/// Maximum number of held SYNs of one host, which may scan ports.
const MAX_SYNS_OF_HOST: usize = 64;

#[derive(Debug)]
struct HeldSyn {
    until: Instant,
    /// The port of a LAN address to which it was sent.
    to: Outside,
    from: Remote,
    error: Vec<u8>,
}

/// The held SYNs, oldest first.
#[derive(Debug, Default)]
pub(super) struct HeldSyns {
    syns: VecDeque<HeldSyn>,
}

impl HeldSyns {
    /// Returns whether a SYN can be held: there is capacity, and it is not a retransmission.
    pub(super) fn accepts(&self, to: Outside, from: Remote) -> bool {
        let is_held = |s: &HeldSyn| s.to == to && s.from == from;
        let of_host = self.syns.iter().filter(|s| s.from.0.ip == from.0.ip);
        self.syns.len() < MAX_HELD_SYNS
            && of_host.take(MAX_SYNS_OF_HOST).count() < MAX_SYNS_OF_HOST
            && !self.syns.iter().any(is_held)
    }

    /// Holds a SYN; `error` is the answer to its sender unless the SYN is cancelled.
    pub(super) fn hold(&mut self, to: Outside, from: Remote, error: Vec<u8>, now: Instant) {
        self.syns.push_back(HeldSyn {
            until: now + SYN_HOLD_TIME,
            to,
            from,
            error,
        });
    }

    /// Removes a SYN without an answer, because the client sent one from there to its sender.
    pub(super) fn cancel(&mut self, to: Outside, from: Remote) {
        self.syns.retain(|s| s.to != to || s.from != from);
    }

    /// Removes all SYNs to a LAN address without an answer.
    pub(super) fn remove_all(&mut self, lan: LanId) {
        self.syns.retain(|s| s.to.lan != lan);
    }

    /// Removes and returns an answer that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next()? > now {
            return None;
        }
        self.syns.pop_front().map(|s| s.error)
    }

    /// Returns when the next answer is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.syns.front().map(|s| s.until)
    }
}
