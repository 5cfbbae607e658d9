//! Adds peers to a configuration and removes them. It changes no other byte of the file.

use super::address::{self, HostNetwork};
use super::client::{self, Client};
use super::client_files::{self, preshared_key_path, private_key_path};
use super::files::{Created, Replacement, is_same};
use super::load;
use super::problem::{Diagnostic, Problem, Problems};
use super::{Config, Forward, Peer, value};
use crate::keys::{KeyFile, PresharedKey, PrivateKey, PublicKey, reason};
use ipnet::IpNet;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml_edit::{Array, Document, Item, Table};

/// A peer to add.
#[derive(Debug, Clone, Default)]
pub struct NewPeer {
    /// Its name.
    pub name: String,
    /// Its public key; `None` makes a new key pair.
    pub public_key: Option<PublicKey>,
    /// Its inner addresses; empty means the next free ones.
    pub allowed_ips: Vec<IpNet>,
    /// Further keys of its section.
    pub assignments: Vec<Assignment>,
}

/// A peer that was added.
pub struct Added {
    /// The peer.
    pub peer: Peer,
    /// The client's configuration.
    pub client: Client,
    /// The files that were made.
    pub created: Vec<PathBuf>,
    /// Warnings that are new with this peer.
    pub warnings: Vec<Problem>,
}

/// A peer that was removed.
pub struct Removed {
    /// The peer.
    pub peer: Peer,
    /// The files that were deleted: those that were made when it was added.
    pub deleted: Vec<PathBuf>,
    /// Files that could not be deleted.
    pub warnings: Vec<Problem>,
}

/// Adds a peer to the file, and makes keys and the client's configuration beside it.
///
/// # Errors
/// If the configuration or the peer is invalid, or a file cannot be written. Nothing is changed then.
pub fn add_peer(path: &Path, new: &NewPeer, host: &HostNetwork) -> Result<Added, Problems> {
    let fault = |wrong| Problems::one(path, wrong);
    let name = value::peer_name(&new.name).map_err(fault)?;
    let replacement = Replacement::begin(path)?;
    let old_text = load::read(path, load::MISSING)?;
    let old = load::parse(&old_text, path)?;
    let config = &old.config;
    peer_tables(&parse(&old_text, path)?).map_err(fault)?;
    if config.peer(&name).is_some() {
        let what = format!("a peer is called {name:?} already");
        let remedy = format!("choose another name, or \"vcgate peer remove {name}\" first");
        return Err(fault(Diagnostic::new(what, remedy)));
    }
    let allowed_ips = match new.allowed_ips.is_empty() {
        false => new.allowed_ips.clone(),
        true => address::next_free(config).map_err(|full| fault(network_full(config, full)))?,
    };
    if let Some(wrong) = allowed_ips
        .iter()
        .find_map(|net| overlaps_lan(config, net, host))
    {
        return Err(fault(wrong));
    }

    let mut created = Created::default();
    let dir = config.dir();
    let stem = client_files::free_stem(config, &name);
    let key_file = private_key_path(dir, &stem);
    if is_same(&config.interface.private_key_file, &key_file) {
        let what = format!("{} is the endpoint's own key", key_file.display());
        return Err(fault(Diagnostic::new(what, "choose another name")));
    }
    created.private_dir(&dir.join("keys"))?;
    let public_key = match new.public_key {
        Some(key) => key,
        None => {
            let key = PrivateKey::generate().map_err(|error| fault(no_random_bytes(&error)))?;
            created.key(&key_file, |file| key.write_new(file))?;
            key.public_key()
        }
    };
    let preshared = PresharedKey::generate().map_err(|error| fault(no_random_bytes(&error)))?;
    created.key(&preshared_key_path(dir, &stem), |file| {
        preshared.write_new(file)
    })?;

    let mut block = peer_block(&name, &stem, &public_key, &allowed_ips);
    let edits = assign::edits(&new.assignments, None).map_err(fault)?;
    for (key, literal) in edits {
        block += &literal.map_or_else(String::new, |literal| format!("{key} = {literal}\n"));
    }
    let new_text = appended(&old_text, &block);
    let first_line = old_text.lines().count() + 1;
    let loaded =
        load::parse(&new_text, path).map_err(|problems| problems.unplaced(path, first_line))?;
    let Some(peer) = loaded.config.peer(&name).cloned() else {
        return Err(fault(client::no_peer(&loaded.config, &name)));
    };
    let client_file = client_files::configuration_path(dir, &stem);
    let client = client::client_at(&loaded.config, &peer, client_file, host);
    created.private_dir(&dir.join("clients"))?;
    created.private_file(&client.path, &client.text)?;
    created.sync()?;
    replacement.commit(&new_text)?;

    let mut warnings = new_warnings(loaded.warnings, &old.warnings);
    warnings.extend(invalid_wg_quick_name(&client));
    warnings.extend(client.warnings.iter().cloned());
    Ok(Added {
        peer,
        client,
        created: created.finish(),
        warnings,
    })
}

