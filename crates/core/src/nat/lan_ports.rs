//! The ports of all LAN addresses, and the quarantine of released UDP ports (RFC 6888 REQ-8).
//!
//! Each LAN address has separate ports. An address of a single peer belongs to one shard, all others
//! to all shards. This module does not choose ports; see [`Ports`].

use super::block::Block;
use super::endpoint::{ClientId, LanId, Outside, Protocol};
use super::group::{OwnedBlock, Trimmed};
use super::ports::{PortRequest, Ports};
use super::settings::Settings;
use crate::ids::ShardId;
use hashbrown::HashSet;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The time for which a released UDP port is not assigned again (RFC 6888 REQ-8).
pub const PORT_HOLD_TIME: Duration = Duration::from_secs(120);

/// The number of ports whose quarantine ends early when no port is left.
const REUSED_AT_ONCE: usize = 1024;

/// A port in quarantine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quarantine {
    pub lan: LanId,
    pub port: u16,
    pub until: Instant,
}

/// The ports of one shard.
#[derive(Debug)]
pub(super) struct LanPorts {
    /// By LAN address; `None` if no port of it was ever used or forwarded.
    ports: Vec<Option<Box<Ports>>>,
    /// Addresses of which this shard has all ports.
    exclusive: HashSet<LanId>,
    /// Ordered by end.
    quarantine: VecDeque<Quarantine>,
    blocks: Range<u16>,
    shard: ShardId,
    seeds: StdRng,
}

impl LanPorts {
    /// Returns the ports that clients may have by the settings. `seed` must be random.
    pub(super) fn new(settings: &Settings, seed: u64) -> Self {
        Self {
            ports: Vec::new(),
            exclusive: HashSet::new(),
            quarantine: VecDeque::new(),
            blocks: settings.blocks.clone(),
            shard: settings.shard,
            seeds: StdRng::seed_from_u64(seed),
        }
    }

    /// Gives this shard all ports of an address, of which none was used before.
    pub(super) fn own_all(&mut self, lan: LanId) {
        self.exclusive.insert(lan);
    }

    /// Forgets all ports of an address, of which none may be in use, and ends their quarantines.
    pub(super) fn remove_all(&mut self, lan: LanId) {
        self.quarantine.retain(|q| q.lan != lan);
        self.exclusive.remove(&lan);
        if let Some(ports) = self.ports.get_mut(lan.index()) {
            *ports = None;
        }
    }

    /// Takes a free port; see [`Ports::take`].
    pub(super) fn take(&mut self, lan: LanId, request: &mut PortRequest<'_>) -> Option<u16> {
        self.of(lan).take(request)
    }

    /// Returns idle parts of blocks; see [`Ports::trim`].
    pub(super) fn trim(&mut self, lan: LanId) -> Vec<Trimmed> {
        self.of(lan).trim()
    }

    /// Releases a port; a UDP port goes into quarantine. Returns its block if that is released too.
    pub(super) fn give_back(&mut self, outside: Outside, now: Instant) -> Option<OwnedBlock> {
        let Outside {
            lan,
            protocol,
            port,
        } = outside;
        let is_quarantined = protocol == Protocol::Udp;
        if is_quarantined {
            self.quarantine.push_back(Quarantine {
                lan,
                port,
                until: now + PORT_HOLD_TIME,
            });
        }
        self.of(lan).give_back(protocol, port, is_quarantined)
    }

    /// Returns when the next port leaves quarantine.
    pub(super) fn next_quarantine_end(&self) -> Option<Instant> {
        self.quarantine.front().map(|q| q.until)
    }

    /// Ends the quarantine of one port if it is over; returns the port's block if that is released.
    pub(super) fn end_quarantine(&mut self, now: Instant) -> Option<Option<OwnedBlock>> {
        let Quarantine { lan, port, until } = *self.quarantine.front()?;
        if until > now {
            return None;
        }
        self.quarantine.pop_front();
        Some(self.of(lan).end_quarantine(port))
    }

