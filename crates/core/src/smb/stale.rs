//! Closes the connections that a crashed client has left open at a server, the purpose of VcNumber
//! 0 (MS-CIFS section 2.2.4.53.1; KB 301673).
//!
//! No 0 reaches the server, so the server does not clean up. Instead, the first 0 of a connection
//! starts a probe of the same client's other flows to that server; those that the client no longer
//! knows are reset. The key is the client's inner address and the server's. Flows of other clients
//! are never touched.

use super::identity::{FlowIdentity, ProbeState};
use super::report::{Event, StaleOutcome};
use super::{Action, Hook, Mode, Segment, Shared, Stale};
use crate::ids::FlowId;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Number of unanswered probes after which a client has forgotten the connection. Some stacks
/// answer only two per second (RFC 5961 section 7), so at least two of four are answered.
const PROBES: u8 = 4;
/// Maximum number of flows that one logon probes. A Windows client has two or three to a server.
const MAX_SUSPECTS: usize = 64;

/// The probe state of all flows.
#[derive(Debug)]
pub(super) struct Checks {
    policy: Stale,
    /// Flows by client and server.
    flows: BTreeSet<(IpAddr, IpAddr, FlowId)>,
    /// Flows to probe, and the time that each may take to answer.
    suspects: VecDeque<(FlowId, Duration)>,
    /// Deadlines of probes, including answered ones.
    timers: BTreeSet<(Instant, FlowId)>,
}

impl Checks {
    pub(super) fn new(policy: Stale) -> Self {
        Self {
            policy,
            flows: BTreeSet::new(),
            suspects: VecDeque::new(),
            timers: BTreeSet::new(),
        }
    }

    /// Adds a flow.
    pub(super) fn add(&mut self, owner: &FlowIdentity) {
        self.flows.insert(key(owner, owner.id));
    }

    /// Removes a flow.
    pub(super) fn remove(&mut self, owner: &FlowIdentity) {
        self.flows.remove(&key(owner, owner.id));
    }

    /// Notes the first VcNumber 0 of a connection.
    pub(super) fn on_reconnect(&mut self, owner: &FlowIdentity) {
        if self.policy == Stale::Keep {
            return;
        }
        let own = self
            .flows
            .range(key(owner, FIRST)..=key(owner, LAST))
            .map(|(_, _, id)| *id)
            .filter(|id| *id != owner.id);
        let timeout = owner.round_trip.probe_timeout();
        self.suspects
            .extend(own.take(MAX_SUSPECTS).map(|id| (id, timeout)));
    }

    /// Notes the first data on a restored connection. A restart has interrupted the probes of the last
    /// logon, and its client can answer now.
    pub(super) fn on_continuation(&mut self, owner: &FlowIdentity) {
        if self.policy == Stale::Probe {
            self.on_reconnect(owner);
        }
    }

    fn due(&mut self, now: Instant) -> Option<(Instant, FlowId)> {
        let (due, _) = self.timers.first()?;
        (*due <= now).then(|| self.timers.pop_first())?
    }
}

const FIRST: FlowId = FlowId {
    slot: 0,
    generation: 0,
};
const LAST: FlowId = FlowId {
    slot: u32::MAX,
    generation: u32::MAX,
};

fn key(owner: &FlowIdentity, id: FlowId) -> (IpAddr, IpAddr, FlowId) {
    (owner.ends.client.ip(), owner.ends.server.ip(), id)
}

impl Hook {
    /// Returns the next action. `is_open` returns whether neither end has closed a flow's
    /// connection; the server holds nothing for closed ones.
    pub fn poll_action(
        &mut self,
        now: Instant,
        is_open: impl Fn(FlowId) -> bool,
    ) -> Option<Action> {
        while let Some((suspect, timeout)) = self.shared.checks.suspects.pop_front() {
            if let Some((flow, shared)) = self.find(suspect)
                && is_open(suspect)
            {
                flow.owner.start_probe(timeout, shared);
            }
        }
        let action = self.shared.actions.pop_front()?;
        if let Action::Probe(id) = action
            && let Some((flow, shared)) = self.find(id)
            && let ProbeState::Probed { due, pause, .. } = &mut flow.owner.watch
        {
            *due = Some(now + *pause);
            shared.checks.timers.insert((now + *pause, id));
        }
        Some(action)
    }

