//! The configuration in force: the loaded one with the changes made since, and the state of the
//! host that belongs to it. It changes nothing itself.

use crate::config::{Change, Config, Peer, reach};
use crate::host::{Egress, Routes};
use ipnet::IpNet;
use smoltcp::wire::IpProtocol;
use std::net::IpAddr;
use std::time::SystemTime;
use vcgate_core::engine::{Destination, Rule};
use vcgate_core::netmap::NetMap;

/// The configuration in force, to which the next change is applied.
pub(super) struct ActiveConfig {
    /// Its peers are those named by the file and by commands, including one that `wg` has removed:
    /// when `wg` adds it again, it gets its name and rules back.
    pub config: Config,
    pub routes: Routes,
    pub egress: Egress,
    /// The networks of the LAN's interface.
    pub on_lan: Vec<IpNet>,
    /// Broadcast addresses, whose packets the host also delivers to its own sockets.
    pub broadcasts: Vec<IpAddr>,
}

impl ActiveConfig {
    /// Returns the networks that a client without its own rules may reach.
    pub(super) fn networks(&self) -> &[IpNet] {
        match self.config.lan.networks.is_empty() {
            false => &self.config.lan.networks,
            true => &self.on_lan,
        }
    }

    /// Returns the peers that may connect at this time.
    pub(super) fn active_peers(&self, now: SystemTime) -> Vec<&Peer> {
        let peers = self.config.peers.iter();
        peers.filter(|peer| peer.lifecycle.is_active(now)).collect()
    }

    /// Returns the engine's rules of a peer.
    pub(super) fn rules(&self, reach: Option<&[reach::Rule]>) -> Vec<Rule> {
        rules(self.networks(), reach, &self.config)
    }

    /// Routes the networks of the tunnel and of peers over the TUN device, as far as this machine
    /// needs them.
    pub(super) async fn set_routes(&mut self, peer_networks: impl IntoIterator<Item = IpNet>) {
        let routes = routed(&self.config, &self.on_lan, peer_networks);
        if let Err(error) = self.routes.set(&routes).await {
            tracing::warn!(
                %error,
                "cannot route all networks of peers; services of this machine do not answer there"
            );
        }
    }

    /// Returns the peer with the key of another one, as the configuration in force has it.
    pub(super) fn known(&self, peer: &Peer) -> Option<&Peer> {
        let mut peers = self.config.peers.iter();
        peers.find(|known| known.public_key == peer.public_key)
    }

    /// Records a change that was made.
    pub(super) fn note(&mut self, change: &Change) {
        let Config {
            lan,
            peers,
            forwards,
            ..
        } = &mut self.config;
        match change {
            Change::PeerRemoved(peer) => peers.retain(|p| p.public_key != peer.public_key),
            Change::PeerChanged(peer, _) | Change::PeerAdded(peer) | Change::PeerExpired(peer) => {
                peers.retain(|p| p.public_key != peer.public_key);
                peers.push(peer.clone());
            }
            Change::LanPool(pool) => lan.pool.clone_from(pool),
            Change::ForwardRemoved(forward) => forwards.retain(|f| f != forward),
            Change::ForwardAdded(forward) => forwards.push(*forward),
            Change::Key(_) | Change::AtNextStart(_) => {}
        }
    }

    /// Warns if clients can reach nothing.
    pub(super) fn warn_without_networks(&self) {
        if self.networks().is_empty() {
            tracing::warn!(
                "clients can reach nothing: the LAN interface has no address; give it one, or set \
                 networks under [lan]"
            );
        }
    }

    /// Warns of networks of the LAN that a peer's prefix covers. A configuration with `lan.networks`
    /// was checked for this, but changes by `wg` and the networks of the interface were not.
    pub(super) fn warn_of_covered_networks<'a>(
        &self,
        peers: impl Iterator<Item = (&'a str, &'a [IpNet])>,
    ) {
        for (peer, prefix, network) in covered(self.networks(), peers) {
            tracing::warn!(
                "peer {peer:?}: allowed_ips: {prefix} covers {network} of the LAN, which no client \
                 can reach; write only the networks of this peer"
            );
        }
    }
}

