//! Restores flows from the journal, so that they survive a restart.
//!
//! After [`Nat::restore`] the flows have new ids. Held SYNs, fragments and packet counters are not
//! restored. The configuration determines which forwards exist, not the journal.

use super::block::Block;
use super::endpoint::{Endpoint, Family, Inside, Outside, Protocol, Remote};
use super::expiry::Class;
use super::group::OwnedBlock;
use super::lan_ports::{PORT_HOLD_TIME, Quarantine};
use super::table::MappingEnds;
use super::tcp::Tcp;
use super::{Nat, Peers, TrafficCounters};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The part of a journal's state that belongs to one NAT.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The LAN addresses of the state.
    pub addresses: HashSet<IpAddr>,
    pub blocks: Vec<BlockRecord>,
    pub mappings: Vec<MappingRecord>,
    pub quarantined: Vec<QuarantineRecord>,
}

#[derive(Debug)]
pub(crate) struct BlockRecord {
    pub first_port: u16,
    pub last_port: u16,
    pub client: IpAddr,
    pub lan: IpAddr,
}

#[derive(Debug)]
pub(crate) struct MappingRecord {
    pub protocol: Protocol,
    pub inside: Endpoint,
    pub lan: IpAddr,
    pub port: u16,
    /// Whether the port was forwarded to the endpoint.
    pub forwarded: bool,
    pub sessions: Vec<SessionRecord>,
}

impl MappingRecord {
    fn inside(&self) -> Inside {
        Inside(self.inside)
    }
}

#[derive(Debug)]
pub(crate) struct SessionRecord {
    pub remote: Endpoint,
    /// The time between the last refresh and the end of the journal.
    pub idle: Duration,
    pub tcp: Tcp,
    pub sent: TrafficCounters,
    pub received: TrafficCounters,
}

#[derive(Debug)]
pub(crate) struct QuarantineRecord {
    pub lan: IpAddr,
    pub port: u16,
    /// The time between the end of the journal and that of the quarantine.
    pub left: Duration,
}

/// The reason why flows cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The flows have another LAN address.
    #[error("they have the LAN address {0}")]
    Address(IpAddr),
    /// The block belongs to another shard, has two owners, or an owner that belongs to no peer.
    #[error("the port block that begins at port {0} is not available")]
    Block(u16),
    /// The port is outside its client's blocks, has two mappings, or has no session.
    #[error("the mapping of {1:?} port {0} contradicts the others")]
    Mapping(u16, Protocol),
}

