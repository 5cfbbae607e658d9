//! The names that are known here: static records, names of peers, and the addresses of both in reverse
//! zones. It sends no question.

use crate::name::{DnsName, address_of, below, is_single, label_of, parse};
use crate::settings::{Peer, Settings};
use domain::base::iana::Rtype;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use vcgate_core::netmap::NetMap;

/// The label of the zone of peers, below each search domain.
const PEERS: &str = "peers";
/// The client that asks: its number in [`Settings::peers`], if it has one.
pub(crate) type Asker = Option<usize>;

/// The names that are known here.
#[derive(Debug)]
pub(crate) struct Names {
    hosts: HashMap<DnsName, Host>,
    pointers: HashMap<IpAddr, (DnsName, Asker)>,
    /// The zones of peers, of which all names are known.
    zones: Vec<DnsName>,
    search: Vec<DnsName>,
    tunnel: Vec<IpNet>,
    netmap: NetMap,
    reveal_peers: bool,
}

#[derive(Debug, Default)]
struct Host {
    addresses: Vec<IpAddr>,
    /// The peer that it is.
    peer: Asker,
}

/// An answer from what is known here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known<'n> {
    /// Addresses of the family that was asked for; none if it was another type.
    Addresses(Vec<IpAddr>),
    /// The name of an address.
    Pointer(&'n DnsName),
    /// The name does not exist.
    NoName,
}

impl Names {
    pub(crate) fn new(settings: &Settings) -> Self {
        let search: Vec<DnsName> = settings
            .search
            .iter()
            .filter_map(|name| parse(name))
            .collect();
        let zones = search.iter().filter_map(|domain| below(PEERS, domain));
        let mut names = Self {
            hosts: HashMap::new(),
            pointers: HashMap::new(),
            zones: zones.collect(),
            search,
            tunnel: settings.tunnel.clone(),
            netmap: settings.netmap.clone(),
            reveal_peers: settings.reveal_peers,
        };
        for (name, addresses) in &settings.records {
            names.add_record(name, addresses);
        }
        names.add_peers(&settings.peers);
        names
    }

    fn add_record(&mut self, name: &str, addresses: &[IpAddr]) {
        let Some(name) = parse(name) else { return };
        let mut all = vec![name.clone()];
        if is_single(&name) {
            let label = name.first().to_string();
            all.splice(
                0..0,
                self.search
                    .iter()
                    .filter_map(|domain| below(&label, domain)),
            );
        }
        if let Some(full) = all.first() {
            for address in addresses {
                let entry = self.pointers.entry(*address);
                entry.or_insert_with(|| (full.clone(), None));
            }
        }
        for name in all {
            self.hosts
                .entry(name)
                .or_default()
                .addresses
                .extend(addresses);
        }
    }

    fn add_peers(&mut self, peers: &[Peer]) {
        let mut labels = BTreeSet::new();
        for (number, peer) in peers.iter().enumerate() {
            let label = label_of(&peer.name);
            // The first of two peers with one label has it.
            if !labels.insert(label.clone()) {
                continue;
            }
            let full_length = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
            let addresses = peer.prefixes.iter().filter(full_length).map(IpNet::addr);
            let addresses: Vec<IpAddr> = addresses.collect();
            let names = self.zones.iter().filter_map(|zone| below(&label, zone));
            let names: Vec<DnsName> = names.collect();
            if let Some(name) = names.first() {
                for address in &addresses {
                    let entry = self.pointers.entry(*address);
                    entry.or_insert_with(|| (name.clone(), Some(number)));
                }
            }
            for name in names {
                let host = Host {
                    addresses: addresses.clone(),
                    peer: Some(number),
                };
                self.hosts.insert(name, host);
            }
        }
    }

    /// Answers a question, if the name is known here.
    pub(crate) fn find(&self, asker: Asker, name: &DnsName, rtype: Rtype) -> Option<Known<'_>> {
        if let Some(address) = address_of(name) {
            return match self.netmap.to_lan(address) {
                Some(lan) => self.find_pointer(asker, lan, rtype),
                None => Some(Known::NoName),
            };
        }
        if let Some(host) = self.hosts.get(name) {
            return Some(match self.reveals(asker, host.peer) {
                true => Known::Addresses(of_family(&host.addresses, rtype)),
                false => Known::NoName,
            });
        }
        if self.zones.contains(name) {
            return Some(Known::Addresses(Vec::new()));
        }
        let in_zone = |zone: &DnsName| name.ends_with(zone);
        self.zones.iter().any(in_zone).then_some(Known::NoName)
    }

    fn find_pointer(&self, asker: Asker, address: IpAddr, rtype: Rtype) -> Option<Known<'_>> {
        let in_tunnel = self.tunnel.iter().any(|net| net.contains(&address));
        match self.pointers.get(&address) {
            Some((name, peer)) if self.reveals(asker, *peer) => Some(match rtype {
                Rtype::PTR => Known::Pointer(name),
                _ => Known::Addresses(Vec::new()),
            }),
            Some((_, Some(_))) => Some(Known::NoName),
            _ if in_tunnel => Some(Known::NoName),
            _ => None,
        }
    }

    /// Whether a client may see the name of a peer.
    fn reveals(&self, asker: Asker, peer: Asker) -> bool {
        self.reveal_peers || peer.is_none() || peer == asker
    }
}

