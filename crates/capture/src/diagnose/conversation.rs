//! The messages of a client and a server on one connection.

use super::messages::{Messages, Side};
use super::stream::Piece;
use super::timestamp::Timestamp;
use std::ops::Range;
use vcgate_core::tcp_stream::position::Position;
use vcgate_core::tcp_stream::scan::{Beginning, Found, UnsupportedStream};
use vcgate_wire::packet::Payload;
use vcgate_wire::session_setup::{Layout, Native};
use vcgate_wire::smb1::{self, Negotiated, command};

/// The number and time of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameStamp {
    pub frame: u64,
    pub time: Timestamp,
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Unknown,
    Smb1,
    /// SMB2 or SMB3, which have no VcNumber.
    Smb2,
    /// SMB1 that cannot be read.
    Encrypted,
}

/// A session setup request, complete at the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionSetup {
    /// Its last segment.
    pub stamp: FrameStamp,
    pub words: u8,
    pub vc_number: u16,
    pub extended_security: bool,
    /// The request carries a signature.
    pub signed: bool,
    /// The server's answer to NEGOTIATE, if it was captured.
    pub negotiated: Option<Negotiated>,
    pub native: Native,
}

/// Both directions.
#[derive(Debug)]
pub(super) struct Conversation {
    client: Messages,
    server: Messages,
    dialect: Dialect,
    negotiated: Option<Negotiated>,
    pending: Option<Pending>,
    /// The client's last command.
    command: Option<u8>,
    has_gaps: bool,
}

impl Conversation {
    /// A conversation of which nothing was captured yet.
    pub(super) fn in_mid_stream() -> Self {
        Self {
            client: Messages::in_mid_stream(Side::Client),
            server: Messages::in_mid_stream(Side::Server),
            dialect: Dialect::Unknown,
            negotiated: None,
            pending: None,
            command: None,
            has_gaps: false,
        }
    }

