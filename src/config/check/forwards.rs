//! Checks of forwards and of destinations without translation.

use super::super::problem::{Collector, Diagnostic};
use super::super::{LanAddress, Transport};
use super::{ParsedFile, ParsedForward, PrefixSet, host_prefix, overlap};
use std::collections::HashMap;
use std::net::SocketAddr;
use toml::Spanned;

impl ParsedFile {
    pub(super) fn check_no_nat(&self, problems: &mut Collector<'_>) {
        for given in &self.no_nat {
            let (place, net) = (given.span().start, given.get_ref().trunc());
            if net.addr().is_ipv6() && !self.lan_has_ipv6() {
                let what = format!("nat.no_nat: {net} is IPv6, which the LAN side has not");
                problems.error(place, Diagnostic::new(what, self.ipv6_remedy()));
                continue;
            }
            let mut tunnels = self.addresses.iter().map(|a| a.get_ref().trunc());
            if let Some(tunnel) = tunnels.find(|tunnel| overlap(tunnel, &net)) {
                let what = format!("nat.no_nat: {net} meets the tunnel's {tunnel}");
                let remedy =
                    "take it out; clients reach one another with interface.client_to_client";
                problems.error(place, Diagnostic::new(what, remedy));
            }
            if self.check_mapped_no_nat(given, problems) {
                continue;
            }
            let in_lan = |lan: &ipnet::IpNet| lan.contains(&net);
            let networks = &self.networks;
            if !networks.is_empty() && !networks.iter().any(|lan| in_lan(lan.get_ref())) {
                let what = format!("nat.no_nat: {net} is not in lan.networks");
                let remedy = "add it there too, or only clients whose reach names it get there";
                problems.warning(place, Diagnostic::new(what, remedy));
            }
        }
    }

    pub(super) fn check_forwards(&self, clients: &PrefixSet, problems: &mut Collector<'_>) {
        let (mut ports, mut targets) = (HashMap::new(), HashMap::new());
        for fact in &self.forwards {
            let (port, to) = (fact.forward.port(), fact.forward.to);
            // A port of a LAN address can have one target in each address family.
            let lan = fact.forward.lan_address;
            if let Some(first) = ports.insert((port, to.is_ipv6(), lan), fact.port) {
                let what = format!(
                    "LAN port {port} is forwarded in line {} too",
                    problems.line(first)
                );
                problems.error(fact.port, Diagnostic::new(what, "choose another lan_port"));
            }
            if let Some(first) = targets.insert((port.proto, to), fact.target) {
                let line = problems.line(first);
                let what = format!("forward {port}: {to} has a LAN port in line {line} already");
                let remedy = "one is enough: it is seen by that port only";
                problems.error(fact.target, Diagnostic::new(what, remedy));
            }
            self.check_forward(fact, clients, problems);
        }
    }

    /// Checks one forward by itself.
    fn check_forward(
        &self,
        fact: &ParsedForward,
        clients: &PrefixSet,
        problems: &mut Collector<'_>,
    ) {
        let (port, to) = (fact.forward.port(), fact.forward.to);
        let (title, lan) = (format!("forward {port}"), fact.forward.lan_address);
        self.check_forward_address(&title, fact.port, lan, to.ip(), problems);
        let shared = match to {
            _ if lan.is_some() => false,
            SocketAddr::V4(_) => is_auto(&self.lan_address),
            SocketAddr::V6(_) => is_auto(&self.lan_address6),
        };
        if to.is_ipv6() && !self.lan_has_ipv6() {
            let what = format!("forward {port}: {to} is IPv6, which the LAN side has not");
            problems.error(fact.target, Diagnostic::new(what, self.ipv6_remedy()));
        }
        let tunnels = port.proto == Transport::Udp && port.number == self.listen_port;
        if shared && tunnels {
            let what = format!("forward {port}: clients' tunnels come in by this port");
            let key = match to {
                SocketAddr::V4(_) => "lan.address",
                SocketAddr::V6(_) => "lan.address6",
            };
            let remedy = format!("choose another lan_port, or give {key} an address of its own");
            problems.error(fact.port, Diagnostic::new(what, remedy));
        }
        if !clients.overlaps(&host_prefix(to.ip())) {
            let what = format!("forward {port}: {} is in no peer's allowed_ips", to.ip());
            let remedy = "forward to an address of a client, or add it to the client's allowed_ips";
            problems.error(fact.target, Diagnostic::new(what, remedy));
        }
    }

    /// Whether the LAN side has IPv6. By default, it has if the tunnel has.
    fn lan_has_ipv6(&self) -> bool {
        self.lan_address6.is_some() || (is_auto(&self.lan_address) && self.has_ipv6())
    }

    /// Returns the remedy for a LAN side without IPv6.
    fn ipv6_remedy(&self) -> &'static str {
        match is_auto(&self.lan_address) {
            true => "add an IPv6 address to interface.address, as \"fd00:8::1/64\"",
            false => "give it IPv6 with lan.address6; \"auto\" will do",
        }
    }
}

/// Whether clients share the machine's own address, which is the default.
fn is_auto<A: PartialEq>(address: &Option<Spanned<LanAddress<A>>>) -> bool {
    let auto = |given: &Spanned<LanAddress<A>>| *given.get_ref() == LanAddress::Auto;
    address.as_ref().is_none_or(auto)
}
