//! Checks that compare several values: duplicates, overlaps, and addresses that exclude one another.

use super::problem::{Collector, Diagnostic};
use super::reach::{Hosts, Rule};
use super::{Forward, LanAddress, Limits, dns, host_prefix, profile};
use crate::keys::PublicKey;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use toml::Spanned;
use vcgate_core::engine::MAX_ADDRESSES;
use vcgate_core::netmap::PrefixMap;

/// Minimum MTU of a link with IPv6 in bytes (RFC 8200, section 5).
const MIN_IPV6_MTU: u16 = 1280;

/// The values of a file with their offsets. Invalid values are left out.
#[derive(Default)]
pub(super) struct ParsedFile {
    pub mtu: (usize, u16),
    pub own_key: Option<PublicKey>,
    pub addresses: Vec<Spanned<IpNet>>,
    pub shards: Option<Spanned<u8>>,
    pub limits: Limits,
    /// The offset of `lan.interface`.
    pub lan_interface: Option<usize>,
    pub lan_address: Option<Spanned<LanAddress>>,
    /// The further addresses of `lan.address`.
    pub lan_pool: Vec<Ipv4Addr>,
    pub lan_address6: Option<Spanned<LanAddress<Ipv6Addr>>>,
    pub networks: Vec<Spanned<IpNet>>,
    /// The networks that clients know by other addresses, with the same offsets.
    pub maps: Vec<Spanned<PrefixMap>>,
    pub peers: Vec<ParsedPeer>,
    pub groups: Vec<ParsedGroup>,
    pub listen_port: u16,
    pub client_to_client: bool,
    pub no_nat: Vec<Spanned<IpNet>>,
    pub forwards: Vec<ParsedForward>,
    /// The offset of `nat.log_file`.
    pub log_file: Option<usize>,
    /// The offsets of `full_tunnel = true`.
    pub full_tunnels: Vec<usize>,
    /// Servers of `[dns]`.
    pub dns_servers: Vec<Spanned<SocketAddr>>,
}

/// One forward of a file, with the offsets of its port and its target.
pub(super) struct ParsedForward {
    pub port: usize,
    pub target: usize,
    pub forward: Forward,
}

/// The values of one peer with their offsets.
pub(super) struct ParsedPeer {
    pub name: Option<Spanned<String>>,
    pub public_key: Option<Spanned<PublicKey>>,
    pub allowed_ips: Vec<Spanned<IpNet>>,
    pub reach: Vec<Spanned<Rule>>,
    pub lan_address: Option<Spanned<Ipv4Addr>>,
}

/// The values of one group with their offsets.
pub(super) struct ParsedGroup {
    pub name: Spanned<String>,
    pub reach: Vec<Spanned<Rule>>,
}

impl ParsedPeer {
    pub(super) fn title(&self) -> String {
        title(self.name.as_ref().map(|name| name.get_ref().as_str()))
    }
}

/// Returns the text by which problems refer to a peer.
pub(super) fn title(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("peer {name:?}"),
        None => "a peer".to_owned(),
    }
}

impl ParsedFile {
    /// Reports the problems of all checks.
    pub(super) fn check(&self, problems: &mut Collector<'_>) {
        self.check_own_addresses(problems);
        self.check_tunnel(problems);
        self.check_shards(problems);
        self.check_lan_addresses(problems);
        self.check_further_addresses(problems);
        self.check_identities(problems);
        self.check_allowed_ips(problems);
        let clients = PrefixSet::new(self.peers.iter().flat_map(|peer| &peer.allowed_ips));
        self.check_maps(&clients, problems);
        self.check_reach(&clients, problems);
        self.check_no_nat(problems);
        self.check_forwards(&clients, problems);
        self.check_port_log(problems);
        dns::check(&self.dns_servers, &self.own_addresses(), problems);
        profile::check(&self.full_tunnels, &self.networks, problems);
    }

