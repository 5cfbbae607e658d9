//! The NAT's state as plain data, to be written to disk and read back: a restart that cuts
//! nobody off.
//!
//! Flow ids are not kept: after [`Nat::restore`] the flows have new ones. What waits (SYNs,
//! pieces of datagrams) and the counters are not kept either. Forwards are kept only to know their
//! flows by: which ones there are, the configuration says.

use super::endpoint::{Endpoint, Family, Inside, Outside, Protocol, Remote};
use super::expiry::Class;
use super::tcp::Tcp;
use super::{Forward, Nat, Peers, TrafficCounters};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// All that a NAT must know to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The LAN address to which all this belongs.
    pub address: Ipv4Addr,
    /// That for IPv6.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address6: Option<Ipv6Addr>,
    blocks: Vec<BlockRecord>,
    mappings: Vec<MappingRecord>,
    quarantined: Vec<QuarantineRecord>,
    #[serde(default)]
    forwards: Vec<Forward>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct BlockRecord {
    block: u16,
    client: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MappingRecord {
    protocol: Protocol,
    inside: SocketAddr,
    port: u16,
    sessions: Vec<SessionRecord>,
}

impl MappingRecord {
    fn ends(&self) -> (Inside, Outside) {
        let inside = Inside(Endpoint::from(self.inside));
        let outside = Outside {
            family: Family::of(inside.0.ip),
            protocol: self.protocol,
            port: self.port,
        };
        (inside, outside)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SessionRecord {
    remote: SocketAddr,
    idle: Duration,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tcp: Option<Tcp>,
    sent: TrafficCounters,
    received: TrafficCounters,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct QuarantineRecord {
    port: u16,
    ipv6: bool,
    left: Duration,
}

/// Why a snapshot cannot be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is another address's.
    #[error("the snapshot is of LAN address {0}")]
    Address(IpAddr),
    /// A block that is not this shard's, or has two owners, or one who is no peer's.
    #[error("port block {0} is not to be had")]
    Block(u16),
    /// A port outside its client's blocks, or with two mappings, or with none.
    #[error("the mapping of {1:?} port {0} contradicts the others")]
    Mapping(u16, Protocol),
}

impl Nat {
    /// The state as it is now.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let blocks = self.clients.iter().flat_map(|(_, client)| {
            client.blocks.iter().map(move |block| BlockRecord {
                block: *block,
                client: client.address,
            })
        });
        let quarantined = self
            .ports
            .quarantined()
            .map(|(family, port, until)| QuarantineRecord {
                port,
                ipv6: family == Family::V6,
                left: until.saturating_duration_since(now),
            });
        Snapshot {
            address: self.settings.address,
            address6: self.settings.address6,
            blocks: blocks.collect(),
            mappings: self.mapping_records(now).collect(),
            quarantined: quarantined.collect(),
            forwards: self.forwards.list().collect(),
        }
    }

    /// Goes on where another NAT was when the snapshot was taken, `age` ago. This one must have no
    /// flows yet, and its forwards already. Clients that are not `ours` (any more) are left out,
    /// as is what forwards have no place for. After an error it is not to be used.
    pub fn restore(
        &mut self,
        snapshot: Snapshot,
        peers: &dyn Peers,
        ours: impl Fn(IpAddr) -> bool,
        age: Duration,
        now: Instant,
    ) -> Result<(), RestoreError> {
        if snapshot.address != self.settings.address {
            return Err(RestoreError::Address(snapshot.address.into()));
        }
        let other = snapshot.address6;
        if let Some(other) = other.filter(|a| Some(*a) != self.settings.address6) {
            return Err(RestoreError::Address(other.into()));
        }
        let mut blocks = snapshot.blocks;
        blocks.retain(|record| ours(record.client));
        for BlockRecord { block, client } in &blocks {
            let family = Family::of(*client);
            let client = self.clients.get_or_insert(*client, peers, now);
            let client = client.map_err(|_| RestoreError::Block(*block))?;
            if !self.ports.restore_block(family, *block, client) {
                return Err(RestoreError::Block(*block));
            }
            self.clients.give(client, *block);
        }
        let forwarded = |mapping: &MappingRecord| {
            let (_, outside) = mapping.ends();
            { snapshot.forwards.iter() }.any(|forward| forward.outside() == outside)
        };
        let mut mappings = snapshot.mappings;
        mappings.retain(|m| ours(m.inside.ip()) && self.has_place(m, forwarded(m)));
        self.restore_mappings(mappings, peers, age, now)?;
        let mut quarantined = snapshot.quarantined;
        quarantined.sort_by_key(|r| r.left);
        for QuarantineRecord { port, ipv6, left } in quarantined {
            let family = if ipv6 { Family::V6 } else { Family::V4 };
            let left = left.min(super::PORT_HOLD_TIME).saturating_sub(age);
            self.ports.restore_quarantine(family, port, now + left);
        }
        // What has become due in the meantime, and blocks of which nothing was taken up.
        while self.next_timeout().is_some_and(|due| due <= now) {
            self.handle_timeout(now);
        }
        for BlockRecord { block, client } in blocks {
            if let Some(freed) = self.ports.release(Family::of(client), block) {
                self.clients.freed(freed);
            }
        }
        Ok(())
    }

    /// Whether the forwards, which may have changed, leave a mapping its port.
    fn has_place(&self, mapping: &MappingRecord, forwarded: bool) -> bool {
        let (inside, outside) = mapping.ends();
        match self.forwards.to(outside) {
            Some(to) => to == inside,
            None => !forwarded && self.forwards.from(inside, mapping.protocol).is_none(),
        }
    }

    fn mapping_records(&self, now: Instant) -> impl Iterator<Item = MappingRecord> + '_ {
        self.table.mappings.iter().map(move |(index, mapping)| {
            let tcp = mapping.outside.protocol == Protocol::Tcp;
            let sessions = self.table.sessions_of(index as u32).map(|s| {
                let session = &self.table.sessions[s as usize];
                SessionRecord {
                    remote: session.remote.0.into(),
                    idle: now.saturating_duration_since(session.timer.since),
                    tcp: tcp.then_some(session.tcp),
                    sent: session.sent,
                    received: session.received,
                }
            });
            MappingRecord {
                protocol: mapping.outside.protocol,
                inside: mapping.inside.0.into(),
                port: mapping.outside.port,
                sessions: sessions.collect(),
            }
        })
    }

    fn restore_mappings(
        &mut self,
        mappings: Vec<MappingRecord>,
        peers: &dyn Peers,
        age: Duration,
        now: Instant,
    ) -> Result<(), RestoreError> {
        let mut sessions = Vec::new();
        for mapping in mappings {
            let (inside, outside) = mapping.ends();
            let contradiction = RestoreError::Mapping(mapping.port, mapping.protocol);
            if mapping.sessions.is_empty() {
                return Err(contradiction);
            }
            let client = match self.forwards.to(outside).is_some() {
                true => self.clients.get_or_insert(inside.0.ip, peers, now).ok(),
                false => { self.clients.index(inside.0.ip) }
                    .filter(|client| self.ports.restore_port(outside, *client)),
            };
            let client = client.ok_or(contradiction)?;
            sessions.extend(
                mapping
                    .sessions
                    .into_iter()
                    .map(|s| ((inside, outside, client), s)),
            );
        }
        // The lists of the timeout classes want the oldest first.
        sessions.sort_by_key(|(_, s)| Reverse(s.idle));
        for (ends, session) in sessions {
            let idle = session.idle.saturating_add(age);
            self.restore_session(ends, session, now.checked_sub(idle).unwrap_or(now))?;
        }
        Ok(())
    }

    fn restore_session(
        &mut self,
        ends @ (inside, outside, client): (Inside, Outside, u32),
        record: SessionRecord,
        since: Instant,
    ) -> Result<(), RestoreError> {
        let Outside { protocol, port, .. } = outside;
        let remote = Remote(Endpoint::from(record.remote));
        if inside.0.ip.is_ipv4() != remote.0.ip.is_ipv4() {
            return Err(RestoreError::Mapping(port, protocol));
        }
        if let Some(mapping) = self.table.by_inside(inside, protocol) {
            let other = self.table.mappings[mapping as usize].outside != outside;
            if other || self.table.session(mapping, remote).is_some() {
                return Err(RestoreError::Mapping(port, protocol));
            }
        }
        let tcp = record.tcp.unwrap_or_default();
        let class = match protocol {
            Protocol::Tcp => tcp.class(),
            Protocol::Udp | Protocol::Echo => Class::new(protocol, remote.0.port),
        };
        let lan = self.settings.lan(inside.0.ip);
        let lan = lan.ok_or(RestoreError::Mapping(port, protocol))?;
        let index = self.table.open(ends, remote, lan, (class, since));
        let session = &mut self.table.sessions[index as usize];
        session.tcp = tcp;
        session.sent = record.sent;
        session.received = record.received;
        self.clients.restore(client);
        Ok(())
    }
}
