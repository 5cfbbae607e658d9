//! A simple, slow implementation of what the hook must do with a client's stream and detect in a
//! server's.
//!
//! It has the whole stream and shares no code with the hook.

use std::collections::{BTreeMap, BTreeSet};

/// The commands to which others can be chained.
const ANDX: [u8; 8] = [0x24, 0x2D, 0x2E, 0x2F, 0x73, 0x74, 0x75, 0xA2];

/// A client's stream as the server must receive it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The stream.
    pub bytes: Vec<u8>,
    /// The VcNumbers that the client requested.
    pub requested: Vec<u16>,
    /// Offset from which the stream could not be parsed.
    pub unsupported_at: Option<usize>,
    /// A message has a length that servers read in different ways.
    pub is_ambiguous: bool,
    /// The raw requests in the stream.
    pub raw_requests: Vec<RawRequest>,
}

/// A READ_RAW (0x1A) or a WRITE_RAW (0x1D).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRequest {
    pub command: u8,
    pub mid: u16,
    /// The end of its message.
    pub end: usize,
}

/// The conditions of a rewrite. By default, the flow has no number, all numbers are free, and
/// everything may be rewritten.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// The numbers of other flows in the group.
    pub taken: BTreeSet<u16>,
    /// The number of the flow.
    pub number: Option<u16>,
    /// Offset from which the server may verify signatures.
    pub verifies_from: usize,
    /// Offset from which the flow is bypassed for a reason outside the stream.
    pub bypassed_from: usize,
    /// For the end of each WRITE_RAW message: the offset from which the response is known, and
    /// whether the server accepted the write.
    pub raw_answers: BTreeMap<usize, (usize, bool)>,
}

impl Default for Circumstances {
    fn default() -> Self {
        Self {
            taken: BTreeSet::new(),
            number: None,
            verifies_from: usize::MAX,
            bypassed_from: usize::MAX,
            raw_answers: BTreeMap::new(),
        }
    }
}

/// Rewrites a stream.
pub fn rewrite(stream: &[u8], circumstances: &Circumstances) -> Rewritten {
    let Circumstances {
        taken,
        number,
        verifies_from,
        bypassed_from,
        raw_answers,
    } = circumstances;
    let mut number = *number;
    let mut bytes = stream.to_vec();
    let mut requested = Vec::new();
    let mut raw_requests = Vec::new();
    let mut raw_after = None;
    let mut at = 0;
    let mut unsupported_at = None;
    let mut is_ambiguous = false;
    'stream: while let Some(transport) = stream.get(at..at + 4) {
        let length = usize::from(transport[1] & 1) << 16
            | usize::from(transport[2]) << 8
            | usize::from(transport[3]);
        let begin = at + 4;
        at = begin + length;
        let message = &stream[begin..at.min(stream.len())];
        if transport[0] == 0x85 {
            continue;
        }
        let request: Option<usize> = raw_after.take();
        // Whether the server had accepted the raw write when the byte at `place` came.
        let accepted = |place: usize| {
            let (known_from, accepted) = *raw_answers.get(&request?)?;
            (known_from <= place).then_some(accepted)
        };
        let raw = request.is_some() && accepted(begin - 1) != Some(false);
        let is_long = transport[0] == 0 && transport[1] > 1;
        is_ambiguous |= is_long;
        if is_long && length < 5 && !raw {
            match stream.get(begin..begin + 4) {
                Some(b"\xFFSMB") => {}
                Some(_) => continue,
                None => break,
            }
            if stream.len() < begin + 5 {
                break;
            }
            if !matches!(stream[begin + 4], 0x2E | 0x2F) {
                unsupported_at = Some(begin);
                break;
            }
        } else if transport[0] != 0 || length < 5 {
            continue;
        }
        let message = match is_long && length < 5 {
            true => &stream[begin..begin + 5],
            false => message,
        };
        if message.len() < 5 {
            break;
        }
        if !message.starts_with(b"\xFFSMB") {
            if raw {
                continue;
            }
            if matches!(message[..4], [0xFC..=0xFE, b'S', b'M', b'B']) {
                at = begin + (length | usize::from(transport[1] & 0xFE) << 16);
                continue;
            }
            unsupported_at = Some(begin);
            break;
        }
        if matches!(message[4], 0x2E | 0x2F) && transport[1] > 1 && !raw {
            let Some(fields) = stream.get(begin..begin + 57) else {
                break;
            };
            let long_length = length | usize::from(transport[1] & 0xFE) << 16;
            if fields[4] == 0x2F && fields[9] < 0x80 && write_end(fields) == Some(long_length) {
                at = begin + long_length;
                continue;
            }
            if length < 57 {
                unsupported_at = Some(begin);
                break;
            }
        }
        let (blocks, overlap) = blocks(message, length);
        for (command, block, known) in blocks {
            match accepted(begin + known) {
                Some(true) if raw => continue,
                None if raw && matches!(command, 0x1A | 0x1D) => {
                    unsupported_at = Some(begin);
                    break 'stream;
                }
                None if raw => continue,
                _ => {}
            }
            if matches!(command, 0x1A | 0x1D) {
                let mid = u16::from_le_bytes([message[30], message[31]]);
                raw_requests.push(RawRequest {
                    command,
                    mid,
                    end: at,
                });
                raw_after = (command == 0x1D).then_some(at).or(raw_after);
            }
            let Some(place) = vc_number(command, block, message) else {
                continue;
            };
            let place = begin + place;
            if let Some(pair) = stream.get(place..place + 2) {
                requested.push(u16::from_le_bytes([pair[0], pair[1]]));
            }
            let signed = place >= *verifies_from && is_signed(message);
            if signed || place >= *bypassed_from {
                continue;
            }
            let low = u16::from(stream[place]);
            let number = *number.get_or_insert_with(|| {
                if low != 0 && !taken.contains(&low) {
                    low
                } else {
                    (1..=u16::MAX).find(|n| !taken.contains(n)).unwrap_or(0)
                }
            });
            for (byte, new) in bytes[place..].iter_mut().zip(number.to_le_bytes()) {
                *byte = new;
            }
        }
        if overlap && !raw {
            unsupported_at = Some(begin);
            break;
        }
    }
    Rewritten {
        bytes,
        requested,
        unsupported_at,
        is_ambiguous,
        raw_requests,
    }
}

