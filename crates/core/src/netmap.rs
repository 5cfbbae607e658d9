//! Prefixes of the LAN that clients know under other prefixes (NETMAP), for clients whose home
//! network has the same addresses as the LAN.
//!
//! The map is stateless and reversible: the host part of an address stays, and no two addresses of
//! one side have the same address on the other. A LAN address in a mapped prefix can only be
//! reached by its mapped address: packets of clients to the LAN's own address are refused. This
//! module maps addresses and never sees a packet.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A prefix of the LAN, and the prefix of the same length by which clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixMap {
    lan: IpNet,
    client: IpNet,
}

/// The reason why prefixes cannot be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetMapError {
    /// The prefixes have different lengths or address families.
    #[error("{0} and {1} have different lengths")]
    Length(IpNet, IpNet),
    /// Two of all prefixes overlap.
    #[error("{0} and {1} overlap")]
    Overlap(IpNet, IpNet),
}

impl PrefixMap {
    /// Maps a prefix of the LAN to one for clients.
    ///
    /// # Errors
    /// If the prefixes have different lengths or families, or overlap.
    pub fn new(lan: IpNet, client: IpNet) -> Result<Self, NetMapError> {
        let (lan, client) = (lan.trunc(), client.trunc());
        let same_family = lan.addr().is_ipv4() == client.addr().is_ipv4();
        if !same_family || lan.prefix_len() != client.prefix_len() {
            return Err(NetMapError::Length(lan, client));
        }
        match overlap(&lan, &client) {
            true => Err(NetMapError::Overlap(lan, client)),
            false => Ok(Self { lan, client }),
        }
    }

    /// Returns the prefix on the LAN.
    pub fn lan(&self) -> IpNet {
        self.lan
    }

    /// Returns the prefix by which clients know it.
    pub fn client(&self) -> IpNet {
        self.client
    }
}

/// All mapped prefixes of an endpoint; none by default.
///
/// ```
/// use vcgate_core::netmap::{NetMap, PrefixMap};
///
/// let office = PrefixMap::new("192.168.1.0/24".parse()?, "10.77.1.0/24".parse()?)?;
/// let map = NetMap::new(vec![office])?;
/// let (lan, client) = ("192.168.1.10".parse()?, "10.77.1.10".parse()?);
/// assert_eq!(map.to_client(lan), Some(client));
/// assert_eq!(map.to_lan(client), Some(lan));
/// assert_eq!(map.to_lan(lan), None, "clients cannot use the LAN's own addresses");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetMap(Vec<PrefixMap>);

impl NetMap {
    /// Makes a map of several prefixes.
    ///
    /// # Errors
    /// If any two of the prefixes overlap, on one side or across.
    pub fn new(maps: Vec<PrefixMap>) -> Result<Self, NetMapError> {
        let mut seen = Vec::new();
        for net in maps.iter().flat_map(|map| [map.lan, map.client]) {
            if let Some(other) = seen.iter().find(|other| overlap(other, &net)) {
                return Err(NetMapError::Overlap(*other, net));
            }
            seen.push(net);
        }
        Ok(Self(maps))
    }

    /// Returns whether no prefix is mapped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the mapped prefixes.
    pub fn iter(&self) -> impl Iterator<Item = &PrefixMap> {
        self.0.iter()
    }

    /// Returns the address by which clients know an address of the LAN: the same one, if it is not
    /// in a mapped prefix. `None` if clients know another host by this address.
    pub fn to_client(&self, lan: IpAddr) -> Option<IpAddr> {
        for map in &self.0 {
            if map.lan.contains(&lan) {
                return Some(moved(lan, map.client));
            }
            if map.client.contains(&lan) {
                return None;
            }
        }
        Some(lan)
    }

    /// Returns the address of the LAN that a client means by an address: the same one, if it is not
    /// mapped. `None` if clients know the host of this address by another one.
    pub fn to_lan(&self, client: IpAddr) -> Option<IpAddr> {
        for map in &self.0 {
            if map.client.contains(&client) {
                return Some(moved(client, map.lan));
            }
            if map.lan.contains(&client) {
                return None;
            }
        }
        Some(client)
    }

    /// Returns the prefixes by which clients know a network of the LAN.
    pub fn client_networks(&self, lan: IpNet) -> Vec<IpNet> {
        let sides = self.0.iter().map(|map| (map.lan, map.client));
        image(lan, sides)
    }

    /// Returns the prefixes of the LAN that a client means by a network, for the client's rules.
    pub fn lan_networks(&self, client: IpNet) -> Vec<IpNet> {
        let sides = self.0.iter().map(|map| (map.client, map.lan));
        image(client, sides)
    }
}

/// Returns the image of a network under a map of prefixes from one side to the other.
///
/// The image may contain prefixes from which addresses are mapped, since no packet of the other side
/// has an address there.
fn image(net: IpNet, sides: impl Iterator<Item = (IpNet, IpNet)>) -> Vec<IpNet> {
    let mut nets = vec![net.trunc()];
    for (from, to) in sides {
        if from.contains(&net) {
            let (address, len) = (moved(net.network(), to), net.prefix_len());
            return vec![IpNet::new_assert(address, len)];
        }
        if net.contains(&from) {
            if !net.contains(&to) {
                nets.push(to);
            }
        } else if overlap(&net, &to) {
            nets = nets.into_iter().flat_map(|net| without(net, to)).collect();
        }
    }
    nets
}

