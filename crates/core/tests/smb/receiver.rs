//! A server's TCP receiver: it decides on each segment as RFC 9293 section 3.10.7.4, RFC 5961 and
//! RFC 7323 section 5.3 say, which is what Linux and Windows do. It reads the stream as a server
//! does that takes 17 bits of every length.

use vcgate_core::smb::Segment;
use vcgate_test_support::smb::oracle::vc_numbers;
use vcgate_wire::tcp::{SeqNumber, is_older};

/// Length of the receive window, in bytes. It is not moved, only its left edge.
const WINDOW: u32 = 2000;
/// Old acknowledgements that are still accepted go back so far (RFC 5961 section 5.2).
const MAX_OLD_ACK: i32 = 4000;

/// The receiving end of a connection, after its handshake.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The sequence number of the stream's first byte.
    start: SeqNumber,
    /// The bytes from there, as far as they have arrived.
    stream: Vec<Option<u8>>,
    /// Number of bytes before the first gap.
    next: usize,
    /// Of two copies of a byte that waits for earlier ones, the later one counts.
    last_wins: bool,
    /// The next sequence number that it sends.
    pub(super) own_next: SeqNumber,
    /// The newest timestamp in order.
    recent: Option<u32>,
    finished: bool,
    pub(super) is_reset: bool,
}

impl Receiver {
    pub(super) fn new(start: SeqNumber, own_next: SeqNumber, last_wins: bool) -> Self {
        Self {
            start,
            stream: Vec::new(),
            next: 0,
            last_wins,
            own_next,
            recent: None,
            finished: false,
            is_reset: false,
        }
    }

    /// Returns the number that it expects next.
    pub(super) fn expects(&self) -> SeqNumber {
        self.start.plus(self.next as u32 + u32::from(self.finished))
    }

    /// Returns the stream before the first gap.
    pub(super) fn received(&self) -> Vec<u8> {
        self.stream[..self.next].iter().flatten().copied().collect()
    }

    /// Takes a segment.
    pub(super) fn take(&mut self, segment: &Segment, bytes: &[u8]) {
        let expects = self.expects();
        let offset = segment.seq.distance_from(expects);
        let len = bytes.len() as i32 + i32::from(segment.fin) + i32::from(segment.syn);
        let begins = (0..WINDOW as i32).contains(&offset);
        let ends = len > 0 && (0..WINDOW as i32).contains(&(offset + len - 1));
        let time = segment.timestamps.map(|stamps| stamps.value);
        let is_old = !segment.rst
            && matches!((time, self.recent), (Some(new), Some(old)) if is_older(new, old));
        if self.is_reset || is_old || !(begins || ends) {
            return;
        }
        if segment.rst {
            self.is_reset = offset == 0;
            return;
        }
        // A SYN is challenged.
        let Some(ack) = segment.ack.filter(|_| !segment.syn) else {
            return;
        };
        if !(-MAX_OLD_ACK..=0).contains(&ack.distance_from(self.own_next)) || self.finished {
            return;
        }
        if offset <= 0 {
            self.recent = time.or(self.recent);
        }
        let at = segment.seq.distance_from(self.start);
        for (at, byte) in (at..).zip(bytes) {
            let Ok(at) = usize::try_from(at) else {
                continue;
            };
            if at < self.next || at >= self.next + WINDOW as usize {
                continue;
            }
            if self.stream.len() <= at {
                self.stream.resize(at + 1, None);
            }
            let place = &mut self.stream[at];
            if self.last_wins || place.is_none() {
                *place = Some(*byte);
            }
        }
        while let Some(Some(_)) = self.stream.get(self.next) {
            self.next += 1;
        }
        let end = at + bytes.len() as i32;
        self.finished = segment.fin && usize::try_from(end) == Ok(self.next);
    }
}

/// Returns the offsets of the VcNumbers in a stream whose lengths have 17 bits. Messages that are
/// not SMB1 are skipped, in case that there is a server that ignores them.
pub(super) fn vc_number_offsets(stream: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&[kind, high, middle, low]) = stream.get(at..at + 4) {
        let begin = at + 4;
        let len = usize::from(high & 1) << 16 | usize::from(middle) << 8 | usize::from(low);
        at = begin + len;
        let message = &stream[begin..at.min(stream.len())];
        if kind == 0 && len >= 5 && message.len() >= 5 && message.starts_with(b"\xFFSMB") {
            let numbers = vc_numbers(message, len);
            found.extend(numbers.into_iter().map(|number| begin + number));
        }
    }
    found
}