/// Returns the offsets of the VcNumbers of a message whose first byte was received. `length` is the
/// length of the whole message.
pub fn vc_numbers(message: &[u8], length: usize) -> Vec<usize> {
    let (blocks, _) = blocks(message, length);
    blocks
        .into_iter()
        .filter_map(|(command, block, _)| vc_number(command, block, message))
        .collect()
}

/// Returns the offset of the VcNumber of a command whose block starts at `block`.
fn vc_number(command: u8, block: usize, message: &[u8]) -> Option<usize> {
    let is_setup = command == 0x73 && message[block] >= 5;
    (is_setup && block + 9 < message.len()).then_some(block + 9)
}

/// Returns the relevant commands of a message, the offsets of their blocks, the byte with which each
/// is known, and whether a block overlaps the VcNumber of another.
fn blocks(message: &[u8], length: usize) -> (Vec<(u8, usize, usize)>, bool) {
    let mut found = Vec::new();
    let (mut command, mut block, mut read) = (message[4], 32, 0);
    loop {
        let (first, least) = match command {
            0x73 => (10, 11),
            0x1A | 0x1D => (1, 1),
            _ if ANDX.contains(&command) => (5, 5),
            _ => break,
        };
        if length < 32 || block + least > length {
            break;
        }
        let Some(&words) = message.get(block) else {
            break;
        };
        found.push((command, block, read.max(block + first - 1)));
        read = read.max(block + least - 1);
        if !ANDX.contains(&command) {
            break;
        }
        let Some(andx) = message.get(block + 1..block + 5) else {
            break;
        };
        let next = usize::from(u16::from_le_bytes([andx[2], andx[3]]));
        if words < 2 || andx[0] == 0xFF || next <= block + 1 || next >= length {
            break;
        }
        if command == 0x73 && message.len() < block + 11 {
            break;
        }
        if command == 0x73 && words >= 5 && next < block + 11 {
            return (found, true);
        }
        (command, block) = (andx[0], next);
    }
    (found, false)
}

/// Where the data of a write ends that nothing is chained to, by its first 57 bytes.
fn write_end(message: &[u8]) -> Option<usize> {
    data_end(message, 14, [51, 53, 55])
}

/// Where the data of a read's response ends, in the same way.
fn read_end(message: &[u8]) -> Option<usize> {
    data_end(message, 12, [47, 43, 45])
}

fn data_end(message: &[u8], words: u8, [high, low, offset]: [usize; 3]) -> Option<usize> {
    let field = |at: usize| usize::from(u16::from_le_bytes([message[at], message[at + 1]]));
    let is_alone = message[32] == words && message[33] == 0xFF;
    is_alone.then(|| (field(high) << 16) + field(low) + field(offset))
}

/// Returns whether a message with a whole header is signed.
pub fn is_signed(message: &[u8]) -> bool {
    let signature = &message[14..22];
    message[10] & 4 != 0 && signature != [0; 8] && signature != b"BSRSPYL "
}

/// The relevant property of a server's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerFinding {
    /// No change.
    Nothing,
    /// The server may verify signatures from now on.
    Verifies,
    /// The server uses SMB2.
    Upgraded,
}

/// The state of a server's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerView {
    pub finding: ServerFinding,
    /// The stream cannot be parsed further.
    pub is_lost: bool,
    /// The server may sign.
    pub signs: bool,
    /// The responses to raw writes: command, status and multiplex ID.
    pub raw_answers: Vec<(u8, u32, u16)>,
    /// Start of the next message, whose length is not known yet.
    pub next: usize,
}

