//! Finds the files of clients beside the configuration: keys/NAME.key, keys/NAME.psk,
//! clients/NAME.conf. It makes and deletes none.
//!
//! A file belongs to the client whose public key it contains, whatever its name: a client that was
//! renamed in the configuration keeps its files.

use super::files::is_same;
use super::{Config, Peer};
use crate::keys::{KeyFile, PrivateKey, PublicKey};
use std::fs;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The line in a client's configuration for a private key that only the client has.
pub(super) const KEY_OF: &str = "# PrivateKey = (the one of ";

/// The beginning of the last line of a client's configuration. The number after it is of the text
/// before, and shows whether the file was edited.
const CHECKSUM: &str = "# Written by vcgate, checksum ";

/// Returns the last line of a client's configuration with this text.
pub(super) fn checksum_line(text: &str) -> String {
    // FNV-1a, 64 bits: it must not change between versions, and finds edits, not attacks.
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, add);
    format!("{CHECKSUM}{hash:016x}")
}

/// Returns a client's configuration without the line that shows edits of its file.
pub fn without_checksum(text: &str) -> &str {
    text.rfind(CHECKSUM).map_or(text, |start| &text[..start])
}

/// Whether a client's configuration is as it was written.
pub(super) fn is_as_written(text: &str) -> bool {
    let start = text.rfind(CHECKSUM);
    start.is_some_and(|start| {
        let (written, last) = text.split_at(start);
        last.trim_end() == checksum_line(written)
    })
}

/// Returns the path of a client's configuration.
pub(super) fn configuration_path(dir: &Path, stem: &str) -> PathBuf {
    dir.join("clients").join(format!("{stem}.conf"))
}

/// Returns the path of the private key that is made for a client.
pub(super) fn private_key_path(dir: &Path, stem: &str) -> PathBuf {
    dir.join("keys").join(format!("{stem}.key"))
}

/// Returns the path of the preshared key that is made for a client.
pub(super) fn preshared_key_path(dir: &Path, stem: &str) -> PathBuf {
    dir.join("keys").join(format!("{stem}.psk"))
}

/// Finds the client's private key, if it was made here.
pub(super) fn private_key(dir: &Path, peer: &Peer) -> Option<(PathBuf, PrivateKey)> {
    let own = private_key_path(dir, &peer.name);
    let files = std::iter::once(own).chain(files(&dir.join("keys"), "key"));
    let mut keys = files.filter_map(|file| PrivateKey::read(&file).ok().map(|key| (file, key)));
    keys.find(|(_, key)| key.public_key() == peer.public_key)
}

/// Finds the client's configuration, if it was written here.
pub(super) fn configuration(dir: &Path, peer: &Peer) -> Option<PathBuf> {
    let own = configuration_path(dir, &peer.name);
    let mut files = std::iter::once(own).chain(files(&dir.join("clients"), "conf"));
    files.find(|file| configuration_key(file) == Some(peer.public_key))
}

/// Lists all configurations of clients, each with the public key of its client.
pub(super) fn configurations(dir: &Path) -> impl Iterator<Item = (PathBuf, PublicKey)> {
    let files = files(&dir.join("clients"), "conf").into_iter();
    files.filter_map(|file| configuration_key(&file).map(|key| (file, key)))
}

/// Finds all files of a client, in the order of deletion.
pub(super) fn all(config: &Config, peer: &Peer) -> Vec<PathBuf> {
    let dir = config.dir();
    let private = private_key(dir, peer).map(|(file, _)| file);
    let own = configuration_path(dir, &peer.name);
    // A configuration that was edited and has no key is recognized by its name.
    let own = Some(own).filter(|file| file.exists() && configuration_key(file).is_none());
    let configuration = configuration(dir, peer).or(own);

    let made = [&private, &configuration].into_iter().flatten();
    let stems = made.filter_map(|file| file.file_stem()?.to_str());
    let stems = stems.chain([peer.name.as_str()]);
    let candidates: Vec<_> = stems.map(|stem| preshared_key_path(dir, stem)).collect();
    let mut others = config.peers.iter().filter(|other| other.name != peer.name);
    let preshared = candidates
        .into_iter()
        .find(|file| uses(peer, file))
        .filter(|file| !others.any(|other| uses(other, file)));
    [configuration, preshared, private]
        .into_iter()
        .flatten()
        .collect()
}

/// Returns the base name of a new client's files: its own, unless a client that was renamed has files
/// of that name.
pub(super) fn free_stem(config: &Config, name: &str) -> String {
    let dir = config.dir();
    let is_peers = |key: PublicKey| config.peers.iter().any(|peer| peer.public_key == key);
    let mut stem = name.to_owned();
    let mut number = 1;
    loop {
        let private = PrivateKey::read(&private_key_path(dir, &stem)).ok();
        let preshared = preshared_key_path(dir, &stem);
        let is_taken = private.is_some_and(|key| is_peers(key.public_key()))
            || configuration_key(&configuration_path(dir, &stem)).is_some_and(is_peers)
            || config.peers.iter().any(|peer| uses(peer, &preshared));
        if !is_taken {
            return stem;
        }
        number += 1;
        stem = format!("{name}-{number}");
    }
}

fn uses(peer: &Peer, preshared: &Path) -> bool {
    let file = peer.preshared_key_file.as_ref();
    file.is_some_and(|file| is_same(file, preshared))
}

/// Returns the public key of the client of a configuration.
fn configuration_key(file: &Path) -> Option<PublicKey> {
    let text = Zeroizing::new(fs::read_to_string(file).ok()?);
    text.lines().find_map(|line| {
        if let Some(rest) = line.strip_prefix(KEY_OF) {
            return PublicKey::from_base64(rest.trim_end().strip_suffix(')')?).ok();
        }
        let (key, value) = line.split_once('=')?;
        let is_private = key.trim().eq_ignore_ascii_case("privatekey");
        let private = is_private.then(|| PrivateKey::from_base64(value.trim()).ok())??;
        Some(private.public_key())
    })
}

/// Lists the files of a folder with an extension, sorted by name.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    let mut files: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|end| end == extension))
        .collect();
    files.sort();
    files
}
