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
    /// The message after the newest request has yet to begin.
    expected: bool,
    /// The multiplex id of an accepted request whose final response may come.
    completing: Option<u16>,
}

impl RawWrites {
    /// The client sent a request that ends at `end`.
    pub(super) fn request(&mut self, id: u16, end: Position) {
        push(&mut self.unanswered, (id, end));
        self.answer = Answer::Unknown;
        self.expected = true;
    }

    /// The server, which had all before `acknowledged`, sent a response to a WRITE_RAW: the interim
    /// one, or with SMB_COM_WRITE_COMPLETE the final one.
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

    /// A message of the client's begins: true if it is raw data, as far as is known.
    pub(super) fn begin(&mut self) -> bool {
        std::mem::take(&mut self.expected) && self.answer != Answer::Refused
    }

    /// The server's answer to the newest request. What began as raw data is none if it is refused
    /// afterwards, where the client did not wait for the answer.
    pub(super) fn answer(&self) -> Answer {
        self.answer
    }

    /// Whether the next message may be raw data.
    pub(super) fn is_expected(&self) -> bool {
        self.expected
    }
}

/// The READ_RAW requests of a client whose data has not come.
#[derive(Debug, Default)]
pub(super) struct RawReads {
    /// The end of each request, and from where in the server's stream on its data may begin.
    requests: VecDeque<(Position, Option<Position>)>,
}

impl RawReads {
    /// The client sent a request that ends at `end`.
    pub(super) fn request(&mut self, end: Position) {
        push(&mut self.requests, (end, None));
    }

    /// A server that had all before `acknowledged` sent what begins at `start`.
    pub(super) fn sent(&mut self, acknowledged: Position, start: Position) {
        for (end, from) in &mut self.requests {
            if *end <= acknowledged {
                *from = Some(from.map_or(start, |from| from.min(start)));
            }
        }
    }

    /// A message of the server's begins: true if it is raw data. The answer to an error is raw and
    /// empty; an oplock break that crosses the request comes in its place, and such an answer
    /// follows it (MS-CIFS section 2.2.4.22).
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
