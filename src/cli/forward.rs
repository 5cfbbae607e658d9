//! `vcgate forward …`: adds, lists and removes forwards of ports of the LAN address to clients. A
//! running endpoint applies the change at once; if it refuses, the file is not changed either.

use super::table::{Align, Table};
use super::{output, peer};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::Path;
use vcgate::config::{self, Forward, Port, Transport};
use vcgate::control::client::Client;
use vcgate::operate::live::{self, ApplyResult};

/// Adds a forward.
pub(super) fn add(path: &Path, port: Port, to: SocketAddr) -> anyhow::Result<()> {
    let forward = Forward {
        proto: port.proto,
        lan_port: port.number,
        to,
        lan_address: None,
    };
    let endpoint = live::find(path)?;
    let added = config::add_forward(path, forward)?;
    let live = live::change(endpoint.as_ref(), |endpoint| {
        endpoint.forward_add(added.forward)
    });
    // A forward that the endpoint refuses must not stay in the file.
    if let ApplyResult::Refused(error) = live {
        config::remove_forwards(path, port, Some(to))?;
        return Err(error.into());
    }
    output::warnings(&added.warnings);
    let written = peer::refresh_clients(path);
    output::print(&format!(
        "LAN port {port} leads to {to}, which is {}'s.\n{}{}",
        added.peer,
        output::wrote(&written),
        live.message()
    ))?;
    live.into_result(path)
}

/// Removes the forwards of a port, or only the one to this address.
pub(super) fn remove(path: &Path, port: Port, to: Option<SocketAddr>) -> anyhow::Result<()> {
    let endpoint = live::find(path)?;
    let removed = config::remove_forwards(path, port, to)?;
    let change = |endpoint: &Client| removed.iter().try_for_each(|f| endpoint.forward_remove(*f));
    let live = live::change(endpoint.as_ref(), change);
    let lines = removed
        .iter()
        .map(|forward| format!("LAN port {port} leads to {} no longer.\n", forward.to));
    let written = output::wrote(&peer::refresh_clients(path));
    output::print(&(lines.collect::<String>() + &written + &live.message()))?;
    live.into_result(path)
}

/// Lists the forwards in the order of the file.
pub(super) fn list(path: &Path, json: bool) -> anyhow::Result<()> {
    let config = config::load(path)?.config;
    let rows: Vec<Row> = config
        .forwards
        .iter()
        .map(|forward| Row {
            protocol: forward.proto,
            lan_port: forward.lan_port,
            to: forward.to,
            peer: config.owner(forward.to.ip()).map(|peer| peer.name.clone()),
        })
        .collect();
    output::report(&rows, json, |rows| table(rows))
}

/// One forward, as JSON.
#[derive(Serialize)]
struct Row {
    protocol: Transport,
    lan_port: u16,
    to: SocketAddr,
    peer: Option<String>,
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No forwards: add one with `vcgate forward add PORT TO`\n".to_owned();
    }
    let mut table = Table::new([
        ("LAN PORT", Align::Left),
        ("TO", Align::Left),
        ("PEER", Align::Left),
    ]);
    for row in rows {
        let port = Port {
            proto: row.protocol,
            number: row.lan_port,
        };
        let peer = row.peer.clone().unwrap_or_default();
        table.row([port.to_string(), row.to.to_string(), peer]);
    }
    table.to_string()
}
