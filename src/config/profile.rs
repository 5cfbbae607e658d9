//! `[client]` and `client` of a peer: values of client files that differ from those that vcgate
//! chooses. They change no rule: `reach` alone decides which packets of a client pass.

use super::document::Section;
use super::problem::{Collector, Diagnostic};
use super::value::{self, DomainName, flag, inner, number, text};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use toml::Spanned;

/// The limits of `mtu`, as those of `interface.mtu`.
const MTU_LIMITS: std::ops::RangeInclusive<i64> = 576..=65455;

/// Values of a client's file; `None` is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientProfile {
    /// The `DNS` line: servers and search domains; empty for none.
    pub dns: Option<Vec<DnsEntry>>,
    /// The `MTU` line, in bytes.
    pub mtu: Option<u16>,
    /// The `PersistentKeepalive` line, in seconds; 0 for none.
    pub keepalive: Option<u16>,
    /// Whether all traffic of the client goes through the tunnel.
    pub full_tunnel: Option<bool>,
    /// The networks of the `AllowedIPs` line.
    pub allowed_ips: Option<Vec<IpNet>>,
}

/// The networks that a client's file routes into the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routes<'a> {
    /// Those that the client may reach.
    Reachable,
    /// All.
    All,
    /// These.
    Given(&'a [IpNet]),
}

impl ClientProfile {
    /// Returns these values, with those of `default` where one is missing. A peer that has one of
    /// `full_tunnel` and `allowed_ips` takes over neither.
    pub(super) fn or(&self, default: &Self) -> Self {
        let own = self.clone();
        let routes = match own.full_tunnel.is_some() || own.allowed_ips.is_some() {
            true => (own.full_tunnel, own.allowed_ips),
            false => (default.full_tunnel, default.allowed_ips.clone()),
        };
        Self {
            dns: own.dns.or_else(|| default.dns.clone()),
            mtu: own.mtu.or(default.mtu),
            keepalive: own.keepalive.or(default.keepalive),
            full_tunnel: routes.0,
            allowed_ips: routes.1,
        }
    }

    /// Returns the networks to route into the tunnel.
    pub(super) fn routes(&self) -> Routes<'_> {
        match (self.full_tunnel, &self.allowed_ips) {
            (Some(true), _) => Routes::All,
            (_, Some(given)) => Routes::Given(given),
            (_, None) => Routes::Reachable,
        }
    }
}

/// One entry of a client's `DNS` line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DnsEntry {
    /// A server.
    Server(IpAddr),
    /// A search domain.
    Search(DomainName),
}

impl FromStr for DnsEntry {
    type Err = Diagnostic;

    fn from_str(text: &str) -> Result<Self, Diagnostic> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Server(address));
        }
        // A name of digits only is an address with a typing error.
        let has_letter = text.contains(|c: char| c.is_ascii_alphabetic());
        let domain = DomainName::new(text).ok().filter(|_| has_letter);
        domain.map(Self::Search).ok_or_else(|| {
            let what = format!("{text:?} is neither an address nor a domain name");
            Diagnostic::new(what, "write it like \"192.168.77.10\" or \"lan.example\"")
        })
    }
}

impl fmt::Display for DnsEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(address) => address.fmt(f),
            Self::Search(domain) => domain.fmt(f),
        }
    }
}

impl TryFrom<String> for DnsEntry {
    type Error = Diagnostic;

    fn try_from(text: String) -> Result<Self, Diagnostic> {
        text.parse()
    }
}

impl From<DnsEntry> for String {
    fn from(entry: DnsEntry) -> Self {
        entry.to_string()
    }
}

/// Reads a profile, and returns the offset of `full_tunnel = true`.
pub(super) fn read(
    mut section: Section<'_, '_>,
    problems: &mut Collector<'_>,
) -> (ClientProfile, Option<usize>) {
    let dns = section.list("dns", problems, text(str::parse::<DnsEntry>));
    let mtu = section.get("mtu", problems, number(MTU_LIMITS));
    let keepalive = section.get("keepalive", problems, number(0..=65535));
    let full_tunnel = section.get("full_tunnel", problems, flag);
    let remedy = "name a network, or leave it out for those that the client may reach";
    let parse = text(value::prefix);
    let allowed_ips = section.filled_list("allowed_ips", problems, parse, remedy);
    let is_full = full_tunnel.as_ref().filter(|full| *full.get_ref());
    let full_at = is_full.map(|full| full.span().start);
    if let (Some(place), Some(_)) = (full_at, &allowed_ips) {
        let what = "full_tunnel and allowed_ips exclude each other";
        problems.error(place, Diagnostic::new(what, "keep one of the two"));
    }
    section.finish(problems);
    let profile = ClientProfile {
        dns: dns.map(inner),
        mtu: mtu.map(Spanned::into_inner),
        keepalive: keepalive.map(Spanned::into_inner),
        full_tunnel: full_tunnel.map(Spanned::into_inner),
        allowed_ips: allowed_ips.map(|nets| inner(nets).iter().map(IpNet::trunc).collect()),
    };
    (profile, full_at)
}

