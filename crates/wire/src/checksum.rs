//! Incremental updates of Internet checksums (RFC 1624).
//!
//! Nothing here recomputes a checksum over a payload: a packet that arrived with a bad checksum
//! still has a bad one after any number of rewrites.

use smoltcp::wire::checksum::combine;
use std::net::IpAddr;

/// The state of a packet's L4 checksum field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The field holds the final checksum.
    Complete,
    /// The field holds the folded pseudo-header sum, not complemented, and the device completes it
    /// (virtio `NEEDS_CSUM`). It depends on the addresses, the protocol and the length only.
    Partial,
}

/// The change that rewrites make to a ones' complement sum. Changes add up in any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// Adds the change of a 16-bit word at an even offset.
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(combine(&[self.0, !old, new]))
    }

    /// Adds the change of one byte. `odd` is true for the low half of a 16-bit word.
    #[must_use]
    pub fn byte(self, odd: bool, old: u8, new: u8) -> Self {
        let shift = if odd { 0 } else { 8 };
        self.word(u16::from(old) << shift, u16::from(new) << shift)
    }

    /// Adds the change from one address to another of the same family.
    #[must_use]
    pub fn address(self, old: IpAddr, new: IpAddr) -> Self {
        let fold = |ip: IpAddr| match ip {
            IpAddr::V4(a) => smoltcp::wire::checksum::data(&a.octets()),
            IpAddr::V6(a) => smoltcp::wire::checksum::data(&a.octets()),
        };
        self.word(fold(old), fold(new))
    }

    /// Adds another change.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(combine(&[self.0, other.0]))
    }

    /// Returns the change that undoes this one.
    #[must_use]
    pub fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// Returns the checksum field after the rewrite (RFC 1624, equation 3).
    pub fn apply(self, field: u16) -> u16 {
        !combine(&[!field, self.0])
    }

    /// Returns a partial sum (not complemented) after the rewrite.
    pub fn apply_partial(self, field: u16) -> u16 {
        combine(&[field, self.0])
    }

    /// Returns a UDP checksum field after the rewrite: 0 means "none" and stays, a computed 0 is
    /// written as 0xFFFF (RFC 768, RFC 3022 section 4.1).
    pub fn apply_udp(self, field: u16) -> u16 {
        match field {
            0 => 0,
            field => match self.apply(field) {
                0 => 0xFFFF,
                new => new,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(bytes: &[u8]) -> u16 {
        !smoltcp::wire::checksum::data(bytes)
    }

    /// Compares in ones' complement, where 0x0000 and 0xFFFF are the same number.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xFFFF) || (a == 0xFFFF && b == 0)
    }

    proptest! {
        #[test]
        fn rfc1624_an_incremental_update_equals_a_new_checksum(mut bytes in prop::collection::vec(any::<u8>(), 2..64),
                                       edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..16)) {
            let field = full(&bytes);
            let mut delta = Delta::default();
            for (at, new) in edits {
                let at = at % bytes.len();
                delta = delta.byte(at % 2 == 1, bytes[at], new);
                bytes[at] = new;
            }
            prop_assert!(same(delta.apply(field), full(&bytes)));
            prop_assert!(same(delta.and(delta.inverse()).apply(field), field));
        }
    }

    #[test]
    fn rfc1624_a_udp_checksum_of_zero_stays_and_a_computed_zero_becomes_ffff() {
        let delta = Delta::default().word(1, 0);
        assert_eq!(delta.apply_udp(0), 0);
        assert_eq!(Delta::default().word(0, 0xFFFE).apply_udp(0xFFFE), 0xFFFF);
    }
}
