//! Snapshots of the NAT's state as plain data, so that flows survive a restart.
//!
//! A snapshot does not contain flow ids: after [`Nat::restore`] the flows have new ones. Nor does it
//! contain held SYNs, fragments and packet counters. It contains forwards only to recognize their
//! flows: the configuration determines which forwards exist.

use super::block::Block;
use super::endpoint::{Endpoint, Family, Inside, MappingId, Outside, Protocol, Remote};
use super::expiry::Class;
use super::group::OwnedBlock;
use super::lan_ports::{PORT_HOLD_TIME, Quarantine};
use super::table::MappingEnds;
use super::tcp::Tcp;
use super::{Forward, Nat, Peers, TrafficCounters};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The state of a NAT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The LAN address of the state.
    pub address: Ipv4Addr,
    /// The IPv6 LAN address.
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
    first_port: u16,
    last_port: u16,
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
    fn inside(&self) -> Inside {
        Inside(Endpoint::from(self.inside))
    }

    fn outside(&self) -> Outside {
        Outside {
            family: Family::of(self.inside.ip()),
            protocol: self.protocol,
            port: self.port,
        }
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

/// The reason why a snapshot cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot has another LAN address.
    #[error("the snapshot has the LAN address {0}")]
    Address(IpAddr),
    /// The block belongs to another shard, has two owners, or an owner that belongs to no peer.
    #[error("the port block that begins at port {0} is not available")]
    Block(u16),
    /// The port is outside its client's blocks, has two mappings, or has no session.
    #[error("the mapping of {1:?} port {0} contradicts the others")]
    Mapping(u16, Protocol),
}

