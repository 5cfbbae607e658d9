//! The SQLite database of wg-portal 2. Its other databases are not read.

use super::Source;
use super::sqlite::{self, Row};
use crate::config::problem::Problems;
use crate::config::wg_quick::{Record, Section};
use std::path::Path;

/// Reads the database.
pub(super) fn database(from: &Path, interface: Option<&str>) -> Result<Source, Problems> {
    let found = sqlite::rows(from, "SELECT * FROM interfaces")?;
    let chosen = sqlite::interface(from, found, "identifier", interface)?;
    let name = chosen.text("identifier").unwrap_or_default();
    let addresses = sqlite::rows(from, "SELECT * FROM interface_addresses")?;
    let addresses = of(&addresses, "interface_identifier", &name);
    let dns = [chosen.text("dns_str"), chosen.text("dns_search_str")];
    let peers_dns = [
        chosen.text("peer_def_dns_str"),
        chosen.text("peer_def_dns_search_str"),
    ];
    let dns = match dns.iter().any(Option::is_some) {
        true => dns,
        false => peers_dns,
    };
    let dns: Vec<String> = dns.into_iter().flatten().collect();
    let place = Record {
        place: format!("interface {name:?}"),
        ..Record::default()
    };
    let number = |key| chosen.text(key).filter(|number| number != "0");
    let mut sections = vec![Section::of_record(
        false,
        place,
        [
            ("PrivateKey", chosen.text("private_key").as_deref()),
            ("ListenPort", number("listen_port").as_deref()),
            ("Address", Some(addresses.join(", ").as_str())),
            ("MTU", number("mtu").as_deref()),
            ("DNS", Some(dns.join(", ").as_str())),
            ("Endpoint", chosen.text("peer_def_endpoint").as_deref()),
            ("PreUp", chosen.text("pre_up").as_deref()),
            ("PostUp", chosen.text("post_up").as_deref()),
            ("PreDown", chosen.text("pre_down").as_deref()),
            ("PostDown", chosen.text("post_down").as_deref()),
        ],
    )];
    let addresses = sqlite::rows(from, "SELECT * FROM peer_addresses")?;
    for peer in sqlite::rows(from, "SELECT * FROM peers ORDER BY created_at, identifier")? {
        if peer.text("interface_identifier").as_deref() == Some(name.as_str()) {
            sections.push(section(&peer, &addresses));
        }
    }
    Ok((sections, Vec::new()))
}

fn section(peer: &Row, addresses: &[Row]) -> Section {
    let key = peer.text("identifier").unwrap_or_default();
    let name = peer.text("display_name");
    let record = Record {
        place: format!("peer {:?}", name.as_deref().unwrap_or(&key)),
        expires: peer.text("expires_at"),
        note: peer.text("notes"),
        private_key: peer.text("private_key"),
    };
    let mut nets: Vec<String> = of(addresses, "peer_identifier", &key)
        .iter()
        .map(|address| host(address))
        .collect();
    nets.extend(peer.text("extra_allowed_ips_str"));
    let keepalive = peer
        .text("persistent_keep_alive_v")
        .filter(|seconds| seconds != "0");
    let mut section = Section::of_record(
        true,
        record,
        [
            ("PublicKey", Some(key.as_str())),
            ("PresharedKey", peer.text("preshared_key").as_deref()),
            ("AllowedIPs", Some(nets.join(", ").as_str())),
            ("PersistentKeepalive", keepalive.as_deref()),
        ],
    );
    section.comment = name;
    section.disabled = peer.text("disabled").is_some();
    section
}

/// Returns the addresses of an interface or a peer.
fn of(addresses: &[Row], key: &str, name: &str) -> Vec<String> {
    let own = addresses
        .iter()
        .filter(|row| row.text(key).as_deref() == Some(name));
    own.filter_map(|row| row.text("cidr_cidr")).collect()
}

/// Returns an address with prefix length as the network of this host alone.
fn host(address: &str) -> String {
    let (host, _) = address.split_once('/').unwrap_or((address, ""));
    let length = if host.contains(':') { 128 } else { 32 };
    format!("{host}/{length}")
}
