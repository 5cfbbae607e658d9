//! Writes the log, and puts it aside when it is large enough. It loses nothing that it has: a file
//! that cannot be put aside grows, a line that cannot be written waits.

use super::{Event, Key, Ports, Record, Timestamp, aside};
use crate::config::PortLog;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most lines that wait for room on the disk, a few megabytes; then the oldest ones are lost.
const MOST_MISSED: usize = 1 << 15;

/// The log of one running endpoint. What cannot be written waits, and comes first when it can.
#[derive(Debug)]
pub struct Writer {
    settings: PortLog,
    lines: Lines,
    /// What clients have now, and since when: a new file begins with it.
    held: BTreeMap<Key, (Ports, Timestamp)>,
    /// What could not be written yet, oldest first.
    missed: VecDeque<Record>,
    lost: u64,
    failing: bool,
}

impl Writer {
    /// Goes on with the file, which is for root alone, and says that the endpoint has begun. The
    /// file's folder is made if it is missing.
    pub fn open(settings: &PortLog, now: Timestamp) -> io::Result<Self> {
        if let Some(folder) = settings.file.parent().filter(|f| !f.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let mut lines = Lines::open(&settings.file)?;
        lines.write(&event(now, Event::Started))?;
        Ok(Self {
            settings: settings.clone(),
            lines,
            held: BTreeMap::new(),
            missed: VecDeque::new(),
            lost: 0,
            failing: false,
        })
    }

    /// A client has these ports from now on.
    pub fn given(&mut self, ports: Ports, now: Timestamp) {
        let record = Record {
            ports: Some(ports.clone()),
            ..event(now, Event::Given)
        };
        self.held.insert(ports.key(), (ports, now));
        self.note(record, now);
    }

    /// These ports are nobody's again.
    pub fn returned(&mut self, key: &Key, now: Timestamp) {
        if let Some((ports, _)) = self.held.remove(key) {
            let record = Record {
                ports: Some(ports),
                ..event(now, Event::Returned)
            };
            self.note(record, now);
        }
    }

    /// The endpoint ends, and with it every client's hold.
    pub fn stop(mut self, now: Timestamp) {
        self.held.clear();
        self.note(event(now, Event::Stopped), now);
        if !self.missed.is_empty() {
            let (file, lines) = (self.settings.file.display(), self.missed.len());
            tracing::error!(%file, lines, "who had which ports was not written down to the end");
        }
    }

    /// Whether something waits to be written: then [`catch_up`](Self::catch_up) is to be called
    /// from time to time.
    pub fn is_behind(&self) -> bool {
        !self.missed.is_empty()
    }

    /// Tries again to write what it could not. The endpoint goes on if that fails, and says so
    /// once.
    pub fn catch_up(&mut self, now: Timestamp) {
        let (done, what) = match self.lines.write_all(&mut self.missed) {
            Ok(()) if self.lines.len >= self.settings.size => {
                (self.put_aside(now), "the port log cannot be put aside")
            }
            done => (done, "who has which ports cannot be written down"),
        };
        let file = self.settings.file.display();
        match done {
            Ok(()) if self.failing => {
                self.failing = false;
                let lost = std::mem::take(&mut self.lost);
                tracing::info!(%file, lost, "the port log is written again, what it missed too");
            }
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%file, %error, "{what}: trying again");
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn note(&mut self, record: Record, now: Timestamp) {
        if self.missed.len() == MOST_MISSED {
            self.missed.pop_front();
            self.lost += 1;
        }
        self.missed.push_back(record);
        self.catch_up(now);
    }

    /// Begins a new file with what clients have now; the oldest one goes. If that fails, the file
    /// is as it was.
    fn put_aside(&mut self, now: Timestamp) -> io::Result<()> {
        let mut new = self.settings.file.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        self.lines = self.begin(&new, now).inspect_err(|_| {
            let _ = fs::remove_file(&new); // it takes room that the disk may not have
        })?;
        Ok(())
    }

    /// Makes a new file whole before it takes the place of the old one.
    fn begin(&self, new: &Path, now: Timestamp) -> io::Result<Lines> {
        absent_is_fine(fs::remove_file(new))?; // a killed endpoint left it
        let mut lines = Lines::open(new)?;
        for (ports, since) in self.held.values() {
            lines.write(&Record {
                since: Some(*since),
                ports: Some(ports.clone()),
                ..event(now, Event::Held)
            })?;
        }
        let PortLog { file, keep, .. } = &self.settings;
        // What failed half way may have left a gap: nothing moves that need not.
        let gap = (1..*keep).find(|number| !aside(file, *number).exists());
        for number in (1..gap.unwrap_or(*keep)).rev() {
            fs::rename(aside(file, number), aside(file, number + 1))?;
        }
        absent_is_fine(fs::rename(file, aside(file, 1)))?;
        fs::rename(new, file).inspect_err(|_| {
            let _ = fs::rename(aside(file, 1), file);
        })?;
        Ok(lines)
    }
}

/// A file of whole lines.
#[derive(Debug)]
struct Lines {
    file: File,
    /// Up to the end of the last whole line.
    len: u64,
    /// Part of a line may be behind that.
    torn: bool,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            // A pipe may be full, and a device cannot be put aside.
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

    /// Writes lines as far as it can; those are no longer among `records`.
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

/// It is no error if there was no such file.
fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
