//! Checks of LAN networks that clients know by other addresses, and of the keys that must name one
//! of the two.

use super::super::problem::{Collector, Diagnostic};
use super::super::reach::{Hosts, Rule};
use super::{LanAddress, ParsedFile, PrefixSet, overlap};
use ipnet::IpNet;
use std::net::IpAddr;
use toml::Spanned;

impl ParsedFile {
    /// Checks that each mapped prefix overlaps nothing else that clients can reach.
    pub(super) fn check_maps(&self, clients: &PrefixSet, problems: &mut Collector<'_>) {
        for (at, given) in self.maps.iter().enumerate() {
            let (place, map) = (given.span().start, given.get_ref());
            let client = map.client();
            if let Some(conflict) = self.conflict(at, clients) {
                let what = format!("lan.networks: {client} {conflict}");
                let remedy = format!(
                    "map {} to a prefix that neither the LAN nor clients use",
                    map.lan()
                );
                problems.error(place, Diagnostic::new(what, remedy));
            }
            if let Some(other) = self.served_twice(place, map.lan()) {
                let what = format!("lan.networks: {} is also in {other}", map.lan());
                let remedy = "clients know a host by one address: take one of the two out";
                problems.error(place, Diagnostic::new(what, remedy));
            }
            if clients.overlaps(&map.lan()) {
                let what = format!("lan.networks: {} overlaps clients' allowed_ips", map.lan());
                let remedy = "packets to these addresses go to that client; give it others";
                problems.error(place, Diagnostic::new(what, remedy));
            }
        }
    }

    /// Returns the conflict of the mapped prefix at this index with another prefix.
    fn conflict(&self, at: usize, clients: &PrefixSet) -> Option<String> {
        let given = self.maps.get(at)?;
        let client = given.get_ref().client();
        let overlaps = |net: &&IpNet| overlap(net, &client);
        // A default route means everything else.
        let served = self.networks.iter().map(Spanned::get_ref);
        let mut served = served.filter(|net| net.prefix_len() > 0);
        if let Some(net) = served.find(overlaps) {
            return Some(format!("overlaps the LAN's {}", net.trunc()));
        }
        let mut before = self.maps.iter().take(at).map(|map| map.get_ref().client());
        if let Some(net) = before.find(|net| overlaps(&net)) {
            return Some(format!("overlaps the mapped {net}"));
        }
        let mut tunnels = self.addresses.iter().map(Spanned::get_ref);
        if let Some(tunnel) = tunnels.find(overlaps) {
            return Some(format!("overlaps the tunnel's {}", tunnel.trunc()));
        }
        if clients.overlaps(&client) {
            return Some("overlaps clients' allowed_ips".to_owned());
        }
        let four = self.lan_address.as_ref().map(Spanned::get_ref);
        let six = self.lan_address6.as_ref().map(Spanned::get_ref);
        let fixed = [
            four.and_then(LanAddress::fixed).map(IpAddr::from),
            six.and_then(LanAddress::fixed).map(IpAddr::from),
        ];
        let own = fixed
            .into_iter()
            .flatten()
            .find(|own| client.contains(own))?;
        Some(format!("contains the LAN address {own}"))
    }

    /// Returns another entry of `lan.networks` that overlaps a mapped one.
    fn served_twice(&self, place: usize, lan: IpNet) -> Option<IpNet> {
        let others = self.networks.iter();
        let mut others = others.filter(|net| net.span().start != place);
        let other = others.find(|net| {
            let net = net.get_ref();
            net.prefix_len() > 0 && overlap(net, &lan)
        })?;
        Some(other.get_ref().trunc())
    }

    /// Checks a rule that names a mapped network; returns whether it does.
    pub(super) fn check_mapped_reach(
        &self,
        title: &str,
        rule: &Spanned<Rule>,
        problems: &mut Collector<'_>,
    ) -> bool {
        let Hosts::Net(net) = rule.get_ref().hosts else {
            return false;
        };
        let maps = || self.maps.iter().map(Spanned::get_ref);
        if maps().any(|map| overlap(&map.client(), &net)) {
            return true;
        }
        let Some(map) = maps().find(|map| map.lan().contains(&net)) else {
            return false;
        };
        let (lan, client) = (map.lan(), map.client());
        let what = format!("{title}: reach: {net} is in {lan}, which clients know as {client}");
        let remedy = format!("name the address in {client}, or nothing will reach it");
        problems.warning(rule.span().start, Diagnostic::new(what, remedy));
        true
    }

