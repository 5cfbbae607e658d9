//! Writes the log, and puts it aside when it is large enough.

use super::{Event, Key, Ports, Record, Timestamp, aside};
use crate::config::PortLog;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// The log of one running endpoint.
#[derive(Debug)]
pub struct Writer {
    settings: PortLog,
    file: File,
    len: u64,
    /// What clients have now, and since when: a new file begins with it.
    held: BTreeMap<Key, (Ports, Timestamp)>,
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
        let (file, len) = open(settings)?;
        let mut writer = Self {
            settings: settings.clone(),
            file,
            len,
            held: BTreeMap::new(),
            failing: false,
        };
        writer.write(&event(now, Event::Started))?;
        Ok(writer)
    }

    /// A client has these ports from now on.
    pub fn given(&mut self, ports: Ports, now: Timestamp) {
        let record = Record {
            ports: Some(ports.clone()),
            ..event(now, Event::Given)
        };
        self.note(&record, now);
        self.held.insert(ports.key(), (ports, now));
    }

    /// These ports are nobody's again.
    pub fn returned(&mut self, key: &Key, now: Timestamp) {
        if let Some((ports, _)) = self.held.remove(key) {
            let record = Record {
                ports: Some(ports),
                ..event(now, Event::Returned)
            };
            self.note(&record, now);
        }
    }

    /// The endpoint ends, and with it every client's hold.
    pub fn stop(mut self, now: Timestamp) {
        self.held.clear();
        self.note(&event(now, Event::Stopped), now);
    }

    /// Writes a line. The endpoint goes on if that fails, and says so once.
    fn note(&mut self, record: &Record, now: Timestamp) {
        let full = self.len >= self.settings.size;
        let done = match full {
            true => self.put_aside(now).and_then(|()| self.write(record)),
            false => self.write(record),
        };
        match done {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                let file = self.settings.file.display();
                tracing::error!(%file, %error, "who has which ports cannot be written down");
            }
            Err(_) => {}
        }
    }

    /// Begins a new file with what clients have now; the oldest one goes.
    fn put_aside(&mut self, now: Timestamp) -> io::Result<()> {
        let PortLog { file, keep, .. } = &self.settings;
        for number in (1..*keep).rev() {
            rename(&aside(file, number), &aside(file, number + 1))?;
        }
        rename(file, &aside(file, 1))?;
        (self.file, self.len) = open(&self.settings)?;
        for (ports, since) in std::mem::take(&mut self.held).into_values() {
            let record = Record {
                since: Some(since),
                ports: Some(ports.clone()),
                ..event(now, Event::Held)
            };
            self.held.insert(ports.key(), (ports, since));
            self.write(&record)?;
        }
        Ok(())
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
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

fn open(settings: &PortLog) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let options = options.read(true).append(true).create(true).mode(0o600);
    let mut file = options.open(&settings.file)?;
    let mut len = file.metadata()?.len();
    let mut last = [b'\n'];
    if len > 0 {
        file.read_exact_at(&mut last, len - 1)?;
    }
    if last != *b"\n" {
        file.write_all(b"\n")?; // a killed endpoint left half a line
        len += 1;
    }
    Ok((file, len))
}

/// Renames a file, if it is there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
