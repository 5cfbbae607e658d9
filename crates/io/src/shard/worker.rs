//! One shard's thread, round by round. It sleeps until something is there to do. Each round takes a
//! bounded batch from either side and from the mates, so none starves another, nor the timers, nor
//! the commands.

use super::mailbox::{Envelope, Mailbox, ReaderHandoff, ShardSender};
use super::weight::{self, ROUND};
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

/// Room for a super-packet.
pub(super) const LAN_BUFFER: usize = weight::MOST;
/// Rounds that timers wait at most for the socket to be read to its end. It holds less than so many
/// rounds take, unless more keeps coming.
const MAX_UNREAD_ROUNDS: u32 = 16;
/// A packet for a mate that is longer than this goes with the memory that it lies in. A copy of a
/// shorter one is cheap, and takes no more room in the mate's queue than it needs.
const COPIED: usize = 4 << 10;

pub(super) type Command<P> = Box<dyn FnOnce(&mut P, Instant) + Send>;

/// What a shard is told.
pub(super) enum Message<P> {
    Run(Command<P>),
    Udp(Udp),
    Stop,
}

/// A shard as its thread has it.
pub(super) struct Worker<P> {
    pipeline: P,
    messages: mpsc::Receiver<Message<P>>,
    letterbox: Mailbox,
    ports: IoSinks,
    /// For whom the device was read last.
    streak: ReaderHandoff,
    /// Rounds since the socket was last read to its end.
    unread: u32,
}

impl<P: Pipeline> Worker<P> {
    pub(super) fn new(
        pipeline: P,
        messages: mpsc::Receiver<Message<P>>,
        letterbox: Mailbox,
        ports: IoSinks,
    ) -> Self {
        Self {
            pipeline,
            messages,
            letterbox,
            ports,
            streak: ReaderHandoff::default(),
            unread: 0,
        }
    }

    /// The pipeline, and all that holds the device and the port.
    pub(super) fn into_parts(self) -> (P, impl Sized) {
        (self.pipeline, (self.ports, self.messages, self.letterbox))
    }

    /// Carries packets until it is told to stop.
    pub(super) fn run(&mut self) -> Result<(), Failure> {
        let mut inbox = Inbox::new();
        let mut buffer = Vec::with_capacity(LAN_BUFFER);
        loop {
            let [udp, woken, tun] = self.sleep().map_err(Failure::Wait)?;
            let now = Instant::now();
            #[cfg(test)]
            self.ports.counters.wakeups.fetch_add(1, Relaxed);
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
            // After a pause of the machine the socket holds what peers sent meanwhile. It is read
            // before timers take their silence for more than that.
            let due = self.pipeline.next_timeout().is_some_and(|due| due <= now);
            if due && (self.unread == 0 || self.unread >= MAX_UNREAD_ROUNDS) {
                self.pipeline.handle_timeout(now, &mut self.ports);
                self.pipeline.flush(now, &mut self.ports);
            }
        }
    }

    fn sleep(&mut self) -> io::Result<[bool; 3]> {
        let due = self.pipeline.next_timeout();
        let timeout = match self.letterbox.is_empty_before_sleep() {
            true => due.map(|due| due.saturating_duration_since(Instant::now())),
            false => Some(Duration::ZERO),
        };
        let udp = Interest::read(&self.ports.udp);
        let woken = Interest::read(&*self.letterbox.waker);
        let ready = match self.letterbox.reads {
            true => sys::wait([udp, woken, Interest::read(&self.ports.tun)], timeout)?,
            false => {
                let [udp, woken] = sys::wait([udp, woken], timeout)?;
                [udp, woken, false]
            }
        };
        self.letterbox.awake();
        Ok(ready)
    }

