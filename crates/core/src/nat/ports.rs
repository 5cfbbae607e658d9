//! Allocation of the ports of one LAN address to clients.
//!
//! Clients get ports in blocks, so that one log line covers many ports (RFC 6888 REQ-14). A block
//! belongs to one client, an inner address, for all protocols. Ports from 1024 are given in blocks of
//! 64 while many are left, and in smaller ones as they become few; then idle parts of blocks return
//! too ([`Ports::trim`]). Ports below 1024 are rare and wanted one at a time, and are given singly.
//!
//! No peer uses up the ports: it gets at most half as many as remain for others, and an eighth of all
//! ports remains for peers that have few ([`Ports::is_fair`]). No port in use is ever taken away.
//!
//! Shards share all ports: the port alone determines the shard ([`owner_of_port`]). Inside a client's
//! blocks the choice is random (RFC 6056). The allocator does not know what a port is used for.

use super::block::{BLOCK_SIZE, Block};
use super::endpoint::{ClientId, Protocol};
use super::group::{Group, OwnedBlock, Trimmed};
use crate::ids::ShardId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::ops::Range;

/// The number of groups of [`BLOCK_SIZE`] ports in a port space of 65,536 ports.
pub const BLOCK_COUNT: u16 = 1024;

/// The first port that is not privileged.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// The number of consecutive privileged ports of a shard: each shard has both parities.
const PRIVILEGED_RUN: u16 = 2;

/// The ports with an even offset in a group.
const EVEN_PORTS: u64 = 0x5555_5555_5555_5555;

/// The number of idle ports that one trim returns.
const TRIM_TARGET: u32 = 256;

/// A peer has at most the ports that remain for others, divided by this.
const FAIR_DIVISOR: u32 = 2;

/// The part of all ports that is left to peers with few ports is one divided by this.
const RESERVE_DIVISOR: u32 = 8;

/// Returns the number of the shard that owns a port of a shared LAN address.
pub(crate) fn owner_of_port(shard: ShardId, port: u16) -> u8 {
    let unit = match port < FIRST_UNPRIVILEGED {
        true => port / PRIVILEGED_RUN,
        false => port / BLOCK_SIZE,
    };
    shard.owner(unit.into())
}

/// Returns the maximum number of ports from 1024 of a family per peer for this number of shards.
pub fn max_ports_per_peer(shards: u8) -> u16 {
    let blocks = (BLOCK_COUNT - FIRST_UNPRIVILEGED / BLOCK_SIZE) / u16::from(shards.max(1));
    let ports = u32::from(blocks) * u32::from(BLOCK_SIZE);
    ((ports - ports / RESERVE_DIVISOR) / (FAIR_DIVISOR + 1)) as u16
}

/// Returns the maximum number of shards with which a peer can have this number of ports, at least
/// one.
pub fn max_shards(ports: u16) -> u8 {
    let enough = |shards: &u8| max_ports_per_peer(*shards) >= ports;
    (1..=ShardId::MAX).rev().find(enough).unwrap_or(1)
}

/// The classes of ports, which are not mixed (RFC 4787 REQ-3a).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Below 1024.
    Privileged,
    /// From 1024.
    Unprivileged,
}

impl Class {
    pub(super) const COUNT: usize = 2;

    pub(super) fn of(port: u16) -> Self {
        match port < FIRST_UNPRIVILEGED {
            true => Self::Privileged,
            false => Self::Unprivileged,
        }
    }

    fn groups(self) -> Range<u16> {
        match self {
            Self::Privileged => 0..FIRST_UNPRIVILEGED / BLOCK_SIZE,
            Self::Unprivileged => FIRST_UNPRIVILEGED / BLOCK_SIZE..BLOCK_COUNT,
        }
    }
}

/// A request for a port.
#[derive(Debug)]
pub(super) struct PortRequest<'a> {
    pub client: ClientId,
    pub protocol: Protocol,
    /// The port of the client's own endpoint.
    pub inner: u16,
    /// The client's blocks; one may be added.
    pub blocks: &'a mut Vec<Block>,
    /// Maximum number of further ports of the client.
    pub max_ports: u16,
    /// The ports of the client's peer, by [`Class`].
    pub of_peer: [u32; Class::COUNT],
    /// Whether the inner port itself is preferred, because no other peer uses the LAN address.
    pub preserve: bool,
}

/// The ports of one LAN address that one shard may assign.
#[derive(Debug)]
pub(super) struct Ports {
    groups: Vec<Group>,
    /// The number of the first group.
    first_group: u16,
    shard: ShardId,
    /// For each group, the ports that a restart has moved to or from this shard; empty if no block
    /// has moved.
    moved: Vec<u64>,
    /// For each class, the number of ports that belong to no block, and the number of all ports.
    unowned: [u32; Class::COUNT],
    total: [u32; Class::COUNT],
    /// The group that is trimmed next.
    next_trimmed: usize,
    /// Whether the last trim found nothing, and no port was released since.
    is_trimmed: bool,
    rng: StdRng,
}