impl Nat {
    /// Takes a snapshot of the state.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let blocks = self.clients.iter().flat_map(|(_, client)| {
            client.blocks.iter().map(move |block| BlockRecord {
                first_port: block.first(),
                last_port: block.last(),
                client: client.address,
            })
        });
        let quarantined = self.ports.quarantined().map(|q| QuarantineRecord {
            port: q.port,
            ipv6: q.family == Family::V6,
            left: q.until.saturating_duration_since(now),
        });
        Snapshot {
            address: self.settings.address,
            address6: self.settings.address6,
            blocks: blocks.collect(),
            mappings: self.mapping_records(now).collect(),
            quarantined: quarantined.collect(),
            forwards: self.forwards.iter().collect(),
        }
    }

    /// Restores flows from a snapshot that was taken `age` ago.
    ///
    /// This NAT must have no flows yet, and its forwards already. Clients for which `is_ours` is
    /// false are left out, and so are mappings whose port or endpoint is now forwarded differently.
    ///
    /// # Errors
    /// The contradiction in the snapshot; the NAT must not be used then.
    pub fn restore(
        &mut self,
        snapshot: Snapshot,
        peers: &dyn Peers,
        is_ours: impl Fn(IpAddr) -> bool,
        age: Duration,
        now: Instant,
    ) -> Result<(), RestoreError> {
        if snapshot.address != self.settings.address {
            return Err(RestoreError::Address(snapshot.address.into()));
        }
        let address6 = snapshot.address6;
        if let Some(other) = address6.filter(|a| Some(*a) != self.settings.address6) {
            return Err(RestoreError::Address(other.into()));
        }
        let mut blocks = snapshot.blocks;
        blocks.retain(|record| is_ours(record.client));
        for record in &blocks {
            self.restore_block(record, peers, now)
                .ok_or(RestoreError::Block(record.first_port))?;
        }
        let was_forwarded = |mapping: &MappingRecord| {
            let outside = mapping.outside();
            { snapshot.forwards.iter() }.any(|forward| forward.outside() == outside)
        };
        let mut mappings = snapshot.mappings;
        mappings.retain(|m| is_ours(m.inside.ip()) && self.fits_forwards(m, was_forwarded(m)));
        self.restore_mappings(mappings, peers, age, now)?;
        let mut quarantined = snapshot.quarantined;
        quarantined.sort_by_key(|r| r.left);
        for QuarantineRecord { port, ipv6, left } in quarantined {
            let family = if ipv6 { Family::V6 } else { Family::V4 };
            let left = left.min(PORT_HOLD_TIME).saturating_sub(age);
            self.ports.restore_quarantine(Quarantine {
                family,
                port,
                until: now + left,
            });
        }
        // Sessions that expired in the meantime, and blocks without any restored port.
        while self.next_timeout().is_some_and(|due| due <= now) {
            self.handle_timeout(now);
        }
        for record in blocks {
            let family = Family::of(record.client);
            if let Some(released) = self.ports.release(family, record.first_port) {
                self.clients.on_block_released(released);
            }
        }
        Ok(())
    }

    /// Gives a block to its client; returns `None` if that is not possible.
    fn restore_block(
        &mut self,
        record: &BlockRecord,
        peers: &dyn Peers,
        now: Instant,
    ) -> Option<()> {
        let block = Block::between(record.first_port, record.last_port)?;
        let address = record.client;
        let client = self.clients.get_or_insert(address, peers.of(address), now);
        let client = client.ok()?;
        let owned = OwnedBlock { client, block };
        let is_restored = self.ports.restore_block(Family::of(address), owned);
        is_restored.then(|| self.clients.restore_block(client, block))
    }

    /// Returns whether the forwards, which may have changed, leave a mapping its port.
    fn fits_forwards(&self, mapping: &MappingRecord, was_forwarded: bool) -> bool {
        let inside = mapping.inside();
        match self.forwards.to(mapping.outside()) {
            Some(to) => to == inside,
            None => !was_forwarded && self.forwards.from(inside, mapping.protocol).is_none(),
        }
    }

    fn mapping_records(&self, now: Instant) -> impl Iterator<Item = MappingRecord> + '_ {
        self.table.mappings.iter().map(move |(index, mapping)| {
            let is_tcp = mapping.outside.protocol == Protocol::Tcp;
            let sessions = self.table.sessions_of(MappingId::from_index(index));
            let sessions = sessions.map(|id| {
                let session = &self.table.sessions[id.index()];
                SessionRecord {
                    remote: session.remote.0.into(),
                    idle: now.saturating_duration_since(session.timer.since),
                    tcp: is_tcp.then_some(session.tcp),
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
            let (inside, outside) = (mapping.inside(), mapping.outside());
            let contradiction = RestoreError::Mapping(mapping.port, mapping.protocol);
            if mapping.sessions.is_empty() {
                return Err(contradiction);
            }
            let client = match self.forwards.to(outside).is_some() {
                true => self
                    .clients
                    .get_or_insert(inside.0.ip, peers.of(inside.0.ip), now)
                    .ok(),
                false => { self.clients.by_address(inside.0.ip) }
                    .filter(|client| self.ports.restore_port(outside, *client)),
            };
            let ends = MappingEnds {
                client: client.ok_or(contradiction)?,
                inside,
                outside,
                lan: self.settings.lan(inside.0.ip).ok_or(contradiction)?,
            };
            sessions.extend(mapping.sessions.into_iter().map(|s| (ends, s)));
        }
        // The expiry lists are ordered by last refresh.
        sessions.sort_by_key(|(_, s)| Reverse(s.idle));
        for (ends, session) in sessions {
            let idle = session.idle.saturating_add(age);
            self.restore_session(ends, session, now.checked_sub(idle).unwrap_or(now))?;
        }
        Ok(())
    }

    fn restore_session(
        &mut self,
        ends: MappingEnds,
        record: SessionRecord,
        since: Instant,
    ) -> Result<(), RestoreError> {
        let Outside { protocol, port, .. } = ends.outside;
        let remote = Remote(Endpoint::from(record.remote));
        if ends.inside.0.ip.is_ipv4() != remote.0.ip.is_ipv4() {
            return Err(RestoreError::Mapping(port, protocol));
        }
        if let Some(mapping) = self.table.by_inside(ends.inside, protocol) {
            let has_other_port = self.table.mappings[mapping.index()].outside != ends.outside;
            if has_other_port || self.table.session(mapping, remote).is_some() {
                return Err(RestoreError::Mapping(port, protocol));
            }
        }
        let tcp = record.tcp.unwrap_or_default();
        let class = match protocol {
            Protocol::Tcp => tcp.class(),
            Protocol::Udp | Protocol::Echo => Class::new(protocol, remote.0.port),
        };
        let id = self.table.open(ends, remote, class, since);
        let session = &mut self.table.sessions[id.index()];
        session.tcp = tcp;
        session.sent = record.sent;
        session.received = record.received;
        self.clients.restore_session(ends.client);
        Ok(())
    }
}
