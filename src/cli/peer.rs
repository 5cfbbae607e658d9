//! `vcgate peer …`: the clients of a configuration. The file is changed whether the endpoint
//! runs or not; if it runs, it takes the change over at once.

use super::live::{self, Live};
use super::{output, qr, surroundings};
use ipnet::IpNet;
use serde::Serialize;
use std::path::Path;
use vcgate::config::{self, Client, Config, Lack, NewPeer, Surroundings};
use vcgate::control::client::{self as endpoint, ClientError};
use vcgate::keys::PublicKey;

/// Adds a client, and says how to connect it.
pub fn add(
    path: &Path,
    name: String,
    public_key: Option<PublicKey>,
    allowed_ips: Vec<IpNet>,
) -> anyhow::Result<()> {
    let around = around(&config::load(path)?.config);
    let new = NewPeer {
        name,
        public_key,
        allowed_ips,
    };
    let added = config::add_peer(path, &new, &around)?;
    output::warnings(&added.warnings);
    let (name, file) = (&added.peer.name, added.client.path.display());
    let addresses = list_of(&added.peer.allowed_ips);
    let mut text = format!("Added {name} with {addresses}.\n\n");
    text += &output::made(&added.created);
    text += &match added.client.lacks.as_slice() {
        [] => format!(
            "\nHand {file} to the client, or let its app scan:\n  vcgate peer show {name} --qr\n"
        ),
        lacks => lacks
            .iter()
            .map(|lack| advice(*lack, &added.client))
            .collect(),
    };
    output::print(&text)?;
    live(path, |endpoint| endpoint.peer_add((&added.peer).into()))
}

/// Removes a client and the files that were made for it.
pub fn remove(path: &Path, name: &str) -> anyhow::Result<()> {
    let removed = config::remove_peer(path, name)?;
    output::warnings(&removed.warnings);
    let mut text = format!("Removed {name}.\n");
    for file in &removed.deleted {
        text += &format!("  deleted {}\n", file.display());
    }
    output::print(&text)?;
    live(path, |endpoint| endpoint.peer_remove(name))
}

/// Makes the same change in the running endpoint.
fn live(
    path: &Path,
    change: impl FnOnce(&endpoint::Client) -> Result<(), ClientError>,
) -> anyhow::Result<()> {
    match live::change(path, change)? {
        Live::Done => Ok(()),
        Live::Refused(error) => Err(live::differs(path, &error)),
    }
}

/// Shows a client's configuration.
pub fn show(path: &Path, name: &str, as_qr: bool) -> anyhow::Result<()> {
    let config = config::load(path)?.config;
    let client = config::client(&config, name, &around(&config))?;
    if !as_qr {
        output::print(&client.text)?;
        return Ok(());
    }
    if let Some(lack) = client.lacks.first() {
        anyhow::bail!(
            "a code would be incomplete. {}",
            advice(*lack, &client).trim()
        );
    }
    output::print(&qr::render(&client.text)?)?;
    Ok(())
}

/// Lists the clients in the order of the file.
pub fn list(path: &Path, json: bool) -> anyhow::Result<()> {
    let peers = config::load(path)?.config.peers;
    let rows: Vec<Row> = peers
        .into_iter()
        .map(|peer| Row {
            name: peer.name,
            public_key: peer.public_key.to_string(),
            allowed_ips: peer.allowed_ips,
            preshared_key: peer.preshared_key.is_some(),
            persistent_keepalive: peer.persistent_keepalive.map(|seconds| seconds.get()),
            reach: peer
                .reach
                .map(|rules| rules.iter().map(ToString::to_string).collect()),
        })
        .collect();
    let text = match json {
        true => serde_json::to_string_pretty(&rows)? + "\n",
        false => table(&rows),
    };
    output::print(&text)?;
    Ok(())
}

/// What to do about something that a client's configuration lacks.
pub fn advice(lack: Lack, client: &Client) -> String {
    let (name, file) = (&client.name, client.path.display());
    match lack {
        Lack::PrivateKey => {
            format!("\nHand {file} to the client, which puts its own private key in.\n")
        }
        Lack::Endpoint => format!(
            "\nSet endpoint = \"HOST:PORT\" under [interface], what clients connect to; then: \
             vcgate peer show {name}\n"
        ),
    }
}

/// One client, as scripts see it.
#[derive(Serialize)]
struct Row {
    name: String,
    public_key: String,
    allowed_ips: Vec<IpNet>,
    /// Whether there is one; the key itself is a secret.
    preshared_key: bool,
    /// In seconds.
    persistent_keepalive: Option<u16>,
    /// Absent where the client may reach all of the LAN networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<Vec<String>>,
}

fn table(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let addresses = list_of(&row.allowed_ips);
        format!("{:<16} {} {addresses}\n", row.name, row.public_key)
    };
    let head = format!("{:<16} {:<44} ALLOWED IPS\n", "NAME", "PUBLIC KEY");
    rows.iter().map(line).fold(head, |text, line| text + &line)
}

fn list_of(nets: &[IpNet]) -> String {
    let nets: Vec<String> = nets.iter().map(IpNet::to_string).collect();
    nets.join(", ")
}

/// What can be seen of the LAN that this configuration names.
fn around(config: &Config) -> Surroundings {
    surroundings::look(config.lan.interface.as_deref())
}
