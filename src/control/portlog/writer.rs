//! Writes the log, and rotates it at its maximum size. A file that cannot be rotated grows; lines
//! that cannot be written stay in a queue.

use super::super::line_file::{LineFile, absent_is_fine, shift_rotated};
use super::{Event, Key, Ports, Record, Timestamp, rotated};
use crate::config::LogFile;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Maximum number of lines that wait for space on the disk, a few megabytes; beyond it, the oldest
/// are lost.
const PENDING_CAPACITY: usize = 1 << 15;

/// The log of one running endpoint.
#[derive(Debug)]
pub struct Writer {
    settings: LogFile,
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
    pub fn open(settings: &LogFile, now: Timestamp) -> io::Result<Self> {
        let mut lines = LineFile::open_with_folder(&settings.file)?;
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
        let (done, what) = match self.write_pending() {
            Ok(()) if self.lines.len() >= self.settings.size => {
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

    /// Writes pending lines until one fails.
    fn write_pending(&mut self) -> io::Result<()> {
        while let Some(record) = self.pending.front() {
            self.lines.write(record)?;
            self.pending.pop_front();
        }
        Ok(())
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
        let LogFile { file, keep, .. } = &self.settings;
        shift_rotated(file, *keep)?;
        fs::rename(new, file).inspect_err(|_| {
            let _ = fs::rename(rotated(file, 1), file);
        })?;
        Ok(lines)
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
