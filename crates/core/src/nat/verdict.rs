//! What becomes of a packet, before it is counted and its sender is told.

use super::Outcome;
use super::counters::Reason;
use super::icmp::Refusal;

/// Why a packet goes no further.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    /// Without a word.
    Drop(Reason),
    /// With an ICMP error to its sender.
    Refuse(Reason, Refusal),
    /// It waits.
    Held,
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Drop(reason)
    }
}

/// Where a client's packet for the LAN address itself goes (hairpin).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The mapping of its port is here.
    Here,
    /// It is another shard's.
    Shard,
}

/// What became of a packet, before it is counted.
pub(super) type Verdict = Result<Outcome, Stop>;
