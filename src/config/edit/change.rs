//! Changes a peer of a configuration: its keys in the file, its name, its cryptographic keys. It
//! changes no other byte of the file.
//!
//! The order of steps makes an interrupted change harmless: new files first, then the configuration,
//! then the old files. A client's configuration that was edited by hand is not replaced.

use super::super::client::{self, Client};
use super::super::client_files::{self, preshared_key_path, private_key_path};
use super::super::difference::changed_keys;
use super::super::files::{Created, Replacement, is_same};
use super::super::load::{self, Loaded};
use super::super::problem::{Diagnostic, Problem, Problems};
use super::super::{Config, HostNetwork, Peer, value};
use super::assign::{self, Assignment};
use super::refresh::{Refreshed, refresh};
use super::{delete, new_warnings, no_random_bytes, overlaps_lan, parse, peer_tables};
use crate::keys::{KeyFile, PresharedKey, PrivateKey, PublicKey};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml_edit::{InlineTable, Item, Table};

/// A peer that was changed.
pub struct Changed {
    /// The peer before the change.
    pub before: Peer,
    /// The peer now.
    pub peer: Peer,
    /// The keys of its section that differ.
    pub keys: Vec<&'static str>,
    /// The client's present configuration.
    pub client: Client,
    /// The files that were made or replaced.
    pub written: Vec<PathBuf>,
    /// The files that were deleted.
    pub deleted: Vec<PathBuf>,
    /// Warnings that are new with the change.
    pub warnings: Vec<Problem>,
    /// The text of the file before.
    old_text: String,
}

impl Changed {
    /// Restores the text of the file, after a change that made no keys.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn undo(&self, path: &Path) -> Result<(), Problems> {
        Replacement::begin(path)?.commit(&self.old_text)
    }
}

/// Sets keys of a peer's section.
///
/// # Errors
/// If there is no such peer, or a value is invalid. Nothing is changed then.
pub fn set_peer(
    path: &Path,
    name: &str,
    assignments: &[Assignment],
    host: &HostNetwork,
) -> Result<Changed, Problems> {
    let file = Opened::of(path, name)?;
    let edits = assign::edits(assignments, file.client_table()?.as_ref());
    let edits = edits.map_err(|wrong| Problems::one(path, wrong))?;
    let (new_text, loaded, peer) = file.edited(&edits, name)?;
    let added = peer.allowed_ips.iter();
    let mut added = added.filter(|net| !file.peer.allowed_ips.contains(net));
    if let Some(wrong) = added.find_map(|net| overlaps_lan(&loaded.config, net, host)) {
        return Err(Problems::one(path, wrong));
    }
    let Opened {
        replacement,
        old_text,
        old,
        peer: before,
        ..
    } = file;
    let old_client = present_client(&old.config, &before, host);
    let new_client = client::client_at(&loaded.config, &peer, old_client.path.clone(), host);
    replacement.commit(&new_text)?;
    let mut warnings = new_warnings(loaded.warnings, &old.warnings);
    let mut refreshed = Refreshed::default();
    refresh(&new_client, Some(&old_client.text), &mut refreshed)?;
    warnings.extend(refreshed.warnings);
    Ok(Changed {
        keys: changed_keys(&before, &peer),
        before,
        peer,
        client: new_client,
        written: refreshed.written,
        deleted: Vec::new(),
        warnings,
        old_text,
    })
}

