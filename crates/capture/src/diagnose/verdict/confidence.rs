//! Rates the confidence in a verdict.

use super::{Evidence, Kind};
use crate::diagnose::Request;
use serde::Serialize;
use std::time::Duration;

/// The confidence in a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Other causes are as likely.
    Possible,
    /// Other causes are less likely.
    Likely,
    /// Other causes are unlikely.
    Certain,
}

/// Rates a verdict; `limits` are those of the capture.
pub(super) fn confidence(kind: Kind, evidence: &Evidence<'_>, limits: &[String]) -> Confidence {
    let counts = evidence.counts;
    let highest = match (limits.is_empty(), counts.undecided_sides) {
        (true, _) => Confidence::Certain,
        // Captured disconnections remain evidence; missing ones do not exclude it.
        (false, 0) if kind == Kind::CutOff => Confidence::Likely,
        (false, _) => Confidence::Possible,
    };
    let is_mixed = counts.smb2 + counts.encrypted < counts.connections;
    let rated = match kind {
        Kind::CutOff => cut_off(evidence),
        Kind::CutOffThroughNat if counts.victims_elsewhere > 1 => Confidence::Likely,
        Kind::LostBefore if counts.lost > 1 => Confidence::Likely,
        Kind::Unaffected if evidence.requests.iter().any(|r| r.seen_alive > 0) => {
            Confidence::Likely
        }
        Kind::Smb2 | Kind::Encrypted if !is_mixed => Confidence::Certain,
        Kind::CameBack | Kind::NoZero | Kind::Rewritten => Confidence::Likely,
        _ => Confidence::Possible,
    };
    rated.min(highest)
}

/// A server that acts on VcNumber 0 ends all other connections at once. Compares that with the
/// capture.
fn cut_off(evidence: &Evidence<'_>) -> Confidence {
    let requests = evidence.requests;
    let victims = || requests.iter().flat_map(|request| &request.victims);
    let (all, busy) = (victims().count(), victims().filter(|v| v.busy).count());
    let quick = victims().filter(|v| v.delay_ms.is_some_and(|ms| ms < 250.0));
    let doubtful = victims().filter(|v| v.odd_ttl || v.answers).count();
    let unaffected: u64 = requests.iter().filter_map(|r| r.unaffected).sum();
    if was_ending_others(evidence) || busy == 0 || all as u64 <= unaffected {
        Confidence::Possible
    } else if all > 1 && unaffected == 0 && doubtful == 0 && quick.count() == all {
        Confidence::Certain
    } else {
        Confidence::Likely
    }
}

/// Whether the server, within a second of such a logon, also ended connections that the logon
/// cannot have affected, as a server does while it is stopped.
pub(super) fn was_ending_others(evidence: &Evidence<'_>) -> bool {
    const NEAR: Duration = Duration::from_secs(1);
    let culprits = evidence.requests.iter().filter(|r| !r.victims.is_empty());
    let is_near = |request: &Request| {
        evidence.endings.iter().any(|ending| {
            let between = ending.time.since(request.time) + request.time.since(ending.time);
            !ending.answers && ending.server.ip() == request.server.ip() && between < NEAR
        })
    };
    culprits.into_iter().any(is_near)
}
