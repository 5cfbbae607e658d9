//! The purpose of VcNumber 0 (MS-CIFS section 2.2.4.53.1; KB 301673), kept: a client that crashed
//! and comes back gets free what its old connections hold at the server.
//!
//! No 0 reaches the server any more, so the server does not clean up. Instead, when a client
//! sends its first 0 on a connection, its own other flows to that server are looked at: whether
//! its stack still knows them, and if it does not, they are reset. The key is the client's inner
//! address and the server's; the flows of anybody else are never touched.
//!
//! The hook only says what is to be done ([`Action`]). A flow's segments are looked at only while
//! something is expected of them.

use super::identity::{FlowIdentity, ProbeState};
use super::report::{Event, StaleOutcome};
use super::{Action, Hook, Mode, Segment, Shared};
use crate::ids::FlowId;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// After so many probes without an answer, spread over what the client's round trip allows and a
/// second at least, it has forgotten the connection. Some stacks answer only two a second (RFC
/// 5961 section 7), so that at least two of four are answered.
const PROBES: u8 = 4;
/// Most flows that one logon looks at. A Windows client has two or three to a server.
const MOST: usize = 64;

/// What becomes of a client's other flows to a server when it begins anew there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Those that the client's stack does not know any more are reset.
    Probe,
    /// All are reset at once, as a server does that gets a 0.
    Reset,
    /// Nothing.
    Keep,
}

/// What all flows have in common.
#[derive(Debug)]
pub(super) struct Checks {
    policy: Stale,
    /// By client and server.
    flows: BTreeSet<(IpAddr, IpAddr, FlowId)>,
    /// With how long each of them may be silent.
    suspects: VecDeque<(FlowId, Duration)>,
    /// What was answered in the meantime stays until then.
    timers: BTreeSet<(Instant, FlowId)>,
}

impl Checks {
    pub fn new(policy: Stale) -> Self {
        Self {
            policy,
            flows: BTreeSet::new(),
            suspects: VecDeque::new(),
            timers: BTreeSet::new(),
        }
    }

    /// A flow begins.
    pub fn add(&mut self, owner: &FlowIdentity) {
        self.flows.insert(key(owner, owner.id));
    }

    /// A flow is over.
    pub fn remove(&mut self, owner: &FlowIdentity) {
        self.flows.remove(&key(owner, owner.id));
    }

    /// A client sent its first 0 on a connection.
    pub fn on_reconnect(&mut self, owner: &FlowIdentity) {
        if self.policy == Stale::Keep {
            return;
        }
        let own = self
            .flows
            .range(key(owner, FIRST)..=key(owner, LAST))
            .map(|(_, _, id)| *id)
            .filter(|id| *id != owner.id);
        let patience = owner.round_trip.probe_timeout();
        self.suspects
            .extend(own.take(MOST).map(|id| (id, patience)));
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
    /// The next thing to be sent. `is_open` says whether a flow is a connection that neither end
    /// has closed; of others nothing is held at the server.
    pub fn poll_action(
        &mut self,
        now: Instant,
        is_open: impl Fn(FlowId) -> bool,
    ) -> Option<Action> {
        while let Some((suspect, patience)) = self.shared.checks.suspects.pop_front() {
            if let Some((flow, shared)) = self.find(suspect)
                && is_open(suspect)
            {
                flow.owner.suspect(patience, shared);
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

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let (probes, waiting) = (&self.shared.checks.timers, &self.shared.waiting);
        let first = [probes.first(), waiting.first()].into_iter().flatten();
        first.map(|(due, _)| *due).min()
    }

    /// Drops what has waited too long for the bytes before it. Probes again where an answer is due,
    /// or takes silence for one; then [`poll_action`](Self::poll_action) has more.
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
    /// The client has begun anew on another flow.
    fn suspect(&mut self, patience: Duration, shared: &mut Shared) {
        if self.watch != ProbeState::Not {
            return;
        }
        let policy = shared.checks.policy;
        match policy {
            _ if shared.mode == Mode::Observe => self.tell(StaleOutcome::Observed(policy), shared),
            Stale::Probe => {
                shared.counters.stale_probed += 1;
                self.tell(StaleOutcome::Probed, shared);
                self.probe(PROBES - 1, patience / u32::from(PROBES), shared);
            }
            Stale::Reset => self.reset(StaleOutcome::Reset, shared),
            Stale::Keep => {}
        }
    }

    /// A segment from the client while something is expected.
    pub fn client_said(&mut self, segment: &Segment, shared: &mut Shared) {
        let ProbeState::Probed { .. } = self.watch else {
            return;
        };
        if segment.rst {
            self.reset(StaleOutcome::Unknown, shared);
        } else if segment.ack.is_some() {
            self.watch = ProbeState::Not;
            shared.counters.stale_alive += 1;
            self.tell(StaleOutcome::Alive, shared);
        }
    }

    /// A segment from the server while something is expected.
    pub fn server_said(&mut self, segment: &Segment, shared: &mut Shared) {
        if self.watch == ProbeState::Reset
            && !segment.rst
            && let Some(seq) = segment.ack
        {
            let actions = &mut shared.actions;
            actions.push_back(Action::RetryReset(self.id, seq));
        }
    }

    /// The answer to a probe is due.
    fn silent(&mut self, timer: Instant, shared: &mut Shared) {
        match self.watch {
            ProbeState::Probed { due, left, pause } if due == Some(timer) => match left {
                0 => self.reset(StaleOutcome::Silent, shared),
                _ => self.probe(left - 1, pause, shared),
            },
            ProbeState::Probed { .. } | ProbeState::Not | ProbeState::Reset => {}
        }
    }

    /// Asks for a probe, behind which there may be `left` more.
    fn probe(&mut self, left: u8, pause: Duration, shared: &mut Shared) {
        let due = None;
        self.watch = ProbeState::Probed { due, left, pause };
        shared.actions.push_back(Action::Probe(self.id));
    }

    fn reset(&mut self, fate: StaleOutcome, shared: &mut Shared) {
        shared.counters.stale_reset += 1;
        self.tell(fate, shared);
        self.reset_both_ends(shared);
    }

    /// Ends the connection.
    pub fn reset_both_ends(&mut self, shared: &mut Shared) {
        self.watch = ProbeState::Reset;
        self.open = false;
        shared.actions.push_back(Action::Reset(self.id));
    }

    fn tell(&self, fate: StaleOutcome, shared: &mut Shared) {
        let event = Event::Stale {
            flow: self.id,
            ends: self.ends,
            fate,
        };
        shared.events.push(event, &mut shared.counters);
    }
}