/// Gives a peer another name, and its files too.
///
/// # Errors
/// If there is no such peer, or the name or a file name is taken. Nothing is changed then.
pub fn rename_peer(
    path: &Path,
    name: &str,
    new_name: &str,
    host: &HostNetwork,
) -> Result<Changed, Problems> {
    let file = Opened::of(path, name)?;
    let new_name = value::peer_name(new_name).map_err(|wrong| Problems::one(path, wrong))?;
    if file.old.config.peer(&new_name).is_some() {
        let what = format!("a peer is called {new_name:?} already");
        return Err(Problems::one(
            path,
            Diagnostic::new(what, "choose another name"),
        ));
    }
    let dir = file.old.config.dir().to_owned();
    let mut created = Created::default();
    let mut edits = vec![("name", Some(quoted(&new_name)))];
    let (old_private, new_private) = (
        private_key_path(&dir, name),
        private_key_path(&dir, &new_name),
    );
    let own = client_files::private_key(&dir, &file.peer).map(|(file, _)| file);
    let mut moved = Vec::new();
    if own.is_some_and(|own| is_same(&own, &old_private)) {
        created.link(&old_private, &new_private)?;
        moved.push(old_private);
    }
    let old_preshared = preshared_key_path(&dir, name);
    let preshared = file.peer.preshared_key_file.as_ref();
    if preshared.is_some_and(|file| is_same(file, &old_preshared)) {
        created.link(&old_preshared, &preshared_key_path(&dir, &new_name))?;
        edits.push((
            "preshared_key_file",
            Some(quoted(&format!("keys/{new_name}.psk"))),
        ));
        moved.push(old_preshared);
    }
    let (new_text, loaded, peer) = file.edited(&edits, &new_name)?;
    let Opened {
        replacement,
        old_text,
        old,
        peer: before,
        ..
    } = file;
    let old_client = present_client(&old.config, &before, host);
    let new_path = client_files::configuration_path(&dir, &new_name);
    let mut new_client = client::client_at(&loaded.config, &peer, new_path, host);
    let old_path = client_files::configuration_path(&dir, name);
    if old_path.exists() && is_same(&old_client.path, &old_path) {
        match is_unedited(&old_client) {
            true => created.private_file(&new_client.path, &new_client.text)?,
            false => created.link(&old_client.path, &new_client.path)?,
        }
        moved.push(old_client.path.clone());
    } else if old_client.path.exists() {
        new_client.path.clone_from(&old_client.path);
    }
    created.sync()?;
    replacement.commit(&new_text)?;
    let mut warnings = new_warnings(loaded.warnings, &old.warnings);
    let deleted = delete(moved, &mut warnings);
    Ok(Changed {
        keys: vec!["name"],
        before,
        peer,
        client: new_client,
        written: created.finish(),
        deleted,
        warnings,
        old_text,
    })
}

/// Gives a peer new keys: its present configuration can no longer connect. With `public_key` the
/// client keeps its private key.
///
/// # Errors
/// If there is no such peer, or a file cannot be written. Nothing is changed then.
pub fn rekey_peer(
    path: &Path,
    name: &str,
    public_key: Option<PublicKey>,
    host: &HostNetwork,
) -> Result<Changed, Problems> {
    let fault = |wrong| Problems::one(path, wrong);
    let file = Opened::of(path, name)?;
    let dir = file.old.config.dir().to_owned();
    let stem = client_files::free_stem(&file.old.config, name);
    let mut created = Created::default();
    created.private_dir(&dir.join("keys"))?;
    let public_key = match public_key {
        Some(key) => key,
        None => {
            let key = PrivateKey::generate().map_err(|error| fault(no_random_bytes(&error)))?;
            created.key(&private_key_path(&dir, &stem), |file| key.write_new(file))?;
            key.public_key()
        }
    };
    let preshared = PresharedKey::generate().map_err(|error| fault(no_random_bytes(&error)))?;
    created.key(&preshared_key_path(&dir, &stem), |file| {
        preshared.write_new(file)
    })?;
    let edits = [
        ("public_key", Some(quoted(&public_key.to_string()))),
        (
            "preshared_key_file",
            Some(quoted(&format!("keys/{stem}.psk"))),
        ),
    ];
    let (new_text, loaded, peer) = file.edited(&edits, name)?;
    let Opened {
        replacement,
        old_text,
        old,
        peer: before,
        ..
    } = file;
    let client_file = client_files::configuration_path(&dir, &stem);
    let client = client::client_at(&loaded.config, &peer, client_file, host);
    created.private_dir(&dir.join("clients"))?;
    created.private_file(&client.path, &client.text)?;
    created.sync()?;
    let outdated = client_files::all(&old.config, &before);
    replacement.commit(&new_text)?;
    let mut warnings = new_warnings(loaded.warnings, &old.warnings);
    let deleted = delete(outdated, &mut warnings);
    Ok(Changed {
        keys: vec!["public_key", "preshared_key_file"],
        before,
        peer,
        client,
        written: created.finish(),
        deleted,
        warnings,
        old_text,
    })
}

/// A configuration that is about to be changed, and one of its peers.
struct Opened<'p> {
    path: &'p Path,
    replacement: Replacement,
    old_text: String,
    old: Loaded,
    peer: Peer,
}

