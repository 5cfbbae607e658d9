//! Flows as plain data, so that the hook of the next process continues them: the number, the
//! template for segments in the server's name and, between two messages, the position of the next.
//!
//! Buffered packets are never saved: TCP retransmits them. The server is assumed to verify
//! signatures, as wherever it cannot be followed.

use super::connection::{Connection, ConnectionSnapshot};
use super::flow::{ClientSyn, Flow};
use super::{Ends, Hook, Reason, Shared, TcpReplyTemplate, VcNumber};
use crate::ids::{FlowId, PeerId};
use crate::tcp_stream::reorder::Holder;
use serde::{Deserialize, Serialize};
use vcgate_wire::tcp::SeqNumber;

/// The saved state of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmbFlowSnapshot {
    ends: Ends,
    number: Option<VcNumber>,
    open: bool,
    /// The client's last SYN: its sequence number, and whether it permits SACK.
    opening: Option<(SeqNumber, bool)>,
    reply_template: TcpReplyTemplate,
    bypass: Option<Reason>,
    #[serde(default)]
    aborted: bool,
    connection: Option<ConnectionSnapshot>,
}

impl SmbFlowSnapshot {
    /// Returns the flow's addresses.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Describes the parts that the journal follows: the template and the acknowledged bytes change
    /// with each packet.
    pub(crate) fn describe(&self) -> String {
        let reply_template = TcpReplyTemplate::default();
        let connection = self.connection.as_ref();
        let state = Self {
            reply_template,
            connection: connection.map(ConnectionSnapshot::durable),
            ..self.clone()
        };
        format!("{state:?}")
    }
}

impl Hook {
    /// Saves a flow that another hook continues.
    pub fn keep(&self, flow: FlowId) -> Option<SmbFlowSnapshot> {
        let found = self.flows.get(flow.slot as usize)?.as_ref()?;
        (found.id() == flow).then(|| found.keep())
    }

    /// Saves the parts of a flow that stay valid while packets flow, for a process that is killed.
    pub fn keep_running(&self, flow: FlowId) -> Option<SmbFlowSnapshot> {
        let found = self.flows.get(flow.slot as usize)?.as_ref()?;
        (found.id() == flow).then(|| found.keep_running())
    }

    /// Starts to collect the flows whose durable state changes.
    pub(crate) fn collect_changes(&mut self) {
        self.shared.changed.get_or_insert_default();
    }

    /// Returns whether there are changes to take.
    pub(crate) fn has_changes(&self) -> bool {
        let changed = self.shared.changed.as_ref();
        changed.is_some_and(|changed| !changed.is_empty())
    }

    /// Takes the state of each flow that has changed since the last call and still exists.
    pub(crate) fn take_changes(&mut self) -> impl Iterator<Item = SmbFlowSnapshot> + '_ {
        let changed = self.shared.changed.as_mut();
        let changed = changed.map(std::mem::take).unwrap_or_default();
        changed.into_iter().filter_map(|id| {
            let (flow, _) = self.find(id)?;
            flow.owner.is_changed = false;
            Some(flow.keep_running())
        })
    }

    /// Restores a flow of another hook. A flow that was not between two messages keeps its number. It
    /// passes, and is reset at the first session setup with VcNumber 0 in it.
    pub fn restore(&mut self, flow: FlowId, kept: &SmbFlowSnapshot, peer: Option<PeerId>) {
        self.restore_with(flow, kept, peer, Connection::restore);
    }

    /// Restores a flow of a hook that may have passed more packets than `kept` shows, because its
    /// process was killed.
    pub fn resume(&mut self, flow: FlowId, kept: &SmbFlowSnapshot, peer: Option<PeerId>) {
        self.restore_with(flow, kept, peer, Connection::resume);
    }

    fn restore_with(
        &mut self,
        flow: FlowId,
        kept: &SmbFlowSnapshot,
        peer: Option<PeerId>,
        connection: impl Fn(&ConnectionSnapshot, Holder) -> Connection,
    ) {
        if self.watches(kept.ends.server.port()) {
            let (place, shared) = self.place(flow);
            *place = Some(Box::new(Flow::restore(
                flow, kept, peer, connection, shared,
            )));
        }
    }

    /// Adds a restored flow of which the other hook kept nothing, since it did not watch the port.
    /// It passes, and is reset at the first session setup with VcNumber 0 in it.
    pub fn restore_unread(&mut self, flow: FlowId, ends: Ends, peer: Option<PeerId>) {
        if self.watches(ends.server.port()) && self.find(flow).is_none() {
            let (place, shared) = self.place(flow);
            *place = Some(Box::new(Flow {
                is_restored: true,
                ..Flow::new(flow, ends, peer, shared)
            }));
        }
    }
}

impl Flow {
    fn keep(&self) -> SmbFlowSnapshot {
        let connection = self.connection.as_ref();
        SmbFlowSnapshot {
            connection: connection.and_then(|connection| connection.keep(self.bypass.is_none())),
            ..self.keep_identity()
        }
    }

    fn keep_running(&self) -> SmbFlowSnapshot {
        let connection = self.connection.as_ref();
        let connection = connection.map(|c| c.keep_running(self.bypass.is_none()));
        let is_read_no_more = connection.as_ref().is_some_and(|(_, is_read)| !is_read);
        SmbFlowSnapshot {
            bypass: self.bypass.or(is_read_no_more.then_some(Reason::MidStream)),
            connection: connection.and_then(|(kept, _)| kept),
            ..self.keep_identity()
        }
    }

    /// Saves a flow without its connection.
    fn keep_identity(&self) -> SmbFlowSnapshot {
        SmbFlowSnapshot {
            ends: self.owner.ends,
            number: self.owner.own_number(),
            open: self.owner.open,
            opening: self.opening.map(|syn| (syn.seq, syn.sack_permitted)),
            reply_template: self.owner.reply_template,
            bypass: self.bypass,
            aborted: self.aborted,
            connection: None,
        }
    }

    fn restore(
        id: FlowId,
        kept: &SmbFlowSnapshot,
        peer: Option<PeerId>,
        connection: impl Fn(&ConnectionSnapshot, Holder) -> Connection,
        shared: &mut Shared,
    ) -> Self {
        let mut flow = Self::new(id, kept.ends, peer, shared);
        if let Some(number) = kept.number {
            flow.owner.restore_number(number, shared);
        }
        flow.owner.open = kept.open;
        flow.opening = kept.opening.map(|(seq, sack_permitted)| ClientSyn {
            seq,
            sack_permitted,
        });
        flow.owner.reply_template = kept.reply_template;
        flow.bypass = kept.bypass;
        flow.aborted = kept.aborted;
        flow.is_restored = true;
        flow.probes_others = !matches!(kept.bypass, Some(Reason::Smb2 | Reason::Encrypted));
        let holder = flow.owner.holder;
        let kept = kept.connection.as_ref();
        flow.connection = kept.map(|kept| Box::new(connection(kept, holder)));
        flow
    }
}
