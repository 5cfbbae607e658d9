//! `vcgate reload`: the running endpoint reads its configuration again.

use super::{output, peer};
use serde::Serialize;
use std::path::PathBuf;
use vcgate::control::client::Client;
use vcgate::control::reload::Reload;

/// Prints the changes that the endpoint has applied. A file with errors and refused changes are
/// errors.
pub(super) fn run(endpoint: &Client, json: bool) -> anyhow::Result<()> {
    let reload = endpoint.reload()?;
    if !reload.problems.errors.is_empty() {
        if json {
            output::report(&reload, json, render)?;
        }
        return Err(reload.problems.into());
    }
    output::warnings(&reload.problems.warnings);
    let client_files = peer::refresh_clients(&reload.file);
    let report = Report {
        reload: &reload,
        client_files: &client_files,
    };
    output::report(&report, json, |report| {
        render(report.reload) + &output::wrote(report.client_files)
    })?;
    if let Some(deferred) = reload.deferred() {
        output::warning(&deferred);
    }
    let refused = reload.changes.iter().filter(|c| c.refused.is_some());
    match refused.count() {
        0 => Ok(()),
        refused => anyhow::bail!("{refused} of {} changes were refused", reload.changes.len()),
    }
}

/// The result of a reload, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    reload: &'a Reload,
    /// Files of clients that were replaced, since they differ with the new configuration.
    client_files: &'a [PathBuf],
}

fn render(reload: &Reload) -> String {
    let file = reload.file.display();
    if reload.changes.is_empty() {
        return format!("{file} has no changes.\n");
    }
    let lines = reload.changes.iter().map(|change| format!("{change}\n"));
    lines.collect()
}
