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
const PLAUSIBLE: u32 = 1 << 24;

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

/// What was seen of one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct End {
    /// Behind the last byte that it sent.
    next: u32,
    /// The last byte that it acknowledged, plus one.
    expects: u32,
    sent: bool,
    acknowledged: bool,
    finished: bool,
    reset: bool,
}

/// A TCP connection as the NAT sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Tcp {
    client: End,
    server: End,
    /// Behind the server's FIN.
    fin: u32,
    established: bool,
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
        if segment.fin && self.state() != TcpState::Closing {
            self.end(from).finished = true;
            if from == Side::Lan {
                self.fin = segment.end();
            }
        }
        let end = self.end(from);
        // Who goes on sending did not send that RST (RFC 7857 section 2.2).
        end.reset = false;
        advance(&mut end.next, &mut end.sent, segment.end());
        if let Some(ack) = segment.ack {
            advance(&mut end.expects, &mut end.acknowledged, ack);
        }
        if segment.syn && !self.established {
            // An end that gave up and tries again begins anew.
            self.end(from).next = segment.end();
        }
        self.established |= [self.client, self.server]
            .iter()
            .all(|end| end.sent && end.acknowledged);
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
        } else if self.established {
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
        let next = |end: &End| end.sent.then_some(end.next);
        let expects = |end: &End| end.acknowledged.then_some(end.expects);
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
        (receiver.acknowledged && rst.seq == receiver.expects)
            || (from == Side::Inside && sender.sent && rst.seq == sender.next)
            || (!sender.sent && receiver.sent && rst.ack == Some(receiver.next))
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Inside => &mut self.client,
            Side::Lan => &mut self.server,
        }
    }
}

/// Moves a sequence number forward, if that is plausible.
fn advance(number: &mut u32, known: &mut bool, to: u32) {
    if !*known || to.wrapping_sub(*number) < PLAUSIBLE {
        *number = to;
        *known = true;
    }
}