/// Parses a server's stream in which some bytes may be missing. The data of each raw read is in the
/// first message from its offset on.
pub fn read_server_stream(stream: &[Option<u8>], raw_reads: &[Option<usize>]) -> ServerView {
    let mut said = ServerView {
        finding: ServerFinding::Nothing,
        is_lost: false,
        signs: true,
        raw_answers: Vec::new(),
        next: 0,
    };
    said.is_lost = parse_server_stream(stream, raw_reads, &mut said) == Some(());
    if said.is_lost && said.finding == ServerFinding::Nothing && said.signs {
        said.finding = ServerFinding::Verifies;
    }
    said
}

/// Parses messages; returns `None` at the first relevant byte that is missing.
fn parse_server_stream(
    stream: &[Option<u8>],
    raw_reads: &[Option<usize>],
    said: &mut ServerView,
) -> Option<()> {
    let bytes =
        |at: usize, len| -> Option<Vec<u8>> { stream.get(at..at + len)?.iter().copied().collect() };
    let mut negotiated = false;
    let mut raw_reads = raw_reads.iter().copied().peekable();
    loop {
        let at = said.next;
        let transport = bytes(at, 4)?;
        let length = usize::from(transport[1] & 1) << 16
            | usize::from(transport[2]) << 8
            | usize::from(transport[3]);
        let begin = at + 4;
        said.next = begin + length;
        if transport[0] == 0x85 {
            continue;
        }
        let is_raw = |from: &Option<usize>| from.is_some_and(|from| from <= at);
        let raw = raw_reads.next_if(is_raw).is_some();
        if !raw && transport[0] == 0 && transport[1] > 1 && length < 5 {
            if bytes(begin, 4)? != b"\xFFSMB" {
                continue;
            }
            if !matches!(bytes(begin, 5)?[4], 0x2E | 0x2F) {
                return Some(());
            }
        } else if raw || transport[0] != 0 || length < 5 {
            continue;
        }
        let start = bytes(begin, 5)?;
        match &start[..4] {
            b"\xFFSMB" => {}
            [0xFC..=0xFE, b'S', b'M', b'B']
                if !negotiated && said.finding == ServerFinding::Nothing =>
            {
                said.finding = ServerFinding::Upgraded;
                return Some(());
            }
            _ => return Some(()),
        }
        let (mut command, mut block) = (start[4], 32);
        let matters = |command| matches!(command, 0x1D | 0x20 | 0x72) || ANDX.contains(&command);
        let may_be_long = matches!(start[4], 0x2E | 0x2F) && transport[1] > 1;
        if !may_be_long && (length < 32 || !matters(command)) {
            continue;
        }
        if may_be_long {
            let fields = bytes(begin, 57)?;
            let long_length = length | usize::from(transport[1] & 0xFE) << 16;
            let end = match (fields[4], fields[9] >= 0x80) {
                (0x2E, true) => read_end(&fields),
                (0x2F, false) => write_end(&fields),
                _ => None,
            };
            if end == Some(long_length) {
                said.next = begin + long_length;
                continue;
            }
            if length < 57 {
                return Some(());
            }
        }
        let header = bytes(begin, 32)?;
        let is_response = header[9] & 0x80 != 0;
        loop {
            let least = match command {
                0x1D | 0x20 => 1,
                0x72 => 24,
                0x73 => 7,
                _ if ANDX.contains(&command) => 5,
                _ => break,
            };
            if block + least > length {
                break;
            }
            let words = bytes(begin + block, least)?;
            if is_response && matches!(command, 0x1D | 0x20) {
                let status = u32::from_le_bytes([header[5], header[6], header[7], header[8]]);
                let mid = u16::from_le_bytes([header[30], header[31]]);
                said.raw_answers.push((command, status, mid));
            }
            if is_response && command == 0x72 {
                negotiated = matches!(words[0], 13 | 17);
                said.signs = !negotiated || words[0] == 17 && words[3] & 0x0C != 0;
            }
            if !ANDX.contains(&command) {
                break;
            }
            let next = usize::from(u16::from_le_bytes([words[3], words[4]]));
            let follows = words[0] >= 2 && words[1] != 0xFF;
            let leads_on = next > block + 1 && next < length;
            if is_response && command == 0x73 {
                let accepted = match header[5..9] {
                    [0, 0, 0, 0] => true,
                    [0x16, 0, 0, 0xC0] => false,
                    _ => follows && leads_on,
                };
                if accepted && words[5] & 1 == 0 && said.signs {
                    said.finding = ServerFinding::Verifies;
                }
            }
            if !follows || !leads_on {
                break;
            }
            if command == 0x73 && words[0] >= 5 && next < block + 11 {
                return Some(());
            }
            (command, block) = (words[1], next);
        }
    }
}
