//! One TCP connection to a file server, as a capture shows it.

use super::conversation::{Conversation, Dialect, FrameStamp, SessionSetup};
use super::fingerprint::Fingerprint;
use super::flow::{Ends, Outcome, Tally};
use super::messages::Side;
use super::segment::Segment;
use super::stream::{Piece, Stream};
use super::timestamp::Timestamp;
use std::time::Duration;
use vcgate_core::tcp_stream::position::Position;
use vcgate_core::tcp_stream::reorder::MemoryBudget;
use vcgate_wire::nbss;
use vcgate_wire::tcp::SeqNumber;

/// Minimum time in which a server can restart.
const RESTART: Duration = Duration::from_secs(2);

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// During the handshake.
    Opening,
    Open,
    /// The client ended it, or the server did.
    Over,
}

/// The server ended a connection that the client still used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ending {
    /// With RST; otherwise with FIN.
    pub reset: bool,
    /// The packet's TTL differs from that of the server's other packets: a firewall may have sent
    /// it.
    pub odd_ttl: bool,
    /// The RST answers a segment of a connection that does not exist (RFC 9293 section 3.5.2).
    pub answers: bool,
    /// As above, and no packet shows that the server still had the connection shortly before.
    pub lost: bool,
}

/// The activity of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Activity {
    /// The client's last command, where it could be read.
    pub command: Option<u8>,
    /// Whether a request was not answered yet.
    pub waiting: bool,
    /// The time when either side last sent new data, if any was captured.
    pub last: Option<Timestamp>,
}

/// The data of one side as far as it was captured.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    /// The sequence number after the highest one.
    end: Option<SeqNumber>,
    /// The first acknowledgement of later bytes, with its time.
    acknowledged: Option<(SeqNumber, Timestamp)>,
}

impl Sent {
    /// Notes data up to this number. Returns how long ago the other side had acknowledged it.
    fn send(&mut self, end: SeqNumber, now: Timestamp) -> Duration {
        let is_new = self.end.is_none_or(|old| end.is_after(old));
        if !is_new {
            return Duration::ZERO;
        }
        self.end = Some(end);
        let early = self.acknowledged.filter(|(ack, _)| !end.is_after(*ack));
        if self.acknowledged.is_some_and(|(ack, _)| !ack.is_after(end)) {
            self.acknowledged = None;
        }
        early.map_or(Duration::ZERO, |(_, time)| now.since(time))
    }

