//! The meaning of a report, for readers who have never setups of VcNumber.
//!
//! A verdict neither accuses nor exonerates on what the capture cannot show: the [`limits`] of the
//! capture lower its confidence, and are named.

mod confidence;
mod kind;
mod limits;
mod words;

use super::findings::{Counts, Ending, Request};
use super::report::Capture;
use serde::Serialize;

pub use confidence::Confidence;
pub use kind::Kind;

/// The problem, the confidence in it, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The problem.
    pub kind: Kind,
    /// The confidence in that.
    pub confidence: Confidence,
    /// The events, in words.
    pub happened: String,
    /// The reasons for the confidence.
    pub because: String,
    /// The remedy.
    pub advice: String,
}

/// All that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    pub capture: &'a Capture,
    pub counts: &'a Counts,
    pub requests: &'a [Request],
    pub endings: &'a [Ending],
}

/// Judges what was found.
pub(super) fn judge(evidence: Evidence<'_>) -> Verdict {
    let kind = kind::kind(&evidence);
    let limits = limits::limits(&evidence);
    let confidence = confidence::confidence(kind, &evidence, &limits);
    let mut because = words::because(kind, confidence, &evidence);
    let named = kind.names_limits() && !limits.is_empty();
    if named {
        because += &format!(
            " The capture does not show everything: {}.",
            limits.join("; ")
        );
    }
    Verdict {
        kind,
        confidence,
        happened: words::happened(kind, &evidence),
        because,
        advice: words::advice(kind, &evidence),
    }
}

fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}
