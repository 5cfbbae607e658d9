//! One block of ports as bit sets: used, quarantined and reserved ports.
//!
//! It knows its owner, but not the number of the block or what a port is used for.

use super::endpoint::{ClientId, Protocol};
use rand::RngExt;
use rand::rngs::StdRng;

/// The number of ports in a block; block `n` begins at port `n * BLOCK_SIZE`.
pub const BLOCK_SIZE: u16 = 64;

/// The number of a block among all blocks of a LAN address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockNumber(pub u16);

impl BlockNumber {
    /// Returns the block that contains a port.
    pub(super) fn of(port: u16) -> Self {
        Self(port / BLOCK_SIZE)
    }

    /// Returns the port at this offset in the block.
    pub(super) fn port(self, offset: u16) -> u16 {
        self.0 * BLOCK_SIZE + offset
    }
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub owner: Option<ClientId>,
    used: [u64; Protocol::COUNT],
    quarantined: u64,
    /// Ports that are never picked: forwarded ones, and port 0.
    reserved: [u64; Protocol::COUNT],
}

impl Block {
    /// Returns a block without an owner.
    pub(super) fn new(number: BlockNumber) -> Self {
        // Port 0 is not usable.
        let reserved = u64::from(number == BlockNumber(0));
        Self {
            owner: None,
            used: [0; Protocol::COUNT],
            quarantined: 0,
            reserved: [reserved; Protocol::COUNT],
        }
    }

    /// Returns whether the block has no owner and a free port.
    pub(super) fn is_available(&self, protocol: Protocol) -> bool {
        self.owner.is_none() && self.free(protocol) != 0
    }

    /// Returns whether no port is in use.
    pub(super) fn is_unused(&self) -> bool {
        self.used == [0; Protocol::COUNT]
    }

    /// Returns whether a port is in quarantine.
    pub(super) fn has_quarantine(&self) -> bool {
        self.quarantined != 0
    }

    /// Picks a random free port among the `allowed` ones, marks it as used and returns its offset in
    /// the block.
    pub(super) fn pick(
        &mut self,
        protocol: Protocol,
        allowed: u64,
        rng: &mut StdRng,
    ) -> Option<u16> {
        let mut free = allowed & self.free(protocol);
        if free == 0 {
            return None;
        }
        for _ in 0..rng.random_range(0..free.count_ones()) {
            free &= free - 1;
        }
        let offset = free.trailing_zeros() as u16;
        self.used[protocol as usize] |= 1 << offset;
        Some(offset)
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

    /// Iterates over the offsets of the used ports.
    pub(super) fn in_use(&self, protocol: Protocol) -> impl Iterator<Item = u16> + use<> {
        let used = self.used[protocol as usize];
        (0..BLOCK_SIZE).filter(move |offset| used & bit(*offset) != 0)
    }

    /// Returns whether a port can be picked.
    #[cfg(test)]
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
}

fn bit(port: u16) -> u64 {
    1 << (port % BLOCK_SIZE)
}
