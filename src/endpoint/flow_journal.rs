//! The thread that writes the flow journal, and the queue between the shards and it.
//!
//! A shard passes on the changes of a batch and never waits: a disk that is full, read-only or slow
//! does not stop traffic. The thread keeps the state of the journal in memory, some 300 bytes for each
//! flow, so that the file can begin again without asking the shards. If the disk does not answer for
//! so long that changes are lost, all shards are asked for a snapshot.
//!
//! A journal that cannot be continued is removed at once: the next run would restore connections
//! that have ended.

use super::flow_file::FlowFile;
use crate::confine;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tracing::{debug, info, warn};
use vcgate_core::journal::{Record, State, Timestamp, encode};

/// Maximum number of records that wait for the disk, some megabytes.
const MAX_WAITING: usize = 1 << 16;
/// Maximum number of empty buffers that are kept for shards, and of the records that one has space for.
const MAX_SPARE: usize = 64;
const MAX_SPARE_CAPACITY: usize = 256;
/// Length of the frames that are written at once, in bytes.
const MAX_WRITE_LEN: usize = 1 << 20;
/// Interval of the time stamps while nothing changes: the age of flows is known to this extent after
/// the process was killed.
const STAMP_INTERVAL: Duration = Duration::from_secs(10);
/// Time until a file that could not be written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum time that the end of the endpoint waits for the disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The thread.
pub(super) struct FlowJournal {
    queue: Queue,
    /// Closed once the last snapshot is written.
    running: Receiver<()>,
}

enum Message {
    /// The changes of a shard.
    Changes {
        shard: usize,
        at: Timestamp,
        records: Vec<Record>,
    },
    /// Everything that a shard has, on request.
    Snapshot {
        shard: usize,
        at: Timestamp,
        records: Vec<Record>,
    },
    /// The way to ask all shards for a snapshot.
    Request(SnapshotRequest),
    /// Everything that the stopped shards have; some have panicked unless it is `complete`.
    Stop {
        at: Timestamp,
        records: Vec<Record>,
        complete: bool,
    },
}

/// Asks all shards for a snapshot.
pub(super) type SnapshotRequest = Box<dyn Fn() + Send>;

impl FlowJournal {
    /// Starts the thread, which begins a file with the state of `shards` shards.
    pub(super) fn start(path: PathBuf, state: State, shards: usize) -> io::Result<Self> {
        let (messages, incoming) = mpsc::channel();
        let (end, running) = mpsc::channel();
        let queue = Queue {
            messages,
            waiting: Arc::default(),
            has_lost: Arc::default(),
            spare: Arc::default(),
        };
        let writer = Writer::new(path, state, shards, queue.clone());
        let write = move || {
            if let Some(folder) = writer.path.parent() {
                confine::file_writer(folder);
            }
            writer.run(&incoming);
            drop(end);
        };
        std::thread::Builder::new()
            .name("flow-journal".into())
            .spawn(write)?;
        Ok(Self { queue, running })
    }

    /// Returns the queue's end for a shard.
    pub(super) fn sender(&self, shard: usize) -> Sender {
        Sender {
            queue: self.queue.clone(),
            shard,
        }
    }

    /// Gives the thread the function that asks all shards for a snapshot.
    pub(super) fn set_request(&self, request: SnapshotRequest) {
        self.queue.send(Message::Request(request));
    }

    /// Writes the last snapshot. It is exact if it contains all shards.
    pub(super) fn stop(self, records: Vec<Record>, complete: bool) {
        self.queue.send(Message::Stop {
            at: SystemTime::now().into(),
            records,
            complete,
        });
        if self.running.recv_timeout(STOP_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            warn!("cannot write the flows: the disk does not answer; they end with this run");
        }
    }
}

/// The queue to the thread.
#[derive(Clone)]
struct Queue {
    messages: mpsc::Sender<Message>,
    /// The number of records in the queue.
    waiting: Arc<AtomicUsize>,
    /// Whether changes did not fit. None is sent until the thread has noticed.
    has_lost: Arc<AtomicBool>,
    /// Empty buffers: a new flow allocates no memory.
    spare: Arc<Mutex<Vec<Vec<Record>>>>,
}

impl Queue {
    fn send(&self, message: Message) {
        // The thread ends only when the endpoint stops.
        let _ = self.messages.send(message);
    }

    /// Keeps a buffer for the next batch, unless there are enough.
    fn recycle(&self, mut records: Vec<Record>) {
        records.clear();
        if records.capacity() <= MAX_SPARE_CAPACITY
            && let Ok(mut spare) = self.spare.lock()
            && spare.len() < MAX_SPARE
        {
            spare.push(records);
        }
    }
}

/// The end of the queue in a shard.
#[derive(Clone)]
pub(super) struct Sender {
    queue: Queue,
    shard: usize,
}

impl Sender {
    /// Returns an empty buffer for the changes of a batch. It does not wait for the thread.
    pub(super) fn buffer(&self) -> Vec<Record> {
        let spare = self.queue.spare.try_lock().ok();
        spare.and_then(|mut spare| spare.pop()).unwrap_or_default()
    }

    /// Passes on the changes of a batch.
    pub(super) fn send(&self, records: Vec<Record>) {
        let Queue {
            waiting, has_lost, ..
        } = &self.queue;
        if has_lost.load(Relaxed) {
            return;
        }
        if waiting.load(Relaxed) + records.len() > MAX_WAITING {
            has_lost.store(true, Relaxed);
            return;
        }
        waiting.fetch_add(records.len(), Relaxed);
        self.queue.send(Message::Changes {
            shard: self.shard,
            at: SystemTime::now().into(),
            records,
        });
    }

