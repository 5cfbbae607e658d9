//! Messages between shards: a bounded queue into each shard, with a wake-up if the shard sleeps. A
//! full queue drops messages, as a full network card does; the sender never waits.
//!
//! The TUN device has one reader at a time, so that packets of one flow stay in order. The reader
//! forwards packets of other shards. If it reads packets of one other shard only, it hands the
//! device over to that shard ([`Envelope::Read`]) in the same queue after the packets. So the
//! packets of a single busy client are read by the shard that owns it.

use super::weight::{self, MAX_WEIGHT, MIN_WEIGHT};
use crate::sys::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use vcgate_core::engine::{ShardMessage, ShardTarget};

/// Capacity of a mailbox by weight, which is at least the size in memory: 128 super-packets, 8 MB.
const MAILBOX_CAPACITY: usize = 128 * MAX_WEIGHT;
/// Number of consecutive packets for one other shard after which the reader hands the device over.
const HANDOFF_THRESHOLD: usize = 32;

/// The content of a mailbox.
#[derive(Debug)]
pub(super) enum Envelope {
    /// A message for the pipeline.
    ShardMessage(ShardMessage),
    /// The receiver reads the TUN device from now on.
    Read,
}

impl Envelope {
    /// Returns the weight. The allocated memory counts, not only the part in use.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::ShardMessage(ShardMessage::Datagram { bytes, .. }) => {
                weight::of(bytes.capacity(), 1)
            }
            Self::ShardMessage(
                ShardMessage::FromLan { header, bytes } | ShardMessage::ToClient { header, bytes },
            ) => weight::of(bytes.capacity(), weight::packets(header, bytes.len())),
            Self::Read => MIN_WEIGHT,
        }
    }
}

/// The receiving end of a shard's mailbox.
#[derive(Debug)]
pub(super) struct Mailbox {
    envelopes: Receiver<Envelope>,
    /// The total weight of the waiting envelopes.
    waiting: Arc<AtomicUsize>,
    /// An envelope received during [`is_empty_before_sleep`](Self::is_empty_before_sleep).
    next: Option<Envelope>,
    asleep: Arc<AtomicBool>,
    /// Wakes the shard for envelopes and commands.
    pub waker: Arc<Waker>,
    /// Whether the shard reads the TUN device.
    pub reads: bool,
}

/// The sending end of a shard's mailbox.
#[derive(Debug)]
pub(super) struct ShardSender {
    envelopes: SyncSender<Envelope>,
    waiting: Arc<AtomicUsize>,
    asleep: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// Returns both ends of an empty mailbox whose owner reads the TUN device.
    pub(super) fn new(waker: Arc<Waker>) -> (Self, ShardSender) {
        let (sender, envelopes) = sync_channel(MAILBOX_CAPACITY / MIN_WEIGHT);
        let waiting = Arc::<AtomicUsize>::default();
        let asleep = Arc::<AtomicBool>::default();
        let sender = ShardSender {
            envelopes: sender,
            waiting: waiting.clone(),
            asleep: asleep.clone(),
            waker: waker.clone(),
        };
        let mailbox = Self {
            envelopes,
            waiting,
            next: None,
            asleep,
            waker,
            reads: true,
        };
        (mailbox, sender)
    }

    /// Returns the next envelope, if there is one.
    pub(super) fn next(&mut self) -> Option<Envelope> {
        self.next.take().or_else(|| self.take_out())
    }

    fn take_out(&self) -> Option<Envelope> {
        let envelope = self.envelopes.try_recv().ok()?;
        self.waiting.fetch_sub(envelope.weight(), Relaxed);
        Some(envelope)
    }

    /// Requests a wake-up by the next sender. Returns whether the mailbox is empty.
    pub(super) fn is_empty_before_sleep(&mut self) -> bool {
        self.asleep.store(true, SeqCst);
        if self.next.is_none() {
            self.next = self.take_out();
        }
        self.next.is_none()
    }

    /// Withdraws the request for a wake-up.
    pub(super) fn set_awake(&self) {
        self.asleep.store(false, SeqCst);
    }
}

impl ShardSender {
    /// Sends an envelope and wakes the shard if it sleeps. Returns false if the mailbox is full or
    /// the shard has stopped.
    pub(super) fn send(&self, envelope: Envelope) -> bool {
        let weight = envelope.weight();
        let before = self.waiting.fetch_add(weight, Relaxed);
        let sent = before + weight <= MAILBOX_CAPACITY && self.envelopes.try_send(envelope).is_ok();
        if !sent {
            self.waiting.fetch_sub(weight, Relaxed);
        }
        if self.asleep.swap(false, SeqCst) {
            self.waker.wake();
        }
        sent
    }
}

