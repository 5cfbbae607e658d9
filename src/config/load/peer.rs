//! Reads `[[group]]` and `[[peer]]`.

use super::super::document::{Section, nearest};
use super::super::lifecycle::Lifecycle;
use super::super::problem::Diagnostic;
use super::super::value::{self, flag, inner, number, text};
use super::super::{Peer, check, pool, profile, reach};
use super::{ParsedPeer, Reader};
use crate::config::check::ParsedGroup;
use crate::keys::{KeyFile, PresharedKey};
use ipnet::IpNet;
use std::num::NonZeroU16;
use toml::Spanned;
use vcgate_core::engine::Rates;

impl Reader<'_> {
    /// Reads a group, to which peers below refer.
    pub(super) fn group(&mut self, mut section: Section<'_, '_>) {
        let problems = &mut self.problems;
        let name = section.get("name", problems, text(value::peer_name));
        section.require("name", problems, "give the group one, as name = \"staff\"");
        if let Some(name) = &name {
            section.set_label(format!("group {:?}: ", name.get_ref()));
        }
        let remedy = "write what its peers may reach, as [\"192.168.77.10:445\"]";
        section.require("reach", problems, remedy);
        let reach = section.list("reach", problems, text(str::parse::<reach::Rule>));
        section.finish(problems);
        if let Some(name) = name {
            self.parsed.groups.push(ParsedGroup {
                name,
                reach: reach.unwrap_or_default(),
            });
        }
    }

    pub(super) fn peer(&mut self, mut section: Section<'_, '_>) -> Option<Peer> {
        let problems = &mut self.problems;
        section.set_label(check::title(None) + ": ");
        let name = section.get("name", problems, text(value::peer_name));
        section.require("name", problems, "give the peer one, as name = \"anna\"");
        if let Some(name) = &name {
            section.set_label(check::title(Some(name.get_ref())) + ": ");
        }
        let remedy = "add what the client's app shows, or let \"vcgate peer add\" make a key";
        section.require("public_key", problems, remedy);
        let public_key = section.get("public_key", problems, text(value::public_key));
        let file = value::file("keys/anna.psk");
        let read_preshared = text(|text| {
            let path = self.dir.join(file(text)?);
            match PresharedKey::read(&path) {
                Ok(key) => Ok((key, path)),
                Err(error) => Err(Diagnostic::key_file(&error, "vcgate genpsk")),
            }
        });
        let preshared = section.get("preshared_key_file", problems, read_preshared);
        let remedy = "add the client's address in the tunnel, as [\"10.8.0.11/32\"]";
        section.require("allowed_ips", problems, remedy);
        let parse = text(value::prefix);
        let allowed_ips = section.filled_list("allowed_ips", problems, parse, remedy);
        let keepalive = section.get("persistent_keepalive", problems, number(0..=65535));
        let reach = section.list("reach", problems, text(str::parse::<reach::Rule>));
        let dns = section.get("dns", problems, flag);
        let rate_up = section.get("rate_up", problems, text(value::rate));
        let rate_down = section.get("rate_down", problems, text(value::rate));
        let example = "{ mtu = 1380 }";
        let (client, full_tunnel) =
            profile::read(section.inline_table("client", example, problems), problems);
        self.parsed.full_tunnels.extend(full_tunnel);
        let lan_address = section.get("lan_address", problems, text(pool::own_address));
        let disabled = section.get("disabled", problems, flag);
        let expires = section.get("expires", problems, value::time);
        let note = section.get("note", problems, text(value::note));
        let groups = &self.parsed.groups;
        let group = text(|name| known_group(name, groups));
        let groups = section.list("groups", problems, group);
        section.finish(problems);

        let allowed_ips = allowed_ips.unwrap_or_default();
        self.parsed.peers.push(ParsedPeer {
            name: name.clone(),
            public_key: public_key.clone(),
            allowed_ips: allowed_ips.clone(),
            reach: reach.clone().unwrap_or_default(),
            lan_address: lan_address.clone(),
        });
        let groups = groups.map(inner).unwrap_or_default();
        let (preshared_key, preshared_key_file) = preshared.map(Spanned::into_inner).unzip();
        Some(Peer {
            name: name?.into_inner(),
            public_key: public_key?.into_inner(),
            preshared_key,
            preshared_key_file,
            allowed_ips: inner(allowed_ips).iter().map(IpNet::trunc).collect(),
            persistent_keepalive: keepalive.and_then(|k| NonZeroU16::new(k.into_inner())),
            reach: self.effective_reach(reach.map(inner), &groups),
            dns: dns.is_none_or(Spanned::into_inner),
            client,
            rates: Rates {
                up: rate_up.map(Spanned::into_inner),
                down: rate_down.map(Spanned::into_inner),
            },
            lan_address: lan_address.map(Spanned::into_inner),
            lifecycle: Lifecycle {
                disabled: disabled.is_some_and(Spanned::into_inner),
                expires: expires.map(Spanned::into_inner),
                note: note.map(Spanned::into_inner),
                groups,
            },
        })
    }

    /// Returns a peer's own rules and those of its groups.
    fn effective_reach(
        &self,
        own: Option<Vec<reach::Rule>>,
        groups: &[String],
    ) -> Option<Vec<reach::Rule>> {
        if groups.is_empty() {
            return own;
        }
        let mut rules = own.unwrap_or_default();
        let of_groups = self.parsed.groups.iter();
        let of_groups = of_groups.filter(|group| groups.contains(group.name.get_ref()));
        for rule in of_groups.flat_map(|group| group.reach.iter().map(Spanned::get_ref)) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
        Some(rules)
    }
}

