//! Why a server dropped somebody's connection: perhaps because of a session setup with VcNumber 0
//! (MS-CIFS section 2.2.4.53.1; KB 301673) that went by unchanged a moment before. It is a guess
//! from what was seen, and told as one.
//!
//! Who logs on and who is dropped may be flows of different shards, so the hook does not guess:
//! whoever gets the events of all of them does.

use super::Ends;
use super::report::{Event, Outcome, Reason};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long after a session setup the server's reaction may still be one to it.
const REACTION: Duration = Duration::from_secs(1);
/// Most suspects that are kept.
const MOST: usize = 64;

/// Why a session setup went by unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unchanged {
    /// Because of its signature.
    Signed,
    /// Because the mode is to observe.
    Observed,
    /// The flow is not read: it is known that there was one, or that there may have been.
    Unread(Reason),
}

/// Whose session setup may have made a server drop others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The ends of its flow.
    pub ends: Ends,
    /// Why it was not changed.
    pub why: Unchanged,
}

/// The session setups of the last second that went by unchanged.
#[derive(Debug, Default)]
pub struct DisconnectCorrelator {
    /// The latest is the last.
    suspects: VecDeque<Suspect>,
    verdict: Option<Event>,
}

#[derive(Debug)]
struct Suspect {
    at: Instant,
    cause: Cause,
    /// The first client that lost a connection.
    victim: Option<IpAddr>,
    told: bool,
}

impl DisconnectCorrelator {
    /// Looks at an event of `now` that is about to be told, and completes it.
    pub fn note(&mut self, event: &mut Event, now: Instant) {
        match event {
            Event::Logon(logon) if logon.given == 0 => match logon.outcome {
                Outcome::Signed => self.suspect(logon.ends, Unchanged::Signed, now),
                Outcome::Observed => self.suspect(logon.ends, Unchanged::Observed, now),
                Outcome::Unread(reason) => {
                    self.suspect(logon.ends, Unchanged::Unread(reason), now);
                }
                Outcome::Preserved | Outcome::Rewritten => {}
            },
            Event::Bypass { ends, reason, .. } if *reason != Reason::Smb2 => {
                self.suspect(*ends, Unchanged::Unread(*reason), now);
            }
            Event::Closed { ends, cause, .. } => *cause = self.cause_of(ends, now),
            Event::Logon(_)
            | Event::Bypass { .. }
            | Event::Signed { .. }
            | Event::Aborted { .. }
            | Event::Unreadable { .. }
            | Event::Stale { .. }
            | Event::MassDisconnect(_) => {}
        }
    }

    /// What became certain with the last event: one logon cost several others their connections.
    pub fn verdict(&mut self) -> Option<Event> {
        self.verdict.take()
    }

    /// A logon takes several session setups: they count as one.
    fn suspect(&mut self, ends: Ends, why: Unchanged, now: Instant) {
        self.forget(now);
        let known = self.suspects.iter().position(|s| s.cause.ends == ends);
        let suspect = match known.and_then(|at| self.suspects.remove(at)) {
            Some(known) => Suspect { at: now, ..known },
            None => Suspect {
                at: now,
                cause: Cause { ends, why },
                victim: None,
                told: false,
            },
        };
        if self.suspects.len() == MOST {
            self.suspects.pop_front();
        }
        self.suspects.push_back(suspect);
    }

    /// Lets go of those whose second is over: their next logon is another one.
    fn forget(&mut self, now: Instant) {
        self.suspects
            .retain(|s| now.saturating_duration_since(s.at) <= REACTION);
    }

    /// The last suspect that the server cannot tell from this flow's client; rather one that is
    /// known to have logged on.
    fn cause_of(&mut self, ends: &Ends, now: Instant) -> Option<Cause> {
        self.forget(now);
        let (lan, server, client) = (ends.lan, ends.server.ip(), ends.client.ip());
        let suspects = self.suspects.iter_mut().filter(|s| {
            let other = &s.cause.ends;
            other.lan == lan && other.server.ip() == server && other.client.ip() != client
        });
        let suspect = suspects.max_by_key(|s| !matches!(s.cause.why, Unchanged::Unread(_)))?;
        if *suspect.victim.get_or_insert(client) != client && !suspect.told {
            suspect.told = true;
            self.verdict = Some(Event::MassDisconnect(suspect.cause));
        }
        Some(suspect.cause)
    }
}
