//! Asks the log who had a port at a time.

use super::{Event, Ports, Record, Timestamp, aside};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Who had a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Usually one; a forwarded port may be another client's in each protocol and family, and yet
    /// another one's else.
    pub holders: Vec<Holder>,
    /// Lines that make no sense.
    pub damaged: usize,
}

/// A client who had ports, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The ports, and whose they are.
    #[serde(flatten)]
    pub ports: Ports,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None` while it still has them.
    pub until: Option<Timestamp>,
}

/// Who had this port at this time, by the log in `file` and those that were put aside, of which
/// `keep` are kept. The narrowest range comes first.
pub fn ask(file: &Path, keep: u16, port: u16, at: Timestamp) -> io::Result<Answer> {
    let mut reading = Reading {
        port,
        periods: Vec::new(),
        damaged: 0,
    };
    let old = (1..=keep).rev().map(|number| aside(file, number));
    let mut found = false;
    for path in old.chain([file.to_owned()]) {
        found |= reading.read(path)?;
    }
    if !found {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut holders = reading.periods;
    holders.retain(|h| h.since <= at && h.until.is_none_or(|until| at <= until));
    holders.sort_by_key(|h| h.ports.last_port - h.ports.first_port);
    Ok(Answer {
        holders,
        damaged: reading.damaged,
    })
}

struct Reading {
    port: u16,
    periods: Vec<Holder>,
    damaged: usize,
}

impl Reading {
    /// Reads a file, if it is there.
    fn read(&mut self, path: PathBuf) -> io::Result<bool> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        };
        for line in BufReader::new(file).split(b'\n') {
            match serde_json::from_slice(&line?) {
                Ok(record) => self.take(record),
                Err(_) => self.damaged += 1,
            }
        }
        Ok(true)
    }

    fn take(&mut self, record: Record) {
        let time = record.time;
        let ports = match (record.event, record.ports) {
            // At the start and at the end of the endpoint nobody has anything.
            (Event::Started | Event::Stopped, _) => return self.end(time, |_| true),
            (_, Some(ports)) => ports,
            (_, None) => {
                self.damaged += 1;
                return;
            }
        };
        if !(ports.first_port..=ports.last_port).contains(&self.port) {
            return;
        }
        let same = |held: &Ports| held.key() == ports.key();
        match record.event {
            Event::Returned => self.end(time, same),
            Event::Held if self.open().any(|held| held.ports == ports) => {}
            _ => {
                self.end(time, same);
                let since = record.since.unwrap_or(time);
                let until = None;
                self.periods.push(Holder {
                    ports,
                    since,
                    until,
                });
            }
        }
    }

    fn open(&mut self) -> impl Iterator<Item = &mut Holder> {
        self.periods.iter_mut().filter(|held| held.until.is_none())
    }

    fn end(&mut self, time: Timestamp, which: impl Fn(&Ports) -> bool) {
        let ended = self.open().filter(|held| which(&held.ports));
        ended.for_each(|held| held.until = Some(time));
    }
}
