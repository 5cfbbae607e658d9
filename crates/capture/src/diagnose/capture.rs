//! Reads a capture file frame by frame: pcap or pcapng, plain or gzip.
//!
//! It holds one record in memory at a time. An error in a file ends the reading; the frames before
//! it count.

use super::timestamp::Timestamp;
use flate2::read::MultiGzDecoder;
use pcap_parser::{
    Block, IDB_MAGIC, InterfaceDescriptionBlock, PcapBlockOwned, PcapError, create_reader,
};
use serde::Serialize;
use std::io::{self, ErrorKind, Read};

/// Maximum length of a record in bytes; a longer one means that the file is damaged.
const MAX_RECORD: usize = 16 << 20;
/// Maximum number of interfaces.
const MAX_INTERFACES: usize = 1 << 16;

/// A captured frame.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// Its number in the file, from 1, as Wireshark counts.
    pub number: u64,
    pub time: Timestamp,
    /// The link type.
    pub link: i32,
    /// The captured part.
    pub bytes: &'a [u8],
    /// Whether the capture truncated the frame.
    pub cut: bool,
}

/// The reason why the reading of a capture ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum End {
    /// The end of the file.
    Whole,
    /// The file stops in the middle of a record.
    Cut {
        /// Offset of the record in the (uncompressed) file, in bytes.
        at: u64,
    },
    /// The next bytes are not a record.
    Damaged {
        /// Offset of these bytes in the (uncompressed) file.
        at: u64,
    },
    /// The system could not read any further.
    Unreadable {
        /// Offset in the (uncompressed) file, in bytes.
        at: u64,
        /// The system's error.
        why: String,
    },
}

/// The reason why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system cannot read it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is empty.
    #[error("the file is empty; write it with `tcpdump -w FILE` and stop the capture with Ctrl-C")]
    Empty,
    /// The file has another format.
    #[error(
        "byte 0: not a pcap or pcapng file; write one with `tcpdump -w FILE` or save it from Wireshark as pcapng"
    )]
    NotACapture,
}

/// Reads a capture to its end and calls `each` for each frame.
pub(super) fn read(
    input: impl Read + Send,
    mut each: impl FnMut(&Frame<'_>),
) -> Result<End, Error> {
    let mut failure = None;
    let (end, at) = read_records(unpacked(input)?, &mut failure, &mut each)?;
    let at = at as u64;
    Ok(match failure {
        None => end,
        Some(error) if error.kind() == ErrorKind::UnexpectedEof => End::Cut { at },
        Some(error) if is_bad_gzip(&error) => End::Damaged { at },
        Some(error) => End::Unreadable {
            at,
            why: error.to_string(),
        },
    })
}

fn is_bad_gzip(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidInput | ErrorKind::InvalidData
    )
}

/// The file's bytes, without the compression that it may have.
fn unpacked<'a>(mut input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    const GZIP: [u8; 2] = [0x1F, 0x8B];
    let mut head = Vec::new();
    input.by_ref().take(2).read_to_end(&mut head)?;
    let is_packed = head == GZIP;
    let input = io::Cursor::new(head).chain(input);
    Ok(match is_packed {
        true => Box::new(MultiGzDecoder::new(input)),
        false => Box::new(input),
    })
}

fn read_records(
    input: Box<dyn Read + Send + '_>,
    failure: &mut Option<io::Error>,
    each: &mut impl FnMut(&Frame<'_>),
) -> Result<(End, usize), Error> {
    const BUFFER: usize = 128 << 10;
    let steady = FillBuffer { input, failure };
    let mut reader = create_reader(BUFFER, steady).map_err(|error| match error {
        PcapError::Eof => Error::Empty,
        _ => Error::NotACapture,
    })?;
    let mut capacity = BUFFER;
    let mut interfaces = Interfaces::default();
    let mut number = 0;
    loop {
        let waiting = reader.data().len();
        let at = reader.consumed();
        match reader.next() {
            Ok((len, block)) => {
                if let Some(mut frame) = interfaces.frame(&block) {
                    number += 1;
                    frame.number = number;
                    each(&frame);
                }
                reader.consume(len);
            }
            Err(PcapError::Eof) => return Ok((End::Whole, at)),
            Err(PcapError::Incomplete(_) | PcapError::BufferTooSmall) => {
                let _ = reader.refill(); // `FillBuffer` keeps the error
                if reader.data().len() > waiting || reader.reader_exhausted() {
                    continue;
                }
                capacity *= 2;
                if capacity > MAX_RECORD || !reader.grow(capacity) {
                    return Ok((End::Damaged { at: at as u64 }, at));
                }
            }
            Err(PcapError::UnexpectedEof) if waiting == 0 => return Ok((End::Whole, at)),
            Err(PcapError::UnexpectedEof) => return Ok((End::Cut { at: at as u64 }, at)),
            Err(_) => return Ok((End::Damaged { at: at as u64 }, at)),
        }
    }
}

/// Fills each buffer completely; an error ends the input and is kept.
struct FillBuffer<'a, R> {
    input: R,
    failure: &'a mut Option<io::Error>,
}

