//! What the hook has to make of a client's stream and to learn from a server's, said in the
//! plainest way.
//!
//! It has the whole stream, takes its time, and shares no code with the hook.

use std::collections::BTreeSet;

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
}

impl Default for Circumstances {
    fn default() -> Self {
        Self {
            taken: BTreeSet::new(),
            number: None,
            verifies_from: usize::MAX,
            bypassed_from: usize::MAX,
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
    } = circumstances;
    let mut number = *number;
    let mut bytes = stream.to_vec();
    let mut asked = Vec::new();
    let mut raw = false;
    let mut at = 0;
    let mut foreign_at = None;
    while let Some(transport) = stream.get(at..at + 4) {
        let length = usize::from(transport[1]) << 16
            | usize::from(transport[2]) << 8
            | usize::from(transport[3]);
        if !matches!(transport[0], 0 | 0x81..=0x85) || length > 0x1FFFF {
            foreign_at = Some(at);
            break;
        }
        let begin = at + 4;
        at = begin + length;
        let message = &stream[begin..at.min(stream.len())];
        if transport[0] != 0 {
            continue;
        }
        let bare = std::mem::take(&mut raw);
        if length < 5 {
            continue;
        }
        if message.len() < 5 {
            break;
        }
        if !message.starts_with(b"\xFFSMB") {
            if bare {
                continue;
            }
            foreign_at = Some(begin);
            break;
        }
        raw = message[4] == 0x1D;
        for place in vc_numbers(message, length) {
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
    }
    Rewritten {
        bytes,
        asked,
        foreign_at,
    }
}

/// Where the VcNumbers of a message are, of which at least the first byte is here. `length` is
/// what the message has when all of it is here.
pub fn vc_numbers(message: &[u8], length: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let (mut command, mut block) = (message[4], 32);
    for _ in 0..16 {
        let least = if command == 0x73 { 11 } else { 5 };
        if !ANDX.contains(&command) || block + least > length {
            break;
        }
        let Some(&words) = message.get(block) else {
            break;
        };
        if command == 0x73 && matches!(words, 10 | 12 | 13) && block + 9 < message.len() {
            found.push(block + 9);
        }
        let Some(andx) = message.get(block + 1..block + 5) else {
            break;
        };
        let next = usize::from(u16::from_le_bytes([andx[2], andx[3]]));
        if words < 2
            || andx[0] == 0xFF
            || next < block + 1 + 2 * usize::from(words)
            || next >= length
        {
            break;
        }
        (command, block) = (andx[0], next);
    }
    found
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

/// Reads a server's stream of which some bytes have not come yet.
pub fn learn(stream: &[Option<u8>]) -> Learnt {
    known(stream).unwrap_or(Learnt::Nothing)
}

/// None where the next byte that matters has not come.
fn known(stream: &[Option<u8>]) -> Option<Learnt> {
    let bytes =
        |at: usize, len| -> Option<Vec<u8>> { stream.get(at..at + len)?.iter().copied().collect() };
    let (mut at, mut raw, mut negotiated) = (0, false, false);
    loop {
        let transport = bytes(at, 4)?;
        let length = usize::from(transport[1]) << 16
            | usize::from(transport[2]) << 8
            | usize::from(transport[3]);
        if !matches!(transport[0], 0 | 0x81..=0x85) || length > 0x1FFFF {
            return Some(Learnt::Verifies);
        }
        let begin = at + 4;
        at = begin + length;
        if transport[0] != 0 {
            continue;
        }
        let bare = std::mem::take(&mut raw);
        if length < 5 {
            continue;
        }
        let start = bytes(begin, 5)?;
        match &start[..4] {
            b"\xFFSMB" => raw = start[4] == 0x1D,
            _ if bare => continue,
            [0xFC..=0xFE, b'S', b'M', b'B'] if !negotiated => return Some(Learnt::Upgraded),
            _ => return Some(Learnt::Verifies),
        }
        let (mut command, mut block) = (start[4], 32);
        if length < 32 || !(command == 0x72 || ANDX.contains(&command)) {
            continue;
        }
        let header = bytes(begin, 32)?;
        for depth in 1.. {
            let least = match command {
                0x72 => 24,
                0x73 => 7,
                _ if ANDX.contains(&command) => 5,
                _ => break,
            };
            if block + least > length {
                break;
            }
            let words = bytes(begin + block, least)?;
            let next = usize::from(u16::from_le_bytes([words[3], words[4]]));
            let follows = command != 0x72 && words[0] >= 2 && words[1] != 0xFF;
            let leads_on = next > block + 2 * usize::from(words[0]) && next < length && depth < 16;
            let is_response = header[9] & 0x80 != 0;
            if is_response && command == 0x72 {
                negotiated = matches!(words[0], 13 | 17);
            }
            if is_response && command == 0x73 {
                let accepted = match header[5..9] {
                    [0, 0, 0, 0] => true,
                    [0x16, 0, 0, 0xC0] => false,
                    _ => follows && leads_on,
                };
                if accepted && words[5] & 1 == 0 {
                    return Some(Learnt::Verifies);
                }
            }
            if !follows || !leads_on {
                break;
            }
            (command, block) = (words[1], next);
        }
    }
}
