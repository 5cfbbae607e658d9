//! What the hook wants done besides passing on what comes, and whether it may: it acknowledges
//! nothing that did not come, and touches only flows of a client that has begun anew.
//!
//! Beside the flow that a target plays, the same client has another one here.

use crate::smb::link::{SimulatedLink, ends, flow};
use crate::smb::messages::zero;
use std::time::{Duration, Instant};
use vcgate_core::smb::{Action, Ends, Hook, Mode, Stale, Verdict};

/// The slots of the flow that is played and of the client's other one.
pub const PLAYED: u32 = 0;
const OTHER: u32 = 4;
/// Longer than any answer is waited for.
const LONG: Duration = Duration::from_secs(11);
/// More times than one flow is asked.
const OFTEN: usize = 5;

/// What the two flows have done so far.
#[derive(Debug, Clone, Copy)]
pub struct ActionOracle {
    pub mode: Mode,
    stale: Stale,
    pub now: Instant,
    /// The flow that is played has sent a 0.
    played_began_anew: bool,
    other_began_anew: bool,
}

impl ActionOracle {
    pub fn new(mode: Mode, stale: Stale) -> Self {
        Self {
            mode,
            stale,
            now: Instant::now(),
            played_began_anew: false,
            other_began_anew: false,
        }
    }

    /// The client logs on at the server on the other flow; returns the number that it gets.
    pub fn log_on(&mut self, hook: &mut Hook, isn: u32) -> Option<u16> {
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
        let mut line = SimulatedLink::new(flow(OTHER), ends, isn);
        line.now = self.now;
        line.syn(hook);
        line.syn_ack(hook);
        let stream = zero();
        let verdict = line.send(hook, &stream, 0..stream.len(), 0);
        assert_eq!(verdict, Verdict::Pass);
        self.other_began_anew = true;
        hook.flow(line.id).and_then(|flow| flow.number)
    }

    /// Looks at what the hook wants done. Of the client's stream on `line` this has `come`.
    pub fn audit(&mut self, hook: &mut Hook, line: &SimulatedLink, come: &[bool]) {
        let played = hook.flow(flow(PLAYED));
        self.played_began_anew |= played.is_some_and(|played| played.zeros > 0);
        while let Some(action) = hook.poll_action(self.now, |_| true) {
            assert_eq!(self.mode, Mode::Assign, "{action:?}");
            let id = action.flow();
            assert!(hook.flow(id).is_some(), "{action:?} on a flow that is over");
            if id.slot == PLAYED && hook.counters().aborted > 0 {
                continue;
            }
            match action {
                Action::Acknowledge(_, blocks) => {
                    assert_eq!(id, line.id, "nothing else is held");
                    for (start, end) in blocks.into_iter().flatten() {
                        let (start, end) = (line.offset(start), line.offset(end));
                        assert!(line.next() < start && start < end);
                        assert!(come[start..end].iter().all(|come| *come));
                    }
                }
                Action::Probe(_) => assert_eq!(self.stale, Stale::Probe),
                Action::Reset(_) | Action::RetryReset(..) => assert_ne!(self.stale, Stale::Keep),
            }
            let own = match id.slot {
                PLAYED => self.other_began_anew || matches!(action, Action::Acknowledge(..)),
                OTHER => self.played_began_anew,
                _ => false,
            };
            assert!(own, "{action:?}");
        }
    }

    /// Time passes.
    pub fn wait(&mut self, hook: &mut Hook, time: Duration) {
        self.now += time;
        hook.handle_timeout(self.now);
    }

    /// The played flow is over: nobody is asked for ever.
    pub fn end(&mut self, hook: &mut Hook, line: &SimulatedLink, come: &[bool]) {
        for _ in 0..OFTEN {
            self.wait(hook, LONG);
            self.audit(hook, line, come);
        }
        assert_eq!(hook.next_timeout(), None);
    }
}
