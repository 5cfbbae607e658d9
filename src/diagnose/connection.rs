//! One TCP connection to a file server, as a capture shows it.

use super::conversation::{Conversation, Dialect, Moment, SessionSetup};
use super::messages::Side;
use super::segment::Segment;
use super::stream::{Piece, Stream};
use super::time::Time;
use crate::smb::early::Budget;
use crate::smb::position::Position;
use std::net::SocketAddr;

/// Who is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    pub client: SocketAddr,
    pub server: SocketAddr,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The handshake goes on.
    Opening,
    Open,
    /// The client ended it, or the server did.
    Over,
}

/// Sequence numbers of one direction: from the lowest that was seen up to the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub low: u32,
    /// They wrap; this does not.
    pub len: u64,
}

/// The first frames of a connection, from each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FirstFrames {
    pub client: Option<u64>,
    pub server: Option<u64>,
}

/// What identifies a connection on both sides of a NAT, which keeps sequence numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traces {
    /// The sequence number of the client's SYN.
    pub opening: Option<u32>,
    pub client: Option<Span>,
    pub server: Option<Span>,
    pub first: FirstFrames,
}

/// What a connection adds to the counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub session_setups: u64,
    pub zeros: u64,
    pub ended: Option<Ended>,
}

/// What a connection's end by the server was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It followed a VcNumber 0 from the same address.
    Victim,
    /// It followed one from another address, on this connection.
    Elsewhere(Ends),
    /// It followed none.
    Alone,
}

/// The server ended a connection that the client still used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// With RST; otherwise with FIN.
    pub reset: bool,
    /// The packet's TTL is not that of the server's other packets: somebody else may have sent it.
    pub odd_ttl: bool,
}

/// What a connection was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// The client's last command, where it could be read.
    pub command: Option<u8>,
    /// The client had asked and the server had not answered.
    pub waiting: bool,
    /// When either side last sent data, if that was seen.
    pub last: Option<Time>,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    pub ends: Ends,
    /// When it was opened; long ago if nobody saw it.
    pub opened: Time,
    /// When it was last seen.
    pub last: Time,
    pub tally: Tally,
    state: State,
    client: Option<Stream>,
    server: Option<Stream>,
    conversation: Conversation,
    traces: Traces,
    data: Option<(Time, Side)>,
    /// The lowest and the highest of the server: where it is captured twice on its way, there are
    /// two.
    server_ttls: Option<(u8, u8)>,
}

