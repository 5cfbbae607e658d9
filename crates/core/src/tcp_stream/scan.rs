//! Reads one direction of a connection as SMB1 messages, whatever pieces it comes in.
//!
//! It looks at the few bytes that matter and steps over the rest: a message of 128 KB costs one
//! addition. It decides nothing and changes nothing.

use crate::tcp_stream::position::Position;
use std::ops::Range;
use vcgate_wire::nbss::{self, Kind};
use vcgate_wire::packet::Payload;
use vcgate_wire::smb1::{self, Link, Protocol, command};

/// The most bytes of a block that anybody wants to see.
const MOST: usize = smb1::HEADER;

/// For each command, after how many bytes of its parameter block the owner wants to be told;
/// nothing says that neither the block nor what is chained to it is of interest.
pub type ParsePoints = fn(u8) -> &'static [usize];

/// What the stream turned out to hold.
#[derive(Debug, Clone)]
pub enum Found {
    /// The beginning of a parameter block.
    Block(Beginning),
    /// A chain that no server takes; the rest of its message is skipped.
    BadChain,
    /// Nothing that can be followed; the scanner must not be asked again.
    UnsupportedStream(UnsupportedStream),
}

/// Why a stream cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsupportedStream {
    /// Servers may read it in two ways: a transport header that is longer than it should be, or a
    /// chain whose blocks overlap.
    Framing,
    /// A message that is no SMB.
    Protocol,
    /// SMB1 under encryption.
    Encrypted,
    /// SMB2 or SMB3.
    Smb2,
}

/// The beginning of a parameter block, as long as the stop that was reached.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// The command whose block it is.
    pub command: u8,
    /// The message's header.
    pub header: smb1::Header,
    /// Where the block begins.
    pub at: Position,
    /// Where its message ends.
    pub end: Position,
    /// Another block is chained to it.
    pub chained: bool,
    /// Its message is raw data that looks like an SMB message, as far as was known when it began.
    pub raw: bool,
    bytes: [u8; MOST],
    len: usize,
}

impl Beginning {
    /// The bytes that are there.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The same, to be read by field.
    pub fn block(&self) -> smb1::Block<'_> {
        self.bytes().into()
    }
}

/// A place in the stream, and what is expected there.
#[derive(Debug)]
pub struct Scanner {
    stops: ParsePoints,
    part: Part,
    /// Where the bytes that are being gathered begin, how many are there, how many there must be.
    at: Position,
    have: usize,
    stop: usize,
    bytes: [u8; MOST],
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Transport,
    Protocol {
        len: usize,
        is_long: bool,
        raw: bool,
    },
    Header {
        len: usize,
        raw: bool,
    },
    Block(Walk),
    /// The block was told of; its follow-on is next.
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
    /// A scanner for a stream whose first message begins at `start`.
    pub fn new(start: Position, stops: ParsePoints) -> Self {
        Self {
            stops,
            part: Part::Transport,
            at: start,
            have: 0,
            stop: nbss::HEADER,
            bytes: [0; MOST],
        }
    }

    /// The next byte that matters. All before it were read or are of no interest.
    pub fn need(&self) -> Position {
        self.at.plus(self.have)
    }

    /// Whether it is between two messages: then [`need`](Self::need) says all.
    pub fn is_between(&self) -> bool {
        matches!(self.part, Part::Transport) && self.have == 0
    }

    /// Reads on in a payload that begins at `start`, not behind [`need`](Self::need). To be called
    /// until it finds nothing more. `raw` is asked for each message, by its place: whether it is raw
    /// data. That may look like an SMB message and need not.
    pub fn next(
        &mut self,
        start: Position,
        payload: &Payload<'_>,
        raw: impl FnMut(Position) -> bool,
    ) -> Option<Found> {
        self.next_recorded(start, payload, raw, |_, _| ())
    }

    /// As [`next`](Self::next), and hands each byte that it reads to `record`, with the place of
    /// the first one, in the order of the stream.
    pub fn next_recorded(
        &mut self,
        start: Position,
        payload: &Payload<'_>,
        mut raw: impl FnMut(Position) -> bool,
        mut record: impl FnMut(Position, &[u8]),
    ) -> Option<Found> {
        loop {
            if let Some(room) = self.bytes.get_mut(self.have..self.stop) {
                let at = self.at.plus(self.have);
                let read = payload.read(at.since(start), room);
                record(at, &room[..read]);
                self.have += read;
                if self.have < self.stop {
                    return None;
                }
            }
            let found = match self.part {
                Part::Transport => self.transport(&mut raw),
                Part::Protocol { len, is_long, raw } => self.protocol(len, is_long, raw),
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
        let message = self.at.plus(nbss::HEADER);
        // Between a raw request and its data only keepalives are left out.
        let raw = header.kind != Kind::KeepAlive && raw(self.at);
        let len = header.len;
        if header.kind != Kind::Message || len < smb1::PROTOCOL.len() + 1 {
            self.skip(message, len);
        } else {
            let is_long = header.is_long;
            let part = Part::Protocol { len, is_long, raw };
            self.gather(part, message, smb1::PROTOCOL.len() + 1);
        }
        None
    }

    fn protocol(&mut self, len: usize, is_long: bool, raw: bool) -> Option<Found> {
        let [a, b, c, d, command, ..] = self.bytes;
        let foreign = match Protocol::from([a, b, c, d]) {
            // A server may take this for a write of 128 KB or more.
            Protocol::Smb1 if is_long && command == command::WRITE_ANDX && !raw => {
                UnsupportedStream::Framing
            }
            Protocol::Smb1 => {
                if len < smb1::HEADER || (self.stops)(command).is_empty() {
                    self.skip(self.at, len);
                } else {
                    self.part = Part::Header { len, raw };
                    self.stop = smb1::HEADER;
                }
                return None;
            }
            _ if raw => {
                self.skip(self.at, len);
                return None;
            }
            Protocol::Smb2 => UnsupportedStream::Smb2,
            Protocol::Encrypted => UnsupportedStream::Encrypted,
            Protocol::Unknown => UnsupportedStream::Protocol,
        };
        Some(Found::UnsupportedStream(foreign))
    }

    fn header(&mut self, len: usize, raw: bool) -> Option<Found> {
        let header = smb1::Header::from(self.bytes);
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

    /// Goes to the block that `walk` is at, if it is of interest and as long as it has to be.
    fn enter(&mut self, walk: Walk) {
        let stops = (self.stops)(walk.link.command);
        match (stops.first(), stops.last()) {
            (Some(first), Some(last)) if walk.link.at + last <= walk.len => {
                let at = walk.message.plus(walk.link.at);
                let known = at.since(self.at)..self.have;
                self.gather(Part::Block(Walk { stops, ..walk }), at, *first);
                self.keep(known);
            }
            _ => self.skip(walk.message, walk.len),
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
        self.gather(Part::Transport, message.plus(len), nbss::HEADER);
    }

    /// Keeps of the bytes that were gathered those that the next part begins with: a follow-on may
    /// lie in what was read of the block that names it, and that does not come again.
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

/// Whether the block after a session setup's lies in the setup's own VcNumber: a new number would
/// change that block too.
fn overlaps(walk: &Walk, next: &Link, words: u8) -> bool {
    walk.link.command == command::SESSION_SETUP_ANDX
        && words >= smb1::VC_NUMBER_WORDS
        && next.at < walk.link.at + smb1::VC_NUMBER.end
}
