//! The result of applying records: the flows of all shards, the peers that own their addresses, and
//! ports in quarantine.
//!
//! A state can be encoded again as a snapshot, so that a journal that has grown is replaced by a short
//! one without asking the shards.

use super::encode::{self, Timestamp};
use super::{Change, FlowKey, Record};
use crate::ids::ShardId;
use crate::nat::{
    self, BlockRecord, Endpoint, MappingRecord, MovedPorts, Protocol, QuarantineRecord,
    SessionRecord, Tcp, TrafficCounters,
};
use crate::smb::SmbFlowSnapshot;
use hashbrown::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The flows of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The time of the last frame.
    last: Timestamp,
    /// Whether the run has stopped: idle times are exact.
    ended: bool,
    peers: HashMap<u32, Peer>,
    /// The number of the peer of each inner address.
    owners: HashMap<IpAddr, u32>,
    /// Port blocks by their first endpoint on the LAN.
    blocks: HashMap<Endpoint, Block>,
    sessions: HashMap<FlowKey, JournalSession>,
    held_ports: HashMap<Endpoint, HeldPort>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    key: [u8; 32],
    endpoint: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    client: IpAddr,
    last_port: u16,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JournalSession {
    pub outside: Endpoint,
    pub forwarded: bool,
    pub tcp: Tcp,
    /// The time of the last refresh that a record states.
    pub since: Timestamp,
    pub sent: TrafficCounters,
    pub received: TrafficCounters,
    pub smb: Option<Box<SmbFlowSnapshot>>,
}

/// A UDP port in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldPort {
    pub client: IpAddr,
    pub until: Timestamp,
}

impl State {
    /// Whether the run has stopped by itself: no packet followed the last record.
    pub(crate) fn is_exact(&self) -> bool {
        self.ended
    }

    /// Applies a record of the batch whose time was noted last.
    pub fn apply(&mut self, Record(change): Record) {
        let at = self.last;
        self.ended = false;
        match change {
            Change::Peer { id, key, endpoint } => {
                let old = self.peers.insert(id, Peer { key, endpoint });
                if old.is_some_and(|old| old.key != key) {
                    // An earlier peer with this number was removed, with its flows.
                    self.owners.retain(|_, owner| *owner != id);
                }
            }
            Change::Owner { client, peer } => _ = self.owners.insert(client, peer),
            Change::Opened {
                flow,
                outside,
                forwarded,
            } => {
                let session = JournalSession {
                    outside,
                    forwarded,
                    tcp: Tcp::default(),
                    since: at,
                    sent: TrafficCounters::default(),
                    received: TrafficCounters::default(),
                    smb: None,
                };
                self.sessions.insert(flow, session);
            }
            Change::Tcp { flow, tcp } => {
                if let Some(session) = self.sessions.get_mut(&flow) {
                    (session.tcp, session.since) = (tcp, at);
                }
            }
            Change::Usage {
                flow,
                idle,
                sent,
                received,
            } => {
                if let Some(session) = self.sessions.get_mut(&flow) {
                    session.since = Timestamp(at.0.saturating_sub(idle));
                    (session.sent, session.received) = (sent, received);
                }
            }
            Change::Closed { flow, port } => {
                let found = self.sessions.get(&flow);
                if found.is_some_and(|session| session.outside.port == port) {
                    self.sessions.remove(&flow);
                }
            }
            Change::Block {
                client,
                first,
                last_port,
                given: true,
            } => _ = self.blocks.insert(first, Block { client, last_port }),
            Change::Block { client, first, .. } => {
                let found = self.blocks.get(&first);
                if found.is_some_and(|block| block.client == client) {
                    self.blocks.remove(&first);
                }
            }
            Change::PortHeld {
                client,
                outside,
                left,
            } => {
                let until = Timestamp(at.0.saturating_add(left));
                self.held_ports.insert(outside, HeldPort { client, until });
            }
            Change::Smb(smb) => {
                if let Some(session) = self.sessions.get_mut(&smb_key(&smb)) {
                    session.smb = Some(smb);
                }
            }
            Change::End => self.ended = true,
        }
    }

    /// Notes the time of a batch. Time stamps that go back, as after a clock was set, count as the
    /// latest one.
    pub fn advance(&mut self, at: Timestamp) {
        self.last = self.last.max(at);
    }

