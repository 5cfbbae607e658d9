//! Session setups with VcNumber 0 in a stream of which no message's position is known, since the
//! endpoint was killed or stopped within a message.
//!
//! Each message begins with the four bytes of its protocol. So a search of all bytes finds every
//! session setup, and also copies of one in the data of files. The connection is then reset: the
//! client logs on again, and the next connection is followed from its beginning.
//!
//! Segments may arrive in any order. A setup may lie in two of them, so the bytes at the edges of the
//! last segments are kept. The module never changes a byte.

use std::collections::VecDeque;
use vcgate_wire::packet::Payload;
use vcgate_wire::smb1::{self, Block, Link, VC_NUMBER, command};
use vcgate_wire::tcp::SeqNumber;

/// Length of the bytes that decide on a session setup, but the last: one that is not whole in a
/// segment begins within this distance of its end.
const EDGE_LEN: usize = smb1::HEADER_LEN + VC_NUMBER.end - 1;
/// Maximum number of edges that are kept, two for each segment.
const MAX_EDGES: usize = 32;
/// Maximum number of blocks in a chain that is followed.
const MAX_LINKS: usize = 16;

/// Bytes at an edge of a segment.
#[derive(Debug)]
struct Edge {
    at: SeqNumber,
    bytes: Vec<u8>,
}

impl Edge {
    /// Returns the number of its bytes before `seq`, if that is in it or at its end.
    fn len_before(&self, seq: SeqNumber) -> Option<usize> {
        let len = usize::try_from(seq.distance_from(self.at)).ok()?;
        (len <= self.bytes.len()).then_some(len)
    }
}

/// The search in a client's stream.
#[derive(Debug, Default)]
pub(super) struct Search {
    edges: VecDeque<Edge>,
}

impl Search {
    /// Searches a segment whose payload begins at `seq`. Returns whether it completes a session setup
    /// with VcNumber 0, or a chain that may contain one.
    pub(super) fn finds(&mut self, seq: SeqNumber, payload: &Payload<'_>) -> bool {
        let end = seq.plus(payload.len() as u32);
        let mut bytes = self.before(seq);
        let start = bytes.len();
        while bytes.len() < start + payload.len() {
            bytes.extend_from_slice(payload.run(bytes.len() - start));
        }
        let own_end = bytes.len();
        bytes.extend(self.after(end));
        let first = &bytes[start..bytes.len().min(start + EDGE_LEN)];
        let last = &bytes[own_end.saturating_sub(EDGE_LEN)..own_end];
        let last_at = SeqNumber(end.0.wrapping_sub(last.len() as u32));
        let edges = [(seq, first), (last_at, last)].map(|(at, bytes)| Edge {
            at,
            bytes: bytes.to_vec(),
        });
        self.edges.extend(edges);
        let excess = self.edges.len().saturating_sub(MAX_EDGES);
        self.edges.drain(..excess);
        contains_zero(&bytes)
    }

    /// Returns the known bytes that end before `seq`.
    fn before(&self, seq: SeqNumber) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < EDGE_LEN {
            let at = SeqNumber(seq.0.wrapping_sub(bytes.len() as u32));
            let known = self.edges.iter();
            let known = known.filter_map(|edge| Some(&edge.bytes[..edge.len_before(at)?]));
            match known.max_by_key(|known| known.len()) {
                Some(known) if !known.is_empty() => bytes.splice(..0, known.iter().copied()),
                _ => break,
            };
        }
        bytes
    }

    /// Returns the known bytes that begin at `seq`.
    fn after(&self, seq: SeqNumber) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < EDGE_LEN {
            let at = seq.plus(bytes.len() as u32);
            let known = self.edges.iter();
            let known = known.filter_map(|edge| Some(&edge.bytes[edge.len_before(at)?..]));
            match known.max_by_key(|known| known.len()) {
                Some(known) if !known.is_empty() => bytes.extend_from_slice(known),
                _ => break,
            }
        }
        bytes
    }
}

