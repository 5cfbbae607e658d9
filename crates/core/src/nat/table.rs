//! The mappings and sessions, and the ways to find them.
//!
//! A mapping gives an inside endpoint one port of the LAN address, whatever the destination (RFC
//! 4787 REQ-1); its sessions, one for each remote endpoint, carry time, numbers and TCP state. A
//! mapping lives exactly as long as it has a session.
//!
//! From the LAN a mapping is found by its port in an array, from a client by one hash; its
//! session, where it has only one, by a comparison. hashbrown's default hasher (foldhash) is
//! seeded at random in each process: keys that a client may choose do not collide at its will.
//!
//! With its share of the indexes a mapping takes up to 56 bytes and a session up to 224, as the test
//! with 60,000 of each asserts; the arrays by port take 1.5 MB, once.
//!
//! Invariant: an index in a list, array or table here names a live record; a record leaves the
//! slab and all of them together. So indexing a slab with one cannot panic.

use super::endpoint::{Endpoint, Family, Inside, Outside, Protocol, Remote};
use super::expiry::{Class, Expiry, Timer};
use super::tcp::Tcp;
use crate::ids::FlowId;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use serde::{Deserialize, Serialize};
use slab::Slab;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Instant;
use vcgate_wire::checksum::Delta;

const NONE: u32 = u32::MAX;

/// An inside endpoint and the port that stands for it, in 40 bytes.
#[derive(Debug)]
pub(super) struct Mapping {
    pub inside: Inside,
    pub outside: Outside,
    pub client: u32,
    /// What replacing the inside address does to a sum over it.
    pub address: Delta,
    /// What replacing the inside endpoint does to the L4 checksum.
    pub l4: Delta,
    first: u32,
    sessions: u32,
}

/// Packets and bytes that went one way; a super-packet is one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrafficCounters {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

