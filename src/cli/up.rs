//! `vcgate up`: the endpoint in the foreground.

use super::{existing, output, peer, qr, surroundings};
use std::io::{self, IsTerminal};
use std::path::Path;
use vcgate::config::{self, Config, FirstRun};
use vcgate::endpoint;

/// Loads the configuration, or makes the first one.
pub fn run(given: Option<&Path>) -> anyhow::Result<()> {
    let path = match existing(given) {
        Some(path) => path,
        None => {
            let first = config::first_run(Path::new(""), &surroundings::look(None))?;
            welcome(&first)?;
            first.config
        }
    };
    let loaded = config::load(&path)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    start(loaded.config)
}

/// Where the endpoint takes over. The control plane is one thread; each shard is another.
fn start(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(endpoint::run(config))?)
}

/// Says what the first run has made and what to do next. The code holds a private key, so it
/// goes to a terminal only, never into somebody's log.
fn welcome(first: &FirstRun) -> anyhow::Result<()> {
    let (client, config) = (&first.client, first.config.display());
    let (name, file) = (&client.name, client.path.display());
    let mut text = output::made(&first.created);
    if let Some(lack) = client.lacks.first() {
        text += &peer::advice(*lack, client);
    } else if io::stdout().is_terminal() {
        let code = qr::render(&client.text)?;
        text += &format!("\nScan this with the WireGuard app of a phone:\n\n{code}");
    } else {
        text +=
            &format!("\nWith the WireGuard app of a phone, scan: vcgate peer show {name} --qr\n");
    }
    text += &format!(
        "\
On a computer, import {file} in the WireGuard app, or: wg-quick up ./{name}.conf
If clients come from outside, set endpoint in {config}, then hand out: vcgate peer show {name}
Add more clients with: vcgate peer add NAME
"
    );
    output::print(&text)?;
    Ok(())
}
