//! The shards: threads that own a pipeline and a UDP socket each, share the TUN device, and carry
//! packets until they are told to stop.
//!
//! ```text
//! worker   one thread's rounds
//! mates    what shards hand to each other, and which of them reads the TUN device
//! weight   how much work a packet is
//! ```
//!
//! They never decide about a packet.

mod mailbox;
mod weight;
mod worker;

use super::sys::Waker;
use super::tun::Tun;
use super::udp::Udp;
use mailbox::{Mailbox, ShardSender};
use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tokio::sync::oneshot;
use tracing::error;
use vcgate_core::engine::{Output, ShardMessage, ShardTarget};
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_wire::virtio_net::Header;
use worker::{IoSinks, Message, Worker};

/// What a shard drives. Methods take `now` and hand what they make to `out`. Those with a body are
/// for pipelines that have mates.
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
    /// A packet or super-packet came from the LAN. If it is this shard's, its bytes may be used up;
    /// else they are as they were, and somebody hands them on.
    fn lan_packet(
        &mut self,
        header: &Header,
        bytes: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) -> ShardTarget;
    /// Another shard handed something on.
    fn deliver_message(&mut self, _mail: ShardMessage, _now: Instant, _out: &mut impl Output) {}
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
    /// What could not be handed to another shard, because that one is behind.
    pub mail_lost: AtomicU64,
    /// How often the thread woke.
    #[cfg(test)]
    pub wakeups: AtomicU64,
    /// Whether sends carry many datagrams at once; no longer true once a device refused.
    pub udp_gso: AtomicBool,
}

/// All shards of an endpoint. When this is dropped they stop, each after the batch that it is in.
#[derive(Debug)]
pub struct Threads<P>(Vec<Shard<P>>);

impl<P: Pipeline> Threads<P> {
    /// Starts a thread for each pipeline, in the order of their numbers, with a socket for each.
    pub fn start(pipelines: Vec<(P, Udp)>, tun: Tun) -> io::Result<Self> {
        Shard::start_all(pipelines, tun).map(Self)
    }

    /// Handles to give commands with, in the order of the shards' numbers.
    pub fn handles(&self) -> Vec<ShardHandle<P>> {
        self.0.iter().map(Shard::handle).collect()
    }

    /// Waits until one of them fails. The others go on until they are stopped. Cancel-safe; to be
    /// called no more once it returned.
    pub async fn failed(&mut self) -> Failure {
        let all = self.0.iter_mut().map(|shard| Box::pin(shard.failed()));
        futures::future::select_all(all).await.0
    }

    /// Stops all of them, and hands back their pipelines as [`Shard::stop`] does, in the order of
    /// the shards' numbers. The device and the port are free then.
    pub async fn stop(self) -> Vec<Option<P>> {
        self.0
            .iter()
            .for_each(|shard| shard.handle.post(Message::Stop));
        let mut ends = Vec::new();
        for shard in self.0 {
            ends.push(shard.stop().await);
        }
        ends
    }
}

/// A running shard; it stops when this is dropped.
#[derive(Debug)]
pub struct Shard<P> {
    handle: ShardHandle<P>,
    failed: oneshot::Receiver<Failure>,
    ended: oneshot::Receiver<P>,
}

impl<P: Pipeline> Shard<P> {
    /// Starts the thread of a shard that has no mates.
    pub fn start(pipeline: P, tun: Tun, udp: Udp) -> io::Result<Self> {
        let (letterbox, _) = Mailbox::new(Arc::new(Waker::new()?));
        Self::spawn(pipeline, letterbox, Arc::default(), tun, udp)
    }

    fn start_all(mut pipelines: Vec<(P, Udp)>, tun: Tun) -> io::Result<Vec<Self>> {
        if pipelines.len() == 1
            && let Some((pipeline, udp)) = pipelines.pop()
        {
            return Ok(vec![Self::start(pipeline, tun, udp)?]);
        }
        let letterbox = |_| Waker::new().map(|waker| Mailbox::new(Arc::new(waker)));
        let boxes: io::Result<Vec<_>> = (0..pipelines.len()).map(letterbox).collect();
        let (boxes, mates): (Vec<_>, Vec<_>) = boxes?.into_iter().unzip();
        let mates: Arc<[_]> = mates.into();
        let mut all = Vec::new();
        for ((pipeline, udp), mut letterbox) in pipelines.into_iter().zip(boxes) {
            // One reads the device; any may hand that on.
            letterbox.reads = all.is_empty();
            let (mates, tun) = (mates.clone(), tun.try_clone()?);
            all.push(Self::spawn(pipeline, letterbox, mates, tun, udp)?);
        }
        Ok(all)
    }

    fn spawn(
        pipeline: P,
        letterbox: Mailbox,
        mates: Arc<[ShardSender]>,
        tun: Tun,
        udp: Udp,
    ) -> io::Result<Self> {
        let (messages, inbox) = mpsc::channel();
        let (fail, failed) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let handle = ShardHandle {
            messages,
            waker: letterbox.waker.clone(),
            counters: Arc::default(),
        };
        let counters = handle.counters.clone();
        let ports = IoSinks::new(tun, udp, mates, counters);
        let mut worker = Worker::new(pipeline, inbox, letterbox, ports);
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(|| worker.run()));
            let (pipeline, rest) = worker.into_parts();
            // What the kernel refuses, a pipeline does not feel. A panic may have left it in the
            // midst of something.
            let whole = result.is_ok().then_some(pipeline);
            let result = result.unwrap_or_else(|panic| Err(Failure::Panic(panic_message(&*panic))));
            // The device and the port are free by the time the end is known.
            drop(rest);
            if let Err(failure) = result {
                error!("{failure}");
                let _ = fail.send(failure);
            }
            if let Some(pipeline) = whole {
                let _ = end.send(pipeline);
            }
        };
        std::thread::Builder::new()
            .name("shard".into())
            .spawn(body)?;
        Ok(Self {
            handle,
            failed,
            ended,
        })
    }

    /// A handle to give commands with.
    pub fn handle(&self) -> ShardHandle<P> {
        self.handle.clone()
    }

    /// Waits until the shard fails. Cancel-safe; to be called no more once it returned.
    pub async fn failed(&mut self) -> Failure {
        // Only `stop` ends it well, and consumes it.
        (&mut self.failed)
            .await
            .unwrap_or_else(|_| Failure::Panic("ended without being told".into()))
    }

    /// Stops the shard, if it has not failed, and hands back its pipeline; none after a panic. The
    /// device and the port are free then.
    pub async fn stop(mut self) -> Option<P> {
        self.handle.post(Message::Stop);
        (&mut self.ended).await.ok()
    }
}

impl<P> Drop for Shard<P> {
    fn drop(&mut self) {
        self.handle.post(Message::Stop);
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
}

impl<P> ShardHandle<P> {
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

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests;
