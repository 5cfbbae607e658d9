//! How long a client takes to answer, as far as its handshake shows: from the server's SYN to what
//! the client says next (RFC 9293 section 3.5). It is never too short a time: of a SYN that the
//! server repeats the first one counts, whichever the client answers.

use std::time::{Duration, Instant};

/// A silence shorter than this means nothing, however near the client is.
const SHORTEST: Duration = Duration::from_secs(1);
/// A longer one nobody waits for, whatever the handshake took.
const LONGEST: Duration = Duration::from_secs(10);

/// The round trip between the endpoint and a flow's client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum RoundTrip {
    #[default]
    Unknown,
    /// The server's SYN went on to the client at this time.
    Since(Instant),
    Took(Duration),
}

impl RoundTrip {
    /// The client says something that is no SYN.
    pub fn answered(&mut self, now: Instant) {
        if let Self::Since(start) = *self {
            *self = Self::Took(now.saturating_duration_since(start));
        }
    }

    /// How long the client may be silent before it is taken to be gone: three round trips, so
    /// that a probe and its answer may be lost or late once.
    pub fn probe_timeout(self) -> Duration {
        match self {
            Self::Took(time) => (time * 3).clamp(SHORTEST, LONGEST),
            Self::Unknown | Self::Since(_) => SHORTEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_three_round_trips_within_bounds() {
        let start = Instant::now();
        let patience = |millis| {
            let mut trip = RoundTrip::Since(start);
            trip.answered(start + Duration::from_millis(millis));
            // Only the first answer counts.
            trip.answered(start + Duration::from_secs(60));
            trip.probe_timeout().as_millis()
        };
        assert_eq!(
            [0, 20, 333, 334, 1500, 60_000].map(patience),
            [1000, 1000, 1000, 1002, 4500, 10_000]
        );
        assert_eq!(RoundTrip::Unknown.probe_timeout(), SHORTEST);
        assert_eq!(RoundTrip::Since(start).probe_timeout(), SHORTEST);
    }
}
