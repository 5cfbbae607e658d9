//! What the hook tells about itself: events, counters, and how a flow stands.

use super::{Cause, Ends, Stale};
use crate::ids::FlowId;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use vcgate_wire::smb1::Negotiated;

/// Why a flow is let through unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// It speaks SMB2 or SMB3: nothing to do for it.
    Smb2,
    /// Its beginning was not seen.
    MidStream,
    /// Servers may read it in two ways: a length that may have 24 bits, after which the server has
    /// answered a logon that was not read or is not followed; a chain whose blocks overlap.
    Framing,
    /// A message that is no SMB.
    Protocol,
    /// SMB1 under the encryption of the UNIX extensions.
    Encrypted,
    /// Bytes reached the server that did not pass here.
    Missed,
    /// More came out of order than the observer keeps.
    Disorder,
    /// It came where raw data belongs, before the server had asked for that.
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

    /// A name for counters and logs.
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

    /// The reason with this [name](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// What it means, for somebody who has never heard of the hook.
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

/// What became of a session setup's VcNumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was the flow's number already.
    Preserved,
    /// It is the flow's number now.
    Rewritten,
    /// A signature that the server may verify covers it: it went through as it was.
    Signed,
    /// The mode says to change nothing.
    Observed,
    /// The flow is not read; this one showed itself nevertheless.
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
    /// The VcNumber that the server gets.
    pub given: u16,
    /// What was done.
    pub outcome: Outcome,
    /// WordCount: 10, 12 (extended security) or 13, but servers take others too.
    pub words: u8,
    /// It carried a signature.
    pub signed: bool,
    /// What the server said about itself, if it was seen.
    pub negotiated: Option<Negotiated>,
}

/// A VcNumber that went on as another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What the client sent.
    pub asked: u16,
    /// What the server gets.
    pub given: u16,
}

/// How a server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// With a FIN.
    Fin,
    /// With a RST.
    Rst,
}

/// What became of a flow of a client that begins anew on another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleOutcome {
    /// The client is asked whether it still knows it.
    Probed,
    /// It does.
    Alive,
    /// It does not: the flow is reset.
    Unknown,
    /// It did not answer: the flow is reset.
    Silent,
    /// Reset without asking.
    Reset,
    /// The mode says to change nothing; this would have been done.
    Observed(Stale),
}

/// Something that an operator may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A session setup went by; a logon with extended security takes two or more.
    Logon(Logon),
    /// From here on a flow is let through unread.
    Bypass {
        /// The flow.
        flow: FlowId,
        /// Its ends.
        ends: Ends,
        /// Why.
        reason: Reason,
    },
    /// For the first time on a flow, a session setup could not be changed because of its
    /// signature. What it asked for, the [`Logon`] behind this says.
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
        /// How.
        how: Closing,
        /// Whose logon was the likely cause, if [`super::DisconnectCorrelator`] finds one.
        cause: Option<Cause>,
    },
    /// A server dropped connections of several clients within a second after this, as
    /// [`super::DisconnectCorrelator`] found.
    MassDisconnect(Cause),
    /// The hook has reset a connection: the client sent more session setups than can be kept until
    /// the server acknowledges them.
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
        /// Why it could not be read.
        reason: Reason,
    },
    /// A client has begun anew, and this is another flow of it to the same server.
    Stale {
        /// The flow.
        flow: FlowId,
        /// Its ends.
        ends: Ends,
        /// What became of it.
        fate: StaleOutcome,
    },
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Session setups of clients.
    pub session_setups: u64,
    /// Those with VcNumber 0.
    pub zeros: u64,
    /// Those that got another VcNumber.
    pub rewritten: u64,
    /// Those that had the right VcNumber.
    pub preserved: u64,
    /// Those that could not be changed because of their signature.
    pub signed_untouched: u64,
    /// Flows whose number another one has too, since all numbers of their group were taken.
    pub shared_numbers: u64,
    /// Connections that the hook has reset: more session setups than can be kept waited for the
    /// server's acknowledgement.
    pub aborted: u64,
    /// Connections that the hook has reset since it could not read them.
    pub unreadable_reset: u64,
    /// Other flows of a client that began anew: those that it was asked about,
    pub stale_probed: u64,
    /// those that it still knew,
    pub stale_alive: u64,
    /// and those that were reset.
    pub stale_reset: u64,
    /// Session setups that showed themselves on flows that are not read, not counted above.
    pub unread_setups: u64,
    /// AndX chains that no server takes.
    pub bad_chains: u64,
    /// Segments that waited for the bytes before them.
    pub held: u64,
    /// Segments that should have waited, but there was no room; TCP sends them again.
    pub held_dropped: u64,
    /// Segments of clients that no server takes, dropped unread (RFC 9293 section 3.10.7.4).
    pub invalid_dropped: u64,
    /// Events that nobody fetched in time.
    pub events_dropped: u64,
    bypassed: [u64; Reason::ALL.len()],
}

impl Counters {
    /// Flows that are or were let through unread for this reason.
    pub fn bypassed(&self, reason: Reason) -> u64 {
        self.bypassed[reason as usize]
    }

    pub(super) fn count_bypass(&mut self, reason: Reason) {
        self.bypassed[reason as usize] += 1;
    }
}

/// How a flow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowReport {
    /// Its ends.
    pub ends: Ends,
    /// The VcNumber that it has in its group; none before its first session setup.
    pub number: Option<u16>,
    /// Why it is let through unread, if it is.
    pub bypass: Option<Reason>,
    /// Session setups seen.
    pub session_setups: u64,
    /// Those with VcNumber 0.
    pub zeros: u64,
    /// Segments that wait for the bytes before them.
    pub held: usize,
}

/// Events that wait to be fetched, up to a bound.
#[derive(Debug, Default)]
pub(super) struct Events(VecDeque<Event>);

impl Events {
    const MOST: usize = 1024;

    pub fn push(&mut self, event: Event, counters: &mut Counters) {
        if self.0.len() < Self::MOST {
            self.0.push_back(event);
        } else {
            counters.events_dropped += 1;
        }
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }
}
