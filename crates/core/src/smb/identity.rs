//! Properties of a flow that outlive its TCP connections: addresses, VcNumber, and the state of
//! probes. It never reads a payload.

use super::numbers::{GroupId, VcNumber};
use super::reply::TcpReplyTemplate;
use super::{Ends, Shared};
use crate::ids::{FlowId, PeerId};
use crate::tcp_stream::reorder::Holder;
use std::time::{Duration, Instant};

/// The number of flows for which no number was free.
const SHARED: VcNumber = VcNumber::MAX;

/// State common to all connections that use the flow's addresses one after another.
#[derive(Debug)]
pub(super) struct FlowIdentity {
    pub id: FlowId,
    pub ends: Ends,
    /// The peer whose share of the reorder budget the flow uses.
    pub holder: Holder,
    pub session_setups: u64,
    pub zeros: u64,
    /// Whether there is a connection that neither end has closed.
    pub open: bool,
    pub watch: ProbeState,
    pub round_trip: RoundTrip,
    pub reply_template: TcpReplyTemplate,
    /// The newest TSval of the client that was forwarded to the server.
    pub clock: Option<u32>,
    /// Whether an event has reported that signatures protect the flow's session setups.
    pub reported_signed: bool,
    number: Option<VcNumber>,
    /// Whether another flow has the same number, because none was free.
    shares_number: bool,
    /// Whether the connection has ended, so that the number may be reassigned.
    is_over: bool,
    /// Whether the flow is among the changed ones.
    pub is_changed: bool,
}

impl FlowIdentity {
    /// Creates the identity of a new flow.
    pub(super) fn new(id: FlowId, ends: Ends, peer: Option<PeerId>) -> Self {
        Self {
            id,
            ends,
            holder: peer.map_or_else(Holder::default, |peer| Holder(peer.0)),
            session_setups: 0,
            zeros: 0,
            open: false,
            watch: ProbeState::Not,
            round_trip: RoundTrip::Unknown,
            reply_template: TcpReplyTemplate::default(),
            clock: None,
            reported_signed: false,
            number: None,
            shares_number: false,
            is_over: false,
            is_changed: false,
        }
    }

    /// Returns the flow's number, and assigns one first if it has none. Without a free number it
    /// shares one with other flows, which is harmless: only a 0 disconnects others. The server
    /// accepts only numbers less than `limit`.
    pub(super) fn number(
        &mut self,
        asked: u16,
        limit: Option<u16>,
        shared: &mut Shared,
    ) -> VcNumber {
        if let Some(number) = self.number {
            return number;
        }
        let taken = shared.groups.take(self.group(), asked, limit);
        self.shares_number = taken.is_none();
        shared.counters.shared_numbers += u64::from(taken.is_none());
        let below = |limit: u16| VcNumber::new(limit.saturating_sub(1)).unwrap_or(VcNumber::MIN);
        let shared = limit.map_or(SHARED, below);
        *self.number.insert(taken.unwrap_or(shared))
    }

    /// Gives a restored flow the number that it had. If that belongs to another shard's numbers now, or
    /// to another flow, they share it.
    pub(super) fn restore_number(&mut self, number: VcNumber, shared: &mut Shared) {
        self.shares_number = !shared.groups.resume(self.group(), number);
        self.number = Some(number);
    }

    /// Returns the flow's number, if it has one.
    pub(super) fn own_number(&self) -> Option<VcNumber> {
        self.number.filter(|_| !self.is_over)
    }

    /// Notes that both ends have closed the connection. Retransmissions keep the number; the server
    /// has it already, or no longer accepts it.
    pub(super) fn connection_over(&mut self, shared: &mut Shared) {
        shared.changes += 1;
        if let Some(number) = self.number
            && !self.is_over
            && !self.shares_number
        {
            shared.groups.rest(self.group(), number);
        }
        self.is_over = true;
        self.note_change(shared);
    }

    /// Notes that the server continues the connection, since it did not receive its end, or that
    /// there is a new one between the same ends.
    pub(super) fn connection_lives(&mut self, shared: &mut Shared) {
        if !self.is_over {
            return;
        }
        self.is_over = false;
        self.note_change(shared);
        if let Some(number) = self.number
            && !self.shares_number
            && !shared.groups.resume(self.group(), number)
        {
            self.number = None;
        }
    }

    /// Notes a change that the journal must contain.
    pub(super) fn note_change(&mut self, shared: &mut Shared) {
        if let Some(changed) = &mut shared.changed
            && !self.is_changed
        {
            self.is_changed = true;
            changed.push(self.id);
        }
    }

    /// Frees the number of a flow that has ended.
    pub(super) fn free_number(&self, shared: &mut Shared) {
        if let Some(number) = self.own_number()
            && !self.shares_number
        {
            shared.groups.free(self.group(), number);
        }
    }

    fn group(&self) -> GroupId {
        GroupId {
            lan: self.ends.lan,
            server: self.ends.server.ip(),
        }
    }
}

/// The answer that is expected on a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ProbeState {
    /// Nothing.
    #[default]
    Not,
    /// The client's answer to a probe, within `pause`. `due` is set when the probe is under way.
    Probed {
        due: Option<Instant>,
        left: u8,
        pause: Duration,
    },
    /// The server's to a RST.
    Reset,
}

/// Minimum time for an answer, however near the client is. A server that refuses a file, since the old
/// connection has it open, first waits for about a second (Samba 0.95 s, Windows five times 0.2 s); the
/// old connection must end before.
const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(800);
/// Maximum time for an answer, however long the handshake took.
const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The round trip between the endpoint and a flow's client, measured from the server's SYN to the
/// client's next segment (RFC 9293 section 3.5). It is never underestimated: of repeated SYNs the
/// first one counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum RoundTrip {
    #[default]
    Unknown,
    /// The server's SYN was forwarded to the client at this time.
    Since(Instant),
    Took(Duration),
}

impl RoundTrip {
    /// Notes a segment of the client other than a SYN.
    pub(super) fn answered(&mut self, now: Instant) {
        if let Self::Since(start) = *self {
            *self = Self::Took(now.saturating_duration_since(start));
        }
    }

    /// Returns the time after which a silent client is considered gone: three round trips, so that
    /// a probe or its answer may be lost or late once.
    pub(super) fn probe_timeout(self) -> Duration {
        match self {
            Self::Took(time) => (time * 3).clamp(MIN_PROBE_TIMEOUT, MAX_PROBE_TIMEOUT),
            Self::Unknown | Self::Since(_) => MIN_PROBE_TIMEOUT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_timeout_is_three_round_trips_within_bounds() {
        let start = Instant::now();
        let timeout = |millis| {
            let mut trip = RoundTrip::Since(start);
            trip.answered(start + Duration::from_millis(millis));
            // Only the first answer counts.
            trip.answered(start + Duration::from_secs(60));
            trip.probe_timeout().as_millis()
        };
        assert_eq!(
            [0, 20, 266, 267, 1500, 60_000].map(timeout),
            [800, 800, 800, 801, 4500, 10_000]
        );
        assert_eq!(RoundTrip::Unknown.probe_timeout(), MIN_PROBE_TIMEOUT);
        assert_eq!(RoundTrip::Since(start).probe_timeout(), MIN_PROBE_TIMEOUT);
    }
}
