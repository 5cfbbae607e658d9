//! Explains a report to readers who do not know what a VcNumber is.
//!
//! A verdict does not claim what the capture cannot show: the [`limits`] of the capture reduce its
//! confidence, and are listed.

mod confidence;
mod kind;
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
    /// A description of the events.
    pub happened: String,
    /// The reasons for the confidence.
    pub because: String,
    /// The remedy.
    pub advice: String,
}

/// All findings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    pub capture: &'a Capture,
    pub counts: &'a Counts,
    pub requests: &'a [Request],
    pub endings: &'a [Ending],
}

/// Evaluates the findings.
pub(super) fn judge(evidence: Evidence<'_>) -> Verdict {
    let kind = kind::kind(&evidence);
    let limits = limits(&evidence);
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

/// Describes the limits of a capture: information that a diagnosis needs and the capture lacks.
fn limits(evidence: &Evidence<'_>) -> Vec<String> {
    let (capture, counts) = (evidence.capture, evidence.counts);
    let mut limits = Vec::new();
    let mut limit = |count: u64, noun: &str, text: &str| {
        if count > 0 {
            limits.push(format!("{} {text}", counted(count, noun)));
        }
    };
    limit(
        counts.only_to_server,
        "connection",
        "without the server's packets",
    );
    limit(
        counts.only_from_server,
        "connection",
        "without the client's packets",
    );
    limit(
        counts.cut_session_setups,
        "logon message",
        "cut off before the VcNumber",
    );
    limit(
        counts.undecided_sides,
        "connection",
        "captured twice, and neither TTL nor addresses show which copy is on the server's side",
    );
    limit(
        capture.out_of_order,
        "packet",
        "too far out of order: run \"reordercap FILE SORTED\" and diagnose that",
    );
    limit(counts.evicted, "connection", "dropped to bound the memory");
    let unread = capture.unread.iter().filter(|unread| unread.may_hide_smb);
    for unread in unread {
        limits.push(format!(
            "{} not read ({})",
            counted(unread.frames, "frame"),
            unread.reason
        ));
    }
    limits
}

fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}