/// Returns the name and the prefixes of a peer.
pub(super) fn prefixes(peer: &Peer) -> (&str, &[IpNet]) {
    (&peer.name, &peer.allowed_ips)
}

/// Returns each peer with a prefix that covers a network, which clients then reach at that peer
/// and not on the LAN.
fn covered<'a>(
    networks: &[IpNet],
    peers: impl Iterator<Item = (&'a str, &'a [IpNet])>,
) -> Vec<(&'a str, IpNet, IpNet)> {
    let prefixes = peers.flat_map(|(peer, nets)| nets.iter().map(move |net| (peer, *net)));
    let covered = prefixes.flat_map(|(peer, prefix)| {
        let inside = networks.iter().filter(move |n| prefix.contains(*n));
        inside.map(move |network| (peer, prefix, *network))
    });
    covered.collect()
}

/// Returns the networks of clients to which this machine has routes: the tunnel's own and single
/// addresses, so that its services can answer, and where translation is off, the networks of sites.
fn routed(
    config: &Config,
    on_lan: &[IpNet],
    peer_networks: impl IntoIterator<Item = IpNet>,
) -> Vec<IpNet> {
    let no_nat = &config.nat.no_nat;
    let is_v4 = |net: &IpNet| net.addr().is_ipv4();
    let tunnel = config.interface.address.iter().copied();
    let of_tunnel = tunnel.map(|net| (net, true));
    let of_peers = peer_networks.into_iter();
    let of_peers = of_peers.map(|net| (net, net.prefix_len() == net.max_prefix_len()));
    let nets = of_tunnel.chain(of_peers).filter(|(net, has_clients)| {
        let same_family = |other: &IpNet| is_v4(other) == is_v4(net);
        // This machine reaches its LAN directly, whatever addresses clients have.
        let answered = *has_clients && !on_lan.iter().any(|lan| lan.contains(&net.trunc()));
        // A peer with a prefix of length 0 must not become the host's default route.
        net.prefix_len() > 0 && (answered || no_nat.iter().any(same_family))
    });
    IpNet::aggregate(&nets.map(|(net, _)| net.trunc()).collect())
}

/// Returns the rules of a peer; by default, all networks of the LAN, all clients, and the services of
/// this machine that are open to clients. Every peer may ask for names. Its own rules name the
/// addresses that it knows, the engine's rules those of the LAN.
fn rules(networks: &[IpNet], own: Option<&[reach::Rule]>, config: &Config) -> Vec<Rule> {
    let netmap = &config.lan.netmap;
    let of_config = |rules: &[reach::Rule]| -> Vec<Rule> {
        rules
            .iter()
            .flat_map(|rule| rules_of(rule, netmap))
            .collect()
    };
    let mut rules = match own {
        Some(rules) => of_config(rules),
        None => {
            let networks = networks.iter().copied().map(Rule::network);
            // It has an effect only with `client_to_client`.
            let all = networks.chain([Rule::all(Destination::Clients)]);
            all.chain(of_config(&config.interface.services)).collect()
        }
    };
    if config.dns.enabled {
        rules.extend([IpProtocol::Udp, IpProtocol::Tcp].map(|protocol| Rule {
            destination: Destination::Gateway,
            protocol: Some(protocol),
            ports: Some(53..=53),
        }));
    }
    rules
}

