//! Parses one direction of a connection as SMB1 messages, however they are segmented.
//!
//! It reads the few bytes that matter and skips the rest: a message of 128 KB costs one addition. It
//! never decides or changes anything.

use crate::tcp_stream::position::Position;
use std::ops::Range;
use vcgate_wire::nbss::{self, Kind};
use vcgate_wire::packet::Payload;
use vcgate_wire::smb1::{self, Link, Protocol, command};

/// Maximum number of bytes that are gathered: a header and the fields of a long write.
const MAX_GATHERED: usize = smb1::HEADER_LEN + smb1::DATA_EXTENT_LEN;

/// For each command, the number of bytes of its parameter block that the owner needs, if its
/// message is long enough; `None` if neither the block nor the blocks chained to it are of
/// interest.
pub type ParsePoints = fn(u8) -> &'static [usize];

/// A result of parsing.
#[derive(Debug, Clone)]
pub enum Found {
    /// The beginning of a parameter block.
    Block(Beginning),
    /// A chain that no server accepts; the rest of its message is skipped.
    BadChain,
    /// A message of SMB2 or SMB3, which is skipped.
    Smb2,
    /// A stream that cannot be parsed; the scanner must not be used again.
    UnsupportedStream(UnsupportedStream),
}

/// The reason for which a stream cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsupportedStream {
    /// Servers may read it in different ways: a transport header with too great a length, or a
    /// chain whose blocks overlap.
    Framing,
    /// A message that is not SMB.
    Protocol,
    /// Encrypted SMB1.
    Encrypted,
}

/// The beginning of a parameter block, up to the parse point that was reached.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// The command whose block it is.
    pub command: u8,
    /// The message's header.
    pub header: smb1::Header,
    /// The position of the block.
    pub at: Position,
    /// The end of its message.
    pub end: Position,
    /// Whether another block is chained to it.
    pub chained: bool,
    /// Whether its message was taken for raw data when it began.
    pub raw: bool,
    bytes: [u8; MAX_GATHERED],
    len: usize,
}

impl Beginning {
    /// Returns the parsed bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Returns the parsed bytes as a block.
    pub fn block(&self) -> smb1::Block<'_> {
        self.bytes().into()
    }
}

/// The state of a parser: a position and the part that is expected there.
#[derive(Debug)]
pub struct Scanner {
    stops: ParsePoints,
    part: Part,
    /// Position, number of gathered bytes, and number of required bytes.
    at: Position,
    have: usize,
    stop: usize,
    bytes: [u8; MAX_GATHERED],
    is_ambiguous: bool,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Transport,
    /// The protocol of a message whose length may exceed 17 bits.
    LongProtocol {
        len: usize,
        long_len: usize,
    },
    Protocol {
        len: usize,
        long_len: usize,
        raw: bool,
    },
    /// The header and the first block of a read or a write that may have a long length.
    LongHeader {
        len: usize,
        long_len: usize,
    },
    Header {
        len: usize,
        raw: bool,
    },
    Block(Walk),
    /// The block was reported; its follow-on is next.
    Follow(Walk),
}

#[derive(Debug, Clone, Copy)]
struct Walk {
    header: smb1::Header,
    message: Position,
    len: usize,
    raw: bool,
    link: Link,
    stops: &'static [usize],
}

impl Scanner {
    /// Creates a scanner for a stream whose first message begins at `start`.
    pub fn new(start: Position, stops: ParsePoints) -> Self {
        Self {
            stops,
            part: Part::Transport,
            at: start,
            have: 0,
            stop: nbss::HEADER_LEN,
            bytes: [0; MAX_GATHERED],
            is_ambiguous: false,
        }
    }

    /// Returns the position of the next byte to read. All earlier bytes were read or skipped.
    pub fn need(&self) -> Position {
        self.at.plus(self.have)
    }

    /// Whether it is between two messages: then [`need`](Self::need) is its whole state.
    pub fn is_between(&self) -> bool {
        matches!(self.part, Part::Transport) && self.have == 0
    }

    /// Whether a message had a length that servers may read in different ways.
    pub fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    /// Continues in a payload that begins at `start`, not after [`need`](Self::need). It is called
    /// until it returns `None`. `raw` returns whether the message at a position is raw data, which
    /// may look like an SMB message.
    pub fn next(
        &mut self,
        start: Position,
        payload: &Payload<'_>,
        raw: impl FnMut(Position) -> bool,
    ) -> Option<Found> {
        self.next_recorded(start, payload, raw, |_, _| ())
    }