impl<R: Read> Read for FillBuffer<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut have = 0;
        while have < buffer.len() && self.failure.is_none() {
            match self.input.read(&mut buffer[have..]) {
                Ok(0) => break,
                Ok(more) => have += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => *self.failure = Some(error),
            }
        }
        Ok(have)
    }
}

/// An interface that frames were captured on, and the unit of their times.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link: i32,
    clock: Clock,
    snapshot: u32,
}

#[derive(Debug, Clone, Copy)]
enum Clock {
    /// Ticks per second, counted from an offset in seconds after 1970.
    Decimal { ticks: u64, offset: i64 },
    /// Two to this power ticks per second, counted from an offset.
    Binary { power: u32, offset: i64 },
}

impl Clock {
    /// Makes a clock from the options `if_tsresol` and `if_tsoffset`.
    fn new(resolution: u8, offset: i64) -> Self {
        match resolution {
            0x80.. => Self::Binary {
                power: u32::from(resolution & 0x7F).min(63),
                offset,
            },
            _ => Self::Decimal {
                ticks: 10u64.saturating_pow(resolution.into()),
                offset,
            },
        }
    }

    fn time(self, ticks: u64) -> Timestamp {
        const SECOND: u128 = 1_000_000_000;
        let (nanoseconds, offset) = match self {
            Self::Decimal {
                ticks: each,
                offset,
            } => (u128::from(ticks) * SECOND / u128::from(each.max(1)), offset),
            Self::Binary { power, offset } => ((u128::from(ticks) * SECOND) >> power, offset),
        };
        let offset = i128::from(offset) * SECOND as i128;
        let nanoseconds = (nanoseconds as i128).saturating_add(offset).max(0);
        Timestamp::from_nanoseconds(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[derive(Debug, Default)]
struct Interfaces(Vec<Interface>);

impl Interfaces {
    /// Returns the frame in a record, if it contains one; remembers interfaces that a record
    /// describes.
    fn frame<'a>(&mut self, block: &'a PcapBlockOwned<'_>) -> Option<Frame<'a>> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let resolution = if header.is_nanosecond_precision() {
                    9
                } else {
                    6
                };
                self.0 = vec![Interface {
                    // The upper bits say whether frames have a check sequence.
                    link: header.network.0 & 0xFFFF,
                    clock: Clock::new(resolution, 0),
                    snapshot: header.snaplen,
                }];
                None
            }
            PcapBlockOwned::Legacy(record) => {
                let interface = self.0.first()?;
                let Clock::Decimal { ticks, .. } = interface.clock else {
                    return None;
                };
                let whole = u64::from(record.ts_sec) * ticks + u64::from(record.ts_usec);
                Some(interface.frame(whole, record.data, record.origlen))
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.0.clear();
                None
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
                if self.0.len() < MAX_INTERFACES {
                    self.0.push(description.into());
                }
                None
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(record)) => {
                let interface = self.0.get(record.if_id as usize)?;
                let ticks = u64::from(record.ts_high) << 32 | u64::from(record.ts_low);
                let bytes = upto(record.data, record.caplen);
                Some(interface.frame(ticks, bytes, record.origlen))
            }
            PcapBlockOwned::NG(Block::SimplePacket(record)) => {
                let interface = self.0.first()?;
                let captured = match interface.snapshot {
                    0 => record.origlen,
                    most => record.origlen.min(most),
                };
                Some(interface.frame(0, upto(record.data, captured), record.origlen))
            }
            PcapBlockOwned::NG(_) => None,
        }
    }
}

fn upto(bytes: &[u8], len: u32) -> &[u8] {
    bytes.get(..len as usize).unwrap_or(bytes)
}

impl From<&InterfaceDescriptionBlock<'_>> for Interface {
    fn from(block: &InterfaceDescriptionBlock<'_>) -> Self {
        // The crate decodes the offset as little endian in every section.
        let offset = match block.block_type != IDB_MAGIC {
            true => block.if_tsoffset.swap_bytes(),
            false => block.if_tsoffset,
        };
        Self {
            link: block.linktype.0,
            clock: Clock::new(block.if_tsresol, offset),
            snapshot: block.snaplen,
        }
    }
}

impl Interface {
    fn frame<'a>(&self, ticks: u64, bytes: &'a [u8], len: u32) -> Frame<'a> {
        Frame {
            number: 0,
            time: self.clock.time(ticks),
            link: self.link,
            bytes,
            cut: bytes.len() < len as usize,
        }
    }
}