/// Returns the engine's rules for one of the configuration: one with ports but no protocol means TCP
/// and UDP, and ICMP means that of both families.
fn rules_of(rule: &reach::Rule, netmap: &NetMap) -> Vec<Rule> {
    let protocols: &[Option<IpProtocol>] = match (rule.protocol, &rule.ports) {
        (Some(reach::Protocol::Tcp), _) => &[Some(IpProtocol::Tcp)],
        (Some(reach::Protocol::Udp), _) => &[Some(IpProtocol::Udp)],
        (Some(reach::Protocol::Icmp), _) => &[Some(IpProtocol::Icmp), Some(IpProtocol::Icmpv6)],
        (None, Some(_)) => &[Some(IpProtocol::Tcp), Some(IpProtocol::Udp)],
        (None, None) => &[None],
    };
    let destinations = match rule.hosts {
        reach::Hosts::All => vec![Destination::Anywhere],
        reach::Hosts::Net(net) => {
            let nets = netmap.lan_networks(net).into_iter();
            nets.map(Destination::Net).collect()
        }
        reach::Hosts::Gateway => vec![Destination::Gateway],
    };
    let of_destination = |destination: Destination| {
        protocols.iter().map(move |&protocol| Rule {
            destination: destination.clone(),
            protocol,
            ports: rule.ports.clone(),
        })
    };
    destinations.into_iter().flat_map(of_destination).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_addresses_and_the_tunnel_are_routed_but_never_the_lan_itself() {
        let dir = tempfile::tempdir().unwrap();
        let key = crate::keys::PrivateKey::from([1; 32]);
        crate::keys::KeyFile::write_new(&key, &dir.path().join("server.key")).unwrap();
        let routed = |no_nat: &str, on_lan: &str, peers: &[&str]| {
            let text = format!(
                "[interface]\nprivate_key_file = \"server.key\"\n[nat]\nno_nat = [{no_nat}]\n"
            );
            let config = crate::config::parse(&text, &dir.path().join("vcgate.toml"));
            let peers = peers.iter().map(|net| net.parse().unwrap());
            let nets = super::routed(&config.unwrap().config, &[on_lan.parse().unwrap()], peers);
            nets.iter().map(IpNet::to_string).collect::<Vec<_>>()
        };
        let lan = "192.168.77.0/24";
        let peers = [
            "10.8.0.2/32",
            "10.9.0.2/32",
            "172.16.0.0/16",
            "192.168.77.9/32",
            "0.0.0.0/0",
        ];
        assert_eq!(routed("", lan, &peers), ["10.8.0.0/24", "10.9.0.2/32"]);
        let all = [
            "10.8.0.0/24",
            "10.9.0.2/32",
            "172.16.0.0/16",
            "192.168.77.9/32",
        ];
        assert_eq!(routed("\"172.20.0.0/16\"", lan, &peers), all);
        assert_eq!(routed("", "10.8.0.0/24", &["10.8.0.2/32"]), [""; 0]);
    }

    #[test]
    fn a_prefix_that_covers_the_lan_is_found() {
        let nets =
            |nets: &[&str]| -> Vec<IpNet> { nets.iter().map(|n| n.parse().unwrap()).collect() };
        let lan = nets(&["192.168.77.0/24", "fd00:77::/64"]);
        let peers = [
            ("client", nets(&["10.8.0.11/32", "fd00:8::11/128"])),
            ("site", nets(&["192.168.77.128/25", "192.168.0.0/16"])),
            ("all", nets(&["0.0.0.0/0", "::/0"])),
            ("same", nets(&["192.168.77.0/24"])),
        ];
        let peers = peers.iter().map(|(name, nets)| (*name, &**nets));
        let warnings: Vec<_> = covered(&lan, peers)
            .iter()
            .map(|(peer, prefix, network)| format!("{peer} {prefix} {network}"))
            .collect();
        let expected = [
            "site 192.168.0.0/16 192.168.77.0/24",
            "all 0.0.0.0/0 192.168.77.0/24",
            "all ::/0 fd00:77::/64",
            "same 192.168.77.0/24 192.168.77.0/24",
        ];
        assert_eq!(warnings, expected);
    }
}