impl Connection {
    /// A connection whose first segment this is, as far as is known.
    pub fn new(ends: Ends, segment: &Segment<'_>, time: Time) -> Self {
        Self {
            ends,
            opened: if segment.syn { time } else { Time::default() },
            last: time,
            tally: Tally::default(),
            state: State::Open,
            client: None,
            server: None,
            conversation: Conversation::in_mid_stream(),
            traces: Traces::default(),
            data: None,
            server_ttls: None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    pub fn dialect(&self) -> Dialect {
        self.conversation.dialect()
    }

    pub fn traces(&self) -> Traces {
        self.traces
    }

    pub fn activity(&self) -> Activity {
        Activity {
            command: self.conversation.command(),
            waiting: matches!(self.data, Some((_, Side::Client))),
            last: self.data.map(|(time, _)| time),
        }
    }

    /// Whether this segment begins another connection between the same ends.
    pub fn is_followed_by(&self, side: Side, segment: &Segment<'_>) -> bool {
        side == Side::Client && segment.syn && self.traces.opening != Some(segment.seq)
    }

    /// Learns from a segment; puts session setups that are complete into `heard`.
    pub fn learn(
        &mut self,
        side: Side,
        segment: &Segment<'_>,
        moment: Moment,
        budget: &mut Budget,
        heard: &mut Vec<SessionSetup>,
    ) -> Option<Ending> {
        self.trace(side, segment, moment.frame);
        self.last = moment.time;
        if self.is_over() {
            return None;
        }
        if segment.syn {
            self.begin(side, segment);
        } else if side == Side::Client && self.state == State::Opening && !segment.rst {
            self.state = State::Open;
        }
        self.read(side, segment, moment, budget, heard);
        let ending = self.judge(side, segment);
        if side == Side::Server {
            let (low, high) = self.server_ttls.unwrap_or((segment.ttl, segment.ttl));
            self.server_ttls = Some((low.min(segment.ttl), high.max(segment.ttl)));
        }
        if self.is_over() {
            self.finish(moment, budget, heard);
        }
        ending
    }

    /// Reads what still waits: nothing more comes.
    pub fn finish(&mut self, moment: Moment, budget: &mut Budget, heard: &mut Vec<SessionSetup>) {
        for (side, stream) in [
            (Side::Client, &mut self.client),
            (Side::Server, &mut self.server),
        ] {
            if let Some(mut stream) = stream.take() {
                let conversation = &mut self.conversation;
                let each = &mut |piece: Piece<'_>| conversation.hear(side, &piece, moment, heard);
                stream.finish(budget, each);
            }
        }
    }

    fn begin(&mut self, side: Side, segment: &Segment<'_>) {
        let stream = match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        if stream.is_some() {
            return; // the same SYN again
        }
        *stream = Some(Stream::new(segment.seq.wrapping_add(1)));
        self.state = State::Opening;
        let start = Position::behind_syn(segment.seq);
        self.conversation.begin(side, start);
    }

    fn read(
        &mut self,
        side: Side,
        segment: &Segment<'_>,
        moment: Moment,
        budget: &mut Budget,
        heard: &mut Vec<SessionSetup>,
    ) {
        let has_data = !segment.payload.is_empty() || segment.missing > 0;
        if has_data {
            self.data = Some((moment.time, side));
        }
        let (own, other, other_side) = match side {
            Side::Client => (&mut self.client, &mut self.server, Side::Server),
            Side::Server => (&mut self.server, &mut self.client, Side::Client),
        };
        let conversation = &mut self.conversation;
        if conversation.is_settled() {
            for stream in [own, other].into_iter().flatten() {
                stream.clear(budget);
            }
            return;
        }
        if has_data {
            let first = segment.seq.wrapping_add(segment.syn.into());
            let stream = own.get_or_insert_with(|| Stream::new(first));
            let each = &mut |piece: Piece<'_>| conversation.hear(side, &piece, moment, heard);
            stream.take(first, segment.payload, segment.missing, budget, each);
        }
        // The acknowledgement in a RST need not mean anything (RFC 9293 section 3.5.2).
        if let (Some(ack), Some(stream), false) = (segment.ack, other, segment.rst) {
            let each = &mut |piece: Piece<'_>| conversation.hear(other_side, &piece, moment, heard);
            stream.acknowledged(ack, budget, each);
        }
    }

    /// Follows the connection's state.
    fn judge(&mut self, side: Side, segment: &Segment<'_>) -> Option<Ending> {
        if !segment.fin && !segment.rst {
            return None;
        }
        let was_open = self.is_open();
        self.state = State::Over;
        (side == Side::Server && was_open).then(|| Ending {
            reset: segment.rst,
            odd_ttl: self
                .server_ttls
                .is_some_and(|(low, high)| segment.ttl != low && segment.ttl != high),
        })
    }

    fn trace(&mut self, side: Side, segment: &Segment<'_>, frame: u64) {
        let traces = &mut self.traces;
        let (own, other, first) = match side {
            Side::Client => (
                &mut traces.client,
                &mut traces.server,
                &mut traces.first.client,
            ),
            Side::Server => (
                &mut traces.server,
                &mut traces.client,
                &mut traces.first.server,
            ),
        };
        first.get_or_insert(frame);
        let len = segment.payload.len() + segment.missing + usize::from(segment.syn || segment.fin);
        // The number in a RST may be anything.
        if !segment.rst || own.is_none() {
            Span::extend(own, segment.seq, len as u64);
        }
        if let (Some(ack), false) = (segment.ack, segment.rst) {
            Span::extend(other, ack, 0);
        }
        if side == Side::Client && segment.syn {
            traces.opening = Some(segment.seq);
        }
    }
}

impl Span {
    /// The span with `len` numbers from `seq` on.
    fn extend(span: &mut Option<Self>, seq: u32, len: u64) {
        let old = span.get_or_insert(Self { low: seq, len });
        let end = old.low.wrapping_add(old.len as u32);
        let behind_end = i64::from(seq.wrapping_sub(end) as i32);
        match old.len.checked_add_signed(behind_end) {
            Some(from) => old.len = old.len.max(from.saturating_add(len)),
            // What comes late was sent shortly before.
            None => {
                let more = u64::from(old.low.wrapping_sub(seq));
                if more < 1 << 20 {
                    (old.low, old.len) = (seq, old.len + more);
                }
            }
        }
    }

    /// Whether a number is in both; a span without length is a place between numbers.
    pub fn overlaps(&self, other: &Self) -> bool {
        u64::from(other.low.wrapping_sub(self.low)) <= self.len
            || u64::from(self.low.wrapping_sub(other.low)) <= other.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_grows_on_behind_the_wrap_of_its_numbers() {
        let mut span = None;
        let step = 1_000_000_000;
        for n in 0..7u32 {
            Span::extend(&mut span, n.wrapping_mul(step), step.into());
        }
        let expected = Span {
            low: 0,
            len: 7_000_000_000,
        };
        assert_eq!(span, Some(expected));
        // Sent again, or shortly before what was seen first.
        Span::extend(&mut span, 6u32.wrapping_mul(step), 10);
        assert_eq!(span, Some(expected));
        let mut span = Some(Span { low: 5, len: 10 });
        Span::extend(&mut span, u32::MAX, 3);
        assert_eq!(
            span,
            Some(Span {
                low: u32::MAX,
                len: 16
            })
        );
    }
}
