//! The NAT's state as plain data, to be written to disk and read back: a restart that cuts
//! nobody off.
//!
//! Flow ids are not kept: after [`Nat::restore`] the flows have new ones. What waits (SYNs,
//! pieces of datagrams) and the counters are not kept either.

use super::endpoint::{Endpoint, Family, Inside, Outside, Protocol, Remote};
use super::expiry::Class;
use super::tcp::Tcp;
use super::{Forward, ForwardError, Nat, Settings, Tally};
use serde::{Deserialize, Serialize};
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
    resting: Vec<RestRecord>,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SessionRecord {
    remote: SocketAddr,
    left: Duration,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tcp: Option<Tcp>,
    sent: Tally,
    received: Tally,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RestRecord {
    port: u16,
    left: Duration,
}

/// Why a snapshot cannot be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is another address's.
    #[error("the snapshot is of LAN address {0}")]
    Address(IpAddr),
    /// A block that is not this shard's, or has two owners.
    #[error("port block {0} is not to be had")]
    Block(u16),
    /// A port outside its client's blocks, or with two mappings, or with none.
    #[error("the mapping of {1:?} port {0} contradicts the others")]
    Mapping(u16, Protocol),
    /// A forward that contradicts the others.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

impl Nat {
    /// The state as it is now.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let blocks = self.clients.iter().flat_map(|client| {
            client.blocks.iter().map(|block| BlockRecord {
                block: *block,
                client: client.address,
            })
        });
        let resting = self.ports.resting().map(|(port, until)| RestRecord {
            port,
            left: until.saturating_duration_since(now),
        });
        Snapshot {
            address: self.settings.address,
            address6: self.settings.address6,
            blocks: blocks.collect(),
            mappings: self.mapping_records(now).collect(),
            resting: resting.collect(),
            forwards: self.forwards.list().collect(),
        }
    }

    /// A NAT that goes on where another one was when the snapshot was taken.
    pub fn restore(
        settings: Settings,
        snapshot: Snapshot,
        seed: u64,
        now: Instant,
    ) -> Result<Self, RestoreError> {
        if snapshot.address != settings.address {
            return Err(RestoreError::Address(snapshot.address.into()));
        }
        if let Some(other) = snapshot.address6.filter(|a| Some(*a) != settings.address6) {
            return Err(RestoreError::Address(other.into()));
        }
        let mut nat = Self::new(settings, seed, now);
        for BlockRecord { block, client } in snapshot.blocks {
            let client = nat.clients.enter(client, now);
            if !nat.ports.restore_block(block, client) {
                return Err(RestoreError::Block(block));
            }
            nat.clients.give(client, block);
        }
        for forward in snapshot.forwards {
            nat.add_forward(forward, now)?;
        }
        nat.restore_mappings(snapshot.mappings, now)?;
        let mut resting = snapshot.resting;
        resting.sort_by_key(|r| r.left);
        for RestRecord { port, left } in resting {
            nat.ports.restore_rest(port, now + left.min(super::REST));
        }
        Ok(nat)
    }

    fn mapping_records(&self, now: Instant) -> impl Iterator<Item = MappingRecord> + '_ {
        self.table.mappings.iter().map(move |(index, mapping)| {
            let tcp = mapping.outside.protocol == Protocol::Tcp;
            let sessions = self.table.sessions_of(index as u32).map(|s| {
                let session = &self.table.sessions[s as usize];
                SessionRecord {
                    remote: session.remote.0.into(),
                    left: session.timer.deadline.saturating_duration_since(now),
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
        now: Instant,
    ) -> Result<(), RestoreError> {
        let mut sessions = Vec::new();
        for mapping in mappings {
            let (protocol, port) = (mapping.protocol, mapping.port);
            let inside = Inside(Endpoint::from(mapping.inside));
            let outside = Outside {
                family: Family::of(inside.0.ip),
                protocol,
                port,
            };
            let client = match self.forwards.to(outside) == Some(inside) {
                true => Some(self.clients.enter(inside.0.ip, now)),
                false => self.clients.index(inside.0.ip).filter(|c| {
                    !mapping.sessions.is_empty() && self.ports.restore_port(outside, *c)
                }),
            };
            let client = client.ok_or(RestoreError::Mapping(port, protocol))?;
            sessions.extend(
                mapping
                    .sessions
                    .into_iter()
                    .map(|s| ((inside, outside, client), s)),
            );
        }
        // The lists of the timeout classes want the oldest first.
        sessions.sort_by_key(|(_, s)| s.left);
        for (ends, session) in sessions {
            self.restore_session(ends, session, now)?;
        }
        Ok(())
    }

    fn restore_session(
        &mut self,
        ends @ (inside, outside, client): (Inside, Outside, u32),
        record: SessionRecord,
        now: Instant,
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
            Protocol::Udp => Class::Udp,
            Protocol::Echo => Class::Echo,
        };
        let left = record.left.min(self.settings.timeouts.of(class));
        let lan = self.settings.lan(inside.0.ip);
        let lan = lan.ok_or(RestoreError::Mapping(port, protocol))?;
        let index = self.table.open(ends, remote, lan, (class, now + left));
        let session = &mut self.table.sessions[index as usize];
        session.tcp = tcp;
        session.sent = record.sent;
        session.received = record.received;
        self.clients.restore(client);
        Ok(())
    }
}
