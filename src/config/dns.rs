//! `[dns]`: the names that clients can look up at the endpoint's tunnel address, and the lines for
//! them in client configurations. It asks no server.

use super::document::Section;
use super::problem::{Collector, Diagnostic};
use super::value::{DomainName, flag, inner, text};
use super::{Config, HostNetwork, Peer};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use toml::Spanned;
use toml::de::DeValue;

/// The search domain where neither the configuration nor the machine has one. The top level `internal`
/// is reserved for private use (ICANN resolution 2024.07.29.06).
pub const DEFAULT_SEARCH: &str = "lan.internal";
const PORT: u16 = 53;

/// The settings of the DNS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Whether the endpoint answers.
    pub enabled: bool,
    /// The search domains of clients; `None` is those of the machine.
    pub search: Option<Vec<DomainName>>,
    /// The servers to which questions are forwarded; empty means those of the machine.
    pub servers: Vec<SocketAddr>,
    /// Whether names that no server knows are looked up as NetBIOS names.
    pub netbios: bool,
    /// NetBIOS name servers; empty means broadcasts on the LAN.
    pub wins: Vec<Ipv4Addr>,
    /// `[dns.records]`: addresses by name.
    pub records: BTreeMap<DomainName, Vec<IpAddr>>,
}

impl Dns {
    /// Returns the search domains of clients, where the machine has those of `host`.
    pub fn search(&self, host: &[DomainName]) -> Vec<DomainName> {
        match (&self.search, host) {
            (Some(own), _) => own.clone(),
            (None, []) => vec![DomainName(DEFAULT_SEARCH.to_owned())],
            (None, host) => host.to_vec(),
        }
    }
}

impl Config {
    /// Returns the addresses in the tunnel at which clients look up names; `None` if DNS is switched
    /// off. The device has no IPv6 if the LAN side has none.
    pub fn dns_addresses(&self) -> Option<Vec<IpAddr>> {
        let own = self.interface.address.iter().map(|net| net.addr());
        let ipv6 = self.lan.address6.is_some();
        let usable = own.filter(|address| address.is_ipv4() || ipv6);
        self.dns.enabled.then(|| usable.collect())
    }
}

/// Reads `[dns]`. The offsets of servers are for [`check`].
pub(super) fn read(
    mut section: Section<'_, '_>,
    problems: &mut Collector<'_>,
) -> (Dns, Vec<Spanned<SocketAddr>>) {
    let enabled = section.get("enabled", problems, flag);
    let search = section.list("search", problems, text(DomainName::new));
    let servers = section.list("servers", problems, text(server));
    let netbios = section.get("netbios", problems, flag);
    let wins = section.list("wins", problems, text(wins_server));
    let records = records(section.section("records", problems), problems);
    section.finish(problems);
    let servers = servers.unwrap_or_default();
    let wins = wins.unwrap_or_default();
    let of_wins = wins.iter().map(|server| {
        let address = SocketAddr::new(IpAddr::V4(*server.get_ref()), PORT);
        Spanned::new(server.span(), address)
    });
    let all = servers.iter().cloned().chain(of_wins).collect();
    let dns = Dns {
        enabled: enabled.is_none_or(Spanned::into_inner),
        search: search.map(inner),
        servers: inner(servers),
        netbios: netbios.is_none_or(Spanned::into_inner),
        wins: inner(wins),
        records,
    };
    (dns, all)
}

fn records(
    section: Section<'_, '_>,
    problems: &mut Collector<'_>,
) -> BTreeMap<DomainName, Vec<IpAddr>> {
    let mut records = BTreeMap::new();
    for (key, value) in section.entries() {
        let label = format!("dns.records.{}", key.get_ref());
        let name = DomainName::new(key.get_ref());
        let name = name.map_err(|wrong| problems.error(key.span().start, wrong.within(&label)));
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        let mut addresses = Vec::new();
        for item in items {
            match text(record)(item.get_ref()) {
                Ok(address) => addresses.push(address),
                Err(wrong) => problems.error(item.span().start, wrong.within(&label)),
            }
        }
        let Ok(name) = name else { continue };
        if addresses.is_empty() && value.get_ref().as_array().is_some_and(|a| a.is_empty()) {
            let wrong = Diagnostic::new("no address", "write one, as \"192.168.77.10\"");
            problems.error(value.span().start, wrong.within(&label));
        }
        if records.insert(name, addresses).is_some() {
            let what = format!("{label} is there twice");
            let remedy = "write all its addresses as one list; case does not matter";
            problems.error(key.span().start, Diagnostic::new(what, remedy));
        }
    }
    records
}

