//! Which ports of the LAN address are whose.
//!
//! Ports are given out in blocks of [`BLOCK`]: a client's ports lie together, so one log line says
//! who had them (RFC 6888 REQ-14). Shards own whole blocks, in turns, so that a port says whose it
//! is and each shard has some of the ports below 1024. A block belongs to a client for all
//! protocols and, being an address, for its family; so as many inner addresses can have flows at a
//! time as there are blocks, 1,024. Inside a client's blocks the choice is random (RFC 6056).
//! Nothing here knows what a port is used for.

use super::endpoint::{Family, Outside, Protocol};
use crate::ids::Shard;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Ports in a block; block `n` begins at port `n * BLOCK`.
pub const BLOCK: u16 = 64;

/// Blocks of all 65,536 ports.
pub const BLOCKS: u16 = 1024;

/// How long a freed UDP port is given to nobody (RFC 6888 REQ-8).
pub const REST: Duration = Duration::from_secs(120);

/// The class of ports that begins here is not to be mixed with the one below (RFC 4787 REQ-3a).
const UNPRIVILEGED: u16 = 1024;

const NOBODY: u32 = u32::MAX;

/// A block that is free again, and who had it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Freed {
    pub client: u32,
    pub block: u16,
}

#[derive(Debug, Clone)]
struct Block {
    owner: u32,
    used: [u64; Protocol::COUNT],
    resting: u64,
    /// Forwarded: for nobody's choice.
    reserved: [u64; Protocol::COUNT],
}

/// The port blocks of one shard.
#[derive(Debug)]
pub(super) struct Ports {
    blocks: Vec<Block>,
    /// Those that the blocks above stand for, as far as they are this shard's.
    owned: Range<u16>,
    shard: Shard,
    rest: VecDeque<(Instant, u16)>,
    rng: StdRng,
}

