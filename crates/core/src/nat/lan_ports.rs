//! The ports of all LAN addresses, and the quarantine of released UDP ports (RFC 6888 REQ-8).
//!
//! Each family has a separate LAN address and so separate ports. This module does not choose ports;
//! see [`Ports`].

use super::block::Block;
use super::endpoint::{ClientId, Family, Outside, Protocol};
use super::group::{OwnedBlock, Trimmed};
use super::ports::{PortRequest, Ports};
use super::settings::Settings;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time for which a released UDP port is not assigned again (RFC 6888 REQ-8).
pub const PORT_HOLD_TIME: Duration = Duration::from_secs(120);

/// The number of ports whose quarantine ends early when no port is left.
const REUSED_AT_ONCE: usize = 1024;

/// A port in quarantine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quarantine {
    pub family: Family,
    pub port: u16,
    pub until: Instant,
}

/// The ports of one shard.
#[derive(Debug)]
pub(super) struct LanPorts {
    ports: [Ports; Family::COUNT],
    /// Ordered by end.
    quarantine: VecDeque<Quarantine>,
}

impl LanPorts {
    /// Returns the ports that clients may have by the settings. `seed` must be random.
    pub(super) fn new(settings: &Settings, seed: u64) -> Self {
        let mut seeds = StdRng::seed_from_u64(seed);
        let mut ports = || Ports::new(settings.blocks.clone(), settings.shard, seeds.random());
        Self {
            ports: [ports(), ports()],
            quarantine: VecDeque::new(),
        }
    }

    /// Takes a free port; see [`Ports::take`].
    pub(super) fn take(&mut self, family: Family, request: &mut PortRequest<'_>) -> Option<u16> {
        self.of(family).take(request)
    }

    /// Returns idle parts of blocks; see [`Ports::trim`].
    pub(super) fn trim(&mut self, family: Family) -> Vec<Trimmed> {
        self.of(family).trim()
    }

    /// Releases a port; a UDP port goes into quarantine. Returns its block if that is released too.
    pub(super) fn give_back(&mut self, outside: Outside, now: Instant) -> Option<OwnedBlock> {
        let Outside {
            family,
            protocol,
            port,
        } = outside;
        let is_quarantined = protocol == Protocol::Udp;
        if is_quarantined {
            self.quarantine.push_back(Quarantine {
                family,
                port,
                until: now + PORT_HOLD_TIME,
            });
        }
        self.of(family).give_back(protocol, port, is_quarantined)
    }

    /// Returns when the next port leaves quarantine.
    pub(super) fn next_quarantine_end(&self) -> Option<Instant> {
        self.quarantine.front().map(|q| q.until)
    }

    /// Ends the quarantine of one port if it is over; returns the port's block if that is released.
    pub(super) fn end_quarantine(&mut self, now: Instant) -> Option<Option<OwnedBlock>> {
        let Quarantine {
            family,
            port,
            until,
        } = *self.quarantine.front()?;
        if until > now {
            return None;
        }
        self.quarantine.pop_front();
        Some(self.of(family).end_quarantine(port))
    }

    /// Ends the quarantine of the oldest ports of a family, up to [`REUSED_AT_ONCE`] of them; returns
    /// the block of each that is released.
    pub(super) fn end_oldest_quarantines(&mut self, family: Family) -> Vec<Option<OwnedBlock>> {
        let mut oldest = Vec::new();
        self.quarantine.retain(|q| {
            let is_ended = q.family == family && oldest.len() < REUSED_AT_ONCE;
            if is_ended {
                oldest.push(q.port);
            }
            !is_ended
        });
        let ports = self.of(family);
        let ended = oldest.into_iter().map(|port| ports.end_quarantine(port));
        ended.collect()
    }

    /// Iterates over the ports in quarantine, in the order in which they leave it.
    pub(super) fn quarantined(&self) -> impl Iterator<Item = Quarantine> + '_ {
        self.quarantine.iter().copied()
    }

    /// Releases the block of a port if none of its ports is in use or in quarantine.
    pub(super) fn release(&mut self, family: Family, port: u16) -> Option<OwnedBlock> {
        self.of(family).release(port)
    }

    /// Returns the client that owns the block of a port.
    pub(super) fn owner(&self, family: Family, port: u16) -> Option<ClientId> {
        self.ports[family as usize].owner(port)
    }

    /// Takes a block without ports in use from its owner, although some may be in quarantine.
    pub(super) fn abandon(&mut self, family: Family, block: Block) {
        self.of(family).abandon(block);
    }

    /// Returns the ports in use in a block.
    pub(super) fn in_use(&mut self, family: Family, block: Block) -> Vec<Outside> {
        let ports = self.of(family).in_use(block).into_iter();
        let outside = |(protocol, port)| Outside {
            family,
            protocol,
            port,
        };
        ports.map(outside).collect()
    }

    /// Keeps a port from being assigned; returns false if it is in use.
    pub(super) fn reserve(&mut self, outside: Outside) -> bool {
        self.of(outside.family)
            .reserve(outside.protocol, outside.port)
    }

    /// Lets a reserved port be assigned again.
    pub(super) fn unreserve(&mut self, outside: Outside) {
        self.of(outside.family)
            .unreserve(outside.protocol, outside.port);
    }

    /// Returns whether a port can be assigned.
    #[cfg(test)]
    pub(super) fn is_free(&mut self, outside: Outside) -> bool {
        self.of(outside.family)
            .is_free(outside.protocol, outside.port)
    }

    /// Gives a block to this shard or to another one; see [`Ports::move_block`].
    pub(super) fn move_block(&mut self, family: Family, block: Block, is_ours: bool) {
        self.of(family).move_block(block, is_ours);
    }

    /// Gives a block of a snapshot to a client; returns false if that is not possible.
    pub(super) fn restore_block(&mut self, family: Family, owned: OwnedBlock) -> bool {
        self.of(family).restore_block(owned)
    }

    /// Marks a port of a snapshot as used by the owner of its block; returns false if that is not
    /// possible.
    pub(super) fn restore_port(&mut self, outside: Outside, client: ClientId) -> bool {
        self.of(outside.family)
            .restore_port(outside.protocol, outside.port, client)
    }

    /// Puts a port of a snapshot into quarantine, which must not end before that of an earlier call.
    pub(super) fn restore_quarantine(&mut self, quarantine: Quarantine) {
        self.of(quarantine.family).quarantine(quarantine.port);
        self.quarantine.push_back(quarantine);
    }

    fn of(&mut self, family: Family) -> &mut Ports {
        &mut self.ports[family as usize]
    }
}
