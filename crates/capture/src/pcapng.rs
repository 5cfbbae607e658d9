//! Writes packets as a pcapng file (draft-ietf-opsawg-pcapng): one section, an interface for each
//! side, a block for each packet, and finally the number of dropped packets.
//!
//! It writes in little-endian byte order on all machines, and never parses a packet.

use super::{Counts, Packet};
use std::io::{self, Write};
use vcgate_core::engine::{Direction, Side};

/// Metadata of the file.
const COMMENT: &str = "Packets as vcgate carries them: one that is longer than the MTU is many \
                       segments of one flow, and a checksum may be left to whoever sends it on.";
/// Maximum length of a packet, in bytes.
pub const MAX_PACKET: u32 = 256 << 10;
/// LINKTYPE_RAW: the first four bits identify IPv4 or IPv6.
const RAW: u16 = 101;
/// Times are in units of 10 to the minus 9 seconds.
const NANOSECONDS: u8 = 9;
/// The sides; the position is the number of the interface.
const INTERFACES: [(Side, &str, &str); 2] = [
    (Side::Tunnel, "tunnel", "as the clients send and get it"),
    (
        Side::Lan,
        "lan",
        "as it goes to the LAN and comes from there",
    ),
];

mod block {
    pub(super) const SECTION: u32 = 0x0A0D_0D0A;
    pub(super) const INTERFACE: u32 = 1;
    pub(super) const STATISTICS: u32 = 5;
    pub(super) const PACKET: u32 = 6;
}

mod option {
    pub(super) const END: u16 = 0;
    pub(super) const COMMENT: u16 = 1;
    pub(super) const PACKET_FLAGS: u16 = 2;
    pub(super) const USER_APPLICATION: u16 = 4;
    pub(super) const IF_NAME: u16 = 2;
    pub(super) const IF_DESCRIPTION: u16 = 3;
    pub(super) const IF_RESOLUTION: u16 = 9;
    pub(super) const RECEIVED: u16 = 4;
    pub(super) const DROPPED: u16 = 5;
}

/// Writes one file.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    written: Counts,
    /// Maximum number of bytes that are written of a packet.
    snaplen: u32,
    /// The time of the last packet.
    last: u64,
}

impl<W: Write> Writer<W> {
    /// Begins the file; `application` is the name of the writing program.
    pub fn new(out: W, application: &str) -> io::Result<Self> {
        Self::with_snaplen(out, application, MAX_PACKET)
    }

    /// Begins a file that keeps at most the first `snaplen` bytes of a packet.
    pub fn with_snaplen(out: W, application: &str, snaplen: u32) -> io::Result<Self> {
        let mut section = Block::new(block::SECTION);
        section.word(0x1A2B_3C4D);
        section.halves(1, 0); // the version
        section.bytes(&u64::MAX.to_le_bytes()); // as long as it will be
        section.option(option::COMMENT, COMMENT.as_bytes());
        section.option(option::USER_APPLICATION, application.as_bytes());
        let mut writer = Self {
            out,
            written: Counts::default(),
            snaplen,
            last: 0,
        };
        writer.write(section)?;
        for (_, name, description) in INTERFACES {
            let mut interface = Block::new(block::INTERFACE);
            interface.halves(RAW, 0);
            interface.word(snaplen);
            interface.option(option::IF_NAME, name.as_bytes());
            interface.option(option::IF_DESCRIPTION, description.as_bytes());
            interface.option(option::IF_RESOLUTION, &[NANOSECONDS]);
            writer.write(interface)?;
        }
        Ok(writer)
    }

    /// Adds a packet. Fails for a length that the format cannot represent.
    pub fn packet(&mut self, packet: &Packet) -> io::Result<()> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let len = u32::try_from(packet.bytes.len()).map_err(too_long)?;
        let mut record = Block::new(block::PACKET);
        record.word(packet.side as u32);
        record.time(packet.unix_nanos);
        let kept = packet.bytes.get(..self.snaplen as usize);
        let kept = kept.unwrap_or(&packet.bytes);
        record.word(len.min(self.snaplen));
        record.word(len);
        record.padded(kept);
        record.option(option::COMMENT, packet.comment.as_bytes());
        record.option(option::PACKET_FLAGS, &flags(packet).to_le_bytes());
        *self.written.of(packet.side) += 1;
        self.last = packet.unix_nanos;
        self.write(record)
    }

    /// Returns the number of packets.
    pub fn written(&self) -> Counts {
        self.written
    }

    /// Ends the file with the numbers of dropped packets.
    pub fn finish(&mut self, mut dropped: Counts) -> io::Result<()> {
        for (side, ..) in INTERFACES {
            let (written, dropped) = (*self.written.of(side), *dropped.of(side));
            let mut statistics = Block::new(block::STATISTICS);
            statistics.word(side as u32);
            statistics.time(self.last);
            statistics.option(option::RECEIVED, &(written + dropped).to_le_bytes());
            statistics.option(option::DROPPED, &dropped.to_le_bytes());
            self.write(statistics)?;
        }
        self.flush()
    }

    /// Flushes, so that readers get all packets written so far.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn write(&mut self, block: Block) -> io::Result<()> {
        self.out.write_all(&block.end())
    }
}

/// Returns the direction of a packet, as seen from vcgate.
fn flags(packet: &Packet) -> u32 {
    const INBOUND: u32 = 1;
    const OUTBOUND: u32 = 2;
    match (packet.side, packet.direction) {
        (Side::Tunnel, Direction::ToLan) | (Side::Lan, Direction::ToClient) => INBOUND,
        (Side::Tunnel, Direction::ToClient) | (Side::Lan, Direction::ToLan) => OUTBOUND,
    }
}

/// A block under construction: its type, its length, then words of 32 bits.
struct Block {
    bytes: Vec<u8>,
    has_options: bool,
}

impl Block {
    fn new(kind: u32) -> Self {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]); // for the length
        Self {
            bytes,
            has_options: false,
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn word(&mut self, word: u32) {
        self.bytes(&word.to_le_bytes());
    }

    fn halves(&mut self, first: u16, second: u16) {
        self.bytes(&first.to_le_bytes());
        self.bytes(&second.to_le_bytes());
    }

    /// The upper half comes first.
    fn time(&mut self, unix_nanos: u64) {
        self.word((unix_nanos >> 32) as u32);
        self.word(unix_nanos as u32);
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.bytes(bytes);
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.bytes.extend(std::iter::repeat_n(0, padding));
    }

    /// Text that exceeds an option's maximum length is omitted.
    fn option(&mut self, code: u16, value: &[u8]) {
        if let Ok(len) = u16::try_from(value.len()) {
            self.halves(code, len);
            self.padded(value);
            self.has_options = true;
        }
    }

    fn end(mut self) -> Vec<u8> {
        if self.has_options {
            self.halves(option::END, 0);
        }
        // A packet is far shorter than 4 GiB, and so is its block.
        let len = (self.bytes.len() as u32 + 4).to_le_bytes();
        self.bytes[4..8].copy_from_slice(&len);
        self.bytes(&len);
        self.bytes
    }
}