    /// Warns of a destination without translation that is named by the address for clients.
    pub(super) fn check_mapped_no_nat(
        &self,
        given: &Spanned<IpNet>,
        problems: &mut Collector<'_>,
    ) -> bool {
        let (place, net) = (given.span().start, given.get_ref().trunc());
        let mut maps = self.maps.iter().map(Spanned::get_ref);
        let Some(map) = maps.find(|map| overlap(&map.client(), &net)) else {
            return false;
        };
        let (lan, client) = (map.lan(), map.client());
        let what = format!("nat.no_nat: {net} overlaps {client}, which is {lan} on the LAN");
        let remedy = format!("name the LAN's own address in {lan}");
        problems.error(place, Diagnostic::new(what, remedy));
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{ANNA, assert_errors, assert_warnings, config_of, peer};

    fn networks(list: &str) -> String {
        format!("[lan]\nnetworks = [{list}]\n")
    }

    #[test]
    fn a_mapped_prefix_must_be_used_nowhere_else() {
        for (list, message) in [
            (
                "\"192.168.1.0/24 as 10.77.0.0/16\"",
                "cannot map 192.168.1.0/24: 192.168.1.0/24 and 10.77.0.0/16 have different lengths; write one of the same length, as \"10.77.0.0/24\"",
            ),
            (
                "\"192.168.1.0/24 as fd00::/64\"",
                "cannot map 192.168.1.0/24: 192.168.1.0/24 and fd00::/64 have different lengths; write one of the same address family and length",
            ),
            (
                "\"192.168.1.0/24 as 192.168.1.0/24\"",
                "cannot map 192.168.1.0/24: 192.168.1.0/24 and 192.168.1.0/24 overlap; choose a prefix that neither the LAN nor clients use elsewhere",
            ),
            (
                "\"192.168.1.0/24 to 10.77.1.0/24\"",
                "\"192.168.1.0/24 to 10.77.1.0/24\" is not an address with a prefix length; write it like \"10.8.0.11/32\" or \"fd00::11/128\"",
            ),
            (
                "\"192.168.1.0/24 as 10.77.1.0/24\", \"192.168.2.0/24 as 10.77.1.0/24\"",
                "10.77.1.0/24 overlaps the mapped 10.77.1.0/24; map 192.168.2.0/24 to a prefix that neither the LAN nor clients use",
            ),
            (
                "\"192.168.1.0/24 as 10.77.1.0/24\", \"10.77.0.0/16\"",
                "10.77.1.0/24 overlaps the LAN's 10.77.0.0/16; map 192.168.1.0/24 to a prefix that neither the LAN nor clients use",
            ),
            (
                "\"192.168.1.0/24 as 10.8.0.0/24\"",
                "10.8.0.0/24 overlaps the tunnel's 10.8.0.0/24; map 192.168.1.0/24 to a prefix that neither the LAN nor clients use",
            ),
            (
                "\"192.168.1.0/24 as 10.77.1.0/24\", \"192.168.0.0/16\"",
                "192.168.1.0/24 is also in 192.168.0.0/16; clients know a host by one address: take one of the two out",
            ),
        ] {
            let expected = format!("vcgate.toml:2: lan.networks: {message}");
            assert_errors(&networks(list), &[&expected]);
        }
        let everything = "\"192.168.1.0/24 as 10.77.1.0/24\", \"0.0.0.0/0\"";
        assert_warnings(&networks(everything), &[]);
    }

    #[test]
    fn neither_prefix_may_be_that_of_a_client() {
        let text = |lan: &str, client: &str, net: &str| {
            let anna = peer(
                "anna",
                ANNA,
                &format!("allowed_ips = [\"10.8.0.11\", \"{net}\"]"),
            );
            networks(&format!("\"{lan} as {client}\"")) + &anna
        };
        let outside = |net: &str| {
            format!(
                "vcgate.toml:6: peer \"anna\": allowed_ips: {net} is outside the tunnel's 10.8.0.0/24; right for a network behind this peer; else choose an address inside"
            )
        };
        let (lan, client) = ("192.168.1.0/24", "10.77.1.0/24");
        assert_errors(
            &text(lan, client, "10.77.1.9/32"),
            &[
                "vcgate.toml:2: lan.networks: 10.77.1.0/24 overlaps clients' allowed_ips; map 192.168.1.0/24 to a prefix that neither the LAN nor clients use",
            ],
        );
        assert_errors(
            &text(lan, client, "192.168.1.9/32"),
            &[
                "vcgate.toml:2: lan.networks: 192.168.1.0/24 overlaps clients' allowed_ips; packets to these addresses go to that client; give it others",
            ],
        );
        assert_warnings(
            &text(lan, client, "10.78.0.0/24"),
            &[&outside("10.78.0.0/24")],
        );
        assert_errors(
            "[lan]\naddress = \"10.77.1.2\"\nnetworks = [\"192.168.1.0/24 as 10.77.1.0/24\"]\n",
            &[
                "vcgate.toml:3: lan.networks: 10.77.1.0/24 contains the LAN address 10.77.1.2; map 192.168.1.0/24 to a prefix that neither the LAN nor clients use",
            ],
        );
    }

    #[test]
    fn reach_names_the_client_s_address_and_no_nat_the_lan_s() {
        let map = networks("\"192.168.1.0/24 as 10.77.1.0/24\"");
        let with = |reach: &str| {
            let keys = format!("allowed_ips = [\"10.8.0.11\"]\nreach = [\"{reach}\"]");
            format!("{map}{}", peer("anna", ANNA, &keys))
        };
        assert_warnings(&with("10.77.1.10:445"), &[]);
        assert_warnings(
            &with("192.168.1.10:445"),
            &[
                "vcgate.toml:7: peer \"anna\": reach: 192.168.1.10/32 is in 192.168.1.0/24, which clients know as 10.77.1.0/24; name the address in 10.77.1.0/24, or nothing will reach it",
            ],
        );
        let no_nat = |net: &str| format!("{map}[nat]\nno_nat = [\"{net}\"]\n");
        assert_warnings(&no_nat("192.168.1.0/24"), &[]);
        assert_errors(
            &no_nat("10.77.1.0/24"),
            &[
                "vcgate.toml:4: nat.no_nat: 10.77.1.0/24 overlaps 10.77.1.0/24, which is 192.168.1.0/24 on the LAN; name the LAN's own address in 192.168.1.0/24",
            ],
        );
    }

    #[test]
    fn client_files_contain_the_mapped_prefix() {
        let text = networks("\"192.168.1.0/24 as 10.77.1.0/24\", \"10.2.0.0/16\"");
        let anna = peer("anna", ANNA, "allowed_ips = [\"10.8.0.11\"]");
        let config = config_of(&(text + &anna));
        let client = crate::config::client(&config, "anna", &Default::default()).unwrap();
        let line = "\nAllowedIPs = 10.8.0.0/24, 10.77.1.0/24, 10.2.0.0/16\n";
        assert!(client.text.contains(line), "{}", *client.text);
    }
}
