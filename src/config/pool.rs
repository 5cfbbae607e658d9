//! Several addresses on the LAN: the notation of a pool, and the checks of pools and of addresses
//! that only one peer uses.

use super::check::{ParsedFile, ParsedPeer};
use super::document::kind;
use super::problem::{Collector, Diagnostic};
use super::{Change, Config, Forward, LanAddress, Peer, value};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use toml::Spanned;
use toml::de::DeValue;

/// Maximum number of addresses that clients share.
const MAX_POOL: usize = 256;

/// A LAN address besides the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FurtherAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// The name of the only peer that uses it; `None` if clients share it.
    pub peer: Option<String>,
}

impl Config {
    /// Returns the LAN addresses besides the first ones: those of the pool and those of single peers.
    pub fn further_addresses(&self) -> Vec<FurtherAddress> {
        let pool = self.lan.pool.iter().map(|address| FurtherAddress {
            address: *address,
            peer: None,
        });
        let own = self.peers.iter().filter_map(|peer| {
            Some(FurtherAddress {
                address: peer.lan_address?,
                peer: Some(peer.name.clone()),
            })
        });
        pool.chain(own).collect()
    }

    /// Returns the changes of forwards to a peer whose own LAN address becomes another one: those at
    /// that address, or at the first one without an own one, follow.
    pub fn moved_forwards(&self, old: &Peer, new: &Peer) -> Vec<Change> {
        if old.lan_address == new.lan_address {
            return Vec::new();
        }
        let leads_there = |forward: &&Forward| {
            let owner = self.owner(forward.to.ip());
            forward.to.is_ipv4()
                && forward.lan_address == old.lan_address
                && owner.is_some_and(|owner| owner.public_key == old.public_key)
        };
        let moved = self.forwards.iter().filter(leads_there);
        let changes = moved.flat_map(|forward| {
            let lan_address = new.lan_address;
            let there = Forward {
                lan_address,
                ..*forward
            };
            [
                Change::ForwardRemoved(*forward),
                Change::ForwardAdded(there),
            ]
        });
        changes.collect()
    }
}

/// The addresses that clients share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LanPool {
    pub first: LanAddress,
    /// In the order of the file.
    pub further: Vec<Ipv4Addr>,
}

