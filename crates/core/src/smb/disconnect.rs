//! Attributes disconnections to likely causes: session setups with VcNumber 0 (MS-CIFS section
//! 2.2.4.53.1; KB 301673) that passed unchanged shortly before. A cause is inferred from the order
//! of events, and is never certain.
//!
//! The logon and the closed connection may be flows of different shards, so the correlator runs
//! where the events of all shards are collected.

use super::Ends;
use super::report::{Cause, Event, Outcome, Reason, Unchanged};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Maximum time between a session setup and the server's reaction.
const REACTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of suspects.
const MAX_SUSPECTS: usize = 64;

/// The unchanged session setups of the last second.
#[derive(Debug, Default)]
pub struct DisconnectCorrelator {
    /// The newest is last.
    suspects: VecDeque<Suspect>,
    verdict: Option<Event>,
}

#[derive(Debug)]
struct Suspect {
    at: Instant,
    cause: Cause,
    /// The first client that lost a connection.
    victim: Option<IpAddr>,
    reported: bool,
}

impl DisconnectCorrelator {
    /// Completes an event that is about to be reported.
    pub fn note(&mut self, event: &mut Event, now: Instant) {
        match event {
            Event::Logon(logon) if logon.given == 0 => match logon.outcome {
                Outcome::Signed => self.add_candidate(logon.ends, Unchanged::Signed, now),
                Outcome::Observed => self.add_candidate(logon.ends, Unchanged::Observed, now),
                Outcome::Unread(reason) => {
                    self.add_candidate(logon.ends, Unchanged::Unread(reason), now);
                }
                Outcome::Preserved | Outcome::Rewritten => {}
            },
            Event::Bypass { ends, reason, .. } if *reason != Reason::Smb2 => {
                self.add_candidate(*ends, Unchanged::Unread(*reason), now);
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

    /// Returns the [`Event::MassDisconnect`] that the last event has revealed, if any.
    pub fn verdict(&mut self) -> Option<Event> {
        self.verdict.take()
    }

    /// Adds a suspect. The session setups of one logon count as one.
    fn add_candidate(&mut self, ends: Ends, why: Unchanged, now: Instant) {
        self.forget(now);
        let known = self.suspects.iter().position(|s| s.cause.ends == ends);
        let suspect = match known.and_then(|at| self.suspects.remove(at)) {
            Some(known) => Suspect { at: now, ..known },
            None => Suspect {
                at: now,
                cause: Cause { ends, why },
                victim: None,
                reported: false,
            },
        };
        if self.suspects.len() == MAX_SUSPECTS {
            self.suspects.pop_front();
        }
        self.suspects.push_back(suspect);
    }

    /// Removes expired suspects.
    fn forget(&mut self, now: Instant) {
        self.suspects
            .retain(|s| now.saturating_duration_since(s.at) <= REACTION_TIMEOUT);
    }

    /// Returns the newest suspect with the same address at the server as this flow; preferably one
    /// whose logon was seen.
    fn cause_of(&mut self, ends: &Ends, now: Instant) -> Option<Cause> {
        self.forget(now);
        let (lan, server, client) = (ends.lan, ends.server.ip(), ends.client.ip());
        let suspects = self.suspects.iter_mut().filter(|s| {
            let other = &s.cause.ends;
            other.lan == lan && other.server.ip() == server && other.client.ip() != client
        });
        let suspect = suspects.max_by_key(|s| !matches!(s.cause.why, Unchanged::Unread(_)))?;
        if *suspect.victim.get_or_insert(client) != client && !suspect.reported {
            suspect.reported = true;
            self.verdict = Some(Event::MassDisconnect(suspect.cause));
        }
        Some(suspect.cause)
    }
}
