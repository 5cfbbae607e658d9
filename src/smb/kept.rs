//! A flow as plain data, so that the hook goes on with it when the endpoint begins anew: its number
//! and, if it is between two messages, where in its client's stream the next one begins.
//!
//! Packets that wait are not kept: TCP sends them again. Of the server it is taken that it verifies
//! signatures, as wherever track of it is lost.

use super::connection::Connection;
use super::flow::Flow;
use super::patches::Patch;
use super::position::Position;
use super::{Ends, Hook, Reason, Shared};
use crate::ids::FlowId;
use serde::{Deserialize, Serialize};

/// What has to be known of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFlow {
    ends: Ends,
    number: Option<u16>,
    open: bool,
    /// The client's last SYN, as the flow has it.
    opening: Option<(u32, bool)>,
    bypass: Option<Reason>,
    connection: Option<KeptConnection>,
}

/// A connection that is between two messages, or not read any more. All places are sequence numbers of the client's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptConnection {
    pub isns: (u32, u32),
    pub selective: bool,
    pub began_anew: bool,
    /// Where the next message begins.
    pub need: u32,
    /// Behind what went on to the server, and behind what it has acknowledged.
    pub passed: u32,
    pub acknowledged: u32,
    pub patches: Vec<KeptPatch>,
}

/// Two bytes of the stream that the client sent as `sent` and the server got as `given`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptPatch {
    at: u32,
    sent: u16,
    given: u16,
}

impl KeptFlow {
    /// The flow's addresses.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }
}

impl KeptPatch {
    pub fn of(patch: &Patch) -> Self {
        Self {
            at: patch.at.seq(),
            sent: patch.sent,
            given: patch.given,
        }
    }

    /// The patch, in a stream that is at `near`.
    pub fn patch(&self, near: Position) -> Patch {
        Patch {
            at: near.near(self.at),
            sent: self.sent,
            given: self.given,
        }
    }
}

impl Hook {
    /// A flow as it is now.
    pub fn keep(&self, flow: FlowId) -> Option<KeptFlow> {
        let found = self.flows.get(flow.slot as usize)?.as_ref()?;
        (found.id() == flow).then(|| found.keep())
    }

    /// Goes on with a flow of another hook. One that was not between two messages is let through
    /// unread from now on; if it has a number, that stays its own.
    pub fn restore(&mut self, flow: FlowId, kept: &KeptFlow) {
        if self.watches(kept.ends.server.port()) {
            let (place, shared) = self.place(flow);
            *place = Some(Box::new(Flow::restore(flow, kept, shared)));
        }
    }
}

impl Flow {
    fn keep(&self) -> KeptFlow {
        let connection = self.connection.as_ref();
        KeptFlow {
            ends: self.owner.ends,
            number: self.report().number,
            open: self.owner.open,
            opening: self.opening,
            bypass: self.bypass,
            connection: connection.and_then(|connection| connection.keep(self.bypass.is_none())),
        }
    }

    fn restore(id: FlowId, kept: &KeptFlow, shared: &mut Shared) -> Self {
        let mut flow = Self::new(id, kept.ends, shared);
        if let Some(number) = kept.number {
            flow.owner.number(number, shared);
        }
        flow.owner.open = kept.open;
        flow.opening = kept.opening;
        flow.bypass = kept.bypass;
        let connection = kept.connection.as_ref().map(Connection::restore);
        flow.connection = connection.map(Box::new);
        flow
    }
}
