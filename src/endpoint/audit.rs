//! The audit log of the running endpoint: changes as they are made, and clients that connect and
//! disconnect, which are found by a look at all peers once a second.
//!
//! A separate thread writes it, so a slow disk delays neither packets nor commands. Events that do not
//! fit into the queue are lost and counted.

use super::EndpointError;
use super::port_log::folder;
use super::shards::Shards;
use crate::config::{Change, LogFile, Peer};
use crate::confine;
use crate::control::audit::{ChangedValue, Event, IDENTITY, Record, Writer, changed_values};
use crate::control::caller::Caller;
use crate::control::reload::Reload;
use crate::keys::PublicKey;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::{Duration, SystemTime};

/// Maximum number of events that wait for the disk.
const QUEUE_CAPACITY: usize = 4096;
/// Maximum time that the end of the endpoint waits for the disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two looks at the sessions of peers.
const SESSION_INTERVAL: Duration = Duration::from_secs(1);

enum Entry {
    Event(SystemTime, Box<Event>),
    Reopen,
    Stop,
}

/// The log, if the configuration wants one, and the thread that writes it.
pub(super) struct AuditLog {
    sender: Sender,
    /// Closed once the last line is written.
    running: Option<Receiver<()>>,
}

impl AuditLog {
    /// Opens the log and starts its thread.
    pub(super) fn open(settings: Option<&LogFile>) -> Result<Self, EndpointError> {
        let Some(settings) = settings else {
            return Ok(Self {
                sender: Sender(None),
                running: None,
            });
        };
        let writer = Writer::open(settings).map_err(|source| EndpointError::AuditLog {
            file: settings.file.clone(),
            source,
        })?;
        let (entries, incoming) = mpsc::sync_channel(QUEUE_CAPACITY);
        let lost = Arc::new(AtomicU64::new(0));
        let (end, running) = mpsc::channel();
        let folder = folder(&settings.file).to_owned();
        let thread_lost = lost.clone();
        let write = move || {
            confine::file_writer(&folder);
            write_all(writer, &incoming, &thread_lost);
            drop(end);
        };
        std::thread::Builder::new()
            .name("audit-log".into())
            .spawn(write)?;
        let sender = Sender(Some(Queue { entries, lost }));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        sender.send(Event::Started { version });
        Ok(Self {
            sender,
            running: Some(running),
        })
    }

    /// Returns a sender.
    pub(super) fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Writes the waiting events and the end of the log.
    pub(super) fn stop(self) {
        self.sender.send(Event::Stopped);
        self.sender.queue(Entry::Stop);
        let Some(running) = self.running else {
            return;
        };
        if running.recv_timeout(STOP_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!(
                "cannot write the rest of the audit log: the disk does not answer; put audit.log_file on \
                 one that does"
            );
        }
    }
}

/// Writes events as they arrive, until the last one.
fn write_all(mut writer: Writer, entries: &Receiver<Entry>, lost: &AtomicU64) {
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Event(time, event) => writer.write(&Record {
                time: time.into(),
                event: *event,
            }),
            Entry::Reopen => writer.reopen(),
            Entry::Stop => return,
        }
        match lost.swap(0, Relaxed) {
            0 => {}
            events => writer.write(&Record {
                time: SystemTime::now().into(),
                event: Event::Lost { events },
            }),
        }
    }
}

#[derive(Clone)]
struct Queue {
    entries: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

/// The end of the queue in the control plane. It never waits.
#[derive(Clone)]
pub(super) struct Sender(Option<Queue>);

impl Sender {
    fn send(&self, event: Event) {
        self.queue(Entry::Event(SystemTime::now(), Box::new(event)));
    }

    fn queue(&self, entry: Entry) {
        let Some(queue) = &self.0 else { return };
        if let Err(TrySendError::Full(Entry::Event(..))) = queue.entries.try_send(entry) {
            queue.lost.fetch_add(1, Relaxed);
        }
    }

    /// Opens the file again.
    pub(super) fn reopen(&self) {
        self.queue(Entry::Reopen);
    }

    /// Records a change of the present caller. `before` is the peer before the change.
    pub(super) fn change(&self, change: &Change, before: Option<&Peer>, refused: Option<String>) {
        if self.0.is_none() {
            return;
        }
        let values = match change {
            Change::PeerChanged(peer, keys) => changed_values(before, Some(peer), keys),
            Change::PeerAdded(peer) => changed_values(None, Some(peer), &IDENTITY),
            Change::PeerRemoved(peer) => changed_values(Some(peer), None, &IDENTITY),
            Change::Key(key) | Change::AtNextStart(key) => {
                let (old, new) = key.values.clone().unzip();
                vec![value(key.name, old, new)]
            }
            Change::LanPool(_)
            | Change::PeerExpired(_)
            | Change::ForwardAdded(_)
            | Change::ForwardRemoved(_) => Vec::new(),
        };
        let mut report = Reload::of(Path::new(""));
        // A key that takes effect at the next start would be in a list of its own.
        let listed = match change {
            Change::AtNextStart(key) => &Change::Key(key.clone()),
            change => change,
        };
        report.note(listed, refused);
        if let Some(change) = report.changes.pop() {
            self.send(Event::Change {
                caller: Caller::current(),
                change,
                values,
            });
        }
    }

