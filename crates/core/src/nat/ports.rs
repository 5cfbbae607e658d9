//! Which ports of the LAN address are whose.
//!
//! Ports are given out in blocks of [`BLOCK_SIZE`]: a client's ports lie together, so one log line says
//! who had them (RFC 6888 REQ-14). Shards own whole blocks, in turns, so that a port says whose it
//! is and each of up to 16 shards has some of the ports below 1024. A block belongs to a client,
//! which is an address, for all protocols; each family has a LAN address and so blocks of its own.
//! So as many inner addresses of a family can have flows at a time as there are blocks, 1,024.
//! Inside a client's blocks the choice is random (RFC 6056). Nothing here knows what a port is
//! used for.

use super::block::{BLOCK_SIZE, Block, NO_CLIENT};
use super::endpoint::{Family, Outside, Protocol};
use crate::ids::Shard;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Blocks of all 65,536 ports.
pub const BLOCK_COUNT: u16 = 1024;

/// How long a freed UDP port is given to nobody (RFC 6888 REQ-8).
pub const PORT_HOLD_TIME: Duration = Duration::from_secs(120);

/// The blocks of the ports below 1024, and of those from there on: two classes, which are not to
/// be mixed (RFC 4787 REQ-3a).
const PRIVILEGED: Range<u16> = 0..1024 / BLOCK_SIZE;
const UNPRIVILEGED: Range<u16> = PRIVILEGED.end..BLOCK_COUNT;

/// As many of a shard's blocks of a family may one peer have: a quarter of them, so that nobody
/// gets them all, but 2 at least.
fn share_of(blocks: u16) -> u16 {
    (blocks / 4).max(2)
}

/// As many blocks of a family may one peer have if there are so many shards.
pub fn max_blocks_per_peer(shards: u8) -> u16 {
    share_of(BLOCK_COUNT / u16::from(shards.max(1)))
}

/// As many shards may there be if one peer is to have so many blocks; one in any case.
pub fn max_shards(blocks: u16) -> u8 {
    let enough = |shards: &u8| max_blocks_per_peer(*shards) >= blocks;
    (1..=Shard::MAX).rev().find(enough).unwrap_or(1)
}

/// A block that is free again, and who had it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReleasedBlock {
    pub client: u32,
    pub block: u16,
}

/// Who wants a port, and for what.
#[derive(Debug)]
pub(super) struct PortRequest<'a> {
    pub client: u32,
    pub family: Family,
    pub protocol: Protocol,
    /// The port of the client's own end.
    pub inner: u16,
    /// The client's blocks; one may be added.
    pub held: &'a mut Vec<u16>,
    /// As many blocks may the client have.
    pub most: u16,
}

/// The port blocks of one shard.
#[derive(Debug)]
pub(super) struct Ports {
    blocks: [Vec<Block>; Family::COUNT],
    /// Those that the blocks above stand for, as far as they are this shard's.
    owned: Range<u16>,
    shard: Shard,
    share: u16,
    rest: VecDeque<(Instant, Family, u16)>,
    rng: StdRng,
}

