//! Information that a diagnosis needs and the capture does not contain.

use super::{Evidence, counted};

/// The limits of a capture, each in words.
pub(super) fn limits(evidence: &Evidence<'_>) -> Vec<String> {
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
