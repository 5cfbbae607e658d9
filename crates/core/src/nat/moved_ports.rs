//! Port blocks that belong to a different shard than their number says.
//!
//! The number of a port determines its shard, unless the endpoint has restarted with another number of
//! shards: a block that was in use then belongs to the shard of its peer for as long as this run takes.
//! All shards know all moved blocks, so that each finds the shard of a packet.

use super::block::Block;
use super::{Nat, ports};
use crate::ids::ShardId;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The moved blocks by LAN address and first port.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct MovedPorts(BTreeMap<(IpAddr, u16), MovedBlock>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MovedBlock {
    last_port: u16,
    shard: u8,
}

impl MovedPorts {
    /// Notes that a shard owns these ports, unless their number says so already; `any` has the
    /// number of shards.
    pub(crate) fn note(&mut self, any: ShardId, lan: IpAddr, ports: (u16, u16), shard: u8) {
        let (first_port, last_port) = ports;
        if ports::owner_of_port(any, first_port) != shard {
            let block = MovedBlock { last_port, shard };
            self.0.insert((lan, first_port), block);
        }
    }

    /// Returns whether no block has moved.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the shard that owns a port, if it has moved.
    fn shard(&self, lan: IpAddr, port: u16) -> Option<u8> {
        let (first, block) = self.0.range(..=(lan, port)).next_back()?;
        (first.0 == lan && port <= block.last_port).then_some(block.shard)
    }
}

impl Nat {
    /// Moves blocks to other shards. This NAT must have no flows yet.
    pub(crate) fn move_ports(&mut self, moved: Arc<MovedPorts>) {
        let own = self.settings.shard.number();
        for ((lan, first_port), MovedBlock { last_port, shard }) in &moved.0 {
            // The ports of an address that only one peer uses are all of that peer's shard.
            let lan = self.lan.id_of(*lan);
            let lan = lan.filter(|id| self.lan.owner(*id).is_none());
            if let Some(lan) = lan
                && let Some(block) = Block::between(*first_port, *last_port)
            {
                self.ports.move_block(lan, block, *shard == own);
            }
        }
        self.moved_ports = Some(moved).filter(|moved| !moved.is_empty());
    }

    /// Forgets the moved blocks of a LAN address that is removed: if it comes again, the numbers of its
    /// ports say whose they are.
    pub(super) fn remove_moved_ports(&mut self, lan: IpAddr) {
        if let Some(moved) = &mut self.moved_ports
            && moved.0.keys().any(|(address, _)| *address == lan)
        {
            Arc::make_mut(moved)
                .0
                .retain(|(address, _), _| *address != lan);
        }
    }

    /// Returns the shard that owns a port of a LAN address.
    pub(super) fn shard_of_port(&self, lan: IpAddr, port: u16) -> u8 {
        let moved = self.moved_ports.as_ref();
        let moved = moved.and_then(|moved| moved.shard(lan, port));
        moved.unwrap_or_else(|| ports::owner_of_port(self.settings.shard, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_of_moved_blocks_have_another_shard() {
        let any = ShardId::all(3).next().unwrap();
        let [lan, other] = ["192.168.77.2", "192.168.77.3"].map(|a| a.parse().unwrap());
        let mut moved = MovedPorts::default();
        // Group 30 belongs to shard 0, group 31 to shard 1.
        moved.note(any, lan, (1920, 1983), 0);
        assert!(moved.is_empty());
        moved.note(any, lan, (1920, 1935), 2);
        moved.note(any, lan, (2000, 2000), 0);
        let shards = [1919, 1920, 1935, 1936, 1999, 2000, 2001];
        assert_eq!(
            shards.map(|port| moved.shard(lan, port)),
            [None, Some(2), Some(2), None, None, Some(0), None]
        );
        assert_eq!(moved.shard(other, 1920), None);
    }
}
