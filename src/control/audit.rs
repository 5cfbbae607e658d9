//! The audit log: a file of JSON lines with each change of the running endpoint, its author, and the
//! values before and after it, and with each client that connects or disconnects.
//!
//! [`Writer`] writes the file and rotates it. Keys are secret and never in it.

use super::caller::Caller;
use super::endpoint::PeerChange;
use super::line_file::{LineFile, shift_rotated};
use super::reload::Reloaded;
use super::time::Timestamp;
use crate::config::{LogFile, Peer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::net::SocketAddr;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The time of the event.
    pub time: Timestamp,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// The kinds of lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The endpoint started.
    Started {
        /// Its version.
        version: String,
    },
    /// The endpoint stopped.
    Stopped,
    /// Something was changed, or refused.
    Change {
        /// The author.
        #[serde(flatten)]
        caller: Caller,
        /// The change.
        #[serde(flatten)]
        change: Reloaded,
        /// The values before and after it.
        values: Vec<ChangedValue>,
    },
    /// A client connected.
    Connected {
        /// Its name.
        peer: String,
        /// Its address, if it is known.
        source: Option<SocketAddr>,
    },
    /// A client has no session any more, or was removed.
    Disconnected {
        /// Its name.
        peer: String,
        /// Its last address.
        source: Option<SocketAddr>,
        /// Bytes received from it in all, as UDP payload.
        rx_bytes: u64,
        /// Bytes sent to it in all, as UDP payload.
        tx_bytes: u64,
    },
    /// Events are missing here, since the disk did not answer in time.
    Lost {
        /// Their number.
        events: u64,
    },
}

/// A value before and after a change; secrets are null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangedValue {
    /// The key.
    pub key: String,
    /// The value before.
    pub old: Value,
    /// The value after.
    pub new: Value,
}

/// Returns the values of keys of a peer before and after a change; a peer that was added or removed
/// has them on one side only.
pub fn changed_values(old: Option<&Peer>, new: Option<&Peer>, keys: &[&str]) -> Vec<ChangedValue> {
    let (old, new) = (fields(old), fields(new));
    let value =
        |fields: &Value, key: &str| fields.pointer(&pointer(key)).cloned().unwrap_or_default();
    let changed = keys.iter().map(|key| ChangedValue {
        key: (*key).to_owned(),
        old: value(&old, key),
        new: value(&new, key),
    });
    changed.collect()
}

/// The keys of a peer that a line about a new or removed peer has.
pub const IDENTITY: [&str; 2] = ["public_key", "allowed_ips"];

/// Returns a peer as JSON, without its preshared key.
fn fields(peer: Option<&Peer>) -> Value {
    let without_key = peer.map(|peer| PeerChange {
        preshared_key: None,
        ..peer.into()
    });
    // These types always have a form in JSON.
    serde_json::to_value(without_key).unwrap_or_default()
}

fn pointer(key: &str) -> String {
    match key {
        "rate_up" => "/rates/up".to_owned(),
        "rate_down" => "/rates/down".to_owned(),
        "disabled" | "expires" | "note" | "groups" => format!("/lifecycle/{key}"),
        key => format!("/{key}"),
    }
}

/// The log of one running endpoint.
#[derive(Debug)]
pub struct Writer {
    settings: LogFile,
    lines: LineFile,
    failing: bool,
}

impl Writer {
    /// Opens the file; makes it and its folder for its owner only if they are missing.
    ///
    /// # Errors
    /// If the file cannot be opened, or is not a regular file.
    pub fn open(settings: &LogFile) -> io::Result<Self> {
        Ok(Self {
            lines: LineFile::open_with_folder(&settings.file)?,
            settings: settings.clone(),
            failing: false,
        })
    }

    /// Writes a line, and rotates the file at its maximum size. A line that cannot be written is lost;
    /// the log on stderr says so once.
    pub fn write(&mut self, record: &Record) {
        let written = self.lines.write(record);
        let done = written.and_then(|()| match self.lines.len() >= self.settings.size {
            true => self.rotate(),
            false => Ok(()),
        });
        self.report(done);
    }

    /// Opens the file again, which another program has renamed.
    pub fn reopen(&mut self) {
        // Its folder was made at the start.
        let reopened = LineFile::open(&self.settings.file);
        let done = reopened.map(|lines| self.lines = lines);
        self.report(done);
    }

