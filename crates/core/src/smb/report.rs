//! Actions, events, counters and flow states that the hook reports. It never formats them.

use super::{Blocks, Ends, Stale, VcNumber};
use crate::ids::FlowId;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use vcgate_wire::smb1::Negotiated;
use vcgate_wire::tcp::SeqNumber;

/// A packet to send on a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Repeats the server's last acknowledgement to the client, with these SACK blocks.
    Acknowledge(FlowId, Blocks),
    /// Sends the client a keepalive probe in the server's name (RFC 9293 section 3.8.4).
    Probe(FlowId),
    /// Sends both ends a RST; the flow has ended.
    Reset(FlowId),
    /// Sends the server a RST with this sequence number: the one that it named, since it has
    /// challenged the first RST (RFC 5961 section 3.2) or did not receive it, or that of the data
    /// of an unknown connection.
    ResetServer(FlowId, SeqNumber),
}

impl Action {
    /// Returns the flow that the packet belongs to.
    pub fn flow(self) -> FlowId {
        match self {
            Self::Acknowledge(flow, _) | Self::Probe(flow) => flow,
            Self::Reset(flow) | Self::ResetServer(flow, _) => flow,
        }
    }
}

/// The reason for which a flow passes unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// It uses SMB2 or SMB3, which have no VcNumber.
    Smb2,
    /// Its beginning was not seen.
    MidStream,
    /// Servers may read it in different ways: a length that may have 24 bits, after which the
    /// server answered a logon that the hook had not read, or is not tracked; a chain whose blocks
    /// overlap.
    Framing,
    /// A message that is not SMB.
    Protocol,
    /// SMB1 encrypted by the UNIX extensions.
    Encrypted,
    /// Bytes reached the server that did not pass here.
    Missed,
    /// More bytes arrived out of order than [`Mode::Observe`](super::Mode::Observe) buffers.
    Disorder,
    /// A raw request at the position of raw data that the server has not requested yet.
    RawData,
}

impl Reason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 8] = [
        Self::Smb2,
        Self::MidStream,
        Self::Framing,
        Self::Protocol,
        Self::Encrypted,
        Self::Missed,
        Self::Disorder,
        Self::RawData,
    ];

    /// Returns the name for counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smb2 => "smb2",
            Self::MidStream => "mid-stream",
            Self::Framing => "framing",
            Self::Protocol => "protocol",
            Self::Encrypted => "encrypted",
            Self::Missed => "missed",
            Self::Disorder => "disorder",
            Self::RawData => "raw-data",
        }
    }

    /// Returns the reason with this [name](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// Explains the reason to users who do not know the hook.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Smb2 => "it speaks SMB 2 or 3, which have no VcNumber",
            Self::MidStream => "its beginning was not seen, it was open before",
            Self::Framing => "servers read in different ways what the client sends",
            Self::Protocol => "a message in it is not SMB",
            Self::Encrypted => "it is encrypted (UNIX extensions)",
            Self::Missed => "the server has received bytes that did not pass here",
            Self::Disorder => "too much of it came out of order",
            Self::RawData => "raw data may be in its place, for which the client did not wait",
        }
    }
}

/// The handling of a session setup's VcNumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It had the flow's number already.
    Preserved,
    /// It was replaced by the flow's number.
    Rewritten,
    /// It passed unchanged: a signature that the server may verify covers it.
    Signed,
    /// It passed unchanged: the mode is to observe.
    Observed,
    /// It passed unchanged on an unread flow, and was recognised nevertheless.
    Unread(Reason),
}

/// A session setup that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logon {
    /// The flow.
    pub flow: FlowId,
    /// Its ends.
    pub ends: Ends,
    /// The VcNumber that the client sent.
    pub asked: u16,
    /// The VcNumber that the server receives.
    pub given: u16,
    /// The handling.
    pub outcome: Outcome,
    /// WordCount: 10, 12 (extended security) or 13; servers accept others too.
    pub words: u8,
    /// Whether it had a signature.
    pub signed: bool,
    /// The server's NEGOTIATE response, if it was seen.
    pub negotiated: Option<Negotiated>,
}

/// A replaced VcNumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The client's number.
    pub asked: u16,
    /// The number that the server receives.
    pub given: VcNumber,
}

/// The way in which a server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// With a FIN.
    Fin,
    /// With a RST.
    Rst,
}

/// The result for an older flow of a client that has reconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleOutcome {
    /// The client was sent a probe.
    Probed,
    /// The client still knows the flow.
    Alive,
    /// The client no longer knows the flow, which was reset.
    Unknown,
    /// The client did not answer, and the flow was reset.
    Silent,
    /// The flow was reset without a probe.
    Reset,
    /// The flow was left alone, since the mode is to observe; otherwise this would be done.
    Observed(Stale),
}

