//! Scans a stream for messages: the result does not depend on the segmentation, and every block
//! lies in a message that a plain walk over the transport headers finds, up to the first length
//! that may have 24 bits.

use super::input::Input;
use std::ops::Range;
use vcgate_core::tcp_stream::position::Position;
use vcgate_core::tcp_stream::scan::{Found, Scanner};
use vcgate_wire::nbss::{HEADER_LEN, Header, Kind, MAX_LEN};
use vcgate_wire::packet::Payload;
use vcgate_wire::smb1::{self, command};
use vcgate_wire::tcp::SeqNumber;

/// Takes segment sizes and one direction of a stream from the input.
pub fn nbss(input: &[u8]) {
    let mut input = Input::new(input);
    let isn = input.u32();
    let sizes = usize::from(input.u8() % 16);
    let sizes = input.bytes(sizes);
    let stream = input.bytes(usize::MAX);

    let whole = found(isn, stream, &[stream.len()]);
    let sizes: Vec<_> = sizes.iter().map(|size| usize::from(*size) + 1).collect();
    let parts = found(isn, stream, &sizes);
    let describe = |all: &[Found]| all.iter().map(describe).collect::<Vec<_>>();
    assert_eq!(describe(&parts), describe(&whole));

    let start = Position::after_syn(SeqNumber(isn));
    let (messages, walked) = messages(stream);
    let mut last = None;
    for found in &whole {
        let Found::Block(block) = found else {
            continue;
        };
        let (at, end) = (block.at.since(start), block.end.since(start));
        if at < walked {
            let message = messages.iter().find(|m| m.contains(&at));
            let message = message.expect("a block lies in a message");
            assert_eq!(message.end, end);
            assert!(at >= message.start + smb1::HEADER_LEN);
        }
        assert!(at + block.bytes().len() <= end);
        assert_eq!(block.bytes(), &stream[at..at + block.bytes().len()]);
        let place = (at, block.bytes().len());
        assert!(last < Some(place), "the scanner went backwards");
        last = Some(place);
    }
}

/// Returns the findings of a scanner for a stream in segments of these sizes, repeated cyclically.
fn found(isn: u32, stream: &[u8], sizes: &[usize]) -> Vec<Found> {
    let start = Position::after_syn(SeqNumber(isn));
    let mut scanner = Scanner::new(start, stops);
    let mut all = Vec::new();
    let (mut at, mut sizes) = (0, sizes.iter().cycle());
    while at < stream.len() {
        let size = sizes.next().map_or(1, |size| *size);
        let end = (at + size).min(stream.len());
        let mut segment = stream[at..end].to_vec();
        let payload = Payload::new(&mut segment);
        while let Some(found) = scanner.next(start.plus(at), &payload, |_| false) {
            let is_end = matches!(found, Found::UnsupportedStream(_));
            all.push(found);
            if is_end {
                return all;
            }
        }
        at = end;
    }
    all
}

/// Formats the fields of a finding for comparison.
fn describe(found: &Found) -> String {
    match found {
        Found::Block(b) => {
            let (command, at, end, chained) = (b.command, b.at, b.end, b.chained);
            format!("{command:#x} {at:?} {end:?} {chained} {:?}", b.bytes())
        }
        Found::BadChain => "bad chain".into(),
        Found::Smb2 => "SMB2".into(),
        Found::UnsupportedStream(foreign) => format!("{foreign:?}"),
    }
}

/// Returns the positions of the SMB messages in a stream, up to the first length of 24 bits, and the
/// position of that one.
fn messages(stream: &[u8]) -> (Vec<Range<usize>>, usize) {
    let mut messages = Vec::new();
    let mut at = 0;
    while let Some(bytes) = stream.get(at..).and_then(<[u8]>::first_chunk) {
        let header = Header::from(*bytes);
        assert!(header.len <= MAX_LEN);
        if header.is_long() && header.kind == Kind::Message {
            break;
        }
        let message = at + HEADER_LEN..at + HEADER_LEN + header.len;
        at = message.end;
        if header.kind == Kind::Message {
            messages.push(message);
        }
    }
    (messages, at)
}

fn stops(command: u8) -> &'static [usize] {
    match command {
        command::NEGOTIATE => &[smb1::NEGOTIATE_RESPONSE_LEN],
        command::SESSION_SETUP_ANDX => &[5, 7, 10, 11, smb1::HEADER_LEN],
        other if command::is_andx(other) => &[smb1::ANDX_LEN],
        _ => &[],
    }
}
