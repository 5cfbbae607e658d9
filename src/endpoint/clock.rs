//! The time of day of what the core, which has no clock, tells as an [`Instant`].

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Both clocks at one moment, to tell the time of day of an [`Instant`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant, SystemTime);

impl Clock {
    pub(super) fn read() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    pub(super) fn time_of_day(self, at: Instant) -> SystemTime {
        let time = match at.checked_duration_since(self.0) {
            Some(later) => self.1.checked_add(later),
            None => self.1.checked_sub(self.0.saturating_duration_since(at)),
        };
        time.unwrap_or(self.1)
    }
}

/// Nanoseconds since 1970, until 2554.
pub(super) fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn before_and_after_the_reading() {
        const SECOND: Duration = Duration::from_secs(1);
        let clock = Clock::read();
        let Clock(at, time) = clock;
        assert_eq!(clock.time_of_day(at), time);
        assert_eq!(clock.time_of_day(at + SECOND), time + SECOND);
        assert_eq!(clock.time_of_day(at - SECOND), time - SECOND);
        assert_eq!(unix_nanos(UNIX_EPOCH + SECOND), 1_000_000_000);
    }
}
