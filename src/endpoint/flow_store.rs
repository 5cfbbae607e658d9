//! Flows that survive a restart or an upgrade: a file beside the control socket, written when the
//! endpoint stops, also after a failure of the data plane, and removed when it is read at the next
//! start.
//!
//! The file is optional: if it cannot be used, the cause is logged and the endpoint starts without
//! flows.

use super::EndpointError;
use super::active_config::ActiveConfig;
use super::assemble::{self, RuntimeInfo};
use crate::config::{Config, Peer};
use crate::control::socket;
use crate::host;
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tracing::{debug, info, warn};
use vcgate_core::engine::{Engine, Key, Snapshot};
use vcgate_core::ids::ShardId;

/// Version of the file format. A change is noted in CHANGELOG.md.
const FORMAT: u32 = 5;

/// The field that every format has.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FlowStore {
    format: u32,
    stopped: SystemTime,
    /// By shard number; `None` for a shard that panicked.
    shards: Vec<Option<Snapshot>>,
}

/// The reason why the flows of the last run cannot be used.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    #[error("it has format {0} of another version of vcgate")]
    Format(u32),
}

/// Age from which flows that no endpoint has read are removed.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the path of the file.
pub(super) fn path(config: &Config) -> PathBuf {
    host::file_of(
        Path::new(socket::DIRECTORY),
        &config.interface.name,
        "flows",
    )
}

/// Writes the flows of stopped engines; `None` stands for a shard that panicked.
pub(super) fn write<'a>(path: &Path, engines: impl Iterator<Item = Option<&'a Engine>>) {
    let now = Instant::now();
    let stored = FlowStore {
        format: FORMAT,
        stopped: SystemTime::now(),
        shards: engines.map(|engine| Some(engine?.snapshot(now))).collect(),
    };
    if let Err(error) = save(path, &stored) {
        warn!(
            "cannot write the flows to {}: {error}; they end with this run",
            path.display()
        );
    }
}

/// Replaces a file by JSON that only root can read. A failure leaves the old file.
pub(super) fn save(path: &Path, stored: &impl Serialize) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let done = options
        .open(&new)
        .and_then(|mut file| file.write_all(&serde_json::to_vec(stored)?))
        .and_then(|()| fs::rename(&new, path));
    done.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// Reads and removes the flows of the last run, if there are any.
pub(super) fn take(path: &Path) -> Option<FlowStore> {
    match read(path) {
        Ok(stored) => Some(stored),
        Err(LoadError::File(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(
                "cannot read the flows in {}: {error}; they are lost",
                path.display()
            );
            None
        }
    }
}

/// Removes the flows of endpoints that will not start again: those written more than a day before
/// `now`. A shorter time would affect endpoints that are only stopped; after a day no flow is alive
/// with the default timeouts.
pub(super) fn remove_abandoned(directory: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let is_flows = name.is_some_and(|n| n.ends_with(".flows") || n.ends_with(".flows.new"));
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let age = written.map(|written| now.duration_since(written).unwrap_or_default());
        if !is_flows || age.is_ok_and(|age| age < MAX_AGE) {
            continue;
        }
        match fs::remove_file(&path) {
            Ok(()) => {
                info!(path = %path.display(), "removed the flows of an abandoned endpoint")
            }
            Err(error) => debug!(path = %path.display(), %error, "cannot remove old flows"),
        }
    }
}

fn read(path: &Path) -> Result<FlowStore, LoadError> {
    let bytes = fs::read(path);
    let removed = fs::remove_file(path);
    let bytes = bytes?;
    removed?;
    match serde_json::from_slice(&bytes)? {
        Head { format: FORMAT } => Ok(serde_json::from_slice(&bytes)?),
        Head { format } => Err(LoadError::Format(format)),
    }
}

/// Creates an engine for each shard, with the stored flows if they fit.
pub(super) fn engines(
    active: &ActiveConfig,
    info: &RuntimeInfo,
    stored: Option<FlowStore>,
) -> Result<Vec<Engine>, EndpointError> {
    let now = Instant::now();
    let shards = assemble::shards(&active.config);
    let with = |peers: &[Option<&Peer>]| -> Result<Vec<_>, _> {
        ShardId::all(shards)
            .map(|shard| assemble::engine(active, info, peers, shard, now))
            .collect()
    };
    let owners = stored.iter().flat_map(|stored| &stored.shards);
    let owners = owners.map(|shard| shard.iter().flat_map(Snapshot::peers).copied().collect());
    let peers = assign_peers(
        &active.active_peers(SystemTime::now()),
        &owners.collect::<Vec<_>>(),
    );
    let mut engines = with(&peers)?;
    let Some(stored) = stored else {
        return Ok(engines);
    };
    match restore(&mut engines, stored, now) {
        Ok(flows) => info!(flows, "restored the flows of the last run"),
        Err(error) => {
            warn!("cannot restore the flows of the last run: {error}; they are lost");
            engines = with(&peers)?;
        }
    }
    Ok(engines)
}