/// Returns the parts of `net` outside of `hole`.
fn without(net: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&net) {
        return Vec::new();
    }
    if !net.contains(&hole) {
        return vec![net];
    }
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, hole)).collect()
}

/// Returns the address in `to`, a prefix of the same family, with the host part of `address`.
fn moved(address: IpAddr, to: IpNet) -> IpAddr {
    match (address, to) {
        (IpAddr::V4(address), IpNet::V4(to)) => {
            let host = u32::from(address) & u32::from(Ipv4Net::hostmask(&to));
            Ipv4Addr::from(u32::from(to.network()) | host).into()
        }
        (IpAddr::V6(address), IpNet::V6(to)) => {
            let host = u128::from(address) & u128::from(Ipv6Net::hostmask(&to));
            Ipv6Addr::from(u128::from(to.network()) | host).into()
        }
        _ => address,
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn map(prefixes: &[(&str, &str)]) -> NetMap {
        let maps = prefixes.iter();
        let maps = maps.map(|(lan, client)| PrefixMap::new(net(lan), net(client)).unwrap());
        NetMap::new(maps.collect()).unwrap()
    }

    /// Two prefixes of a small space of addresses, 10.0.0.0/24 or fd00::/120.
    fn maps() -> impl Strategy<Value = (NetMap, bool)> {
        let prefix = (any::<u8>(), any::<u8>(), 25u8..=32);
        let maps = prop::collection::vec(prefix, 0..4);
        (maps, any::<bool>()).prop_map(|(prefixes, v6)| {
            let mut valid = Vec::new();
            for (lan, client, len) in prefixes {
                let net =
                    |last| IpNet::new_assert(address(last, v6), if v6 { len + 96 } else { len });
                let Ok(map) = PrefixMap::new(net(lan), net(client)) else {
                    continue;
                };
                valid.push(map);
                if NetMap::new(valid.clone()).is_err() {
                    valid.pop();
                }
            }
            (NetMap::new(valid).unwrap(), v6)
        })
    }

    fn address(last: u8, v6: bool) -> IpAddr {
        match v6 {
            true => IpAddr::from([0xFD00, 0, 0, 0, 0, 0, 0, last.into()]),
            false => IpAddr::from([10, 0, 0, last]),
        }
    }

    proptest! {
        #[test]
        fn the_map_is_a_bijection_and_reversible((map, v6) in maps()) {
            let mut images = std::collections::HashSet::new();
            for last in 0..=255 {
                let lan = address(last, v6);
                if let Some(client) = map.to_client(lan) {
                    prop_assert_eq!(map.to_lan(client), Some(lan));
                    prop_assert!(images.insert(client), "two hosts have the address {}", client);
                }
                if let Some(lan) = map.to_lan(lan) {
                    prop_assert_eq!(map.to_client(lan), Some(address(last, v6)));
                }
            }
        }

        #[test]
        fn a_network_for_clients_means_the_addresses_that_it_maps_to(
            (map, v6) in maps(), last in any::<u8>(), len in 20u8..=32,
        ) {
            let len = if v6 { len + 96 } else { len };
            let net = IpNet::new_assert(address(last, v6), len);
            let (lan, client) = (map.lan_networks(net), map.client_networks(net));
            let contains = |nets: &[IpNet], address| nets.iter().any(|net| net.contains(&address));
            for last in 0..=255 {
                let address = address(last, v6);
                if let Some(known) = map.to_client(address) {
                    prop_assert_eq!(contains(&lan, address), net.contains(&known));
                }
                if let Some(meant) = map.to_lan(address) {
                    prop_assert_eq!(contains(&client, address), net.contains(&meant));
                }
            }
        }
    }

    #[test]
    fn a_rule_around_the_lan_prefix_does_not_include_its_mapped_hosts() {
        let map = map(&[("192.168.1.0/24", "10.77.1.0/24")]);
        let around = map.lan_networks(net("192.168.0.0/23"));
        assert_eq!(around, [net("192.168.0.0/24")]);
        assert_eq!(map.lan_networks(net("192.168.1.0/25")), []);
        assert_eq!(map.lan_networks(net("0.0.0.0/0")), [net("0.0.0.0/0")]);
        let wide = map.lan_networks(net("10.0.0.0/8"));
        assert_eq!(wide, [net("10.0.0.0/8"), net("192.168.1.0/24")]);
        let host = map.lan_networks(net("10.77.1.10/32"));
        assert_eq!(host, [net("192.168.1.10/32")]);
    }

    #[test]
    fn prefixes_of_other_lengths_and_overlaps_are_refused() {
        let (lan, client) = (net("192.168.1.0/24"), net("10.77.0.0/16"));
        let refused = PrefixMap::new(lan, client).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "192.168.1.0/24 and 10.77.0.0/16 have different lengths"
        );
        assert!(PrefixMap::new(lan, net("fd00::/24")).is_err());
        assert!(PrefixMap::new(lan, lan).is_err());
        let maps = [
            ("192.168.1.0/24", "10.77.1.0/24"),
            ("192.168.2.0/25", "10.77.1.128/25"),
        ];
        let maps = maps.map(|(lan, client)| PrefixMap::new(net(lan), net(client)).unwrap());
        assert_eq!(
            NetMap::new(maps.to_vec()),
            Err(NetMapError::Overlap(
                net("10.77.1.0/24"),
                net("10.77.1.128/25")
            ))
        );
    }
}