    /// Runs the commands; false when the last one is to stop.
    fn run_commands(&mut self, now: Instant) -> bool {
        self.letterbox.waker.reset();
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

    /// Takes datagrams, a round of them; whether the socket was read to its end.
    fn poll_udp(&mut self, inbox: &mut Inbox, now: Instant) -> Result<bool, Failure> {
        let mut done = 0;
        let is_empty = loop {
            let received = self.ports.udp.receive(inbox);
            received.map_err(|source| Failure::Udp {
                port: self.ports.udp.port(),
                source,
            })?;
            let mut taken = 0;
            for burst in inbox.bursts() {
                taken += 1;
                let bytes = burst.bytes.len();
                done += weight::of(bytes, bytes.div_ceil(burst.stride));
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
            // One more batch may be as much as a whole round.
            if taken < BATCH || done > ROUND / 2 {
                break taken < BATCH;
            }
        };
        if done > 0 {
            self.pipeline.flush(now, &mut self.ports);
        }
        Ok(is_empty)
    }

    fn poll_tun(&mut self, buffer: &mut Vec<u8>, now: Instant) -> Result<(), Failure> {
        let mut done = 0;
        while done < ROUND {
            let read = self.ports.tun.read(buffer).map_err(|source| Failure::Tun {
                interface: self.ports.tun.name().into(),
                source,
            })?;
            let Some(header) = read else { break };
            done += weight::of(buffer.len(), weight::packets(&header, buffer.len()));
            let (pipeline, ports) = (&mut self.pipeline, &mut self.ports);
            let whose = pipeline.lan_packet(&header, buffer, now, ports);
            self.streak.note(whose);
            match whose {
                ShardTarget::Local => {}
                ShardTarget::Remote(mate) => self.ports.hand_on(mate, header, take(buffer)),
                // Its own copy comes by its own letterbox.
                ShardTarget::Broadcast => (0..)
                    .take(self.ports.mates.len())
                    .for_each(|shard| self.ports.hand_on(shard, header, buffer.clone())),
            }
        }
        self.pipeline.flush(now, &mut self.ports);
        if let Some(mate) = self.streak.is_over() {
            // Behind all that was handed on, so order is kept.
            self.letterbox.reads = !self.ports.send(mate, Envelope::Read);
        }
        Ok(())
    }

    /// Takes what other shards handed on, a round of it.
    fn drain_mailbox(&mut self, now: Instant) {
        let mut done = 0;
        while done < ROUND {
            let Some(parcel) = self.letterbox.next() else {
                break;
            };
            done += parcel.weight();
            match parcel {
                Envelope::ShardMessage(mail) => {
                    self.pipeline.deliver_message(mail, now, &mut self.ports)
                }
                Envelope::Read => self.letterbox.reads = true,
            }
        }
        if done > 0 {
            self.pipeline.flush(now, &mut self.ports);
        }
    }
}

/// What was read, for somebody who keeps it.
fn take(buffer: &mut Vec<u8>) -> Vec<u8> {
    match buffer.len() > COPIED {
        true => mem::replace(buffer, Vec::with_capacity(LAN_BUFFER)),
        false => buffer.clone(),
    }
}

/// The ways out of a shard.
pub(super) struct IoSinks {
    tun: Tun,
    udp: Udp,
    /// By their numbers, this one too; none, where there is but one shard.
    mates: Arc<[ShardSender]>,
    counters: Arc<Counters>,
}

impl IoSinks {
    pub(super) fn new(
        tun: Tun,
        udp: Udp,
        mates: Arc<[ShardSender]>,
        counters: Arc<Counters>,
    ) -> Self {
        counters.udp_gso.store(udp.gso(), Relaxed);
        Self {
            tun,
            udp,
            mates,
            counters,
        }
    }

    /// A packet of the LAN goes to another shard.
    fn hand_on(&mut self, mate: u8, header: Header, bytes: Vec<u8>) {
        self.to_shard(mate, ShardMessage::FromLan { header, bytes });
    }

    fn send(&self, mate: u8, parcel: Envelope) -> bool {
        let mate = self.mates.get(usize::from(mate));
        mate.is_some_and(|mate| mate.send(parcel))
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
            debug!(%error, "the TUN device did not take a packet");
            self.counters.tun_lost_packets.fetch_add(1, Relaxed);
        }
    }

    fn to_shard(&mut self, shard: u8, mail: ShardMessage) {
        if !self.send(shard, Envelope::ShardMessage(mail)) {
            self.counters.mail_lost.fetch_add(1, Relaxed);
        }
    }
}
