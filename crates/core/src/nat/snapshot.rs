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
}

#[derive(Debug)]
pub(crate) struct MappingRecord {
    pub protocol: Protocol,
    pub inside: Endpoint,
    pub port: u16,
    /// Whether the port was forwarded to the endpoint.
    pub forwarded: bool,
    pub sessions: Vec<SessionRecord>,
}

impl MappingRecord {
    fn inside(&self) -> Inside {
        Inside(self.inside)
    }

    fn outside(&self) -> Outside {
        Outside {
            family: Family::of(self.inside.ip),
            protocol: self.protocol,
            port: self.port,
        }
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
    pub port: u16,
    pub family: Family,
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
        let mut addresses = snapshot.addresses.iter();
        if let Some(other) = addresses.find(|address| !self.settings.is_lan(**address)) {
            return Err(RestoreError::Address(*other));
        }
        let mut blocks = snapshot.blocks;
        blocks.retain(|record| is_ours(record.client));
        for record in &blocks {
            self.restore_block(record, peers, now)
                .ok_or(RestoreError::Block(record.first_port))?;
        }
        let mut mappings = snapshot.mappings;
        mappings.retain(|m| is_ours(m.inside.ip) && self.fits_forwards(m));
        self.restore_mappings(mappings, peers, age, now)?;
        let mut quarantined = snapshot.quarantined;
        quarantined.sort_by_key(|r| r.left);
        for QuarantineRecord { port, family, left } in quarantined {
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
    fn fits_forwards(&self, mapping: &MappingRecord) -> bool {
        let inside = mapping.inside();
        match self.forwards.to(mapping.outside()) {
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