    /// Returns the time of the last batch.
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// Returns the number of flows.
    pub fn flow_count(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the public keys of all peers and their endpoints.
    pub fn peers(&self) -> impl Iterator<Item = (&[u8; 32], Option<SocketAddr>)> {
        self.peers.values().map(|peer| (&peer.key, peer.endpoint))
    }

    /// Returns the public key of the peer that owns an inner address with flows.
    pub fn owner(&self, client: IpAddr) -> Option<&[u8; 32]> {
        let peer = self.peers.get(self.owners.get(&client)?)?;
        Some(&peer.key)
    }

    /// Returns a line for each flow, without what changes with each packet, so that states can be
    /// compared.
    pub fn describe(&self) -> Vec<String> {
        let line = |(flow, session): (&FlowKey, &JournalSession)| {
            let owner = self.owner(flow.inside.ip).map(|key| key[..4].to_vec());
            let JournalSession {
                outside,
                forwarded,
                tcp,
                ..
            } = session;
            let smb = session.smb.as_ref().map(|smb| smb.describe());
            let tcp = tcp.describe();
            format!("{flow:?} {outside:?} {forwarded} {tcp} {owner:?} {smb:?}")
        };
        let mut lines: Vec<_> = self.sessions.iter().map(line).collect();
        let clients = self.sessions.keys().map(|flow| flow.inside.ip);
        let used: HashSet<_> = clients.filter_map(|ip| self.owners.get(&ip)).collect();
        let endpoints = self.peers.iter().filter(|(id, _)| used.contains(id));
        let block = |(first, block): (&Endpoint, &Block)| format!("{first:?} {block:?}");
        lines.extend(self.blocks.iter().map(block));
        lines.extend(endpoints.map(|(_, peer)| format!("{:?}", peer.endpoint)));
        lines.sort();
        lines
    }

    /// Returns for each port in use by a peer, unless it is forwarded, the peer's public key and the
    /// shard that owns the port if there are `shards` shards. Ports of LAN addresses for which
    /// `is_shared` is false belong to no shard.
    pub fn port_owners(
        &self,
        shards: u8,
        is_shared: impl Fn(IpAddr) -> bool,
    ) -> impl Iterator<Item = (&[u8; 32], u8)> {
        let shard = ShardId::all(shards).next().unwrap_or_default();
        let own = self.sessions.iter();
        let own = own.filter(move |(_, s)| !s.forwarded && is_shared(s.outside.ip));
        own.filter_map(move |(flow, session)| {
            let owner = self.owner(flow.inside.ip)?;
            Some((owner, nat::owner_of_port(shard, session.outside.port)))
        })
    }

    /// Returns the port blocks that have to move to other shards than their numbers say, so that among
    /// `shards` shards each peer has its ports: `shard_of` returns the shard of a peer's public key.
    pub fn moved_ports(
        &self,
        shards: u8,
        shard_of: impl Fn(&[u8; 32]) -> Option<u8>,
    ) -> MovedPorts {
        let any = ShardId::all(shards).next().unwrap_or_default();
        let mut moved = MovedPorts::default();
        for (first, block) in &self.blocks {
            if let Some(shard) = self.owner(block.client).and_then(&shard_of) {
                moved.note(any, first.ip, (first.port, block.last_port), shard);
            }
        }
        moved
    }

    /// Returns the part of a NAT: the flows, blocks and quarantines of these clients, with times
    /// relative to the end of the journal.
    pub(crate) fn nat_snapshot(&self, is_ours: impl Fn(IpAddr) -> bool) -> nat::Snapshot {
        let mut snapshot = nat::Snapshot::default();
        let mut mappings: HashMap<(Protocol, Endpoint, Endpoint), MappingRecord> = HashMap::new();
        let own = self.sessions.iter();
        for (flow, session) in own.filter(|(flow, _)| is_ours(flow.inside.ip)) {
            let Endpoint { ip, port } = session.outside;
            snapshot.addresses.insert(ip);
            let key = (flow.protocol, flow.inside, session.outside);
            let mapping = mappings.entry(key).or_insert_with(|| MappingRecord {
                protocol: flow.protocol,
                inside: flow.inside,
                lan: ip,
                port,
                forwarded: session.forwarded,
                sessions: Vec::new(),
            });
            mapping.sessions.push(SessionRecord {
                remote: flow.remote,
                idle: self.idle_time(session),
                tcp: session.tcp,
                sent: session.sent,
                received: session.received,
            });
        }
        snapshot.mappings = mappings.into_values().collect();
        let blocks = self.blocks.iter();
        let blocks = blocks.filter(|(_, block)| is_ours(block.client));
        snapshot.blocks = blocks
            .map(|(first, block)| BlockRecord {
                first_port: first.port,
                last_port: block.last_port,
                client: block.client,
                lan: first.ip,
            })
            .collect();
        let held_ports = self.held_ports.iter();
        snapshot.quarantined = held_ports
            .map(|(outside, held)| QuarantineRecord {
                port: outside.port,
                lan: outside.ip,
                left: held.until.since(self.last),
            })
            .collect();
        snapshot
    }

    /// Returns the SMB hook's state of all flows.
    pub(crate) fn smb_flows(&self) -> impl Iterator<Item = &SmbFlowSnapshot> {
        let flows = self.sessions.values();
        flows.filter_map(|session| session.smb.as_deref())
    }

    /// Returns the time between the last refresh of a flow and the end of the journal. If the process
    /// was killed, packets may have refreshed any flow until then, except closed connections.
    fn idle_time(&self, session: &JournalSession) -> Duration {
        match self.ended || !session.tcp.is_refreshable() {
            true => self.last.since(session.since),
            false => Duration::ZERO,
        }
    }

    /// Appends a snapshot of the state to a journal, which may be an empty one.
    pub fn append_to(&mut self, journal: &mut Vec<u8>) {
        self.remove_unused();
        let records: Vec<Record> = self.changes().map(Record).collect();
        encode::append(journal, self.last, &records);
    }

    /// Removes owners without flows and quarantines that have ended.
    fn remove_unused(&mut self) {
        let now = self.last;
        self.held_ports.retain(|_, held| held.until > now);
        let flows = self.sessions.keys().map(|flow| flow.inside.ip);
        let used: HashSet<IpAddr> = flows
            .chain(self.held_ports.values().map(|held| held.client))
            .chain(self.blocks.values().map(|block| block.client))
            .collect();
        self.owners.retain(|client, _| used.contains(client));
    }

    /// Returns the records that make this state.
    fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        let peers = self.peers.iter().map(|(id, peer)| Change::Peer {
            id: *id,
            key: peer.key,
            endpoint: peer.endpoint,
        });
        let owners = self.owners.iter().map(|(client, peer)| Change::Owner {
            client: *client,
            peer: *peer,
        });
        let blocks = self.blocks.iter().map(|(first, block)| Change::Block {
            client: block.client,
            first: *first,
            last_port: block.last_port,
            given: true,
        });
        let held_ports = self.held_ports.iter().map(|(outside, held)| {
            let left = held.until.since(self.last);
            Change::PortHeld {
                client: held.client,
                outside: *outside,
                left: left.as_millis() as u64,
            }
        });
        let sessions = self.sessions.iter();
        let sessions = sessions.flat_map(|(flow, session)| session.changes(*flow, self.last));
        let end = self.ended.then_some(Change::End);
        peers
            .chain(owners)
            .chain(blocks)
            .chain(held_ports)
            .chain(sessions)
            .chain(end)
    }
}

impl JournalSession {
    /// Returns the records that make this flow.
    fn changes(&self, flow: FlowKey, now: Timestamp) -> impl Iterator<Item = Change> + '_ {
        let opened = Change::Opened {
            flow,
            outside: self.outside,
            forwarded: self.forwarded,
        };
        let tcp = self.tcp;
        let tcp = (flow.protocol == Protocol::Tcp).then_some(Change::Tcp { flow, tcp });
        let usage = Change::Usage {
            flow,
            idle: now.since(self.since).as_millis() as u64,
            sent: self.sent,
            received: self.received,
        };
        let smb = self.smb.iter().cloned().map(Change::Smb);
        [opened].into_iter().chain(tcp).chain([usage]).chain(smb)
    }
}

/// Returns the flow of the SMB hook's state.
fn smb_key(smb: &SmbFlowSnapshot) -> FlowKey {
    let ends = smb.ends();
    FlowKey {
        protocol: Protocol::Tcp,
        inside: ends.client.into(),
        remote: ends.server.into(),
    }
}