impl Ports {
    pub(super) fn new(owned: Range<u16>, shard: Shard, seed: u64) -> Self {
        let owned = owned.start.min(BLOCKS)..owned.end.min(BLOCKS);
        let free = Block {
            owner: NOBODY,
            used: [0; Protocol::COUNT],
            resting: 0,
            reserved: [0; Protocol::COUNT],
        };
        Self {
            blocks: vec![free; owned.len()],
            owned,
            shard,
            rest: VecDeque::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// A free port of a client that holds the blocks `held`. In order: one of its own with the
    /// parity of its inner port, one of its own, one of a new block if it may have `most`.
    ///
    /// Ports below 1024 go to ports below 1024 while there are any; never the other way.
    pub(super) fn take(
        &mut self,
        client: u32,
        held: &mut Vec<u16>,
        most: u16,
        protocol: Protocol,
        inner: u16,
    ) -> Option<u16> {
        let parity = match protocol {
            Protocol::Echo => u64::MAX,
            _ if inner.is_multiple_of(2) => 0x5555_5555_5555_5555,
            _ => 0xAAAA_AAAA_AAAA_AAAA,
        };
        let privileged = 0..UNPRIVILEGED / BLOCK;
        let unprivileged = UNPRIVILEGED / BLOCK..BLOCKS;
        if protocol != Protocol::Echo && inner < UNPRIVILEGED {
            let port = self.take_in(privileged, client, held, most, protocol, parity);
            if port.is_some() {
                return port;
            }
        }
        self.take_in(unprivileged, client, held, most, protocol, parity)
    }

    /// The port is free again; UDP rests first. Returns the block if nothing of it is in use.
    pub(super) fn give_back(&mut self, outside: Outside, now: Instant) -> Option<Freed> {
        let number = outside.port / BLOCK;
        let block = self.block(number)?;
        let bit = 1 << (outside.port % BLOCK);
        block.used[outside.protocol as usize] &= !bit;
        if outside.protocol == Protocol::Udp {
            block.resting |= bit;
            self.rest.push_back((now + REST, outside.port));
        }
        self.release(number)
    }

    /// When the next port has rested.
    pub(super) fn next_rested(&self) -> Option<Instant> {
        self.rest.front().map(|(at, _)| *at)
    }

    /// Ends the rest of one port that has rested, if there is one: what became of its block.
    pub(super) fn end_rest(&mut self, now: Instant) -> Option<Option<Freed>> {
        let (at, port) = *self.rest.front()?;
        if at > now {
            return None;
        }
        self.rest.pop_front();
        if let Some(block) = self.block(port / BLOCK) {
            block.resting &= !(1 << (port % BLOCK));
        }
        Some(self.release(port / BLOCK))
    }

    /// The ports in use in a block of a client of this family.
    pub(super) fn in_use(
        &self,
        block: u16,
        family: Family,
    ) -> impl Iterator<Item = Outside> + use<> {
        let used = self
            .index(block)
            .map_or([0; Protocol::COUNT], |i| self.blocks[i].used);
        Protocol::ALL.into_iter().flat_map(move |protocol| {
            (0..BLOCK)
                .filter(move |bit| used[protocol as usize] & (1 << bit) != 0)
                .map(move |bit| Outside {
                    family,
                    protocol,
                    port: block * BLOCK + bit,
                })
        })
    }

    /// The ports that rest, and until when.
    pub(super) fn resting(&self) -> impl Iterator<Item = (u16, Instant)> + '_ {
        self.rest.iter().map(|(at, port)| (*port, *at))
    }

    /// Takes a port out of everybody's choice; false if it is somebody's now. A port of another
    /// shard is in nobody's choice here.
    pub(super) fn reserve(&mut self, outside: Outside) -> bool {
        let bit = 1 << (outside.port % BLOCK);
        match self.block(outside.port / BLOCK) {
            Some(b) if b.used[outside.protocol as usize] & bit == 0 => {
                b.reserved[outside.protocol as usize] |= bit;
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    /// The port can be chosen again.
    pub(super) fn unreserve(&mut self, outside: Outside) {
        if let Some(b) = self.block(outside.port / BLOCK) {
            b.reserved[outside.protocol as usize] &= !(1 << (outside.port % BLOCK));
        }
    }

    /// Whether a port may be chosen.
    #[cfg(test)]
    pub(super) fn is_free(&self, outside: Outside) -> bool {
        let bit = 1 << (outside.port % BLOCK);
        let block = self.index(outside.port / BLOCK).map(|i| &self.blocks[i]);
        block.is_some_and(|b| {
            (b.used[outside.protocol as usize] | b.reserved[outside.protocol as usize]) & bit == 0
        })
    }

    /// Gives a block to a client as it was before; false if it cannot be.
    pub(super) fn restore_block(&mut self, block: u16, client: u32) -> bool {
        match self.block(block) {
            Some(b) if b.owner == NOBODY => {
                b.owner = client;
                true
            }
            _ => false,
        }
    }

    /// Marks a port as used by the client who owns its block; false if it cannot be.
    pub(super) fn restore_port(&mut self, outside: Outside, client: u32) -> bool {
        let bit = 1 << (outside.port % BLOCK);
        match self.block(outside.port / BLOCK) {
            Some(b) if b.owner == client && b.used[outside.protocol as usize] & bit == 0 => {
                b.used[outside.protocol as usize] |= bit;
                true
            }
            _ => false,
        }
    }

    /// Lets a port rest until `at`, which must not be before that of an earlier call.
    pub(super) fn restore_rest(&mut self, port: u16, at: Instant) {
        if let Some(block) = self.block(port / BLOCK) {
            block.resting |= 1 << (port % BLOCK);
            self.rest.push_back((at, port));
        }
    }

    fn take_in(
        &mut self,
        class: Range<u16>,
        client: u32,
        held: &mut Vec<u16>,
        most: u16,
        protocol: Protocol,
        parity: u64,
    ) -> Option<u16> {
        for allowed in [parity, u64::MAX] {
            let start = match held.len() {
                0 => 0,
                n => self.rng.random_range(0..n),
            };
            let round = held[start..].iter().chain(&held[..start]);
            for &block in round.filter(|b| class.contains(b)) {
                if let Some(port) = self.pick(block, protocol, allowed) {
                    return Some(port);
                }
            }
        }
        if held.len() >= usize::from(most) {
            return None;
        }
        let block = self.free_block(class, protocol)?;
        self.block(block)?.owner = client;
        held.push(block);
        let port = self.pick(block, protocol, parity);
        port.or_else(|| self.pick(block, protocol, u64::MAX))
    }

    /// A random free port of a block.
    fn pick(&mut self, block: u16, protocol: Protocol, allowed: u64) -> Option<u16> {
        let index = self.index(block)?;
        let b = &mut self.blocks[index];
        let mut free = allowed & !b.used[protocol as usize] & !b.reserved[protocol as usize];
        if protocol == Protocol::Udp {
            free &= !b.resting;
        }
        if block == 0 {
            free &= !1; // port 0 is no port
        }
        if free == 0 {
            return None;
        }
        for _ in 0..self.rng.random_range(0..free.count_ones()) {
            free &= free - 1;
        }
        let bit = free.trailing_zeros() as u16;
        b.used[protocol as usize] |= 1 << bit;
        Some(block * BLOCK + bit)
    }

    /// The first free block from a random place on that has a port to choose.
    fn free_block(&mut self, class: Range<u16>, protocol: Protocol) -> Option<u16> {
        let from = class.start.max(self.owned.start);
        let to = class.end.min(self.owned.end);
        if from >= to {
            return None;
        }
        let start = self.rng.random_range(from..to);
        (start..to).chain(from..start).find(|n| {
            self.index(*n).is_some_and(|i| {
                let block = &self.blocks[i];
                block.owner == NOBODY && block.reserved[protocol as usize] != u64::MAX
            })
        })
    }

    /// Takes a block back of which nothing is in use.
    pub(super) fn release(&mut self, number: u16) -> Option<Freed> {
        let block = self.block(number)?;
        if block.owner == NOBODY || block.resting != 0 || block.used != [0; Protocol::COUNT] {
            return None;
        }
        let client = std::mem::replace(&mut block.owner, NOBODY);
        Some(Freed {
            client,
            block: number,
        })
    }

    fn index(&self, block: u16) -> Option<usize> {
        let index = usize::from(block.checked_sub(self.owned.start)?);
        let is_here = index < self.blocks.len() && self.shard.owns(block.into());
        is_here.then_some(index)
    }

    fn block(&mut self, block: u16) -> Option<&mut Block> {
        let index = self.index(block)?;
        self.blocks.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const ME: u32 = 7;

    fn all() -> Ports {
        Ports::new(0..BLOCKS, Shard::ALONE, 1)
    }

    #[test]
    fn rfc4787_req3a_the_class_of_the_port_is_kept() {
        let (mut ports, mut held) = (all(), Vec::new());
        for inner in [1, 53, 123, 1023] {
            let port = ports.take(ME, &mut held, 8, Protocol::Udp, inner).unwrap();
            assert!((1..1024).contains(&port));
        }
        for inner in [1024, 5060, 65535] {
            let port = ports.take(ME, &mut held, 8, Protocol::Udp, inner).unwrap();
            assert!(port >= 1024);
        }
    }

    #[test]
    fn rfc4787_req4_parity_is_kept_where_free() {
        let (mut ports, mut held) = (all(), Vec::new());
        for inner in 5000..5064 {
            let port = ports.take(ME, &mut held, 1, Protocol::Udp, inner).unwrap();
            assert_eq!(port % 2, inner % 2);
        }
        assert_eq!(ports.take(ME, &mut held, 1, Protocol::Udp, 5000), None);
        let (mut ports, mut held) = (all(), Vec::new());
        let given: HashSet<_> = (0..64)
            .filter_map(|i| ports.take(ME, &mut held, 1, Protocol::Tcp, 5000 + 2 * i))
            .collect();
        assert_eq!(
            given.len(),
            64,
            "the other parity serves when this one is used up"
        );
    }

    #[test]
    fn rfc6056_rfc6888_req15_the_choice_is_random_inside_the_block() {
        let firsts: HashSet<_> = (0..200)
            .map(|seed| {
                let port = Ports::new(32..33, Shard::ALONE, seed).take(
                    ME,
                    &mut Vec::new(),
                    1,
                    Protocol::Tcp,
                    4000,
                );
                port.unwrap()
            })
            .collect();
        assert!(firsts.len() > 20, "only {} of 32 even ports", firsts.len());
        let blocks: HashSet<_> = (0..200)
            .map(|seed| {
                let port = Ports::new(0..BLOCKS, Shard::ALONE, seed).take(
                    ME,
                    &mut Vec::new(),
                    1,
                    Protocol::Tcp,
                    4000,
                );
                port.unwrap() / BLOCK
            })
            .collect();
        assert!(blocks.len() > 100, "only {} blocks", blocks.len());
    }

    #[test]
    fn rfc6888_req4_a_client_gets_no_more_blocks_than_it_may_and_never_another_one_s() {
        let (mut ports, mut mine, mut theirs) = (
            Ports::new(100..103, Shard::ALONE, 3),
            Vec::new(),
            Vec::new(),
        );
        let count = |ports: &mut Ports, who, held: &mut Vec<u16>| {
            (0..1000)
                .map_while(|_| ports.take(who, held, 2, Protocol::Tcp, 40000))
                .count()
        };
        assert_eq!(count(&mut ports, 1, &mut mine), 128);
        assert_eq!(count(&mut ports, 2, &mut theirs), 64);
        assert!(mine.iter().all(|b| !theirs.contains(b)));
        let freed = ports.in_use(mine[0], Family::V4).collect::<Vec<_>>();
        assert_eq!(freed.len(), 64);
        let now = Instant::now();
        let released: Vec<_> = freed
            .into_iter()
            .filter_map(|o| ports.give_back(o, now))
            .collect();
        assert_eq!(
            released,
            [Freed {
                client: 1,
                block: mine[0]
            }]
        );
        assert_eq!(count(&mut ports, 2, &mut theirs), 64);
    }

    #[test]
    fn rfc6888_req8_a_freed_udp_port_rests_120_seconds() {
        let now = Instant::now();
        let (mut ports, mut held) = (Ports::new(20..21, Shard::ALONE, 9), Vec::new());
        let mut take = |ports: &mut Ports| ports.take(ME, &mut held, 1, Protocol::Udp, 2000);
        let given: Vec<_> = std::iter::from_fn(|| take(&mut ports)).collect();
        assert_eq!(given.len(), 64);
        let freed = Outside {
            family: Family::V4,
            protocol: Protocol::Udp,
            port: given[5],
        };
        assert_eq!(ports.give_back(freed, now), None);
        assert_eq!(take(&mut ports), None);
        let almost = now + REST - Duration::from_millis(1);
        assert_eq!(ports.end_rest(almost), None);
        assert_eq!(take(&mut ports), None);
        assert_eq!(ports.next_rested(), Some(now + REST));
        assert_eq!(ports.end_rest(now + REST), Some(None));
        assert_eq!(take(&mut ports), Some(given[5]));
    }

    #[test]
    fn shards_have_no_port_in_common_and_all_have_low_ones() {
        let mut all = HashSet::new();
        for shard in Shard::all(3) {
            let (mut ports, mut held) = (Ports::new(0..BLOCKS, shard, 11), Vec::new());
            for inner in [22, 4000] {
                let port = ports.take(ME, &mut held, 64, Protocol::Tcp, inner).unwrap();
                assert_eq!(port < 1024, inner < 1024);
            }
            for _ in 0..1000 {
                let port = ports.take(ME, &mut held, 64, Protocol::Tcp, 4000).unwrap();
                assert!(shard.owns((port / BLOCK).into()));
                assert!(all.insert(port));
            }
        }
    }
}