    /// Checks that the endpoint has one address in each network of the tunnel.
    fn check_own_addresses(&self, problems: &mut Collector<'_>) {
        for (at, address) in self.addresses.iter().enumerate() {
            let (place, net) = (address.span().start, address.get_ref());
            let mut before = self.addresses.iter().take(at);
            if let Some(other) = before.find(|other| overlap(other.get_ref(), net)) {
                let what = format!(
                    "interface.address: {net} is in the network of {}",
                    other.get_ref()
                );
                let remedy = "give the endpoint one address in each network";
                problems.error(place, Diagnostic::new(what, remedy));
            }
            if at == MAX_ADDRESSES {
                let what = format!("interface.address: {net} is one too many");
                let remedy = format!("give the endpoint {MAX_ADDRESSES} addresses at most");
                problems.error(place, Diagnostic::new(what, remedy));
            }
        }
    }

    fn check_tunnel(&self, problems: &mut Collector<'_>) {
        let (place, mtu) = self.mtu;
        if let Some(address) = self.ipv6().filter(|_| mtu < MIN_IPV6_MTU) {
            let what = format!(
                "interface.mtu: {mtu} is too small for {}",
                address.get_ref()
            );
            let remedy = format!("IPv6 needs at least {MIN_IPV6_MTU}");
            problems.error(place, Diagnostic::new(what, remedy));
        }
        for network in &self.networks {
            let (place, network) = (network.span().start, network.get_ref().trunc());
            for tunnel in self.addresses.iter().map(|a| a.get_ref().trunc()) {
                if tunnel.contains(&network) {
                    let what = format!("lan.networks: {network} is in the tunnel's {tunnel}");
                    let remedy = "give interface.address a network that is used nowhere else";
                    problems.error(place, Diagnostic::new(what, remedy));
                } else if network.contains(&tunnel) && network.prefix_len() > 0 {
                    let what = format!("lan.networks: {network} is around the tunnel's {tunnel}");
                    let remedy = "right if the LAN has no hosts there; else move the tunnel";
                    problems.warning(place, Diagnostic::new(what, remedy));
                }
            }
        }
    }