    /// Works as [`next`](Self::next), and gives all bytes that it reads to `record`, in the order of
    /// the stream, with the position of the first one.
    pub fn next_recorded(
        &mut self,
        start: Position,
        payload: &Payload<'_>,
        mut raw: impl FnMut(Position) -> bool,
        mut record: impl FnMut(Position, &[u8]),
    ) -> Option<Found> {
        loop {
            if let Some(space) = self.bytes.get_mut(self.have..self.stop) {
                let at = self.at.plus(self.have);
                let read = payload.read(at.since(start), space);
                record(at, &space[..read]);
                self.have += read;
                if self.have < self.stop {
                    return None;
                }
            }
            let found = match self.part {
                Part::Transport => self.transport(&mut raw),
                Part::LongProtocol { len, long_len } => {
                    self.long_protocol(len, long_len);
                    None
                }
                Part::Protocol { len, long_len, raw } => self.protocol(len, long_len, raw),
                Part::LongHeader { len, long_len } => self.long_header(len, long_len),
                Part::Header { len, raw } => self.header(len, raw),
                Part::Block(walk) => Some(self.block(walk)),
                Part::Follow(walk) => self.follow(walk),
            };
            if found.is_some() {
                return found;
            }
        }
    }

    fn transport(&mut self, raw: &mut impl FnMut(Position) -> bool) -> Option<Found> {
        let [a, b, c, d, ..] = self.bytes;
        let header = nbss::Header::from([a, b, c, d]);
        let message = self.at.plus(nbss::HEADER_LEN);
        // Between a raw request and its data, only keepalives are skipped.
        let raw = header.kind != Kind::KeepAlive && raw(self.at);
        let (len, long_len) = (header.len, header.long_len);
        self.is_ambiguous |= header.kind == Kind::Message && header.is_long();
        let is_message = header.kind == Kind::Message;
        if is_message && len < smb1::PROTOCOL.len() + 1 && header.is_long() && !raw {
            let part = Part::LongProtocol { len, long_len };
            self.gather(part, message, smb1::PROTOCOL.len());
        } else if !is_message || len < smb1::PROTOCOL.len() + 1 {
            self.skip(message, len);
        } else {
            let part = Part::Protocol { len, long_len, raw };
            self.gather(part, message, smb1::PROTOCOL.len() + 1);
        }
        None
    }

    /// Skips a message by its long length if it is SMB1, and otherwise by its length of 17 bits.
    fn long_protocol(&mut self, len: usize, long_len: usize) {
        let [a, b, c, d, ..] = self.bytes;
        if Protocol::from([a, b, c, d]) == Protocol::Smb1 {
            let raw = false;
            self.part = Part::Protocol { len, long_len, raw };
            self.stop = smb1::PROTOCOL.len() + 1;
        } else {
            let known = len..self.have;
            self.skip(self.at, len);
            self.keep(known);
        }
    }

    fn protocol(&mut self, len: usize, long_len: usize, raw: bool) -> Option<Found> {
        let [a, b, c, d, command, ..] = self.bytes;
        let may_be_long =
            len != long_len && !raw && matches!(command, command::READ_ANDX | command::WRITE_ANDX);
        let foreign = match Protocol::from([a, b, c, d]) {
            Protocol::Smb1 if may_be_long => {
                self.part = Part::LongHeader { len, long_len };
                self.stop = MAX_GATHERED;
                return None;
            }
            // The command lies in the next message.
            Protocol::Smb1 if len <= smb1::PROTOCOL.len() => UnsupportedStream::Framing,
            Protocol::Smb1 => {
                if len < smb1::HEADER_LEN || (self.stops)(command).is_empty() {
                    self.skip(self.at, len);
                } else {
                    self.part = Part::Header { len, raw };
                    self.stop = smb1::HEADER_LEN;
                }
                return None;
            }
            _ if raw => {
                self.skip(self.at, len);
                return None;
            }
            // Its length has 24 bits (MS-SMB2 section 2.1).
            Protocol::Smb2 => {
                self.skip(self.at, long_len);
                return Some(Found::Smb2);
            }
            Protocol::Encrypted => UnsupportedStream::Encrypted,
            Protocol::Unknown => UnsupportedStream::Protocol,
        };
        Some(Found::UnsupportedStream(foreign))
    }