    fn acknowledge(&mut self, ack: SeqNumber, now: Timestamp) {
        if self.acknowledged.is_none() && self.end.is_none_or(|end| ack.is_after(end)) {
            self.acknowledged = Some((ack, now));
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its number in this capture.
    pub id: u64,
    pub ends: Ends,
    /// The time when it was opened; 0 if that was not captured.
    pub opened: Timestamp,
    /// The time of its last segment.
    pub last: Timestamp,
    pub tally: Tally,
    state: State,
    client: Option<Stream>,
    server: Option<Stream>,
    conversation: Conversation,
    fingerprint: Fingerprint,
    /// The connection of a SYN with another number, which replaces this one if the server accepts
    /// it.
    next: Option<Box<Self>>,
    data: Option<(Timestamp, Side)>,
    /// Whether some of the sent bytes were not captured.
    cut: bool,
    refused: bool,
    declined: bool,
    /// Whether the client has received a packet of the server, captured or not.
    established: bool,
    /// The time when the server last sent anything but RST.
    server_alive: Option<Timestamp>,
    /// The client's acknowledgement number, if its packet was the last one.
    unanswered_ack: Option<SeqNumber>,
    /// The end of the captured data of each side, and acknowledgements of later data.
    sent: [Sent; 2],
    /// Number of logons from its client's address that it has been compared with.
    pub compared: usize,
    /// The lowest and the highest TTL of the server. They differ if the capture contains two points
    /// of one path.
    server_ttls: Option<(u8, u8)>,
}

impl Connection {
    /// Makes a connection from its first known segment.
    pub(super) fn new(ends: Ends, side: Side, segment: &Segment<'_>, time: Timestamp) -> Self {
        let (opened, state) = match segment.syn {
            true => (time, State::Opening),
            false => (Timestamp::default(), State::Open),
        };
        Self {
            id: 0,
            ends,
            opened,
            last: time,
            tally: Tally::default(),
            state,
            client: None,
            server: None,
            conversation: Conversation::in_mid_stream(),
            fingerprint: Fingerprint::new(side, segment),
            next: None,
            data: None,
            cut: false,
            refused: false,
            declined: false,
            established: false,
            server_alive: None,
            unanswered_ack: None,
            sent: [Sent::default(); 2],
            compared: 0,
            server_ttls: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.conversation.dialect()
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether any packet of the server was captured.
    pub(super) fn shows_server(&self) -> bool {
        self.fingerprint.first.server.is_some()
    }

    /// The outcome as far as it was captured.
    pub(super) fn outcome(&self) -> Outcome {
        let first = self.fingerprint.first;
        match (first.client, first.server) {
            _ if self.refused => Outcome::Refused,
            _ if self.declined => Outcome::Declined,
            (Some(_), Some(_)) => Outcome::Both,
            (Some(_), None) if self.established => Outcome::OnlyToServer,
            (_, None) => Outcome::Unanswered,
            (None, Some(_)) if self.server_alive.is_some() => Outcome::OnlyFromServer,
            // It was idle until the server ended it.
            (None, Some(_)) => Outcome::Both,
        }
    }

    /// Whether the capture shows SMB; only an SMB connection can be a victim.
    pub(super) fn may_be_smb(&self) -> bool {
        const SYN_AND_FIN: u64 = 2;
        let spans = [self.fingerprint.client, self.fingerprint.server];
        let has_data = spans
            .into_iter()
            .flatten()
            .any(|span| span.len > SYN_AND_FIN);
        let is_unread = self.cut
            || self.conversation.has_gaps()
            || self.fingerprint.first.client.is_none()
            || (has_data && self.data.is_none());
        let was_opened = self.opened != Timestamp::default();
        !self.declined && (self.dialect() != Dialect::Unknown || !was_opened || is_unread)
    }

    /// ICMP says that the server cannot be reached; that counts until the connection is open.
    pub(super) fn refuse(&mut self) {
        match &mut self.next {
            Some(next) => next.refuse(),
            None => self.refused |= self.state == State::Opening,
        }
    }

    /// Whether the server was seen to send on it more than this time after a logon.
    pub(super) fn was_alive(&self, after: Timestamp, time: Duration) -> bool {
        let alive = |last: Timestamp| last.since(after) > time;
        self.opened <= after && self.server_alive.is_some_and(alive)
    }

    pub(super) fn activity(&self) -> Activity {
        Activity {
            command: self.conversation.command(),
            waiting: matches!(self.data, Some((_, Side::Client))),
            last: self.data.map(|(time, _)| time),
        }
    }

    /// Returns the connection that takes this one's place from this segment on. A server answers an
    /// old or forged SYN with a challenge ACK (RFC 5961 section 4), and a SYN on an old connection
    /// too (RFC 9293 section 3.5.1). It acknowledges the number of a SYN that it accepts; if that
    /// answer was not captured, the client continues after the SYN's number.
    pub(super) fn successor(&mut self, side: Side, segment: &Segment<'_>) -> Option<Self> {
        let next_seq = Some(self.next.as_ref()?.fingerprint.opening?.plus(1));
        let counts = match side {
            Side::Client => !segment.rst && Some(segment.seq) == next_seq,
            Side::Server => (segment.syn || segment.rst) && segment.ack == next_seq,
        };
        counts.then(|| self.next.take()).flatten().map(|next| *next)
    }

    /// Processes a segment; adds session setups that are complete to `setups`.
    pub(super) fn learn(
        &mut self,
        side: Side,
        segment: &Segment<'_>,
        stamp: FrameStamp,
        budget: &mut MemoryBudget,
        setups: &mut Vec<SessionSetup>,
    ) -> Option<Ending> {
        self.last = stamp.time;
        if side == Side::Client && segment.syn && self.fingerprint.opening != Some(segment.seq) {
            self.on_other_syn(segment, stamp, budget, setups);
            return None;
        }
        let is_new = self.fingerprint.learn(side, segment, stamp.frame);
        if self.state == State::Over {
            return None;
        }
        if is_new && has_data(segment) && !is_keep_alive(segment) {
            self.data = Some((stamp.time, side));
        }
        self.cut |= segment.missing > 0;
        self.compare_clocks(side, segment, stamp.time);
        match side {
            Side::Client => self.established |= segment.ack.is_some() && !segment.rst,
            Side::Server => self.declined |= self.declines(segment),
        }
        if segment.syn {
            self.begin(side, segment);
        } else if side == Side::Client && self.state == State::Opening && !segment.rst {
            self.state = State::Open;
            self.refused = false;
        }
        self.read(side, segment, stamp, budget, setups);
        let ending = self.find_ending(side, segment, stamp.time);
        self.unanswered_ack = segment.ack.filter(|_| side == Side::Client);
        if side == Side::Server {
            if !segment.rst {
                self.server_alive = Some(stamp.time);
            }
            let (low, high) = self.server_ttls.unwrap_or((segment.ttl, segment.ttl));
            self.server_ttls = Some((low.min(segment.ttl), high.max(segment.ttl)));
        }
        if self.state == State::Over {
            self.finish(stamp, budget, setups);
        }
        ending
    }

    /// Reads the data that still waits for a gap to be filled, because no segment follows.
    pub(super) fn finish(
        &mut self,
        stamp: FrameStamp,
        budget: &mut MemoryBudget,
        setups: &mut Vec<SessionSetup>,
    ) {
        for (side, stream) in [
            (Side::Client, &mut self.client),
            (Side::Server, &mut self.server),
        ] {
            if let Some(mut stream) = stream.take() {
                let conversation = &mut self.conversation;
                let each =
                    &mut |piece: Piece<'_>| conversation.read_piece(side, &piece, stamp, setups);
                stream.finish(budget, each);
            }
        }
    }

    /// Handles a SYN that may open another connection.
    fn on_other_syn(
        &mut self,
        segment: &Segment<'_>,
        stamp: FrameStamp,
        budget: &mut MemoryBudget,
        setups: &mut Vec<SessionSetup>,
    ) {
        let known = self.next.as_ref().and_then(|next| next.fingerprint.opening);
        if known != Some(segment.seq) {
            let mut next = Self::new(self.ends, Side::Client, segment, stamp.time);
            next.learn(Side::Client, segment, stamp, budget, setups);
            self.next = Some(Box::new(next));
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
        *stream = Some(Stream::new(segment.seq.plus(1)));
        self.state = State::Opening;
        let start = Position::after_syn(segment.seq);
        self.conversation.begin(side, start);
        if side == Side::Server {
            self.fingerprint.begin(segment.seq);
        }
    }

    fn read(
        &mut self,
        side: Side,
        segment: &Segment<'_>,
        stamp: FrameStamp,
        budget: &mut MemoryBudget,
        setups: &mut Vec<SessionSetup>,
    ) {
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
        if has_data(segment) {
            let first = segment.seq.plus(segment.syn.into());
            let stream = own.get_or_insert_with(|| Stream::new(first));
            let each = &mut |piece: Piece<'_>| conversation.read_piece(side, &piece, stamp, setups);
            stream.take(first, segment.payload, segment.missing, budget, each);
        }
        // The acknowledgement in a RST need not mean anything (RFC 9293 section 3.5.2).
        if let (Some(ack), Some(stream), false) = (segment.ack, other, segment.rst) {
            let each =
                &mut |piece: Piece<'_>| conversation.read_piece(other_side, &piece, stamp, setups);
            stream.acknowledged(ack, budget, each);
        }
    }

    /// Updates the state of the connection. A RST before the end of the handshake belongs to an
    /// older connection (RFC 9293 section 3.5.1) or refuses the SYN, which may be retransmitted.
    fn find_ending(&mut self, side: Side, segment: &Segment<'_>, now: Timestamp) -> Option<Ending> {
        if segment.rst && self.state == State::Opening {
            self.refused |= side == Side::Server;
            return None;
        }
        if !segment.fin && !segment.rst {
            return None;
        }
        let was_open = self.is_open();
        self.state = State::Over;
        if side != Side::Server || !was_open {
            return None;
        }
        let answers = segment.rst
            && segment.ack.is_none()
            && self.unanswered_ack.is_some_and(|ack| ack == segment.seq);
        let is_recent = |alive| now.since(alive) < RESTART;
        Some(Ending {
            reset: segment.rst,
            odd_ttl: self
                .server_ttls
                .is_some_and(|(low, high)| segment.ttl != low && segment.ttl != high),
            answers,
            lost: answers && !self.server_alive.is_some_and(is_recent),
        })
    }

    /// In a capture with one clock, data precedes its acknowledgement.
    fn compare_clocks(&mut self, side: Side, segment: &Segment<'_>, now: Timestamp) {
        let [client, server] = &mut self.sent;
        let (own, other) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        if segment.rst {
            return;
        }
        let len = segment.payload.len() + segment.missing;
        let len = len as u32 + u32::from(segment.syn) + u32::from(segment.fin);
        let late = own.send(segment.seq.plus(len), now);
        self.tally.late = self.tally.late.max(late);
        let was_opened = self.opened != Timestamp::default();
        if let Some(ack) = segment.ack
            && (was_opened || other.end.is_some())
        {
            other.acknowledge(ack, now);
        }
    }

    /// Whether this is a server's negative answer to a NetBIOS session request (RFC 1002 sections
    /// 4.3.4 and 4.3.5).
    fn declines(&self, segment: &Segment<'_>) -> bool {
        let len = segment.payload.len() + segment.missing;
        let negative = segment.payload.starts_with(&[0x83, 0, 0, 1]) && len == 5;
        let retarget = segment.payload.starts_with(&[0x84, 0, 0, 6]) && len == 10;
        self.dialect() == Dialect::Unknown && (negative || retarget)
    }
}

fn has_data(segment: &Segment<'_>) -> bool {
    !segment.payload.is_empty() || segment.missing > 0
}

/// Whether it is a session keepalive (RFC 1002 section 4.3.7). If it was truncated, its length
/// field decides.
fn is_keep_alive(segment: &Segment<'_>) -> bool {
    if segment.missing > 0 {
        return segment.payload.len() + segment.missing == nbss::HEADER_LEN;
    }
    let header = <[u8; nbss::HEADER_LEN]>::try_from(segment.payload).map(nbss::Header::from);
    header.is_ok_and(|header| header.kind == nbss::Kind::KeepAlive)
}
