//! Records each change of the host in a file, so that it can be undone after a `kill -9` as well.
//!
//! A change is recorded before it is made; undoing therefore copes with changes that never happened.
//! Addresses, routes and settings of the TUN device vanish with the device and are not recorded.
//!
//! Endpoints in one network namespace share settings: a later one copies the original value from
//! the undo logs of the others, and the last one to stop restores it.

use super::{HostError, Netlink, nft, sysctl};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tracing::warn;

/// One change, with the data that undoing it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Change {
    /// A kernel setting.
    Sysctl {
        /// The file under /proc/sys.
        path: String,
        /// The value before.
        old: String,
        /// The value that was written.
        new: String,
    },
    /// All interfaces forward IPv6.
    Forwarding6 {
        /// Interfaces that forwarded before.
        on: Vec<String>,
    },
    /// A proxy neighbour entry (ARP or NDP).
    Proxy {
        /// The interface that answers.
        interface: String,
        /// The address.
        address: IpAddr,
    },
    /// An nftables table.
    Table(nft::Table),
}

impl Change {
    /// Whether both concern the same setting, which all endpoints share.
    fn shares_setting(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sysctl { path, .. }, Self::Sysctl { path: other, .. }) => path == other,
            (Self::Forwarding6 { .. }, Self::Forwarding6 { .. }) => true,
            _ => false,
        }
    }

    /// Whether it belongs to the forwarding of IPv6.
    fn is_forwarding6(&self) -> bool {
        match self {
            Self::Sysctl { path, .. } => path.ends_with("/accept_ra"),
            other => matches!(other, Self::Forwarding6 { .. }),
        }
    }
}

/// The recorded changes of one endpoint.
#[derive(Debug, Clone)]
pub(super) struct UndoLog {
    directory: PathBuf,
    path: PathBuf,
    changes: Vec<Change>,
}

impl UndoLog {
    /// Opens the undo log of the endpoint `interface`, with the changes that a killed run has left.
    ///
    /// # Errors
    /// Fails if the directory or the file cannot be accessed. A damaged file is ignored with a warning.
    pub(super) fn open(directory: &Path, interface: &str) -> Result<Self, HostError> {
        let path = file_of(directory, interface, "json");
        let at = |source| HostError::UndoLog {
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

    /// Prevents other endpoints from starting and stopping until the returned file is dropped.
    pub(super) fn lock_directory(&self) -> Result<File, HostError> {
        let locked = File::open(&self.directory).and_then(|it| it.lock().map(|()| it));
        locked.map_err(|source| HostError::UndoLog {
            path: self.directory.clone(),
            source,
        })
    }

    /// Whether there is nothing to undo.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Records a change. Must be called before the change is made.
    pub(super) fn record(&mut self, change: Change) -> Result<(), HostError> {
        self.changes.push(change);
        self.save()
    }

    /// Records a change unless it is recorded already.
    pub(super) fn record_once(&mut self, change: Change) -> Result<(), HostError> {
        match self.changes.contains(&change) {
            true => Ok(()),
            false => self.record(change),
        }
    }

    /// Forgets a change that was undone.
    pub(super) fn forget(&mut self, change: &Change) -> Result<(), HostError> {
        self.changes.retain(|recorded| recorded != change);
        self.save()
    }

    /// Records that a setting is `now` and will be `new`.
    pub(super) fn record_setting(
        &mut self,
        path: &str,
        now: &str,
        new: &str,
    ) -> Result<(), HostError> {
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

    /// Records that IPv6 is forwarded already. If other endpoints switched it on, their records are
    /// copied; otherwise it is not to be undone.
    pub(super) fn record_forwarding6(&mut self) -> Result<(), HostError> {
        let is_it = |change: &Change| matches!(change, Change::Forwarding6 { .. });
        let others = self.others();
        let by = others.into_iter().find(|(_, made)| made.iter().any(is_it));
        let made = by.into_iter().flat_map(|(_, made)| made);
        made.filter(Change::is_forwarding6)
            .try_for_each(|change| self.record(change))
    }

    /// Takes the tables out of the log for which `is_kept` holds, and returns them.
    pub(super) fn take_tables(&mut self, is_kept: impl Fn(&nft::Table) -> bool) -> Vec<nft::Table> {
        let mut taken = Vec::new();
        self.changes.retain(|change| match change {
            Change::Table(table) if is_kept(table) => {
                taken.push(table.clone());
                false
            }
            _ => true,
        });
        taken
    }

    /// Undoes all changes that no other endpoint needs, the last change first.
    ///
    /// # Errors
    /// Continues after a failure and returns the first one.
    pub(super) async fn undo(mut self, netlink: &Netlink) -> Result<(), HostError> {
        // Without the directory there are no other endpoints.
        let _alone = self.lock_directory();
        let mut others = self.others();
        // A killed endpoint has an undo log but no interface.
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
                first.and(Err(HostError::UndoLog {
                    path: self.path,
                    source,
                }))
            }
            _ => first,
        }
    }

    /// Changes of the other endpoints in this network namespace, by their names.
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
        let at = |source| HostError::UndoLog {
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

/// Path of a file that the endpoint `interface` keeps between runs. The name contains the network
/// namespace, because several namespaces may share /run.
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
        // Another program, such as Docker, has switched on forwarding for the whole machine.
        Change::Sysctl { path, .. } if sysctl::forwards_with_all(path) => Ok(()),
        // A setting that another program has changed since is left alone.
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
            // Interfaces may have vanished.
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
    fn a_later_run_finds_the_changes_of_a_killed_one() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("made");
        let mut undo_log = UndoLog::open(&inside, "vcg0").unwrap();
        assert!(undo_log.is_empty());
        undo_log.record(change([192, 0, 2, 1])).unwrap();
        undo_log.record(change([192, 0, 2, 2])).unwrap();
        let later = UndoLog::open(&inside, "vcg0").unwrap();
        assert_eq!(
            later.changes,
            [change([192, 0, 2, 1]), change([192, 0, 2, 2])]
        );
        assert!(UndoLog::open(&inside, "vcg1").unwrap().is_empty());
    }

    #[test]
    fn tables_that_stay_in_force_are_taken_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut undo_log = UndoLog::open(directory.path(), "vcg0").unwrap();
        let [ip, ip6] = [nft::Family::Ip, nft::Family::Ip6].map(|f| nft::Table::of("vcg0", f));
        for table in [&ip, &ip6] {
            undo_log.record(Change::Table(table.clone())).unwrap();
        }
        undo_log.record(change([192, 0, 2, 1])).unwrap();
        assert_eq!(undo_log.take_tables(|table| *table == ip), [ip]);
        assert_eq!(
            undo_log.changes,
            [Change::Table(ip6), change([192, 0, 2, 1])]
        );
    }

    #[test]
    fn a_damaged_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let mut undo_log = UndoLog::open(directory.path(), "vcg0").unwrap();
        undo_log.record(change([192, 0, 2, 1])).unwrap();
        fs::write(&undo_log.path, "{").unwrap();
        assert!(UndoLog::open(directory.path(), "vcg0").unwrap().is_empty());
    }
}
