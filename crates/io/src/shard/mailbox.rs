//! What shards hand to each other: bounded queues, one into each shard, and a wake-up for who
//! sleeps. Who does not keep up loses what is handed to it, as from a full network card; nobody
//! waits for it.
//!
//! The TUN device has one reader at a time, or packets of one flow would overtake each other. The
//! reader hands on what is another's, and when that is all it reads, the reading too
//! ([`Envelope::Read`]), in the same queue behind the packets. So with one busy client packets go
//! straight to the shard that it belongs to.

use super::weight::{self, LEAST, MOST};
use crate::sys::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use vcgate_core::engine::{ShardMessage, ShardTarget};

/// What may wait for a shard, by weight, which is no less than the memory: 128 super-packets, 8 MB.
const QUEUE: usize = 128 * MOST;
/// After so many packets for one other shard, and none for its own, a reader gives up reading.
const HAND_OVER: usize = 32;

/// What is handed on.
#[derive(Debug)]
pub(super) enum Envelope {
    /// For the pipeline.
    ShardMessage(ShardMessage),
    /// The TUN device is this shard's to read from now on.
    Read,
}

impl Envelope {
    /// The memory that it lies in counts, not the part of it that is used.
    pub fn weight(&self) -> usize {
        match self {
            Self::ShardMessage(ShardMessage::Datagram { bytes, .. }) => {
                weight::of(bytes.capacity(), 1)
            }
            Self::ShardMessage(
                ShardMessage::FromLan { header, bytes } | ShardMessage::ToClient { header, bytes },
            ) => weight::of(bytes.capacity(), weight::packets(header, bytes.len())),
            Self::Read => LEAST,
        }
    }
}

/// What comes to a shard from its mates.
#[derive(Debug)]
pub(super) struct Mailbox {
    parcels: Receiver<Envelope>,
    /// The weight of what waits in there.
    waiting: Arc<AtomicUsize>,
    /// Taken out already, while falling asleep.
    next: Option<Envelope>,
    asleep: Arc<AtomicBool>,
    /// Wakes the shard, for parcels and for commands.
    pub waker: Arc<Waker>,
    /// Whether the shard reads the TUN device.
    pub reads: bool,
}

/// The way to a mate.
#[derive(Debug)]
pub(super) struct ShardSender {
    parcels: SyncSender<Envelope>,
    waiting: Arc<AtomicUsize>,
    asleep: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// An empty one whose owner reads the TUN device, and the way to it.
    pub fn new(waker: Arc<Waker>) -> (Self, ShardSender) {
        let (sender, parcels) = sync_channel(QUEUE / LEAST);
        let waiting = Arc::<AtomicUsize>::default();
        let asleep = Arc::<AtomicBool>::default();
        let mate = ShardSender {
            parcels: sender,
            waiting: waiting.clone(),
            asleep: asleep.clone(),
            waker: waker.clone(),
        };
        let letterbox = Self {
            parcels,
            waiting,
            next: None,
            asleep,
            waker,
            reads: true,
        };
        (letterbox, mate)
    }

    /// The next parcel, if one is there.
    pub fn next(&mut self) -> Option<Envelope> {
        self.next.take().or_else(|| self.take_out())
    }

    fn take_out(&self) -> Option<Envelope> {
        let parcel = self.parcels.try_recv().ok()?;
        self.waiting.fetch_sub(parcel.weight(), Relaxed);
        Some(parcel)
    }

    /// Whoever sends from now on wakes the shard; whether nothing came before.
    pub fn is_empty_before_sleep(&mut self) -> bool {
        self.asleep.store(true, SeqCst);
        if self.next.is_none() {
            self.next = self.take_out();
        }
        self.next.is_none()
    }

    /// It looks by itself again.
    pub fn awake(&self) {
        self.asleep.store(false, SeqCst);
    }
}

impl ShardSender {
    /// Sends, and wakes who sleeps; false if the queue is full or the shard is gone.
    pub fn send(&self, parcel: Envelope) -> bool {
        let weight = parcel.weight();
        let before = self.waiting.fetch_add(weight, Relaxed);
        let sent = before + weight <= QUEUE && self.parcels.try_send(parcel).is_ok();
        if !sent {
            self.waiting.fetch_sub(weight, Relaxed);
        }
        if self.asleep.swap(false, SeqCst) {
            self.waker.wake();
        }
        sent
    }
}

