//! Totals of the peers and the times when they were last there, from one run of the endpoint to the
//! next: a file beside the control socket, written every minute and at the end.
//!
//! The file is optional: if it cannot be used, the cause is logged and the totals start at 0.

use super::flow_file::replace;
use super::report::Clock;
use super::shards::Shards;
use crate::config::Config;
use crate::control::socket;
use crate::host;
use crate::keys::PublicKey;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tracing::warn;
use vcgate_core::engine::Engine;
use vcgate_core::tunnel::PeerHistory;

/// Version of the file format.
const FORMAT: u32 = 1;
/// The maximum age of the file when the process is killed.
const WRITE_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct PeerStore {
    format: u32,
    peers: Vec<Record>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    public_key: PublicKey,
    rx_bytes: u64,
    tx_bytes: u64,
    last_handshake: Option<SystemTime>,
    last_seen: Option<SystemTime>,
}

/// Returns the path of the file.
pub(super) fn path(config: &Config) -> PathBuf {
    host::file_of(
        Path::new(socket::DIRECTORY),
        &config.interface.name,
        "peers",
    )
}

/// Gives the peers of new engines the totals of the last run, if there are any.
pub(super) fn restore(path: &Path, engines: &mut [Engine]) {
    let records = match read(path) {
        Ok(records) => records,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            return warn!(
                "cannot read the totals of peers in {}: {error}; they start at 0",
                path.display()
            );
        }
    };
    let (now, time) = (Instant::now(), SystemTime::now());
    let instant = |at: Option<SystemTime>| {
        // A time of day after now means that the clock was set back.
        now.checked_sub(time.duration_since(at?).unwrap_or_default())
    };
    for record in records {
        let history = PeerHistory {
            rx: record.rx_bytes,
            tx: record.tx_bytes,
            last_handshake: instant(record.last_handshake),
            last_seen: instant(record.last_seen),
        };
        let key = (*record.public_key.as_bytes()).into();
        for engine in &mut *engines {
            if let Some(peer) = engine.tunnel().find(&key) {
                engine.tunnel_mut().restore_history(peer, history);
            }
        }
    }
}

/// Returns the records of the shard's own peers.
pub(super) fn records(engine: &Engine, clock: Clock) -> Vec<Record> {
    let time = |at: Option<Instant>| at.map(|at| clock.time_of_day(at));
    let own = engine.tunnel().own_peers();
    own.map(|peer| Record {
        public_key: (*peer.public_key.as_bytes()).into(),
        rx_bytes: peer.rx,
        tx_bytes: peer.tx,
        last_handshake: time(peer.last_handshake),
        last_seen: time(peer.last_seen),
    })
    .collect()
}

/// Writes the totals of stopped engines. If a shard panicked, its totals are unknown, and the last
/// file stays.
pub(super) fn write<'a>(path: &Path, engines: impl Iterator<Item = Option<&'a Engine>>) {
    let clock = Clock::read();
    let records: Option<Vec<_>> = engines
        .map(|engine| Some(records(engine?, clock)))
        .collect();
    if let Some(records) = records {
        write_records(path, records.concat());
    }
}

/// Writes the totals every minute, until the endpoint stops.
pub(super) async fn write_regularly(path: &Path, shards: &Shards) -> Infallible {
    loop {
        tokio::time::sleep(WRITE_INTERVAL).await;
        let clock = Clock::read();
        let answers = shards
            .ask_all(move |engine, _| records(engine, clock))
            .await;
        if answers.len() == shards.len() {
            write_records(path, answers.concat());
        }
    }
}

fn write_records(path: &Path, peers: Vec<Record>) {
    let format = FORMAT;
    let store = PeerStore { format, peers };
    let written = serde_json::to_vec(&store).map_err(io::Error::from);
    if let Err(error) = written.and_then(|json| replace(path, &json)) {
        warn!(
            "cannot write the totals of peers to {}: {error}; they end with this run",
            path.display()
        );
    }
}

fn read(path: &Path) -> io::Result<Vec<Record>> {
    let stored: PeerStore = serde_json::from_slice(&fs::read(path)?)?;
    match stored.format {
        FORMAT => Ok(stored.peers),
        other => Err(io::Error::other(format!(
            "it has format {other} of another version of vcgate"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_written_is_read_any_number_of_times() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.peers");
        let record = Record {
            public_key: [7; 32].into(),
            rx_bytes: u64::MAX,
            tx_bytes: 2,
            last_handshake: Some(SystemTime::now()),
            last_seen: None,
        };
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        for _ in 0..2 {
            write_records(&path, vec![record.clone()]);
            assert_eq!(read(&path).unwrap(), std::slice::from_ref(&record));
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // A shard that panicked leaves the file as it was.
        write(&path, [None].into_iter());
        assert_eq!(read(&path).unwrap(), [record]);
        for text in ["", r#"{"format":2,"peers":[]}"#, r#"{"format":1}"#] {
            fs::write(&path, text).unwrap();
            assert!(read(&path).is_err(), "{text}");
            restore(&path, &mut []);
        }
    }
}