fn record(given: &str) -> Result<IpAddr, Diagnostic> {
    let what = || format!("{given:?} is not an address");
    let remedy = "write it like \"192.168.77.10\" or \"fd00:77::10\"";
    given.parse().map_err(|_| Diagnostic::new(what(), remedy))
}

fn server(given: &str) -> Result<SocketAddr, Diagnostic> {
    let address = given.parse::<IpAddr>();
    let address = address.map(|address| SocketAddr::new(address, PORT));
    let parsed = address.or_else(|_| given.parse::<SocketAddr>());
    let usable = |server: &SocketAddr| {
        !server.ip().is_unspecified() && !server.ip().is_multicast() && server.port() != 0
    };
    parsed.ok().filter(usable).ok_or_else(|| {
        let remedy = "write it like \"192.168.77.10\", \"192.168.77.10:5353\" or \"fd00:77::10\"";
        Diagnostic::new(format!("{given:?} is not a server's address"), remedy)
    })
}

fn wins_server(given: &str) -> Result<Ipv4Addr, Diagnostic> {
    let parsed: Option<Ipv4Addr> = given.parse().ok();
    let usable = |address: &Ipv4Addr| {
        !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
    };
    parsed.filter(usable).ok_or_else(|| {
        let remedy = "write its IPv4 address, like \"192.168.77.10\"";
        Diagnostic::new(format!("{given:?} is not a server's IPv4 address"), remedy)
    })
}

/// Reports servers that are the endpoint itself, which has these addresses.
pub(super) fn check(servers: &[Spanned<SocketAddr>], own: &[IpAddr], problems: &mut Collector<'_>) {
    for server in servers {
        let address = server.get_ref().ip();
        if own.contains(&address) {
            let what =
                format!("[dns]: the server {address} is vcgate itself: questions would loop");
            let remedy = "name a DNS server of the LAN, or leave it out for those of this machine";
            problems.error(server.span().start, Diagnostic::new(what, remedy));
        }
    }
}

