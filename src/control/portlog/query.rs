//! Finds the holders of a port at a given time. It only reads.

use super::{Event, Ports, Record, Timestamp, rotated};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// The result of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryResult {
    /// The clients that had the port: usually one. A forwarded port can lead to different clients
    /// by protocol and family, and lie in the block of yet another one.
    pub holders: Vec<Holder>,
    /// The number of lines that could not be parsed.
    pub damaged: usize,
}

/// A client that had ports, and the time during which it had them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The ports and the client.
    #[serde(flatten)]
    pub ports: Ports,
    /// The time of assignment.
    pub since: Timestamp,
    /// The time of return; `None` if the client still has them.
    pub until: Option<Timestamp>,
}

/// Finds the holders of a port at a time, in `file` and up to `keep` rotated files. The narrowest
/// range comes first.
///
/// # Errors
/// If a file cannot be read, or there is none.
pub fn query(file: &Path, keep: u16, port: u16, at: Timestamp) -> io::Result<QueryResult> {
    let mut scan = Scan {
        port,
        periods: Vec::new(),
        damaged: 0,
    };
    let old = (1..=keep).rev().map(|number| rotated(file, number));
    let mut found = false;
    for path in old.chain([file.to_owned()]) {
        found |= scan.read(path)?;
    }
    if !found {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut holders = scan.periods;
    holders.retain(|h| h.since <= at && h.until.is_none_or(|until| at <= until));
    holders.sort_by_key(|h| h.ports.last_port - h.ports.first_port);
    Ok(QueryResult {
        holders,
        damaged: scan.damaged,
    })
}

/// The state while the files are read, from the oldest to the newest.
struct Scan {
    port: u16,
    periods: Vec<Holder>,
    damaged: usize,
}

impl Scan {
    /// Reads a file. Returns false if it does not exist.
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
            // When the endpoint starts or stops, no client has ports.
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
