//! The thread of a shard: it owns the pipeline, the UDP socket and the TUN device, and carries
//! packets between them until it is told to stop.
//!
//! It sleeps until something is there to do. Each round takes a bounded batch from either side, so
//! neither starves the other, nor the timers, nor the commands. It never decides about a packet.

use super::sys::{self, Interest, Waker};
use super::tun::Tun;
use super::udp::{Inbox, Udp};
use crate::engine::Output;
use crate::tunnel::{Ecn, Path};
use crate::wire::virtio_net::Header;
use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tokio::sync::oneshot;
use tracing::{debug, error};

/// Packets or super-packets that are read from the TUN device in one round.
const LAN_BATCH: usize = 16;
/// Room for a super-packet.
const LAN_BUFFER: usize = 64 << 10;

/// What a shard drives. Methods take `now` and hand what they make to `out`.
pub trait Pipeline: Send + 'static {
    /// Datagrams of `stride` bytes each (the last may be shorter) came from `path`.
    fn datagrams(
        &mut self,
        path: &Path,
        ecn: Ecn,
        stride: usize,
        bytes: &[u8],
        now: Instant,
        out: &mut impl Output,
    );
    /// A packet or super-packet came from the LAN; its bytes may be used up.
    fn lan_packet(
        &mut self,
        header: &Header,
        bytes: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    );
    /// A batch has ended: what was held back goes out.
    fn flush(&mut self, now: Instant, out: &mut impl Output);
    /// The time of `next_timeout` has come.
    fn handle_timeout(&mut self, now: Instant, out: &mut impl Output);
    /// When to be called next, if nothing else happens.
    fn next_timeout(&self) -> Option<Instant>;
}

/// The shard has ended; its pipeline is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data plane has stopped")]
pub struct ShardGone;

/// Why a shard ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The thread panicked: a defect of ours.
    #[error("the data plane panicked: {0}")]
    Panic(String),
    /// The TUN device failed, for instance because somebody deleted the interface.
    #[error("reading from the interface {interface} failed: {source}")]
    Tun {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The UDP socket failed.
    #[error("receiving on UDP port {port} failed: {source}")]
    Udp {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// Waiting for events failed.
    #[error("waiting for packets failed: {0}")]
    Wait(io::Error),
}

/// What a shard counts by itself; readable while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes for clients that could not be sent.
    pub udp_lost_bytes: AtomicU64,
    /// Packets for the LAN that the TUN device did not take.
    pub tun_lost_packets: AtomicU64,
    /// How often the thread woke.
    pub wakeups: AtomicU64,
}

/// A running shard; whoever holds this stops it.
#[derive(Debug)]
pub struct Shard<P> {
    handle: ShardHandle<P>,
    ended: oneshot::Receiver<Result<P, Failure>>,
}

impl<P: Pipeline> Shard<P> {
    /// Starts the thread.
    pub fn start(pipeline: P, tun: Tun, udp: Udp) -> io::Result<Self> {
        let (messages, inbox) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let handle = ShardHandle {
            messages,
            waker: Arc::new(Waker::new()?),
            counters: Arc::default(),
        };
        let mut worker = Worker {
            pipeline,
            messages: inbox,
            waker: handle.waker.clone(),
            ports: Ports {
                tun,
                udp,
                counters: handle.counters.clone(),
            },
        };
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(|| worker.run()));
            let result = match result {
                Ok(Ok(())) => Ok(worker.pipeline),
                Ok(Err(failure)) => Err(failure),
                Err(panic) => Err(Failure::Panic(panic_message(&*panic))),
            };
            if let Err(failure) = &result {
                error!("{failure}");
            }
            // The device and the port are free by the time the end is known.
            drop((worker.ports, worker.messages));
            let _ = end.send(result);
        };
        std::thread::Builder::new()
            .name("shard".into())
            .spawn(body)?;
        Ok(Self { handle, ended })
    }

    /// A handle to give commands with.
    pub fn handle(&self) -> ShardHandle<P> {
        self.handle.clone()
    }

    /// Waits until the shard fails. Cancel-safe; to be called no more once it returned.
    pub async fn failed(&mut self) -> Failure {
        match (&mut self.ended).await {
            Ok(Err(failure)) => failure,
            // Only `stop` ends it well, and consumes it.
            Ok(Ok(_)) | Err(_) => Failure::Panic("ended without being told".into()),
        }
    }

    /// Stops the shard and hands back its pipeline. The device and the port are free then.
    pub async fn stop(self) -> Result<P, Failure> {
        self.handle.post(Message::Stop);
        self.ended
            .await
            .unwrap_or_else(|_| Err(Failure::Panic("ended without a word".into())))
    }
}

/// Gives commands to a shard. Cheap to clone.
pub struct ShardHandle<P> {
    messages: mpsc::Sender<Message<P>>,
    waker: Arc<Waker>,
    counters: Arc<Counters>,
}

