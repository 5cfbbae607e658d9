//! The life of a session: opened by a packet within the limits, refreshed by later ones, closed.
//!
//! It reads packets and writes nothing into them.

use super::clients::Client;
use super::endpoint::SessionId;
use super::endpoint::{ClientId, Inside, MappingId, Outside, Protocol, Remote, Side};
use super::expiry::Class;
use super::icmp_error::Refusal;
use super::outcome::{Reason, SeveredFlow, Stop};
use super::settings::Filtering;
use super::table::{Mapping, MappingEnds};
use super::tcp::{Segment, TcpState};
use super::{Context, Nat};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use vcgate_wire::packet::Packet;

/// Maximum number of severed connections that wait to be reset. The ends of further ones are reset
/// when they send their next segment.
const MAX_SEVERED: usize = 4096;

impl Nat {
    /// Opens a session for a client's first packet to `remote`, and takes a port if the client's
    /// endpoint has none.
    ///
    /// # Errors
    /// The reason to refuse the packet: a limit, or no free port.
    pub(super) fn open_out(
        &mut self,
        inside: Inside,
        remote: Remote,
        protocol: Protocol,
        mapping: Option<MappingId>,
        cx: &Context<'_>,
    ) -> Result<SessionId, Stop> {
        let client = (self.clients).get_or_insert(inside.0.ip, cx.sender, &self.lan, cx.now)?;
        match self.port_for(client, inside, protocol, mapping, cx.now) {
            Ok(outside) => {
                let ends = MappingEnds {
                    client,
                    inside,
                    outside,
                    lan: self.lan.address(outside.lan),
                };
                Ok(self.open(ends, remote, cx.now))
            }
            Err(reason) => {
                self.clients.remove_if_idle(client);
                Err(Stop::Refuse(reason, Refusal::Prohibited))
            }
        }
    }

    /// Counts a new session of a client and returns the port of its endpoint.
    fn port_for(
        &mut self,
        client: ClientId,
        inside: Inside,
        protocol: Protocol,
        mapping: Option<MappingId>,
        now: Instant,
    ) -> Result<Outside, Reason> {
        let limits = &self.settings.limits;
        self.clients.admit(client, Side::Inside, limits, now)?;
        let mapped = mapping.map(|m| self.table.mappings[m.index()].outside);
        if let Some(outside) = mapped.or_else(|| self.forwards.from(inside, protocol)) {
            return Ok(outside);
        }
        let inner = inside.0.port;
        // RFC 6888 REQ-8 (C): a filter by address protects the next holder as the quarantine does.
        let may_reuse = self.settings.filtering == Filtering::AddressDependent;
        let ports = &mut self.ports;
        let outside = (self.clients).take_port(client, ports, protocol, inner, limits, may_reuse);
        outside.inspect_err(|_| self.clients.release_session(client))
    }

    /// Opens a session for a SYN from the LAN that passed the filter.
    ///
    /// # Errors
    /// The limit that the peer has reached.
    pub(super) fn open_in(
        &mut self,
        mapping: MappingId,
        remote: Remote,
        now: Instant,
    ) -> Result<SessionId, Stop> {
        let mapping = &self.table.mappings[mapping.index()];
        let ends = MappingEnds {
            client: mapping.client,
            inside: mapping.inside,
            outside: mapping.outside,
            lan: self.lan.address(mapping.outside.lan),
        };
        let limits = &self.settings.limits;
        self.clients.admit(ends.client, Side::Lan, limits, now)?;
        Ok(self.open(ends, remote, now))
    }

    /// Opens a session of an admitted client.
    pub(super) fn open(&mut self, ends: MappingEnds, remote: Remote, now: Instant) -> SessionId {
        let class = Class::new(ends.outside.protocol, remote.0.port);
        let id = self.table.open(ends, remote, class, now);
        self.report_opened(id);
        id
    }

    /// Records a packet of a session: its size, TCP state and time. A packet that opens a connection
    /// in the place of a closed one starts another flow.
    pub(super) fn record_packet(
        &mut self,
        id: SessionId,
        from: Side,
        packet: &Packet<'_>,
        segment: Option<Segment>,
        now: Instant,
    ) {
        match segment {
            Some(segment) if segment.is_control() => {
                self.record_control(id, from, packet, &segment, now);
            }
            _ => self.record(id, from, packet, segment, now),
        }
    }

    /// Records a segment that can begin or end a connection. The journal follows each FIN, so that
    /// segments of established connections cost nothing for it.
    #[inline(never)]
    fn record_control(
        &mut self,
        id: SessionId,
        from: Side,
        packet: &Packet<'_>,
        segment: &Segment,
        now: Instant,
    ) {
        if self.table.sessions[id.index()].tcp.is_reopened_by(segment) {
            self.closed.push_back(self.table.flow_id(id));
            self.table.renew(id);
            self.report_renewed(id);
        }
        let class = self.table.sessions[id.index()].timer.class;
        self.record(id, from, packet, Some(*segment), now);
        if segment.fin && self.table.sessions[id.index()].timer.class == class {
            self.report_tcp(id);
        }
    }

