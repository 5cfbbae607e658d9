//! Allocation of the LAN address's ports to clients.
//!
//! Clients get ports in blocks of [`BLOCK_SIZE`], so that one log line covers a client's ports (RFC
//! 6888 REQ-14). Shards own whole blocks, distributed round-robin: the port alone determines the
//! shard, and each of up to 16 shards has some of the ports below 1024. A block belongs to one
//! client, an inner address, for all protocols. Each family has a separate LAN address and so
//! separate blocks: at most 1,024 inner addresses per family can have flows at a time. Inside a
//! client's blocks the choice is random (RFC 6056). The allocator does not know what a port is used
//! for.

use super::block::{BLOCK_SIZE, Block, BlockNumber};
use super::endpoint::{ClientId, Family, Outside, Protocol};
use crate::ids::ShardId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The number of blocks in a port space of 65,536 ports.
pub const BLOCK_COUNT: u16 = 1024;

/// The time for which a released UDP port is not assigned again (RFC 6888 REQ-8).
pub const PORT_HOLD_TIME: Duration = Duration::from_secs(120);

/// The blocks of the ports below 1024.
const PRIVILEGED: Range<BlockNumber> = BlockNumber(0)..BlockNumber(1024 / BLOCK_SIZE);
/// The blocks of the other ports. The two classes are not mixed (RFC 4787 REQ-3a).
const UNPRIVILEGED: Range<BlockNumber> = PRIVILEGED.end..BlockNumber(BLOCK_COUNT);

/// The ports with an even offset in a block.
const EVEN_PORTS: u64 = 0x5555_5555_5555_5555;

/// Returns the maximum number of a shard's blocks of a family per peer: a quarter of `blocks`, so
/// that no peer gets them all, but at least 2.
fn share_of(blocks: u16) -> u16 {
    (blocks / 4).max(2)
}

/// Returns the maximum number of blocks of a family per peer for this number of shards.
pub fn max_blocks_per_peer(shards: u8) -> u16 {
    share_of(BLOCK_COUNT / u16::from(shards.max(1)))
}

/// Returns the maximum number of shards with which a peer can have this number of blocks, at least
/// one.
pub fn max_shards(blocks: u16) -> u8 {
    let enough = |shards: &u8| max_blocks_per_peer(*shards) >= blocks;
    (1..=ShardId::MAX).rev().find(enough).unwrap_or(1)
}

/// A block that was released, and its previous owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReleasedBlock {
    pub client: ClientId,
    pub block: BlockNumber,
}

/// A request for a port.
#[derive(Debug)]
pub(super) struct PortRequest<'a> {
    pub client: ClientId,
    pub family: Family,
    pub protocol: Protocol,
    /// The port of the client's own endpoint.
    pub inner: u16,
    /// The client's blocks; one may be added.
    pub blocks: &'a mut Vec<BlockNumber>,
    /// Maximum number of blocks of the client.
    pub max_blocks: u16,
}

/// A port in quarantine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quarantine {
    pub family: Family,
    pub port: u16,
    pub until: Instant,
}

/// The port blocks of one shard.
#[derive(Debug)]
pub(super) struct Ports {
    /// One entry per block of `range`, whether this shard owns it or not.
    blocks: [Vec<Block>; Family::COUNT],
    range: Range<u16>,
    shard: ShardId,
    share: u16,
    /// Ordered by end.
    quarantine: VecDeque<Quarantine>,
    rng: StdRng,
}

