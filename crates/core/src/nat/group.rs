//! 64 consecutive ports as bit sets: used, quarantined and reserved ports, and the blocks among them.
//!
//! It knows the owners of its blocks, but not their other blocks or what a port is used for.

use super::block::{BLOCK_SIZE, Block};
use super::endpoint::{ClientId, Protocol};
use rand::RngExt;
use rand::rngs::StdRng;

/// A port block of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnedBlock {
    pub client: ClientId,
    pub block: Block,
}

/// A block of which idle parts were returned: the owner has `kept` in the place of `whole`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trimmed {
    pub client: ClientId,
    pub whole: Block,
    pub kept: Vec<Block>,
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    /// The first port.
    first: u16,
    blocks: Vec<OwnedBlock>,
    /// Ports of this shard that belong to no block.
    unowned: u64,
    used: [u64; Protocol::COUNT],
    quarantined: u64,
    /// Ports that are never picked, because they are forwarded.
    reserved: [u64; Protocol::COUNT],
}

impl Group {
    /// Returns the group that begins at port `first`, of which these ports can be assigned.
    pub(super) fn new(first: u16, ports: u64) -> Self {
        Self {
            first,
            blocks: Vec::new(),
            unowned: ports,
            used: [0; Protocol::COUNT],
            quarantined: 0,
            reserved: [0; Protocol::COUNT],
        }
    }

    /// Returns the number of ports that belong to no block.
    pub(super) fn unowned_count(&self) -> u32 {
        self.unowned.count_ones()
    }