    fn record(
        &mut self,
        id: SessionId,
        from: Side,
        packet: &Packet<'_>,
        segment: Option<Segment>,
        now: Instant,
    ) {
        let session = &mut self.table.sessions[id.index()];
        match from {
            Side::Inside => session.sent.add(packet.headers.len),
            Side::Lan => session.received.add(packet.headers.len),
        }
        let (class, refreshes) = match segment {
            Some(segment) => {
                let refreshes = session.tcp.on_segment(from, &segment);
                (session.tcp.class(), refreshes)
            }
            // RFC 4787 REQ-6: the client's packets refresh the mapping, those of the LAN by
            // configuration. RFC 5508 has no such choice for queries.
            None => {
                let class = session.timer.class;
                let inbound = self.settings.timeouts.udp_inbound_refresh && class == Class::Udp;
                (class, from == Side::Inside || inbound)
            }
        };
        let old_class = session.timer.class;
        // A SYN of the LAN does not refresh a closed session before the client answers it.
        let is_unanswered_reopen =
            from == Side::Lan && (old_class, class) == (Class::Closing, Class::Opening);
        if class != old_class && class == Class::Closing {
            self.ended.push_back(self.table.flow_id(id));
        }
        if class != old_class {
            self.report_tcp(id);
        }
        if refreshes || (class != old_class && !is_unanswered_reopen) {
            self.table.refresh(id, class, now);
        }
    }

    /// Applies the filter to a packet from the LAN (RFC 4787 REQ-8, RFC 5382 REQ-3).
    pub(super) fn passes_filter(&self, mapping: MappingId, sender: IpAddr) -> bool {
        match self.settings.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.table.has_session_with(mapping, sender),
        }
    }

    /// Closes all flows of the clients that match, and releases their ports.
    pub(super) fn remove_clients(&mut self, matches: impl Fn(&Client) -> bool, now: Instant) {
        let removed = self.clients.iter().filter(|(_, client)| matches(client));
        let removed =
            removed.map(|(id, client)| (id, client.address, client.lan, client.blocks.clone()));
        for (client, address, lan, blocks) in removed.collect::<Vec<_>>() {
            for outside in self.forwards.of(address) {
                self.close_mapping(outside, now);
            }
            for block in blocks {
                for outside in self.ports.in_use(lan, block) {
                    self.close_mapping(outside, now);
                }
            }
            self.clients.abandon_blocks(client, &mut self.ports);
        }
    }

    /// Closes all sessions of a port, whose connections are reported as severed.
    pub(super) fn close_mapping(&mut self, outside: Outside, now: Instant) {
        while let Some(mapping) = self.table.by_outside(outside) {
            let Some(session) = self.table.sessions_of(mapping).next() else {
                break;
            };
            self.note_severed(session);
            self.close(session, now);
        }
    }

    /// Reports a session that is to be closed while the ends still use its connection.
    fn note_severed(&mut self, id: SessionId) {
        let session = &self.table.sessions[id.index()];
        let mapping = &self.table.mappings[session.mapping.index()];
        let Outside {
            lan,
            protocol,
            port,
        } = mapping.outside;
        let in_use = matches!(
            session.tcp.state(),
            TcpState::Opening | TcpState::Established
        );
        let Some(client) = self.clients.client(mapping.client) else {
            return;
        };
        if protocol == Protocol::Tcp && in_use && self.severed.len() < MAX_SEVERED {
            self.severed.push_back(SeveredFlow {
                peer: client.peer,
                client: mapping.inside.0.into(),
                lan: SocketAddr::new(self.lan.address(lan), port),
                server: session.remote.0.into(),
                sequence: session.tcp.sequence(),
            });
        }
    }

    /// Closes a session, and releases the port and the client that only it used.
    pub(super) fn close(&mut self, session: SessionId, now: Instant) {
        self.closed.push_back(self.table.flow_id(session));
        self.report_closed(session);
        let mapping = self.table.sessions[session.index()].mapping;
        let Mapping { client, inside, .. } = self.table.mappings[mapping.index()];
        self.clients.release_session(client);
        if let Some(outside) = self.table.close(session)
            && self.forwards.to(outside).is_none()
        {
            self.report_released(inside.0.ip, outside);
            if let Some(released) = self.ports.give_back(outside, now) {
                self.clients.on_block_released(released);
            }
        }
        self.clients.remove_if_idle(client);
    }
}
