//! The events of the SMB hook: writes them to the log and keeps them for `vcgate smb` and for
//! followers of the timeline. It never decides about a packet.

use super::pipeline::TimedEvent;
use super::report::Clock;
use super::shards::Shards;
use crate::control::report::Logon;
use crate::control::timeline::{
    Cause, Closing, Entry, EventKind, LogonOutcome, ServerSigning, StaleOutcome, Timeline,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Instant;
use tokio::sync::mpsc;
use vcgate_core::smb::{self, DisconnectCorrelator, Ends, Event, Outcome, Unchanged};

/// Entries of the timeline that are kept for followers.
const TIMELINE_CAPACITY: usize = 1000;

/// Logons that are kept for `vcgate smb`.
const LOGON_CAPACITY: usize = 100;

/// The recent events.
#[derive(Default)]
pub(super) struct SmbHistory {
    logons: RefCell<RecentLogons>,
    timeline: RefCell<TimelineBuffer>,
}

/// The last logons, oldest first.
#[derive(Default)]
struct RecentLogons(VecDeque<Logon>);

impl RecentLogons {
    fn push(&mut self, logon: Logon) {
        if self.0.len() == LOGON_CAPACITY {
            self.0.pop_front();
        }
        self.0.push_back(logon);
    }

    fn list(&self) -> Vec<Logon> {
        self.0.iter().cloned().collect()
    }
}

/// The last entries of the timeline.
#[derive(Default)]
struct TimelineBuffer {
    entries: VecDeque<Entry>,
    last: u64,
}

impl TimelineBuffer {
    /// Numbers an entry and stores it.
    fn push(&mut self, mut entry: Entry) {
        if self.entries.len() == TIMELINE_CAPACITY {
            self.entries.pop_front();
        }
        self.last += 1;
        entry.number = self.last;
        self.entries.push_back(entry);
    }

    /// Returns the entries from this number on that are still stored.
    fn from(&self, number: u64) -> Timeline {
        let entries = self.entries.iter().filter(|e| e.number >= number);
        Timeline {
            next: self.last + 1,
            entries: entries.cloned().collect(),
        }
    }
}

impl SmbHistory {
    /// Returns the last logons, oldest first.
    pub(super) fn logons(&self) -> Vec<Logon> {
        self.logons.borrow().list()
    }

    /// Returns the entries of the timeline from this number on.
    pub(super) fn timeline(&self, from: u64) -> Timeline {
        self.timeline.borrow().from(from)
    }

    /// Records events until the endpoint stops.
    pub(super) async fn record_all(
        &self,
        shards: &Shards,
        mut events: mpsc::Receiver<TimedEvent>,
    ) -> Infallible {
        let mut causes = DisconnectCorrelator::default();
        while let Some((mut event, at)) = events.recv().await {
            causes.note(&mut event, at);
            self.record(shards, event, at).await;
            if let Some(verdict) = causes.verdict() {
                self.record(shards, verdict, at).await;
            }
        }
        std::future::pending().await
    }

    async fn record(&self, shards: &Shards, event: Event, at: Instant) {
        let time = Clock::read().time_of_day(at);
        let (ends, what) = describe(shards, event).await;
        let entry = Entry {
            number: 0,
            time: time.into(),
            peer: shards.client_name(ends.client.ip()).await,
            client: ends.client,
            server: ends.server,
            what,
        };
        log(&entry);
        if let Event::Logon(logon) = event {
            self.logons.borrow_mut().push(Logon {
                time: time.into(),
                peer: entry.peer.clone(),
                server: ends.server,
                vc_sent: logon.asked,
                vc_forwarded: logon.given,
            });
        }
        self.timeline.borrow_mut().push(entry);
    }
}

async fn describe(shards: &Shards, event: Event) -> (Ends, EventKind) {
    match event {
        Event::Logon(logon) => (logon.ends, describe_logon(&logon)),
        Event::Signed { ends, .. } => (ends, EventKind::Signed),
        Event::Aborted { ends, .. } => (ends, EventKind::Aborted),
        Event::Unreadable { ends, reason, .. } => {
            let reason = reason.name().into();
            (ends, EventKind::Unreadable { reason })
        }
        Event::Bypass { ends, reason, .. } => {
            let reason = reason.name().into();
            (ends, EventKind::Bypass { reason })
        }
        Event::Stale { ends, fate, .. } => {
            let what = EventKind::Stale {
                outcome: stale_outcome(fate),
                text: in_words(fate).into(),
            };
            (ends, what)
        }
        Event::Closed {
            ends, how, cause, ..
        } => {
            let cause = match cause {
                Some(cause) => Some(describe_cause(shards, cause).await),
                None => None,
            };
            let how = match how {
                smb::Closing::Fin => Closing::Fin,
                smb::Closing::Rst => Closing::Rst,
            };
            (ends, EventKind::Closed { how, cause })
        }
        Event::MassDisconnect(cause) => {
            let why = why(cause.why);
            (cause.ends, EventKind::MassDisconnect { why })
        }
    }
}

async fn describe_cause(shards: &Shards, cause: smb::Cause) -> Cause {
    Cause {
        peer: shards.client_name(cause.ends.client.ip()).await,
        client: cause.ends.client,
        why: why(cause.why),
    }
}

fn describe_logon(logon: &smb::Logon) -> EventKind {
    const EXTENDED_SECURITY: u8 = 12; // MS-SMB section 2.2.4.6.1
    EventKind::Logon {
        vc_sent: logon.asked,
        vc_forwarded: logon.given,
        outcome: match logon.outcome {
            Outcome::Preserved => LogonOutcome::Preserved,
            Outcome::Rewritten => LogonOutcome::Rewritten,
            Outcome::Signed => LogonOutcome::Signed,
            Outcome::Observed => LogonOutcome::Observed,
            Outcome::Unread(_) => LogonOutcome::Unread,
        },
        dialect: logon.negotiated.map(|n| n.dialect.name().into()),
        extended_security: logon.words == EXTENDED_SECURITY,
        signed: logon.signed,
        server_signing: logon.negotiated.map(|negotiated| {
            match (negotiated.signing_required, negotiated.signing_enabled) {
                (true, _) => ServerSigning::Required,
                (false, true) => ServerSigning::Enabled,
                (false, false) => ServerSigning::Off,
            }
        }),
    }
}

fn stale_outcome(outcome: smb::StaleOutcome) -> StaleOutcome {
    match outcome {
        smb::StaleOutcome::Probed => StaleOutcome::Probed,
        smb::StaleOutcome::Alive => StaleOutcome::Alive,
        smb::StaleOutcome::Unknown => StaleOutcome::Unknown,
        smb::StaleOutcome::Silent => StaleOutcome::Silent,
        smb::StaleOutcome::Reset => StaleOutcome::Reset,
        smb::StaleOutcome::Observed(_) => StaleOutcome::Observed,
    }
}

fn in_words(outcome: smb::StaleOutcome) -> &'static str {
    use smb::{Stale, StaleOutcome};
    match outcome {
        StaleOutcome::Probed => "the client was asked whether it still uses it",
        StaleOutcome::Alive => "still in use, not changed",
        StaleOutcome::Unknown => "the client no longer knows it, reset",
        StaleOutcome::Silent => "no answer from the client in time, reset",
        StaleOutcome::Reset => "reset",
        StaleOutcome::Observed(Stale::Probe) => "not changed; it would be probed",
        StaleOutcome::Observed(Stale::Reset) => "not changed; it would be reset",
        StaleOutcome::Observed(Stale::Keep) => "not changed",
    }
}

