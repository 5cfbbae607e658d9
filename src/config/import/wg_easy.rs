//! The data of wg-easy: `wg0.json` up to version 14, an SQLite database from version 15 on.

use super::Source;
use super::sqlite::{self, Row};
use crate::config::problem::{Diagnostic, Problem, Problems};
use crate::config::wg_quick::{Record, Section};
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::path::Path;

/// Reads `wg0.json`: the server's key and address, and the clients. The rest of the configuration was
/// in the environment of the container.
pub(super) fn json(text: &str, from: &Path) -> Result<Source, Problems> {
    let fault = |line, what: String| {
        let remedy = "name the wg0.json of wg-easy";
        Problems::at(from, line, Diagnostic::new(what, remedy))
    };
    let mut whole: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| fault(Some(error.line()), format!("not valid JSON: {error}")))?;
    let Some(Value::Object(server)) = whole.remove("server") else {
        return Err(fault(None, "there is no \"server\" in it".to_owned()));
    };
    let clients = match whole.remove("clients") {
        None => Map::new(),
        Some(Value::Object(clients)) => clients,
        Some(_) => return Err(fault(None, "\"clients\" is not an object".to_owned())),
    };
    let server = Row(server);
    let place = Record {
        place: "server".to_owned(),
        ..Record::default()
    };
    let address = server
        .text("address")
        .map(|address| format!("{address}/24"));
    let mut sections = vec![Section::of_record(
        false,
        place,
        [
            ("PrivateKey", server.text("privateKey").as_deref()),
            ("Address", address.as_deref()),
        ],
    )];
    for (id, client) in clients {
        let Value::Object(client) = client else {
            return Err(fault(None, format!("client {id:?} is not an object")));
        };
        let client = Row(client);
        let address = client
            .text("address")
            .map(|address| format!("{address}/32"));
        sections.push(peer(
            &client,
            ["publicKey", "preSharedKey", "privateKey", "expiredAt"],
            &[address],
        ));
    }
    let wrong = Diagnostic::new(
        "it has neither the port, nor the name for clients, nor their DNS server: WG_PORT, WG_HOST and \
         WG_DEFAULT_DNS of the container",
        "set listen_port and endpoint under [interface], and servers under [dns]",
    );
    let gap = Problem {
        file: from.to_owned(),
        line: None,
        wrong,
    };
    Ok((sections, vec![gap]))
}

/// Reads the database.
pub(super) fn database(from: &Path, interface: Option<&str>) -> Result<Source, Problems> {
    let found = sqlite::rows(from, "SELECT * FROM interfaces_table")?;
    let chosen = sqlite::interface(from, found, "name", interface)?;
    let name = chosen.text("name").unwrap_or_default();
    let of_it = |table: &str| -> Result<Option<Row>, Problems> {
        let rows = sqlite::rows(from, &format!("SELECT * FROM {table}"))?;
        Ok(rows
            .into_iter()
            .find(|row| row.text("id").as_deref() == Some(name.as_str())))
    };
    let empty = || Row(Map::new());
    let defaults = of_it("user_configs_table")?.unwrap_or_else(empty);
    let hooks = of_it("hooks_table")?.unwrap_or_else(empty);
    let addresses: Vec<String> = ["ipv4_cidr", "ipv6_cidr"]
        .iter()
        .filter_map(|key| first_address(&chosen.text(key)?))
        .collect();
    let endpoint = defaults.text("host").map(|host| {
        let host = match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]"),
            false => host,
        };
        match defaults.text("port") {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    });
    let place = Record {
        place: format!("interface {name:?}"),
        ..Record::default()
    };
    let mut sections = vec![Section::of_record(
        false,
        place,
        [
            ("PrivateKey", chosen.text("private_key").as_deref()),
            ("ListenPort", chosen.text("port").as_deref()),
            ("Address", Some(addresses.join(", ").as_str())),
            ("MTU", chosen.text("mtu").as_deref()),
            ("DNS", defaults.list("default_dns").as_deref()),
            ("Endpoint", endpoint.as_deref()),
            ("PreUp", hooks.text("pre_up").as_deref()),
            ("PostUp", hooks.text("post_up").as_deref()),
            ("PreDown", hooks.text("pre_down").as_deref()),
            ("PostDown", hooks.text("post_down").as_deref()),
        ],
    )];
    for client in sqlite::rows(from, "SELECT * FROM clients_table ORDER BY id")? {
        // Before version 15.1 there was one interface.
        if client.text("interface_id").is_some_and(|of| of != name) {
            continue;
        }
        let host = |key, length| Some(format!("{}/{length}", client.text(key)?));
        let nets = [
            host("ipv4_address", 32),
            host("ipv6_address", 128),
            client.list("server_allowed_ips"),
        ];
        let keys = ["public_key", "pre_shared_key", "private_key", "expires_at"];
        sections.push(peer(&client, keys, &nets));
    }
    Ok((sections, Vec::new()))
}

/// Makes a peer of a client; `keys` are its fields for the public key, the preshared key, the private
/// key and the expiry.
fn peer(client: &Row, keys: [&str; 4], nets: &[Option<String>]) -> Section {
    let [public, preshared, private, expiry] = keys;
    let name = client.text("name");
    let record = Record {
        place: format!("client {:?}", name.as_deref().unwrap_or_default()),
        expires: client.text(expiry),
        note: client.text("description"),
        private_key: client.text(private),
    };
    let nets: Vec<&str> = nets.iter().flatten().map(String::as_str).collect();
    let mut section = Section::of_record(
        true,
        record,
        [
            ("PublicKey", client.text(public).as_deref()),
            ("PresharedKey", client.text(preshared).as_deref()),
            ("AllowedIPs", Some(nets.join(", ").as_str())),
        ],
    );
    section.comment = name;
    section.disabled = !client.is_true("enabled");
    section
}

/// Returns the endpoint's address in a network: the first one after the network's own.
fn first_address(network: &str) -> Option<String> {
    let net: IpNet = network.parse().ok()?;
    let first = net.hosts().next()?;
    // For IPv6, the first host is the network's own address.
    let first = match (first, net.network()) {
        (std::net::IpAddr::V6(first), std::net::IpAddr::V6(own)) if first == own => {
            std::net::Ipv6Addr::from_bits(own.to_bits().checked_add(1)?).into()
        }
        (first, _) => first,
    };
    Some(format!("{first}/{}", net.prefix_len()))
}