impl<'p> Opened<'p> {
    fn of(path: &'p Path, name: &str) -> Result<Self, Problems> {
        let replacement = Replacement::begin(path)?;
        let old_text = load::read(path, load::MISSING)?;
        let old = load::parse(&old_text, path)?;
        let Some(peer) = old.config.peer(name).cloned() else {
            return Err(Problems::one(path, client::no_peer(&old.config, name)));
        };
        Ok(Self {
            path,
            replacement,
            old_text,
            old,
            peer,
        })
    }

    /// Returns the table `client` of the peer's section, if it is an inline one.
    fn client_table(&self) -> Result<Option<InlineTable>, Problems> {
        let document = parse(&self.old_text, self.path)?;
        let tables = peer_tables(&document).map_err(|wrong| Problems::one(self.path, wrong))?;
        let named =
            |table: &&Table| table.get("name").and_then(Item::as_str) == Some(&self.peer.name);
        let table = tables.into_iter().find(named);
        let client = table.and_then(|table| table.get("client"));
        Ok(client.and_then(Item::as_inline_table).cloned())
    }

    /// Returns the text with other values of keys, and the configuration and the peer in it.
    fn edited(
        &self,
        edits: &[(&str, Option<String>)],
        new_name: &str,
    ) -> Result<(String, Loaded, Peer), Problems> {
        let fault = |wrong| Problems::one(self.path, wrong);
        let document = parse(&self.old_text, self.path)?;
        let named =
            |table: &&Table| table.get("name").and_then(Item::as_str) == Some(&self.peer.name);
        let tables = peer_tables(&document).map_err(fault)?;
        let Some(table) = tables.into_iter().find(named) else {
            return Err(fault(client::no_peer(&self.old.config, &self.peer.name)));
        };
        let mut replaced: Vec<(Range<usize>, String)> = Vec::new();
        let mut added = String::new();
        for (key, literal) in edits {
            match (table.get_key_value(key), literal) {
                (Some((found, item)), literal) => {
                    let span = item.is_value().then(|| item.span()).flatten();
                    let (Some(start), Some(value)) = (found.span(), span) else {
                        let what = format!("{key:?} is not written as one value");
                        let wrong = Diagnostic::new(what, "change it in the file by hand");
                        return Err(fault(wrong));
                    };
                    replaced.push(match literal {
                        Some(literal) => (value, literal.clone()),
                        None => (lines(&self.old_text, start.start..value.end), String::new()),
                    });
                }
                (None, Some(literal)) => added += &format!("{key} = {literal}\n"),
                (None, None) => {}
            }
        }
        let end = lines(&self.old_text, end_of_values(table)).end;
        replaced.push((end..end, added));
        // From the end, so that earlier ranges stay.
        replaced.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
        let mut text = self.old_text.clone();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        for (range, new) in replaced {
            text.replace_range(range, &new);
        }
        let loaded = load::parse(&text, self.path)?;
        let peer = loaded.config.peer(new_name).cloned();
        let peer = peer.ok_or_else(|| fault(client::no_peer(&loaded.config, new_name)))?;
        Ok((text, loaded, peer))
    }
}

/// Returns the range of the whole lines of a range, with the last line end.
fn lines(text: &str, range: Range<usize>) -> Range<usize> {
    let before = text.get(..range.start).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let rest = text.get(range.end..).unwrap_or_default();
    // A file without a last line end is given one.
    let end = range.end
        + rest
            .find('\n')
            .map_or(rest.len() + 1, |newline| newline + 1);
    start..end
}

/// Returns the range of a section's header or, if it has any, of its last own value.
fn end_of_values(table: &Table) -> Range<usize> {
    let header = table.span().unwrap_or_default();
    let values = table.iter().filter(|(_, item)| item.is_value());
    let spans = values.filter_map(|(_, item)| item.span());
    spans.max_by_key(|span| span.end).unwrap_or(header)
}

fn quoted(text: &str) -> String {
    toml_edit::value(text).to_string()
}

/// Returns the client's configuration as the file has it, at the place where it was written.
fn present_client(config: &Config, peer: &Peer, host: &HostNetwork) -> Client {
    let file = client_files::configuration(config.dir(), peer);
    let file = file.unwrap_or_else(|| client_files::configuration_path(config.dir(), &peer.name));
    client::client_at(config, peer, file, host)
}

/// Whether the client's configuration is as vcgate would write it.
fn is_unedited(client: &Client) -> bool {
    let text = fs::read_to_string(&client.path);
    text.is_ok_and(|text| text == *client.text || client_files::is_as_written(&text))
}

#[cfg(test)]
mod tests;
