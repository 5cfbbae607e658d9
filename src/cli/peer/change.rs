//! `vcgate peer set|rename|rekey|disable|enable`: changes a client in the file, in its own files and
//! in the running endpoint.

use super::super::output;
use super::advice;
use std::path::Path;
use std::time::SystemTime;
use vcgate::config::{Assignment, Changed};
use vcgate::keys::PublicKey;
use vcgate::operate::live::{self, ApplyResult};
use vcgate::operate::peers::{self, ChangedPeer};

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
    let endpoint = live::find(path)?;
    let (changed, live) = peers::set(path, name, assignments, endpoint.as_ref())?;
    report(path, &changed, live, json)
}

/// Gives a client and its files another name.
pub(in crate::cli) fn rename(path: &Path, name: &str, to: &str, json: bool) -> anyhow::Result<()> {
    let endpoint = live::find(path)?;
    let (changed, live) = peers::rename(path, name, to, endpoint.as_ref())?;
    report(path, &changed, live, json)
}

/// Gives a client new keys.
pub(in crate::cli) fn rekey(
    path: &Path,
    name: &str,
    public_key: Option<PublicKey>,
    json: bool,
) -> anyhow::Result<()> {
    let endpoint = live::find(path)?;
    let (changed, live) = peers::rekey(path, name, public_key, endpoint.as_ref())?;
    report(path, &changed, live, json)
}

fn report(path: &Path, changed: &Changed, live: ApplyResult, json: bool) -> anyhow::Result<()> {
    output::warnings(&changed.warnings);
    let report = ChangedPeer::of(changed, &live);
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
