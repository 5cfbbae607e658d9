//! Peers by public key: `wg` knows keys only, so names and rules come from the configuration.

use super::active_config::ActiveConfig;
use crate::config::{Config, reach};
use crate::keys::PublicKey;
use ipnet::IpNet;
use smoltcp::wire::IpProtocol;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use vcgate_core::engine::{Destination, Rates, Rule};
use vcgate_core::netmap::NetMap;

/// The settings of a peer that the engine needs besides its keys and addresses.
#[derive(Debug, Clone)]
pub(super) struct PeerEntry {
    pub name: String,
    pub rules: Vec<Rule>,
    pub rates: Rates,
    /// The LAN address that only this peer uses.
    pub lan_address: Option<Ipv4Addr>,
}

/// The names, rules and rates of peers that a change may add.
#[derive(Debug, Clone)]
pub(super) struct PeerDirectory {
    /// The peers that the configuration or a command has named.
    named: HashMap<PublicKey, PeerEntry>,
    /// The rules of all other peers.
    others: Vec<Rule>,
}

impl PeerDirectory {
    /// Returns the directory of the peers with these keys.
    pub(super) fn new<'a>(
        active: &ActiveConfig,
        keys: impl Iterator<Item = &'a PublicKey>,
    ) -> Self {
        let named = active.config.peers.iter();
        let named: HashMap<_, _> = named.map(|peer| (peer.public_key, peer)).collect();
        let entry = |key: &PublicKey| {
            let peer = named.get(key)?;
            let rules = active.rules(peer.reach.as_deref());
            let entry = PeerEntry {
                name: peer.name.clone(),
                rules,
                rates: peer.rates,
                lan_address: peer.lan_address,
            };
            Some((*key, entry))
        };
        Self {
            named: keys.filter_map(entry).collect(),
            others: active.rules(None),
        }
    }

    /// Returns the entry of a peer. An unknown peer is named by the beginning of its
    /// key.
    pub(super) fn of(&self, key: &PublicKey) -> PeerEntry {
        let unknown = || PeerEntry {
            name: key.to_string().chars().take(8).collect(),
            rules: self.others.clone(),
            rates: Rates::default(),
            lan_address: None,
        };
        self.named.get(key).cloned().unwrap_or_else(unknown)
    }
}

/// Returns the rules of a peer; by default, all networks of the LAN, all clients, and the services of
/// this machine that are open to clients. Every peer may ask for names. Its own rules name the
/// addresses that it knows, the engine's rules those of the LAN.
pub(super) fn rules(networks: &[IpNet], own: Option<&[reach::Rule]>, config: &Config) -> Vec<Rule> {
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