/// Returns those of the family that a type asks for.
pub(crate) fn of_family(addresses: &[IpAddr], rtype: Rtype) -> Vec<IpAddr> {
    let wanted = |address: &&IpAddr| match rtype {
        Rtype::A => address.is_ipv4(),
        Rtype::AAAA => address.is_ipv6(),
        _ => false,
    };
    addresses.iter().filter(wanted).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate_core::netmap::PrefixMap;

    fn dns(name: &str) -> DnsName {
        parse(name).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn settings() -> Settings {
        let peer = |name: &str, prefixes: &[&str]| Peer {
            name: name.into(),
            prefixes: prefixes.iter().map(|net| net.parse().unwrap()).collect(),
        };
        Settings {
            search: vec!["lan.example".into(), "b.example".into()],
            records: vec![
                (
                    "filesrv".into(),
                    vec![ip("192.168.77.10"), ip("fd00:77::10")],
                ),
                ("www.example.net".into(), vec![ip("192.168.77.11")]),
            ],
            peers: vec![
                peer("laptop1", &["10.8.0.11/32", "fd00:8::11/128"]),
                peer("Anna@home", &["10.8.0.12/32", "192.168.50.0/24"]),
            ],
            tunnel: vec!["10.8.0.0/24".parse().unwrap()],
            ..Settings::default()
        }
    }

    /// Answers as client 0.
    fn find(names: &Names, name: &str, rtype: Rtype) -> Option<String> {
        names
            .find(Some(0), &dns(name), rtype)
            .map(|known| match known {
                Known::Addresses(addresses) => format!("{addresses:?}"),
                Known::Pointer(name) => name.to_string(),
                Known::NoName => "no name".into(),
            })
    }

    #[test]
    fn records_are_known_alone_and_under_each_search_domain() {
        let names = Names::new(&settings());
        for name in ["filesrv", "FILESRV.lan.example", "filesrv.b.example"] {
            let found = |rtype| find(&names, name, rtype).unwrap();
            assert_eq!(found(Rtype::A), "[192.168.77.10]");
            assert_eq!(found(Rtype::AAAA), "[fd00:77::10]");
            assert_eq!(found(Rtype::MX), "[]");
        }
        assert_eq!(
            find(&names, "www.example.net", Rtype::A).unwrap(),
            "[192.168.77.11]"
        );
        assert_eq!(find(&names, "www", Rtype::A), None);
        let back = |name| find(&names, name, Rtype::PTR);
        assert_eq!(
            back("10.77.168.192.in-addr.arpa").unwrap(),
            "filesrv.lan.example"
        );
        assert_eq!(
            back("11.77.168.192.in-addr.arpa").unwrap(),
            "www.example.net"
        );
        assert_eq!(
            back("12.77.168.192.in-addr.arpa"),
            None,
            "the LAN's own zone"
        );
    }

    #[test]
    fn a_client_knows_its_own_name_and_others_only_where_clients_meet() {
        let own = "laptop1.peers.lan.example";
        let other = "anna-home.peers.b.example";
        let mut settings = settings();
        for (reveal_peers, expected) in [(false, "no name"), (true, "[10.8.0.12]")] {
            settings.reveal_peers = reveal_peers;
            let names = Names::new(&settings);
            assert_eq!(find(&names, own, Rtype::A).unwrap(), "[10.8.0.11]");
            assert_eq!(find(&names, other, Rtype::A).unwrap(), expected);
            let back = |last| find(&names, &format!("{last}.0.8.10.in-addr.arpa"), Rtype::PTR);
            assert_eq!(back(11).unwrap(), own);
            assert_eq!(back(13).unwrap(), "no name");
            let name = match reveal_peers {
                true => "anna-home.peers.lan.example",
                false => "no name",
            };
            assert_eq!(back(12).unwrap(), name);
        }
    }

    #[test]
    fn the_zone_of_peers_is_never_forwarded() {
        let names = Names::new(&settings());
        assert_eq!(find(&names, "peers.lan.example", Rtype::SOA).unwrap(), "[]");
        let unknown = find(&names, "x.y.peers.lan.example", Rtype::A);
        assert_eq!(unknown.unwrap(), "no name");
        assert_eq!(find(&names, "peers.example.net", Rtype::A), None);
    }

    #[test]
    fn reverse_names_of_mapped_addresses_lead_to_the_lan() {
        let map = PrefixMap::new(
            "192.168.77.0/24".parse().unwrap(),
            "10.77.1.0/24".parse().unwrap(),
        );
        let names = Names::new(&Settings {
            netmap: NetMap::new(vec![map.unwrap()]).unwrap(),
            ..settings()
        });
        let back = |name| find(&names, name, Rtype::PTR);
        assert_eq!(
            back("10.1.77.10.in-addr.arpa").unwrap(),
            "filesrv.lan.example"
        );
        assert_eq!(back("10.77.168.192.in-addr.arpa").unwrap(), "no name");
        assert_eq!(back("12.1.77.10.in-addr.arpa"), None);
    }
}