/// Returns the reason why a session setup was not changed.
fn why(unchanged: Unchanged) -> String {
    match unchanged {
        Unchanged::Signed => "it was signed".into(),
        Unchanged::Observed => "the hook only observes".into(),
        Unchanged::Unread(reason) => format!("its connection is not read: {}", reason.in_words()),
    }
}

fn log(entry: &Entry) {
    let Entry {
        peer, server, what, ..
    } = entry;
    match what {
        EventKind::Logon {
            vc_sent,
            vc_forwarded,
            ..
        } => tracing::info!(peer, %server, vc_sent, vc_forwarded, "SMB session setup"),
        EventKind::Signed => tracing::warn!(
            peer, %server,
            "this client signs its SMB messages, so a further logon on the same connection passes \
             as it is: with VcNumber 0 it makes the server drop all other users; one user a \
             connection avoids it, or signing that is not required, or a lan_address for this \
             peer alone"
        ),
        EventKind::Aborted => tracing::warn!(
            peer, %server,
            "reset an SMB connection: its client sent more session setups than the server \
             acknowledged, which no file server's client does; look for an attack or a broken client"
        ),
        EventKind::Unreadable { reason } if reason == smb::Reason::MidStream.name() => {
            tracing::info!(
                peer, %server,
                "reset a connection to a file server whose beginning was not seen; the client \
                 opens another one"
            );
        }
        EventKind::Unreadable { reason } => tracing::warn!(
            peer, %server, reason,
            "reset a connection to a file server's port: what its client sent cannot be read as \
             SMB; if the server's port is no file server's, set smb.ports, or \
             smb.unreadable = \"pass\""
        ),
        EventKind::Bypass { reason } => tracing::debug!(peer, %server, reason, "SMB flow not read"),
        EventKind::Stale {
            outcome: StaleOutcome::Unknown | StaleOutcome::Silent | StaleOutcome::Reset,
            text,
        } => {
            tracing::info!(peer, %server, "an older SMB connection of this client: {text}");
        }
        // Logged for each further connection of a client.
        EventKind::Stale { text, .. } => {
            tracing::debug!(peer, %server, "an older SMB connection of this client: {text}");
        }
        EventKind::Closed { how, cause: None } => {
            tracing::debug!(peer, %server, how = how.name(), "the server ended an SMB connection");
        }
        EventKind::Closed {
            how,
            cause: Some(Cause {
                peer: culprit, why, ..
            }),
        } => tracing::info!(
            peer, %server, how = how.name(),
            "the server ended an SMB connection; the likely cause is {culprit}'s logon, which was \
             not changed: {why}"
        ),
        EventKind::MassDisconnect { why } => tracing::warn!(
            peer, %server,
            "the server dropped connections of several users within a second after this client's \
             logon, which was not changed: {why}; a lan_address for this peer alone avoids it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::time::TimestampMillis;

    #[test]
    fn entries_are_numbered_and_the_oldest_are_dropped_first() {
        let mut kept = TimelineBuffer::default();
        assert_eq!(
            kept.from(0),
            Timeline {
                next: 1,
                entries: vec![]
            }
        );
        let entry = Entry {
            number: 0,
            time: TimestampMillis(0),
            peer: "anna".into(),
            client: "10.8.0.11:49152".parse().unwrap(),
            server: "192.168.77.10:445".parse().unwrap(),
            what: EventKind::Signed,
        };
        for _ in 0..TIMELINE_CAPACITY + 5 {
            kept.push(entry.clone());
        }
        let numbers = |from| {
            let timeline = kept.from(from);
            let numbers = timeline.entries.iter().map(|e| e.number);
            (timeline.next, numbers.collect::<Vec<_>>())
        };
        assert_eq!(numbers(1004), (1006, vec![1004, 1005]));
        assert_eq!(numbers(1006), (1006, vec![]));
        assert_eq!(numbers(0).1, (6..=1005).collect::<Vec<_>>());
    }
}
