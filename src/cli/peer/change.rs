//! `vcgate peer set|rename|rekey|disable|enable`: changes a client in the file, in its own files and
//! in the running endpoint.

use super::super::live::{self, ApplyResult};
use super::super::output;
use super::{advice, host};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use vcgate::config::{self, Assignment, Changed};
use vcgate::keys::PublicKey;

/// Sets keys of a client's section, each given as `KEY=VALUE`.
pub(in crate::cli) fn set(
    path: &Path,
    name: &str,
    assignments: &[String],
    json: bool,
) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let parse = |text: &String| Assignment::parse(text, now);
    let assignments = assignments.iter().map(parse).collect::<Result<Vec<_>, _>>();
    assign(
        path,
        name,
        &assignments.map_err(|wrong| anyhow::anyhow!("{wrong}"))?,
        json,
    )
}

/// Switches a client off, which ends its sessions and flows, or on.
pub(in crate::cli) fn disable(
    path: &Path,
    name: &str,
    disabled: bool,
    json: bool,
) -> anyhow::Result<()> {
    assign(path, name, &[Assignment::disabled(disabled)], json)
}

fn assign(path: &Path, name: &str, assignments: &[Assignment], json: bool) -> anyhow::Result<()> {
    let host = host(&config::load(path)?.config);
    let endpoint = live::find(path)?;
    let changed = config::set_peer(path, name, assignments, &host)?;
    let live = apply(endpoint.as_ref(), &changed);
    // The file must not contain what the endpoint refuses.
    if let ApplyResult::Refused(error) = live {
        changed.undo(path)?;
        return Err(error.into());
    }
    report(path, &changed, live, json)
}

/// Gives a client and its files another name.
pub(in crate::cli) fn rename(path: &Path, name: &str, to: &str, json: bool) -> anyhow::Result<()> {
    let host = host(&config::load(path)?.config);
    let endpoint = live::find(path)?;
    let changed = config::rename_peer(path, name, to, &host)?;
    let live = apply(endpoint.as_ref(), &changed);
    report(path, &changed, live, json)
}

/// Gives a client new keys.
pub(in crate::cli) fn rekey(
    path: &Path,
    name: &str,
    public_key: Option<PublicKey>,
    json: bool,
) -> anyhow::Result<()> {
    let host = host(&config::load(path)?.config);
    let endpoint = live::find(path)?;
    let changed = config::rekey_peer(path, name, public_key, &host)?;
    let live = apply(endpoint.as_ref(), &changed);
    report(path, &changed, live, json)
}

fn apply(endpoint: Option<&vcgate::control::client::Client>, changed: &Changed) -> ApplyResult {
    live::change(endpoint, |endpoint| {
        endpoint.peer_set(changed.before.public_key, (&changed.peer).into())
    })
}

/// A client that was changed, as JSON.
#[derive(Serialize)]
struct ChangedPeer<'a> {
    peer: &'a str,
    public_key: PublicKey,
    /// The keys of the section that differ.
    changed: &'a [&'static str],
    client_file: &'a Path,
    /// Files that were made or replaced.
    written: &'a [PathBuf],
    deleted: &'a [PathBuf],
    /// The interface of the running endpoint that has applied it, if one runs.
    interface: Option<&'a str>,
}

fn report(path: &Path, changed: &Changed, live: ApplyResult, json: bool) -> anyhow::Result<()> {
    output::warnings(&changed.warnings);
    let report = ChangedPeer {
        peer: &changed.peer.name,
        public_key: changed.peer.public_key,
        changed: &changed.keys,
        client_file: &changed.client.path,
        written: &changed.written,
        deleted: &changed.deleted,
        interface: live.interface(),
    };
    output::report(&report, json, |_| text(changed, &live))?;
    live.into_result(path)
}

fn text(changed: &Changed, live: &ApplyResult) -> String {
    let name = &changed.before.name;
    let mut text = match changed.keys.as_slice() {
        [] => format!("{name} is as before.\n"),
        keys => format!("Changed {name}: {}.\n", keys.join(", ")),
    };
    for file in &changed.written {
        text += &format!("  wrote {}\n", file.display());
    }
    for file in &changed.deleted {
        text += &format!("  deleted {}\n", file.display());
    }
    if changed.keys.contains(&"public_key") {
        text += &match changed.client.lacks.as_slice() {
            [] => format!("\nHand {} to the client.\n", changed.client.path.display()),
            lacks => { lacks.iter() }
                .map(|lack| advice(*lack, &changed.client))
                .collect(),
        };
    }
    text + &live.message()
}
