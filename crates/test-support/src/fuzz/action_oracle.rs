//! Checks the actions that the hook requests: it acknowledges only bytes that arrived, and probes
//! or resets only flows of a client that has reconnected.
//!
//! The client has a second flow in addition to the one that a target plays.

use crate::smb::link::{SimulatedLink, ends, flow};
use crate::smb::messages::zero;
use std::time::{Duration, Instant};
use vcgate_core::smb::{Action, Ends, Hook, Mode, Stale, Verdict};

/// The slot of the flow that a target plays.
pub(super) const PLAYED: u32 = 0;
/// The slot of the client's other flow.
const OTHER: u32 = 4;
/// A time after which no probe awaits an answer.
const BEYOND_ALL_TIMEOUTS: Duration = Duration::from_secs(11);
/// More rounds than the hook probes one flow.
const MORE_THAN_ALL_RETRIES: usize = 5;

/// The state of the two flows.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActionOracle {
    pub mode: Mode,
    stale: Stale,
    pub now: Instant,
    /// The played flow has sent VcNumber 0.
    played_reconnected: bool,
    other_reconnected: bool,
}

impl ActionOracle {
    pub(super) fn new(mode: Mode, stale: Stale) -> Self {
        Self {
            mode,
            stale,
            now: Instant::now(),
            played_reconnected: false,
            other_reconnected: false,
        }
    }

    /// Logs on through the other flow; returns the number that it gets.
    pub(super) fn log_on(&mut self, hook: &mut Hook, isn: u32) -> Option<u16> {
        let Ends {
            client,
            lan,
            server,
        } = ends(PLAYED);
        let client = (client.ip(), client.port() + 1).into();
        let ends = Ends {
            client,
            lan,
            server,
        };
        let mut link = SimulatedLink::new(flow(OTHER), ends, isn);
        link.now = self.now;
        link.syn(hook);
        link.syn_ack(hook);
        let stream = zero();
        let verdict = link.send(hook, &stream, 0..stream.len(), 0);
        assert_eq!(verdict, Verdict::Pass);
        self.other_reconnected = true;
        hook.flow(link.id).and_then(|flow| Some(flow.number?.get()))
    }

    /// Checks all pending actions. `seen` marks the bytes of the client's stream that arrived on
    /// `link`.
    pub(super) fn audit(&mut self, hook: &mut Hook, link: &SimulatedLink, seen: &[bool]) {
        let played = hook.flow(flow(PLAYED));
        self.played_reconnected |= played.is_some_and(|played| played.zeros > 0);
        while let Some(action) = hook.poll_action(self.now, |_| true) {
            assert_eq!(self.mode, Mode::Assign, "{action:?}");
            let id = action.flow();
            assert!(hook.flow(id).is_some(), "{action:?} on a closed flow");
            if id.slot == PLAYED && hook.counters().aborted > 0 {
                continue;
            }
            match action {
                Action::Acknowledge(_, blocks) => {
                    assert_eq!(id, link.id, "only this flow holds segments");
                    for (start, end) in blocks.into_iter().flatten() {
                        let (start, end) = (link.offset(start), link.offset(end));
                        assert!(link.next() < start && start < end);
                        assert!(seen[start..end].iter().all(|seen| *seen));
                    }
                }
                Action::Probe(_) => assert_eq!(self.stale, Stale::Probe),
                Action::Reset(_) | Action::ResetServer(..) => assert_ne!(self.stale, Stale::Keep),
            }
            let is_permitted = match id.slot {
                PLAYED => self.other_reconnected || matches!(action, Action::Acknowledge(..)),
                OTHER => self.played_reconnected,
                _ => false,
            };
            assert!(is_permitted, "{action:?}");
        }
    }

    /// Advances the time.
    pub(super) fn wait(&mut self, hook: &mut Hook, time: Duration) {
        self.now += time;
        hook.handle_timeout(self.now);
    }

    /// Closes the played flow: all timers of the hook must end.
    pub(super) fn end(&mut self, hook: &mut Hook, link: &SimulatedLink, seen: &[bool]) {
        for _ in 0..MORE_THAN_ALL_RETRIES {
            self.wait(hook, BEYOND_ALL_TIMEOUTS);
            self.audit(hook, link, seen);
        }
        assert_eq!(hook.next_timeout(), None);
    }
}
