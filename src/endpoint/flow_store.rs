//! The flows from one run of the endpoint to the next, so that a restart or an upgrade cuts nobody
//! off: a file beside the control socket, written at the end, be it a failure of the data plane, and
//! used up at the start.
//!
//! It is never needed: whatever is wrong with it is said once, and the endpoint begins without.

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
use vcgate_core::ids::Shard;

/// Another format has another number; CHANGELOG.md says it too.
const FORMAT: u32 = 4;

/// What every format begins with.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FlowStore {
    format: u32,
    stopped: SystemTime,
    /// In the order of the shards' numbers; there is none of a shard that panicked.
    shards: Vec<Option<Snapshot>>,
}

/// Why there is nothing to go on with.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    #[error("it has format {0}, of another version of vcgate")]
    Format(u32),
}

/// Age from which flows that no endpoint has taken over are removed.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where they are kept.
pub(super) fn path(config: &Config) -> PathBuf {
    host::file_of(
        Path::new(socket::DIRECTORY),
        &config.interface.name,
        "flows",
    )
}

/// Writes the flows of stopped engines, as far as those are whole.
pub(super) fn write<'a>(path: &Path, engines: impl Iterator<Item = Option<&'a Engine>>) {
    let now = Instant::now();
    let kept = FlowStore {
        format: FORMAT,
        stopped: SystemTime::now(),
        shards: engines.map(|engine| Some(engine?.snapshot(now))).collect(),
    };
    if let Err(error) = save(path, &kept) {
        warn!(path = %path.display(), %error, "the flows end with this run: they cannot be kept");
    }
}

fn save(path: &Path, kept: &FlowStore) -> io::Result<()> {
    let new = path.with_extension("flows.new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let done = options
        .open(&new)
        .and_then(|mut file| file.write_all(&serde_json::to_vec(kept)?))
        .and_then(|()| fs::rename(&new, path));
    done.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// What the last run has left, if it has; nobody finds it again.
pub(super) fn take(path: &Path) -> Option<FlowStore> {
    match read(path) {
        Ok(kept) => Some(kept),
        Err(LoadError::File(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(path = %path.display(), %error, "the flows of the last run are lost");
            None
        }
    }
}

/// Removes what endpoints have left that nothing will start again: flows that were written more
/// than a day before `now`. A shorter time would take them from an endpoint that is only stopped;
/// after a day no flow is alive with the default timeouts.
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
                info!(path = %path.display(), "removed the flows of an endpoint that is gone")
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

/// An engine for each shard, with what was kept if it fits.
pub(super) fn engines(
    force: &ActiveConfig,
    facts: &RuntimeInfo,
    kept: Option<FlowStore>,
) -> Result<Vec<Engine>, EndpointError> {
    let now = Instant::now();
    let shards = assemble::shards(&force.config);
    let with = |peers: &[Option<&Peer>]| -> Result<Vec<_>, _> {
        Shard::all(shards)
            .map(|shard| assemble::engine(force, facts, peers, shard, now))
            .collect()
    };
    let owners = kept.iter().flat_map(|kept| &kept.shards);
    let owners = owners.map(|shard| shard.iter().flat_map(Snapshot::peers).copied().collect());
    let peers = dealt(&force.config.peers, &owners.collect::<Vec<_>>());
    let mut engines = with(&peers)?;
    let Some(kept) = kept else {
        return Ok(engines);
    };
    match restore(&mut engines, kept, now) {
        Ok(flows) => info!(flows, "going on with the flows of the last run"),
        Err(error) => {
            warn!("the flows of the last run are lost: {error}");
            engines = with(&peers)?;
        }
    }
    Ok(engines)
}

/// The peers by their numbers, in turns one of each shard: those that it had before, and in their
/// order those that are new. Where it has no more, the number is nobody's.
fn dealt<'a>(peers: &'a [Peer], owners: &[HashSet<Key>]) -> Vec<Option<&'a Peer>> {
    let mut own = vec![VecDeque::new(); owners.len().max(1)];
    let mut new = VecDeque::new();
    for peer in peers {
        let key = *peer.public_key.as_bytes();
        match owners.iter().position(|keys| keys.contains(&key)) {
            Some(owner) => own[owner].push_back(peer),
            None => new.push_back(peer),
        }
    }
    let mut dealt = Vec::new();
    let mut left = peers.len();
    for shard in (0..own.len()).cycle() {
        if left == 0 {
            break;
        }
        let next = own[shard].pop_front().or_else(|| new.pop_front());
        left -= usize::from(next.is_some());
        dealt.push(next);
    }
    dealt
}

/// Gives each engine its flows; how many there are.
fn restore(engines: &mut [Engine], kept: FlowStore, now: Instant) -> Result<usize, String> {
    let (then, here) = (kept.shards.len(), engines.len());
    if then != here {
        return Err(format!("it had {then} shards, this one has {here}"));
    }
    // A clock that was set back makes them no older.
    let age = kept.stopped.elapsed().unwrap_or(Duration::ZERO);
    for (engine, snapshot) in engines.iter_mut().zip(kept.shards) {
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
    fn what_is_kept_is_found_once_and_by_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        assert!(matches!(read(&path), Err(LoadError::File(_))));
        write(&path, std::iter::empty());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let kept = take(&path).unwrap();
        assert!(take(&path).is_none());
        assert_eq!(restore(&mut [], kept, Instant::now()), Ok(0));
    }

    #[test]
    fn a_shard_that_panicked_keeps_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        write(&path, [None, None].into_iter());
        let kept = take(&path).unwrap();
        let error = restore(&mut [], kept, Instant::now()).unwrap_err();
        assert_eq!(error, "it had 2 shards, this one has 0");
    }

    #[test]
    fn every_peer_is_its_shard_s_again() {
        let peer = |number| Peer {
            name: format!("peer{number}"),
            public_key: [number; 32].into(),
            preshared_key: None,
            preshared_key_file: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
            reach: None,
        };
        let dealt = |peers: &[u8], owners: &[&[u8]]| {
            let peers: Vec<_> = peers.iter().copied().map(peer).collect();
            let keys = |keys: &&[u8]| keys.iter().map(|number| [*number; 32]).collect();
            let owners: Vec<_> = owners.iter().map(keys).collect();
            let dealt = dealt(&peers, &owners);
            let number = |peer: Option<&Peer>| peer.map_or(0, |peer| peer.public_key.as_bytes()[0]);
            dealt.into_iter().map(number).collect::<Vec<_>>()
        };
        assert_eq!(dealt(&[1, 2, 3], &[]), [1, 2, 3]);
        assert_eq!(dealt(&[1, 2, 3, 4], &[&[1, 3], &[2, 4]]), [1, 2, 3, 4]);
        // The first is gone; a new one stands before all others.
        assert_eq!(dealt(&[2, 3, 4], &[&[1, 3], &[2, 4]]), [3, 2, 0, 4]);
        assert_eq!(dealt(&[9, 2, 3, 4], &[&[1, 3], &[2, 4]]), [3, 2, 9, 4]);
        assert_eq!(dealt(&[5, 6], &[&[], &[], &[5, 6]]), [0, 0, 5, 0, 0, 6]);
        assert!(dealt(&[], &[&[1], &[2]]).is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_left_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        for (text, expected) in [
            ("", "damaged"),
            (r#"{"format":4}"#, "damaged"),
            (r#"{"format":4,"stopped":"#, "damaged"),
            (r#"{"format":2,"what":"ever"}"#, "format 2"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn flows_that_nothing_takes_over_for_a_day_are_removed() {
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
