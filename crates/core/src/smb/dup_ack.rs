//! Acknowledgements in the server's name.
//!
//! What is held the server does not see, so it cannot say that something before it is missing,
//! and the client would find out by its timer only. So for each segment that is held the client
//! gets what a receiver sends that keeps it (RFC 5681 section 3.2): the server's last
//! acknowledgement again and, where both ends have agreed on SACK, what is held.
//!
//! They wait until the server has acknowledged all that passed. Before that its own
//! acknowledgements are on their way, and the same number again would make the client send what
//! has arrived.
//!
//! A receiver may lose what it has told of in a block (RFC 2018 section 8): so it is when what was
//! held gets lost on its way from here to the server.

use crate::tcp_stream::position::Position;
use std::collections::VecDeque;

/// As many blocks as fit beside timestamps (RFC 2018 section 3).
const MAX_BLOCKS: usize = 3;
/// The most acknowledgements that wait: as many as a window of 256 KB in full-sized segments has.
const MAX_PENDING: usize = 192;

/// The blocks of a SACK option, each with its first number and the one behind its last.
pub type Blocks = [Option<(u32, u32)>; MAX_BLOCKS];

/// From a place in the client's stream to behind another.
type Block = (Position, Position);

/// What the client of a connection has to be told of what is held.
#[derive(Debug)]
pub(super) struct DupAckGenerator {
    pub selective: bool,
    /// Behind the last byte that went on to the server.
    passed: Position,
    acknowledged: Position,
    /// Segments that are held, in the order in which they came.
    pending: VecDeque<Block>,
    /// What the client was told; the newest first, none touches another.
    told: Vec<Block>,
}

impl DupAckGenerator {
    /// Of a client whose stream begins at `start`; `selective` if both ends speak SACK.
    pub fn new(start: Position, selective: bool) -> Self {
        Self {
            selective,
            passed: start,
            acknowledged: start,
            pending: VecDeque::new(),
            told: Vec::new(),
        }
    }

    /// Behind what went on to the server, and behind what it has.
    pub fn reached(&self) -> (Position, Position) {
        (self.passed, self.acknowledged)
    }

    /// All of a segment of the client's went on that ends here.
    pub fn passed(&mut self, end: Position) {
        self.passed = self.passed.max(end);
    }

    /// The server has all before `ack`.
    pub fn acknowledged(&mut self, ack: Position) {
        self.acknowledged = self.acknowledged.max(ack);
    }

    /// `len` bytes from `at` on are held, which came in segments of `size` bytes.
    pub fn held(&mut self, at: Position, len: usize, size: usize) {
        for start in (0..len).step_by(size.max(1)) {
            if self.pending.len() < MAX_PENDING {
                let end = len.min(start + size.max(1));
                self.pending.push_back((at.plus(start), at.plus(end)));
            }
        }
    }

    /// What was held was dropped: nothing is said of it any more (RFC 2018 section 8).
    pub fn dropped(&mut self) {
        self.pending.clear();
        self.told.clear();
    }

    /// What the next acknowledgement says; nothing that begins before `need` is held any more.
    pub fn next(&mut self, need: Position) -> Option<Blocks> {
        if self.pending.is_empty() || self.acknowledged < self.passed {
            return None;
        }
        let newest = loop {
            match self.pending.pop_front()? {
                (start, _) if start <= need => {}
                held => break held,
            }
        };
        let mut blocks = Blocks::default();
        if self.selective {
            self.told.retain(|(start, _)| *start > need);
            self.tell(newest);
            for (block, (start, end)) in blocks.iter_mut().zip(&self.told) {
                *block = Some((start.seq(), end.seq()));
            }
        }
        Some(blocks)
    }

    /// The first block is the one that the newest segment is in (RFC 2018 section 4).
    fn tell(&mut self, newest: Block) {
        let mut whole = newest;
        self.told.retain(|(start, end)| {
            let touches = *start <= whole.1 && whole.0 <= *end;
            if touches {
                whole = (whole.0.min(*start), whole.1.max(*end));
            }
            !touches
        });
        self.told.insert(0, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's stream begins at number 1, in the hook's terms; the first 100 bytes passed.
    fn duplicates(selective: bool) -> (DupAckGenerator, Position) {
        let start = Position::after_syn(0);
        let mut duplicates = DupAckGenerator::new(start, selective);
        duplicates.passed(start.plus(100));
        (duplicates, start)
    }

    fn all(duplicates: &mut DupAckGenerator, need: Position) -> Vec<Vec<(u32, u32)>> {
        std::iter::from_fn(|| duplicates.next(need))
            .map(|blocks| blocks.into_iter().flatten().collect())
            .collect()
    }

    #[test]
    fn rfc2018_4_the_first_block_has_the_segment_that_triggered_it() {
        let (mut duplicates, start) = duplicates(true);
        let need = start.plus(100);
        duplicates.acknowledged(need);
        for at in [200, 400, 210, 600, 800] {
            duplicates.held(start.plus(at), 10, 10);
        }
        assert_eq!(
            all(&mut duplicates, need),
            [
                vec![(201, 211)],
                vec![(401, 411), (201, 211)],
                vec![(201, 221), (401, 411)],
                vec![(601, 611), (201, 221), (401, 411)],
                vec![(801, 811), (601, 611), (201, 221)],
            ]
        );
        // The gap before 200 is filled, and the one between two blocks.
        duplicates.held(start.plus(611), 189, 1000);
        let need = start.plus(220);
        assert_eq!(
            all(&mut duplicates, need),
            [vec![(612, 811), (601, 611), (401, 411)]]
        );
        duplicates.held(start.plus(610), 1, 1000);
        assert_eq!(all(&mut duplicates, need), [vec![(601, 811), (401, 411)]]);
    }

    #[test]
    fn rfc5681_3_2_one_for_each_segment_and_none_for_what_has_gone_on() {
        let (mut duplicates, start) = duplicates(false);
        let need = start.plus(100);
        duplicates.acknowledged(need);
        duplicates.held(start.plus(110), 25, 10);
        assert_eq!(all(&mut duplicates, need), vec![vec![]; 3]);
        duplicates.held(start.plus(110), 25, 10);
        assert_eq!(all(&mut duplicates, start.plus(125)), vec![vec![]; 1]);
        for _ in 0..3 {
            duplicates.held(start.plus(200), 100, 1);
        }
        assert_eq!(all(&mut duplicates, need).len(), MAX_PENDING);
    }

    #[test]
    fn they_wait_for_the_servers_own() {
        let (mut duplicates, start) = duplicates(true);
        let need = start.plus(150);
        duplicates.held(start.plus(160), 10, 10);
        duplicates.acknowledged(start.plus(99));
        assert_eq!(duplicates.next(need), None);
        duplicates.acknowledged(start.plus(100));
        // Late ones take nothing back.
        duplicates.passed(start.plus(50));
        duplicates.acknowledged(start.plus(40));
        assert_eq!(all(&mut duplicates, need), [[(161, 171)]]);
    }
}
