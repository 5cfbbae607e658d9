//! The shards: threads that each own a pipeline and a UDP socket, share the TUN device, and carry
//! packets until they are stopped.
//!
//! ```text
//! worker   the loop of one thread
//! mailbox  messages between shards, and the choice of the shard that reads the TUN device
//! weight   the amount of work in a packet
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

/// The packet processing that a shard drives. Methods are given the time and send to `out`. Those
/// with a body are optional.
pub trait Pipeline: Send + 'static {
    /// Prepares the thread of the shard, which calls it before the first packet.
    fn start(&mut self) {}
    /// Processes datagrams of `stride` bytes each (the last may be shorter) from `path`.
    fn datagrams(
        &mut self,
        path: &Path,
        ecn: Ecn,
        stride: usize,
        bytes: &[u8],
        now: Instant,
        out: &mut impl Output,
    );
    /// Processes a packet or super-packet from the LAN. If it belongs to this shard, its bytes may
    /// be changed; otherwise they are not, and the caller forwards them.
    fn lan_packet(
        &mut self,
        header: &Header,
        bytes: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) -> ShardTarget;
    /// Processes a message from another shard.
    fn deliver_message(&mut self, _message: ShardMessage, _now: Instant, _out: &mut impl Output) {}
    /// Sends everything held back, at the end of a batch.
    fn flush(&mut self, now: Instant, out: &mut impl Output);
    /// Runs the timers that are due.
    fn handle_timeout(&mut self, now: Instant, out: &mut impl Output);
    /// Returns the time of the next `handle_timeout`.
    fn next_timeout(&self) -> Option<Instant>;
}

/// The error of a command to a shard that has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data plane has stopped")]
pub struct ShardGone;

/// The reason why a shard stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The thread panicked, which is a defect.
    #[error("the data plane panicked: {0}")]
    Panic(String),
    /// The TUN device failed, for instance because its interface was deleted.
    #[error("cannot read from the interface {interface}: {source}")]
    Tun {
        /// The interface.
        interface: String,
        /// The cause.
        source: io::Error,
    },
    /// The UDP socket failed.
    #[error("cannot receive on UDP port {port}: {source}")]
    Udp {
        /// The port.
        port: u16,
        /// The cause.
        source: io::Error,
    },
    /// Waiting for events failed.
    #[error("cannot wait for packets: {0}")]
    Wait(io::Error),
}

/// Counters of a shard, readable while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of datagrams that could not be sent.
    pub udp_lost_bytes: AtomicU64,
    /// Packets that the TUN device did not accept.
    pub tun_lost_packets: AtomicU64,
    /// Messages that did not fit in another shard's mailbox.
    pub messages_lost: AtomicU64,
    /// Wake-ups of the thread.
    #[cfg(test)]
    pub wakeups: AtomicU64,
    /// Whether sends use GSO; false once a device refused it.
    pub udp_gso: AtomicBool,
}

/// All shards of an endpoint. Dropping it stops each shard after its present batch.
#[derive(Debug)]
pub struct Threads<P>(Vec<Shard<P>>);

impl<P: Pipeline> Threads<P> {
    /// Starts a thread for each pipeline and its socket, in the order of the shards' numbers.
    ///
    /// # Errors
    /// If a thread or a descriptor is not available.
    pub fn start(pipelines: Vec<(P, Udp)>, tun: Tun) -> io::Result<Self> {
        Shard::start_all(pipelines, tun).map(Self)
    }

    /// Returns handles for commands, in the order of the shards' numbers.
    pub fn handles(&self) -> Vec<ShardHandle<P>> {
        self.0.iter().map(Shard::handle).collect()
    }

    /// Waits until a shard fails; the others continue until they are stopped. Cancel-safe. It must
    /// not be called again after it has returned.
    pub async fn failed(&mut self) -> Failure {
        let all = self.0.iter_mut().map(|shard| Box::pin(shard.failed()));
        futures::future::select_all(all).await.0
    }

