//! The file of the flow journal, beside the control socket: a snapshot, and the changes after it.
//!
//! It grows until it is several times as long as its snapshot, and then begins again with a new one.
//! Files that cannot be used are reported and removed by the caller.

use crate::config::Config;
use crate::control::socket;
use crate::host;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tracing::{debug, info};
use vcgate_core::journal::{ReplayError, Replayed, State, encode, replay};

/// Length up to which a file is never shortened, in bytes.
const MIN_LEN: u64 = 1 << 20;
/// Maximum length of a file, as a multiple of its snapshot.
const GROWTH_FACTOR: u64 = 4;
/// Age from which flows that no endpoint has read are removed.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The reason why the flows of the last run cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Contents(#[from] ReplayError),
}

/// Returns the path of the file.
pub(super) fn path(config: &Config) -> PathBuf {
    host::file_of(
        Path::new(socket::DIRECTORY),
        &config.interface.name,
        "flows",
    )
}

/// Reads a journal; `None` if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Replayed>, LoadError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(replay(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A journal that is open for writing.
#[derive(Debug)]
pub(super) struct FlowFile {
    file: File,
    len: u64,
    max_len: u64,
}

impl FlowFile {
    /// Begins a journal with a snapshot, in the place of an older one.
    ///
    /// # Errors
    /// If it cannot be written; an older file is unchanged then.
    pub(super) fn create(path: &Path, state: &mut State) -> io::Result<Self> {
        let mut snapshot = encode::head().to_vec();
        state.append_to(&mut snapshot);
        let file = replace(path, &snapshot)?;
        let len = snapshot.len() as u64;
        Ok(Self {
            file,
            len,
            max_len: MIN_LEN.max(len.saturating_mul(GROWTH_FACTOR)),
        })
    }

    /// Appends frames. After an error, the end of the file is unknown.
    pub(super) fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        self.len += frames.len() as u64;
        self.file.write_all(frames)
    }

    /// Returns whether the file should begin again with a snapshot.
    pub(super) fn is_long(&self) -> bool {
        self.len > self.max_len
    }

    /// Empties the file, so that no run believes it. This works where files cannot be removed, as in a
    /// folder that was remounted read-only.
    pub(super) fn invalidate(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// Makes all writes fail, as on a disk that has failed.
    #[cfg(test)]
    pub(super) fn refuse_writes(&mut self, path: &Path) {
        self.file = File::open(path).unwrap();
    }

    /// Lets the file grow further, because it cannot begin again now.
    pub(super) fn postpone(&mut self) {
        self.max_len = self.len.saturating_mul(2);
    }
}

/// Replaces a file by one that only its owner can read, and returns it. A failure leaves the old file.
pub(super) fn replace(path: &Path, contents: &[u8]) -> io::Result<File> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let done = options.open(&new).and_then(|mut file| {
        file.write_all(contents)?;
        fs::rename(&new, path)?;
        Ok(file)
    });
    done.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use vcgate_core::journal::{Record, Timestamp};

    fn state() -> State {
        let mut state = State::default();
        state.advance(Timestamp(5));
        state.apply(Record::end());
        state
    }

    #[test]
    fn a_journal_is_read_with_its_changes_and_only_by_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        assert!(read(&path).unwrap().is_none());
        let mut file = FlowFile::create(&path, &mut state()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().unwrap().state, state());
        let mut frame = Vec::new();
        encode::append(&mut frame, Timestamp(9), []);
        file.append(&frame).unwrap();
        file.append(&frame[..5]).unwrap();
        let read = read(&path).unwrap().unwrap();
        assert_eq!((read.state.last(), read.torn), (Timestamp(9), 5));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_continued_or_removed_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        let file = FlowFile::create(&path, &mut state()).unwrap();
        file.invalidate().unwrap();
        let error = super::read(&path).unwrap_err().to_string();
        assert!(error.contains("not a flow journal"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_used_has_a_cause() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        let head = encode::head();
        let mut format = head;
        format[8] ^= 2;
        let mut frame = Vec::new();
        encode::append(&mut frame, Timestamp(9), []);
        frame[8] ^= 1;
        for (bytes, expected) in [
            (&b""[..], "not a flow journal"),
            (br#"{"format":4}"#, "not a flow journal"),
            (&format, "format 7 of another version"),
            (&[&head[..], &frame].concat(), "damaged at byte 12"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_file_begins_again_when_it_is_several_times_as_long_as_its_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcg0.flows");
        let mut file = FlowFile::create(&path, &mut state()).unwrap();
        let bytes = vec![0; MIN_LEN as usize / 2];
        file.append(&bytes).unwrap();
        assert!(!file.is_long());
        file.append(&bytes).unwrap();
        assert!(file.is_long());
        file.postpone();
        assert!(!file.is_long());
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