/// For whom the last packets from the TUN device were, if all were for one other shard.
#[derive(Debug, Default)]
pub(super) struct ReaderHandoff {
    mate: Option<u8>,
    packets: usize,
}

impl ReaderHandoff {
    /// One more packet was read.
    pub fn note(&mut self, whose: ShardTarget) {
        let mate = match whose {
            ShardTarget::Local => None,
            ShardTarget::Remote(mate) => Some(mate),
            ShardTarget::Broadcast => return,
        };
        if self.mate != mate {
            *self = Self { mate, packets: 0 };
        }
        self.packets += 1;
    }

    /// Who had better read, if somebody had; then it begins anew.
    pub fn is_over(&mut self) -> Option<u8> {
        let mate = self.mate.filter(|_| self.packets >= HAND_OVER)?;
        *self = Self::default();
        Some(mate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letterbox() -> (Mailbox, ShardSender) {
        Mailbox::new(Arc::new(Waker::new().unwrap()))
    }

    fn mail(bytes: Vec<u8>) -> Envelope {
        let header = Default::default();
        Envelope::ShardMessage(ShardMessage::FromLan { header, bytes })
    }

    #[test]
    fn a_full_letterbox_takes_no_more_and_keeps_the_order() {
        let (mut letterbox, mate) = letterbox();
        let places = QUEUE / LEAST;
        for n in 0..places {
            assert!(mate.send(mail(vec![n as u8])));
        }
        assert!(!mate.send(Envelope::Read));
        assert!(!letterbox.is_empty_before_sleep());
        for n in 0..places {
            let Some(Envelope::ShardMessage(ShardMessage::FromLan { bytes, .. })) =
                letterbox.next()
            else {
                panic!("parcel {n} is missing");
            };
            assert_eq!(bytes, [n as u8]);
        }
        assert!(letterbox.is_empty_before_sleep());
        drop(letterbox);
        assert!(!mate.send(Envelope::Read));
    }

    #[test]
    fn a_letterbox_is_full_by_the_memory_not_by_the_number() {
        let (mut letterbox, mate) = letterbox();
        let long = || mail(Vec::with_capacity(MOST));
        for _ in 0..QUEUE / MOST {
            assert!(mate.send(long()));
        }
        assert!(!mate.send(long()) && !mate.send(mail(vec![1])));
        assert!(letterbox.next().is_some());
        for _ in 0..MOST / LEAST {
            assert!(mate.send(mail(vec![1])));
        }
        assert!(!mate.send(mail(vec![1])));
        while letterbox.next().is_some() {}
        assert!(mate.send(long()));
    }

    #[test]
    fn only_who_sleeps_is_woken() {
        let (mut letterbox, mate) = letterbox();
        let is_woken = |letterbox: &Mailbox| {
            let interest = crate::sys::Interest::read(&*letterbox.waker);
            let [woken] = crate::sys::wait([interest], Some(Default::default())).unwrap();
            letterbox.waker.reset();
            woken
        };
        assert!(mate.send(Envelope::Read));
        assert!(!is_woken(&letterbox));
        assert!(letterbox.next().is_some());
        assert!(letterbox.is_empty_before_sleep());
        assert!(mate.send(Envelope::Read) && mate.send(Envelope::Read));
        assert!(is_woken(&letterbox));
        letterbox.awake();
        assert!(mate.send(Envelope::Read));
        assert!(!is_woken(&letterbox));
    }

    #[test]
    fn who_reads_only_for_another_hands_over() {
        let mut streak = ReaderHandoff::default();
        for _ in 1..HAND_OVER {
            streak.note(ShardTarget::Remote(2));
            streak.note(ShardTarget::Broadcast);
            assert_eq!(streak.is_over(), None);
        }
        streak.note(ShardTarget::Local);
        for _ in 0..HAND_OVER {
            assert_eq!(streak.is_over(), None);
            streak.note(ShardTarget::Remote(1));
        }
        assert_eq!(streak.is_over(), Some(1));
        assert_eq!(streak.is_over(), None);
    }
}
