//! The identifications of datagrams in pieces, which say what belongs together (RFC 6864): those of
//! all clients are given out anew, so that no two meet behind the LAN address.

use crate::ids::Shard;

/// The identifications that are not given yet. Each shard has a part of the 16 bits of IPv4.
#[derive(Debug)]
pub(super) struct Identifications {
    next: u32,
    shard: Shard,
}

impl Identifications {
    pub(super) fn new(shard: Shard, next: u32) -> Self {
        Self { next, shard }
    }

    /// The first of so many in a row.
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let bits = 16 - self.shard.bits();
        let part = 1 << bits;
        if self.next % part + count > part {
            self.next = (self.next | (part - 1)).wrapping_add(1);
        }
        let next = self.next;
        self.next = next.wrapping_add(count);
        (next >> bits << 16) | (u32::from(self.shard.number()) << bits) | (next % part)
    }
}