/// Returns the error for a full network of the tunnel; `own` is the endpoint's address in it.
fn network_full(config: &Config, own: IpNet) -> Diagnostic {
    let wider = IpNet::new(own.addr(), own.prefix_len().saturating_sub(1)).unwrap_or(own);
    let addresses = config.interface.address.iter();
    let addresses = addresses.map(|address| if *address == own { &wider } else { address });
    let addresses: Vec<_> = addresses.map(|address| format!("\"{address}\"")).collect();
    let remedy = format!(
        "widen it: address = [{}] under [interface], then restart the endpoint",
        addresses.join(", ")
    );
    Diagnostic::new(format!("no address is free in {}", own.trunc()), remedy)
}

/// Returns an error for an address that a host on the LAN may have, since the LAN could not reach the
/// client there. LAN networks that contain the tunnel are ignored.
fn overlaps_lan(config: &Config, net: &IpNet, host: &HostNetwork) -> Option<Diagnostic> {
    let lan = match config.lan.networks.is_empty() {
        true => host.networks(true),
        false => {
            let known = config.lan.known_to_clients(&config.lan.networks);
            [config.lan.networks.clone(), known].concat()
        }
    };
    let tunnel: Vec<IpNet> = config.interface.address.iter().map(IpNet::trunc).collect();
    let is_around = |lan: &IpNet| tunnel.iter().any(|tunnel| lan.contains(tunnel));
    let lan = lan
        .iter()
        .find(|lan| lan.contains(net) && !is_around(lan))?;
    let tunnel: Vec<String> = tunnel.iter().map(IpNet::to_string).collect();
    let remedy = format!(
        "a client has an address of the tunnel, {}: leave --allowed-ips out for the next free one",
        tunnel.join(", ")
    );
    Some(Diagnostic::new(
        format!("{net} is in the LAN's {lan}"),
        remedy,
    ))
}

/// Returns a warning for a file name that wg-quick rejects: it uses it as the interface's name.
fn invalid_wg_quick_name(client: &Client) -> Option<Problem> {
    const MAX_NAME_LEN: usize = 15; // wg-quick(8)
    let taken = |c: char| c.is_ascii_alphanumeric() || "_=+.-".contains(c);
    if client.name.len() <= MAX_NAME_LEN && client.name.chars().all(taken) {
        return None;
    }
    let what = "wg-quick does not take a file of this name";
    let remedy = format!(
        "where it is used, rename it to up to {MAX_NAME_LEN} of a-z, A-Z, 0-9, \"_\", \".\" and \"-\""
    );
    Some(Problem {
        file: client.path.clone(),
        line: None,
        wrong: Diagnostic::new(what, remedy),
    })
}

/// Returns the warnings that were not there before a change.
fn new_warnings(mut warnings: Vec<Problem>, before: &[Problem]) -> Vec<Problem> {
    warnings.retain(|warning| !before.contains(warning));
    warnings
}

mod assign;
mod change;
mod forwards;
mod refresh;

pub use assign::Assignment;
pub use change::{Changed, rekey_peer, rename_peer, set_peer};
pub use forwards::{AddedForward, add_forward, remove_forwards};
pub use refresh::{Refreshed, refresh_clients};

/// Removes a peer from the file, and deletes the files that were made for it.
///
/// # Errors
/// If there is no such peer, a forward leads to it, or the file cannot be written.
pub fn remove_peer(path: &Path, name: &str) -> Result<Removed, Problems> {
    let fault = |wrong| Problems::one(path, wrong);
    let replacement = Replacement::begin(path)?;
    let old_text = load::read(path, load::MISSING)?;
    let config = load::parse(&old_text, path)?.config;
    let Some(peer) = config.peer(name).cloned() else {
        return Err(fault(client::no_peer(&config, name)));
    };
    let to_it = |f: &&Forward| {
        config
            .owner(f.to.ip())
            .is_some_and(|owner| owner.name == name)
    };
    if let Some(port) = config.forwards.iter().find(to_it).map(Forward::port) {
        let what = format!("LAN port {port} is forwarded to {name:?}");
        let remedy = format!("\"vcgate forward remove {port}\" first");
        return Err(fault(Diagnostic::new(what, remedy)));
    }
    let document = parse(&old_text, path)?;
    let tables = peer_tables(&document).map_err(fault)?;
    let named = |table: &&Table| table.get("name").and_then(Item::as_str) == Some(name);
    let Some(range) = tables
        .into_iter()
        .find(named)
        .map(|table| extent(table, &old_text))
    else {
        return Err(fault(client::no_peer(&config, name)));
    };
    let mut new_text = old_text;
    new_text.replace_range(range, "");
    load::parse(&new_text, path)?;
    replacement.commit(&new_text)?;

    let mut warnings = Vec::new();
    let deleted = delete(client_files::all(&config, &peer), &mut warnings);
    Ok(Removed {
        peer,
        deleted,
        warnings,
    })
}