impl Ports {
    /// Returns the ports in these groups that belong to a shard.
    pub(super) fn new(groups: Range<u16>, shard: ShardId, seed: u64) -> Self {
        let range = groups.start.min(BLOCK_COUNT)..groups.end.min(BLOCK_COUNT);
        let is_owned = |port: &u16| *port != 0 && owner_of_port(shard, *port) == shard.number();
        let group = |number: u16| {
            let first = number * BLOCK_SIZE;
            let owned = (0..BLOCK_SIZE).filter(|offset| is_owned(&(first + offset)));
            Group::new(first, owned.fold(0, |all, offset| all | 1 << offset))
        };
        let mut ports = Self {
            groups: range.clone().map(group).collect(),
            first_group: range.start,
            shard,
            moved: Vec::new(),
            unowned: [0; Class::COUNT],
            total: [0; Class::COUNT],
            next_trimmed: 0,
            is_trimmed: false,
            rng: StdRng::seed_from_u64(seed),
        };
        for class in [Class::Privileged, Class::Unprivileged] {
            let groups = &ports.groups[ports.indices(class)];
            ports.total[class as usize] = groups.iter().map(Group::unowned_count).sum();
        }
        ports.unowned = ports.total;
        ports
    }

    /// Takes a free port for a client. In order of preference: a port of the client's own blocks with
    /// the parity of the inner port, another port of those blocks, a port of an additional block.
    ///
    /// Ports below 1024 are mapped to ports below 1024 while any are free; never the other way.
    pub(super) fn take(&mut self, request: &mut PortRequest<'_>) -> Option<u16> {
        if request.preserve
            && let Some(port) = self.take_same(request)
        {
            return Some(port);
        }
        let is_privileged =
            request.protocol != Protocol::Echo && Class::of(request.inner) == Class::Privileged;
        if is_privileged && let Some(port) = self.take_in(Class::Privileged, request) {
            return Some(port);
        }
        self.take_in(Class::Unprivileged, request)
    }

    /// Releases a port, which goes into quarantine if `is_quarantined`. Returns its block if that is
    /// released too.
    pub(super) fn give_back(
        &mut self,
        protocol: Protocol,
        port: u16,
        is_quarantined: bool,
    ) -> Option<OwnedBlock> {
        let group = self.group(port)?;
        group.vacate(protocol, port);
        if is_quarantined {
            group.quarantine(port);
        }
        self.release(port)
    }

    /// Puts a port into quarantine.
    pub(super) fn quarantine(&mut self, port: u16) {
        if let Some(group) = self.group(port) {
            group.quarantine(port);
        }
    }

    /// Ends the quarantine of a port. Returns its block if that is released.
    pub(super) fn end_quarantine(&mut self, port: u16) -> Option<OwnedBlock> {
        self.group(port)?.end_quarantine(port);
        self.release(port)
    }

    /// Takes the block of a port from its owner if none of its ports is in use or in quarantine.
    pub(super) fn release(&mut self, port: u16) -> Option<OwnedBlock> {
        self.is_trimmed = false;
        let group = self.group(port)?;
        let owned = group.block_of(port)?;
        group.is_idle(owned.block).then(|| {
            self.abandon(owned.block);
            owned
        })
    }

    /// Returns the client that owns the block of a port.
    pub(super) fn owner(&self, port: u16) -> Option<ClientId> {
        let owned = self.groups[self.index(port)?].block_of(port);
        owned.map(|owned| owned.client)
    }

    /// Takes a block without ports in use from its owner, although some may be in quarantine.
    pub(super) fn abandon(&mut self, block: Block) {
        if let Some(group) = self.group(block.first()) {
            group.take_back(block);
            self.unowned[Class::of(block.first()) as usize] += u32::from(block.size());
        }
    }

    /// Returns idle parts of blocks, because a client found no port: at least [`TRIM_TARGET`] ports if
    /// there are as many. Blocks are divided no further than necessary.
    pub(super) fn trim(&mut self) -> Vec<Trimmed> {
        let indices = self.indices(Class::Unprivileged);
        let (mut trimmed, mut freed) = (Vec::new(), 0);
        if self.is_trimmed {
            return trimmed;
        }
        for size in Block::SIZES.into_iter().skip(1) {
            for _ in indices.clone() {
                if freed >= TRIM_TARGET {
                    break;
                }
                self.next_trimmed = (self.next_trimmed + 1) % indices.len();
                let group = &mut self.groups[indices.start + self.next_trimmed];
                let before = group.unowned_count();
                trimmed.extend(group.trim(size));
                freed += group.unowned_count() - before;
            }
        }
        self.unowned[Class::Unprivileged as usize] += freed;
        self.is_trimmed = trimmed.is_empty();
        trimmed
    }