/// Returns the peers in the order of their ids, which assigns them to shards by turns. Each shard
/// gets the peers that it had before and then new ones; `None` leaves out an id.
fn assign_peers<'a>(peers: &[&'a Peer], owners: &[HashSet<Key>]) -> Vec<Option<&'a Peer>> {
    let mut own = vec![VecDeque::new(); owners.len().max(1)];
    let mut new = VecDeque::new();
    for &peer in peers {
        let key = *peer.public_key.as_bytes();
        match owners.iter().position(|keys| keys.contains(&key)) {
            Some(owner) => own[owner].push_back(peer),
            None => new.push_back(peer),
        }
    }
    let mut assigned = Vec::new();
    let mut left = peers.len();
    for shard in (0..own.len()).cycle() {
        if left == 0 {
            break;
        }
        let next = own[shard].pop_front().or_else(|| new.pop_front());
        left -= usize::from(next.is_some());
        assigned.push(next);
    }
    assigned
}

/// Restores each engine's flows. Returns their number.
fn restore(engines: &mut [Engine], stored: FlowStore, now: Instant) -> Result<usize, String> {
    let (then, here) = (stored.shards.len(), engines.len());
    if then != here {
        return Err(format!("it had {then} shards, this one has {here}"));
    }
    // If the clock was set back, the age is unknown and counts as 0.
    let age = stored.stopped.elapsed().unwrap_or(Duration::ZERO);
    for (engine, snapshot) in engines.iter_mut().zip(stored.shards) {
        let Some(snapshot) = snapshot else {
            continue;
        };
        let restored = engine.restore(snapshot, age, now);
        restored.map_err(|error| error.to_string())?;
    }
    Ok(engines.iter().map(|e| e.nat().flows(now).count()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn stored_flows_are_read_once_and_only_by_root() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        assert!(matches!(read(&path), Err(LoadError::File(_))));
        write(&path, std::iter::empty());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let stored = take(&path).unwrap();
        assert!(take(&path).is_none());
        assert_eq!(restore(&mut [], stored, Instant::now()), Ok(0));
    }

    #[test]
    fn a_shard_that_panicked_counts_as_a_shard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        write(&path, [None, None].into_iter());
        let stored = take(&path).unwrap();
        let error = restore(&mut [], stored, Instant::now()).unwrap_err();
        assert_eq!(error, "it had 2 shards, this one has 0");
    }

    #[test]
    fn each_peer_keeps_its_shard() {
        let peer = |number| Peer {
            name: format!("peer{number}"),
            public_key: [number; 32].into(),
            preshared_key: None,
            preshared_key_file: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
            reach: None,
            lifecycle: Default::default(),
        };
        let assigned = |peers: &[u8], owners: &[&[u8]]| {
            let peers: Vec<_> = peers.iter().copied().map(peer).collect();
            let keys = |keys: &&[u8]| keys.iter().map(|number| [*number; 32]).collect();
            let owners: Vec<_> = owners.iter().map(keys).collect();
            let assigned = assign_peers(&peers.iter().collect::<Vec<_>>(), &owners);
            let number = |peer: Option<&Peer>| peer.map_or(0, |peer| peer.public_key.as_bytes()[0]);
            assigned.into_iter().map(number).collect::<Vec<_>>()
        };
        assert_eq!(assigned(&[1, 2, 3], &[]), [1, 2, 3]);
        assert_eq!(assigned(&[1, 2, 3, 4], &[&[1, 3], &[2, 4]]), [1, 2, 3, 4]);
        // The first peer was removed; a new one is the first in the file.
        assert_eq!(assigned(&[2, 3, 4], &[&[1, 3], &[2, 4]]), [3, 2, 0, 4]);
        assert_eq!(assigned(&[9, 2, 3, 4], &[&[1, 3], &[2, 4]]), [3, 2, 9, 4]);
        assert_eq!(assigned(&[5, 6], &[&[], &[], &[5, 6]]), [0, 0, 5, 0, 0, 6]);
        assert!(assigned(&[], &[&[1], &[2]]).is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        for (text, expected) in [
            ("", "damaged"),
            (r#"{"format":5}"#, "damaged"),
            (r#"{"format":5,"stopped":"#, "damaged"),
            (r#"{"format":2,"what":"ever"}"#, "format 2"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn flows_that_no_endpoint_reads_for_a_day_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        for (name, age) in [
            ("stopped.flows", hours(23)),
            ("future.flows", Duration::ZERO),
            ("gone.flows", hours(25)),
            ("killed.flows.new", hours(25)),
            ("vcg0.sock", hours(25)),
            ("vcg0.host", hours(25)),
        ] {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            let written = match name {
                "future.flows" => now + hours(1000),
                _ => now - age,
            };
            file.set_modified(written).unwrap();
        }
        remove_abandoned(dir.path(), now);
        let left = fs::read_dir(dir.path()).unwrap();
        let mut left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
        left.sort();
        let expected = ["future.flows", "stopped.flows", "vcg0.host", "vcg0.sock"];
        assert_eq!(left, expected);
    }
}