/// The reason for which a session setup passed unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unchanged {
    /// A signature covers it.
    Signed,
    /// The mode is to observe.
    Observed,
    /// The flow is unread; the session setup was recognised, or may have been there.
    Unread(Reason),
}

/// A session setup that may have made a server disconnect others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The ends of its flow.
    pub ends: Ends,
    /// The reason for which it was not changed.
    pub why: Unchanged,
}

/// An event for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A session setup; a logon with extended security takes two or more.
    Logon(Logon),
    /// A flow passes unread from now on.
    Bypass {
        /// The flow.
        flow: FlowId,
        /// Its ends.
        ends: Ends,
        /// The reason.
        reason: Reason,
    },
    /// For the first time on a flow, a signature protected a session setup. The next event is its
    /// [`Logon`].
    Signed {
        /// The flow.
        flow: FlowId,
        /// Its ends.
        ends: Ends,
    },
    /// A server ended a connection that its client had not ended.
    Closed {
        /// The flow.
        flow: FlowId,
        /// Its ends.
        ends: Ends,
        /// The way in which it was closed.
        how: Closing,
        /// The likely cause, if [`super::DisconnectCorrelator`] finds one.
        cause: Option<Cause>,
    },
    /// A server dropped connections of several clients within a second after this, as
    /// [`super::DisconnectCorrelator`] found.
    MassDisconnect(Cause),
    /// The hook has reset a connection with too many session setups that the server had not
    /// acknowledged.
    Aborted {
        /// The flow.
        flow: FlowId,
        /// Its ends.
        ends: Ends,
    },
    /// The hook has reset a connection that it could not read.
    Unreadable {
        /// The flow.
        flow: FlowId,
        /// Its ends.
        ends: Ends,
        /// The reason for which it could not be read.
        reason: Reason,
    },
    /// A client has reconnected, and this is an older flow of the client to the same server.
    Stale {
        /// The flow.
        flow: FlowId,
        /// Its ends.
        ends: Ends,
        /// The result.
        fate: StaleOutcome,
    },
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Session setups of clients.
    pub session_setups: u64,
    /// Session setups with VcNumber 0.
    pub zeros: u64,
    /// Session setups with a replaced VcNumber.
    pub rewritten: u64,
    /// Session setups that already had the flow's VcNumber.
    pub preserved: u64,
    /// Session setups that passed unchanged because of their signature.
    pub signed_untouched: u64,
    /// Flows that share their number, since all numbers of their group were assigned.
    pub shared_numbers: u64,
    /// Connections that the hook has reset: too many session setups were unacknowledged.
    pub aborted: u64,
    /// Connections that the hook has reset since it could not read them.
    pub unreadable_reset: u64,
    /// Older flows of reconnected clients that were probed,
    pub stale_probed: u64,
    /// those that the client still knew,
    pub stale_alive: u64,
    /// and those that were reset.
    pub stale_reset: u64,
    /// Session setups that were recognised on unread flows, not counted above.
    pub unread_setups: u64,
    /// AndX chains that no server accepts.
    pub bad_chains: u64,
    /// Segments that were buffered until earlier bytes arrived.
    pub held: u64,
    /// Out-of-order segments that were dropped, since they did not fit; TCP retransmits them.
    pub held_dropped: u64,
    /// Segments of clients that no server accepts, dropped unread (RFC 9293 section 3.10.7.4).
    pub invalid_dropped: u64,
    /// Events that were dropped, since too many were not fetched.
    pub events_dropped: u64,
    bypassed: [u64; Reason::ALL.len()],
}

impl Counters {
    /// Returns the number of flows that have passed unread for this reason.
    pub fn bypassed(&self, reason: Reason) -> u64 {
        self.bypassed[reason as usize]
    }

    pub(super) fn count_bypass(&mut self, reason: Reason) {
        self.bypassed[reason as usize] += 1;
    }
}

/// The state of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowReport {
    /// Its ends.
    pub ends: Ends,
    /// Its VcNumber; `None` before its first session setup.
    pub number: Option<VcNumber>,
    /// The reason for which it passes unread, if it does.
    pub bypass: Option<Reason>,
    /// Session setups seen.
    pub session_setups: u64,
    /// Session setups with VcNumber 0.
    pub zeros: u64,
    /// Number of buffered segments.
    pub held: usize,
}

/// Events to be fetched, up to [`MAX_EVENTS`](Self::MAX_EVENTS).
#[derive(Debug, Default)]
pub(super) struct Events(VecDeque<Event>);

impl Events {
    const MAX_EVENTS: usize = 1024;

    pub(super) fn push(&mut self, event: Event, counters: &mut Counters) {
        if self.0.len() < Self::MAX_EVENTS {
            self.0.push_back(event);
        } else {
            counters.events_dropped += 1;
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }
}
