//! The time of a frame: nanoseconds since 1970, in UTC.

use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// The time when a frame was captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A time in nanoseconds since 1970.
    pub fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// The time since `earlier`; zero if this is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Formats the time as RFC 3339 does, with microseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Cannot fail: 64 bits of nanoseconds end in the year 2554.
        let time = jiff::Timestamp::from_nanosecond(self.0.into());
        let time = time.unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{time:.6}")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_utc() {
        let time = Timestamp::from_nanoseconds(1_234_567_890_123_456_789);
        assert_eq!(time.to_string(), "2009-02-13T23:31:30.123456Z");
        let _ = Timestamp::from_nanoseconds(u64::MAX).to_string();
    }
}