    /// Returns the addresses of the endpoint in the tunnel and, as far as they are fixed, on the LAN.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let tunnel = self.addresses.iter().map(|net| net.get_ref().addr());
        let lan = self.lan_address.as_ref();
        let lan = lan.and_then(|address| LanAddress::fixed(address.get_ref()));
        let lan6 = self.lan_address6.as_ref();
        let lan6 = lan6.and_then(|address| LanAddress::fixed(address.get_ref()));
        let lan = lan.map(IpAddr::V4).into_iter();
        tunnel.chain(lan).chain(lan6.map(IpAddr::V6)).collect()
    }

    /// Whether the tunnel has IPv6.
    pub(super) fn has_ipv6(&self) -> bool {
        self.ipv6().is_some()
    }

    fn ipv6(&self) -> Option<&Spanned<IpNet>> {
        self.addresses.iter().find(|a| a.get_ref().addr().is_ipv6())
    }

    fn check_lan_addresses(&self, problems: &mut Collector<'_>) {
        let fixed = self.lan_address.as_ref().and_then(|given| {
            let LanAddress::Fixed(address) = *given.get_ref() else {
                return None;
            };
            self.check_lan_address("lan.address", given.span().start, address.into(), problems);
            Some(given)
        });
        let Some(given) = &self.lan_address6 else {
            if let (Some(address), Some(_)) = (self.ipv6(), fixed) {
                let what = format!("interface.address: {} leads nowhere", address.get_ref());
                let remedy = "give the LAN side IPv6 too, with lan.address6; \"auto\" will do";
                problems.warning(address.span().start, Diagnostic::new(what, remedy));
            }
            return;
        };
        let place = given.span().start;
        if !self.has_ipv6() {
            let what = "lan.address6: the tunnel has no IPv6 that could be translated";
            let remedy = "add an IPv6 address to interface.address, as \"fd00:8::1/64\"";
            problems.warning(place, Diagnostic::new(what, remedy));
        }
        if let LanAddress::Fixed(address) = *given.get_ref() {
            self.check_lan_address("lan.address6", place, address.into(), problems);
        }
    }

    pub(super) fn check_lan_address(
        &self,
        key: &str,
        place: usize,
        address: IpAddr,
        problems: &mut Collector<'_>,
    ) {
        let holds = |net: &&Spanned<IpNet>| net.get_ref().contains(&address);
        if let Some(tunnel) = self.addresses.iter().find(holds) {
            let what = format!(
                "{key}: {address} is in the tunnel's {}",
                tunnel.get_ref().trunc()
            );
            problems.error(
                place,
                Diagnostic::new(what, "choose a free address of the LAN"),
            );
            return;
        }
        if self.networks.is_empty() {
            return;
        }
        let Some(network) = self.networks.iter().find(holds) else {
            let what = format!("{key}: {address} is in none of lan.networks");
            let remedy = "clients reach none of its neighbours; add its network if they shall";
            problems.warning(place, Diagnostic::new(what, remedy));
            return;
        };
        let network = network.get_ref();
        // IPv6 has no broadcasts; its first address is the subnet's routers' (RFC 4291 section 2.6.1).
        let last = address.is_ipv4() && network.broadcast() == address;
        let small = network.max_prefix_len() - network.prefix_len() < 2;
        if (network.network() == address || last) && !small {
            let what = format!(
                "{key}: {address} is not a host address of {}",
                network.trunc()
            );
            let remedy = "choose a free address between its first and its last";
            problems.error(place, Diagnostic::new(what, remedy));
        }
    }

    fn check_identities(&self, problems: &mut Collector<'_>) {
        for (name, first) in duplicates(self.groups.iter().map(|group| &group.name)) {
            let what = format!("a second group is called {:?}", name.get_ref());
            let line = problems.line(first.span().start);
            let remedy = format!("give it another name than the one of line {line}");
            problems.error(name.span().start, Diagnostic::new(what, remedy));
        }
        let names = self.peers.iter().filter_map(|peer| peer.name.as_ref());
        for (name, first) in duplicates(names) {
            let what = format!("a second peer is called {:?}", name.get_ref());
            let line = problems.line(first.span().start);
            let remedy = format!("give it another name than the one of line {line}");
            problems.error(name.span().start, Diagnostic::new(what, remedy));
        }
        let keys = self
            .peers
            .iter()
            .filter_map(|peer| peer.public_key.as_ref());
        for (key, first) in duplicates(keys) {
            let line = problems.line(first.span().start);
            let what = format!("public_key {} is that of line {line}", key.get_ref());
            let remedy = "each client needs a key of its own; let \"vcgate peer add\" make one";
            problems.error(key.span().start, Diagnostic::new(what, remedy));
        }
        for peer in &self.peers {
            let own = |key: &&Spanned<PublicKey>| Some(*key.get_ref()) == self.own_key;
            if let Some(key) = peer.public_key.as_ref().filter(own) {
                let what = format!("{}: public_key is the endpoint's own", peer.title());
                let remedy = "put the client's public key here";
                problems.error(key.span().start, Diagnostic::new(what, remedy));
            }
        }
    }

    fn check_allowed_ips(&self, problems: &mut Collector<'_>) {
        let mut seen: BTreeMap<IpNet, (usize, usize)> = BTreeMap::new();
        for (index, peer) in self.peers.iter().enumerate() {
            for given in &peer.allowed_ips {
                let (place, net) = (given.span().start, given.get_ref().trunc());
                self.check_allowed_ip(peer, given, problems);
                let Some((other, first)) = seen.insert(net, (index, place)) else {
                    continue;
                };
                let line = problems.line(first);
                if other == index {
                    let what = format!("{}: allowed_ips: {net} stands here twice", peer.title());
                    let remedy = format!("take it out, it is in line {line} too");
                    problems.warning(place, Diagnostic::new(what, remedy));
                } else {
                    let whose = self
                        .peers
                        .get(other)
                        .map_or_else(String::new, ParsedPeer::title);
                    let what = format!(
                        "{}: allowed_ips: {net} is that of {whose} (line {line})",
                        peer.title()
                    );
                    problems.error(
                        place,
                        Diagnostic::new(what, "an address can be only one peer's"),
                    );
                }
            }
        }
        self.check_contained(&seen, problems);
    }

    /// Checks one prefix by itself.
    fn check_allowed_ip(
        &self,
        peer: &ParsedPeer,
        given: &Spanned<IpNet>,
        problems: &mut Collector<'_>,
    ) {
        let (place, net) = (given.span().start, given.get_ref());
        let title = peer.title();
        if net.addr() != net.network() {
            let what = format!("{title}: allowed_ips: {net} means all of {}", net.trunc());
            let one = host_prefix(net.addr());
            let remedy = format!("write \"{one}\" for the one address");
            problems.warning(place, Diagnostic::new(what, remedy));
        }
        let own = |address: &&Spanned<IpNet>| host_prefix(address.get_ref().addr()) == net.trunc();
        if self.addresses.iter().any(|address| own(&address)) {
            let what = format!("{title}: allowed_ips: {net} is the endpoint's own address");
            problems.error(
                place,
                Diagnostic::new(what, "choose another address of the tunnel"),
            );
            return;
        }
        if self.check_against_lan(&title, given, problems) {
            return;
        }
        let inside = |address: &Spanned<IpNet>| address.get_ref().trunc().contains(net);
        if !self.addresses.is_empty() && !self.addresses.iter().any(inside) {
            let tunnel: Vec<String> = self
                .addresses
                .iter()
                .map(|address| address.get_ref().trunc().to_string())
                .collect();
            let what = format!(
                "{title}: allowed_ips: {net} is outside the tunnel's {}",
                tunnel.join(", ")
            );
            let remedy = "right for a network behind this peer; else choose an address inside";
            problems.warning(place, Diagnostic::new(what, remedy));
        }
    }

    /// Checks that a prefix covers neither a LAN network nor the LAN address: packets to a peer's
    /// prefix do not reach the LAN. Returns whether it reported an error.
    fn check_against_lan(
        &self,
        title: &str,
        given: &Spanned<IpNet>,
        problems: &mut Collector<'_>,
    ) -> bool {
        let (place, net) = (given.span().start, given.get_ref().trunc());
        let four = self.lan_address.as_ref().map(Spanned::get_ref);
        let six = self.lan_address6.as_ref().map(Spanned::get_ref);
        let fixed = [
            four.and_then(LanAddress::fixed).map(IpAddr::from),
            six.and_then(LanAddress::fixed).map(IpAddr::from),
        ];
        let further = self.further_addresses().map(IpAddr::from);
        let mut own = fixed.into_iter().flatten().chain(further);
        let own = own.find(|own| net.contains(own));
        let mut networks = self
            .networks
            .iter()
            .map(|network| network.get_ref().trunc());
        let covered = networks.find(|network| net.contains(network));
        let (what, remedy) = match (covered, own) {
            (Some(network), _) => (
                format!("{title}: allowed_ips: {net} covers {network} of lan.networks"),
                "no client would reach the LAN; write only what is behind this peer",
            ),
            (None, Some(own)) => (
                format!("{title}: allowed_ips: {net} covers the LAN address {own}"),
                "write only what is behind this peer",
            ),
            (None, None) => return false,
        };
        problems.error(place, Diagnostic::new(what, remedy));
        true
    }

    /// Warns of prefixes within another peer's prefix. This is valid, since the longest prefix wins,
    /// and intended for a site with a client in its network.
    fn check_contained(
        &self,
        seen: &BTreeMap<IpNet, (usize, usize)>,
        problems: &mut Collector<'_>,
    ) {
        for (net, (index, place)) in seen {
            let mut wider = std::iter::successors(net.supernet(), IpNet::supernet);
            let around = wider.find_map(|wide| {
                let (other, _) = seen.get(&wide).filter(|(other, _)| other != index)?;
                Some((wide, *other))
            });
            let Some((wide, other)) = around else {
                continue;
            };
            let title = |index| {
                self.peers
                    .get(index)
                    .map_or_else(String::new, ParsedPeer::title)
            };
            let what = format!(
                "{}: allowed_ips: {net} is taken out of {wide} of {}",
                title(*index),
                title(other)
            );
            let remedy = "right if intended, the longest prefix wins; else choose another";
            problems.warning(*place, Diagnostic::new(what, remedy));
        }
    }

    fn check_reach(&self, clients: &PrefixSet, problems: &mut Collector<'_>) {
        if self.networks.is_empty() {
            return;
        }
        let of_peers = self.peers.iter().map(|peer| (peer.title(), &peer.reach));
        let of_groups = self.groups.iter();
        let of_groups = of_groups.map(|g| (format!("group {:?}", g.name.get_ref()), &g.reach));
        for (title, rules) in of_peers.chain(of_groups) {
            for rule in rules {
                let Hosts::Net(net) = rule.get_ref().hosts else {
                    continue;
                };
                let meets = |network: &Spanned<IpNet>| overlap(network.get_ref(), &net);
                if self.addresses.iter().any(meets) || clients.overlaps(&net) {
                    if !self.client_to_client {
                        let what = format!("{title}: reach: {net} is a client's");
                        let remedy = "set interface.client_to_client, or it stays out of reach";
                        problems.warning(rule.span().start, Diagnostic::new(what, remedy));
                    }
                    continue;
                }
                if self.check_mapped_reach(&title, rule, problems) {
                    continue;
                }
                if !self.networks.iter().any(meets) {
                    let what = format!("{title}: reach: {net} is in none of lan.networks");
                    let remedy = "add its network to lan.networks, or nothing will reach it";
                    problems.warning(rule.span().start, Diagnostic::new(what, remedy));
                }
            }
        }
    }
}

