//! The loop of one shard's thread. It sleeps until there is work. Each round processes a bounded
//! batch from each side and from other shards, so that none of them, nor timers or commands, starve.

use super::mailbox::{Envelope, Mailbox, ReaderHandoff, ShardSender};
use super::weight::{self, ROUND_BUDGET};
use super::{Counters, Failure, Pipeline};
use crate::sys::{self, Interest};
use crate::tun::Tun;
use crate::udp::{BATCH, Inbox, Udp};
use std::io::{self, IoSlice};
use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tracing::debug;
use vcgate_core::engine::{Output, ShardMessage, ShardTarget};
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_wire::virtio_net::Header;

/// Size of a buffer for a super-packet, in bytes.
pub(super) const LAN_BUFFER: usize = weight::MAX_WEIGHT;
/// Maximum number of rounds for which timers wait until the socket is empty. A full socket is read
/// in fewer rounds, unless datagrams keep arriving.
const MAX_UNREAD_ROUNDS: u32 = 16;
/// Maximum length of a packet that is copied to forward it, in bytes. A longer one is forwarded with
/// its buffer. A copy of a short one is cheap, and does not waste capacity of the mailbox.
const MAX_COPY_LEN: usize = 4 << 10;

pub(super) type Command<P> = Box<dyn FnOnce(&mut P, Instant) + Send>;

/// A message of the control plane.
pub(super) enum Message<P> {
    Run(Command<P>),
    Udp(Udp),
    Stop,
}

/// The state of a shard's thread.
pub(super) struct Worker<P> {
    pipeline: P,
    messages: mpsc::Receiver<Message<P>>,
    mailbox: Mailbox,
    sinks: IoSinks,
    handoff: ReaderHandoff,
    /// Rounds since the socket was last empty.
    unread: u32,
}

impl<P: Pipeline> Worker<P> {
    pub(super) fn new(
        pipeline: P,
        messages: mpsc::Receiver<Message<P>>,
        mailbox: Mailbox,
        sinks: IoSinks,
    ) -> Self {
        Self {
            pipeline,
            messages,
            mailbox,
            sinks,
            handoff: ReaderHandoff::default(),
            unread: 0,
        }
    }

    /// Returns the pipeline, and the values that hold the device and the port.
    pub(super) fn into_parts(self) -> (P, impl Sized) {
        (self.pipeline, (self.sinks, self.messages, self.mailbox))
    }

    /// Carries packets until a stop message.
    ///
    /// # Errors
    /// If the device, the socket or the wait fails.
    pub(super) fn run(&mut self) -> Result<(), Failure> {
        self.pipeline.start();
        let mut inbox = Inbox::new();
        let mut buffer = Vec::with_capacity(LAN_BUFFER);
        loop {
            let [udp, woken, tun] = self.sleep().map_err(Failure::Wait)?;
            let now = Instant::now();
            #[cfg(test)]
            self.sinks.counters.wakeups.fetch_add(1, Relaxed);
            if woken && !self.run_commands(now) {
                return Ok(());
            }
            self.drain_mailbox(now);
            self.unread = match udp && !self.poll_udp(&mut inbox, now)? {
                true => self.unread + 1,
                false => 0,
            };
            if tun {
                self.poll_tun(&mut buffer, now)?;
            }
            // After a pause of the machine the socket holds the datagrams that peers sent meanwhile.
            // They are read before the timers, which would otherwise see silent peers.
            let due = self.pipeline.next_timeout().is_some_and(|due| due <= now);
            if due && (self.unread == 0 || self.unread >= MAX_UNREAD_ROUNDS) {
                self.pipeline.handle_timeout(now, &mut self.sinks);
                self.pipeline.flush(now, &mut self.sinks);
            }
        }
    }

    fn sleep(&mut self) -> io::Result<[bool; 3]> {
        let due = self.pipeline.next_timeout();
        let timeout = match self.mailbox.is_empty_before_sleep() {
            true => due.map(|due| due.saturating_duration_since(Instant::now())),
            false => Some(Duration::ZERO),
        };
        let udp = Interest::read(&self.sinks.udp);
        let woken = Interest::read(&*self.mailbox.waker);
        let ready = match self.mailbox.reads {
            true => sys::wait([udp, woken, Interest::read(&self.sinks.tun)], timeout)?,
            false => {
                let [udp, woken] = sys::wait([udp, woken], timeout)?;
                [udp, woken, false]
            }
        };
        self.mailbox.set_awake();
        Ok(ready)
    }

