//! Tracks the state and the sequence numbers of a TCP connection.
//!
//! It never drops a segment: every segment of a session is translated, and the ends decide whether
//! it is valid (RFC 5382 REQ-2: every valid sequence, including simultaneous open).
//!
//! Hosts on the LAN can forge a server's segments; a client's are authenticated by the tunnel. So a
//! server's FIN or RST closes a connection only if the client's own numbers confirm it.

use super::endpoint::Side;
use super::expiry::Class;
use serde::{Deserialize, Serialize};
use smoltcp::wire::TcpPacket;
use vcgate_wire::tcp::SeqNumber;

/// Maximum plausible advance of a sequence number: no common stack has a receive buffer of more than
/// 16 MiB by default.
const MAX_WINDOW: i32 = 1 << 24;

/// The header fields of a TCP segment, or of a super-packet of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Segment {
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    /// The acknowledgement number, if the ACK flag is set.
    pub ack: Option<SeqNumber>,
    pub seq: SeqNumber,
    /// The length in the sequence space.
    pub len: u32,
}

impl Segment {
    /// Reads the header of a segment with `payload` bytes.
    pub(super) fn read(tcp: &TcpPacket<&[u8]>, payload: usize) -> Self {
        Self {
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            ack: tcp.ack().then(|| tcp.ack_number().into()),
            seq: tcp.seq_number().into(),
            len: payload as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin()),
        }
    }

    /// Returns whether this is the first segment of a connection.
    pub(super) fn opens(&self) -> bool {
        self.syn && self.ack.is_none() && !self.rst
    }

    /// Returns whether the segment can begin or end a connection.
    pub(super) fn is_control(&self) -> bool {
        self.syn | self.fin | self.rst
    }

    pub(super) fn end(&self) -> SeqNumber {
        self.seq.plus(self.len)
    }
}

/// The state of a TCP session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcpState {
    /// The handshake is not complete.
    Opening,
    /// Both ends sent and acknowledged a SYN.
    Established,
    /// Both ends sent a FIN, and the client acknowledged the server's.
    Closing,
    /// One end sent a RST that the other end accepts.
    Reset,
}

impl TcpState {
    /// Returns the name of the state in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
        }
    }
}

/// The current sequence numbers of a session; a number is `None` before it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// The next number that the client will send.
    pub client_next: Option<SeqNumber>,
    /// The next number that the client expects, by its last acknowledgement.
    pub client_expects: Option<SeqNumber>,
    /// The next number that the server will send.
    pub server_next: Option<SeqNumber>,
    /// The next number that the server expects, by its last acknowledgement.
    pub server_expects: Option<SeqNumber>,
}

/// The progress of one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    /// It sent nothing.
    #[default]
    Closed,
    /// It sent a segment.
    Sent,
    /// It sent an acknowledgement.
    Acknowledged,
    /// After that it sent a SYN for another connection in the place of this one.
    Reopening,
}

/// The observed state of one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct End {
    /// The number after the last byte that it sent.
    next: SeqNumber,
    /// The last acknowledgement that it sent.
    expects: SeqNumber,
    stage: Stage,
    finished: bool,
    reset: bool,
    /// Whether the numbers are those of a journal, which are not up to date.
    #[serde(skip)]
    is_outdated: bool,
}

impl End {
    fn has_sent(&self) -> bool {
        self.stage >= Stage::Sent
    }

    fn has_acknowledged(&self) -> bool {
        self.stage >= Stage::Acknowledged
    }
}

/// The tracked state of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Tcp {
    client: End,
    server: End,
    /// The number after the client's last SYN.
    syn: SeqNumber,
    /// The number after the server's FIN.
    fin: SeqNumber,
}

impl Tcp {
    /// Records a segment; returns whether it refreshes the session.
    pub(super) fn on_segment(&mut self, from: Side, segment: &Segment) -> bool {
        if segment.rst {
            let is_unknown = from == Side::Inside && self.client.is_outdated;
            if is_unknown || self.is_exact(from, segment) {
                self.end(from).reset = true;
            }
            return false;
        }
        if from == Side::Inside && segment.opens() {
            self.on_client_syn(segment);
        } else if from == Side::Lan && self.is_reopen_accepted(segment) {
            *self = Self::from_syn(self.syn);
        }
        let established = self.is_established();
        if segment.fin && self.state() != TcpState::Closing {
            self.end(from).finished = true;
            if from == Side::Lan {
                self.fin = segment.end();
            }
        }
        let end = self.end(from);
        // An end that continues to send did not send the RST (RFC 7857 section 2.2).
        end.reset = false;
        let before = *end;
        let mut is_plausible = advance(&mut end.next, before.has_sent(), segment.end());
        end.stage = end.stage.max(Stage::Sent);
        if let Some(ack) = segment.ack {
            is_plausible &= advance(&mut end.expects, before.has_acknowledged(), ack);
            end.stage = end.stage.max(Stage::Acknowledged);
        }
        if segment.syn && !established {
            // An end that gave up and retries may choose another initial number.
            end.next = segment.end();
        }
        if !is_plausible && before.is_outdated {
            self.update_numbers(segment);
        }
        match self.state() {
            TcpState::Opening => from == Side::Inside,
            TcpState::Established => true,
            TcpState::Closing | TcpState::Reset => false,
        }
    }

