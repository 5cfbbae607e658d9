//! The clients by their addresses: the one with the longest prefix that contains an address.

use crate::names::Asker;
use crate::settings::Peer;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// The prefixes of all clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    owners: HashMap<IpNet, usize>,
    lengths: BTreeSet<u8>,
}

impl Clients {
    pub(crate) fn new(peers: &[Peer]) -> Self {
        let mut clients = Self::default();
        for (number, peer) in peers.iter().enumerate() {
            for prefix in &peer.prefixes {
                clients.owners.insert(prefix.trunc(), number);
                clients.lengths.insert(prefix.prefix_len());
            }
        }
        clients
    }

    /// Returns the client that has an address.
    pub(crate) fn find(&self, address: IpAddr) -> Asker {
        let lengths = self.lengths.iter().rev();
        let prefixes = lengths.filter_map(|length| IpNet::new(address, *length).ok());
        let mut owners = prefixes.filter_map(|prefix| self.owners.get(&prefix.trunc()));
        owners.next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    proptest! {
        /// The oracle looks at every prefix.
        #[test]
        fn the_longest_prefix_wins(
            prefixes in prop::collection::vec((0u8..8, 0u8..=32), 1..8),
            address in 0u8..8,
        ) {
            let net = |last: u8, length| IpNet::new(Ipv4Addr::new(10, 8, 0, last).into(), length);
            let nets: Vec<IpNet> =
                prefixes.iter().map(|(last, length)| net(*last, *length).unwrap().trunc()).collect();
            let different: BTreeSet<IpNet> = nets.iter().copied().collect();
            prop_assume!(different.len() == nets.len());
            let peers: Vec<Peer> = { nets.iter() }
                .map(|net| Peer { name: String::new(), prefixes: vec![*net] })
                .collect();
            let address = IpAddr::from([10, 8, 0, address]);
            let around = nets.iter().enumerate().filter(|(_, net)| net.contains(&address));
            let longest = around.max_by_key(|(_, net)| net.prefix_len());
            prop_assert_eq!(Clients::new(&peers).find(address), longest.map(|(number, _)| number));
        }
    }
}
