//! `vcgate up`: the endpoint in the foreground.

use super::{existing, output, peer, qr, surroundings};
use anyhow::Context;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use tokio::runtime::{Builder, Runtime};
use vcgate::config::{self, FirstRun};
use vcgate::endpoint;

/// Loads the configuration, or makes the first one.
pub fn run(given: Option<&Path>) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let path = match existing(given) {
        Some(path) => path,
        None => first_run(&runtime)?,
    };
    let loaded = config::load(&path)?;
    for warning in loaded
        .warnings
        .iter()
        .chain(&surroundings::check_lan(&loaded))
    {
        tracing::warn!("{warning}");
    }
    let ended = runtime.block_on(endpoint::run(loaded.config));
    ended.with_context(|| path.display().to_string())
}

/// The control plane is one thread; each shard is another.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Makes the first configuration, where an endpoint could start.
fn first_run(runtime: &Runtime) -> anyhow::Result<PathBuf> {
    runtime.block_on(endpoint::probe(config::DEFAULT_NAME))?;
    let around = surroundings::look(None, None);
    let first = config::first_run(Path::new(""), &around)?;
    surroundings::tell_if_none(&around, &first.config);
    // It is all in the files, too: the endpoint starts whether somebody reads or not.
    if let Err(error) = welcome(&first) {
        tracing::debug!("{error:#}");
    }
    Ok(first.config)
}

/// Says what the first run has made and what to do next. The code holds a private key, so it
/// goes to a terminal only, never into somebody's log.
fn welcome(first: &FirstRun) -> anyhow::Result<()> {
    let (client, config) = (&first.client, first.config.display());
    let (name, file) = (&client.name, client.path.display());
    let mut text = output::made(&first.created);
    if let Some(lack) = client.lacks.first() {
        text += &peer::advice(*lack, client);
    } else {
        let code = io::stdout().is_terminal().then(|| qr::render(&client.text));
        text += &match code {
            Some(Ok(code)) => format!("\nScan this with the WireGuard app of a phone:\n\n{code}"),
            // Not on a terminal, or it is too narrow for it.
            _ => {
                format!("\nWith the WireGuard app of a phone, scan: vcgate peer show {name} --qr\n")
            }
        };
    }
    text += &format!(
        "\
On a computer, import {file} in the WireGuard app, or: wg-quick up ./{name}.conf
If clients come from outside, set endpoint in {config}, then hand out: vcgate peer show {name}
Add more clients with: vcgate peer add NAME
"
    );
    output::print(&text)
}