impl<P: Pipeline> ShardHandle<P> {
    /// Runs `command` on the pipeline, between two batches. It is under way once this returns,
    /// whether the answer is awaited or not. Commands run in the order in which they are given.
    pub fn with<T, F>(
        &self,
        command: F,
    ) -> impl Future<Output = Result<T, ShardGone>> + use<T, F, P>
    where
        T: Send + 'static,
        F: FnOnce(&mut P, Instant) -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.post(Message::Run(Box::new(move |pipeline, now| {
            // Nobody waits for the answer: then it is not needed.
            let _ = answer.send(command(pipeline, now));
        })));
        async move { answered.await.map_err(|_| ShardGone) }
    }

    /// Replaces the UDP socket; how a new port comes into force.
    pub fn replace_udp(&self, udp: Udp) {
        self.post(Message::Udp(udp));
    }

    /// What the shard counts by itself.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn post(&self, message: Message<P>) {
        // To a shard that is gone nothing can be said; the answer that never comes tells.
        let _ = self.messages.send(message);
        self.waker.wake();
    }
}

impl<P> Clone for ShardHandle<P> {
    fn clone(&self) -> Self {
        Self {
            messages: self.messages.clone(),
            waker: self.waker.clone(),
            counters: self.counters.clone(),
        }
    }
}

impl<P> fmt::Debug for ShardHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardHandle")
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

type Command<P> = Box<dyn FnOnce(&mut P, Instant) + Send>;

enum Message<P> {
    Run(Command<P>),
    Udp(Udp),
    Stop,
}

struct Worker<P> {
    pipeline: P,
    messages: mpsc::Receiver<Message<P>>,
    waker: Arc<Waker>,
    ports: Ports,
}

impl<P: Pipeline> Worker<P> {
    fn run(&mut self) -> Result<(), Failure> {
        let mut inbox = Inbox::new();
        let mut buffer = vec![0; LAN_BUFFER];
        loop {
            let [udp, tun, woken] = self.sleep().map_err(Failure::Wait)?;
            let now = Instant::now();
            self.ports.counters.wakeups.fetch_add(1, Relaxed);
            if woken && !self.obey(now) {
                return Ok(());
            }
            if udp {
                self.serve_clients(&mut inbox, now)?;
            }
            if tun {
                self.serve_lan(&mut buffer, now)?;
            }
            if self.pipeline.next_timeout().is_some_and(|due| due <= now) {
                self.pipeline.handle_timeout(now, &mut self.ports);
                self.pipeline.flush(now, &mut self.ports);
            }
        }
    }

    fn sleep(&self) -> io::Result<[bool; 3]> {
        let due = self.pipeline.next_timeout();
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
        let interests = [
            Interest::read(&self.ports.udp),
            Interest::read(&self.ports.tun),
            Interest::read(&*self.waker),
        ];
        sys::wait(interests, timeout)
    }

    /// Runs the commands; false when the last one is to stop.
    fn obey(&mut self, now: Instant) -> bool {
        self.waker.reset();
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Run(command) => command(&mut self.pipeline, now),
                Message::Udp(udp) => self.ports.udp = udp,
                Message::Stop => return false,
            }
        }
        self.pipeline.flush(now, &mut self.ports);
        true
    }

    fn serve_clients(&mut self, inbox: &mut Inbox, now: Instant) -> Result<(), Failure> {
        let received = self
            .ports
            .udp
            .receive(inbox)
            .map_err(|source| Failure::Udp {
                port: self.ports.udp.port(),
                source,
            })?;
        if received == 0 {
            return Ok(());
        }
        for burst in inbox.bursts() {
            let (pipeline, ports) = (&mut self.pipeline, &mut self.ports);
            pipeline.datagrams(
                &burst.path,
                burst.ecn,
                burst.stride,
                burst.bytes,
                now,
                ports,
            );
        }
        self.pipeline.flush(now, &mut self.ports);
        Ok(())
    }

    fn serve_lan(&mut self, buffer: &mut [u8], now: Instant) -> Result<(), Failure> {
        for _ in 0..LAN_BATCH {
            let read = self.ports.tun.read(buffer).map_err(|source| Failure::Tun {
                interface: self.ports.tun.name().into(),
                source,
            })?;
            let Some((header, len)) = read else { break };
            self.pipeline
                .lan_packet(&header, &mut buffer[..len], now, &mut self.ports);
        }
        self.pipeline.flush(now, &mut self.ports);
        Ok(())
    }
}

/// The ways out of a shard.
struct Ports {
    tun: Tun,
    udp: Udp,
    counters: Arc<Counters>,
}

impl Output for Ports {
    fn datagrams(&mut self, path: &Path, ecn: Ecn, segment: usize, bytes: &[u8]) {
        let lost = self.udp.send(path, ecn, segment, bytes);
        if lost > 0 {
            self.counters.udp_lost_bytes.fetch_add(lost as u64, Relaxed);
        }
    }

    fn lan_packet(&mut self, header: &Header, pieces: &[IoSlice<'_>]) {
        if let Err(error) = self.tun.write(header, pieces) {
            debug!(%error, "the TUN device did not take a packet");
            self.counters.tun_lost_packets.fetch_add(1, Relaxed);
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests;
