//! `vcgate import`: an existing endpoint taken over.

use super::{output, surroundings};
use std::path::Path;
use vcgate::config;

/// Makes the configuration `to` of the wg-quick file `from`. Access rules in it are errors, unless
/// `force` says to go on without them.
pub fn run(from: &Path, to: &Path, force: bool) -> anyhow::Result<()> {
    let around = surroundings::look(None, None);
    let imported = config::import(from, to, &around, force)?;
    surroundings::tell_if_none(&around, to);
    output::warnings(&imported.warnings);
    let peers = match imported.peers.as_slice() {
        [] => "no peers".to_owned(),
        [name] => format!("the peer {name}"),
        names => format!("the peers {}", names.join(", ")),
    };
    let from = from.display();
    let mut text = format!("Took over {peers} from {from}.\n\n");
    text += &output::made(&imported.created);
    text += &format!(
        "\nLook it over, then stop the old endpoint and start this one:\n  vcgate up --config {}\n",
        to.display()
    );
    output::print(&text)
}
