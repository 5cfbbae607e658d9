//! The open connections to file servers, in a file that survives a reboot.
//!
//! A server keeps locks on files for a connection until it finds that no client has it any more, which
//! takes minutes. A run that cannot continue a connection of an earlier one resets it therefore:
//! after a reboot, with another LAN address or another format of flows, or when the flows are too
//! old. The ends of the connections suffice for that. The sequence numbers need not be new, so the
//! file is written when connections come and go, at most once a second, and else every minute.
//!
//! The file is optional: if it cannot be used, the cause is logged.

use super::shards::Shards;
use crate::config::Config;
use crate::host;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::sleep;
use tracing::{info, warn};
use vcgate_core::engine::{Engine, ServerConnection};
use vcgate_core::nat::Protocol;

/// Version of the file format.
const FORMAT: u32 = 1;
/// The time between two checks for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum age of the sequence numbers in the file.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of connections in the file: less than a megabyte.
const MAX_CONNECTIONS: usize = 4096;
/// Age from which connections are not reset: servers have dropped them long before.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The number of connections that are reset at a time, and the time until the next ones: fewer than
/// the answers to segments of no connection, which are limited to 1,000 a second.
const BATCH: usize = 50;
const BATCH_INTERVAL: Duration = Duration::from_millis(100);
/// The number of times that each connection is reset: a packet may be lost.
const ATTEMPTS: usize = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    connections: Vec<ServerConnection>,
}

/// Returns the folder of files that survive a reboot: that of the service manager, if it names one
/// (systemd.exec(5)).
pub(super) fn directory() -> PathBuf {
    let named = env::var_os("STATE_DIRECTORY").filter(|named| !named.is_empty());
    let first = named.and_then(|named| env::split_paths(&named).next());
    first.unwrap_or_else(|| "/var/lib/vcgate".into())
}

/// Returns the path of the file, and makes its folder if it is missing.
pub(super) fn path(config: &Config) -> PathBuf {
    let directory = directory();
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory);
    if let Err(error) = made {
        warn!(
            "cannot make {}: {error}; connections to file servers are not reset after a reboot",
            directory.display()
        );
    }
    host::file_of(&directory, &config.interface.name, "connections")
}

/// The connections of earlier runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recorded {
    /// Those that the new engines have restored.
    restored: Vec<ServerConnection>,
    /// The others, which are to be reset.
    lost: Vec<ServerConnection>,
}

/// Reads the connections of earlier runs. The engines are those of this run, with restored flows.
pub(super) fn recorded(path: &Path, engines: &[Engine]) -> Recorded {
    let stored = match read(path, SystemTime::now()) {
        Ok(stored) => stored,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Recorded::default(),
        Err(error) => {
            warn!(
                "cannot read the connections to file servers in {}: {error}; those that were lost \
                 are not reset",
                path.display()
            );
            return Recorded::default();
        }
    };
    let now = Instant::now();
    let flows = engines.iter().flat_map(|engine| engine.nat().flows(now));
    let tcp = flows.filter(|flow| flow.protocol == Protocol::Tcp);
    let flows: HashSet<_> = tcp.map(|flow| (flow.port, flow.remote)).collect();
    let is_restored = |connection: &ServerConnection| {
        let is_lan = engines.iter().any(|e| e.nat().is_lan(connection.lan.ip()));
        is_lan && flows.contains(&(connection.lan.port(), connection.server))
    };
    let (restored, lost) = stored.into_iter().partition(is_restored);
    Recorded { restored, lost }
}

/// Resets connections at their servers.
async fn reset(lost: &[ServerConnection], shards: &Shards) {
    if lost.is_empty() {
        return;
    }
    info!(
        connections = lost.len(),
        "resetting connections to file servers that an earlier run has left"
    );
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(CHECK_INTERVAL).await;
        }
        for batch in lost.chunks(BATCH) {
            let batch = batch.to_vec();
            let reset = shards.ask_one(move |engine, _| engine.reset_server_connections(&batch));
            reset.await;
            sleep(BATCH_INTERVAL).await;
        }
    }
}

/// Resets the connections of earlier runs that were lost, and then keeps the file up to date until
/// the endpoint stops.
pub(super) async fn keep(path: &Path, recorded: Recorded, shards: &Shards) -> Infallible {
    reset(&recorded.lost, shards).await;
    let limit = MAX_CONNECTIONS / shards.len().max(1);
    let (mut changes, mut warned) = (u64::MAX, false);
    let mut written = recorded.restored;
    let mut written_at = Instant::now();
    loop {
        sleep(CHECK_INTERVAL).await;
        let counts = shards.ask_all(|engine, _| engine.server_connection_changes());
        let count = counts.await.into_iter().fold(0, u64::wrapping_add);
        // The number that a server expects is known after its first answer.
        let incomplete = |connection: &ServerConnection| connection.server_expects.is_none();
        let is_old = written_at.elapsed() >= REFRESH_INTERVAL && !written.is_empty();
        if count == changes && !is_old && !written.iter().any(incomplete) {
            continue;
        }
        let open = shards.ask_all(move |engine, now| engine.server_connections(limit, now));
        let open = with_known_numbers(open.await.concat(), &written);
        (changes, written_at) = (count, Instant::now());
        if open == written {
            continue;
        }
        if let Err(error) = save(path, &open)
            && !warned
        {
            warned = true;
            warn_unwritable(path, &error);
        }
        written = open;
    }
}

