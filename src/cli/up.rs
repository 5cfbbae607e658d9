//! `vcgate up`: runs the endpoint in the foreground.

use super::init::{self, Choices};
use super::{Usage, doctor, existing, output};
use anyhow::Context;
use std::io;
use std::path::{Path, PathBuf};
use tokio::runtime::{Builder, Runtime};
use vcgate::config;
use vcgate::endpoint;
use vcgate::host::programs;
use vcgate::logging::Log;
use vcgate::operate::host_network;

/// Loads the configuration, or makes the first one, and runs the endpoint.
pub(super) fn run(given: Option<&Path>, choices: Choices, log: Log) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let path = match existing(given) {
        Some(path) if choices.is_empty() => path,
        Some(path) => {
            let remedy = "change that file, or leave --lan, --endpoint and --address out";
            return Err(Usage(format!(
                "there is a configuration, {}; {remedy}",
                path.display()
            ))
            .into());
        }
        None => first_run(&runtime, choices)?,
    };
    let loaded = config::load(&path)?;
    for warning in loaded
        .warnings
        .iter()
        .chain(&host_network::check_lan(&loaded))
    {
        tracing::warn!("{warning}");
    }
    let ended = runtime.block_on(async {
        programs::start_helper().context("cannot start the helper process for nft")?;
        Ok(endpoint::run(loaded.config, log).await?)
    });
    ended.map_err(|error: anyhow::Error| error.context(path.display().to_string()))
}

/// Runs the helper process of an endpoint.
pub(super) fn run_programs() -> anyhow::Result<()> {
    Ok(runtime()?.block_on(programs::run_helper())?)
}

/// Makes the runtime of the control plane, which is one thread. Each shard has its own.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Makes the first configuration in the current folder, if an endpoint could start with it.
fn first_run(runtime: &Runtime, choices: Choices) -> anyhow::Result<PathBuf> {
    runtime.block_on(endpoint::probe(config::DEFAULT_NAME))?;
    let settings = init::complete(choices)?;
    doctor::refuse_blocked(runtime, settings.lan.clone())?;
    let first = init::make(Path::new(""), &settings)?;
    // The files contain all of it: the endpoint starts even if stdout cannot be written.
    if let Err(error) = output::print(&init::welcome(&first)) {
        tracing::debug!("{error:#}");
    }
    Ok(first.config)
}