/// Warns about full tunnels through an endpoint that leads to a part of the Internet only.
pub(super) fn check(
    full_tunnels: &[usize],
    networks: &[Spanned<IpNet>],
    problems: &mut Collector<'_>,
) {
    let leads_anywhere = networks.iter().any(|net| net.get_ref().prefix_len() == 0);
    for place in full_tunnels.iter().filter(|_| !leads_anywhere) {
        let what =
            "full_tunnel: lan.networks has no default route, so other traffic of clients ends here";
        let remedy = "add \"0.0.0.0/0\" to networks under [lan], or leave full_tunnel out";
        problems.warning(*place, Diagnostic::new(what, remedy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{ANNA, assert_errors, assert_warnings, config_of, peer};

    const ADDRESS: &str = "allowed_ips = [\"10.8.0.11\"]\n";

    #[test]
    fn a_peer_has_its_own_values_and_the_common_ones() {
        let common = "[client]\nmtu = 1300\nkeepalive = 0\nfull_tunnel = true\n\
                      dns = [\"192.168.77.10\", \"Lan.Example\"]\n\
                      [lan]\nnetworks = [\"0.0.0.0/0\"]\n";
        let own = "client = { mtu = 1280, allowed_ips = [\"10.1.0.9/16\"] }\n";
        let config = config_of(&format!(
            "{common}{}",
            peer("anna", ANNA, &(ADDRESS.to_owned() + own))
        ));
        let profile = config.peers[0].client.or(&config.client);
        let net = "10.1.0.0/16".parse().unwrap();
        assert_eq!((profile.mtu, profile.keepalive), (Some(1280), Some(0)));
        assert_eq!(profile.routes(), Routes::Given(&[net]));
        let dns: Vec<_> = profile
            .dns
            .iter()
            .flatten()
            .map(ToString::to_string)
            .collect();
        assert_eq!(dns, ["192.168.77.10", "lan.example"]);
        assert_eq!(
            ClientProfile::default().or(&config.client).routes(),
            Routes::All
        );
        let split = ClientProfile {
            full_tunnel: Some(false),
            ..ClientProfile::default()
        };
        assert_eq!(split.or(&config.client).routes(), Routes::Reachable);
        let json = serde_json::to_string(&config.client).unwrap();
        assert_eq!(
            serde_json::from_str::<ClientProfile>(&json).unwrap(),
            config.client
        );
    }

    #[test]
    fn wrong_values_are_reported() {
        let line = "client = { dns = [\"10.8.0\"], mtu = 100, full_tunnel = true, allowed_ips = [\"10.0.0.0/8\"], speed = 1 }\n";
        assert_errors(
            &peer("anna", ANNA, &(ADDRESS.to_owned() + line)),
            &[
                "vcgate.toml:5: peer \"anna\": client.dns: \"10.8.0\" is neither an address nor a domain name; write it like \"192.168.77.10\" or \"lan.example\"",
                "vcgate.toml:5: peer \"anna\": client.mtu: 100 is out of range; choose one from 576 to 65455",
                "vcgate.toml:5: full_tunnel and allowed_ips exclude each other; keep one of the two",
                "vcgate.toml:5: unknown key \"speed\" in client; known keys are dns, mtu, keepalive, full_tunnel, allowed_ips",
            ],
        );
        assert_errors(
            &peer("anna", ANNA, &(ADDRESS.to_owned() + "client = true\n")),
            &[
                "vcgate.toml:5: peer \"anna\": client: expected a section, found true or false; write it like client = { mtu = 1380 }",
            ],
        );
    }

    #[test]
    fn a_full_tunnel_needs_a_default_route() {
        assert_warnings(
            "[client]\nfull_tunnel = true\n[lan]\nnetworks = [\"192.168.77.0/24\"]\n",
            &[
                "vcgate.toml:2: full_tunnel: lan.networks has no default route, so other traffic of clients ends here; add \"0.0.0.0/0\" to networks under [lan], or leave full_tunnel out",
            ],
        );
        assert_warnings(
            "[client]\nfull_tunnel = true\n[lan]\nnetworks = [\"0.0.0.0/0\"]\n",
            &[],
        );
    }
}