/// Whether the bytes contain a message with a session setup that has VcNumber 0.
fn contains_zero(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(next) = rest.iter().position(|byte| *byte == smb1::PROTOCOL[0]) {
        rest = &rest[next..];
        if rest.starts_with(&smb1::PROTOCOL) && has_zero(rest) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Whether a message, of which at least the protocol is there, has a session setup with VcNumber 0.
/// A chain whose blocks are not all there may have one. A session setup of which only the beginning
/// is there is found when the next segment arrives.
fn has_zero(message: &[u8]) -> bool {
    let Some(&first) = message.get(smb1::PROTOCOL.len()) else {
        return false;
    };
    let mut link = Link::first(first);
    for _ in 0..MAX_LINKS {
        let is_first = link.at == smb1::HEADER_LEN;
        let is_setup = link.command == command::SESSION_SETUP_ANDX;
        if !is_setup && !command::is_andx(link.command) {
            return false;
        }
        let bytes = message.get(link.at..).unwrap_or_default();
        let block = Block::from(bytes);
        if is_setup && block.vc_number() == Some(0) {
            return true;
        }
        let is_whole = bytes.len()
            >= if is_setup {
                VC_NUMBER.end
            } else {
                smb1::ANDX_LEN
            };
        if !is_whole {
            return !is_first;
        }
        match link.next(block, usize::MAX) {
            Ok(Some(next)) => link = next,
            Ok(None) | Err(smb1::BadChain) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETUP: u8 = command::SESSION_SETUP_ANDX;
    const LOGOFF: u8 = command::LOGOFF_ANDX;

    /// A message whose blocks have these commands, and the VcNumber of its session setups.
    fn message(commands: &[u8], vc_number: u16) -> Vec<u8> {
        const BLOCK_LEN: usize = 1 + 2 * 13 + 2;
        let mut message = smb1::PROTOCOL.to_vec();
        message.push(commands[0]);
        message.resize(smb1::HEADER_LEN, 1);
        for (n, command) in commands.iter().enumerate() {
            let next = commands.get(n + 1).copied().unwrap_or(command::NONE);
            let at = smb1::HEADER_LEN + (n + 1) * BLOCK_LEN;
            let mut block = vec![7; BLOCK_LEN];
            block[0] = 13;
            block[1] = next;
            block[3..5].copy_from_slice(&(at as u16).to_le_bytes());
            if *command == SETUP {
                block[VC_NUMBER].copy_from_slice(&vc_number.to_le_bytes());
            }
            message.extend(block);
        }
        message
    }

    #[test]
    fn a_zero_is_found_wherever_it_is_in_a_chain() {
        assert!(contains_zero(&message(&[SETUP], 0)));
        assert!(!contains_zero(&message(&[SETUP], 1)));
        assert!(contains_zero(&message(&[LOGOFF, SETUP], 0)));
        assert!(!contains_zero(&message(&[LOGOFF, SETUP], 3)));
        assert!(contains_zero(&message(&[LOGOFF, LOGOFF, SETUP], 0)));
        assert!(!contains_zero(&message(&[LOGOFF, LOGOFF], 0)));
        assert!(!contains_zero(&message(&[command::NEGOTIATE], 0)));
        // The chain continues in bytes that are not there.
        let chained = message(&[LOGOFF, SETUP], 3);
        assert!(contains_zero(&chained[..chained.len() - 25]));
        assert!(!contains_zero(&smb1::PROTOCOL));
    }

    proptest! {
        /// Any segments in any order find what is in the whole stream.
        #[test]
        fn any_segments_find_it(
            before in proptest::collection::vec(0_u8..4, 0..80),
            commands in prop_oneof![Just(vec![SETUP]), Just(vec![command::NEGOTIATE])],
            vc_number in 0_u16..3,
            after in proptest::collection::vec(0_u8..4, 0..80),
            size in 12_usize..70,
            order in any::<u64>(),
            isn in prop_oneof![Just(u32::MAX - 60), any::<u32>()],
        ) {
            let stream = [before, message(&commands, vc_number), after].concat();
            let mut segments: Vec<_> = stream.chunks(size).enumerate().collect();
            // Neighbours are exchanged, as a network does.
            for n in 1..segments.len() {
                if order >> (n % 64) & 1 == 1 {
                    segments.swap(n - 1, n);
                }
            }
            let mut search = Search::default();
            let found: Vec<_> = segments
                .iter()
                .map(|(n, bytes)| {
                    let mut bytes = bytes.to_vec();
                    let seq = SeqNumber(isn).plus((n * size) as u32);
                    search.finds(seq, &Payload::new(&mut bytes))
                })
                .collect();
            prop_assert_eq!(found.contains(&true), contains_zero(&stream));
        }
    }
}