/// Deletes files, and returns those that were there.
fn delete(files: Vec<PathBuf>, warnings: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut deleted = Vec::new();
    for file in files {
        match fs::remove_file(&file) {
            Ok(()) => deleted.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let what = format!("cannot delete it: {}", reason(&error));
                let remedy = format!("rm {}", file.display());
                let wrong = Diagnostic::new(what, remedy);
                let line = None;
                warnings.push(Problem { file, line, wrong });
            }
        }
    }
    deleted
}

pub(super) fn no_random_bytes(error: &io::Error) -> Diagnostic {
    let what = format!("cannot get random bytes from the system: {}", reason(error));
    Diagnostic::new(what, "try again when the system has started")
}

/// Parses the text with spans. It was parsed before, so errors are not expected.
fn parse<'t>(text: &'t str, path: &Path) -> Result<Document<&'t str>, Problems> {
    Document::parse(text).map_err(|error| {
        let wrong = Diagnostic::new(error.message(), "correct the TOML of the file");
        Problems::one(path, wrong)
    })
}

/// Returns the `[[peer]]` sections, if they are written as such.
fn peer_tables<'t>(document: &'t Document<&str>) -> Result<Vec<&'t Table>, Diagnostic> {
    tables(document, "peer")
}

/// Returns the `[[kind]]` sections, if they are written as such.
fn tables<'t>(document: &'t Document<&str>, kind: &str) -> Result<Vec<&'t Table>, Diagnostic> {
    match document.get(kind) {
        None => Ok(Vec::new()),
        Some(Item::ArrayOfTables(tables)) => Ok(tables.iter().collect()),
        Some(_) => Err(Diagnostic::new(
            format!("the {kind}s are written as one list, which commands do not change"),
            format!("write each as a section, [[{kind}]]"),
        )),
    }
}

/// Writes the section of a new peer, whose files have the base name `stem`.
fn peer_block(name: &str, stem: &str, public_key: &PublicKey, allowed_ips: &[IpNet]) -> String {
    let mut table = Table::new();
    table.insert("name", toml_edit::value(name));
    table.insert("public_key", toml_edit::value(public_key.to_string()));
    table.insert(
        "preshared_key_file",
        toml_edit::value(format!("keys/{stem}.psk")),
    );
    let allowed_ips: Array = allowed_ips.iter().map(IpNet::to_string).collect();
    table.insert("allowed_ips", toml_edit::value(allowed_ips));
    format!("[[peer]]\n{table}")
}

/// Appends a section after one blank line.
fn appended(text: &str, block: &str) -> String {
    let separator = match text {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    format!("{text}{separator}{block}")
}

/// Returns the range of a peer in the text: its section, the comment directly above it, and the blank
/// line before both.
fn extent(table: &Table, text: &str) -> Range<usize> {
    let header = table.span().unwrap_or_default();
    let ends = table.iter().filter_map(|(_, item)| Some(item.span()?.end));
    let end = ends.max().unwrap_or(header.end).max(header.end);
    let rest = text.get(end..).unwrap_or_default();
    let end = end + rest.find('\n').map_or(rest.len(), |newline| newline + 1);

    // Between the previous section and the header there are only blank lines and comments.
    let prefix = table.decor().prefix().and_then(|prefix| prefix.span());
    let floor = prefix.map_or(header.start, |prefix| prefix.start);
    let between = text.get(floor..header.start).unwrap_or_default();
    let mut lines = between.split_inclusive('\n').rev().peekable();
    let mut start = header.start;
    while let Some(line) = lines.next_if(|line| line.trim_start().starts_with('#')) {
        start -= line.len();
    }
    if let Some(line) = lines.next_if(|line| line.trim().is_empty()) {
        start -= line.len();
    }
    start..end
}

#[cfg(test)]
mod tests;
