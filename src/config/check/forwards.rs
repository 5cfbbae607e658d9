//! What crosses the gateway by exception: forwards, and destinations without translation.

use super::super::problem::{Collector, Wrong};
use super::super::{LanAddress, Transport};
use super::{Facts, ForwardFacts, PeerFacts, overlap};
use std::collections::HashMap;
use std::net::IpAddr;

impl Facts {
    pub(super) fn check_untranslated(&self, problems: &mut Collector<'_>) {
        for given in &self.untranslated {
            let (place, net) = (given.span().start, given.get_ref().trunc());
            if net.addr().is_ipv6() {
                let what = format!("nat.untranslated: {net} is IPv6, which is not routed");
                problems.error(place, Wrong::new(what, "name IPv4 networks only"));
                continue;
            }
            let mut tunnels = self.addresses.iter().map(|a| a.get_ref().trunc());
            if let Some(tunnel) = tunnels.find(|tunnel| overlap(tunnel, &net)) {
                let what = format!("nat.untranslated: {net} meets the tunnel's {tunnel}");
                let remedy =
                    "take it out; clients reach one another with interface.clients_may_meet";
                problems.error(place, Wrong::new(what, remedy));
            }
            let in_lan = |lan: &ipnet::IpNet| lan.contains(&net);
            let networks = &self.networks;
            if !networks.is_empty() && !networks.iter().any(|lan| in_lan(lan.get_ref())) {
                let what = format!("nat.untranslated: {net} is not in lan.networks");
                let remedy = "add it there too, or only clients whose reach names it get there";
                problems.warning(place, Wrong::new(what, remedy));
            }
        }
    }

    pub(super) fn check_forwards(&self, problems: &mut Collector<'_>) {
        let (mut ports, mut targets) = (HashMap::new(), HashMap::new());
        for fact in &self.forwards {
            let (port, to) = (fact.forward.port(), fact.forward.to);
            if let Some(first) = ports.insert(port, fact.port) {
                let what = format!(
                    "LAN port {port} is forwarded in line {} too",
                    problems.line(first)
                );
                problems.error(fact.port, Wrong::new(what, "choose another lan_port"));
            }
            if let Some(first) = targets.insert((port.proto, to), fact.target) {
                let line = problems.line(first);
                let what = format!("forward {port}: {to} has a LAN port in line {line} already");
                let remedy = "one is enough: it is seen by that port only";
                problems.error(fact.target, Wrong::new(what, remedy));
            }
            self.check_forward(fact, problems);
        }
    }

    /// One forward by itself.
    fn check_forward(&self, fact: &ForwardFacts, problems: &mut Collector<'_>) {
        let (port, to) = (fact.forward.port(), fact.forward.to);
        let is_auto = |lan: &toml::Spanned<LanAddress>| *lan.get_ref() == LanAddress::Auto;
        let shared = self.lan_address.as_ref().is_none_or(is_auto);
        let tunnels = port.proto == Transport::Udp && port.number == self.listen_port;
        if shared && tunnels {
            let what = format!("forward {port}: clients' tunnels come in by this port");
            let remedy = "choose another lan_port, or give lan.address an address of its own";
            problems.error(fact.port, Wrong::new(what, remedy));
        }
        let holds = |peer: &PeerFacts, ip: IpAddr| {
            let mut nets = peer.allowed_ips.iter();
            nets.any(|net| net.get_ref().contains(&ip))
        };
        if !self.peers.iter().any(|peer| holds(peer, to.ip())) {
            let what = format!("forward {port}: {} is in no peer's allowed_ips", to.ip());
            let remedy = "forward to an address of a client, or add it to the client's allowed_ips";
            problems.error(fact.target, Wrong::new(what, remedy));
        }
    }
}
