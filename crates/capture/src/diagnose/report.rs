//! A diagnosis as data. The module [`super::verdict`] renders it as text.

use super::capture::End;
use super::findings::{Counts, Ending, Request};
use super::timestamp::Timestamp;
use super::unread::Unread;
use super::verdict::{self, Evidence, Verdict};
use serde::Serialize;
use std::net::SocketAddr;

/// A diagnosis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The problem, the confidence in it, and the remedy.
    pub verdict: Verdict,
    /// The capture that was read.
    pub capture: Capture,
    /// The counts of its content.
    pub counts: Counts,
    /// The session setups with VcNumber 0, the first 10,000.
    pub requests: Vec<Request>,
    /// Connections that a server ended without one, the first 10,000.
    pub endings: Vec<Ending>,
    /// The connections that were found on the other side of the NAT.
    pub matched: Vec<Matched>,
}

impl Report {
    pub(super) fn new(
        capture: Capture,
        counts: Counts,
        requests: Vec<Request>,
        endings: Vec<Ending>,
    ) -> Self {
        let verdict = verdict::judge(Evidence {
            capture: &capture,
            counts: &counts,
            requests: &requests,
            endings: &endings,
        });
        Self {
            verdict,
            capture,
            counts,
            requests,
            endings,
            matched: Vec::new(),
        }
    }

    /// Evaluates the findings.
    pub(super) fn judge(&mut self) {
        self.verdict = verdict::judge(Evidence {
            capture: &self.capture,
            counts: &self.counts,
            requests: &self.requests,
            endings: &self.endings,
        });
    }
}

/// The capture that was read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capture {
    /// The reason why the reading ended.
    pub end: End,
    /// Number of frames.
    pub frames: u64,
    /// The time of the first frame.
    pub first: Option<Timestamp>,
    /// The time of the last frame.
    pub last: Option<Timestamp>,
    /// The link types that it was captured on.
    pub links: Vec<String>,
    /// The maximum length of frames in the capture, if frames were truncated.
    pub snap_length: Option<u64>,
    /// Frames that were not understood, by reason.
    pub unread: Vec<Unread>,
    /// Frames that came too late to be put in the order of their times.
    pub out_of_order: u64,
}

/// A connection on both sides of a NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Matched {
    /// The client's end in the capture.
    pub client: SocketAddr,
    /// The client's end in the other capture.
    pub inner: SocketAddr,
    /// The server's end.
    pub server: SocketAddr,
}
