//! Writes the log, and rotates it at its maximum size. A file that cannot be rotated grows; lines
//! that cannot be written stay in a queue.

use super::{Event, Key, Ports, Record, Timestamp, rotated};
use crate::config::PortLog;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Maximum number of lines that wait for space on the disk, a few megabytes; beyond it, the oldest
/// are lost.
const PENDING_CAPACITY: usize = 1 << 15;

/// The log of one running endpoint.
#[derive(Debug)]
pub struct Writer {
    settings: PortLog,
    lines: LineFile,
    /// The ports that clients have now, and since when: a new file begins with them.
    held: BTreeMap<Key, (Ports, Timestamp)>,
    /// Lines that could not be written yet, oldest first.
    pending: VecDeque<Record>,
    lost: u64,
    failing: bool,
}

impl Writer {
    /// Opens the file, makes it and its folder for root only if they are missing, and writes that
    /// the endpoint has started.
    ///
    /// # Errors
    /// If the file cannot be opened or written, or is not a regular file.
    pub fn open(settings: &PortLog, now: Timestamp) -> io::Result<Self> {
        if let Some(folder) = settings.file.parent().filter(|f| !f.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let mut lines = LineFile::open(&settings.file)?;
        lines.write(&event(now, Event::Started))?;
        Ok(Self {
            settings: settings.clone(),
            lines,
            held: BTreeMap::new(),
            pending: VecDeque::new(),
            lost: 0,
            failing: false,
        })
    }

    /// Records that a client got these ports.
    pub fn given(&mut self, ports: Ports, now: Timestamp) {
        let record = Record {
            ports: Some(ports.clone()),
            ..event(now, Event::Given)
        };
        self.held.insert(ports.key(), (ports, now));
        self.note(record, now);
    }

    /// Records that a client returned these ports.
    pub fn returned(&mut self, key: &Key, now: Timestamp) {
        if let Some((ports, _)) = self.held.remove(key) {
            let record = Record {
                ports: Some(ports),
                ..event(now, Event::Returned)
            };
            self.note(record, now);
        }
    }

    /// Records that the endpoint stops, by which all clients return their ports.
    pub fn stop(mut self, now: Timestamp) {
        self.held.clear();
        self.note(event(now, Event::Stopped), now);
        if !self.pending.is_empty() {
            let (file, lines) = (self.settings.file.display(), self.pending.len());
            tracing::error!(%file, lines, "cannot write the last lines of the port log; they are lost");
        }
    }

    /// Whether lines wait to be written. If so, call [`flush_pending`](Self::flush_pending) from
    /// time to time.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Tries again to write the pending lines. The endpoint continues if that fails, and logs it
    /// once.
    pub fn flush_pending(&mut self, now: Timestamp) {
        let (done, what) = match self.lines.write_all(&mut self.pending) {
            Ok(()) if self.lines.len >= self.settings.size => {
                (self.rotate(now), "cannot rotate the port log")
            }
            done => (done, "cannot write the port log"),
        };
        let file = self.settings.file.display();
        match done {
            Ok(()) if self.failing => {
                self.failing = false;
                let lost = std::mem::take(&mut self.lost);
                tracing::info!(%file, lost, "the port log is written again, with the pending lines");
            }
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%file, %error, "{what}; trying again");
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn note(&mut self, record: Record, now: Timestamp) {
        if self.pending.len() == PENDING_CAPACITY {
            self.pending.pop_front();
            self.lost += 1;
        }
        self.pending.push_back(record);
        self.flush_pending(now);
    }

    /// Begins a new file with the ports that clients have now, and deletes the oldest file. If that
    /// fails, the present file is unchanged.
    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let mut new = self.settings.file.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        self.lines = self.begin(&new, now).inspect_err(|_| {
            let _ = fs::remove_file(&new); // it takes space that the disk may not have
        })?;
        Ok(())
    }

    /// Writes the new file completely before it replaces the old one.
    fn begin(&self, new: &Path, now: Timestamp) -> io::Result<LineFile> {
        absent_is_fine(fs::remove_file(new))?; // a killed endpoint left it
        let mut lines = LineFile::open(new)?;
        for (ports, since) in self.held.values() {
            lines.write(&Record {
                since: Some(*since),
                ports: Some(ports.clone()),
                ..event(now, Event::Held)
            })?;
        }
        let PortLog { file, keep, .. } = &self.settings;
        // A rotation that failed may have left a gap: files beyond it do not move.
        let gap = (1..*keep).find(|number| !rotated(file, *number).exists());
        for number in (1..gap.unwrap_or(*keep)).rev() {
            fs::rename(rotated(file, number), rotated(file, number + 1))?;
        }
        absent_is_fine(fs::rename(file, rotated(file, 1)))?;
        fs::rename(new, file).inspect_err(|_| {
            let _ = fs::rename(rotated(file, 1), file);
        })?;
        Ok(lines)
    }
}

/// A file of whole lines.
#[derive(Debug)]
struct LineFile {
    file: File,
    /// Length up to the end of the last whole line, in bytes.
    len: u64,
    /// Whether part of a line may follow.
    torn: bool,
}

impl LineFile {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            // A pipe may be full, and a device cannot be rotated.
            return Err(io::Error::other("not a regular file"));
        }
        let mut len = metadata.len();
        let mut last = [b'\n'];
        if len > 0 {
            file.read_exact_at(&mut last, len - 1)?;
        }
        if last != *b"\n" {
            file.write_all(b"\n")?; // a killed endpoint left half a line
            len += 1;
        }
        Ok(Self {
            file,
            len,
            torn: false,
        })
    }

    /// Writes lines until one fails, and removes those that it wrote from `records`.
    fn write_all(&mut self, records: &mut VecDeque<Record>) -> io::Result<()> {
        while let Some(record) = records.front() {
            self.write(record)?;
            records.pop_front();
        }
        Ok(())
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.torn && self.file.metadata()?.len() > self.len {
            self.file.set_len(self.len)?;
        }
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.len += line.len() as u64;
        Ok(())
    }
}

fn event(time: Timestamp, event: Event) -> Record {
    Record {
        time,
        event,
        since: None,
        ports: None,
    }
}

/// Turns the error of a missing file into success.
fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