/// Returns the value of `DNS` in a client's configuration, if there is one: servers and search domains.
pub(super) fn client_line(config: &Config, peer: &Peer, host: &HostNetwork) -> Option<String> {
    if let Some(entries) = peer.client.or(&config.client).dns {
        let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
        return Some(entries.join(", ")).filter(|line| peer.dns && !line.is_empty());
    }
    let dns = &config.dns;
    let servers: Vec<IpAddr> = match config.dns_addresses() {
        Some(own) => {
            let families = [IpAddr::is_ipv4, IpAddr::is_ipv6];
            let first = |family| own.iter().copied().find(family);
            families.into_iter().filter_map(first).collect()
        }
        // wg-quick and the apps know no other port.
        None => {
            let standard = dns.servers.iter().filter(|server| server.port() == PORT);
            standard.map(SocketAddr::ip).collect()
        }
    };
    if !peer.dns || servers.is_empty() {
        return None;
    }
    let servers = servers.iter().map(IpAddr::to_string);
    let search = dns.search(&host.search);
    let all: Vec<String> = servers
        .chain(search.iter().map(DomainName::to_string))
        .collect();
    Some(all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::keys::{KeyFile, PrivateKey};
    use proptest::prelude::*;

    /// Parses a file with a peer; returns its configuration, or its errors.
    fn parsed(text: &str) -> Result<Config, Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::from([1; 32]);
        key.write_new(&dir.path().join("server.key")).unwrap();
        let text = format!(
            "[interface]\nprivate_key_file = \"server.key\"\naddress = [\"10.8.0.1/24\", \"fd00:8::1/64\"]\n\
             [[peer]]\nname = \"anna\"\npublic_key = \"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\"\n\
             allowed_ips = [\"10.8.0.11/32\"]\n{text}"
        );
        let loaded = parse(&text, &dir.path().join("vcgate.toml"));
        loaded.map(|loaded| loaded.config).map_err(|problems| {
            let errors = problems.errors.iter();
            errors
                .map(|error| format!("{}: {}", error.line.unwrap_or(0), error.wrong))
                .collect()
        })
    }

    fn names(names: &[&str]) -> Vec<DomainName> {
        names
            .iter()
            .map(|name| DomainName::new(name).unwrap())
            .collect()
    }

    #[test]
    fn the_section_is_read() {
        let config = parsed(
            "[dns]\nsearch = [\"LAN.example.\"]\nservers = [\"192.168.77.10\", \"[fd00::1]:5353\"]\n\
             wins = [\"192.168.77.11\"]\n\
             [dns.records]\nFileSrv = \"192.168.77.10\"\n\"www.lan.example\" = [\"192.168.77.12\", \"fd00::2\"]\n",
        );
        let dns = config.unwrap().dns;
        assert!(dns.enabled && dns.netbios);
        assert_eq!(dns.search(&[]), names(&["lan.example"]));
        let servers: Vec<_> = dns.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.168.77.10:53", "[fd00::1]:5353"]);
        let filesrv = &dns.records[&DomainName::new("filesrv").unwrap()];
        assert_eq!(filesrv, &["192.168.77.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            dns.records[&DomainName::new("www.lan.example").unwrap()].len(),
            2
        );
    }

    #[test]
    fn errors_have_place_and_remedy() {
        for (text, said) in [
            (
                "[dns]\nservers = [\"10.8.0.1\"]",
                "9: [dns]: the server 10.8.0.1 is vcgate itself: questions would loop; \
                 name a DNS server of the LAN, or leave it out for those of this machine",
            ),
            (
                "[dns]\nwins = [\"192.168.77.2\"]\n[lan]\naddress = \"192.168.77.2\"",
                "9: [dns]: the server 192.168.77.2 is vcgate itself: questions would loop; \
                 name a DNS server of the LAN, or leave it out for those of this machine",
            ),
            (
                "[dns]\nservers = [\"0.0.0.0\"]",
                "9: dns.servers: \"0.0.0.0\" is not a server's address; \
                 write it like \"192.168.77.10\", \"192.168.77.10:5353\" or \"fd00:77::10\"",
            ),
            (
                "[dns]\nwins = [\"::1\"]",
                "9: dns.wins: \"::1\" is not a server's IPv4 address; \
                 write its IPv4 address, like \"192.168.77.10\"",
            ),
            (
                "[dns.records]\nfilesrv = \"smb://x\"",
                "9: dns.records.filesrv: \"smb://x\" is not an address; \
                 write it like \"192.168.77.10\" or \"fd00:77::10\"",
            ),
            (
                "[dns.records]\nfilesrv = []",
                "9: dns.records.filesrv: no address; write one, as \"192.168.77.10\"",
            ),
            (
                "[dns.records]\nfilesrv = \"192.168.77.10\"\nFILESRV = \"192.168.77.11\"",
                "10: dns.records.FILESRV is there twice; \
                 write all its addresses as one list; case does not matter",
            ),
            (
                "[dns]\nsearch = [\"a..b\"]",
                "9: dns.search: \"a..b\" is not a domain name; \
                 write it like \"lan.example\": labels of letters, digits, \"-\" and \"_\"",
            ),
        ] {
            assert_eq!(parsed(text).unwrap_err(), [said], "{text}");
        }
    }

    #[test]
    fn client_lines_name_the_endpoint_unless_it_does_not_answer() {
        let line = |text: &str, search: &[&str]| {
            let config = parsed(text).unwrap();
            let host = HostNetwork {
                search: names(search),
                ..HostNetwork::default()
            };
            client_line(&config, &config.peers[0], &host)
        };
        let own = "10.8.0.1, fd00:8::1";
        assert_eq!(line("", &[]), Some(format!("{own}, lan.internal")));
        let of_host = line("", &["a.example", "b.example"]);
        assert_eq!(of_host, Some(format!("{own}, a.example, b.example")));
        assert_eq!(line("[dns]\nsearch = []", &["a.example"]), Some(own.into()));
        let one_family = "[dns]\nsearch = []\n[lan]\naddress = \"192.168.77.2\"";
        assert_eq!(line(one_family, &[]).as_deref(), Some("10.8.0.1"));
        assert_eq!(line("[dns]\nenabled = false", &[]), None);
        let other = "[dns]\nenabled = false\nservers = [\"192.168.77.10\", \"192.168.77.11:54\"]";
        let line_of_other = line(other, &["a.example"]);
        assert_eq!(line_of_other.as_deref(), Some("192.168.77.10, a.example"));
        assert_eq!(line("dns = false", &[]), None, "the peer has opted out");
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_an_error(text: String) {
            let _ = (DomainName::new(&text), server(&text), wins_server(&text), record(&text));
        }
    }
}
