//! Port blocks: the units in which clients get ports, one line of the port log each.
//!
//! A block has 64, 16, 4 or 1 consecutive ports and begins at a multiple of its size, so it lies in
//! one [`Group`](super::group::Group). This module does not know which blocks are assigned.

/// The number of ports in the largest block.
pub const BLOCK_SIZE: u16 = 64;

/// A port block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Block {
    first: u16,
    size: u16,
}

impl Block {
    /// The sizes of blocks, in ports.
    pub(super) const SIZES: [u16; 4] = [BLOCK_SIZE, 16, 4, 1];

    /// Returns the block of this size that contains a port.
    pub(super) fn around(port: u16, size: u16) -> Self {
        Self {
            first: port - port % size,
            size,
        }
    }

    /// Returns the block with these ports, if there is one.
    pub(super) fn between(first: u16, last: u16) -> Option<Self> {
        let size = last.checked_sub(first)?.checked_add(1)?;
        let block = Self { first, size };
        (Self::SIZES.contains(&size) && first.is_multiple_of(size)).then_some(block)
    }

    /// Returns the first port.
    pub(super) fn first(self) -> u16 {
        self.first
    }

    /// Returns the last port.
    pub(super) fn last(self) -> u16 {
        self.first + (self.size - 1)
    }

    /// Returns the number of ports.
    pub(super) fn size(self) -> u16 {
        self.size
    }

    /// Returns the ports as a bit set of their group.
    pub(super) fn mask(self) -> u64 {
        (u64::MAX >> (BLOCK_SIZE - self.size)) << (self.first % BLOCK_SIZE)
    }

    /// Returns the blocks of a smaller size that this block consists of.
    pub(super) fn split(self, size: u16) -> impl Iterator<Item = Self> {
        let firsts = (self.first..=self.last()).step_by(usize::from(size));
        firsts.map(move |first| Self { first, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_a_block_has_exactly_its_ports() {
        for port in (0..=u16::MAX).step_by(7) {
            for size in Block::SIZES {
                let block = Block::around(port, size);
                assert_eq!(Block::between(block.first(), block.last()), Some(block));
                assert!((block.first()..=block.last()).contains(&port));
                let bits = (block.first()..=block.last()).map(|p| 1u64 << (p % BLOCK_SIZE));
                assert_eq!(block.mask(), bits.sum::<u64>());
                for part in Block::SIZES.into_iter().filter(|part| *part <= size) {
                    let parts: Vec<_> = block.split(part).collect();
                    assert_eq!(parts.len(), usize::from(size / part));
                    let ports = parts.iter().map(|part| part.mask());
                    assert_eq!(ports.sum::<u64>(), block.mask());
                }
            }
        }
        for (first, last) in [(1, 4), (0, 1), (0, 255), (5, 4), (0, u16::MAX)] {
            assert_eq!(Block::between(first, last), None);
        }
    }
}
