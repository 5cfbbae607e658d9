//! AllowedIPs of a client that can reach its endpoint: the endpoint's own address is left out.
//!
//! A client routes what is in AllowedIPs into the tunnel. With the endpoint's address among them the
//! tunnel's packets go into the tunnel again, and on the LAN itself wg-quick fails with "File exists",
//! for the kernel has that route already. Nothing here knows where the addresses come from.

use ipnet::IpNet;
use std::net::IpAddr;

/// The same networks without `address`: a network around it is split into the largest parts that
/// do not contain it.
///
/// A default route stays whole, and takes the place of the other networks of its family: wg-quick and
/// the apps keep the tunnel's own packets out of it themselves (wg-quick by a firewall mark).
pub(super) fn without(nets: &[IpNet], address: IpAddr) -> Vec<IpNet> {
    let same_family = |net: &IpNet| net.addr().is_ipv4() == address.is_ipv4();
    let is_default = |net: &IpNet| same_family(net) && net.prefix_len() == 0;
    if nets.iter().any(is_default) {
        let kept = nets
            .iter()
            .filter(|net| is_default(net) || !same_family(net));
        return kept.copied().collect();
    }
    nets.iter().flat_map(|net| split(*net, address)).collect()
}

/// The parts of `net` around `address`, in order.
fn split(net: IpNet, address: IpAddr) -> Vec<IpNet> {
    if !net.contains(&address) {
        return vec![net];
    }
    match net.subnets(net.prefix_len().saturating_add(1)) {
        Ok(halves) => halves.flat_map(|half| split(half, address)).collect(),
        // It is the address itself.
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
        let left = without(&nets, address.parse().unwrap());
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
    fn a_default_route_stays_whole_and_alone() {
        let full = [
            "10.8.0.0/24",
            "0.0.0.0/0",
            "192.168.77.0/24",
            "fd00:77::/64",
        ];
        assert_eq!(shown(&full, "192.168.77.1"), "0.0.0.0/0 fd00:77::/64");
    }

    proptest! {
        /// The oracle asks for every address of the network.
        #[test]
        fn all_but_the_endpoint_is_left(last in any::<u8>(), length in 24u8..=32, endpoint in any::<u8>()) {
            let net = IpNet::new(Ipv4Addr::new(10, 0, 0, last).into(), length).unwrap().trunc();
            let address = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
            let left = without(&[net], address(endpoint));
            for last in 0..=255 {
                let holders = left.iter().filter(|part| part.contains(&address(last))).count();
                let wanted = net.contains(&address(last)) && last != endpoint;
                prop_assert_eq!(holders, usize::from(wanted));
            }
        }
    }
}
