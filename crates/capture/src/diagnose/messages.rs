//! One direction of a connection as SMB messages, as far as they are of interest.
//!
//! After a loss of synchronization it resynchronizes where a segment begins with a message that
//! only this direction can contain.

use vcgate_core::tcp_stream::position::Position;
use vcgate_core::tcp_stream::scan::{Found, Scanner};
use vcgate_wire::nbss::{self, Kind};
use vcgate_wire::packet::Payload;
use vcgate_wire::session_setup;
use vcgate_wire::smb1::{self, Protocol, command};

/// The sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// The messages of one direction.
#[derive(Debug)]
pub(super) struct Messages {
    side: Side,
    /// `None` while it is not synchronized.
    scanner: Option<Scanner>,
    /// After a WRITE_RAW, the next message may be bare data. Data that looks like an SMB message is
    /// still parsed as one, since the server may have refused the request.
    raw: bool,
}

impl Messages {
    /// A direction whose beginning was not captured.
    pub(super) fn in_mid_stream(side: Side) -> Self {
        Self {
            side,
            scanner: None,
            raw: false,
        }
    }

    /// A direction that begins here.
    pub(super) fn new(side: Side, start: Position) -> Self {
        Self {
            scanner: Some(Scanner::new(start, stops(side))),
            ..Self::in_mid_stream(side)
        }
    }

    /// Reads bytes at `at`, which follow the previous bytes or a gap. Call it until it returns
    /// `None`, after one [`resume`](Self::resume).
    pub(super) fn next(&mut self, at: Position, payload: &Payload<'_>) -> Option<Found> {
        let end = at.plus(payload.len());
        // A message may extend beyond these bytes.
        let scanner = self.scanner.as_mut().filter(|s| s.need() < end)?;
        let found = scanner.next(at, payload, |_| std::mem::take(&mut self.raw));
        match &found {
            Some(Found::UnsupportedStream(_) | Found::Smb2) => self.scanner = None,
            Some(Found::Block(b)) if b.command == command::WRITE_RAW => self.raw = true,
            _ => {}
        }
        found
    }

    /// Resynchronizes if these bytes begin with a message of this direction.
    pub(super) fn resume(&mut self, at: Position, payload: &Payload<'_>) {
        if self.scanner.is_none() && self.is_message(payload) == Some(true) {
            self.scanner = Some(Scanner::new(at, stops(self.side)));
        }
    }

    fn is_message(&self, payload: &Payload<'_>) -> Option<bool> {
        let mut bytes = [0; nbss::HEADER_LEN + smb1::HEADER_LEN];
        let have = payload.read(0, &mut bytes);
        let (transport, message) = bytes.split_first_chunk()?;
        let transport = nbss::Header::from(*transport);
        let fits = transport.kind == Kind::Message && transport.len > smb1::HEADER_LEN;
        let ours = match Protocol::from(*message.first_chunk()?) {
            Protocol::Smb1 => {
                let header = smb1::Header::from(*message.first_chunk()?);
                header.is_response() == (self.side == Side::Server)
            }
            Protocol::Smb2 | Protocol::Encrypted => true,
            Protocol::Unknown => false,
        };
        Some(have == bytes.len() && fits && ours)
    }

    /// Whether nothing before `end` is of interest.
    pub(super) fn skips(&self, end: Position) -> bool {
        self.scanner.as_ref().is_some_and(|s| s.need() >= end)
    }

    /// Skips the bytes before `to`, which are not in the capture.
    pub(super) fn gap(&mut self, to: Position) {
        if !self.skips(to) {
            self.scanner = None;
        }
    }
}

/// See [`vcgate_core::tcp_stream::scan::ParsePoints`].
fn stops(side: Side) -> fn(u8) -> &'static [usize] {
    match side {
        Side::Client => of_a_client,
        Side::Server => of_a_server,
    }
}

fn of_a_client(command: u8) -> &'static [usize] {
    match command {
        command::SESSION_SETUP_ANDX => &[smb1::VC_NUMBER.end, session_setup::LAYOUT_LEN],
        other if command::is_andx(other) => &[smb1::ANDX_LEN],
        _ => &[1],
    }
}

fn of_a_server(command: u8) -> &'static [usize] {
    match command {
        command::NEGOTIATE => &[smb1::NEGOTIATE_RESPONSE_LEN],
        _ => &[],
    }
}
