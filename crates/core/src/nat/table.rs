//! The mapping and session table.
//!
//! A mapping gives an inside endpoint one port of the LAN address, whatever the destination (RFC
//! 4787 REQ-1). It has one session per remote endpoint; sessions carry timers, counters and TCP
//! state. A mapping lives exactly as long as it has a session.
//!
//! Inbound lookup is an array indexed by port. Outbound lookup is one hash, and a comparison for
//! the session if the mapping has only one. hashbrown's default hasher (foldhash) is seeded at
//! random in each process, so clients cannot choose keys that collide.
//!
//! With its share of the indexes a mapping takes up to 64 bytes and a session up to 224, as the test
//! with 60,000 of each asserts; the arrays by port take up to 262 KB per LAN address and protocol.
//!
//! Invariant: an id in a list, array or hash table here refers to a live record; a record leaves the
//! slab and all of them together. So indexing a slab with an id cannot panic.

use super::endpoint::{
    ClientId, Endpoint, Inside, MappingId, Outside, Protocol, Remote, SessionId,
};
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

/// The owner and the ends of a mapping, which are of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct MappingEnds {
    pub client: ClientId,
    pub inside: Inside,
    pub outside: Outside,
    /// The LAN address of `outside`.
    pub lan: IpAddr,
}

/// An inside endpoint and the port that represents it, in 44 bytes.
#[derive(Debug)]
pub(super) struct Mapping {
    pub inside: Inside,
    pub outside: Outside,
    pub client: ClientId,
    /// The change of a checksum that covers the address, when the inside address is replaced.
    pub address: Delta,
    /// The change of the L4 checksum when the inside endpoint is replaced.
    pub l4: Delta,
    first_session: SessionId,
    session_count: u32,
}

/// Packets and bytes in one direction; a super-packet counts as one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrafficCounters {
    /// The number of packets.
    pub packets: u64,
    /// The number of bytes, including IP headers.
    pub bytes: u64,
}

impl TrafficCounters {
    pub(super) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// The traffic between a mapping and one remote endpoint, in 128 bytes: two cache lines.
#[derive(Debug)]
pub(super) struct Session {
    pub remote: Remote,
    pub mapping: MappingId,
    pub timer: Timer,
    pub tcp: Tcp,
    pub sent: TrafficCounters,
    pub received: TrafficCounters,
    /// The neighbours in the mapping's list of sessions.
    prev: SessionId,
    next: SessionId,
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
    /// By LAN address, protocol and port: the complement of a mapping's id, so that the memory of
    /// unused ports consists of zeros, which the kernel does not allocate.
    outside: Vec<[Vec<u32>; Protocol::COUNT]>,
    inside: HashTable<MappingId>,
    remotes: HashTable<SessionId>,
    /// The number of sessions between a mapping and an address, for the filter.
    addresses: HashMap<(MappingId, IpAddr), u32>,
    generations: Vec<u32>,
    hasher: DefaultHashBuilder,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            mappings: Slab::new(),
            sessions: Slab::new(),
            expiry: Expiry::new(),
            outside: Vec::new(),
            inside: HashTable::new(),
            remotes: HashTable::new(),
            addresses: HashMap::new(),
            generations: Vec::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Returns the mapping of a port.
    pub(super) fn by_outside(&self, outside: Outside) -> Option<MappingId> {
        let of_address = self.outside.get(outside.lan.index())?;
        let ports = &of_address[outside.protocol as usize];
        let complement = ports.get(usize::from(outside.port))?;
        MappingId(!complement).get()
    }

    fn set_outside(&mut self, outside: Outside, MappingId(id): MappingId) {
        let index = outside.lan.index();
        if self.outside.len() <= index {
            self.outside.resize_with(index + 1, Default::default);
        }
        let ports = &mut self.outside[index][outside.protocol as usize];
        if ports.is_empty() {
            *ports = vec![0; usize::from(u16::MAX) + 1];
        }
        ports[usize::from(outside.port)] = !id;
    }

    /// Returns the mapping of an inside endpoint.
    pub(super) fn by_inside(&self, inside: Inside, protocol: Protocol) -> Option<MappingId> {
        let hash = self.hasher.hash_one((inside, protocol));
        let matches = |id: &MappingId| {
            let m = &self.mappings[id.index()];
            m.inside == inside && m.outside.protocol == protocol
        };
        self.inside.find(hash, matches).copied()
    }

    /// Returns the session of a mapping with a remote endpoint.
    pub(super) fn session(&self, mapping: MappingId, remote: Remote) -> Option<SessionId> {
        let m = &self.mappings[mapping.index()];
        if self.sessions[m.first_session.index()].remote == remote {
            return Some(m.first_session);
        }
        if m.session_count == 1 {
            return None;
        }
        let hash = self.hasher.hash_one((mapping, remote));
        let matches = |id: &SessionId| {
            let s = &self.sessions[id.index()];
            s.mapping == mapping && s.remote == remote
        };
        self.remotes.find(hash, matches).copied()
    }

    /// Returns whether a mapping has a session with any port of an address.
    pub(super) fn has_session_with(&self, mapping: MappingId, address: IpAddr) -> bool {
        self.addresses.contains_key(&(mapping, address))
    }

