//! The life of a session: opened by a packet that the limits and the filter let in, kept alive by
//! those after it. It reads what a packet says and writes nothing into it.

use super::endpoint::{Family, Inside, Outside, Protocol, Remote, Side};
use super::expiry::Class;
use super::icmp::Refusal;
use super::settings::Filtering;
use super::tcp::Segment;
use super::verdict::Stop;
use super::{Nat, Peers};
use std::net::IpAddr;
use std::time::Instant;
use vcgate_wire::packet::Packet;

impl Nat {
    /// A session for a client's first packet to `remote`, and a port where there is none yet.
    pub(super) fn open_out(
        &mut self,
        (inside, remote, lan): (Inside, Remote, IpAddr),
        protocol: Protocol,
        mapping: Option<u32>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Result<u32, Stop> {
        let limits = &self.settings.limits;
        let client = self.clients.get_or_insert(inside.0.ip, peers, now)?;
        let admitted = self.clients.admit(client, Side::Inside, limits, now);
        let known = mapping.map(|m| self.table.mappings[m as usize].outside);
        let known = known.or_else(|| self.forwards.from(inside, protocol));
        let outside = admitted.and_then(|()| match known {
            Some(outside) => Ok(outside),
            None => self
                .clients
                .port(client, &mut self.ports, protocol, inside.0.port, limits)
                .map(|port| Outside {
                    family: Family::of(inside.0.ip),
                    protocol,
                    port,
                })
                .inspect_err(|_| self.clients.leave(client)),
        });
        match outside {
            Ok(outside) => Ok(self.open((inside, outside, client), remote, lan, now)),
            Err(reason) => {
                self.clients.remove_if_idle(client);
                Err(Stop::Refuse(reason, Refusal::Prohibited))
            }
        }
    }

    /// A session for a SYN from the LAN that the filter lets in.
    pub(super) fn open_in(
        &mut self,
        mapping: u32,
        remote: Remote,
        lan: IpAddr,
        now: Instant,
    ) -> Result<u32, Stop> {
        let m = &self.table.mappings[mapping as usize];
        let ends = (m.inside, m.outside, m.client);
        self.clients
            .admit(m.client, Side::Lan, &self.settings.limits, now)?;
        Ok(self.open(ends, remote, lan, now))
    }

    /// All are of one family; `lan` is its LAN address.
    pub(super) fn open(
        &mut self,
        ends: (Inside, Outside, u32),
        remote: Remote,
        lan: IpAddr,
        now: Instant,
    ) -> u32 {
        let class = Class::new(ends.1.protocol, remote.0.port);
        self.table.open(ends, remote, lan, (class, now))
    }

    /// Records a session's packet: numbers, state, time. A packet that opens a connection in the
    /// place of one that is over starts another flow.
    pub(super) fn note(
        &mut self,
        index: u32,
        from: Side,
        packet: &Packet<'_>,
        segment: Option<Segment>,
        now: Instant,
    ) {
        let over = {
            let session = &self.table.sessions[index as usize];
            segment.is_some_and(|s| session.tcp.is_over(&s))
        };
        if over {
            self.closed.push_back(self.table.flow_id(index));
            self.table.renew(index);
        }
        let session = &mut self.table.sessions[index as usize];
        match from {
            Side::Inside => session.sent.add(packet.headers.len),
            Side::Lan => session.received.add(packet.headers.len),
        }
        let (class, alive) = match segment {
            Some(segment) => {
                let alive = session.tcp.step(from, &segment);
                (session.tcp.class(), alive)
            }
            // RFC 4787 REQ-6: what the client sends keeps its mapping; what the LAN sends may do so
            // by configuration. RFC 5508 has no such choice for queries.
            None => {
                let class = session.timer.class;
                let inbound = self.settings.timeouts.udp_inbound_refresh && class == Class::Udp;
                (class, from == Side::Inside || inbound)
            }
        };
        // Who begins anew in the place of what is over does not keep it alive, before the client
        // answers.
        let was = session.timer.class;
        let is_unanswered_reopen =
            from == Side::Lan && (was, class) == (Class::Closing, Class::Opening);
        if class != was && class == Class::Closing {
            self.ended.push_back(self.table.flow_id(index));
        }
        if alive || (class != was && !is_unanswered_reopen) {
            self.table.refresh(index, class, now);
        }
    }

    /// The filter (RFC 4787 REQ-8, RFC 5382 REQ-3).
    pub(super) fn admits(&self, mapping: u32, sender: IpAddr) -> bool {
        match self.settings.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.table.knows(mapping, sender),
        }
    }
}