mod forwards;
mod maps;
mod ports;

pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Prefixes that are looked up without a walk over all of them.
pub(super) struct PrefixSet(BTreeSet<IpNet>);

impl PrefixSet {
    fn new<'a>(nets: impl Iterator<Item = &'a Spanned<IpNet>>) -> Self {
        Self(nets.map(|net| net.get_ref().trunc()).collect())
    }

    /// Whether a prefix of the set overlaps `net`: contains it, or begins in it.
    pub(super) fn overlaps(&self, net: &IpNet) -> bool {
        let first = IpNet::new_assert(net.network(), 0);
        let last = host_prefix(net.broadcast());
        let mut wider = std::iter::successors(net.trunc().supernet(), IpNet::supernet);
        self.0.range(first..=last).next().is_some() || wider.any(|wide| self.0.contains(&wide))
    }
}

/// Returns each value that occurred before, with its first occurrence.
fn duplicates<'a, T: Eq + Hash + 'a>(
    values: impl Iterator<Item = &'a Spanned<T>>,
) -> Vec<(&'a Spanned<T>, &'a Spanned<T>)> {
    let mut first: HashMap<&T, &Spanned<T>> = HashMap::new();
    let mut duplicates = Vec::new();
    for value in values {
        match first.get(value.get_ref()) {
            Some(earlier) => duplicates.push((value, *earlier)),
            None => drop(first.insert(value.get_ref(), value)),
        }
    }
    duplicates
}

#[cfg(test)]
mod tests;
