//! What was changed on the host, kept in a file so that it can be undone after a `kill -9` too.
//!
//! A change is written down before it is made, so undoing copes with changes that never happened.
//! What hangs on the TUN device (its addresses, routes and settings) vanishes with it and is not
//! written down.
//!
//! Endpoints of one network share settings: who comes later takes over from the others' journals
//! what a setting was before all of them, and the last to go puts that back.

use super::{HostError, Netlink, nft, sysctl};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
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

impl Change {
    /// Whether both are of one setting, which is there once for all endpoints.
    fn shares_setting(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sysctl { path, .. }, Self::Sysctl { path: other, .. }) => path == other,
            (Self::Forwarding6 { .. }, Self::Forwarding6 { .. }) => true,
            _ => false,
        }
    }

    /// Whether it came with the forwarding of IPv6.
    fn is_forwarding6(&self) -> bool {
        match self {
            Self::Sysctl { path, .. } => path.ends_with("/accept_ra"),
            other => matches!(other, Self::Forwarding6 { .. }),
        }
    }
}

/// The changes made so far.
#[derive(Debug, Clone)]
pub struct Journal {
    directory: PathBuf,
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
        Ok(Self {
            directory: directory.into(),
            path,
            changes,
        })
    }

    /// Keeps other endpoints from starting and stopping until the file is dropped.
    pub fn alone(&self) -> Result<File, HostError> {
        let locked = File::open(&self.directory).and_then(|it| it.lock().map(|()| it));
        locked.map_err(|source| HostError::Journal {
            path: self.directory.clone(),
            source,
        })
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

    /// Writes a change down, unless it is there already.
    pub fn record_once(&mut self, change: Change) -> Result<(), HostError> {
        match self.changes.contains(&change) {
            true => Ok(()),
            false => self.record(change),
        }
    }

    /// Writes down that a setting is `now`, and will be `new`.
    pub fn record_setting(&mut self, path: &str, now: &str, new: &str) -> Result<(), HostError> {
        let before_others = self.others().into_iter().flat_map(|(_, changes)| changes);
        let mut before_others = before_others.filter_map(|change| match change {
            Change::Sysctl { path: p, old, .. } if p == path && now == new => Some(old),
            _ => None,
        });
        let old = before_others.next().unwrap_or_else(|| now.to_owned());
        self.record(Change::Sysctl {
            path: path.to_owned(),
            old,
            new: new.to_owned(),
        })
    }

    /// Writes down that IPv6 is forwarded already: by other endpoints, or else it stays so.
    pub fn record_forwarding6(&mut self) -> Result<(), HostError> {
        let is_it = |change: &Change| matches!(change, Change::Forwarding6 { .. });
        let others = self.others();
        let by = others.into_iter().find(|(_, made)| made.iter().any(is_it));
        let made = by.into_iter().flat_map(|(_, made)| made);
        made.filter(Change::is_forwarding6)
            .try_for_each(|change| self.record(change))
    }

    /// Undoes everything that no other endpoint needs, the last change first, as far as possible;
    /// then the first failure.
    pub async fn undo(mut self, netlink: &Netlink) -> Result<(), HostError> {
        // Without the directory there are no others.
        let _alone = self.alone();
        let mut others = self.others();
        // Of one that was killed there is only the journal.
        others.retain(|(name, _)| vcgate_io::interface_index(name).is_some());
        let others: Vec<_> = others.into_iter().flat_map(|(_, made)| made).collect();
        let mut first = Ok(());
        while let Some(change) = self.changes.pop() {
            if others.iter().any(|other| other.shares_setting(&change)) {
                continue;
            }
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

    /// What the other endpoints of this network have changed, by their names.
    fn others(&self) -> Vec<(String, Vec<Change>)> {
        let ending = file_of(Path::new(""), "", "json");
        let other = |entry: fs::DirEntry| {
            let file = entry.file_name().into_string().ok()?;
            let name = file.strip_suffix(ending.to_str()?)?;
            let bytes = fs::read(entry.path()).ok()?;
            let is_own = entry.path() == self.path;
            let changes = serde_json::from_slice(&bytes).ok()?;
            (!is_own).then(|| (name.to_owned(), changes))
        };
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        entries.flatten().filter_map(other).collect()
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
        // By now the whole machine forwards, as Docker has it.
        Change::Sysctl { path, .. } if sysctl::forwards_with_all(path) => Ok(()),
        // Whoever has changed it since knows better.
        Change::Sysctl { path, old, new }
            if old != new && sysctl::read(path).as_ref() == Some(new) =>
        {
            sysctl::write(path, old)
        }
        Change::Sysctl { .. } => Ok(()),
        Change::Proxy { interface, address } => match vcgate_io::interface_index(interface) {
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
