//! Rate limits of peers: packets above the rate wait in a queue of the peer and direction, and leave
//! when the rate permits. A full queue drops, so that TCP adapts to the rate.
//!
//! Each limited direction has a clock that each packet advances by the time that its bytes take. A
//! clock may lag the real time by at most [`MAX_CATCH_UP`], so that a late timer loses no rate. The
//! shaper knows bytes and times, and never parses a packet.

use crate::ids::PeerId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};
use vcgate_wire::virtio_net::Header;

/// Maximum time whose bytes may leave at once after a pause.
const MAX_CATCH_UP: Duration = Duration::from_millis(5);
/// The time in which a full queue drains.
const QUEUE_TIME: Duration = Duration::from_millis(100);
/// The minimum capacity of a queue in bytes: two super-packets.
const MIN_QUEUE_CAPACITY: u64 = 2 * 64 * 1024;

/// The rate limits of a peer, in bits of inner IP packets per second; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// From the client.
    #[serde(default)]
    pub up: Option<u64>,
    /// To the client.
    #[serde(default)]
    pub down: Option<u64>,
}

/// A direction of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Flow {
    Up,
    Down,
}

/// The decision about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It leaves now.
    Pass,
    /// It waits, and must be given to [`Shaper::queue`].
    Wait,
    /// The queue is full.
    Drop,
}

/// A packet that waited.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub peer: PeerId,
    pub flow: Flow,
    pub header: Header,
    pub bytes: Vec<u8>,
}

/// The limited directions of all peers of a shard.
#[derive(Debug, Default)]
pub(super) struct Shaper {
    lines: HashMap<(PeerId, Flow), Line>,
    /// The lines with waiting packets, by the time at which the first one leaves.
    due: BTreeSet<(Instant, PeerId, Flow)>,
}

/// One limited direction of a peer.
#[derive(Debug)]
struct Line {
    bits_per_second: u64,
    free_at: Instant,
    waiting: VecDeque<(Header, Vec<u8>)>,
    bytes: u64,
}

impl Line {
    /// Advances the clock by the time that a packet takes.
    fn charge(&mut self, len: usize, now: Instant) {
        let nanos = len as u128 * 8 * 1_000_000_000 / u128::from(self.bits_per_second.max(1));
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let earliest = now.checked_sub(MAX_CATCH_UP).unwrap_or(now);
        let start = self.free_at.max(earliest);
        self.free_at = start.checked_add(time).unwrap_or(start);
    }

    fn capacity(&self) -> u64 {
        let bytes = u128::from(self.bits_per_second) * QUEUE_TIME.as_millis() / 8000;
        u64::try_from(bytes)
            .unwrap_or(u64::MAX)
            .max(MIN_QUEUE_CAPACITY)
    }
}

impl Shaper {
    /// Whether no peer has a limit.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Sets the limits of a peer. Waiting packets of a direction without a limit are dropped, as on
    /// a link that fails.
    pub(super) fn set(&mut self, peer: PeerId, rates: Rates, now: Instant) {
        for (flow, rate) in [(Flow::Up, rates.up), (Flow::Down, rates.down)] {
            let key = (peer, flow);
            match (rate, self.lines.get_mut(&key)) {
                (Some(rate), Some(line)) => line.bits_per_second = rate,
                (Some(bits_per_second), None) => {
                    let line = Line {
                        bits_per_second,
                        free_at: now,
                        waiting: VecDeque::new(),
                        bytes: 0,
                    };
                    self.lines.insert(key, line);
                }
                (None, Some(line)) => {
                    self.due.remove(&(line.free_at, peer, flow));
                    self.lines.remove(&key);
                }
                (None, None) => {}
            }
        }
    }

    /// Decides about a packet of `len` bytes.
    pub(super) fn admit(
        &mut self,
        peer: PeerId,
        flow: Flow,
        len: usize,
        now: Instant,
    ) -> Admission {
        let Some(line) = self.lines.get_mut(&(peer, flow)) else {
            return Admission::Pass;
        };
        if line.waiting.is_empty() && line.free_at <= now {
            line.charge(len, now);
            return Admission::Pass;
        }
        match line.waiting.is_empty() || line.bytes + len as u64 <= line.capacity() {
            true => Admission::Wait,
            false => Admission::Drop,
        }
    }

    /// Queues a packet that has to wait.
    pub(super) fn queue(&mut self, packet: Waiting) {
        let Waiting {
            peer,
            flow,
            header,
            bytes,
        } = packet;
        if let Some(line) = self.lines.get_mut(&(peer, flow)) {
            if line.waiting.is_empty() {
                self.due.insert((line.free_at, peer, flow));
            }
            line.bytes += bytes.len() as u64;
            line.waiting.push_back((header, bytes));
        }
    }

