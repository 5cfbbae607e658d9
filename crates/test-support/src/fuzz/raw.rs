//! What the raw transfers of a connection mean, from what has come by of both sides.

use crate::smb::oracle::{RawRequest, Said};

/// More requests than the hook remembers at a time.
const MANY: usize = 16;

/// The raw requests of a client and what the server said to them.
#[derive(Debug, Default)]
pub struct Raw {
    requests: Vec<RawRequest>,
    /// For each raw read, from where in the server's stream on its data may begin.
    reads: Vec<Option<usize>>,
    /// Raw writes that the server has not answered.
    unanswered: Vec<RawRequest>,
    /// An accepted one whose final response may come.
    completing: Option<u16>,
    /// Where the server's next message begins, and how many of its answers were heard.
    next: usize,
    answers: usize,
}

impl Raw {
    /// These came by so far.
    pub fn requested(&mut self, requests: &[RawRequest]) {
        for request in &requests[self.requests.len()..] {
            match request.command {
                0x1D => self.unanswered.push(*request),
                _ => self.reads.push(None),
            }
            self.requests.push(*request);
        }
    }

    /// The server, which has `acknowledged` so much of the client's stream, says what begins at `at`.
    pub fn say(&mut self, acknowledged: usize, at: usize) {
        let ends = self.requests.iter().filter(|r| r.command == 0x1A);
        for (from, request) in self.reads.iter_mut().zip(ends) {
            if request.end <= acknowledged {
                let at = at.max(self.next);
                *from = Some(from.map_or(at, |from| from.min(at)));
            }
        }
    }

    pub fn reads(&self) -> &[Option<usize>] {
        &self.reads
    }

    /// The server has said this. Returns raw writes, by the ends of their messages, to which the
    /// answer is known now, and whether it is yes.
    pub fn heard(&mut self, said: &Said, acknowledged: usize) -> Vec<(usize, bool)> {
        let mut known = Vec::new();
        for &(command, status, mid) in &said.raw_answers[self.answers..] {
            if command == 0x20 && self.completing == Some(mid) {
                self.completing = None;
                continue;
            }
            let meant = |r: &RawRequest| r.mid == mid && r.end <= acknowledged;
            let Some(place) = self.unanswered.iter().position(meant) else {
                continue;
            };
            let request = self.unanswered.drain(..=place).next_back();
            let accepted = command == 0x1D && status == 0;
            if accepted {
                self.completing = Some(mid);
            }
            if let (Some(request), true) = (request, self.unanswered.is_empty()) {
                known.push((request.end, accepted));
            }
        }
        (self.answers, self.next) = (said.raw_answers.len(), said.next);
        known
    }

    pub fn is_too_much(&self) -> bool {
        self.requests.len() > MANY
    }
}
