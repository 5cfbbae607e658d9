//! The sequence numbers that identify a connection on both sides of a NAT, which keeps them.

use super::messages::Side;
use super::segment::Segment;
use vcgate_wire::tcp::SeqNumber;

/// Sequence numbers of one direction, from the lowest to the highest captured one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub low: SeqNumber,
    /// Sequence numbers that do not wrap.
    pub len: u64,
}

/// The first frames of a connection, from each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FirstFrames {
    pub client: Option<u64>,
    pub server: Option<u64>,
}

/// The TTLs of the first packets of a connection, from each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FirstTtls {
    pub client: Option<u8>,
    pub server: Option<u8>,
}

/// The numbers of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// The sequence number of the client's SYN.
    pub opening: Option<SeqNumber>,
    pub client: Option<Span>,
    pub server: Option<Span>,
    pub first: FirstFrames,
    pub ttls: FirstTtls,
}

impl Fingerprint {
    /// Makes the fingerprint of a connection from its first known segment.
    pub(super) fn new(side: Side, segment: &Segment<'_>) -> Self {
        let opening = match side {
            Side::Client => Some(segment.seq),
            Side::Server => segment.ack.map(SeqNumber::previous),
        };
        Self {
            opening: opening.filter(|_| segment.syn),
            ..Self::default()
        }
    }

    /// Notes a segment. Returns whether it contains new data: retransmissions do not, nor does a
    /// keepalive, which may carry one byte of garbage before the next one (RFC 9293 section 3.8.4).
    pub(super) fn learn(&mut self, side: Side, segment: &Segment<'_>, frame: u64) -> bool {
        let (own, other, first) = match side {
            Side::Client => (&mut self.client, &mut self.server, &mut self.first.client),
            Side::Server => (&mut self.server, &mut self.client, &mut self.first.server),
        };
        first.get_or_insert(frame);
        // A firewall may send a RST in the name of either side.
        if !segment.rst {
            let ttl = match side {
                Side::Client => &mut self.ttls.client,
                Side::Server => &mut self.ttls.server,
            };
            ttl.get_or_insert(segment.ttl);
        }
        let len = segment.payload.len() + segment.missing + usize::from(segment.syn || segment.fin);
        let before = own.map(|span| span.end());
        // The sequence number of a RST can have any value.
        if !segment.rst || own.is_none() {
            Span::extend(own, segment.seq, len as u64);
        }
        let after = own.map(|span| span.end());
        if let (Some(ack), false) = (segment.ack, segment.rst) {
            Span::extend(other, ack, 0);
        }
        match before {
            Some(_) => after != before,
            // A single byte may be the garbage of a keepalive.
            None => len > 1 && !segment.rst,
        }
    }

    /// The server's initial number. Earlier numbers belong to an older connection between the same
    /// ends, which the server still had when it received the SYN.
    pub(super) fn begin(&mut self, server: SeqNumber) {
        self.client = self.opening.map(|low| Span { low, len: 1 });
        self.server = Some(Span {
            low: server,
            len: 1,
        });
    }
}

impl Span {
    /// Returns the range of `len` numbers from `seq` on.
    fn extend(span: &mut Option<Self>, seq: SeqNumber, len: u64) {
        let old = span.get_or_insert(Self { low: seq, len });
        let past_end = i64::from(seq.distance_from(old.end()));
        match old.len.checked_add_signed(past_end) {
            Some(from) => old.len = old.len.max(from.saturating_add(len)),
            // A late packet was sent shortly before.
            None => {
                let more = old.low.bytes_since(seq);
                if more < 1 << 20 {
                    (old.low, old.len) = (seq, old.len + more);
                }
            }
        }
    }

    /// The number after the highest.
    fn end(&self) -> SeqNumber {
        self.low.plus(self.len as u32)
    }

    /// Whether two ranges overlap; an empty range is a position between numbers.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        other.low.bytes_since(self.low) <= self.len || self.low.bytes_since(other.low) <= other.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_grows_beyond_the_wrap_of_its_numbers() {
        let mut span = None;
        let step = 1_000_000_000;
        for n in 0..7u32 {
            Span::extend(&mut span, SeqNumber(n.wrapping_mul(step)), step.into());
        }
        let expected = Span {
            low: SeqNumber(0),
            len: 7_000_000_000,
        };
        assert_eq!(span, Some(expected));
        // Sent again, or shortly before what was seen first.
        Span::extend(&mut span, SeqNumber(6u32.wrapping_mul(step)), 10);
        assert_eq!(span, Some(expected));
        let mut span = Some(Span {
            low: SeqNumber(5),
            len: 10,
        });
        Span::extend(&mut span, SeqNumber(u32::MAX), 3);
        assert_eq!(
            span,
            Some(Span {
                low: SeqNumber(u32::MAX),
                len: 16
            })
        );
    }
}