    /// Returns whether a part of the ports belongs to blocks.
    pub(super) fn is_fragmented(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Lets the ports of a block be assigned, or no longer.
    pub(super) fn set_assignable(&mut self, block: Block, is_assignable: bool) {
        match is_assignable {
            true => self.unowned |= block.mask(),
            false => self.unowned &= !block.mask(),
        }
    }

    /// Finds a random block of this size without an owner that has a free port among the `allowed`
    /// ones.
    pub(super) fn find_unowned(
        &self,
        size: u16,
        protocol: Protocol,
        allowed: u64,
        rng: &mut StdRng,
    ) -> Option<Block> {
        let (mut whole, mut any) = (self.unowned, self.free(protocol) & allowed);
        let mut step = 1;
        while step < size {
            whole &= whole >> step;
            any |= any >> step;
            step *= 2;
        }
        let offset = random_bit(whole & any & first_ports(size), rng)?;
        Some(Block::around(self.first + offset, size))
    }

    /// Gives a block to a client; returns false if a part of it has an owner.
    pub(super) fn give(&mut self, owned: OwnedBlock) -> bool {
        let mask = owned.block.mask();
        let is_available = self.unowned & mask == mask;
        if is_available {
            self.unowned &= !mask;
            self.blocks.push(owned);
        }
        is_available
    }

    /// Returns the block that contains a port.
    pub(super) fn block_of(&self, port: u16) -> Option<OwnedBlock> {
        let mut blocks = self.blocks.iter();
        blocks.find(|o| o.block.mask() & bit(port) != 0).copied()
    }

    /// Takes a block from its owner.
    pub(super) fn take_back(&mut self, block: Block) {
        if let Some(index) = self.blocks.iter().position(|o| o.block == block) {
            self.blocks.swap_remove(index);
            self.unowned |= block.mask();
        }
    }

    /// Returns whether no port of a block is in use or in quarantine.
    pub(super) fn is_idle(&self, block: Block) -> bool {
        self.busy() & block.mask() == 0
    }

    /// Divides blocks into parts of `size` ports and takes the idle parts from their owners. A block
    /// without any remains as it is.
    pub(super) fn trim(&mut self, size: u16) -> Vec<Trimmed> {
        let idle = !self.busy();
        let is_idle = |part: &Block| idle & part.mask() == part.mask();
        let is_divisible = |owned: &&OwnedBlock| {
            owned.block.size() > size && owned.block.split(size).any(|part| is_idle(&part))
        };
        let divisible: Vec<_> = self.blocks.iter().filter(is_divisible).copied().collect();
        let trim = |OwnedBlock { client, block }| {
            self.take_back(block);
            let kept = block.split(size).filter(|part| !is_idle(part));
            let kept: Vec<_> = kept.collect();
            for part in &kept {
                self.give(OwnedBlock {
                    client,
                    block: *part,
                });
            }
            Trimmed {
                client,
                whole: block,
                kept,
            }
        };
        divisible.into_iter().map(trim).collect()
    }

    /// Picks a random free port of a block among the `allowed` ones, and marks it as used.
    pub(super) fn pick(
        &mut self,
        block: Block,
        protocol: Protocol,
        allowed: u64,
        rng: &mut StdRng,
    ) -> Option<u16> {
        let offset = random_bit(allowed & block.mask() & self.free(protocol), rng)?;
        self.used[protocol as usize] |= 1 << offset;
        Some(self.first + offset)
    }

    /// Marks a port as used; returns false if it already was.
    pub(super) fn occupy(&mut self, protocol: Protocol, port: u16) -> bool {
        let used = &mut self.used[protocol as usize];
        let was_free = *used & bit(port) == 0;
        *used |= bit(port);
        was_free
    }

    /// Marks a port as unused.
    pub(super) fn vacate(&mut self, protocol: Protocol, port: u16) {
        self.used[protocol as usize] &= !bit(port);
    }

    /// Keeps a port from being picked for UDP until its quarantine ends.
    pub(super) fn quarantine(&mut self, port: u16) {
        self.quarantined |= bit(port);
    }

    pub(super) fn end_quarantine(&mut self, port: u16) {
        self.quarantined &= !bit(port);
    }

    /// Keeps a port from being picked; returns false if it is in use.
    pub(super) fn reserve(&mut self, protocol: Protocol, port: u16) -> bool {
        let is_unused = self.used[protocol as usize] & bit(port) == 0;
        if is_unused {
            self.reserved[protocol as usize] |= bit(port);
        }
        is_unused
    }

    /// Lets a reserved port be picked again.
    pub(super) fn unreserve(&mut self, protocol: Protocol, port: u16) {
        self.reserved[protocol as usize] &= !bit(port);
    }

    /// Iterates over the used ports of a block.
    pub(super) fn in_use(&self, block: Block, protocol: Protocol) -> impl Iterator<Item = u16> {
        let used = self.used[protocol as usize];
        (block.first()..=block.last()).filter(move |port| used & bit(*port) != 0)
    }

    /// Returns whether a port can be picked.
    pub(super) fn is_free(&self, protocol: Protocol, port: u16) -> bool {
        self.free(protocol) & bit(port) != 0
    }

    fn free(&self, protocol: Protocol) -> u64 {
        let quarantined = match protocol {
            Protocol::Udp => self.quarantined,
            Protocol::Tcp | Protocol::Echo => 0,
        };
        !(self.used[protocol as usize] | self.reserved[protocol as usize] | quarantined)
    }

    fn busy(&self) -> u64 {
        let used = self.used.iter().fold(0, |all, used| all | used);
        used | self.quarantined
    }
}

fn bit(port: u16) -> u64 {
    1 << (port % BLOCK_SIZE)
}

/// Returns the first ports of all blocks of a size as a bit set.
fn first_ports(size: u16) -> u64 {
    match size {
        1 => u64::MAX,
        4 => 0x1111_1111_1111_1111,
        16 => 0x0001_0001_0001_0001,
        _ => 1,
    }
}

/// Returns the position of a random bit of a set.
fn random_bit(mut set: u64, rng: &mut StdRng) -> Option<u16> {
    if set == 0 {
        return None;
    }
    for _ in 0..rng.random_range(0..set.count_ones()) {
        set &= set - 1;
    }
    Some(set.trailing_zeros() as u16)
}