    /// Iterates over the ports in use in a block.
    pub(super) fn in_use(&self, block: Block) -> Vec<(Protocol, u16)> {
        let group = self.index(block.first()).map(|index| &self.groups[index]);
        let of = |group: &Group, protocol| {
            let ports = group.in_use(block, protocol);
            ports.map(|port| (protocol, port)).collect::<Vec<_>>()
        };
        let group = group.into_iter();
        group
            .flat_map(|group| Protocol::ALL.into_iter().flat_map(move |p| of(group, p)))
            .collect()
    }

    /// Keeps a port from being assigned; returns false if it is in use. Ports of other shards are
    /// never assigned here.
    pub(super) fn reserve(&mut self, protocol: Protocol, port: u16) -> bool {
        self.group(port)
            .is_none_or(|group| group.reserve(protocol, port))
    }

    /// Lets a reserved port be assigned again.
    pub(super) fn unreserve(&mut self, protocol: Protocol, port: u16) {
        if let Some(group) = self.group(port) {
            group.unreserve(protocol, port);
        }
    }

    /// Returns whether a port can be assigned.
    #[cfg(test)]
    pub(super) fn is_free(&mut self, protocol: Protocol, port: u16) -> bool {
        self.group(port)
            .is_some_and(|group| group.is_free(protocol, port))
    }

    /// Gives a block without a client to this shard or to another one, whatever its number says.
    pub(super) fn move_block(&mut self, block: Block, is_ours: bool) {
        let group = (block.first() / BLOCK_SIZE).checked_sub(self.first_group);
        let index = group.map_or(usize::MAX, usize::from);
        if index >= self.groups.len() || self.is_owned(index, block.first()) == is_ours {
            return;
        }
        self.moved.resize(self.groups.len(), 0);
        self.moved[index] ^= block.mask();
        self.groups[index].set_assignable(block, is_ours);
        let class = Class::of(block.first()) as usize;
        let size = u32::from(block.size());
        for count in [&mut self.unowned[class], &mut self.total[class]] {
            *count = match is_ours {
                true => *count + size,
                false => *count - size,
            };
        }
    }

    /// Gives a block of a snapshot to a client; returns false if that is not possible.
    pub(super) fn restore_block(&mut self, owned: OwnedBlock) -> bool {
        let first = owned.block.first();
        let is_restored = self.group(first).is_some_and(|group| group.give(owned));
        if is_restored {
            self.unowned[Class::of(first) as usize] -= u32::from(owned.block.size());
        }
        is_restored
    }

    /// Marks a port of a snapshot as used by the owner of its block; returns false if that is not
    /// possible.
    pub(super) fn restore_port(&mut self, protocol: Protocol, port: u16, client: ClientId) -> bool {
        let group = self.group(port);
        group.is_some_and(|group| {
            let owner = group.block_of(port).map(|owned| owned.client);
            owner == Some(client) && group.occupy(protocol, port)
        })
    }

    /// Takes the inner port itself if it is free, from an additional block if necessary.
    fn take_same(&mut self, request: &mut PortRequest<'_>) -> Option<u16> {
        let (client, protocol, port) = (request.client, request.protocol, request.inner);
        let group = self.group(port)?;
        if port == 0 || !group.is_free(protocol, port) {
            return None;
        }
        match group.block_of(port) {
            Some(owned) if owned.client != client => return None,
            Some(_) => {}
            None => {
                let sizes = Block::SIZES.into_iter();
                let mut blocks = sizes.map(|size| Block::around(port, size));
                let block = blocks.find(|block| {
                    let owned = OwnedBlock {
                        client,
                        block: *block,
                    };
                    block.size() <= request.max_ports && self.restore_block(owned)
                })?;
                request.blocks.push(block);
            }
        }
        self.group(port)?.occupy(protocol, port);
        Some(port)
    }