impl TrafficCounters {
    pub(super) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// What goes on between a mapping and one remote endpoint, in 128 bytes: two cache lines.
#[derive(Debug)]
pub(super) struct Session {
    pub remote: Remote,
    pub mapping: u32,
    pub timer: Timer,
    pub tcp: Tcp,
    pub sent: TrafficCounters,
    pub received: TrafficCounters,
    before: u32,
    behind: u32,
}

impl AsRef<Timer> for Session {
    fn as_ref(&self) -> &Timer {
        &self.timer
    }
}

impl AsMut<Timer> for Session {
    fn as_mut(&mut self) -> &mut Timer {
        &mut self.timer
    }
}

/// All mappings and sessions of a shard.
#[derive(Debug)]
pub(super) struct Table {
    pub mappings: Slab<Mapping>,
    pub sessions: Slab<Session>,
    pub expiry: Expiry,
    outside: [[Vec<u32>; Protocol::COUNT]; Family::COUNT],
    inside: HashTable<u32>,
    remotes: HashTable<u32>,
    /// How many sessions a mapping has with an address: the filter.
    addresses: HashMap<(u32, IpAddr), u32>,
    generations: Vec<u32>,
    hasher: DefaultHashBuilder,
}

impl Table {
    pub(super) fn new() -> Self {
        let ports = usize::from(u16::MAX) + 1;
        Self {
            mappings: Slab::new(),
            sessions: Slab::new(),
            expiry: Expiry::new(),
            outside: std::array::from_fn(|_| std::array::from_fn(|_| vec![NONE; ports])),
            inside: HashTable::new(),
            remotes: HashTable::new(),
            addresses: HashMap::new(),
            generations: Vec::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    pub(super) fn by_outside(&self, outside: Outside) -> Option<u32> {
        // Every array has a place for every port.
        let index = self.outside[outside.family as usize][outside.protocol as usize]
            [usize::from(outside.port)];
        (index != NONE).then_some(index)
    }

    /// Notes which mapping an outside end has; every array has a place for every port.
    fn set_outside(&mut self, outside: Outside, mapping: u32) {
        self.outside[outside.family as usize][outside.protocol as usize]
            [usize::from(outside.port)] = mapping;
    }

    pub(super) fn by_inside(&self, inside: Inside, protocol: Protocol) -> Option<u32> {
        let hash = self.hasher.hash_one((inside, protocol));
        let is_it = |i: &u32| {
            let m = &self.mappings[*i as usize];
            m.inside == inside && m.outside.protocol == protocol
        };
        self.inside.find(hash, is_it).copied()
    }

    /// The session of a mapping with a remote endpoint.
    pub(super) fn session(&self, mapping: u32, remote: Remote) -> Option<u32> {
        let m = &self.mappings[mapping as usize];
        if self.sessions[m.first as usize].remote == remote {
            return Some(m.first);
        }
        if m.sessions == 1 {
            return None;
        }
        let hash = self.hasher.hash_one((mapping, remote));
        let is_it = |i: &u32| {
            let s = &self.sessions[*i as usize];
            s.mapping == mapping && s.remote == remote
        };
        self.remotes.find(hash, is_it).copied()
    }

    /// Whether a mapping has any session with an address.
    pub(super) fn knows(&self, mapping: u32, address: IpAddr) -> bool {
        self.addresses.contains_key(&(mapping, address))
    }

    /// A new session of the mapping of these two ends, which is made if there is none. The ends'
    /// session with `remote` must not exist; `lan` is the LAN address of their family.
    pub(super) fn open(
        &mut self,
        (inside, outside, client): (Inside, Outside, u32),
        remote: Remote,
        lan: IpAddr,
        (class, since): (Class, Instant),
    ) -> u32 {
        let mapping = match self.by_inside(inside, outside.protocol) {
            Some(mapping) => mapping,
            None => self.map(inside, outside, client, lan),
        };
        let m = &mut self.mappings[mapping as usize];
        let index = self.sessions.insert(Session {
            remote,
            mapping,
            timer: Timer::new(class, since),
            tcp: Tcp::default(),
            sent: TrafficCounters::default(),
            received: TrafficCounters::default(),
            before: NONE,
            behind: m.first,
        }) as u32;
        m.sessions += 1;
        if let Some(second) = self.sessions.get_mut(m.first as usize) {
            second.before = index;
        }
        m.first = index;
        if self.generations.len() <= index as usize {
            self.generations.push(0);
        }
        *self.addresses.entry((mapping, remote.0.ip)).or_default() += 1;
        let hash = |s: &Session| self.hasher.hash_one((s.mapping, s.remote));
        let new = hash(&self.sessions[index as usize]);
        self.remotes
            .insert_unique(new, index, |i| hash(&self.sessions[*i as usize]));
        self.expiry.add(&mut self.sessions, index);
        index
    }

    /// Ends a session, and its mapping if it was the last: then returns what that was outside.
    pub(super) fn close(&mut self, index: u32) -> Option<Outside> {
        self.expiry.remove(&mut self.sessions, index);
        let hash = {
            let s = &self.sessions[index as usize];
            self.hasher.hash_one((s.mapping, s.remote))
        };
        if let Ok(entry) = self.remotes.find_entry(hash, |i| *i == index) {
            entry.remove();
        }
        let session = self.sessions.remove(index as usize);
        self.generations[index as usize] = self.generations[index as usize].wrapping_add(1);
        let address = (session.mapping, session.remote.0.ip);
        if let Some(count) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
        let m = &mut self.mappings[session.mapping as usize];
        m.sessions -= 1;
        match self.sessions.get_mut(session.before as usize) {
            Some(before) => before.behind = session.behind,
            None => m.first = session.behind,
        }
        if let Some(behind) = self.sessions.get_mut(session.behind as usize) {
            behind.before = session.before;
        }
        (m.sessions == 0).then(|| self.unmap(session.mapping).outside)
    }

    /// The session in this place is from now on another flow between the same ends.
    pub(super) fn renew(&mut self, index: u32) {
        self.generations[index as usize] = self.generations[index as usize].wrapping_add(1);
        let session = &mut self.sessions[index as usize];
        session.tcp = Tcp::default();
        session.sent = TrafficCounters::default();
        session.received = TrafficCounters::default();
    }

    pub(super) fn refresh(&mut self, index: u32, class: Class, now: Instant) {
        self.expiry.refresh(&mut self.sessions, index, class, now);
    }

    /// The sessions of a mapping.
    pub(super) fn sessions_of(&self, mapping: u32) -> impl Iterator<Item = u32> + '_ {
        let first = self.mappings.get(mapping as usize).map(|m| m.first);
        std::iter::successors(first, |i| {
            let behind = self.sessions[*i as usize].behind;
            (behind != NONE).then_some(behind)
        })
    }

    pub(super) fn flow_id(&self, session: u32) -> FlowId {
        FlowId {
            slot: session,
            generation: self.generations[session as usize],
        }
    }

    pub(super) fn by_flow(&self, id: FlowId) -> Option<&Session> {
        let session = self.sessions.get(id.slot as usize)?;
        (self.flow_id(id.slot) == id).then_some(session)
    }

    /// What the mappings and what the sessions take, with their indexes, in bytes. The arrays by
    /// port are as large without any.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> (usize, usize) {
        /// As a slab has it.
        #[expect(dead_code, reason = "only its size matters")]
        enum Entry<T> {
            Vacant(usize),
            Occupied(T),
        }
        let mappings = self.mappings.capacity() * size_of::<Entry<Mapping>>();
        let sessions = self.sessions.capacity() * size_of::<Entry<Session>>();
        let generations = self.generations.capacity() * size_of::<u32>();
        let by_remote = self.remotes.allocation_size() + self.addresses.allocation_size();
        (
            mappings + self.inside.allocation_size(),
            sessions + generations + by_remote,
        )
    }

    /// Whether there is no trace of any mapping.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.mappings.is_empty()
            && self.sessions.is_empty()
            && self.inside.is_empty()
            && self.remotes.is_empty()
            && self.addresses.is_empty()
            && self.outside.iter().flatten().flatten().all(|m| *m == NONE)
    }

    fn map(&mut self, inside: Inside, outside: Outside, client: u32, lan: IpAddr) -> u32 {
        let Inside(Endpoint { ip, port }) = inside;
        let address = Delta::default().address(ip, lan);
        let l4 = match (outside.protocol, ip) {
            // ICMP's checksum covers no pseudo-header, all others do.
            (Protocol::Echo, IpAddr::V4(_)) => Delta::default(),
            _ => address,
        };
        let index = self.mappings.insert(Mapping {
            inside,
            outside,
            client,
            address,
            l4: l4.word(port, outside.port),
            first: NONE,
            sessions: 0,
        }) as u32;
        self.set_outside(outside, index);
        let hash = |m: &Mapping| self.hasher.hash_one((m.inside, m.outside.protocol));
        let new = hash(&self.mappings[index as usize]);
        self.inside
            .insert_unique(new, index, |i| hash(&self.mappings[*i as usize]));
        index
    }

    fn unmap(&mut self, index: u32) -> Mapping {
        let mapping = self.mappings.remove(index as usize);
        self.set_outside(mapping.outside, NONE);
        let hash = (self.hasher).hash_one((mapping.inside, mapping.outside.protocol));
        if let Ok(entry) = self.inside.find_entry(hash, |i| *i == index) {
            entry.remove();
        }
        mapping
    }
}
