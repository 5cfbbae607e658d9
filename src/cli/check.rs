//! `vcgate check`: checks a configuration by itself and against this machine.

use super::output;
use serde::Serialize;
use std::path::Path;
use vcgate::config::{self, Loaded, Problem, Problems};
use vcgate::operate::host_network;

/// The result as JSON.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a Path,
    /// The number of peers, if there is no error.
    peers: Option<usize>,
    errors: &'a [Problem],
    warnings: &'a [Problem],
}

/// Reports every error and warning of the file, or that there is no error.
pub(super) fn run(path: &Path, json: bool) -> anyhow::Result<()> {
    match config::load(path) {
        Ok(mut loaded) => {
            let of_lan = host_network::check_lan(&loaded);
            loaded.warnings.extend(of_lan);
            loaded.warnings.sort_by_key(|problem| problem.line);
            in_order(path, &loaded, json)
        }
        Err(problems) => not_in_order(path, problems, json),
    }
}

fn in_order(path: &Path, loaded: &Loaded, json: bool) -> anyhow::Result<()> {
    if !json {
        output::warnings(&loaded.warnings);
    }
    let report = Report {
        file: path,
        peers: Some(loaded.config.peers.len()),
        errors: &[],
        warnings: &loaded.warnings,
    };
    output::report(&report, json, |report| {
        let peers = match report.peers {
            Some(1) => "1 peer".to_owned(),
            peers => format!("{} peers", peers.unwrap_or_default()),
        };
        format!("{} is in order: {peers}\n", path.display())
    })
}

fn not_in_order(path: &Path, problems: Problems, json: bool) -> anyhow::Result<()> {
    if !json {
        return Err(problems.into());
    }
    let Problems { errors, warnings } = &problems;
    let report = Report {
        file: path,
        peers: None,
        errors,
        warnings,
    };
    output::report(&report, json, |_| String::new())?;
    anyhow::bail!("{} is not in order", path.display())
}
