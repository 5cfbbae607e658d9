//! Excludes the endpoint's address from a client's AllowedIPs.
//!
//! A client routes AllowedIPs into the tunnel. If they contained the endpoint's address, the tunnel's
//! packets would be routed into the tunnel too, and on the LAN itself wg-quick fails with "File exists",
//! since the kernel has that route already. It looks up no addresses.

use ipnet::IpNet;
use std::net::IpAddr;

/// Returns the networks without `address`: a network that contains it is split into the largest parts
/// that do not.
///
/// A default route is not split, and replaces the other networks of its family: wg-quick and the apps
/// exclude the tunnel's packets from it themselves (wg-quick by a firewall mark).
pub(super) fn exclude(nets: &[IpNet], address: IpAddr) -> Vec<IpNet> {
    let same_family = |net: &IpNet| net.addr().is_ipv4() == address.is_ipv4();
    let is_default = |net: &IpNet| same_family(net) && net.prefix_len() == 0;
    if nets.iter().any(is_default) {
        let others = nets
            .iter()
            .filter(|net| is_default(net) || !same_family(net));
        return others.copied().collect();
    }
    nets.iter().flat_map(|net| split(*net, address)).collect()
}

/// Returns the parts of `net` without `address`, in order.
fn split(net: IpNet, address: IpAddr) -> Vec<IpNet> {
    if !net.contains(&address) {
        return vec![net];
    }
    match net.subnets(net.prefix_len().saturating_add(1)) {
        Ok(halves) => halves.flat_map(|half| split(half, address)).collect(),
        // The network is the address itself.
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn shown(nets: &[&str], address: &str) -> String {
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let left = exclude(&nets, address.parse().unwrap());
        let left: Vec<String> = left.iter().map(IpNet::to_string).collect();
        left.join(" ")
    }

    #[test]
    fn a_network_is_split_around_the_endpoint() {
        assert_eq!(
            shown(&["10.8.0.0/24", "192.168.77.0/24"], "192.168.77.1"),
            "10.8.0.0/24 192.168.77.0/32 192.168.77.2/31 192.168.77.4/30 192.168.77.8/29 \
             192.168.77.16/28 192.168.77.32/27 192.168.77.64/26 192.168.77.128/25"
        );
        assert_eq!(shown(&["192.168.77.1/32"], "192.168.77.1"), "");
        assert_eq!(
            shown(&["192.168.77.0/24"], "203.0.113.1"),
            "192.168.77.0/24"
        );
        assert_eq!(
            shown(&["fd00:77::/126"], "fd00:77::1"),
            "fd00:77::/128 fd00:77::2/127"
        );
        assert_eq!(shown(&["fd00:77::/64"], "192.168.77.1"), "fd00:77::/64");
    }

    #[test]
    fn a_default_route_is_not_split_and_replaces_its_family() {
        let full = [
            "10.8.0.0/24",
            "0.0.0.0/0",
            "192.168.77.0/24",
            "fd00:77::/64",
        ];
        assert_eq!(shown(&full, "192.168.77.1"), "0.0.0.0/0 fd00:77::/64");
    }

    proptest! {
        /// The oracle checks every address of the network.
        #[test]
        fn all_but_the_endpoint_is_left(last in any::<u8>(), length in 24u8..=32, endpoint in any::<u8>()) {
            let net = IpNet::new(Ipv4Addr::new(10, 0, 0, last).into(), length).unwrap().trunc();
            let address = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
            let left = exclude(&[net], address(endpoint));
            for last in 0..=255 {
                let holders = left.iter().filter(|part| part.contains(&address(last))).count();
                let wanted = net.contains(&address(last)) && last != endpoint;
                prop_assert_eq!(holders, usize::from(wanted));
            }
        }
    }
}