impl Ports {
    pub(super) fn new(owned: Range<u16>, shard: Shard, seed: u64) -> Self {
        let owned = owned.start.min(BLOCK_COUNT)..owned.end.min(BLOCK_COUNT);
        let blocks: Vec<_> = owned.clone().map(Block::new).collect();
        let mine = owned.clone().filter(|block| shard.owns((*block).into()));
        Self {
            share: share_of(mine.count() as u16),
            blocks: [blocks.clone(), blocks],
            owned,
            shard,
            rest: VecDeque::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// As many of this shard's blocks of a family may one peer have.
    pub(super) fn share(&self) -> u16 {
        self.share
    }

    /// A free port of a client. In order: one of its own blocks with the parity of its inner port,
    /// one of its own, one of a new block if it may have one more.
    ///
    /// Ports below 1024 go to ports below 1024 while there are any; never the other way. But a
    /// client's last block is not one of theirs: most of its flows could not use it.
    pub(super) fn take(&mut self, wish: &mut PortRequest<'_>) -> Option<u16> {
        let is_low =
            wish.protocol != Protocol::Echo && PRIVILEGED.contains(&(wish.inner / BLOCK_SIZE));
        if is_low {
            let has_high = wish.held.iter().any(|b| UNPRIVILEGED.contains(b));
            let most = wish.most.saturating_sub(u16::from(!has_high));
            let port = self.take_in(PRIVILEGED, wish, most);
            if port.is_some() {
                return port;
            }
        }
        let most = wish.most;
        self.take_in(UNPRIVILEGED, wish, most)
    }

    /// The port is free again; UDP rests first. Returns the block if nothing of it is in use.
    pub(super) fn give_back(&mut self, outside: Outside, now: Instant) -> Option<ReleasedBlock> {
        let Outside {
            family,
            protocol,
            port,
        } = outside;
        let block = self.block(family, port / BLOCK_SIZE)?;
        block.vacate(protocol, port);
        if protocol == Protocol::Udp {
            block.quarantine(port);
            self.rest.push_back((now + PORT_HOLD_TIME, family, port));
        }
        self.release(family, port / BLOCK_SIZE)
    }

    /// When the next port has rested.
    pub(super) fn next_quarantine_end(&self) -> Option<Instant> {
        self.rest.front().map(|(at, ..)| *at)
    }

    /// Ends the rest of one port that has rested, if there is one: what became of its block.
    pub(super) fn end_quarantine(&mut self, now: Instant) -> Option<Option<ReleasedBlock>> {
        let (at, family, port) = *self.rest.front()?;
        if at > now {
            return None;
        }
        self.rest.pop_front();
        if let Some(block) = self.block(family, port / BLOCK_SIZE) {
            block.end_quarantine(port);
        }
        Some(self.release(family, port / BLOCK_SIZE))
    }

    /// A block of which no port is used is nobody's, although some may rest still.
    pub(super) fn abandon(&mut self, family: Family, block: u16) {
        if let Some(block) = self.block(family, block).filter(|b| b.is_unused()) {
            block.owner = NO_CLIENT;
        }
    }

    /// The ports in use in a block of this family.
    pub(super) fn in_use(
        &self,
        family: Family,
        block: u16,
    ) -> impl Iterator<Item = Outside> + use<> {
        let index = self.index(block);
        let found = index.map(|index| self.blocks[family as usize][index].clone());
        found.into_iter().flat_map(move |found| {
            Protocol::ALL.into_iter().flat_map(move |protocol| {
                found.in_use(protocol).map(move |place| Outside {
                    family,
                    protocol,
                    port: block * BLOCK_SIZE + place,
                })
            })
        })
    }

    /// The ports that rest, and until when.
    pub(super) fn quarantined(&self) -> impl Iterator<Item = (Family, u16, Instant)> + '_ {
        let rest = self.rest.iter();
        rest.map(|(at, family, port)| (*family, *port, *at))
    }

    /// Takes a port out of everybody's choice; false if it is somebody's now. A port of another
    /// shard is in nobody's choice here.
    pub(super) fn reserve(&mut self, outside: Outside) -> bool {
        let block = self.block(outside.family, outside.port / BLOCK_SIZE);
        block.is_none_or(|block| block.reserve(outside.protocol, outside.port))
    }

    /// The port can be chosen again.
    pub(super) fn unreserve(&mut self, outside: Outside) {
        if let Some(block) = self.block(outside.family, outside.port / BLOCK_SIZE) {
            block.unreserve(outside.protocol, outside.port);
        }
    }

    /// Whether a port may be chosen.
    #[cfg(test)]
    pub(super) fn is_free(&mut self, outside: Outside) -> bool {
        let block = self.block(outside.family, outside.port / BLOCK_SIZE);
        block.is_some_and(|block| block.is_free(outside.protocol, outside.port))
    }

    /// Gives a block to a client as it was before; false if it cannot be.
    pub(super) fn restore_block(&mut self, family: Family, block: u16, client: u32) -> bool {
        match self.block(family, block) {
            Some(b) if b.owner == NO_CLIENT => {
                b.owner = client;
                true
            }
            _ => false,
        }
    }

    /// Marks a port as used by the client who owns its block; false if it cannot be.
    pub(super) fn restore_port(&mut self, outside: Outside, client: u32) -> bool {
        let block = self.block(outside.family, outside.port / BLOCK_SIZE);
        block.is_some_and(|b| b.owner == client && b.occupy(outside.protocol, outside.port))
    }

    /// Lets a port rest until `at`, which must not be before that of an earlier call.
    pub(super) fn restore_quarantine(&mut self, family: Family, port: u16, at: Instant) {
        if let Some(block) = self.block(family, port / BLOCK_SIZE) {
            block.quarantine(port);
            self.rest.push_back((at, family, port));
        }
    }

    fn take_in(&mut self, class: Range<u16>, wish: &mut PortRequest<'_>, most: u16) -> Option<u16> {
        let parity = match wish.protocol {
            Protocol::Echo => u64::MAX,
            _ if wish.inner.is_multiple_of(2) => 0x5555_5555_5555_5555,
            _ => 0xAAAA_AAAA_AAAA_AAAA,
        };
        for allowed in [parity, u64::MAX] {
            let start = match wish.held.len() {
                0 => 0,
                n => self.rng.random_range(0..n),
            };
            let round = wish.held[start..].iter().chain(&wish.held[..start]);
            for &block in round.filter(|b| class.contains(b)) {
                if let Some(port) = self.pick(block, wish, allowed) {
                    return Some(port);
                }
            }
        }
        if wish.held.len() >= usize::from(most) {
            return None;
        }
        let block = self.free_block(class, wish)?;
        self.block(wish.family, block)?.owner = wish.client;
        wish.held.push(block);
        let port = self.pick(block, wish, parity);
        port.or_else(|| self.pick(block, wish, u64::MAX))
    }

    /// A random free port of a block.
    fn pick(&mut self, block: u16, wish: &PortRequest<'_>, allowed: u64) -> Option<u16> {
        let index = self.index(block)?;
        let found = &mut self.blocks[wish.family as usize][index];
        let place = found.pick(wish.protocol, allowed, &mut self.rng)?;
        Some(block * BLOCK_SIZE + place)
    }

    /// The first free block from a random place on that has a port to choose.
    fn free_block(&mut self, class: Range<u16>, wish: &PortRequest<'_>) -> Option<u16> {
        let from = class.start.max(self.owned.start);
        let to = class.end.min(self.owned.end);
        if from >= to {
            return None;
        }
        let start = self.rng.random_range(from..to);
        (start..to).chain(from..start).find(|n| {
            let block = self.block(wish.family, *n);
            block.is_some_and(|block| block.is_available(wish.protocol))
        })
    }

    /// Takes a block back of which nothing is in use.
    pub(super) fn release(&mut self, family: Family, number: u16) -> Option<ReleasedBlock> {
        let block = self.block(family, number)?;
        if block.owner == NO_CLIENT || block.is_quarantined() || !block.is_unused() {
            return None;
        }
        let client = std::mem::replace(&mut block.owner, NO_CLIENT);
        Some(ReleasedBlock {
            client,
            block: number,
        })
    }

    fn index(&self, block: u16) -> Option<usize> {
        let index = usize::from(block.checked_sub(self.owned.start)?);
        let is_here = index < self.owned.len() && self.shard.owns(block.into());
        is_here.then_some(index)
    }

    fn block(&mut self, family: Family, block: u16) -> Option<&mut Block> {
        let index = self.index(block)?;
        self.blocks[family as usize].get_mut(index)
    }
}