impl Nat {
    /// Restores flows from a snapshot that was taken `age` ago.
    ///
    /// This NAT must have no flows yet, and its forwards already. Clients for which `is_ours` is
    /// false are left out, and so are mappings whose port or endpoint is now forwarded differently.
    ///
    /// # Errors
    /// The contradiction in the snapshot; the NAT must not be used then.
    pub(crate) fn restore(
        &mut self,
        snapshot: Snapshot,
        peers: &dyn Peers,
        is_ours: impl Fn(IpAddr) -> bool,
        age: Duration,
        now: Instant,
    ) -> Result<(), RestoreError> {
        // Flows of one of several addresses are left out if vcgate does not have it any more.
        let mut addresses = snapshot.addresses.iter();
        if !addresses.clone().any(|address| self.lan.contains(*address))
            && let Some(other) = addresses.next()
        {
            return Err(RestoreError::Address(*other));
        }
        let mut blocks = snapshot.blocks;
        for record in blocks.iter().filter(|record| is_ours(record.client)) {
            if let Some(peer) = peers.of(record.client)
                && let Some(lan) = self.lan.id_of(record.lan)
            {
                self.lan.keep_pair(peer, lan);
            }
        }
        // A client whose LAN address is another one now begins without flows.
        blocks.retain(|r| is_ours(r.client) && self.keeps_address(r.client, r.lan, peers));
        for record in &blocks {
            self.restore_block(record, peers, now)
                .ok_or(RestoreError::Block(record.first_port))?;
        }
        let mut mappings = snapshot.mappings;
        mappings.retain(|m| {
            let client = m.inside.ip;
            is_ours(client)
                && self.lan.contains(m.lan)
                && (m.forwarded || self.keeps_address(client, m.lan, peers))
                && self.fits_forwards(m)
        });
        self.restore_mappings(mappings, peers, age, now)?;
        let mut quarantined = snapshot.quarantined;
        quarantined.sort_by_key(|r| r.left);
        for QuarantineRecord { port, lan, left } in quarantined {
            let Some(lan) = self.lan.id_of(lan) else {
                continue;
            };
            let left = left.min(PORT_HOLD_TIME).saturating_sub(age);
            self.ports.restore_quarantine(Quarantine {
                lan,
                port,
                until: now + left,
            });
        }
        // Sessions that expired in the meantime, and blocks without any restored port.
        while self.next_timeout().is_some_and(|due| due <= now) {
            self.handle_timeout(now);
        }
        for record in blocks {
            if let Some(lan) = self.lan.id_of(record.lan)
                && let Some(released) = self.ports.release(lan, record.first_port)
            {
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
        let peer = peers.of(address);
        let client = (self.clients).get_or_insert(address, peer, &self.lan, now);
        let client = client.ok()?;
        let owned = OwnedBlock { client, block };
        let is_restored = (self.ports).restore_block(self.lan.id_of(record.lan)?, owned);
        is_restored.then(|| self.clients.restore_block(client, block))
    }

    /// Returns whether a client still has this LAN address.
    fn keeps_address(&self, client: IpAddr, lan: IpAddr, peers: &dyn Peers) -> bool {
        let now = |peer| self.lan.of_peer(peer, Family::of(client));
        let now = peers.of(client).map(now);
        now.is_none_or(|id| self.lan.address(id) == lan)
    }

    /// Returns the port of a mapping, if vcgate still has the LAN address.
    fn outside_of_mapping(&self, mapping: &MappingRecord) -> Option<Outside> {
        let lan = self.lan.id_of(mapping.lan)?;
        (mapping.lan.is_ipv4() == mapping.inside.ip.is_ipv4()).then_some(Outside {
            lan,
            protocol: mapping.protocol,
            port: mapping.port,
        })
    }

    /// Returns whether the forwards, which may have changed, leave a mapping its port.
    fn fits_forwards(&self, mapping: &MappingRecord) -> bool {
        let inside = mapping.inside();
        let outside = self.outside_of_mapping(mapping);
        match outside.and_then(|outside| self.forwards.to(outside)) {
            Some(to) => to == inside,
            None => !mapping.forwarded && self.forwards.from(inside, mapping.protocol).is_none(),
        }
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
            let contradiction = RestoreError::Mapping(mapping.port, mapping.protocol);
            let inside = mapping.inside();
            let outside = self.outside_of_mapping(&mapping).ok_or(contradiction)?;
            if mapping.sessions.is_empty() {
                return Err(contradiction);
            }
            let client = match self.forwards.to(outside).is_some() {
                true => self
                    .clients
                    .get_or_insert(inside.0.ip, peers.of(inside.0.ip), &self.lan, now)
                    .ok(),
                false => { self.clients.by_address(inside.0.ip) }
                    .filter(|client| self.ports.restore_port(outside, *client)),
            };
            let ends = MappingEnds {
                client: client.ok_or(contradiction)?,
                inside,
                outside,
                lan: mapping.lan,
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
        let remote = Remote(record.remote);
        if ends.inside.0.ip.is_ipv4() != remote.0.ip.is_ipv4() {
            return Err(RestoreError::Mapping(port, protocol));
        }
        if let Some(mapping) = self.table.by_inside(ends.inside, protocol) {
            let has_other_port = self.table.mappings[mapping.index()].outside != ends.outside;
            if has_other_port || self.table.session(mapping, remote).is_some() {
                return Err(RestoreError::Mapping(port, protocol));
            }
        }
        let mut tcp = record.tcp;
        tcp.resume();
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
