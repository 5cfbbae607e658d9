//! Raw transfers: session messages that hold bare file data and no SMB header (SMB_COM_READ_RAW,
//! MS-CIFS section 2.2.4.22, and SMB_COM_WRITE_RAW, section 2.2.4.25).
//!
//! The requests and the server's answers determine which messages are raw. The data itself is never
//! examined: it may look like anything. The session header determines the length of the data; the
//! request names one too (CountOfBytes less DataLength), but servers ignore it.

use crate::tcp_stream::position::Position;
use std::collections::VecDeque;
use vcgate_wire::smb1::{command, status};

/// Maximum number of requests that are remembered. A client has one at a time.
const MAX_REQUESTS: usize = 16;

/// The server's answer to the newest WRITE_RAW.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// None yet.
    #[default]
    Unknown,
    /// The interim response: the server waits for raw data.
    Accepted,
    /// The final response in its place: there is no raw data (MS-CIFS section 3.3.5.26).
    Refused,
}

/// The WRITE_RAW requests of a client.
#[derive(Debug, Default)]
pub(super) struct RawWrites {
    /// Multiplex ids and ends of the requests that the server has not answered, in their order.
    unanswered: VecDeque<(u16, Position)>,
    answer: Answer,
    /// Whether the message after the newest request has not begun yet.
    expected: bool,
    /// The multiplex id of an accepted request whose final response is pending.
    completing: Option<u16>,
}

impl RawWrites {
    /// Notes a request of the client that ends at `end`.
    pub(super) fn request(&mut self, id: u16, end: Position) {
        push(&mut self.unanswered, (id, end));
        self.answer = Answer::Unknown;
        self.expected = true;
    }

    /// Notes a response to a WRITE_RAW from the server, which had acknowledged the bytes before
    /// `acknowledged`: the interim response or, with SMB_COM_WRITE_COMPLETE, the final one.
    pub(super) fn respond(&mut self, command: u8, status: u32, id: u16, acknowledged: Position) {
        if command == command::WRITE_COMPLETE && self.completing == Some(id) {
            self.completing = None;
            return;
        }
        let is_meant = |(own, end): &(u16, Position)| *own == id && *end <= acknowledged;
        let Some(place) = self.unanswered.iter().position(is_meant) else {
            return;
        };
        self.unanswered.drain(..=place);
        let accepted = command == command::WRITE_RAW && status == status::SUCCESS;
        if accepted {
            self.completing = Some(id);
        }
        if self.unanswered.is_empty() {
            self.answer = match accepted {
                true => Answer::Accepted,
                false => Answer::Refused,
            };
        }
    }

    /// Notes the beginning of a message of the client; returns whether it is raw data, as far as is
    /// known.
    pub(super) fn begin(&mut self) -> bool {
        std::mem::take(&mut self.expected) && self.answer != Answer::Refused
    }

    /// Returns the server's answer to the newest request. A message that began as raw data is none
    /// if the server refuses it later, because the client did not wait for the answer.
    pub(super) fn answer(&self) -> Answer {
        self.answer
    }

    /// Whether the next message may be raw data.
    pub(super) fn is_expected(&self) -> bool {
        self.expected
    }
}

/// The READ_RAW requests of a client whose data has not arrived.
#[derive(Debug, Default)]
pub(super) struct RawReads {
    /// The end of each request, and the position in the server's stream from which its data may
    /// begin.
    requests: VecDeque<(Position, Option<Position>)>,
}

impl RawReads {
    /// Notes a request of the client that ends at `end`.
    pub(super) fn request(&mut self, end: Position) {
        push(&mut self.requests, (end, None));
    }

    /// Notes that the server, which had acknowledged the bytes before `acknowledged`, sent a
    /// segment that begins at `start`.
    pub(super) fn sent(&mut self, acknowledged: Position, start: Position) {
        for (end, from) in &mut self.requests {
            if *end <= acknowledged {
                *from = Some(from.map_or(start, |from| from.min(start)));
            }
        }
    }

    /// Notes the beginning of a message of the server; returns whether it is raw data. The answer
    /// to a failed request is raw and empty. An oplock break that crosses the request is sent in
    /// the place of the data, and an empty answer follows it (MS-CIFS section 2.2.4.22).
    pub(super) fn begin(&mut self, at: Position) -> bool {
        let is_next = |&(_, from): &(Position, Option<Position>)| from.is_some_and(|f| f <= at);
        self.requests.front().is_some_and(is_next) && self.requests.pop_front().is_some()
    }
}

fn push<T>(requests: &mut VecDeque<T>, request: T) {
    if requests.len() == MAX_REQUESTS {
        requests.pop_front();
    }
    requests.push_back(request);
}