    /// Passes on everything that the shard has.
    pub(super) fn send_snapshot(&self, records: Vec<Record>) {
        self.queue.send(Message::Snapshot {
            shard: self.shard,
            at: SystemTime::now().into(),
            records,
        });
    }
}

/// The state of the thread.
struct Writer {
    path: PathBuf,
    /// The contents of the journal.
    state: State,
    /// Whether the state contains each shard.
    has_shard: Vec<bool>,
    queue: Queue,
    request: Option<SnapshotRequest>,
    /// `None` while it cannot be written.
    file: Option<FlowFile>,
    /// Frames to append.
    frames: Vec<u8>,
    retry_at: Instant,
    /// Whether a failure was logged.
    is_failing: bool,
}

impl Writer {
    fn new(path: PathBuf, state: State, shards: usize, queue: Queue) -> Self {
        Self {
            path,
            state,
            has_shard: vec![true; shards],
            queue,
            request: None,
            file: None,
            frames: Vec::new(),
            retry_at: Instant::now(),
            is_failing: false,
        }
    }

    /// Writes messages as they arrive, until the last one.
    fn run(mut self, messages: &Receiver<Message>) {
        self.begin_file();
        loop {
            match messages.recv_timeout(STAMP_INTERVAL) {
                Ok(message) => {
                    if !self.take(message) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.append(SystemTime::now().into(), &mut Vec::new());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while self.frames.len() < MAX_WRITE_LEN
                && let Ok(message) = messages.try_recv()
            {
                if !self.take(message) {
                    return;
                }
            }
            self.write();
        }
    }

    /// Takes a message; returns false after the last one.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Changes {
                shard,
                at,
                mut records,
            } => {
                self.queue.waiting.fetch_sub(records.len(), Relaxed);
                if self.has_shard.get(shard) == Some(&true) {
                    self.append(at, &mut records);
                }
                self.queue.recycle(records);
            }
            Message::Snapshot {
                shard,
                at,
                mut records,
            } => {
                if let Some(has_shard) = self.has_shard.get_mut(shard) {
                    *has_shard = true;
                    self.append(at, &mut records);
                }
            }
            Message::Request(request) => self.request = Some(request),
            Message::Stop {
                at,
                records,
                complete,
            } => {
                self.finish(at, records, complete);
                return false;
            }
        }
        true
    }

    /// Appends records to the journal, and empties the buffer.
    fn append(&mut self, at: Timestamp, records: &mut Vec<Record>) {
        self.state.advance(at);
        if self.file.is_some() {
            encode::append(&mut self.frames, at, &*records);
        }
        records
            .drain(..)
            .for_each(|record| self.state.apply(record));
    }

    /// Writes what was appended.
    fn write(&mut self) {
        if self.queue.has_lost.swap(false, Relaxed) {
            self.ask_again();
        }
        let frames = std::mem::take(&mut self.frames);
        if self.has_shard.contains(&false) {
            return;
        }
        match &mut self.file {
            Some(file) => match file.append(&frames) {
                Ok(()) if file.is_long() => self.begin_file(),
                Ok(()) => {}
                // The next attempt is later, even if the removal has made space: a disk that is full most
                // of the time would fill the log.
                Err(error) => self.discard(&error),
            },
            None if Instant::now() >= self.retry_at => self.begin_file(),
            None => {}
        }
        self.frames = frames;
        self.frames.clear();
    }

    /// Asks the shards for everything, because changes were lost.
    fn ask_again(&mut self) {
        self.discard(&"the disk did not answer in time");
        self.state = State::default();
        self.has_shard.fill(false);
        self.retry_at = Instant::now();
        if let Some(request) = &self.request {
            request();
        }
    }

    /// Begins a file with the present state.
    fn begin_file(&mut self) {
        match FlowFile::create(&self.path, &mut self.state) {
            Ok(file) => {
                self.file = Some(file);
                if std::mem::take(&mut self.is_failing) {
                    info!(path = %self.path.display(), "the flow journal is complete again");
                }
            }
            Err(error) => match &mut self.file {
                // It is still complete.
                Some(file) => {
                    debug!(%error, "cannot shorten the flow journal");
                    file.postpone();
                }
                None => self.discard(&error),
            },
        }
    }

    /// Removes a file that cannot be continued, and warns once.
    fn discard(&mut self, error: &dyn std::fmt::Display) {
        let file = self.file.take();
        self.retry_at = Instant::now() + RETRY_INTERVAL;
        let path = self.path.display();
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(
                "cannot write the flow journal {path}: {error}; connections end if this process is \
                 killed; trying again"
            );
        }
        if let Err(error) = remove(&self.path) {
            debug!("cannot remove {path}: {error}");
            if let Some(Err(error)) = file.map(|file| file.invalidate()) {
                debug!("cannot empty {path}: {error}");
            }
        }
    }

    /// Writes the last snapshot.
    fn finish(&mut self, at: Timestamp, records: Vec<Record>, complete: bool) {
        // Of a shard that panicked, the state is that of its last batch.
        if complete {
            self.state = State::default();
        }
        self.state.advance(at);
        let end = complete.then(Record::end);
        records
            .into_iter()
            .chain(end)
            .for_each(|record| self.state.apply(record));
        if let Err(error) = FlowFile::create(&self.path, &mut self.state) {
            let _ = remove(&self.path);
            let path = self.path.display();
            warn!("cannot write the flows to {path}: {error}; they end with this run");
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests;