    /// Follows the long length if the data ends there, as Samba does with `min receivefile size`.
    fn long_header(&mut self, len: usize, long_len: usize) -> Option<Found> {
        let header = self.gathered_header();
        let block: smb1::Block<'_> = self.bytes[smb1::HEADER_LEN..].into();
        let data_end = match (header.command(), header.is_response()) {
            (command::READ_ANDX, true) => block.read_end(),
            (command::WRITE_ANDX, false) => block.write_end(),
            _ => None,
        };
        match data_end == Some(long_len) {
            true => self.header(long_len, false),
            // The fields that deny it may lie in the next message.
            false if len < MAX_GATHERED => {
                Some(Found::UnsupportedStream(UnsupportedStream::Framing))
            }
            false => self.header(len, false),
        }
    }

    fn gathered_header(&self) -> smb1::Header {
        let mut header = [0; smb1::HEADER_LEN];
        header.copy_from_slice(&self.bytes[..smb1::HEADER_LEN]);
        header.into()
    }

    fn header(&mut self, len: usize, raw: bool) -> Option<Found> {
        let header = self.gathered_header();
        self.enter(Walk {
            header,
            message: self.at,
            len,
            raw,
            link: Link::first(header.command()),
            stops: &[],
        });
        None
    }

    /// Continues with the block of `walk`, if it is of interest and long enough.
    fn enter(&mut self, walk: Walk) {
        let stops = (self.stops)(walk.link.command);
        let fitting = stops
            .iter()
            .take_while(|stop| walk.link.at + **stop <= walk.len);
        let stops = &stops[..fitting.count()];
        match stops.first() {
            Some(first) => {
                let at = walk.message.plus(walk.link.at);
                let known = at.since(self.at)..self.have;
                self.gather(Part::Block(Walk { stops, ..walk }), at, *first);
                self.keep(known);
            }
            None => self.skip(walk.message, walk.len),
        }
    }

    fn block(&mut self, walk: Walk) -> Found {
        let beginning = Beginning {
            command: walk.link.command,
            header: walk.header,
            at: self.at,
            end: walk.message.plus(walk.len),
            chained: matches!(self.next_link(&walk), Ok(Some(_))),
            raw: walk.raw,
            bytes: self.bytes,
            len: self.stop,
        };
        let stops = walk.stops.get(1..).unwrap_or_default();
        match stops.first() {
            Some(stop) => {
                self.stop = *stop;
                self.part = Part::Block(Walk { stops, ..walk });
            }
            None => self.part = Part::Follow(walk),
        }
        Found::Block(beginning)
    }

    fn follow(&mut self, walk: Walk) -> Option<Found> {
        match self.next_link(&walk) {
            Ok(Some(link)) if overlaps(&walk, &link, self.bytes[0]) && walk.raw => {
                self.skip(walk.message, walk.len);
            }
            Ok(Some(link)) if overlaps(&walk, &link, self.bytes[0]) => {
                return Some(Found::UnsupportedStream(UnsupportedStream::Framing));
            }
            Ok(Some(link)) => self.enter(Walk { link, ..walk }),
            Ok(None) => self.skip(walk.message, walk.len),
            Err(smb1::BadChain) => {
                self.skip(walk.message, walk.len);
                return (!walk.raw).then_some(Found::BadChain);
            }
        }
        None
    }

    fn next_link(&self, walk: &Walk) -> Result<Option<Link>, smb1::BadChain> {
        walk.link.next(self.bytes[..self.stop].into(), walk.len)
    }

    fn skip(&mut self, message: Position, len: usize) {
        self.gather(Part::Transport, message.plus(len), nbss::HEADER_LEN);
    }

    /// Keeps the gathered bytes that belong to the next part: a follow-on may lie in the block that
    /// names it, whose bytes are not read twice.
    fn keep(&mut self, known: Range<usize>) {
        if known.start < known.end {
            self.have = known.len();
            self.bytes.copy_within(known, 0);
        }
    }

    fn gather(&mut self, part: Part, at: Position, stop: usize) {
        (self.part, self.at, self.have, self.stop) = (part, at, 0, stop);
    }
}

/// Whether the block after a session setup overlaps the VcNumber: a new number would change that
/// block too.
fn overlaps(walk: &Walk, next: &Link, words: u8) -> bool {
    walk.link.command == command::SESSION_SETUP_ANDX
        && words >= smb1::MIN_VC_NUMBER_WORDS
        && next.at < walk.link.at + smb1::VC_NUMBER.end
}
