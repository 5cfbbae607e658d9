//! The queue between the shards and the log of port assignments (RFC 6888 REQ-12 to 14).
//!
//! Entries are rare: one per block, not one per flow. A separate thread writes them, so a slow disk
//! delays neither packets nor commands. If the disk does not answer at all, entries beyond a limit
//! are lost, counted and reported.

use super::error::EndpointError;
use crate::config::{self, Forward};
use crate::confine;
use crate::control::portlog::{Key, Ports, Timestamp, Writer};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};
use vcgate_core::nat::BlockEvent;

/// Time until lines that could not be written are written again.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of entries that wait for the disk, some megabytes.
const MAX_WAITING: usize = 1 << 16;
/// Maximum time that the end of the endpoint waits for the disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The log, if the configuration wants one, and the thread that writes it.
pub(super) struct PortLog(Option<Thread>);

struct Thread {
    queue: Queue,
    /// Closed once the last line is written.
    running: Receiver<()>,
}

#[derive(Debug)]
enum Entry {
    Given(Ports, SystemTime),
    Returned(Key, SystemTime),
    Stop,
}

/// The journal that entries are written to.
trait Journal: Send + 'static {
    fn given(&mut self, ports: Ports, at: Timestamp);
    fn returned(&mut self, key: &Key, at: Timestamp);
    fn has_pending(&self) -> bool;
    fn flush_pending(&mut self, now: Timestamp);
    fn stop(self, now: Timestamp);
}

impl Journal for Writer {
    fn given(&mut self, ports: Ports, at: Timestamp) {
        Writer::given(self, ports, at);
    }

    fn returned(&mut self, key: &Key, at: Timestamp) {
        Writer::returned(self, key, at);
    }

    fn has_pending(&self) -> bool {
        Writer::has_pending(self)
    }

    fn flush_pending(&mut self, now: Timestamp) {
        Writer::flush_pending(self, now);
    }

    fn stop(self, now: Timestamp) {
        Writer::stop(self, now);
    }
}

impl PortLog {
    pub(super) fn open(settings: Option<&config::LogFile>) -> Result<Self, EndpointError> {
        let Some(settings) = settings else {
            return Ok(Self(None));
        };
        let writer = Writer::open(settings, SystemTime::now().into());
        let writer = writer.map_err(|source| EndpointError::PortLog {
            file: settings.file.clone(),
            source,
        })?;
        Ok(Self::start(writer, folder(&settings.file).to_owned())?)
    }

    /// Starts the thread, which needs no files but those in `folder`.
    fn start(journal: impl Journal, folder: PathBuf) -> io::Result<Self> {
        let (entries, incoming) = mpsc::channel();
        let (end, running) = mpsc::channel();
        let queue = Queue {
            entries,
            waiting: Arc::default(),
            lost: Arc::default(),
        };
        let thread_queue = queue.clone();
        let write = move || {
            confine::file_writer(&folder);
            thread_queue.write_to(journal, &incoming);
            drop(end);
        };
        std::thread::Builder::new()
            .name("port-log".into())
            .spawn(write)?;
        Ok(Self(Some(Thread { queue, running })))
    }

    /// Returns a sender; `addresses` are those of the NAT, with those that hosts on the LAN see.
    pub(super) fn sender(&self, addresses: LanAddresses) -> Sender {
        Sender {
            queue: self.0.as_ref().map(|thread| thread.queue.clone()),
            addresses,
        }
    }

    /// Writes the waiting entries and the end of the log.
    pub(super) fn stop(self) {
        self.stop_within(STOP_TIMEOUT);
    }

    fn stop_within(self, timeout: Duration) {
        let Some(Thread { queue, running }) = self.0 else {
            return;
        };
        // The thread ends only here.
        let _ = queue.entries.send(Entry::Stop);
        if running.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
            let entries = queue.waiting.load(Relaxed);
            tracing::error!(
                entries,
                "cannot write the rest of the port log: the disk does not answer; put nat.log_file on \
                 one that does"
            );
        }
    }
}