/// Parses `"auto"`, an address, a range of addresses, or a list of both.
pub(super) fn lan_pool(given: &DeValue<'_>) -> Result<LanPool, Diagnostic> {
    let mut all = Vec::new();
    match given {
        DeValue::String(text) if text == "auto" => {
            let (first, further) = (LanAddress::Auto, all);
            return Ok(LanPool { first, further });
        }
        DeValue::String(text) => all.extend(range(text)?),
        DeValue::Array(items) => {
            for item in items.iter() {
                let DeValue::String(text) = item.get_ref() else {
                    let what = format!("expected a text, found {}", kind(item.get_ref()));
                    return Err(Diagnostic::new(what, "write each address in quotes"));
                };
                all.extend(range(text)?);
            }
        }
        other => {
            let what = format!("expected an address, found {}", kind(other));
            let remedy = "write a free address of the LAN in quotes, or \"auto\"";
            return Err(Diagnostic::new(what, remedy));
        }
    }
    if all.len() > MAX_POOL {
        let what = format!("{} addresses are too many", all.len());
        let remedy = format!("write up to {MAX_POOL}; each serves thousands of clients");
        return Err(Diagnostic::new(what, remedy));
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = all.iter().find(|address| !seen.insert(**address)) {
        let what = format!("{twice} is there twice");
        return Err(Diagnostic::new(what, "write each address once"));
    }
    let mut all = all.into_iter();
    let first = all.next().map(LanAddress::Fixed);
    let first = first.ok_or_else(|| {
        Diagnostic::new(
            "the list is empty",
            "add a free address of the LAN, or write \"auto\"",
        )
    })?;
    let further = all.collect();
    Ok(LanPool { first, further })
}

/// Parses the address that only one peer uses.
pub(super) fn own_address(text: &str) -> Result<Ipv4Addr, Diagnostic> {
    let remedy = "write a free IPv4 address of the LAN, as \"192.168.77.50\"";
    match value::lan_address(text)? {
        LanAddress::Fixed(address) => Ok(address),
        LanAddress::Auto => Err(Diagnostic::new("\"auto\" is not an address", remedy)),
    }
}

/// Parses an address or a range with its first and last address.
fn range(text: &str) -> Result<Vec<Ipv4Addr>, Diagnostic> {
    let Some((first, last)) = text.split_once('-') else {
        return own_address(text).map(|address| vec![address]);
    };
    let (first, last) = (own_address(first.trim())?, own_address(last.trim())?);
    if first > last {
        let what = format!("{text:?} ends before it begins");
        return Err(Diagnostic::new(what, format!("write \"{last}-{first}\"")));
    }
    let (from, to) = (first.to_bits(), last.to_bits());
    if (to - from) as usize >= MAX_POOL {
        let what = format!("{text:?} has {} addresses", u64::from(to - from) + 1);
        let remedy = format!("write up to {MAX_POOL}; each serves thousands of clients");
        return Err(Diagnostic::new(what, remedy));
    }
    Ok((from..=to).map(Ipv4Addr::from_bits).collect())
}

impl ParsedFile {
    /// Returns the further addresses of the pool and the addresses of single peers.
    pub(super) fn further_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let own = self
            .peers
            .iter()
            .filter_map(|peer| peer.lan_address.as_ref());
        let own = own.map(|address| *address.get_ref());
        self.lan_pool.iter().copied().chain(own)
    }

    /// Checks the further addresses of the pool, and those that only one peer uses.
    pub(super) fn check_further_addresses(&self, problems: &mut Collector<'_>) {
        let place = self
            .lan_address
            .as_ref()
            .map_or(0, |given| given.span().start);
        for address in &self.lan_pool {
            self.check_lan_address("lan.address", place, (*address).into(), problems);
        }
        let first = self.lan_address.as_ref().map(Spanned::get_ref);
        let first = first.and_then(LanAddress::fixed);
        let shared: Vec<_> = first
            .into_iter()
            .chain(self.lan_pool.iter().copied())
            .collect();
        let mut owners: HashMap<Ipv4Addr, &ParsedPeer> = HashMap::new();
        for peer in &self.peers {
            let Some(given) = &peer.lan_address else {
                continue;
            };
            let (place, address) = (given.span().start, *given.get_ref());
            let key = format!("{}: lan_address", peer.title());
            self.check_lan_address(&key, place, address.into(), problems);
            let taken = match owners.insert(address, peer) {
                Some(other) => Some(format!("is that of {}", other.title())),
                None if shared.contains(&address) => Some("is in lan.address".to_owned()),
                None => None,
            };
            if let Some(taken) = taken {
                let what = format!("{key}: {address} {taken}");
                let remedy = "choose a free address of the LAN for this peer alone";
                problems.error(place, Diagnostic::new(what, remedy));
            }
        }
    }

    /// Checks the LAN address of a forward: one of those that clients share, or that of the peer
    /// itself.
    pub(super) fn check_forward_address(
        &self,
        title: &str,
        place: usize,
        lan: Option<Ipv4Addr>,
        to: IpAddr,
        problems: &mut Collector<'_>,
    ) {
        let Some(lan) = lan else {
            return;
        };
        let first = self.lan_address.as_ref().map(Spanned::get_ref);
        let first = first.and_then(LanAddress::fixed);
        let owner = self.peers.iter().find(|peer| {
            let own = peer.lan_address.as_ref().map(Spanned::get_ref);
            own == Some(&lan)
        });
        let is_target = |peer: &ParsedPeer| {
            let mut nets = peer.allowed_ips.iter();
            nets.any(|net| net.get_ref().contains(&to))
        };
        let is_shared = first == Some(lan) || self.lan_pool.contains(&lan);
        let (what, remedy) = match owner {
            _ if to.is_ipv6() => (
                format!("{title}: {lan} is IPv4, and {to} is IPv6"),
                "leave lan_address out for lan.address6",
            ),
            Some(peer) if !is_target(peer) => (
                format!("{title}: {lan} is that of {}", peer.title()),
                "forward to that peer, or choose an address of lan.address",
            ),
            None if !is_shared => (
                format!("{title}: {lan} is none of the LAN addresses"),
                "choose one of lan.address, or the lan_address of the peer",
            ),
            Some(_) | None => return,
        };
        problems.error(place, Diagnostic::new(what, remedy));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ANNA, BERT, assert_errors, assert_warnings, config_of, peer};
    use super::*;

    fn lan(address: &str) -> String {
        format!("[lan]\naddress = {address}\nnetworks = [\"192.168.77.0/24\"]\n")
    }

    #[test]
    fn a_pool_is_an_address_a_range_or_a_list() {
        let parsed = |text: &str| {
            let text = format!("a = {text}");
            let table = toml::de::DeTable::parse(&text).unwrap();
            let pool = lan_pool(table.get_ref().get("a").unwrap().get_ref()).unwrap();
            let first = pool.first.fixed().map_or(String::new(), |a| a.to_string());
            let further = pool.further.iter().map(Ipv4Addr::to_string);
            std::iter::once(first)
                .chain(further)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(parsed("\"auto\""), "");
        assert_eq!(parsed("\"192.168.77.2\""), "192.168.77.2");
        assert_eq!(
            parsed("\"192.168.77.254-192.168.78.1\""),
            "192.168.77.254 192.168.77.255 192.168.78.0 192.168.78.1"
        );
        assert_eq!(
            parsed("[\"192.168.77.9\", \"192.168.77.3 - 192.168.77.4\"]"),
            "192.168.77.9 192.168.77.3 192.168.77.4"
        );
    }

    #[test]
    fn wrong_pools_are_reported() {
        assert_warnings(&lan("\"192.168.77.10-192.168.77.40\""), &[]);
        for (address, message) in [
            (
                "[]",
                "the list is empty; add a free address of the LAN, or write \"auto\"",
            ),
            (
                "[\"192.168.77.2\", \"192.168.77.1-192.168.77.3\"]",
                "192.168.77.2 is there twice; write each address once",
            ),
            (
                "\"192.168.77.9-192.168.77.3\"",
                "\"192.168.77.9-192.168.77.3\" ends before it begins; write \"192.168.77.3-192.168.77.9\"",
            ),
            (
                "\"192.168.0.1-192.168.77.3\"",
                "\"192.168.0.1-192.168.77.3\" has 19715 addresses; write up to 256; each serves thousands of clients",
            ),
            (
                "[\"192.168.77.2\", \"auto\"]",
                "\"auto\" is not an address; write a free IPv4 address of the LAN, as \"192.168.77.50\"",
            ),
            (
                "[\"192.168.77.2\", \"192.168.77.255\"]",
                "192.168.77.255 is not a host address of 192.168.77.0/24; choose a free address between its first and its last",
            ),
            (
                "[\"192.168.77.2\", \"10.8.0.9\"]",
                "10.8.0.9 is in the tunnel's 10.8.0.0/24; choose a free address of the LAN",
            ),
        ] {
            let text = format!("[interface]\naddress = [\"10.8.0.1/24\"]\n{}", lan(address));
            assert_errors(&text, &[&format!("vcgate.toml:4: lan.address: {message}")]);
        }
    }

    const SITE: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

    /// A LAN with two shared addresses and two peers.
    fn peers(anna: &str, bert: &str, more: &str) -> String {
        let inner = |last| format!("allowed_ips = [\"10.8.0.{last}/32\"]");
        let anna = peer(
            "anna",
            ANNA,
            &format!("{}\nlan_address = {anna}", inner(11)),
        );
        let bert = peer(
            "bert",
            BERT,
            &format!("{}\nlan_address = {bert}", inner(12)),
        );
        let lan = lan("\"192.168.77.2-192.168.77.3\"");
        format!("[interface]\naddress = [\"10.8.0.1/24\"]\n{lan}{anna}{bert}{more}")
    }

    #[test]
    fn an_address_of_one_peer_is_no_other_s() {
        let good = peers("\"192.168.77.50\"", "\"192.168.77.51\"", "");
        assert_warnings(&good, &[]);
        let config = config_of(&good);
        let own = config.peer("anna").and_then(|anna| anna.lan_address);
        assert_eq!(own, Some(Ipv4Addr::new(192, 168, 77, 50)));
        let free = "choose a free address of the LAN for this peer alone";
        for (bert, message) in [
            (
                "192.168.77.50",
                format!("192.168.77.50 is that of peer \"anna\"; {free}"),
            ),
            (
                "192.168.77.3",
                format!("192.168.77.3 is in lan.address; {free}"),
            ),
            (
                "10.8.0.40",
                "10.8.0.40 is in the tunnel's 10.8.0.0/24; choose a free address of the LAN".into(),
            ),
        ] {
            let text = peers("\"192.168.77.50\"", &format!("\"{bert}\""), "");
            let expected = format!("vcgate.toml:15: peer \"bert\": lan_address: {message}");
            assert_errors(&text, &[&expected]);
        }
        let site = peer("site", SITE, "allowed_ips = [\"192.168.77.48/30\"]");
        let text = peers("\"192.168.77.50\"", "\"192.168.77.51\"", &site);
        let expected = "vcgate.toml:19: peer \"site\": allowed_ips: 192.168.77.48/30 covers the LAN \
                        address 192.168.77.50; write only what is behind this peer";
        assert_errors(&text, &[expected]);
    }

    #[test]
    fn a_forward_is_of_a_shared_address_or_of_its_peer_s() {
        let with = |forward: &str| {
            let forward = format!("[[forward]]\nlan_port = 8443\n{forward}\n");
            peers("\"192.168.77.50\"", "\"192.168.77.51\"", &forward)
        };
        let lan = |text: &str| {
            let address = config_of(&with(text)).forwards[0].lan_address;
            address.map(|address| address.to_string())
        };
        let to_anna = "to = \"10.8.0.11:443\"";
        assert_eq!(lan(to_anna).as_deref(), Some("192.168.77.50"));
        let shared = format!("{to_anna}\nlan_address = \"192.168.77.3\"");
        assert_eq!(lan(&shared).as_deref(), Some("192.168.77.3"));
        for (address, message) in [
            (
                "192.168.77.51",
                "192.168.77.51 is that of peer \"bert\"; forward to that peer, or choose an address of lan.address",
            ),
            (
                "192.168.77.60",
                "192.168.77.60 is none of the LAN addresses; choose one of lan.address, or the lan_address of the peer",
            ),
        ] {
            let text = with(&format!("{to_anna}\nlan_address = \"{address}\""));
            let expected = format!("vcgate.toml:17: forward tcp/8443: {message}");
            assert_errors(&text, &[&expected]);
        }
    }
}
