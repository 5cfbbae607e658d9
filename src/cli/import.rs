//! `vcgate import`: converts the configuration of another endpoint.

use super::{candidates, output};
use serde::Serialize;
use std::path::{Path, PathBuf};
use vcgate::config::{self, Imported};

/// Converts `interface` of the file `from`, or its only one, to the configuration `to`. Access rules
/// are errors, unless `force` ignores them.
pub(super) fn run(
    from: &Path,
    interface: Option<&str>,
    to: &Path,
    force: bool,
    json: bool,
) -> anyhow::Result<()> {
    let imported = config::import(from, interface, to, force)?;
    output::warnings(&imported.warnings);
    lan_in_doubt(to)?;
    let report = Report {
        file: to,
        peers: &imported.peers,
        created: &imported.created,
    };
    output::report(&report, json, |_| text(from, to, &imported))
}

/// An imported endpoint, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a Path,
    peers: &'a [String],
    created: &'a [PathBuf],
}

fn text(from: &Path, to: &Path, imported: &Imported) -> String {
    let peers = match imported.peers.as_slice() {
        [] => "no peers".to_owned(),
        [name] => format!("the peer {name}"),
        names => format!("the peers {}", names.join(", ")),
    };
    let from = from.display();
    let mut text = format!("Imported {peers} from {from}.\n\n");
    text += &output::made(&imported.created);
    text += &format!(
        "\nReview it, then stop the old endpoint and start this one:\n  vcgate up --config {}\n",
        to.display()
    );
    text
}

/// Warns unless the default route uses the only interface that may be on the LAN, since the imported
/// file does not name the LAN.
fn lan_in_doubt(config: &Path) -> anyhow::Result<()> {
    let candidates = candidates::candidates()?;
    if !matches!(candidates.as_slice(), [only] if only.is_default) {
        let names: Vec<_> = candidates.iter().map(ToString::to_string).collect();
        let found = match names.as_slice() {
            [] => "no network card has an address".to_owned(),
            names => format!("there are {}", names.join(", ")),
        };
        output::warning(&format!(
            "the LAN is assumed to be on the interface of the default route, and {found}; if it is not, \
             set interface under [lan] in {}",
            config.display()
        ));
    }
    Ok(())
}
