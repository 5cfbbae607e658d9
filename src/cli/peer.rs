//! `vcgate peer …`: adds, lists, removes and shows the clients of a configuration. A running endpoint
//! applies the change at once.

mod change;
mod details;
mod show;

pub(super) use change::{disable, rekey, rename, set};
pub(super) use details::Details;
pub(super) use show::{Form, show};

use super::output;
use super::table::{Align, Table};
use ipnet::IpNet;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use vcgate::config::{self, Added, Client, MissingInfo, NewPeer};
use vcgate::operate::live::{self, ApplyResult};
use vcgate::operate::peers::{self, AddedPeer, RemovedPeer, Row};

/// Adds a client, and says how to connect it.
pub(super) fn add(path: &Path, new: &NewPeer, json: bool) -> anyhow::Result<()> {
    let endpoint = live::find(path)?;
    let (added, live) = peers::add(path, new, endpoint.as_ref())?;
    output::warnings(&added.warnings);
    let report = AddedPeer::of(&added, &live);
    output::report(&report, json, |_| added_text(&added, &live))?;
    live.into_result(path)
}

fn added_text(added: &Added, live: &ApplyResult) -> String {
    let (name, file) = (&added.peer.name, added.client.path.display());
    let (sudo, addresses) = (output::sudo(), list_of(&added.peer.allowed_ips));
    let mut text = format!("Added {name} with {addresses}.\n\n");
    text += &output::made(&added.created);
    text += &match added.client.lacks.as_slice() {
        [] => format!(
            "\nHand {file} to the client, or let its app scan:\n  {sudo}vcgate peer show {name} --qr\n"
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
    let (removed, live) = peers::remove(path, name, endpoint.as_ref())?;
    output::warnings(&removed.warnings);
    let report = RemovedPeer::of(&removed, &live);
    output::report(&report, json, |report| {
        let mut text = format!("Removed {name}.\n");
        for file in &report.deleted {
            text += &format!("  deleted {}\n", file.display());
        }
        text + &live.message()
    })?;
    live.into_result(path)
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

/// Lists the clients in the order of the file.
pub(super) fn list(path: &Path, json: bool) -> anyhow::Result<()> {
    let peers = config::load(path)?.config.peers;
    output::report(&peers::rows(peers), json, |rows| table(rows))
}

/// Replaces the files of clients that are out of date, and returns them. The folder may be read-only,
/// as for the commands of a unit: then it warns.
pub(super) fn refresh_clients(path: &Path) -> Vec<PathBuf> {
    match peers::refresh_clients(path) {
        Ok(refreshed) => {
            output::warnings(&refreshed.warnings);
            refreshed.written
        }
        Err(problems) => {
            output::warning(&format!("files of clients may be out of date: {problems}"));
            Vec::new()
        }
    }
}

/// Returns the instruction for information that a client's configuration lacks.
pub(super) fn advice(lack: MissingInfo, client: &Client) -> String {
    let (name, file, sudo) = (&client.name, client.path.display(), output::sudo());
    match lack {
        MissingInfo::PrivateKey if client.path.exists() => {
            format!("\nHand {file} to the client, which adds its own private key.\n")
        }
        // The peer was added to the configuration by hand.
        MissingInfo::PrivateKey => format!(
            "\nSave it with (umask 077; {sudo}vcgate peer show {name} > {name}.conf), and hand that to \
             the client, which adds its own private key.\n"
        ),
        MissingInfo::Endpoint => format!(
            "\nSet endpoint = \"HOST:PORT\" under [interface], the address that clients connect to; \
             then: {sudo}vcgate peer show {name}\n"
        ),
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
            row.describe_state(),
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
