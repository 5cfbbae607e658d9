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
        let ago = self.0.saturating_duration_since(at);
        self.1.checked_sub(ago).unwrap_or(self.1)
    }
}

/// Milliseconds since 1970.
pub(super) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since 1970.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