/// Returns the folder of a file.
pub(super) fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The queue to the thread.
#[derive(Debug, Clone)]
struct Queue {
    entries: mpsc::Sender<Entry>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    fn send(&self, entry: Entry) {
        if self.waiting.load(Relaxed) >= MAX_WAITING {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        self.waiting.fetch_add(1, Relaxed);
        // The thread ends only when the endpoint stops.
        let _ = self.entries.send(entry);
    }

    /// Writes entries as they arrive, until the last one.
    fn write_to(&self, mut journal: impl Journal, entries: &Receiver<Entry>) {
        loop {
            let pause = match journal.has_pending() {
                true => RETRY_INTERVAL,
                false => Duration::MAX,
            };
            match entries.recv_timeout(pause) {
                Ok(Entry::Given(ports, at)) => journal.given(ports, at.into()),
                Ok(Entry::Returned(key, at)) => journal.returned(&key, at.into()),
                Err(RecvTimeoutError::Timeout) => {
                    journal.flush_pending(SystemTime::now().into());
                    continue;
                }
                Ok(Entry::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            self.waiting.fetch_sub(1, Relaxed);
            let lost = self.lost.swap(0, Relaxed);
            if lost > 0 {
                tracing::error!(
                    lost,
                    "cannot log all changes of port blocks: the disk did not answer in time; put \
                     nat.log_file on one that does"
                );
            }
        }
        journal.stop(SystemTime::now().into());
    }
}

/// The end of the queue in a shard and in the control plane.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// `None` if there is no log.
    queue: Option<Queue>,
    addresses: LanAddresses,
}

/// The first LAN address of each family: that of the NAT, and that which hosts on the LAN see.
#[derive(Debug, Clone, Copy)]
pub(super) struct LanAddresses {
    pub ipv4: (Ipv4Addr, Ipv4Addr),
    pub ipv6: Option<(Ipv6Addr, Ipv6Addr)>,
}

impl LanAddresses {
    /// Returns the address that hosts on the LAN see in the place of one of the NAT's.
    pub(super) fn external(&self, lan: IpAddr) -> IpAddr {
        match (lan, self.ipv6) {
            (IpAddr::V4(address), _) if address == self.ipv4.0 => self.ipv4.1.into(),
            (IpAddr::V6(_), Some((_, external))) => external.into(),
            (address, _) => address,
        }
    }

    /// Returns the address of a forward, as hosts on the LAN see it.
    fn of(&self, forward: &Forward) -> IpAddr {
        match (forward.lan_address, forward.to, self.ipv6) {
            (Some(address), ..) => address.into(),
            (None, SocketAddr::V6(_), Some((_, external))) => external.into(),
            (None, ..) => self.ipv4.1.into(),
        }
    }
}

impl Sender {
    /// Logs that a port block was assigned or returned; `peer` names the peer of a client.
    pub(super) fn block(&self, event: &BlockEvent, peer: impl FnOnce(IpAddr) -> String) {
        let key = Key {
            lan_address: self.addresses.external(event.lan),
            first_port: event.first_port,
            last_port: event.last_port,
            protocol: None,
        };
        match event.given {
            true => self.given(event.client, key, || peer(event.client)),
            false => self.returned(key),
        }
    }

    /// Logs a new forward.
    pub(super) fn forward(&self, forward: &Forward, peer: Option<&str>) {
        self.given(forward.to.ip(), self.key(forward), || {
            peer.unwrap_or_default().to_owned()
        });
    }

    /// Logs the end of a forward.
    pub(super) fn unforward(&self, forward: &Forward) {
        self.returned(self.key(forward));
    }

    fn given(&self, client: IpAddr, key: Key, peer: impl FnOnce() -> String) {
        let Some(queue) = &self.queue else {
            return;
        };
        let ports = Ports {
            peer: peer(),
            client,
            lan_address: key.lan_address,
            first_port: key.first_port,
            last_port: key.last_port,
            protocol: key.protocol,
        };
        queue.send(Entry::Given(ports, SystemTime::now()));
    }

    fn key(&self, forward: &Forward) -> Key {
        Key {
            lan_address: self.addresses.of(forward),
            first_port: forward.lan_port,
            last_port: forward.lan_port,
            protocol: Some(forward.proto),
        }
    }

    fn returned(&self, key: Key) {
        if let Some(queue) = &self.queue {
            queue.send(Entry::Returned(key, SystemTime::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::portlog::query;

    /// A disk that answers only when the test allows it.
    struct Stuck(Receiver<()>, mpsc::Sender<&'static str>);

    impl Journal for Stuck {
        fn given(&mut self, _: Ports, _: Timestamp) {
            let _ = self.0.recv();
            let _ = self.1.send("given");
        }

        fn returned(&mut self, _: &Key, _: Timestamp) {
            let _ = self.1.send("returned");
        }

        fn has_pending(&self) -> bool {
            false
        }

        fn flush_pending(&mut self, _: Timestamp) {}

        fn stop(self, _: Timestamp) {
            let _ = self.1.send("stopped");
        }
    }

    /// Own addresses: hosts on the LAN see those of the NAT.
    fn addresses() -> LanAddresses {
        let (ipv4, ipv6) = (
            Ipv4Addr::new(192, 168, 77, 2),
            "fd00:77::2".parse().unwrap(),
        );
        LanAddresses {
            ipv4: (ipv4, ipv4),
            ipv6: Some((ipv6, ipv6)),
        }
    }

    fn stuck() -> (PortLog, mpsc::Sender<()>, Receiver<&'static str>) {
        let (answer, answers) = mpsc::channel();
        let (write, written) = mpsc::channel();
        let log = PortLog::start(Stuck(answers, write), PathBuf::from(".")).unwrap();
        (log, answer, written)
    }

    #[test]
    fn a_disk_that_does_not_answer_delays_nothing_and_memory_is_bounded() {
        let (log, answer, written) = stuck();
        let sender = log.sender(addresses());
        let event = |given| BlockEvent {
            client: [10, 8, 0, 11].into(),
            lan: [192, 168, 77, 2].into(),
            first_port: 6400,
            last_port: 6463,
            given,
        };
        for _ in 0..MAX_WAITING + 10 {
            sender.block(&event(true), |_| "anna".into());
        }
        let queue = &log.0.as_ref().unwrap().queue;
        assert_eq!(queue.waiting.load(Relaxed), MAX_WAITING);
        assert_eq!(queue.lost.load(Relaxed), 10);
        drop(answer); // from here on it answers
        assert_eq!(
            written
                .iter()
                .take(MAX_WAITING)
                .filter(|w| *w == "given")
                .count(),
            MAX_WAITING
        );
        sender.block(&event(false), |_| unreachable!());
        log.stop();
        assert_eq!(written.iter().collect::<Vec<_>>(), ["returned", "stopped"]);
    }

    #[test]
    fn the_stop_does_not_wait_for_ever() {
        let (log, _answer, written) = stuck();
        let sender = log.sender(addresses());
        let event = BlockEvent {
            client: [10, 8, 0, 11].into(),
            lan: [192, 168, 77, 2].into(),
            first_port: 6400,
            last_port: 6463,
            given: true,
        };
        sender.block(&event, |_| "anna".into());
        log.stop_within(Duration::from_millis(1));
        assert!(written.try_recv().is_err());
    }

    /// The client, its LAN address, and whether it still has the port.
    type Seen = (String, String, bool);

    #[test]
    fn rfc6888_req12_each_family_has_its_own_lan_address_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let settings = config::LogFile {
            file: dir.path().join("ports.jsonl"),
            size: 1 << 20,
            keep: 1,
        };
        let log = PortLog::open(Some(&settings)).unwrap();
        let lan: [IpAddr; 2] = ["192.168.77.2", "fd00:77::2"].map(|a| a.parse().unwrap());
        let sender = log.sender(addresses());
        let inner = ["10.8.0.11", "fd00:8::11"];
        for (number, client) in inner.into_iter().enumerate() {
            let event = |given| BlockEvent {
                client: client.parse().unwrap(),
                lan: lan[number],
                first_port: 6400 + 64 * number as u16,
                last_port: 6463 + 64 * number as u16,
                given,
            };
            let forward = Forward {
                proto: config::Transport::Tcp,
                lan_port: 8443,
                to: std::net::SocketAddr::new(client.parse().unwrap(), 443),
                lan_address: None,
            };
            sender.block(&event(true), |client| format!("anna {client}"));
            sender.forward(&forward, Some("anna"));
            sender.block(&event(false), |_| unreachable!());
            if client == inner[0] {
                sender.unforward(&forward);
            }
        }
        log.stop();
        let text = std::fs::read_to_string(&settings.file).unwrap();
        let now = SystemTime::now().into();
        let who = |port| -> Vec<Seen> {
            let holders = query(&settings.file, 1, port, now).unwrap().holders;
            let seen = |h: crate::control::portlog::Holder| {
                let Ports {
                    client,
                    lan_address,
                    ..
                } = h.ports;
                (
                    client.to_string(),
                    lan_address.to_string(),
                    h.until.is_none(),
                )
            };
            holders.into_iter().map(seen).collect()
        };
        for (number, client) in inner.into_iter().enumerate() {
            let seen = (client.to_owned(), lan[number].to_string(), false);
            assert_eq!(who(6407 + 64 * number as u16), [seen], "{text}");
        }
        // One forward in each family, of which one is closed.
        assert_eq!(text.matches("\"returned\"").count(), 3, "{text}");
        assert_eq!(text.matches("\"first_port\":8443").count(), 3, "{text}");
    }
}
