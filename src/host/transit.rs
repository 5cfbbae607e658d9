//! Chooses the transit address: the address of all clients between the TUN device and the host when
//! `[lan] address` is "auto". It never appears on the LAN, because the host replaces it with its own.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Chooses an IPv4 address that no route and no interface of this machine contains.
///
/// It is in 198.18.0.0/15, which is reserved for benchmarks (RFC 2544, RFC 6890) and used neither by
/// LANs nor by the Internet. The next choice is 100.64.0.0/10, which carriers use (RFC 6598).
pub(super) fn choose(in_use: &[IpNet]) -> Option<Ipv4Addr> {
    let candidate = |[a, b]: [u8; 2], c| Ipv4Addr::new(a, b, c, 1);
    let ranges = [[198, 19], [198, 18], [100, 127]];
    let candidates = ranges
        .into_iter()
        .flat_map(|r| (0..=255).rev().map(move |c| candidate(r, c)));
    { candidates }.find(|ip| is_free(IpAddr::V4(*ip), in_use))
}

/// Chooses an IPv6 address in 2001:2::/48, which is reserved for benchmarks (RFC 5180, RFC 6890).
pub(super) fn choose6(in_use: &[IpNet]) -> Option<Ipv6Addr> {
    let candidate = |n| Ipv6Addr::new(0x2001, 2, 0, n, 0, 0, 0, 1);
    let mut candidates = (0..=0xFF).rev().map(candidate);
    candidates.find(|ip| is_free(IpAddr::V6(*ip), in_use))
}

fn is_free(ip: IpAddr, in_use: &[IpNet]) -> bool {
    !in_use
        .iter()
        .any(|net| net.prefix_len() > 0 && net.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn avoids_all_routes_except_default_routes() {
        let chosen = |list| choose(&nets(list)).map(|ip| ip.to_string());
        assert_eq!(
            chosen(&["0.0.0.0/0", "192.168.77.0/24"]).as_deref(),
            Some("198.19.255.1")
        );
        assert_eq!(
            chosen(&["198.19.255.1/32"]).as_deref(),
            Some("198.19.254.1")
        );
        assert_eq!(chosen(&["198.19.0.0/16"]).as_deref(), Some("198.18.255.1"));
        assert_eq!(chosen(&["198.18.0.0/15"]).as_deref(), Some("100.127.255.1"));
        assert_eq!(chosen(&["198.18.0.0/15", "100.64.0.0/10"]), None);
        let chosen = |list| choose6(&nets(list)).map(|ip| ip.to_string());
        assert_eq!(chosen(&["::/0"]).as_deref(), Some("2001:2:0:ff::1"));
        assert_eq!(
            chosen(&["2001:2:0:ff::/64"]).as_deref(),
            Some("2001:2:0:fe::1")
        );
        assert_eq!(chosen(&["2001:2::/32"]), None);
    }
}