    /// Returns the time for the next call of [`handle_timeout`](Self::handle_timeout).
    pub fn next_timeout(&self) -> Option<Instant> {
        let (probes, waiting) = (&self.shared.checks.timers, &self.shared.waiting);
        let first = [probes.first(), waiting.first()].into_iter().flatten();
        first.map(|(due, _)| *due).min()
    }

    /// Drops segments that have waited too long for missing bytes, and repeats or concludes
    /// unanswered probes; afterwards [`poll_action`](Self::poll_action) may have more.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, id)) = self.shared.waiting.first().copied()
            && due <= now
        {
            self.shared.waiting.pop_first();
            if let Some((flow, shared)) = self.find(id) {
                flow.expire(due, now, shared);
            }
        }
        while let Some((due, id)) = self.shared.checks.due(now) {
            if let Some((flow, shared)) = self.find(id) {
                flow.owner.silent(due, shared);
            }
        }
    }
}

impl FlowIdentity {
    /// Handles a reconnection of the client on another flow.
    fn start_probe(&mut self, timeout: Duration, shared: &mut Shared) {
        if self.watch != ProbeState::Not {
            return;
        }
        let policy = shared.checks.policy;
        match policy {
            _ if shared.mode == Mode::Observe => {
                self.report(StaleOutcome::Observed(policy), shared)
            }
            Stale::Probe => {
                shared.counters.stale_probed += 1;
                self.report(StaleOutcome::Probed, shared);
                self.probe(PROBES - 1, timeout / u32::from(PROBES), shared);
            }
            Stale::Reset => self.reset(StaleOutcome::Reset, shared),
            Stale::Keep => {}
        }
    }

    /// Handles a segment from the client while an answer is expected.
    pub(super) fn client_said(&mut self, segment: &Segment, shared: &mut Shared) {
        let ProbeState::Probed { .. } = self.watch else {
            return;
        };
        if segment.rst {
            self.reset(StaleOutcome::Unknown, shared);
        } else if segment.ack.is_some() {
            self.watch = ProbeState::Not;
            shared.counters.stale_alive += 1;
            self.report(StaleOutcome::Alive, shared);
        }
    }

    /// Handles a segment from the server while an answer is expected.
    pub(super) fn server_said(&mut self, segment: &Segment, shared: &mut Shared) {
        if self.watch == ProbeState::Reset
            && !segment.rst
            && let Some(seq) = segment.ack
        {
            let actions = &mut shared.actions;
            actions.push_back(Action::ResetServer(self.id, seq));
        }
    }

    /// Handles an unanswered probe.
    fn silent(&mut self, timer: Instant, shared: &mut Shared) {
        match self.watch {
            ProbeState::Probed { due, left, pause } if due == Some(timer) => match left {
                0 => self.reset(StaleOutcome::Silent, shared),
                _ => self.probe(left - 1, pause, shared),
            },
            ProbeState::Probed { .. } | ProbeState::Not | ProbeState::Reset => {}
        }
    }

    /// Requests a probe, after which `left` more may follow.
    fn probe(&mut self, left: u8, pause: Duration, shared: &mut Shared) {
        let due = None;
        self.watch = ProbeState::Probed { due, left, pause };
        shared.actions.push_back(Action::Probe(self.id));
    }

    fn reset(&mut self, fate: StaleOutcome, shared: &mut Shared) {
        shared.counters.stale_reset += 1;
        self.report(fate, shared);
        self.reset_both_ends(shared);
    }

    /// Resets the connection.
    pub(super) fn reset_both_ends(&mut self, shared: &mut Shared) {
        self.watch = ProbeState::Reset;
        self.open = false;
        self.note_change(shared);
        shared.actions.push_back(Action::Reset(self.id));
    }

    fn report(&self, fate: StaleOutcome, shared: &mut Shared) {
        let event = Event::Stale {
            flow: self.id,
            ends: self.ends,
            fate,
        };
        shared.events.push(event, &mut shared.counters);
    }
}