    /// Notes that the connection was restored: its numbers are those of an earlier time. A segment of
    /// the client, which the tunnel has authenticated, may correct them.
    pub(super) fn resume(&mut self) {
        self.client.is_outdated = self.is_established();
    }

    /// Takes the numbers of a client's segment as the present ones of both ends.
    #[cold]
    fn update_numbers(&mut self, segment: &Segment) {
        if let Some(ack) = segment.ack {
            self.client.is_outdated = false;
            (self.client.next, self.client.expects) = (segment.end(), ack);
            (self.server.next, self.server.expects) = (ack, segment.seq);
        }
    }

    /// Records that both ends were sent a valid RST.
    pub(super) fn reset(&mut self) {
        self.client.reset = true;
        self.server.reset = true;
    }

    pub(super) fn state(&self) -> TcpState {
        if self.client.reset || self.server.reset {
            TcpState::Reset
        } else if self.client.finished && self.server.finished && self.client.expects == self.fin {
            TcpState::Closing
        } else if self.is_established() {
            TcpState::Established
        } else {
            TcpState::Opening
        }
    }

    /// Describes the parts that the journal follows: its sequence numbers are those of the last stage.
    pub(crate) fn describe(&self) -> String {
        let finished = [self.client.finished, self.server.finished];
        format!("{:?} {finished:?}", self.class())
    }

    pub(super) fn class(&self) -> Class {
        match self.state() {
            TcpState::Opening => Class::Opening,
            TcpState::Established => Class::Established,
            TcpState::Closing | TcpState::Reset => Class::Closing,
        }
    }

    /// Returns whether segments can refresh the session without a change of its class.
    pub(crate) fn is_refreshable(&self) -> bool {
        self.class() != Class::Closing
    }

    /// Returns whether this segment opens another connection in the place of this closed one.
    pub(super) fn is_reopened_by(&self, segment: &Segment) -> bool {
        segment.opens() && self.class() == Class::Closing
    }

    pub(super) fn sequence(&self) -> Sequence {
        let next = |end: &End| end.has_sent().then_some(end.next);
        let expects = |end: &End| end.has_acknowledged().then_some(end.expects);
        Sequence {
            client_next: next(&self.client),
            client_expects: expects(&self.client),
            server_next: next(&self.server),
            server_expects: expects(&self.server),
        }
    }

    /// Returns whether the receiver accepts a RST: it has exactly the number that the receiver expects
    /// (RFC 5961 section 3.2). A client's RST may also follow its data in flight. An answer to a SYN
    /// must acknowledge that SYN (RFC 9293 section 3.10.7.3).
    fn is_exact(&mut self, from: Side, rst: &Segment) -> bool {
        let (sender, receiver) = (*self.end(from), *self.end(from.other()));
        (receiver.has_acknowledged() && rst.seq == receiver.expects)
            || (from == Side::Inside && sender.has_sent() && rst.seq == sender.next)
            || (!sender.has_sent() && receiver.has_sent() && rst.ack == Some(receiver.next))
    }

    /// Records a SYN from the client. On an established connection it is either a late copy of the
    /// first SYN, or the client has lost the connection; the server's answer decides.
    fn on_client_syn(&mut self, syn: &Segment) {
        let next = syn.seq.plus(1);
        if self.is_established() && next != self.syn {
            self.client.stage = Stage::Reopening;
        }
        self.syn = next;
    }

    /// Returns whether the server accepts another connection, because it has lost this one too.
    /// Otherwise it challenges the SYN with a bare ACK (RFC 9293 section 3.10.7.4, RFC 5961 section 4).
    fn is_reopen_accepted(&self, segment: &Segment) -> bool {
        let is_reopening = self.client.stage == Stage::Reopening;
        is_reopening && segment.syn && segment.ack == Some(self.syn)
    }

    /// Returns a connection of which only the client's SYN was seen.
    fn from_syn(syn: SeqNumber) -> Self {
        Self {
            client: End {
                next: syn,
                stage: Stage::Sent,
                ..End::default()
            },
            syn,
            ..Self::default()
        }
    }

    /// Returns whether both ends have sent an acknowledgement.
    fn is_established(&self) -> bool {
        self.client.has_acknowledged() && self.server.has_acknowledged()
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Inside => &mut self.client,
            Side::Lan => &mut self.server,
        }
    }
}

/// Advances a sequence number if that is plausible; returns whether it is.
fn advance(number: &mut SeqNumber, known: bool, to: SeqNumber) -> bool {
    let is_plausible = !known || (0..MAX_WINDOW).contains(&to.distance_from(*number));
    if is_plausible {
        *number = to;
    }
    is_plausible
}
