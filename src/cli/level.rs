//! `vcgate log level`: the level of the running endpoint's log.

use super::output;
use vcgate::control::client::Client;

/// Sets the level, if one is given, and prints the one in force.
pub fn run(endpoint: &Client, level: Option<String>) -> anyhow::Result<()> {
    let level = endpoint.log_level(level)?;
    let level = level.strip_suffix(",boringtun=off").unwrap_or(&level);
    output::print(&format!("{level}\n"))
}