    fn take_in(&mut self, class: Class, request: &mut PortRequest<'_>) -> Option<u16> {
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
            let mut round = tail.iter().chain(head);
            let port = round.find_map(|block| {
                let is_of_class = Class::of(block.first()) == class;
                is_of_class.then(|| self.pick(*block, request.protocol, allowed))?
            });
            if port.is_some() {
                return port;
            }
            // A single port of the right parity is preferred to the client's own port of the other
            // parity.
            if class == Class::Privileged
                && allowed == parity
                && let Some(port) = self.take_in_new_block(class, request, parity)
            {
                return Some(port);
            }
        }
        self.take_in_new_block(class, request, parity)
    }

    fn take_in_new_block(
        &mut self,
        class: Class,
        request: &mut PortRequest<'_>,
        parity: u64,
    ) -> Option<u16> {
        let block = self.find_unowned(class, request, parity)?;
        let client = request.client;
        self.restore_block(OwnedBlock { client, block });
        request.blocks.push(block);
        let port = self.pick(block, request.protocol, parity);
        port.or_else(|| self.pick(block, request.protocol, u64::MAX))
    }

    /// Finds the largest available block that the client may have.
    fn find_unowned(
        &mut self,
        class: Class,
        request: &PortRequest<'_>,
        parity: u64,
    ) -> Option<Block> {
        let of_peer = request.of_peer[class as usize];
        let largest = self.block_size(class).min(request.max_ports);
        for size in Block::SIZES {
            if size > largest || !self.is_fair(class, of_peer, size) {
                continue;
            }
            // Parity decides among single ports only; a larger block has both.
            let of_parity = self.find_block(class, size, request.protocol, parity);
            let block =
                of_parity.or_else(|| self.find_block(class, size, request.protocol, u64::MAX));
            if block.is_some() {
                return block;
            }
        }
        None
    }

    /// Returns whether a peer may have further ports. The first one is always fair.
    fn is_fair(&self, class: Class, of_peer: u32, further: u16) -> bool {
        let then = of_peer + u32::from(further);
        let few = match class {
            Class::Privileged => 4,
            Class::Unprivileged => u32::from(BLOCK_SIZE),
        };
        let reserve = match then <= few {
            true => 0,
            false => self.total[class as usize] / RESERVE_DIVISOR,
        };
        let available = self.unowned[class as usize].saturating_sub(reserve);
        of_peer == 0 || then * FAIR_DIVISOR <= available
    }

    /// Finds an available block of a size, after a random position and first in groups of which
    /// others have parts.
    fn find_block(
        &mut self,
        class: Class,
        size: u16,
        protocol: Protocol,
        allowed: u64,
    ) -> Option<Block> {
        let indices = self.indices(class);
        if indices.is_empty() {
            return None;
        }
        let start = self.rng.random_range(indices.clone());
        let (groups, rng) = (&self.groups, &mut self.rng);
        for fragmented in [true, false] {
            if fragmented && size == BLOCK_SIZE {
                continue;
            }
            let round = (start..indices.end).chain(indices.start..start);
            let mut round = round.map(|index| &groups[index]);
            let block = round.find_map(|group| {
                let is_wanted = class == Class::Privileged || group.is_fragmented() == fragmented;
                is_wanted.then(|| group.find_unowned(size, protocol, allowed, rng))?
            });
            if block.is_some() {
                return block;
            }
        }
        None
    }

    /// Returns the size in which blocks of a class are given now.
    fn block_size(&self, class: Class) -> u16 {
        let (unowned, total) = (self.unowned[class as usize], self.total[class as usize]);
        match class {
            Class::Privileged => 1,
            Class::Unprivileged if unowned >= total / 4 => BLOCK_SIZE,
            Class::Unprivileged if unowned >= total / 8 => 16,
            Class::Unprivileged if unowned >= total / 16 => 4,
            Class::Unprivileged => 1,
        }
    }

    fn pick(&mut self, block: Block, protocol: Protocol, allowed: u64) -> Option<u16> {
        let index = self.index(block.first())?;
        self.groups[index].pick(block, protocol, allowed, &mut self.rng)
    }

    /// Returns the indices of the groups of a class.
    fn indices(&self, class: Class) -> Range<usize> {
        let (first, count) = (self.first_group, self.groups.len() as u16);
        let index = |number: u16| usize::from(number.clamp(first, first + count) - first);
        let Range { start, end } = class.groups();
        index(start)..index(end)
    }

    /// Returns whether this shard owns a port of a group.
    fn is_owned(&self, index: usize, port: u16) -> bool {
        let is_moved = self
            .moved
            .get(index)
            .is_some_and(|moved| moved >> (port % BLOCK_SIZE) & 1 != 0);
        (owner_of_port(self.shard, port) == self.shard.number()) != is_moved
    }

    fn index(&self, port: u16) -> Option<usize> {
        let index = usize::from((port / BLOCK_SIZE).checked_sub(self.first_group)?);
        (index < self.groups.len() && self.is_owned(index, port)).then_some(index)
    }

    fn group(&mut self, port: u16) -> Option<&mut Group> {
        let index = self.index(port)?;
        self.groups.get_mut(index)
    }
}
