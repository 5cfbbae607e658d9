//! SYNs from the LAN that nobody asked for, kept for the while in which the client's own SYN may
//! still make them a simultaneous open (RFC 5382 REQ-4).

use super::endpoint::Remote;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// At least so long must be silence.
pub(super) const SYN_HOLD_TIME: Duration = Duration::from_secs(6);

/// More than this at a time get silence and nothing else.
const MAX_HELD_SYNS: usize = 64;

#[derive(Debug)]
struct Syn {
    until: Instant,
    /// The port of the LAN address that it came to.
    port: u16,
    from: Remote,
    answer: Vec<u8>,
}

/// The SYNs that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct Unsolicited {
    waiting: VecDeque<Syn>,
}

impl Unsolicited {
    /// Whether another SYN may wait: a sender's second one does not wait again.
    pub(super) fn has_room(&self, port: u16, from: Remote) -> bool {
        self.waiting.len() < MAX_HELD_SYNS
            && !self
                .waiting
                .iter()
                .any(|s| s.port == port && s.from == from)
    }

    /// Lets a SYN wait; `answer` is what its sender gets if nothing happens.
    pub(super) fn hold(&mut self, port: u16, from: Remote, answer: Vec<u8>, now: Instant) {
        self.waiting.push_back(Syn {
            until: now + SYN_HOLD_TIME,
            port,
            from,
            answer,
        });
    }

    /// The client sent a SYN from `port` to `to`: a SYN from there gets no answer.
    pub(super) fn cancel(&mut self, port: u16, to: Remote) {
        self.waiting.retain(|s| s.port != port || s.from != to);
    }

    /// An answer that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next()? > now {
            return None;
        }
        self.waiting.pop_front().map(|s| s.answer)
    }

    /// When the next answer is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.front().map(|s| s.until)
    }
}