impl Ports {
    pub(super) fn new(range: Range<u16>, shard: ShardId, seed: u64) -> Self {
        let range = range.start.min(BLOCK_COUNT)..range.end.min(BLOCK_COUNT);
        let blocks: Vec<_> = range.clone().map(|n| Block::new(BlockNumber(n))).collect();
        let owned = range.clone().filter(|block| shard.owns((*block).into()));
        Self {
            share: share_of(owned.count() as u16),
            blocks: [blocks.clone(), blocks],
            range,
            shard,
            quarantine: VecDeque::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Returns the maximum number of this shard's blocks of a family per peer.
    pub(super) fn share(&self) -> u16 {
        self.share
    }

    /// Takes a free port for a client. In order of preference: a port of the client's own blocks with
    /// the parity of the inner port, another port of those blocks, a port of an additional block.
    ///
    /// Ports below 1024 are mapped to ports below 1024 while any are free; never the other way. But
    /// a client's last possible block is not one of those: most of its flows could not use it.
    pub(super) fn take(&mut self, request: &mut PortRequest<'_>) -> Option<u16> {
        let is_privileged = request.protocol != Protocol::Echo
            && PRIVILEGED.contains(&BlockNumber::of(request.inner));
        if is_privileged {
            let has_unprivileged = request.blocks.iter().any(|b| UNPRIVILEGED.contains(b));
            let max = request
                .max_blocks
                .saturating_sub(u16::from(!has_unprivileged));
            let port = self.take_in(PRIVILEGED, request, max);
            if port.is_some() {
                return port;
            }
        }
        let max = request.max_blocks;
        self.take_in(UNPRIVILEGED, request, max)
    }

    /// Releases a port; a UDP port goes into quarantine. Returns its block if that is released too.
    pub(super) fn give_back(&mut self, outside: Outside, now: Instant) -> Option<ReleasedBlock> {
        let Outside {
            family,
            protocol,
            port,
        } = outside;
        let number = BlockNumber::of(port);
        let block = self.block(family, number)?;
        block.vacate(protocol, port);
        if protocol == Protocol::Udp {
            block.quarantine(port);
            self.quarantine.push_back(Quarantine {
                family,
                port,
                until: now + PORT_HOLD_TIME,
            });
        }
        self.release(family, number)
    }

    /// Returns when the next port leaves quarantine.
    pub(super) fn next_quarantine_end(&self) -> Option<Instant> {
        self.quarantine.front().map(|q| q.until)
    }

    /// Ends the quarantine of one port if it is over; returns the port's block if that is released.
    pub(super) fn end_quarantine(&mut self, now: Instant) -> Option<Option<ReleasedBlock>> {
        let Quarantine {
            family,
            port,
            until,
        } = *self.quarantine.front()?;
        if until > now {
            return None;
        }
        self.quarantine.pop_front();
        let number = BlockNumber::of(port);
        if let Some(block) = self.block(family, number) {
            block.end_quarantine(port);
        }
        Some(self.release(family, number))
    }

    /// Removes the owner of a block without ports in use, although some may be in quarantine.
    pub(super) fn abandon(&mut self, family: Family, block: BlockNumber) {
        if let Some(block) = self.block(family, block).filter(|b| b.is_unused()) {
            block.owner = None;
        }
    }

    /// Iterates over the ports in use in a block of this family.
    pub(super) fn in_use(
        &self,
        family: Family,
        number: BlockNumber,
    ) -> impl Iterator<Item = Outside> + use<> {
        let index = self.index(number);
        let block = index.map(|index| self.blocks[family as usize][index].clone());
        block.into_iter().flat_map(move |block| {
            Protocol::ALL.into_iter().flat_map(move |protocol| {
                block.in_use(protocol).map(move |offset| Outside {
                    family,
                    protocol,
                    port: number.port(offset),
                })
            })
        })
    }

    /// Iterates over the ports in quarantine, in the order in which they leave it.
    pub(super) fn quarantined(&self) -> impl Iterator<Item = Quarantine> + '_ {
        self.quarantine.iter().copied()
    }

    /// Returns the client that owns the block of a port.
    pub(super) fn owner(&self, family: Family, port: u16) -> Option<ClientId> {
        let index = self.index(BlockNumber::of(port))?;
        self.blocks[family as usize].get(index)?.owner
    }

    /// Keeps a port from being assigned; returns false if it is in use. Ports of other shards are
    /// never assigned here.
    pub(super) fn reserve(&mut self, outside: Outside) -> bool {
        let block = self.block(outside.family, BlockNumber::of(outside.port));
        block.is_none_or(|block| block.reserve(outside.protocol, outside.port))
    }

    /// Lets a reserved port be assigned again.
    pub(super) fn unreserve(&mut self, outside: Outside) {
        if let Some(block) = self.block(outside.family, BlockNumber::of(outside.port)) {
            block.unreserve(outside.protocol, outside.port);
        }
    }

    /// Returns whether a port can be assigned.
    #[cfg(test)]
    pub(super) fn is_free(&mut self, outside: Outside) -> bool {
        let block = self.block(outside.family, BlockNumber::of(outside.port));
        block.is_some_and(|block| block.is_free(outside.protocol, outside.port))
    }

    /// Gives a block of a snapshot to a client; returns false if that is not possible.
    pub(super) fn restore_block(
        &mut self,
        family: Family,
        block: BlockNumber,
        client: ClientId,
    ) -> bool {
        match self.block(family, block) {
            Some(b) if b.owner.is_none() => {
                b.owner = Some(client);
                true
            }
            _ => false,
        }
    }

    /// Marks a port of a snapshot as used by the owner of its block; returns false if that is not
    /// possible.
    pub(super) fn restore_port(&mut self, outside: Outside, client: ClientId) -> bool {
        let block = self.block(outside.family, BlockNumber::of(outside.port));
        block.is_some_and(|b| b.owner == Some(client) && b.occupy(outside.protocol, outside.port))
    }

    /// Puts a port of a snapshot into quarantine, which must not end before that of an earlier call.
    pub(super) fn restore_quarantine(&mut self, quarantine: Quarantine) {
        let Quarantine { family, port, .. } = quarantine;
        if let Some(block) = self.block(family, BlockNumber::of(port)) {
            block.quarantine(port);
            self.quarantine.push_back(quarantine);
        }
    }

    fn take_in(
        &mut self,
        class: Range<BlockNumber>,
        request: &mut PortRequest<'_>,
        max_blocks: u16,
    ) -> Option<u16> {
        let parity = match request.protocol {
            Protocol::Echo => u64::MAX,
            _ if request.inner.is_multiple_of(2) => EVEN_PORTS,
            _ => !EVEN_PORTS,
        };
        for allowed in [parity, u64::MAX] {
            let start = match request.blocks.len() {
                0 => 0,
                n => self.rng.random_range(0..n),
            };
            let (head, tail) = request.blocks.split_at(start);
            let round = tail.iter().chain(head);
            for &block in round.filter(|b| class.contains(b)) {
                if let Some(port) = self.pick(block, request, allowed) {
                    return Some(port);
                }
            }
        }
        if request.blocks.len() >= usize::from(max_blocks) {
            return None;
        }
        let block = self.find_free_block(class, request)?;
        self.block(request.family, block)?.owner = Some(request.client);
        request.blocks.push(block);
        let port = self.pick(block, request, parity);
        port.or_else(|| self.pick(block, request, u64::MAX))
    }

    /// Picks a random free port of a block.
    fn pick(
        &mut self,
        number: BlockNumber,
        request: &PortRequest<'_>,
        allowed: u64,
    ) -> Option<u16> {
        let index = self.index(number)?;
        let block = &mut self.blocks[request.family as usize][index];
        let offset = block.pick(request.protocol, allowed, &mut self.rng)?;
        Some(number.port(offset))
    }

    /// Returns the first available block after a random position, wrapping around.
    fn find_free_block(
        &mut self,
        class: Range<BlockNumber>,
        request: &PortRequest<'_>,
    ) -> Option<BlockNumber> {
        let from = class.start.0.max(self.range.start);
        let to = class.end.0.min(self.range.end);
        if from >= to {
            return None;
        }
        let start = self.rng.random_range(from..to);
        (start..to).chain(from..start).map(BlockNumber).find(|n| {
            let block = self.block(request.family, *n);
            block.is_some_and(|block| block.is_available(request.protocol))
        })
    }

    /// Releases a block if it has an owner and none of its ports is in use or in quarantine.
    pub(super) fn release(&mut self, family: Family, number: BlockNumber) -> Option<ReleasedBlock> {
        let block = self.block(family, number)?;
        if block.has_quarantine() || !block.is_unused() {
            return None;
        }
        Some(ReleasedBlock {
            client: block.owner.take()?,
            block: number,
        })
    }

    fn index(&self, BlockNumber(number): BlockNumber) -> Option<usize> {
        let index = usize::from(number.checked_sub(self.range.start)?);
        let is_owned = index < self.range.len() && self.shard.owns(number.into());
        is_owned.then_some(index)
    }

    fn block(&mut self, family: Family, number: BlockNumber) -> Option<&mut Block> {
        let index = self.index(number)?;
        self.blocks[family as usize].get_mut(index)
    }
}
