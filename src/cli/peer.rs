//! `vcgate peer …`: adds, lists, removes and shows the clients of a configuration. A running endpoint
//! applies the change at once.

mod change;

pub(super) use change::{disable, rekey, rename, set};

use super::live::{self, ApplyResult};
use super::table::{Align, Table};
use super::{host_network, output, qr};
use ipnet::IpNet;
use serde::Serialize;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use vcgate::config::{self, Added, Client, Config, HostNetwork, MissingInfo, NewPeer, PeerState};
use vcgate::keys::PublicKey;
use vcgate::time::Timestamp;

/// Adds a client, and says how to connect it.
pub(super) fn add(
    path: &Path,
    name: String,
    public_key: Option<PublicKey>,
    allowed_ips: Vec<IpNet>,
    json: bool,
) -> anyhow::Result<()> {
    let host = host(&config::load(path)?.config);
    let endpoint = live::find(path)?;
    let new = NewPeer {
        name,
        public_key,
        allowed_ips,
    };
    let added = config::add_peer(path, &new, &host)?;
    let live = live::change(endpoint.as_ref(), |endpoint| {
        endpoint.peer_add((&added.peer).into())
    });
    // A peer that the endpoint refuses must not stay in the file.
    if let ApplyResult::Refused(error) = live {
        config::remove_peer(path, &added.peer.name)?;
        return Err(error.into());
    }
    output::warnings(&added.warnings);
    let report = AddedPeer {
        peer: &added.peer.name,
        public_key: added.peer.public_key,
        allowed_ips: &added.peer.allowed_ips,
        client_file: &added.client.path,
        created: &added.created,
        interface: live.interface(),
    };
    output::report(&report, json, |_| added_text(&added, &live))?;
    live.into_result(path)
}

/// A client that was added, as JSON.
#[derive(Serialize)]
struct AddedPeer<'a> {
    peer: &'a str,
    public_key: PublicKey,
    allowed_ips: &'a [IpNet],
    client_file: &'a Path,
    created: &'a [PathBuf],
    /// The interface of the running endpoint that has applied it, if one runs.
    interface: Option<&'a str>,
}

fn added_text(added: &Added, live: &ApplyResult) -> String {
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
    text + &live.message()
}

/// Removes a client and the files that were made for it. On a terminal it asks first, unless `yes`.
pub(super) fn remove(path: &Path, name: &str, yes: bool, json: bool) -> anyhow::Result<()> {
    let endpoint = live::find(path)?;
    if !yes && io::stdin().is_terminal() && io::stderr().is_terminal() {
        let config = config::load(path)?.config;
        // A name that no peer has is reported below.
        let peer = config.peers.iter().find(|peer| peer.name == name);
        if let Some(peer) = peer {
            let addresses = list_of(&peer.allowed_ips);
            confirm(&format!(
                "Remove {name} ({addresses}) and its keys? Its device cannot connect after that."
            ))?;
        }
    }
    let removed = config::remove_peer(path, name)?;
    // Peers that `wg` added have no name.
    let key = removed.peer.public_key;
    let live = live::change(endpoint.as_ref(), |endpoint| {
        let status = endpoint.status()?;
        let inactive = status.inactive.iter().map(|peer| peer.public_key);
        let mut keys = { status.peers.iter().map(|peer| peer.public_key) }.chain(inactive);
        match keys.any(|present| present == key) {
            true => endpoint.peer_remove(&key.to_string()),
            false => Ok(()),
        }
    });
    output::warnings(&removed.warnings);
    let report = RemovedPeer {
        peer: name,
        public_key: key,
        deleted: &removed.deleted,
        interface: live.interface(),
    };
    output::report(&report, json, |report| {
        let mut text = format!("Removed {name}.\n");
        for file in report.deleted {
            text += &format!("  deleted {}\n", file.display());
        }
        text + &live.message()
    })?;
    live.into_result(path)
}

/// A client that was removed, as JSON.
#[derive(Serialize)]
struct RemovedPeer<'a> {
    peer: &'a str,
    public_key: PublicKey,
    deleted: &'a [PathBuf],
    /// The interface of the running endpoint that has applied it, if one runs.
    interface: Option<&'a str>,
}

/// Asks on the terminal. Any answer but yes is an error.
fn confirm(question: &str) -> anyhow::Result<()> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let is_yes = ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
    anyhow::ensure!(
        is_yes,
        "nothing was removed; --yes removes without a question"
    );
    Ok(())
}

