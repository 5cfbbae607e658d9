//! A capture on the control socket: a line of JSON for each packet, followed by its bytes, and a
//! last line with the numbers of dropped packets. If the last line is missing, the endpoint stopped
//! early.

use super::{Counts, Packet};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read};
use vcgate_core::engine::{Direction, Side};

/// Maximum length of a line and of a packet that a reader accepts, in bytes.
const LONGEST: u64 = 1 << 20;

/// `{"packet":{…,"length":60}}` and 60 bytes, …, `{"end":{"dropped":{"tunnel":0,"lan":0}}}`
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Packet {
        side: Side,
        direction: Direction,
        unix_nanos: u64,
        comment: String,
        length: u64,
    },
    End {
        dropped: Counts,
    },
}

/// An item of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A packet.
    Packet(Packet),
    /// The end, with the numbers of packets dropped so far.
    End(Counts),
}

/// Appends a packet to the output.
pub fn encode(packet: Packet, out: &mut Vec<u8>) {
    let line = Line::Packet {
        side: packet.side,
        direction: packet.direction,
        unix_nanos: packet.unix_nanos,
        comment: packet.comment,
        length: packet.bytes.len() as u64,
    };
    encode_line(&line, out);
    out.extend_from_slice(&packet.bytes);
}

/// Appends the end to the output.
pub fn encode_end(dropped: Counts, out: &mut Vec<u8>) {
    encode_line(&Line::End { dropped }, out);
}

fn encode_line(line: &Line, out: &mut Vec<u8>) {
    // Serialization into a vector cannot fail: names, numbers and text are always valid JSON.
    if serde_json::to_writer(&mut *out, line).is_ok() {
        out.push(b'\n');
    }
}

/// Waits for the next item and reads it. A missing end is an error.
pub fn decode(input: &mut impl BufRead) -> io::Result<Item> {
    let mut line = Vec::new();
    input.take(LONGEST).read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (side, direction, unix_nanos, comment, length) = match serde_json::from_slice(&line)? {
        Line::End { dropped } => return Ok(Item::End(dropped)),
        Line::Packet {
            side,
            direction,
            unix_nanos,
            comment,
            length,
        } => (side, direction, unix_nanos, comment, length),
    };
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    input.read_exact(&mut bytes)?;
    Ok(Item::Packet(Packet {
        side,
        direction,
        unix_nanos,
        comment,
        bytes,
    }))
}