    /// Records another value of a key outside of the configuration.
    pub(super) fn key(&self, key: &'static str, old: String, new: String) {
        let values = Some((old, new));
        let change = Change::Key(crate::config::KeyChange { name: key, values });
        self.change(&change, None, None);
    }

    /// Records clients that connect and disconnect, until the endpoint stops.
    pub(super) async fn follow_sessions(&self, shards: &Shards) -> Infallible {
        if self.0.is_none() {
            return std::future::pending().await;
        }
        let mut known = HashMap::new();
        loop {
            let now = sessions(shards).await;
            for event in differences(&known, &now) {
                self.send(event);
            }
            known = now;
            tokio::time::sleep(SESSION_INTERVAL).await;
        }
    }
}

fn value(key: &str, old: Option<String>, new: Option<String>) -> ChangedValue {
    ChangedValue {
        key: key.to_owned(),
        old: old.into(),
        new: new.into(),
    }
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Session {
    peer: String,
    source: Option<SocketAddr>,
    rx_bytes: u64,
    tx_bytes: u64,
}

async fn sessions(shards: &Shards) -> HashMap<PublicKey, Session> {
    let answers = shards.ask_all(|engine, _| {
        let connected = engine.tunnel().own_peers().filter(|peer| peer.connected);
        let sessions = connected.map(|peer| {
            let session = Session {
                peer: peer.name.to_owned(),
                source: peer.path.map(|path| path.remote),
                rx_bytes: peer.rx,
                tx_bytes: peer.tx,
            };
            (peer.public_key.into(), session)
        });
        sessions.collect::<Vec<_>>()
    });
    answers.await.into_iter().flatten().collect()
}

/// Returns the events that lead from one state to another, in the order of names.
fn differences(
    before: &HashMap<PublicKey, Session>,
    now: &HashMap<PublicKey, Session>,
) -> Vec<Event> {
    let only_in = |these: &HashMap<PublicKey, Session>, others: &HashMap<PublicKey, Session>| {
        let new = these.iter().filter(|(key, _)| !others.contains_key(key));
        let mut new: Vec<Session> = new.map(|(_, session)| session.clone()).collect();
        new.sort_by(|a, b| a.peer.cmp(&b.peer));
        new
    };
    let ended = only_in(before, now).into_iter();
    let ended = ended.map(|session| Event::Disconnected {
        peer: session.peer,
        source: session.source,
        rx_bytes: session.rx_bytes,
        tx_bytes: session.tx_bytes,
    });
    let begun = only_in(now, before).into_iter();
    let begun = begun.map(|session| Event::Connected {
        peer: session.peer,
        source: session.source,
    });
    ended.chain(begun).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(peer: &str, rx_bytes: u64) -> (PublicKey, Session) {
        let session = Session {
            peer: peer.to_owned(),
            source: None,
            rx_bytes,
            tx_bytes: 0,
        };
        (PublicKey::from([peer.len() as u8; 32]), session)
    }

    #[test]
    fn sessions_that_begin_and_end_are_events() {
        let before = HashMap::from([session("a", 1), session("bb", 2)]);
        let now = HashMap::from([session("bb", 9), session("ccc", 3)]);
        let disconnected = Event::Disconnected {
            peer: "a".into(),
            source: None,
            rx_bytes: 1,
            tx_bytes: 0,
        };
        let connected = Event::Connected {
            peer: "ccc".into(),
            source: None,
        };
        assert_eq!(differences(&before, &now), [disconnected, connected]);
        assert_eq!(differences(&now, &now), []);
    }

    #[test]
    fn a_full_queue_delays_nothing_and_lost_events_are_counted() {
        let (entries, incoming) = mpsc::sync_channel(2);
        let lost = Arc::new(AtomicU64::new(0));
        let sender = Sender(Some(Queue {
            entries,
            lost: lost.clone(),
        }));
        for _ in 0..5 {
            sender.key("log level", "info".into(), "debug".into());
        }
        assert_eq!(lost.load(Relaxed), 3);
        drop(sender);
        let dir = tempfile::tempdir().unwrap();
        let settings = LogFile {
            file: dir.path().join("audit.jsonl"),
            size: 1 << 20,
            keep: 1,
        };
        write_all(Writer::open(&settings).unwrap(), &incoming, &lost);
        let text = std::fs::read_to_string(&settings.file).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains(r#""event":"lost","events":3"#), "{text}");
    }

    #[test]
    fn without_a_file_nothing_is_recorded() {
        let log = AuditLog::open(None).unwrap();
        log.sender().key("log level", "info".into(), "debug".into());
        log.stop();
    }
}