    fn rotate(&mut self) -> io::Result<()> {
        shift_rotated(&self.settings.file, self.settings.keep)?;
        self.lines = LineFile::open(&self.settings.file)?;
        Ok(())
    }

    fn report(&mut self, done: io::Result<()>) {
        let file = self.settings.file.display();
        match &done {
            Ok(()) if self.failing => tracing::info!(%file, "the audit log is written again"),
            Err(error) if !self.failing => tracing::error!(
                "cannot write the audit log {file}: {error}; lines are missing until it can be written"
            ),
            _ => {}
        }
        self.failing = done.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::control::reload::Reload;
    use crate::keys::{PresharedKey, PublicKey};
    use std::fs::{read_to_string, rename};

    fn settings(dir: &tempfile::TempDir, size: u64) -> LogFile {
        LogFile {
            file: dir.path().join("log/audit.jsonl"),
            size,
            keep: 2,
        }
    }

    fn record(seconds: u64) -> Record {
        Record {
            time: Timestamp(seconds),
            event: Event::Connected {
                peer: "anna".into(),
                source: Some("198.51.100.7:4711".parse().unwrap()),
            },
        }
    }

    fn peer() -> Peer {
        let change = PeerChange {
            name: "anna".into(),
            public_key: PublicKey::from([7; 32]),
            preshared_key: Some(PresharedKey::from([0x55; 32])),
            allowed_ips: vec!["10.8.0.11/32".parse().unwrap()],
            persistent_keepalive: None,
            reach: None,
            rates: Default::default(),
            lifecycle: Default::default(),
            dns: true,
            client: Default::default(),
            lan_address: None,
        };
        change.into()
    }

    /// Scripts rely on these names.
    #[test]
    fn json_names_are_stable() {
        let (old, mut new) = (peer(), peer());
        new.lifecycle.note = Some("a laptop".into());
        new.rates.up = Some(64_000);
        let keys = vec!["note", "rate_up"];
        let values = changed_values(Some(&old), Some(&new), &keys);
        let mut reload = Reload::of("vcgate.toml".as_ref());
        reload.note(&config::Change::PeerChanged(new, keys), None);
        let event = Event::Change {
            caller: Caller::internal("SIGHUP"),
            change: reload.changes.remove(0),
            values,
        };
        let time = Timestamp(1_700_000_000);
        let change = Record { time, event };
        let text = serde_json::to_string(&change).unwrap();
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20Z","event":"change","by":"SIGHUP","uid":null,"pid":null,"#,
            r#""change":"peer_changed","peer":"anna","keys":["note","rate_up"],"values":["#,
            r#"{"key":"note","old":null,"new":"a laptop"},{"key":"rate_up","old":null,"new":64000}]}"#,
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), change);
        let connected = concat!(
            r#"{"time":"2023-11-14T22:13:20Z","event":"connected","peer":"anna","#,
            r#""source":"198.51.100.7:4711"}"#
        );
        assert_eq!(serde_json::to_string(&record(time.0)).unwrap(), connected);
    }

    #[test]
    fn a_preshared_key_is_never_in_the_log() {
        let keys = ["preshared_key_file", "preshared_key", "public_key"];
        let values = changed_values(None, Some(&peer()), &keys);
        let text = serde_json::to_string(&values).unwrap();
        let secret = PresharedKey::from([0x55; 32]).to_base64();
        assert!(!text.contains(secret.as_str()), "{text}");
        assert!(values[2].old.is_null() && values[2].new.is_string());
    }

    #[test]
    fn files_are_rotated_by_size_and_number_and_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir, 150);
        let mut writer = Writer::open(&settings).unwrap();
        (1..=7).for_each(|second| writer.write(&record(second)));
        let name = |end: &str| dir.path().join(format!("log/audit.jsonl{end}"));
        let lines = |end: &str| read_to_string(name(end)).unwrap().lines().count();
        // Two lines reach the maximum.
        assert_eq!(["", ".1", ".2"].map(lines), [1, 2, 2]);
        assert!(!name(".3").exists());
        rename(name(""), name(".old")).unwrap();
        writer.reopen();
        writer.write(&record(8));
        assert_eq!(["", ".old"].map(lines), [1, 1]);
    }
}
