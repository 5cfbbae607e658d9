//! What was changed on the host, kept in a file so that it can be undone after a `kill -9` too.
//!
//! A change is written down before it is made, so undoing copes with changes that never happened.
//! What hangs on the TUN device (its addresses, routes and settings) vanishes with it and is not
//! written down.

use super::{HostError, Netlink, nft, sysctl};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tracing::warn;

/// One change, with what is needed to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A kernel setting.
    Sysctl {
        /// Its file.
        path: String,
        /// What it was.
        old: String,
        /// What we wrote.
        new: String,
    },
    /// IPv6 is forwarded by all interfaces.
    Forwarding6 {
        /// Those that did it before.
        on: Vec<String>,
    },
    /// ARP or neighbour discovery is answered for an address.
    Proxy {
        /// On this interface.
        interface: String,
        /// The address.
        address: IpAddr,
    },
    /// An nftables table.
    Table(nft::Table),
}

/// The changes made so far.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    changes: Vec<Change>,
}

impl Journal {
    /// The journal of the endpoint `interface`, with what a killed run left in it.
    pub fn open(directory: &Path, interface: &str) -> Result<Self, HostError> {
        let path = file_of(directory, interface, "json");
        let at = |source| HostError::Journal {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(directory).map_err(at)?;
        let changes = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(path = %path.display(), %error, "ignoring a damaged list of leftovers");
                Vec::new()
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(at(e)),
        };
        Ok(Self { path, changes })
    }

    /// Whether there is nothing to undo.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Writes a change down; to be called before it is made.
    pub fn record(&mut self, change: Change) -> Result<(), HostError> {
        self.changes.push(change);
        self.save()
    }

    /// Undoes everything, the last change first, as far as possible; then the first failure.
    pub async fn undo(mut self, netlink: &Netlink) -> Result<(), HostError> {
        let mut first = Ok(());
        while let Some(change) = self.changes.pop() {
            let done = undo(&change, netlink).await;
            if let Err(error) = &done {
                warn!(%error, ?change, "cannot undo a change");
            }
            first = first.and(done);
        }
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                first.and(Err(HostError::Journal {
                    path: self.path,
                    source,
                }))
            }
            _ => first,
        }
    }

    fn save(&self) -> Result<(), HostError> {
        let at = |source| HostError::Journal {
            path: self.path.clone(),
            source,
        };
        let json = serde_json::to_vec_pretty(&self.changes).map_err(|e| at(e.into()))?;
        let new = self.path.with_extension("new");
        fs::write(&new, json)
            .and_then(|()| fs::rename(&new, &self.path))
            .map_err(at)
    }
}

/// A file in which the endpoint `interface` keeps something from one run to the next. The name holds
/// the network namespace too: /run may be shared by several, what is kept is not.
pub fn file_of(directory: &Path, interface: &str, ending: &str) -> PathBuf {
    let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
    let namespace: String = namespace
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    directory.join(format!("{interface}.{namespace}.{ending}"))
}

async fn undo(change: &Change, netlink: &Netlink) -> Result<(), HostError> {
    match change {
        // Whoever has changed it since knows better.
        Change::Sysctl { path, old, new } if sysctl::read(path).as_ref() == Some(new) => {
            sysctl::write(path, old)
        }
        Change::Sysctl { .. } => Ok(()),
        Change::Proxy { interface, address } => match crate::io::interface_index(interface) {
            Some(index) => netlink.remove_proxy(*address, index).await,
            None => Ok(()),
        },
        Change::Forwarding6 { on } => {
            let all = sysctl::ipv6("all", "forwarding");
            if sysctl::read(&all).as_deref() != Some("1") {
                return Ok(());
            }
            sysctl::write(&all, "0")?;
            // An interface may be gone.
            let paths = on.iter().map(|name| sysctl::ipv6(name, "forwarding"));
            { paths }
                .filter(|path| sysctl::read(path).is_some())
                .try_for_each(|path| sysctl::write(&path, "1"))
        }
        Change::Table(table) => nft::delete(table).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(address: [u8; 4]) -> Change {
        Change::Proxy {
            interface: "viono0".into(),
            address: address.into(),
        }
    }

    #[test]
    fn a_later_run_finds_what_a_killed_one_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("made");
        let mut journal = Journal::open(&inside, "vcg0").unwrap();
        assert!(journal.is_empty());
        journal.record(change([192, 0, 2, 1])).unwrap();
        journal.record(change([192, 0, 2, 2])).unwrap();
        let later = Journal::open(&inside, "vcg0").unwrap();
        assert_eq!(
            later.changes,
            [change([192, 0, 2, 1]), change([192, 0, 2, 2])]
        );
        assert!(Journal::open(&inside, "vcg1").unwrap().is_empty());
    }

    #[test]
    fn a_damaged_file_hinders_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path(), "vcg0").unwrap();
        journal.record(change([192, 0, 2, 1])).unwrap();
        fs::write(&journal.path, "{").unwrap();
        assert!(Journal::open(directory.path(), "vcg0").unwrap().is_empty());
    }
}
