//! What the hook has to make of a client's stream and to learn from a server's, said in the
//! plainest way.
//!
//! It has the whole stream, takes its time, and shares no code with the hook.

use std::collections::{BTreeMap, BTreeSet};

/// The commands that others can be chained to.
const ANDX: [u8; 8] = [0x24, 0x2D, 0x2E, 0x2F, 0x73, 0x74, 0x75, 0xA2];

/// A client's stream as the server must get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The stream.
    pub bytes: Vec<u8>,
    /// The VcNumbers that were in it.
    pub asked: Vec<u16>,
    /// Where it stopped being understood, if it did.
    pub foreign_at: Option<usize>,
    /// A message had a length that servers may read in another way.
    pub is_ambiguous: bool,
    /// The raw requests that were in it.
    pub raw_requests: Vec<RawRequest>,
}

/// A READ_RAW (0x1A) or a WRITE_RAW (0x1D).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRequest {
    pub command: u8,
    pub mid: u16,
    /// Where its message ends.
    pub end: usize,
}

/// What a stream meets. The default: a flow that has no number yet, all numbers free, and nothing
/// in the way of changing it.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// The numbers that other flows of the group have.
    pub taken: BTreeSet<u16>,
    /// The number that the flow has.
    pub number: Option<u16>,
    /// From this byte of the stream on the server may verify signatures.
    pub verifies_from: usize,
    /// From this byte of the stream on the flow is bypassed for what the stream does not show.
    pub bypassed_from: usize,
    /// For a WRITE_RAW, by the end of its message: from which byte of the stream on the server's
    /// answer is known, and whether it accepted it.
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
    let mut asked = Vec::new();
    let mut raw_requests = Vec::new();
    let mut raw_after = None;
    let mut at = 0;
    let mut foreign_at = None;
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
        is_ambiguous |= transport[0] == 0 && transport[1] > 1;
        if transport[0] != 0 || length < 5 {
            continue;
        }
        if message.len() < 5 {
            break;
        }
        if !message.starts_with(b"\xFFSMB") {
            if raw {
                continue;
            }
            foreign_at = Some(begin);
            break;
        }
        if matches!(message[4], 0x2E | 0x2F) && transport[1] > 1 && !raw {
            if length < 57 {
                foreign_at = Some(begin);
                break;
            }
            let Some(fields) = message.get(..57) else {
                break;
            };
            let long_length = length | usize::from(transport[1] & 0xFE) << 16;
            if fields[4] == 0x2F && fields[9] < 0x80 && write_end(fields) == Some(long_length) {
                at = begin + long_length;
                continue;
            }
        }
        let (blocks, overlap) = blocks(message, length);
        for (command, block, known) in blocks {
            match accepted(begin + known) {
                Some(true) if raw => continue,
                None if raw && matches!(command, 0x1A | 0x1D) => {
                    foreign_at = Some(begin);
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
                asked.push(u16::from_le_bytes([pair[0], pair[1]]));
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
            foreign_at = Some(begin);
            break;
        }
    }
    Rewritten {
        bytes,
        asked,
        foreign_at,
        is_ambiguous,
        raw_requests,
    }
}

/// Where the VcNumbers of a message are, of which at least the first byte is here. `length` is
/// what the message has when all of it is here.
pub fn vc_numbers(message: &[u8], length: usize) -> Vec<usize> {
    let (blocks, _) = blocks(message, length);
    blocks
        .into_iter()
        .filter_map(|(command, block, _)| vc_number(command, block, message))
        .collect()
}

/// Where the VcNumber of a command is whose block begins there.
fn vc_number(command: u8, block: usize, message: &[u8]) -> Option<usize> {
    let is_setup = command == 0x73 && message[block] >= 5;
    (is_setup && block + 9 < message.len()).then_some(block + 9)
}

/// The commands of a message that matter, where their blocks begin, of which at least the first
/// byte is here, and with which byte they are known; and whether one lies in the VcNumber of another.
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

/// Whether a message of at least a header's length carries a signature.
pub fn is_signed(message: &[u8]) -> bool {
    let signature = &message[14..22];
    message[10] & 4 != 0 && signature != [0; 8] && signature != b"BSRSPYL "
}

/// What a server's stream tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learnt {
    /// Nothing that changes anything.
    Nothing,
    /// The server may verify signatures from now on.
    Verifies,
    /// It speaks SMB2.
    Upgraded,
}

/// What a server has said so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub learnt: Learnt,
    /// Track of it is lost.
    pub is_lost: bool,
    /// It may sign, as far as it has said.
    pub signs: bool,
    /// The responses to raw writes: command, status and multiplex id.
    pub raw_answers: Vec<(u8, u32, u16)>,
    /// Where the next message begins of which the length is not known yet.
    pub next: usize,
}

/// Reads a server's stream of which some bytes have not come yet. The data of the client's raw
/// reads is in the first message from each of these places on.
pub fn listen(stream: &[Option<u8>], raw_reads: &[Option<usize>]) -> Said {
    let mut said = Said {
        learnt: Learnt::Nothing,
        is_lost: false,
        signs: true,
        raw_answers: Vec::new(),
        next: 0,
    };
    said.is_lost = hear(stream, raw_reads, &mut said) == Some(());
    if said.is_lost && said.learnt == Learnt::Nothing && said.signs {
        said.learnt = Learnt::Verifies;
    }
    said
}

/// None where the next byte that matters has not come.
fn hear(stream: &[Option<u8>], raw_reads: &[Option<usize>], said: &mut Said) -> Option<()> {
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
        if raw || transport[0] != 0 || length < 5 {
            continue;
        }
        let start = bytes(begin, 5)?;
        match &start[..4] {
            b"\xFFSMB" => {}
            [0xFC..=0xFE, b'S', b'M', b'B'] if !negotiated && said.learnt == Learnt::Nothing => {
                said.learnt = Learnt::Upgraded;
                return Some(());
            }
            _ => return Some(()),
        }
        let (mut command, mut block) = (start[4], 32);
        let matters = |command| matches!(command, 0x1D | 0x20 | 0x72) || ANDX.contains(&command);
        if length < 32 || !matters(command) {
            continue;
        }
        if matches!(start[4], 0x2E | 0x2F) && transport[1] > 1 {
            if length < 57 {
                return Some(());
            }
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
                    said.learnt = Learnt::Verifies;
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