    /// Ends the quarantine of the oldest ports of an address, up to [`REUSED_AT_ONCE`] of them; returns
    /// the block of each that is released.
    pub(super) fn end_oldest_quarantines(&mut self, lan: LanId) -> Vec<Option<OwnedBlock>> {
        let mut oldest = Vec::new();
        self.quarantine.retain(|q| {
            let is_ended = q.lan == lan && oldest.len() < REUSED_AT_ONCE;
            if is_ended {
                oldest.push(q.port);
            }
            !is_ended
        });
        let ports = self.of(lan);
        oldest
            .into_iter()
            .map(|port| ports.end_quarantine(port))
            .collect()
    }

    /// Iterates over the ports in quarantine, in the order in which they leave it.
    pub(super) fn quarantined(&self) -> impl Iterator<Item = Quarantine> + '_ {
        self.quarantine.iter().copied()
    }

    /// Releases the block of a port if none of its ports is in use or in quarantine.
    pub(super) fn release(&mut self, lan: LanId, port: u16) -> Option<OwnedBlock> {
        self.of(lan).release(port)
    }

    /// Returns the client that owns the block of a port.
    pub(super) fn owner(&self, lan: LanId, port: u16) -> Option<ClientId> {
        self.ports.get(lan.index())?.as_ref()?.owner(port)
    }

    /// Takes a block without ports in use from its owner, although some may be in quarantine.
    pub(super) fn abandon(&mut self, lan: LanId, block: Block) {
        self.of(lan).abandon(block);
    }

    /// Returns the ports in use in a block.
    pub(super) fn in_use(&mut self, lan: LanId, block: Block) -> Vec<Outside> {
        let ports = self.of(lan).in_use(block).into_iter();
        let outside = |(protocol, port)| Outside {
            lan,
            protocol,
            port,
        };
        ports.map(outside).collect()
    }

    /// Keeps a port from being assigned; returns false if it is in use.
    pub(super) fn reserve(&mut self, outside: Outside) -> bool {
        self.of(outside.lan).reserve(outside.protocol, outside.port)
    }

    /// Lets a reserved port be assigned again.
    pub(super) fn unreserve(&mut self, outside: Outside) {
        self.of(outside.lan)
            .unreserve(outside.protocol, outside.port);
    }

    /// Returns whether a port can be assigned.
    #[cfg(test)]
    pub(super) fn is_free(&mut self, outside: Outside) -> bool {
        self.of(outside.lan).is_free(outside.protocol, outside.port)
    }

    /// Gives a block to this shard or to another one; see [`Ports::move_block`].
    pub(super) fn move_block(&mut self, lan: LanId, block: Block, is_ours: bool) {
        self.of(lan).move_block(block, is_ours);
    }

    /// Gives a block of a snapshot to a client; returns false if that is not possible.
    pub(super) fn restore_block(&mut self, lan: LanId, owned: OwnedBlock) -> bool {
        self.of(lan).restore_block(owned)
    }

    /// Marks a port of a snapshot as used by the owner of its block; returns false if that is not
    /// possible.
    pub(super) fn restore_port(&mut self, outside: Outside, client: ClientId) -> bool {
        self.of(outside.lan)
            .restore_port(outside.protocol, outside.port, client)
    }

    /// Puts a port of a snapshot into quarantine, which must not end before that of an earlier call.
    pub(super) fn restore_quarantine(&mut self, quarantine: Quarantine) {
        self.of(quarantine.lan).quarantine(quarantine.port);
        self.quarantine.push_back(quarantine);
    }

    fn of(&mut self, lan: LanId) -> &mut Ports {
        let index = lan.index();
        if self.ports.len() <= index {
            self.ports.resize_with(index + 1, || None);
        }
        let shard = match self.exclusive.contains(&lan) {
            true => ShardId::ALONE,
            false => self.shard,
        };
        let (blocks, seeds) = (&self.blocks, &mut self.seeds);
        let new = || Box::new(Ports::new(blocks.clone(), shard, seeds.random()));
        self.ports[index].get_or_insert_with(new)
    }
}
