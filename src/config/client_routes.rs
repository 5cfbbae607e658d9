//! The networks that a client's file routes into the tunnel: `AllowedIPs`.
//!
//! By default these are the networks that `reach` lets the client use, so that its other traffic does
//! not end at the endpoint. They permit nothing: the endpoint applies `reach` to each packet.

use super::profile::Routes;
use super::reach::{Hosts, Rule};
use super::{Config, HostNetwork, Peer, host_prefix};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Returns the networks of a client's `AllowedIPs`, without regard to the endpoint's own address.
pub(super) fn of(config: &Config, peer: &Peer, host: &HostNetwork) -> Vec<IpNet> {
    match peer.client.or(&config.client).routes() {
        Routes::Given(networks) => networks.to_vec(),
        // IPv6 leads into the tunnel even if that has none, or it would bypass the tunnel.
        Routes::All => vec![
            Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
            Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
        ],
        Routes::Reachable => match &peer.reach {
            Some(rules) if !has_forward(config, peer) => by_rules(config, rules, host),
            // Any host of the LAN may use a forward, and the client must accept its address.
            _ => tunnel(config).chain(lan(config, host)).collect(),
        },
    }
}

/// Returns the networks of a client's rules. Hosts that see inner addresses can open connections to
/// the client, so theirs are included.
fn by_rules(config: &Config, rules: &[Rule], host: &HostNetwork) -> Vec<IpNet> {
    let lan: Vec<IpNet> = lan(config, host).collect();
    let mut networks: Vec<IpNet> = match config.interface.client_to_client {
        true => tunnel(config).collect(),
        // The endpoint answers DNS and pings at these.
        false => {
            let own = config.interface.address.iter();
            own.map(|net| host_prefix(net.addr())).collect()
        }
    };
    let no_nat = config.lan.known_to_clients(&config.nat.no_nat);
    for rule in rules {
        match rule.hosts {
            Hosts::All => networks.extend(&lan),
            Hosts::Net(net) => networks.extend(shared(&net, &lan)),
            Hosts::Gateway => {}
        }
    }
    networks.extend(no_nat.iter().flat_map(|net| shared(net, &lan)));
    without_contained(&networks)
}

/// Returns the part of a network that is in the LAN's; all of it if those are not known.
fn shared(net: &IpNet, lan: &[IpNet]) -> Vec<IpNet> {
    if lan.is_empty() || lan.iter().any(|lan| lan.contains(net)) {
        return vec![*net];
    }
    lan.iter()
        .filter(|lan| net.contains(*lan))
        .copied()
        .collect()
}

/// Returns the networks that no other one contains, in order.
fn without_contained(networks: &[IpNet]) -> Vec<IpNet> {
    let mut kept = Vec::new();
    for net in networks {
        let is_inside = |other: &IpNet| other != net && other.contains(net);
        if !kept.contains(net) && !networks.iter().any(is_inside) {
            kept.push(*net);
        }
    }
    kept
}

fn has_forward(config: &Config, peer: &Peer) -> bool {
    let mut forwards = config.forwards.iter();
    forwards.any(|forward| {
        let owner = config.owner(forward.to.ip());
        owner.is_some_and(|owner| owner.public_key == peer.public_key)
    })
}

fn tunnel(config: &Config) -> impl Iterator<Item = IpNet> {
    config.interface.address.iter().map(IpNet::trunc)
}

fn lan(config: &Config, host: &HostNetwork) -> impl Iterator<Item = IpNet> + use<> {
    let networks = match config.lan.networks.is_empty() {
        true => host.networks(config.lan.address6.is_some()),
        false => config.lan.known_to_clients(&config.lan.networks),
    };
    networks.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{ANNA, config_of, peer};
    use proptest::prelude::*;

    fn routes(head: &str, keys: &str) -> String {
        let keys = format!("allowed_ips = [\"10.8.0.11\"]\n{keys}");
        let config = config_of(&format!("{head}\n{}", peer("anna", ANNA, &keys)));
        let host = HostNetwork::of(&["192.168.77.5/24"]);
        let networks = of(&config, &config.peers[0], &host);
        let networks: Vec<String> = networks.iter().map(IpNet::to_string).collect();
        networks.join(" ")
    }

    #[test]
    fn a_client_routes_what_it_may_reach() {
        let two = "[lan]\nnetworks = [\"192.168.77.0/24\", \"10.1.0.0/16\"]";
        for (head, keys, expected) in [
            ("", "", "10.8.0.0/24 192.168.77.0/24"),
            ("", "reach = []", "10.8.0.1/32"),
            (
                "",
                "reach = [\"192.168.77.10:445\", \"192.168.77.10:icmp\", \"gateway:tcp/22\"]",
                "10.8.0.1/32 192.168.77.10/32",
            ),
            ("", "reach = [\"icmp\"]", "10.8.0.1/32 192.168.77.0/24"),
            (
                two,
                "reach = [\"10.0.0.0/8:tcp/80\", \"10.1.2.0/24\", \"172.16.0.1\"]",
                "10.8.0.1/32 10.1.0.0/16",
            ),
            (
                "[interface]\nclient_to_client = true",
                "reach = [\"10.8.0.12\"]",
                "10.8.0.0/24",
            ),
            (
                "[nat]\nno_nat = [\"192.168.77.64/26\"]",
                "reach = [\"192.168.77.10\"]",
                "10.8.0.1/32 192.168.77.10/32 192.168.77.64/26",
            ),
            (
                "[[forward]]\nlan_port = 8443\nto = \"10.8.0.11:443\"",
                "reach = []",
                "10.8.0.0/24 192.168.77.0/24",
            ),
            ("", "client = { full_tunnel = true }", "0.0.0.0/0 ::/0"),
            (
                "[client]\nfull_tunnel = true",
                "client = { allowed_ips = [\"10.9.0.0/16\"] }",
                "10.9.0.0/16",
            ),
            (
                "[client]\nfull_tunnel = true",
                "client = { full_tunnel = false }\nreach = []",
                "10.8.0.1/32",
            ),
            (
                "[lan]\nnetworks = [\"192.168.1.0/24 as 10.77.1.0/24\"]",
                "reach = [\"10.77.1.10:445\"]",
                "10.8.0.1/32 10.77.1.10/32",
            ),
        ] {
            assert_eq!(routes(head, keys), expected, "{head} {keys}");
        }
    }

    proptest! {
        /// The oracle looks at each address of a small network.
        #[test]
        fn no_address_is_lost_or_added(nets in proptest::collection::vec((any::<u8>(), 24u8..=32), 0..8)) {
            let net = |(last, length)| IpNet::new(Ipv4Addr::new(10, 0, 0, last).into(), length).unwrap().trunc();
            let nets: Vec<IpNet> = nets.into_iter().map(net).collect();
            let kept = without_contained(&nets);
            for last in 0..=255 {
                let address = std::net::IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
                let holders = kept.iter().filter(|net| net.contains(&address)).count();
                let wanted = nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(holders, usize::from(wanted));
            }
        }
    }
}
