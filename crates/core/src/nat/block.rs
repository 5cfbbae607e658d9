//! One block of ports, as bit sets: which of them are used, which rest, which are reserved. Whose
//! a port is and where the block lies, nothing here knows.

use super::endpoint::Protocol;
use rand::RngExt;
use rand::rngs::StdRng;

/// Ports in a block; block `n` begins at port `n * BLOCK_SIZE`.
pub const BLOCK_SIZE: u16 = 64;

/// The owner of a block that nobody has.
pub(super) const NO_CLIENT: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub owner: u32,
    used: [u64; Protocol::COUNT],
    quarantined: u64,
    /// Forwarded, or no port: for nobody's choice.
    reserved: [u64; Protocol::COUNT],
}

impl Block {
    /// Nobody's.
    pub(super) fn new(number: u16) -> Self {
        // Port 0 is no port.
        let reserved = u64::from(number == 0);
        Self {
            owner: NO_CLIENT,
            used: [0; Protocol::COUNT],
            quarantined: 0,
            reserved: [reserved; Protocol::COUNT],
        }
    }

    /// Whether it is nobody's and has a port to choose.
    pub(super) fn is_available(&self, protocol: Protocol) -> bool {
        self.owner == NO_CLIENT && self.free(protocol) != 0
    }

    /// Whether none of its ports is used.
    pub(super) fn is_unused(&self) -> bool {
        self.used == [0; Protocol::COUNT]
    }

    /// Whether one of its ports rests.
    pub(super) fn is_quarantined(&self) -> bool {
        self.quarantined != 0
    }

    /// A random free port among the `allowed`, used from now on: its place in the block.
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
        let place = free.trailing_zeros() as u16;
        self.used[protocol as usize] |= 1 << place;
        Some(place)
    }

    /// Marks a port as used; false if it was.
    pub(super) fn occupy(&mut self, protocol: Protocol, port: u16) -> bool {
        let used = &mut self.used[protocol as usize];
        let free = *used & bit(port) == 0;
        *used |= bit(port);
        free
    }

    /// The port is used no longer.
    pub(super) fn vacate(&mut self, protocol: Protocol, port: u16) {
        self.used[protocol as usize] &= !bit(port);
    }

    /// UDP does not choose the port until its rest has ended.
    pub(super) fn quarantine(&mut self, port: u16) {
        self.quarantined |= bit(port);
    }

    pub(super) fn end_quarantine(&mut self, port: u16) {
        self.quarantined &= !bit(port);
    }

    /// Takes a port out of everybody's choice; false if it is used.
    pub(super) fn reserve(&mut self, protocol: Protocol, port: u16) -> bool {
        let free = self.used[protocol as usize] & bit(port) == 0;
        if free {
            self.reserved[protocol as usize] |= bit(port);
        }
        free
    }

    /// The port can be chosen again.
    pub(super) fn unreserve(&mut self, protocol: Protocol, port: u16) {
        self.reserved[protocol as usize] &= !bit(port);
    }

    /// The places of its used ports.
    pub(super) fn in_use(&self, protocol: Protocol) -> impl Iterator<Item = u16> + use<> {
        let used = self.used[protocol as usize];
        (0..BLOCK_SIZE).filter(move |place| used & bit(*place) != 0)
    }

    /// Whether a port can be chosen.
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
