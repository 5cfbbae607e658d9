//! The host's address on the LAN, as the kernel's routes tell it. Nothing is sent.

use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use vcgate::config::Surroundings;

/// IPv4 routes, as text (proc(5)).
const ROUTES: &str = "/proc/net/route";

/// What can be seen on `interface`, or on that of the default route.
pub fn look(interface: Option<&str>) -> Surroundings {
    let routes = std::fs::read_to_string(ROUTES).unwrap_or_default();
    let network = lan_network(&routes, interface);
    Surroundings {
        lan: network.and_then(own_address),
    }
}

/// The network that is attached to the interface.
fn lan_network(routes: &str, interface: Option<&str>) -> Option<Ipv4Net> {
    let routes: Vec<Route<'_>> = routes.lines().filter_map(Route::parse).collect();
    let default = || routes.iter().find(|route| route.net.prefix_len() == 0);
    let interface = match interface {
        Some(interface) => interface,
        None => default()?.interface,
    };
    let attached = routes.iter().find(|route| {
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
        assert_eq!(found(None).as_deref(), Some("192.168.1.0/24"));
        assert_eq!(found(Some("eth1")).as_deref(), Some("192.168.77.0/24"));
        assert_eq!(found(Some("eth2")), None);
        assert_eq!(lan_network("", None), None);
    }

    #[test]
    fn the_loopback_address_is_found() {
        let network = "127.0.0.0/8".parse().unwrap();
        assert_eq!(own_address(network), Some("127.0.0.1/8".parse().unwrap()));
    }
}
