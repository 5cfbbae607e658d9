//! Whose a flow is and what it has for good: its addresses, its number, and what is expected of its
//! ends.

use super::numbers::GroupId;
use super::reply_template::TcpReplyTemplate;
use super::round_trip::RoundTrip;
use super::{Ends, Shared};
use crate::ids::{FlowId, PeerId};
use crate::tcp_stream::reorder::Holder;
use std::time::{Duration, Instant};

/// The number of those for whom none is left.
const SHARED: u16 = u16::MAX;

/// What stays the same for all connections that use the flow's addresses one after another.
#[derive(Debug)]
pub(super) struct FlowIdentity {
    pub id: FlowId,
    pub ends: Ends,
    /// In whose share its bytes wait.
    pub holder: Holder,
    pub session_setups: u64,
    pub zeros: u64,
    /// There is a connection that neither end has ended.
    pub open: bool,
    pub watch: ProbeState,
    pub round_trip: RoundTrip,
    pub reply_template: TcpReplyTemplate,
    /// The newest TSval of the client that went on to the server.
    pub clock: Option<u32>,
    /// It was told that session setups cannot be changed because of their signatures.
    pub told_signed: bool,
    number: Option<u16>,
    /// Another flow has the number too: none was free.
    shares_number: bool,
    /// The connection has ended: the number is another flow's soon.
    is_over: bool,
}

impl FlowIdentity {
    /// Of a flow that begins.
    pub fn new(id: FlowId, ends: Ends, peer: Option<PeerId>) -> Self {
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
            told_signed: false,
            number: None,
            shares_number: false,
            is_over: false,
        }
    }

    /// The flow's number: the one that it has, or one that it gets now. Without a free one it is
    /// another flow's: two with the same number do each other no harm, only a 0 ends the others.
    /// `limit`: the server takes only numbers below this one.
    pub fn number(&mut self, asked: u16, limit: Option<u16>, shared: &mut Shared) -> u16 {
        if let Some(number) = self.number {
            return number;
        }
        let taken = shared.groups.take(self.group(), asked, limit);
        self.shares_number = taken.is_none();
        shared.counters.shared_numbers += u64::from(taken.is_none());
        let shared = limit.map_or(SHARED, |limit| limit.saturating_sub(1).max(1));
        *self.number.insert(taken.unwrap_or(shared))
    }

    /// The number that it has.
    pub fn own_number(&self) -> Option<u16> {
        self.number.filter(|_| !self.is_over)
    }

    /// The connection has ended at both ends. What of it is sent again keeps the number; the server
    /// has it, or takes it no more.
    pub fn connection_over(&mut self, shared: &mut Shared) {
        if let Some(number) = self.number
            && !self.is_over
            && !self.shares_number
        {
            shared.groups.rest(self.group(), number);
        }
        self.is_over = true;
    }

    /// The server goes on: it did not get what ended the connection; or there is another one
    /// between the same ends.
    pub fn connection_lives(&mut self, shared: &mut Shared) {
        if !self.is_over {
            return;
        }
        self.is_over = false;
        if let Some(number) = self.number
            && !self.shares_number
            && !shared.groups.resume(self.group(), number)
        {
            self.number = None;
        }
    }

    /// The flow is over.
    pub fn free_number(&self, shared: &mut Shared) {
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

/// What is expected of a flow's segments.
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