    /// Returns when the next packet leaves.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(due, ..)| *due)
    }

    /// Takes a packet that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Waiting> {
        let (due, peer, flow) = *self.due.first().filter(|(due, ..)| *due <= now)?;
        self.due.remove(&(due, peer, flow));
        let line = self.lines.get_mut(&(peer, flow))?;
        let (header, bytes) = line.waiting.pop_front()?;
        line.bytes -= bytes.len() as u64;
        line.charge(bytes.len(), now);
        if !line.waiting.is_empty() {
            self.due.insert((line.free_at, peer, flow));
        }
        Some(Waiting {
            peer,
            flow,
            header,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEER: PeerId = PeerId(3);

    fn packet(len: usize) -> Waiting {
        Waiting {
            peer: PEER,
            flow: Flow::Up,
            header: Header::default(),
            bytes: vec![0; len],
        }
    }

    fn limited(bits: u64, now: Instant) -> Shaper {
        let mut shaper = Shaper::default();
        let rates = Rates {
            up: Some(bits),
            down: None,
        };
        shaper.set(PEER, rates, now);
        shaper
    }

    proptest! {
        /// Packets arrive faster than the rate, and timers are up to 3 ms late: the bytes that leave
        /// are those of the rate, and they leave in order.
        #[test]
        fn a_busy_line_carries_its_rate(
            bits in 1_000_000u64..200_000_000, len in 1_000usize..65_000, late in 0u64..3_000,
        ) {
            let start = Instant::now();
            let mut shaper = limited(bits, start);
            let (mut now, mut sent) = (start, 0u64);
            // Long enough for a hundred packets.
            let end = start + Duration::from_nanos(len as u64 * 800_000_000_000 / bits).max(Duration::from_millis(20));
            while now < end {
                // As much as the queue takes.
                loop {
                    match shaper.admit(PEER, Flow::Up, len, now) {
                        Admission::Pass => sent += len as u64,
                        Admission::Wait => shaper.queue(packet(len)),
                        Admission::Drop => break,
                    }
                }
                now = shaper.next_timeout().unwrap() + Duration::from_micros(late);
                while let Some(packet) = shaper.pop_due(now) {
                    sent += packet.bytes.len() as u64;
                }
            }
            let expected = bits as f64 / 8.0 * (now - start).as_secs_f64();
            let tolerance = 0.02 * expected + 2.0 * len as f64;
            prop_assert!((sent as f64 - expected).abs() < tolerance, "{sent} {expected}");
        }
    }

    #[test]
    fn packets_below_the_rate_never_wait() {
        let mut now = Instant::now();
        let mut shaper = limited(8_000_000, now); // 1 byte in 1 µs
        for _ in 0..100 {
            assert_eq!(shaper.admit(PEER, Flow::Up, 1000, now), Admission::Pass);
            now += Duration::from_millis(1);
        }
        assert_eq!(
            shaper.admit(PEER, Flow::Down, 1 << 20, now),
            Admission::Pass
        );
        assert_eq!(
            shaper.admit(PeerId(4), Flow::Up, 1 << 20, now),
            Admission::Pass
        );
        assert_eq!(shaper.next_timeout(), None);
    }

    #[test]
    fn a_removed_limit_forgets_its_packets() {
        let now = Instant::now();
        let mut shaper = limited(8000, now);
        assert_eq!(shaper.admit(PEER, Flow::Up, 1000, now), Admission::Pass);
        assert_eq!(shaper.admit(PEER, Flow::Up, 1000, now), Admission::Wait);
        shaper.queue(packet(1000));
        assert!(shaper.next_timeout().is_some());
        shaper.set(PEER, Rates::default(), now);
        assert!(shaper.is_empty());
        assert_eq!(shaper.next_timeout(), None);
        assert_eq!(shaper.pop_due(now + Duration::from_secs(9)), None);
    }

    #[test]
    fn the_queue_is_bounded() {
        let now = Instant::now();
        let mut shaper = limited(8_000_000, now);
        let mut queued = 0;
        loop {
            match shaper.admit(PEER, Flow::Up, 1000, now) {
                Admission::Pass => {}
                Admission::Wait => {
                    shaper.queue(packet(1000));
                    queued += 1;
                }
                Admission::Drop => break,
            }
        }
        assert_eq!(queued, MIN_QUEUE_CAPACITY / 1000);
    }
}