    /// Runs the waiting commands. Returns false at a stop message.
    fn run_commands(&mut self, now: Instant) -> bool {
        self.mailbox.waker.reset();
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Run(command) => command(&mut self.pipeline, now),
                Message::Udp(udp) => self.sinks.udp = udp,
                Message::Stop => return false,
            }
        }
        self.pipeline.flush(now, &mut self.sinks);
        true
    }

    /// Processes datagrams for one round. Returns whether the socket is empty.
    fn poll_udp(&mut self, inbox: &mut Inbox, now: Instant) -> Result<bool, Failure> {
        let mut done = 0;
        let is_empty = loop {
            let received = self.sinks.udp.receive(inbox);
            received.map_err(|source| Failure::Udp {
                port: self.sinks.udp.port(),
                source,
            })?;
            let mut taken = 0;
            for burst in inbox.bursts() {
                taken += 1;
                let bytes = burst.bytes.len();
                done += weight::of(bytes, bytes.div_ceil(burst.stride));
                let (pipeline, sinks) = (&mut self.pipeline, &mut self.sinks);
                pipeline.datagrams(
                    &burst.path,
                    burst.ecn,
                    burst.stride,
                    burst.bytes,
                    now,
                    sinks,
                );
            }
            // One more batch may weigh as much as a whole round.
            if taken < BATCH || done > ROUND_BUDGET / 2 {
                break taken < BATCH;
            }
        };
        if done > 0 {
            self.pipeline.flush(now, &mut self.sinks);
        }
        Ok(is_empty)
    }

    fn poll_tun(&mut self, buffer: &mut Vec<u8>, now: Instant) -> Result<(), Failure> {
        let mut done = 0;
        while done < ROUND_BUDGET {
            let read = self.sinks.tun.read(buffer).map_err(|source| Failure::Tun {
                interface: self.sinks.tun.name().into(),
                source,
            })?;
            let Some(header) = read else { break };
            done += weight::of(buffer.len(), weight::packets(&header, buffer.len()));
            let (pipeline, sinks) = (&mut self.pipeline, &mut self.sinks);
            let target = pipeline.lan_packet(&header, buffer, now, sinks);
            self.handoff.note(target);
            match target {
                ShardTarget::Local => {}
                ShardTarget::Remote(shard) => self.sinks.forward(shard, header, take(buffer)),
                // This shard gets its copy through its own mailbox.
                ShardTarget::Broadcast => (0..)
                    .take(self.sinks.senders.len())
                    .for_each(|shard| self.sinks.forward(shard, header, buffer.clone())),
            }
        }
        self.pipeline.flush(now, &mut self.sinks);
        if let Some(shard) = self.handoff.take_new_reader() {
            // After all forwarded packets, so that the order is kept.
            self.mailbox.reads = !self.sinks.send(shard, Envelope::Read);
        }
        Ok(())
    }

    /// Processes messages of other shards for one round.
    fn drain_mailbox(&mut self, now: Instant) {
        let mut done = 0;
        while done < ROUND_BUDGET {
            let Some(envelope) = self.mailbox.next() else {
                break;
            };
            done += envelope.weight();
            match envelope {
                Envelope::ShardMessage(message) => {
                    self.pipeline.deliver_message(message, now, &mut self.sinks)
                }
                Envelope::Read => self.mailbox.reads = true,
            }
        }
        if done > 0 {
            self.pipeline.flush(now, &mut self.sinks);
        }
    }
}

/// Takes the packet out of the read buffer.
fn take(buffer: &mut Vec<u8>) -> Vec<u8> {
    match buffer.len() > MAX_COPY_LEN {
        true => mem::replace(buffer, Vec::with_capacity(LAN_BUFFER)),
        false => buffer.clone(),
    }
}

/// The outputs of a shard.
pub(super) struct IoSinks {
    tun: Tun,
    udp: Udp,
    /// By shard number, this one included; empty if there is only one shard.
    senders: Arc<[ShardSender]>,
    counters: Arc<Counters>,
}

impl IoSinks {
    pub(super) fn new(
        tun: Tun,
        udp: Udp,
        senders: Arc<[ShardSender]>,
        counters: Arc<Counters>,
    ) -> Self {
        counters.udp_gso.store(udp.gso(), Relaxed);
        Self {
            tun,
            udp,
            senders,
            counters,
        }
    }

    /// Forwards a packet of the LAN to another shard.
    fn forward(&mut self, shard: u8, header: Header, bytes: Vec<u8>) {
        self.to_shard(shard, ShardMessage::FromLan { header, bytes });
    }

    fn send(&self, shard: u8, envelope: Envelope) -> bool {
        let sender = self.senders.get(usize::from(shard));
        sender.is_some_and(|sender| sender.send(envelope))
    }
}

impl Output for IoSinks {
    fn datagrams(&mut self, path: &Path, ecn: Ecn, segment: usize, bytes: &[u8]) {
        let lost = self.udp.send(path, ecn, segment, bytes);
        self.counters.udp_gso.store(self.udp.gso(), Relaxed);
        if lost > 0 {
            self.counters.udp_lost_bytes.fetch_add(lost as u64, Relaxed);
        }
    }

    fn lan_packet(&mut self, header: &Header, pieces: &[IoSlice<'_>]) {
        if let Err(error) = self.tun.write(header, pieces) {
            debug!(%error, "cannot write a packet to the TUN device");
            self.counters.tun_lost_packets.fetch_add(1, Relaxed);
        }
    }

    fn to_shard(&mut self, shard: u8, message: ShardMessage) {
        if !self.send(shard, Envelope::ShardMessage(message)) {
            self.counters.messages_lost.fetch_add(1, Relaxed);
        }
    }
}
