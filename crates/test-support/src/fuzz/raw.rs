//! Tracks the raw transfers of a connection from the bytes that were captured of both sides.

use crate::smb::oracle::{RawRequest, ServerView};

/// Maximum number of requests that the hook remembers at a time.
const MAX_REQUESTS: usize = 16;

/// The raw requests of a client and the responses to them.
#[derive(Debug, Default)]
pub(super) struct RawTransfers {
    requests: Vec<RawRequest>,
    /// For each raw read, the earliest position of its data in the server's stream.
    reads: Vec<Option<usize>>,
    /// Raw writes that the server has not answered.
    unanswered: Vec<RawRequest>,
    /// An accepted raw write that awaits its final response.
    completing: Option<u16>,
    /// Start of the server's next message in its stream.
    next: usize,
    /// Number of responses that were handled.
    responses: usize,
}

impl RawTransfers {
    /// Adds the requests after those that are known; `requests` are all so far.
    pub(super) fn add_requests(&mut self, requests: &[RawRequest]) {
        for request in &requests[self.requests.len()..] {
            match request.command {
                0x1D => self.unanswered.push(*request),
                _ => self.reads.push(None),
            }
            self.requests.push(*request);
        }
    }

    /// The server, which has acknowledged `acknowledged` bytes, sends data at offset `at`.
    pub(super) fn on_server_data(&mut self, acknowledged: usize, at: usize) {
        let ends = self.requests.iter().filter(|r| r.command == 0x1A);
        for (from, request) in self.reads.iter_mut().zip(ends) {
            if request.end <= acknowledged {
                let at = at.max(self.next);
                *from = Some(from.map_or(at, |from| from.min(at)));
            }
        }
    }

    pub(super) fn reads(&self) -> &[Option<usize>] {
        &self.reads
    }

    /// Handles new responses; returns the raw writes that they decide, by the ends of their
    /// messages, and whether the server accepted them.
    pub(super) fn on_responses(
        &mut self,
        said: &ServerView,
        acknowledged: usize,
    ) -> Vec<(usize, bool)> {
        let mut known = Vec::new();
        for &(command, status, mid) in &said.raw_answers[self.responses..] {
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
        (self.responses, self.next) = (said.raw_answers.len(), said.next);
        known
    }

    pub(super) fn exceeds_limit(&self) -> bool {
        self.requests.len() > MAX_REQUESTS
    }
}
