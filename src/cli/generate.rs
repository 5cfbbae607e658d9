//! `vcgate completions` and `vcgate man`: shell completions and manual pages, from the definition of
//! the command line.

use super::{Arguments, output};
use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

/// Prints the completions for a shell.
pub(super) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "vcgate", &mut script);
    output::print(&String::from_utf8(script)?)
}

/// Writes a manual page for each command into a folder, and overwrites existing pages.
pub(super) fn man(dir: &Path) -> anyhow::Result<()> {
    let written = clap_mangen::generate_to(Arguments::command(), dir);
    written.with_context(|| format!("cannot write manual pages into {}", dir.display()))
}