/// The form in which a client's configuration is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    /// A QR code for the terminal.
    Qr,
    /// A QR code as an image.
    Svg,
}

impl Form {
    /// Returns the form that the options select.
    pub(super) fn of(qr: bool, svg: bool) -> Self {
        match (qr, svg) {
            (_, true) => Self::Svg,
            (true, false) => Self::Qr,
            (false, false) => Self::Text,
        }
    }
}

/// Shows a client's configuration.
pub(super) fn show(path: &Path, name: &str, form: Form) -> anyhow::Result<()> {
    let config = config::load(path)?.config;
    let client = config::client(&config, name, &host(&config))?;
    output::warnings(&client.warnings);
    if form == Form::Text {
        return output::print(&client.text);
    }
    if let Some(lack) = client.lacks.first() {
        anyhow::bail!(
            "a code would be incomplete. {}",
            advice(*lack, &client).trim()
        );
    }
    output::print(&match form {
        Form::Svg => qr::image(&client.text)?,
        _ => qr::render(&client.text)?,
    })
}

/// Lists the clients in the order of the file.
pub(super) fn list(path: &Path, json: bool) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let peers = config::load(path)?.config.peers;
    let rows: Vec<Row> = peers
        .into_iter()
        .map(|peer| Row {
            reach: reach_of(&peer),
            name: peer.name,
            public_key: peer.public_key,
            allowed_ips: peer.allowed_ips,
            preshared_key: peer.preshared_key.is_some(),
            persistent_keepalive_seconds: peer.persistent_keepalive.map(u16::from),
            state: peer.lifecycle.state(now),
            expires: peer.lifecycle.expires,
            note: peer.lifecycle.note,
            groups: peer.lifecycle.groups,
        })
        .collect();
    output::report(&rows, json, |rows| table(rows))
}

fn reach_of(peer: &config::Peer) -> Option<Vec<String>> {
    let rules = peer.reach.as_ref()?;
    Some(rules.iter().map(ToString::to_string).collect())
}

/// Returns the instruction for information that a client's configuration lacks.
pub(super) fn advice(lack: MissingInfo, client: &Client) -> String {
    let (name, file) = (&client.name, client.path.display());
    match lack {
        MissingInfo::PrivateKey if client.path.exists() => {
            format!("\nHand {file} to the client, which adds its own private key.\n")
        }
        // The peer was added to the configuration by hand.
        MissingInfo::PrivateKey => format!(
            "\nSave it with (umask 077; vcgate peer show {name} > {name}.conf), and hand that to \
             the client, which adds its own private key.\n"
        ),
        MissingInfo::Endpoint => format!(
            "\nSet endpoint = \"HOST:PORT\" under [interface], the address that clients connect to; \
             then: vcgate peer show {name}\n"
        ),
    }
}

/// One client, as JSON.
#[derive(Serialize)]
struct Row {
    name: String,
    public_key: PublicKey,
    allowed_ips: Vec<IpNet>,
    /// Whether it has one; the key itself is secret.
    preshared_key: bool,
    persistent_keepalive_seconds: Option<u16>,
    /// `None` if the client may reach all LAN networks; with the rules of its groups.
    reach: Option<Vec<String>>,
    state: PeerState,
    expires: Option<Timestamp>,
    note: Option<String>,
    groups: Vec<String>,
}

impl Row {
    /// Returns the state, with the time until which it is valid.
    fn state(&self) -> String {
        match (self.state, self.expires) {
            (PeerState::Enabled, Some(expires)) => format!("until {expires}"),
            (PeerState::Expired, Some(expires)) => format!("expired {expires}"),
            (state, _) => state.name().to_owned(),
        }
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("PUBLIC KEY", Align::Left),
        ("ALLOWED IPS", Align::Left),
        ("STATE", Align::Left),
        ("GROUPS", Align::Left),
        ("NOTE", Align::Left),
    ]);
    for row in rows {
        let key = row.public_key.to_string();
        table.row([
            row.name.clone(),
            key,
            list_of(&row.allowed_ips),
            row.state(),
            row.groups.join(", "),
            row.note.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn list_of(nets: &[IpNet]) -> String {
    let nets: Vec<String> = nets.iter().map(IpNet::to_string).collect();
    nets.join(", ")
}

/// Looks up the addresses of the LAN that this configuration names.
fn host(config: &Config) -> HostNetwork {
    host_network::look(
        config.lan.interface.as_deref(),
        config.interface.endpoint.as_ref(),
    )
}
