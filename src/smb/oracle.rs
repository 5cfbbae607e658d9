//! What the hook has to make of a client's stream, said in the plainest way: for tests.
//!
//! It has the whole stream, takes its time, and shares no code with the hook.

use std::collections::BTreeSet;

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

/// Rewrites the stream of a flow that has no number yet, in a group where the numbers `taken`
/// are in use; from the byte `verifies_from` on the server may verify signatures.
pub fn rewrite(stream: &[u8], taken: &BTreeSet<u16>, verifies_from: usize) -> Rewritten {
    let mut bytes = stream.to_vec();
    let mut asked = Vec::new();
    let mut number = None;
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
            if place >= verifies_from && is_signed(message) {
                continue;
            }
            let low = u16::from(stream[place]);
            let number: u16 = *number.get_or_insert_with(|| {
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
fn vc_numbers(message: &[u8], length: usize) -> Vec<usize> {
    const ANDX: [u8; 8] = [0x24, 0x2D, 0x2E, 0x2F, 0x73, 0x74, 0x75, 0xA2];
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

fn is_signed(message: &[u8]) -> bool {
    let signature = &message[14..22];
    message[10] & 4 != 0 && signature != [0; 8] && signature != b"BSRSPYL "
}