    /// Starts the stream of one side here.
    pub(super) fn begin(&mut self, side: Side, start: Position) {
        *self.messages(side) = Messages::new(side, start);
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether nothing of interest can follow.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.dialect, Dialect::Smb2 | Dialect::Encrypted)
    }

    /// Whether bytes are missing in the capture.
    pub(super) fn has_gaps(&self) -> bool {
        self.has_gaps
    }

    /// The command that the client sent last.
    pub(super) fn command(&self) -> Option<u8> {
        self.command
    }

    /// Reads the next bytes of one side; adds complete session setups to `setups`.
    pub(super) fn read_piece(
        &mut self,
        side: Side,
        piece: &Piece<'_>,
        stamp: FrameStamp,
        setups: &mut Vec<SessionSetup>,
    ) {
        let end = match *piece {
            Piece::Gap { to } => {
                self.has_gaps = true;
                self.messages(side).gap(to);
                to
            }
            Piece::Bytes { at, bytes } => {
                let end = at.plus(bytes.len());
                let collects = side == Side::Client && self.pending.is_some();
                if !self.is_settled() && (collects || !self.messages(side).skips(end)) {
                    self.read(side, at, bytes, stamp, setups);
                }
                end
            }
        };
        if side == Side::Client && self.pending.as_ref().is_some_and(|p| p.end <= end) {
            self.complete(stamp, setups);
        }
    }

    fn read(
        &mut self,
        side: Side,
        at: Position,
        bytes: &[u8],
        stamp: FrameStamp,
        setups: &mut Vec<SessionSetup>,
    ) {
        let mut copy = bytes.to_vec();
        let payload = Payload::new(&mut copy);
        if side == Side::Client {
            self.collect(at, &payload);
        }
        self.messages(side).resume(at, &payload);
        while let Some(found) = self.messages(side).next(at, &payload) {
            match (found, side) {
                (Found::Block(beginning), Side::Client) => {
                    self.on_request(&beginning, stamp, setups);
                    self.collect(at, &payload);
                }
                (Found::Block(beginning), Side::Server) => self.on_response(&beginning),
                (Found::Smb2, _) => self.dialect = Dialect::Smb2,
                (Found::UnsupportedStream(UnsupportedStream::Encrypted), _) => {
                    self.dialect = Dialect::Encrypted
                }
                (
                    Found::UnsupportedStream(
                        UnsupportedStream::Framing | UnsupportedStream::Protocol,
                    )
                    | Found::BadChain,
                    _,
                ) => {}
            }
            if self.is_settled() {
                break;
            }
        }
    }

    fn on_request(
        &mut self,
        beginning: &Beginning,
        stamp: FrameStamp,
        setups: &mut Vec<SessionSetup>,
    ) {
        if beginning.header.is_response() {
            return;
        }
        self.dialect = Dialect::Smb1;
        self.command = Some(beginning.command);
        if beginning.command != command::SESSION_SETUP_ANDX {
            return;
        }
        match &mut self.pending {
            Some(pending) if pending.at == beginning.at => pending.look_for_strings(beginning),
            _ => {
                // The previous one was complete when this one began.
                self.complete(stamp, setups);
                self.pending = Pending::new(beginning);
            }
        }
    }

    fn on_response(&mut self, beginning: &Beginning) {
        if beginning.header.is_response() && beginning.command == command::NEGOTIATE {
            self.dialect = Dialect::Smb1;
            self.negotiated = beginning.block().negotiated();
        }
    }

    fn collect(&mut self, at: Position, payload: &Payload<'_>) {
        if let Some(strings) = self.pending.as_mut().and_then(|p| p.strings.as_mut()) {
            strings.collect(at, payload);
        }
    }

    fn complete(&mut self, stamp: FrameStamp, setups: &mut Vec<SessionSetup>) {
        if let Some(pending) = self.pending.take() {
            setups.push(pending.complete(stamp, self.negotiated));
        }
    }

    fn messages(&mut self, side: Side) -> &mut Messages {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

/// A session setup whose message is not complete.
#[derive(Debug)]
struct Pending {
    /// The beginning of its block and the end of its message.
    at: Position,
    end: Position,
    header: smb1::Header,
    words: u8,
    vc_number: u16,
    strings: Option<Strings>,
}

impl Pending {
    fn new(beginning: &Beginning) -> Option<Self> {
        let block = beginning.block();
        let words = block.word_count()?;
        Some(Self {
            at: beginning.at,
            end: beginning.end,
            header: beginning.header,
            words,
            vc_number: block.vc_number()?,
            strings: None,
        })
    }

    /// Appends more bytes of the block.
    fn look_for_strings(&mut self, beginning: &Beginning) {
        self.strings = Layout::parse(beginning.bytes()).map(|layout| {
            let range = layout.range(self.end.since(self.at));
            Strings {
                layout,
                place: self.at.plus(range.start)..self.at.plus(range.end),
                // A block begins at an even offset, like the first one; no known client puts a
                // session setup at an odd offset.
                odd: range.start % 2 == 1,
                bytes: Vec::new(),
            }
        });
    }

    fn complete(self, stamp: FrameStamp, negotiated: Option<Negotiated>) -> SessionSetup {
        const EXTENDED_SECURITY: u16 = 0x0800;
        const UNICODE: u16 = 0x8000;
        let flags = self.header.flags2();
        let native = self.strings.map(|s| s.read(flags & UNICODE != 0));
        SessionSetup {
            stamp,
            words: self.words,
            vc_number: self.vc_number,
            extended_security: match negotiated {
                Some(server) => server.extended_security,
                None => flags & EXTENDED_SECURITY != 0,
            },
            signed: self.header.is_signed(),
            negotiated,
            native: native.unwrap_or_default(),
        }
    }
}

/// The strings of a session setup, as far as they were captured.
#[derive(Debug)]
struct Strings {
    layout: Layout,
    place: Range<Position>,
    odd: bool,
    bytes: Vec<u8>,
}

impl Strings {
    fn collect(&mut self, at: Position, payload: &Payload<'_>) {
        let next = self.place.start.plus(self.bytes.len());
        if at > next {
            return; // after a gap
        }
        let mut more = vec![0; self.place.end.since(next)];
        let have = payload.read(next.since(at), &mut more);
        self.bytes.extend(more.iter().take(have));
    }

    fn read(&self, unicode: bool) -> Native {
        Native::parse(&self.bytes, self.layout, unicode, self.odd)
    }
}