/// Accepts the name of a group.
fn known_group(name: &str, groups: &[ParsedGroup]) -> Result<String, Diagnostic> {
    let known: Vec<&str> = groups.iter().map(|g| g.name.get_ref().as_str()).collect();
    if known.contains(&name) {
        return Ok(name.to_owned());
    }
    let remedy = match nearest(name, &known) {
        Some(known) => format!("did you mean {known:?}?"),
        None => format!("add it: [[group]], name = {name:?}, reach = [...]"),
    };
    Err(Diagnostic::new(
        format!("there is no group {name:?}"),
        remedy,
    ))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{ANNA, BERT, assert_errors, assert_warnings, config_of, peer};
    use crate::time::Timestamp;

    const STAFF: &str = "[[group]]\nname = \"staff\"\nreach = [\"192.168.77.10:445\", \"icmp\"]\n";

    #[test]
    fn the_state_of_a_peer_is_read() {
        let keys = "allowed_ips = [\"10.8.0.11\"]\ndisabled = true\n\
                    expires = 2027-01-31T19:00:00+01:00\nnote = \"Anna's laptop, 2nd floor\"";
        let config = config_of(&peer("anna", ANNA, keys));
        let life = &config.peers[0].lifecycle;
        assert!(life.disabled);
        assert_eq!(life.expires, Some(Timestamp(1_801_418_400)));
        assert_eq!(life.note.as_deref(), Some("Anna's laptop, 2nd floor"));
    }

    #[test]
    fn a_peer_has_its_own_rules_and_those_of_its_groups() {
        let group = "[[group]]\nname = \"web\"\nreach = [\"tcp/443\", \"icmp\"]\n";
        let text = |reach: &str, groups: &str| {
            let keys = format!("allowed_ips = [\"10.8.0.11\"]\n{reach}groups = [{groups}]");
            format!("{STAFF}{group}{}", peer("anna", ANNA, &keys))
        };
        let reach = |own: &str, groups: &str| {
            let config = config_of(&text(own, groups));
            let rules = config.peers[0].reach.clone();
            rules.map(|rules| rules.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let both = ["192.168.77.10/32:445", "icmp", "tcp/443"].map(str::to_owned);
        assert_eq!(reach("", "\"staff\", \"web\""), Some(both.to_vec()));
        assert_eq!(reach("reach = []\n", "\"staff\""), Some(both[..2].to_vec()));
        let own = reach("reach = [\"udp/53\"]\n", "\"web\"");
        let expected = ["udp/53", "tcp/443", "icmp"].map(str::to_owned);
        assert_eq!(own, Some(expected.to_vec()));
        assert_eq!(reach("", ""), None);
    }

    #[test]
    fn wrong_values_are_reported_with_their_remedies() {
        let keys = "allowed_ips = [\"10.8.0.11\"]\nexpires = \"2027-01-31\"\ngroups = [\"stuff\"]";
        assert_errors(
            &format!("{STAFF}{}", peer("anna", ANNA, keys)),
            &[
                "vcgate.toml:8: peer \"anna\": expires: expected a date and time, found a text; write it without quotes and with its offset, as 2027-01-31T18:00:00Z",
                "vcgate.toml:9: peer \"anna\": groups: there is no group \"stuff\"; did you mean \"staff\"?",
            ],
        );
        let keys = "allowed_ips = [\"10.8.0.11\"]\nexpires = 2027-01-31T18:00:00\nnote = \"a\\nb\"\ngroups = [\"web\"]";
        assert_errors(
            &peer("anna", ANNA, keys),
            &[
                "vcgate.toml:5: peer \"anna\": expires: 2027-01-31T18:00:00 is not a point in time; write it without quotes and with its offset, as 2027-01-31T18:00:00Z",
                "vcgate.toml:6: peer \"anna\": note: \"a\\nb\" has control characters; write one line of plain text",
                "vcgate.toml:7: peer \"anna\": groups: there is no group \"web\"; add it: [[group]], name = \"web\", reach = [...]",
            ],
        );
        assert_errors(
            &format!("{STAFF}{STAFF}[[group]]\nname = \"empty\"\n"),
            &[
                "vcgate.toml:5: a second group is called \"staff\"; give it another name than the one of line 2",
                "vcgate.toml:7: group \"empty\": reach is missing; write what its peers may reach, as [\"192.168.77.10:445\"]",
            ],
        );
    }

    #[test]
    fn rules_of_groups_are_checked_like_those_of_peers() {
        let bert = peer(
            "bert",
            BERT,
            "allowed_ips = [\"10.8.0.12\"]\ngroups = [\"staff\"]",
        );
        assert_warnings(
            &format!("[lan]\nnetworks = [\"192.168.78.0/24\"]\n{STAFF}{bert}"),
            &[
                "vcgate.toml:5: group \"staff\": reach: 192.168.77.10/32 is in none of lan.networks; add its network to lan.networks, or nothing will reach it",
            ],
        );
    }
}