/// Counts consecutive packets from the TUN device for one other shard.
#[derive(Debug, Default)]
pub(super) struct ReaderHandoff {
    shard: Option<u8>,
    packets: usize,
}

impl ReaderHandoff {
    /// Notes a packet that was read.
    pub(super) fn note(&mut self, target: ShardTarget) {
        let shard = match target {
            ShardTarget::Local => None,
            ShardTarget::Remote(shard) => Some(shard),
            ShardTarget::Broadcast => return,
        };
        if self.shard != shard {
            *self = Self { shard, packets: 0 };
        }
        self.packets += 1;
    }

    /// Returns the shard that should read the device instead, if any, and restarts the count.
    pub(super) fn take_new_reader(&mut self) -> Option<u8> {
        let shard = self.shard.filter(|_| self.packets >= HANDOFF_THRESHOLD)?;
        *self = Self::default();
        Some(shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox() -> (Mailbox, ShardSender) {
        Mailbox::new(Arc::new(Waker::new().unwrap()))
    }

    fn message(bytes: Vec<u8>) -> Envelope {
        let header = Default::default();
        Envelope::ShardMessage(ShardMessage::FromLan { header, bytes })
    }

    #[test]
    fn a_full_mailbox_refuses_envelopes_and_keeps_their_order() {
        let (mut mailbox, sender) = mailbox();
        let places = MAILBOX_CAPACITY / MIN_WEIGHT;
        for n in 0..places {
            assert!(sender.send(message(vec![n as u8])));
        }
        assert!(!sender.send(Envelope::Read));
        assert!(!mailbox.is_empty_before_sleep());
        for n in 0..places {
            let Some(Envelope::ShardMessage(ShardMessage::FromLan { bytes, .. })) = mailbox.next()
            else {
                panic!("envelope {n} is missing");
            };
            assert_eq!(bytes, [n as u8]);
        }
        assert!(mailbox.is_empty_before_sleep());
        drop(mailbox);
        assert!(!sender.send(Envelope::Read));
    }

    #[test]
    fn the_capacity_of_a_mailbox_is_memory_not_a_number_of_envelopes() {
        let (mut mailbox, sender) = mailbox();
        let long = || message(Vec::with_capacity(MAX_WEIGHT));
        for _ in 0..MAILBOX_CAPACITY / MAX_WEIGHT {
            assert!(sender.send(long()));
        }
        assert!(!sender.send(long()) && !sender.send(message(vec![1])));
        assert!(mailbox.next().is_some());
        for _ in 0..MAX_WEIGHT / MIN_WEIGHT {
            assert!(sender.send(message(vec![1])));
        }
        assert!(!sender.send(message(vec![1])));
        while mailbox.next().is_some() {}
        assert!(sender.send(long()));
    }

    #[test]
    fn only_a_sleeping_shard_is_woken() {
        let (mut mailbox, sender) = mailbox();
        let is_woken = |mailbox: &Mailbox| {
            let interest = crate::sys::Interest::read(&*mailbox.waker);
            let [woken] = crate::sys::wait([interest], Some(Default::default())).unwrap();
            mailbox.waker.reset();
            woken
        };
        assert!(sender.send(Envelope::Read));
        assert!(!is_woken(&mailbox));
        assert!(mailbox.next().is_some());
        assert!(mailbox.is_empty_before_sleep());
        assert!(sender.send(Envelope::Read) && sender.send(Envelope::Read));
        assert!(is_woken(&mailbox));
        mailbox.set_awake();
        assert!(sender.send(Envelope::Read));
        assert!(!is_woken(&mailbox));
    }

    #[test]
    fn a_reader_of_packets_for_one_other_shard_hands_over() {
        let mut handoff = ReaderHandoff::default();
        for _ in 1..HANDOFF_THRESHOLD {
            handoff.note(ShardTarget::Remote(2));
            handoff.note(ShardTarget::Broadcast);
            assert_eq!(handoff.take_new_reader(), None);
        }
        handoff.note(ShardTarget::Local);
        for _ in 0..HANDOFF_THRESHOLD {
            assert_eq!(handoff.take_new_reader(), None);
            handoff.note(ShardTarget::Remote(1));
        }
        assert_eq!(handoff.take_new_reader(), Some(1));
        assert_eq!(handoff.take_new_reader(), None);
    }
}