/// Completes connections whose numbers are not known, as those of flows that a crash has left, with
/// what was written about them before.
fn with_known_numbers(
    mut open: Vec<ServerConnection>,
    written: &[ServerConnection],
) -> Vec<ServerConnection> {
    let known: HashMap<_, _> = written.iter().map(|c| (c.ends(), *c)).collect();
    for connection in &mut open {
        if connection.server_expects.is_none()
            && let Some(known) = known.get(&connection.ends())
        {
            *connection = *known;
        }
    }
    open
}

/// Writes the connections of stopped engines. If a shard panicked, its connections are unknown, and
/// the last file stays.
pub(super) fn write<'a>(path: &Path, engines: impl Iterator<Item = Option<&'a Engine>>) {
    let now = Instant::now();
    let open: Option<Vec<_>> = engines
        .map(|engine| Some(engine?.server_connections(MAX_CONNECTIONS, now)))
        .collect();
    let Some(open) = open else { return };
    let mut open = open.concat();
    open.truncate(MAX_CONNECTIONS);
    if let Err(error) = save(path, &open) {
        warn_unwritable(path, &error);
    }
}

fn warn_unwritable(path: &Path, error: &io::Error) {
    warn!(
        "cannot write the connections to file servers to {}: {error}; after a reboot they are not \
         reset, and files stay locked until the server's own time-out",
        path.display()
    );
}

/// Replaces the file, also on the disk; without connections there is none.
fn save(path: &Path, connections: &[ServerConnection]) -> io::Result<()> {
    if connections.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let stored = Stored {
        format: FORMAT,
        connections: connections.to_vec(),
    };
    let new = path.with_extension("connections.new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let done = options.open(&new).and_then(|mut file| {
        file.write_all(&serde_json::to_vec(&stored)?)?;
        file.sync_data()?;
        fs::rename(&new, path)
    });
    done.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

fn read(path: &Path, now: SystemTime) -> io::Result<Vec<ServerConnection>> {
    let written = fs::metadata(path)?.modified()?;
    if now.duration_since(written).is_ok_and(|age| age >= MAX_AGE) {
        return Ok(Vec::new());
    }
    let stored: Stored = serde_json::from_slice(&fs::read(path)?)?;
    match stored.format {
        FORMAT => Ok(stored.connections),
        other => Err(io::Error::other(format!(
            "it has format {other} of another version of vcgate"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use vcgate_wire::tcp::SeqNumber;

    fn connection(port: u16) -> ServerConnection {
        ServerConnection {
            lan: ([192, 168, 77, 2], port).into(),
            server: ([192, 168, 77, 10], 445).into(),
            server_expects: Some(SeqNumber(7)),
            client_next: Some(SeqNumber(9)),
            client_expects: None,
        }
    }

    #[test]
    fn connections_are_read_until_they_are_a_day_old_and_only_by_the_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vcg0.connections");
        let now = SystemTime::now();
        assert_eq!(recorded(&path, &[]), Recorded::default());
        let open = [connection(50_000), connection(50_001)];
        save(&path, &open).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(read(&path, now).unwrap(), open);
        assert_eq!(recorded(&path, &[]).lost, open);
        // The time of the file is a little later than `now`.
        let later = now + MAX_AGE + Duration::from_secs(60);
        assert_eq!(read(&path, later).unwrap(), []);
        // A shard that panicked leaves the file as it was.
        write(&path, [None].into_iter());
        assert_eq!(read(&path, now).unwrap(), open);
        write(&path, std::iter::empty());
        assert!(!path.exists());
        write(&path, std::iter::empty());
    }

    #[test]
    fn a_damaged_file_or_one_of_another_format_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vcg0.connections");
        for text in [
            "",
            "{}",
            r#"{"format":2,"connections":[]}"#,
            r#"{"format":1}"#,
        ] {
            fs::write(&path, text).unwrap();
            assert!(read(&path, SystemTime::now()).is_err(), "{text}");
            assert_eq!(recorded(&path, &[]), Recorded::default());
        }
    }

    #[test]
    fn numbers_that_a_crash_has_lost_are_those_of_the_file() {
        let unknown = |port| ServerConnection {
            server_expects: None,
            client_next: None,
            ..connection(port)
        };
        let written = [connection(1), connection(2), connection(3)];
        let newer = ServerConnection {
            server_expects: Some(SeqNumber(70)),
            ..connection(2)
        };
        let open = vec![unknown(1), newer, unknown(4)];
        let completed = with_known_numbers(open, &written);
        assert_eq!(completed, [connection(1), newer, unknown(4)]);
    }

    #[test]
    fn the_largest_file_is_less_than_a_megabyte() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vcg0.connections");
        let longest = ServerConnection {
            lan: "[2001:db8:1111:2222:3333:4444:5555:6666]:50000"
                .parse()
                .unwrap(),
            server: "[2001:db8:1111:2222:3333:4444:5555:7777]:50000"
                .parse()
                .unwrap(),
            server_expects: Some(SeqNumber(u32::MAX)),
            client_next: Some(SeqNumber(u32::MAX)),
            client_expects: Some(SeqNumber(u32::MAX)),
        };
        save(&path, &vec![longest; MAX_CONNECTIONS]).unwrap();
        assert!(path.metadata().unwrap().len() < 1 << 20);
    }
}
