//! A flow as plain data, so that the hook goes on with it when the endpoint begins anew: its number,
//! how its server speaks and, if it is between two messages, where in its client's stream the next
//! one begins.
//!
//! Packets that wait are not kept: TCP sends them again. Of the server it is taken that it verifies
//! signatures, as wherever track of it is lost.

use super::connection::{Connection, ConnectionSnapshot};
use super::flow::Flow;
use super::{Ends, Hook, Reason, Shared, TcpReplyTemplate};
use crate::ids::{FlowId, PeerId};
use serde::{Deserialize, Serialize};

/// What has to be known of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmbFlowSnapshot {
    ends: Ends,
    number: Option<u16>,
    open: bool,
    /// The client's last SYN, as the flow has it.
    opening: Option<(u32, bool)>,
    reply_template: TcpReplyTemplate,
    bypass: Option<Reason>,
    #[serde(default)]
    aborted: bool,
    connection: Option<ConnectionSnapshot>,
}

impl SmbFlowSnapshot {
    /// The flow's addresses.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }
}

impl Hook {
    /// A flow as it is now.
    pub fn keep(&self, flow: FlowId) -> Option<SmbFlowSnapshot> {
        let found = self.flows.get(flow.slot as usize)?.as_ref()?;
        (found.id() == flow).then(|| found.keep())
    }

    /// Goes on with a flow of another hook. One that was not between two messages is let through
    /// unread from now on; if it has a number, that stays its own.
    pub fn restore(&mut self, flow: FlowId, kept: &SmbFlowSnapshot, peer: Option<PeerId>) {
        if self.watches(kept.ends.server.port()) {
            let (place, shared) = self.place(flow);
            *place = Some(Box::new(Flow::restore(flow, kept, peer, shared)));
        }
    }
}

impl Flow {
    fn keep(&self) -> SmbFlowSnapshot {
        let connection = self.connection.as_ref();
        SmbFlowSnapshot {
            ends: self.owner.ends,
            number: self.owner.own_number(),
            open: self.owner.open,
            opening: self.opening,
            reply_template: self.owner.reply_template,
            bypass: self.bypass,
            aborted: self.aborted,
            connection: connection.and_then(|connection| connection.keep(self.bypass.is_none())),
        }
    }

    fn restore(
        id: FlowId,
        kept: &SmbFlowSnapshot,
        peer: Option<PeerId>,
        shared: &mut Shared,
    ) -> Self {
        let mut flow = Self::new(id, kept.ends, peer, shared);
        if let Some(number) = kept.number {
            flow.owner.number(number, None, shared);
        }
        flow.owner.open = kept.open;
        flow.opening = kept.opening;
        flow.owner.reply_template = kept.reply_template;
        flow.bypass = kept.bypass;
        flow.aborted = kept.aborted;
        let holder = flow.owner.holder;
        let connection = kept.connection.as_ref();
        let connection = connection.map(|kept| Connection::restore(kept, holder));
        flow.connection = connection.map(Box::new);
        flow
    }
}
