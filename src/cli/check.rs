//! `vcgate check`: whether a configuration is in order.

use super::output;
use std::path::Path;
use vcgate::config;

/// Reports every error and warning of the file, and says so if there is no error.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let loaded = config::load(path)?;
    output::warnings(&loaded.warnings);
    let peers = match loaded.config.peers.len() {
        1 => "1 peer".to_owned(),
        count => format!("{count} peers"),
    };
    output::print(&format!("{} is in order: {peers}\n", path.display()))
}