    /// Opens a session with `remote`, which must not exist yet, and creates the mapping if there is
    /// none.
    pub(super) fn open(
        &mut self,
        ends: MappingEnds,
        remote: Remote,
        class: Class,
        since: Instant,
    ) -> SessionId {
        let mapping = match self.by_inside(ends.inside, ends.outside.protocol) {
            Some(mapping) => mapping,
            None => self.map(ends),
        };
        let m = &mut self.mappings[mapping.index()];
        let id = SessionId::from_index(self.sessions.insert(Session {
            remote,
            mapping,
            timer: Timer::new(class, since),
            tcp: Tcp::default(),
            sent: TrafficCounters::default(),
            received: TrafficCounters::default(),
            prev: SessionId::NONE,
            next: m.first_session,
        }));
        m.session_count += 1;
        if let Some(second) = self.sessions.get_mut(m.first_session.index()) {
            second.prev = id;
        }
        m.first_session = id;
        if self.generations.len() <= id.index() {
            self.generations.push(0);
        }
        *self.addresses.entry((mapping, remote.0.ip)).or_default() += 1;
        let hash = |s: &Session| self.hasher.hash_one((s.mapping, s.remote));
        let new = hash(&self.sessions[id.index()]);
        self.remotes
            .insert_unique(new, id, |other| hash(&self.sessions[other.index()]));
        self.expiry.add(&mut self.sessions, id);
        id
    }

    /// Closes a session; if it was the last one of its mapping, removes that and returns its port.
    pub(super) fn close(&mut self, id: SessionId) -> Option<Outside> {
        self.expiry.remove(&mut self.sessions, id);
        let hash = {
            let s = &self.sessions[id.index()];
            self.hasher.hash_one((s.mapping, s.remote))
        };
        if let Ok(entry) = self.remotes.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        let session = self.sessions.remove(id.index());
        self.bump_generation(id);
        let address = (session.mapping, session.remote.0.ip);
        if let Some(count) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
        let m = &mut self.mappings[session.mapping.index()];
        m.session_count -= 1;
        match self.sessions.get_mut(session.prev.index()) {
            Some(prev) => prev.next = session.next,
            None => m.first_session = session.next,
        }
        if let Some(next) = self.sessions.get_mut(session.next.index()) {
            next.prev = session.prev;
        }
        (m.session_count == 0).then(|| self.unmap(session.mapping).outside)
    }

    /// Makes a session another flow between the same ends.
    pub(super) fn renew(&mut self, id: SessionId) {
        self.bump_generation(id);
        let session = &mut self.sessions[id.index()];
        session.tcp = Tcp::default();
        session.sent = TrafficCounters::default();
        session.received = TrafficCounters::default();
    }

    /// Restarts the timer of a session, in this timeout class.
    pub(super) fn refresh(&mut self, id: SessionId, class: Class, now: Instant) {
        self.expiry.refresh(&mut self.sessions, id, class, now);
    }

    /// Iterates over the sessions of a mapping.
    pub(super) fn sessions_of(&self, mapping: MappingId) -> impl Iterator<Item = SessionId> + '_ {
        let first = self.mappings.get(mapping.index()).map(|m| m.first_session);
        std::iter::successors(first, |id| self.sessions[id.index()].next.get())
    }

    /// Returns the id by which callers know a session.
    pub(super) fn flow_id(&self, id: SessionId) -> FlowId {
        FlowId {
            slot: id.0,
            generation: self.generations[id.index()],
        }
    }

    /// Returns the session of a flow, unless the flow has ended.
    pub(super) fn by_flow(&self, flow: FlowId) -> Option<&Session> {
        let id = SessionId(flow.slot);
        let session = self.sessions.get(id.index())?;
        (self.flow_id(id) == flow).then_some(session)
    }

    /// Returns the memory of the mappings and of the sessions with their indexes, in bytes, without
    /// the arrays by port, whose size is fixed.
    #[cfg(test)]
    pub(super) fn memory(&self) -> (usize, usize) {
        /// The layout of a slab's entry.
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

    /// Returns whether the slabs and all indexes are empty.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.mappings.is_empty()
            && self.sessions.is_empty()
            && self.inside.is_empty()
            && self.remotes.is_empty()
            && self.addresses.is_empty()
            && { self.outside.iter().flatten().flatten() }.all(|complement| *complement == 0)
    }

    fn bump_generation(&mut self, id: SessionId) {
        let generation = &mut self.generations[id.index()];
        *generation = generation.wrapping_add(1);
    }

    fn map(&mut self, ends: MappingEnds) -> MappingId {
        let MappingEnds {
            client,
            inside,
            outside,
            lan,
        } = ends;
        let Inside(Endpoint { ip, port }) = inside;
        let address = Delta::default().address(ip, lan);
        let l4 = match (outside.protocol, ip) {
            // Only ICMPv4's checksum does not cover a pseudo-header.
            (Protocol::Echo, IpAddr::V4(_)) => Delta::default(),
            _ => address,
        };
        let id = MappingId::from_index(self.mappings.insert(Mapping {
            inside,
            outside,
            client,
            address,
            l4: l4.word(port, outside.port),
            first_session: SessionId::NONE,
            session_count: 0,
        }));
        self.set_outside(outside, id);
        let hash = |m: &Mapping| self.hasher.hash_one((m.inside, m.outside.protocol));
        let new = hash(&self.mappings[id.index()]);
        self.inside
            .insert_unique(new, id, |other| hash(&self.mappings[other.index()]));
        id
    }

    fn unmap(&mut self, id: MappingId) -> Mapping {
        let mapping = self.mappings.remove(id.index());
        self.set_outside(mapping.outside, MappingId::NONE);
        let hash = (self.hasher).hash_one((mapping.inside, mapping.outside.protocol));
        if let Ok(entry) = self.inside.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        mapping
    }
}