    /// Stops all shards and returns their pipelines as [`Shard::stop`] does, in the order of the
    /// shards' numbers. The device and the port are free then.
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

/// A running shard. Dropping it stops the shard.
#[derive(Debug)]
pub struct Shard<P> {
    handle: ShardHandle<P>,
    failed: oneshot::Receiver<Failure>,
    ended: oneshot::Receiver<P>,
}

impl<P: Pipeline> Shard<P> {
    /// Starts the only shard of an endpoint.
    ///
    /// # Errors
    /// If a thread or a descriptor is not available.
    pub fn start(pipeline: P, tun: Tun, udp: Udp) -> io::Result<Self> {
        let (mailbox, _) = Mailbox::new(Arc::new(Waker::new()?));
        Self::spawn(pipeline, mailbox, Arc::default(), tun, udp)
    }

    fn start_all(mut pipelines: Vec<(P, Udp)>, tun: Tun) -> io::Result<Vec<Self>> {
        if pipelines.len() == 1
            && let Some((pipeline, udp)) = pipelines.pop()
        {
            return Ok(vec![Self::start(pipeline, tun, udp)?]);
        }
        let mailbox = |_| Waker::new().map(|waker| Mailbox::new(Arc::new(waker)));
        let boxes: io::Result<Vec<_>> = (0..pipelines.len()).map(mailbox).collect();
        let (boxes, senders): (Vec<_>, Vec<_>) = boxes?.into_iter().unzip();
        let senders: Arc<[_]> = senders.into();
        let mut all = Vec::new();
        for ((pipeline, udp), mut mailbox) in pipelines.into_iter().zip(boxes) {
            // One shard reads the device; it can hand that over to another.
            mailbox.reads = all.is_empty();
            let (senders, tun) = (senders.clone(), tun.try_clone()?);
            all.push(Self::spawn(pipeline, mailbox, senders, tun, udp)?);
        }
        Ok(all)
    }

    fn spawn(
        pipeline: P,
        mailbox: Mailbox,
        senders: Arc<[ShardSender]>,
        tun: Tun,
        udp: Udp,
    ) -> io::Result<Self> {
        let (messages, inbox) = mpsc::channel();
        let (fail, failed) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let handle = ShardHandle {
            messages,
            waker: mailbox.waker.clone(),
            counters: Arc::default(),
        };
        let counters = handle.counters.clone();
        let sinks = IoSinks::new(tun, udp, senders, counters);
        let mut worker = Worker::new(pipeline, inbox, mailbox, sinks);
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(|| worker.run()));
            let (pipeline, rest) = worker.into_parts();
            // An error of the kernel does not affect the pipeline, but a panic may have left it
            // inconsistent.
            let intact = result.is_ok().then_some(pipeline);
            let result = result.unwrap_or_else(|panic| Err(Failure::Panic(panic_message(&*panic))));
            // The device and the port must be free before the end is reported.
            drop(rest);
            if let Err(failure) = result {
                error!("{failure}");
                let _ = fail.send(failure);
            }
            if let Some(pipeline) = intact {
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

    /// Returns a handle for commands.
    pub fn handle(&self) -> ShardHandle<P> {
        self.handle.clone()
    }

    /// Waits until the shard fails. Cancel-safe. It must not be called again after it has returned.
    pub async fn failed(&mut self) -> Failure {
        // Without a failure, the shard ends by `stop` only, which consumes it.
        (&mut self.failed)
            .await
            .unwrap_or_else(|_| Failure::Panic("it ended without a stop".into()))
    }

    /// Stops the shard if it has not failed. Returns its pipeline, or `None` after a panic. The
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

/// A handle for commands to a shard. Cheap to clone.
pub struct ShardHandle<P> {
    messages: mpsc::Sender<Message<P>>,
    waker: Arc<Waker>,
    counters: Arc<Counters>,
}

impl<P: Pipeline> ShardHandle<P> {
    /// Runs `command` on the pipeline between two batches. The command is queued when this returns,
    /// whether the future is awaited or not. Commands run in the order in which they are queued.
    ///
    /// # Errors
    /// If the shard has stopped.
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
            // The caller may have dropped the future.
            let _ = answer.send(command(pipeline, now));
        })));
        async move { answered.await.map_err(|_| ShardGone) }
    }

    /// Replaces the UDP socket, which changes the port.
    pub fn replace_udp(&self, udp: Udp) {
        self.post(Message::Udp(udp));
    }

    /// Returns the counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl<P> ShardHandle<P> {
    fn post(&self, message: Message<P>) {
        // If the shard has stopped, the caller learns it from the missing answer.
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
