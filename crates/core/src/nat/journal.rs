//! Reports of durable changes to the flow journal, and the same records for all flows.
//!
//! It reports events only, never a packet of a flow that exists. A block is reported when its event is
//! polled.

use super::endpoint::{Endpoint, MappingId, Outside, Protocol, SessionId};
use super::lan_ports::PORT_HOLD_TIME;
use super::{BlockEvent, Nat};
use crate::journal::{Change, FlowKey, Record};
use std::net::IpAddr;
use std::time::Instant;

impl Nat {
    /// Starts to collect durable changes; see [`append_changes`](Self::append_changes).
    pub(crate) fn collect_changes(&mut self) {
        self.changes.get_or_insert_default();
    }

    /// Returns whether there are changes to take.
    pub(crate) fn has_changes(&self) -> bool {
        self.changes.as_ref().is_some_and(|list| !list.is_empty())
    }

    /// Appends the changes since the last call, in order.
    pub(crate) fn append_changes(&mut self, records: &mut Vec<Record>) {
        match &mut self.changes {
            Some(changes) if records.is_empty() => std::mem::swap(changes, records),
            Some(changes) => records.append(changes),
            None => {}
        }
    }

    /// Reports a flow that begins, and the owner of its client if it is the client's first one.
    pub(super) fn report_opened(&mut self, id: SessionId) {
        if self.changes.is_none() {
            return;
        }
        let mapping = self.table.sessions[id.index()].mapping;
        if let Some(owner) = self.first_flow_owner(mapping) {
            self.report(owner);
        }
        self.report(self.opened(id));
    }

    /// Reports a flow that begins in the place of a closed one.
    pub(super) fn report_renewed(&mut self, id: SessionId) {
        if self.changes.is_some() {
            let opened = self.opened(id);
            self.report(opened);
        }
    }

    /// Reports the stage of a TCP flow.
    pub(super) fn report_tcp(&mut self, id: SessionId) {
        if self.changes.is_some() {
            let flow = self.flow_key(id);
            let tcp = self.table.sessions[id.index()].tcp;
            self.report(Change::Tcp { flow, tcp });
        }
    }

    /// Reports a flow that ends. It must still exist.
    pub(super) fn report_closed(&mut self, id: SessionId) {
        if self.changes.is_some() {
            let flow = self.flow_key(id);
            let mapping = self.table.sessions[id.index()].mapping;
            let port = self.table.mappings[mapping.index()].outside.port;
            self.report(Change::Closed { flow, port });
        }
    }

    /// Reports that a block was given to a client or returned.
    pub(super) fn report_block(&mut self, event: &BlockEvent) {
        if self.changes.is_some() {
            self.report(Self::block(event));
        }
    }

    /// Reports a port that a client released, if it is quarantined.
    pub(super) fn report_released(&mut self, client: IpAddr, outside: Outside) {
        if self.changes.is_some() && outside.protocol == Protocol::Udp {
            self.report(Change::PortHeld {
                client,
                outside: Endpoint {
                    ip: self.lan.address(outside.lan),
                    port: outside.port,
                },
                left: PORT_HOLD_TIME.as_millis() as u64,
            });
        }
    }

    /// Reports all flows and quarantines.
    pub(crate) fn report_all(&self, now: Instant, report: &mut impl FnMut(Record)) {
        for (_, client) in self.clients.iter() {
            report(Record(Change::Owner {
                client: client.address,
                peer: client.peer.0,
            }));
            for block in &client.blocks {
                let event = BlockEvent {
                    client: client.address,
                    lan: self.lan.address(client.lan),
                    first_port: block.first(),
                    last_port: block.last(),
                    given: true,
                };
                report(Record(Self::block(&event)));
            }
        }
        for (slot, session) in self.table.sessions.iter() {
            let id = SessionId::from_index(slot);
            let flow = self.flow_key(id);
            report(Record(self.opened(id)));
            if flow.protocol == Protocol::Tcp {
                let tcp = session.tcp;
                report(Record(Change::Tcp { flow, tcp }));
            }
            let idle = now.saturating_duration_since(session.timer.since);
            report(Record(Change::Usage {
                flow,
                idle: idle.as_millis() as u64,
                sent: session.sent,
                received: session.received,
            }));
        }
        for held in self.ports.quarantined() {
            let client = self.ports.owner(held.lan, held.port);
            let client = client.and_then(|client| self.clients.client(client));
            let Some(client) = client.map(|client| client.address) else {
                continue;
            };
            let left = held.until.saturating_duration_since(now);
            report(Record(Change::PortHeld {
                client,
                outside: Endpoint {
                    ip: self.lan.address(held.lan),
                    port: held.port,
                },
                left: left.as_millis() as u64,
            }));
        }
    }

    /// Returns the identity of a flow in the journal.
    fn flow_key(&self, id: SessionId) -> FlowKey {
        let session = &self.table.sessions[id.index()];
        let mapping = &self.table.mappings[session.mapping.index()];
        FlowKey {
            protocol: mapping.outside.protocol,
            inside: mapping.inside.0,
            remote: session.remote.0,
        }
    }

    fn report(&mut self, change: Change) {
        if let Some(changes) = &mut self.changes {
            changes.push(Record(change));
        }
    }

    fn opened(&self, id: SessionId) -> Change {
        let mapping = self.table.sessions[id.index()].mapping;
        let outside = self.table.mappings[mapping.index()].outside;
        Change::Opened {
            flow: self.flow_key(id),
            outside: Endpoint {
                ip: self.lan.address(outside.lan),
                port: outside.port,
            },
            forwarded: self.forwards.to(outside).is_some(),
        }
    }

    fn block(event: &BlockEvent) -> Change {
        Change::Block {
            client: event.client,
            first: Endpoint {
                ip: event.lan,
                port: event.first_port,
            },
            last_port: event.last_port,
            given: event.given,
        }
    }

    /// Returns the owner of a mapping's client if the client has just got its first flow.
    fn first_flow_owner(&self, mapping: MappingId) -> Option<Change> {
        let client = self.table.mappings[mapping.index()].client;
        let client = self.clients.client(client)?;
        (client.sessions == 1).then_some(Change::Owner {
            client: client.address,
            peer: client.peer.0,
        })
    }
}
