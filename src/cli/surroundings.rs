//! The host's address on the LAN, as the kernel's routes tell it. Nothing is sent.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use vcgate::config::Surroundings;

/// IPv4 routes, as text (proc(5)).
const ROUTES: &str = "/proc/net/route";
/// IPv6 addresses: each with its interface's number, prefix length, scope and flags in
/// hexadecimal, and the interface's name.
const ADDRESSES: &str = "/proc/net/if_inet6";

/// What can be seen on `interface`, or on that of the default route.
pub fn look(interface: Option<&str>) -> Surroundings {
    let routes = std::fs::read_to_string(ROUTES).unwrap_or_default();
    let interface = interface.or_else(|| default_interface(&routes));
    let addresses = std::fs::read_to_string(ADDRESSES).unwrap_or_default();
    Surroundings {
        lan: interface
            .and_then(|interface| lan_network(&routes, interface))
            .and_then(own_address),
        lan6: interface.and_then(|interface| global_address(&addresses, interface)),
    }
}

/// The interface of the default route.
fn default_interface(routes: &str) -> Option<&str> {
    let mut routes = routes.lines().filter_map(Route::parse);
    let default = routes.find(|route| route.net.prefix_len() == 0)?;
    Some(default.interface)
}

/// The interface's first IPv6 address that more than its link can reach.
fn global_address(addresses: &str, interface: &str) -> Option<IpNet> {
    let mut global = addresses.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[address, _, length, "00", _, name] = fields.as_slice() else {
            return None;
        };
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        let length = u8::from_str_radix(length, 16).ok()?;
        let net = Ipv6Net::new(address, length).ok()?;
        (name == interface && length < 128).then_some(net.into())
    });
    global.next()
}

/// The network that is attached to the interface.
fn lan_network(routes: &str, interface: &str) -> Option<Ipv4Net> {
    let mut routes = routes.lines().filter_map(Route::parse);
    let attached = routes.find(|route| {
        let network = route.net.prefix_len() > 0 && route.net.prefix_len() < 32;
        route.interface == interface && route.gateway.is_unspecified() && network
    });
    attached.map(|route| route.net)
}

/// The address the host would use in a network: what a socket gets that is connected there.
fn own_address(network: Ipv4Net) -> Option<IpNet> {
    let neighbour = network.hosts().next()?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((neighbour, 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(own) if network.contains(&own) => {
            Some(Ipv4Net::new(own, network.prefix_len()).ok()?.into())
        }
        _ => None,
    }
}

struct Route<'t> {
    interface: &'t str,
    net: Ipv4Net,
    gateway: Ipv4Addr,
}

impl<'t> Route<'t> {
    /// A line of the table: interface, destination, gateway, flags, …, the mask as the eighth.
    fn parse(line: &'t str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[interface, destination, gateway, _, _, _, _, mask, ..] = fields.as_slice() else {
            return None;
        };
        let net = Ipv4Net::with_netmask(address(destination)?, address(mask)?).ok()?;
        Some(Self {
            interface,
            net,
            gateway: address(gateway)?,
        })
    }
}

/// The kernel prints the four bytes as one number of its own byte order.
fn address(hex: &str) -> Option<Ipv4Addr> {
    let number = u32::from_str_radix(hex, 16).ok()?;
    Some(Ipv4Addr::from(number.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_attached_network_is_found() {
        let routes = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000FEA9\t0101A8C0\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth1\t004DA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";
        let found = |interface| lan_network(routes, interface).map(|net| net.to_string());
        assert_eq!(default_interface(routes), Some("eth0"));
        assert_eq!(found("eth0").as_deref(), Some("192.168.1.0/24"));
        assert_eq!(found("eth1").as_deref(), Some("192.168.77.0/24"));
        assert_eq!(found("eth2"), None);
        assert_eq!(default_interface(""), None);
    }

    #[test]
    fn the_global_ipv6_address_is_found() {
        let addresses = "\
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000000000fffe000001 02 40 20 80     eth0
fd000077000000000000000000000005 02 40 00 80     eth0
";
        let found = |name| global_address(addresses, name).map(|net| net.to_string());
        assert_eq!(found("eth0").as_deref(), Some("fd00:77::5/64"));
        assert_eq!(found("lo"), None);
    }

    #[test]
    fn the_loopback_address_is_found() {
        let network = "127.0.0.0/8".parse().unwrap();
        assert_eq!(own_address(network), Some("127.0.0.1/8".parse().unwrap()));
    }
}
