//! What the NAT knows of a TCP connection: how far it is, and which numbers come next.
//!
//! It follows a connection, never judges it: every segment of a session is translated, and its
//! ends decide what it is worth (RFC 5382 REQ-2: every valid sequence, simultaneous open too).
//!
//! Anybody on the LAN can send in a server's name, nobody in a client's: the tunnel checked that. So
//! what ends a connection counts from a server only as far as the client's own numbers bear it out.

use super::endpoint::Side;
use super::expiry::Class;
use serde::{Deserialize, Serialize};
use smoltcp::wire::TcpPacket;

/// A sequence number that is further ahead than this was not sent by the connection's end: no
/// common stack's receive buffer is larger than 16 MiB by default.
const MAX_WINDOW: u32 = 1 << 24;

/// What the NAT reads from a TCP segment, or from a super-packet of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Segment {
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    /// The acknowledgement number, if the ACK flag is set.
    pub ack: Option<u32>,
    pub seq: u32,
    /// What it takes of the sequence space.
    pub len: u32,
}

impl Segment {
    /// Reads a header in front of `payload` bytes.
    pub(super) fn read(tcp: &TcpPacket<&[u8]>, payload: usize) -> Self {
        Self {
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            ack: tcp.ack().then(|| tcp.ack_number().0 as u32),
            seq: tcp.seq_number().0 as u32,
            len: payload as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin()),
        }
    }

    /// The first segment of a connection.
    pub(super) fn opens(&self) -> bool {
        self.syn && self.ack.is_none() && !self.rst
    }

    fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len)
    }
}

/// How far a TCP session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcpState {
    /// The handshake is not complete.
    Opening,
    /// Both ends sent a SYN and acknowledged.
    Established,
    /// Both ends sent a FIN, and the client acknowledged the server's.
    Closing,
    /// One end sent a RST that the other end accepts.
    Reset,
}

impl TcpState {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
        }
    }
}

/// The sequence numbers at which a session stands; a number is `None` before it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// What the client will send next.
    pub client_next: Option<u32>,
    /// What the client said it expects next.
    pub client_expects: Option<u32>,
    /// What the server will send next.
    pub server_next: Option<u32>,
    /// What the server said it expects next.
    pub server_expects: Option<u32>,
}

/// How far an end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    /// Nothing came from it.
    #[default]
    Closed,
    /// It sent something.
    Sent,
    /// It acknowledged something, too.
    Acknowledged,
    /// Then it asked for another connection in the place of this one.
    Reopening,
}

/// What was seen of one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct End {
    /// Behind the last byte that it sent.
    next: u32,
    /// The last byte that it acknowledged, plus one.
    expects: u32,
    stage: Stage,
    finished: bool,
    reset: bool,
}

impl End {
    fn has_sent(&self) -> bool {
        self.stage >= Stage::Sent
    }

    fn has_acknowledged(&self) -> bool {
        self.stage >= Stage::Acknowledged
    }
}

/// A TCP connection as the NAT sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Tcp {
    client: End,
    server: End,
    /// Behind the client's last SYN.
    syn: u32,
    /// Behind the server's FIN.
    fin: u32,
}

impl Tcp {
    /// Takes note of a segment. Returns whether it keeps the session alive.
    pub(super) fn step(&mut self, from: Side, segment: &Segment) -> bool {
        if segment.rst {
            if self.is_exact(from, segment) {
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
        // Who goes on sending did not send that RST (RFC 7857 section 2.2).
        end.reset = false;
        let before = *end;
        advance(&mut end.next, before.has_sent(), segment.end());
        end.stage = end.stage.max(Stage::Sent);
        if let Some(ack) = segment.ack {
            advance(&mut end.expects, before.has_acknowledged(), ack);
            end.stage = end.stage.max(Stage::Acknowledged);
        }
        if segment.syn && !established {
            // An end that gave up and tries again begins anew.
            end.next = segment.end();
        }
        match self.state() {
            TcpState::Opening => from == Side::Inside,
            TcpState::Established => true,
            TcpState::Closing | TcpState::Reset => false,
        }
    }

    /// Both ends were sent a RST that they accept.
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

    pub(super) fn class(&self) -> Class {
        match self.state() {
            TcpState::Opening => Class::Opening,
            TcpState::Established => Class::Established,
            TcpState::Closing | TcpState::Reset => Class::Closing,
        }
    }

    /// Whether this segment begins another connection between the same ends.
    pub(super) fn is_over(&self, segment: &Segment) -> bool {
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

    /// Whether a RST is one that its receiver obeys (RFC 5961 section 3.2): exactly what the
    /// receiver expects next. What a client sends next is its own to say, while its data is on its
    /// way. To a SYN it must acknowledge just that (RFC 9293 section 3.10.7.3).
    fn is_exact(&mut self, from: Side, rst: &Segment) -> bool {
        let (sender, receiver) = (*self.end(from), *self.end(from.other()));
        (receiver.has_acknowledged() && rst.seq == receiver.expects)
            || (from == Side::Inside && sender.has_sent() && rst.seq == sender.next)
            || (!sender.has_sent() && receiver.has_sent() && rst.ack == Some(receiver.next))
    }

    /// A SYN of the client's. In the midst of a connection it is a late copy of the first one, or
    /// the client has begun anew and does not know of the connection: which it is, the server says.
    fn on_client_syn(&mut self, syn: &Segment) {
        let behind = syn.seq.wrapping_add(1);
        if self.is_established() && behind != self.syn {
            self.client.stage = Stage::Reopening;
        }
        self.syn = behind;
    }

    /// Whether the server agrees to another connection: it has forgotten this one, too. If it had
    /// not, it would challenge the SYN with a bare ACK (RFC 9293 section 3.10.7.4, RFC 5961 section 4).
    fn is_reopen_accepted(&self, segment: &Segment) -> bool {
        let anew = self.client.stage == Stage::Reopening;
        anew && segment.syn && segment.ack == Some(self.syn)
    }

    /// A connection of which nothing is known but the client's SYN.
    fn from_syn(syn: u32) -> Self {
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

    /// Whether both ends sent and acknowledged something.
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

/// Moves a sequence number forward, if that is plausible.
fn advance(number: &mut u32, known: bool, to: u32) {
    if !known || to.wrapping_sub(*number) < MAX_WINDOW {
        *number = to;
    }
}
