//! Addresses that are not in the file: those that the host has, and those that are free.

use super::Config;
use super::host_prefix;
use super::value::DomainName;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that the caller has looked up.
#[derive(Debug, Clone, Default)]
pub struct HostNetwork {
    /// The host's addresses on the LAN with their prefix lengths, without link-local ones.
    pub addresses: Vec<IpNet>,
    /// The addresses of the endpoint's name; empty if it has no name or it was not resolved.
    pub endpoint: Vec<IpAddr>,
    /// The host's search domains.
    pub search: Vec<DomainName>,
}

impl HostNetwork {
    /// Returns the networks on the LAN, with IPv6 only if `ipv6`.
    pub(super) fn networks(&self, ipv6: bool) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for net in self.addresses.iter().map(IpNet::trunc) {
            let shared = net.prefix_len() < net.max_prefix_len();
            let wanted = ipv6 || net.addr().is_ipv4();
            if shared && wanted && !networks.contains(&net) {
                networks.push(net);
            }
        }
        networks
    }

    /// Returns the host's address on the LAN, preferably of IPv4.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().map(IpNet::addr);
        let first = addresses.clone().next();
        addresses.find(IpAddr::is_ipv4).or(first)
    }

    #[cfg(test)]
    pub(super) fn of(addresses: &[&str]) -> Self {
        Self {
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
            ..Self::default()
        }
    }
}

/// Returns the first free address of each of the tunnel's networks.
///
/// # Errors
/// The interface's address in a network without a free address.
pub(super) fn next_free(config: &Config) -> Result<Vec<IpNet>, IpNet> {
    let own = config.interface.address.iter();
    let own = own.map(|address| host_prefix(address.addr()));
    let peers = config.peers.iter();
    let peers = peers.flat_map(|peer| peer.allowed_ips.iter().copied());
    let taken: Vec<IpNet> = own.chain(peers).collect();
    let free = |net: &IpNet| first_free(net, &taken).map(host_prefix).ok_or(*net);
    config.interface.address.iter().map(free).collect()
}

/// Returns the first host address of `net` that is in none of `taken`. A prefix that contains all of
/// `net` is ignored: it is the default route of a peer.
fn first_free(net: &IpNet, taken: &[IpNet]) -> Option<IpAddr> {
    let net = net.trunc();
    let small = net.max_prefix_len() - net.prefix_len() < 2;
    // The first address is the network's own; in IPv4 the last one is for broadcasts.
    let mut candidate = number(net.network()) + u128::from(!small);
    let last = number(net.broadcast()) - u128::from(!small && net.addr().is_ipv4());
    while candidate <= last {
        let address = like(net.addr(), candidate)?;
        let taker = taken
            .iter()
            .find(|prefix| prefix.contains(&address) && !prefix.contains(&net));
        let Some(taker) = taker else {
            return Some(address);
        };
        candidate = number(taker.broadcast()).checked_add(1)?;
    }
    None
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn like(family: IpAddr, number: u128) -> Option<IpAddr> {
    match family {
        IpAddr::V4(_) => Some(Ipv4Addr::from(u32::try_from(number).ok()?).into()),
        IpAddr::V6(_) => Some(Ipv6Addr::from(number).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn free(net: &str, taken: &[&str]) -> Option<String> {
        let taken: Vec<IpNet> = taken.iter().map(|net| net.parse().unwrap()).collect();
        first_free(&net.parse().unwrap(), &taken).map(|address| address.to_string())
    }

    #[test]
    fn networks_of_the_lan_are_listed_once() {
        let around = HostNetwork::of(&[
            "fd00:77::5/64",
            "192.168.77.5/24",
            "192.168.77.6/24",
            "10.1.0.1/24",
            "203.0.113.9/32",
        ]);
        let named = |ipv6| {
            let networks = around.networks(ipv6);
            networks.iter().map(IpNet::to_string).collect::<Vec<_>>()
        };
        assert_eq!(named(false), ["192.168.77.0/24", "10.1.0.0/24"]);
        assert_eq!(
            named(true),
            ["fd00:77::/64", "192.168.77.0/24", "10.1.0.0/24"]
        );
        assert_eq!(around.address(), Some("192.168.77.5".parse().unwrap()));
        let only = HostNetwork::of(&["fd00:77::5/64"]).address();
        assert_eq!(only, Some("fd00:77::5".parse().unwrap()));
    }

    #[test]
    fn gaps_are_filled_and_edges_are_not_used() {
        let is = |address: &str| Some(address.to_owned());
        assert_eq!(free("10.8.0.1/24", &["10.8.0.1/32"]), is("10.8.0.2"));
        assert_eq!(
            free("10.8.0.1/24", &["10.8.0.1/32", "10.8.0.2/31"]),
            is("10.8.0.4")
        );
        assert_eq!(
            free("10.8.0.1/24", &["10.8.0.0/25", "0.0.0.0/0"]),
            is("10.8.0.128")
        );
        assert_eq!(free("10.8.0.1/30", &["10.8.0.1/32", "10.8.0.2/32"]), None);
        assert_eq!(free("10.8.0.1/31", &["10.8.0.1/32"]), is("10.8.0.0"));
        assert_eq!(free("10.8.0.1/32", &["10.8.0.1/32"]), is("10.8.0.1"));
        assert_eq!(
            free("255.255.255.255/24", &["255.255.255.0/25"]),
            is("255.255.255.128")
        );
        assert_eq!(free("fd00::1/64", &["fd00::1/128"]), is("fd00::2"));
        assert_eq!(free("ffff::/16", &["ffff::/17", "ffff:8000::/17"]), None);
    }

    proptest! {
        /// The oracle walks over every address.
        #[test]
        fn the_first_free_address_matches_a_walk(
            own in any::<u8>(),
            length in 24u8..=30,
            taken in proptest::collection::vec((any::<u8>(), 25u8..=32), 0..12),
        ) {
            let net = |last, length| IpNet::new(Ipv4Addr::new(10, 8, 0, last).into(), length).unwrap();
            let tunnel = net(own, length);
            let taken: Vec<IpNet> = taken.into_iter().map(|(last, length)| net(last, length)).collect();
            let takes = |prefix: &IpNet, host: &IpAddr| prefix.contains(host) && !prefix.contains(&tunnel.trunc());
            let walked = tunnel.hosts().find(|host| !taken.iter().any(|prefix| takes(prefix, host)));
            prop_assert_eq!(first_free(&tunnel, &taken), walked);
        }
    }
}
