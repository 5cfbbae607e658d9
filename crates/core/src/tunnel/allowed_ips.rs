//! AllowedIPs: the peer of an inner address, by the longest prefix.
//!
//! There is one hash table for each prefix length in use, probed from the longest to the shortest.
//! A gateway uses one to three lengths, so a lookup takes one to three probes. It knows only the
//! ids of peers.

use crate::ids::PeerId;
use hashbrown::HashMap;
use ipnet::IpNet;
use std::net::IpAddr;

/// The inner prefixes and their peers.
#[derive(Debug, Default)]
pub(super) struct AllowedIps {
    v4: Family,
    v6: Family,
}

impl AllowedIps {
    /// Returns the peer with the longest prefix that contains `address`.
    pub(super) fn lookup(&self, address: IpAddr) -> Option<PeerId> {
        self.family(address).lookup(align(address))
    }

    /// Returns the peer that has exactly this prefix.
    pub(super) fn owner(&self, net: IpNet) -> Option<PeerId> {
        let (bits, len) = key(net);
        let table = self.family(net.addr()).table(len)?;
        table.peers.get(&(bits & table.mask)).copied()
    }

    /// Assigns a prefix to a peer. Returns the peer that had it before.
    pub(super) fn insert(&mut self, net: IpNet, peer: PeerId) -> Option<PeerId> {
        let (bits, len) = key(net);
        let table = self.family_mut(net.addr()).table_or_new(len);
        table.peers.insert(bits & table.mask, peer)
    }

    /// Removes a prefix. Returns the peer that had it.
    pub(super) fn remove(&mut self, net: IpNet) -> Option<PeerId> {
        let (bits, len) = key(net);
        let family = self.family_mut(net.addr());
        let at = family.0.iter().position(|t| t.len == len)?;
        let table = &mut family.0[at];
        let owner = table.peers.remove(&(bits & table.mask));
        if table.peers.is_empty() {
            family.0.remove(at);
        }
        owner
    }

    fn family(&self, address: IpAddr) -> &Family {
        match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        }
    }

    fn family_mut(&mut self, address: IpAddr) -> &mut Family {
        match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }
}

/// The tables of one address family, the longest prefixes first.
#[derive(Debug, Default)]
struct Family(Vec<Table>);

/// All prefixes of one length. Addresses are left-aligned in 128 bits in both families.
#[derive(Debug)]
struct Table {
    len: u8,
    mask: u128,
    peers: HashMap<u128, PeerId>,
}

impl Family {
    fn lookup(&self, bits: u128) -> Option<PeerId> {
        self.0
            .iter()
            .find_map(|table| table.peers.get(&(bits & table.mask)).copied())
    }

    fn table(&self, len: u8) -> Option<&Table> {
        self.0.iter().find(|table| table.len == len)
    }

    fn table_or_new(&mut self, len: u8) -> &mut Table {
        let at = self.0.partition_point(|table| table.len > len);
        if self.0.get(at).is_none_or(|table| table.len != len) {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            let peers = HashMap::new();
            self.0.insert(at, Table { len, mask, peers });
        }
        &mut self.0[at]
    }
}

fn key(net: IpNet) -> (u128, u8) {
    (align(net.addr()), net.prefix_len())
}

/// An address left-aligned in 128 bits.
fn align(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// A list of all prefixes, of which the longest that contains the address wins.
    #[derive(Default)]
    struct Oracle(Vec<(IpNet, PeerId)>);

    impl Oracle {
        fn remove(&mut self, net: IpNet) -> Option<PeerId> {
            let at = self.0.iter().position(|(n, _)| *n == net.trunc())?;
            Some(self.0.remove(at).1)
        }

        fn insert(&mut self, net: IpNet, peer: PeerId) -> Option<PeerId> {
            let before = self.remove(net);
            self.0.push((net.trunc(), peer));
            before
        }

        fn lookup(&self, address: IpAddr) -> Option<PeerId> {
            let fits = self.0.iter().filter(|(net, _)| net.contains(&address));
            fits.max_by_key(|(net, _)| net.prefix_len()).map(|e| e.1)
        }
    }

    /// Addresses that differ in few bits, so that prefixes do nest.
    fn address() -> impl Strategy<Value = IpAddr> {
        let low = || any::<u32>().prop_map(|n| n & 0x8181_0183);
        prop_oneof![
            low().prop_map(|n| Ipv4Addr::from_bits(n).into()),
            low().prop_map(|n| Ipv6Addr::from_bits(u128::from(n) << 64 | u128::from(n)).into()),
        ]
    }

    fn net() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..=128).prop_map(|(address, len)| {
            let max = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, len % (max + 1)).expect("a length within the family")
        })
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_linear_search(
            steps in prop::collection::vec((any::<bool>(), net(), 0u32..5), 0..60),
            asked in prop::collection::vec(address(), 1..20),
        ) {
            let (mut fast, mut slow) = (AllowedIps::default(), Oracle::default());
            for (insert, net, peer) in steps {
                if insert {
                    prop_assert_eq!(fast.insert(net, PeerId(peer)), slow.insert(net, PeerId(peer)));
                } else {
                    prop_assert_eq!(fast.remove(net), slow.remove(net));
                }
            }
            for (net, peer) in &slow.0 {
                prop_assert_eq!(fast.owner(*net), Some(*peer));
            }
            for address in asked {
                prop_assert_eq!(fast.lookup(address), slow.lookup(address));
            }
        }
    }

    #[test]
    fn a_default_route_contains_its_own_family_only() {
        let mut allowed = AllowedIps::default();
        allowed.insert("0.0.0.0/0".parse().unwrap(), PeerId(1));
        assert_eq!(allowed.lookup([8, 8, 8, 8].into()), Some(PeerId(1)));
        assert_eq!(allowed.lookup(Ipv6Addr::LOCALHOST.into()), None);
    }
}
