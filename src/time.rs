//! Times as reports and the port log write them: RFC 3339 in UTC. Arguments may be local times.
//!
//! The calendar and the time zones come from jiff. Nothing here reads the clock.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that jiff can represent, at the end of the year 9999.
const MAX_SECONDS: u64 = 253_402_207_200;

/// Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(pub u64);

/// Milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimestampMillis(pub u64);

/// The error for a text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a time: write 2026-11-22T20:19:36Z, a local time such as \"2026-11-22 21:19\", or \
     Unix seconds"
)]
pub struct TimeError(String);

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_secs().min(MAX_SECONDS))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_secs(time.0)
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = TimeError;

    fn try_from(text: String) -> Result<Self, TimeError> {
        text.parse()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_second(self.0 as i64);
        time.unwrap_or(jiff::Timestamp::MAX).fmt(f)
    }
}

impl From<SystemTime> for TimestampMillis {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_secs().min(MAX_SECONDS) * 1000 + u64::from(since.subsec_millis()))
    }
}

impl From<TimestampMillis> for String {
    fn from(time: TimestampMillis) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for TimestampMillis {
    type Error = TimeError;

    fn try_from(text: String) -> Result<Self, TimeError> {
        let time: Result<jiff::Timestamp, _> = text.parse();
        let millis = time
            .ok()
            .and_then(|time| u64::try_from(time.as_millisecond()).ok());
        millis.map(Self).ok_or(TimeError(text))
    }
}

impl fmt::Display for TimestampMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0 as i64);
        write!(f, "{:.3}", time.unwrap_or(jiff::Timestamp::MAX))
    }
}

impl Timestamp {
    /// Parses a time that a user gives: as [`FromStr`] does, or without an offset, which is then a
    /// local time of the machine.
    ///
    /// # Errors
    /// If it is not a time, or not one from 1970 to 9999.
    pub fn parse_local(text: &str) -> Result<Self, TimeError> {
        Self::parse_in(text, &TimeZone::system())
    }

    fn parse_in(text: &str, zone: &TimeZone) -> Result<Self, TimeError> {
        text.parse().or_else(|bad| {
            // A date without a time would be its first second, which the user hardly means.
            let has_time = text.contains(':');
            let local = text.parse::<DateTime>().ok().filter(|_| has_time);
            // A local time that occurs twice, in autumn, is the first of the two.
            let time = local.and_then(|local| zone.to_timestamp(local).ok());
            time.and_then(Self::from_jiff).ok_or(bad)
        })
    }

    fn from_jiff(time: jiff::Timestamp) -> Option<Self> {
        let seconds = u64::try_from(time.as_second()).ok()?;
        (seconds <= MAX_SECONDS).then_some(Self(seconds))
    }
}

impl FromStr for Timestamp {
    type Err = TimeError;

    /// Parses Unix seconds, or RFC 3339 with `Z` or an offset. A space may replace the `T`;
    /// fractions of a second are ignored.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let time = match text.parse::<u64>() {
            Ok(seconds) => Some(Self(seconds)).filter(|time| time.0 <= MAX_SECONDS),
            Err(_) => text.parse().ok().and_then(Self::from_jiff),
        };
        time.ok_or_else(|| TimeError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timestamps_match_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (MAX_SECONDS, "9999-12-30T22:00:00Z"),
        ] {
            assert_eq!(Timestamp(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(seconds)));
        }
    }

    #[test]
    fn other_notations_are_accepted() {
        for text in [
            "1700000000",
            "2023-11-14 22:13:20Z",
            "2023-11-14T22:13:20.123Z",
            "2023-11-14T23:13:20+01:00",
            "2023-11-14T16:43:20-05:30",
        ] {
            assert_eq!(text.parse(), Ok(Timestamp(1_700_000_000)), "{text}");
        }
    }

    #[test]
    fn arguments_may_be_local_times() {
        // CET, without the database of time zones.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        for (text, seconds) in [
            ("2026-11-28 14:05", 1_795_871_100),
            ("2026-11-28T14:05", 1_795_871_100),
            ("2026-11-28 14:05:00", 1_795_871_100),
            ("2026-11-28T13:05:00Z", 1_795_871_100),
            ("2026-07-01 00:00", 1_782_856_800),
            // This time occurs twice: the first one.
            ("2026-10-25 02:30", 1_792_888_200),
            ("1795871100", 1_795_871_100),
        ] {
            assert_eq!(
                Timestamp::parse_in(text, &zone),
                Ok(Timestamp(seconds)),
                "{text}"
            );
        }
        for text in [
            "2026-11-28",
            "14:05",
            "2026-11-31 14:05",
            "yesterday",
            "1960-01-01 00:00",
        ] {
            assert!(Timestamp::parse_in(text, &zone).is_err(), "{text}");
        }
    }

    #[test]
    fn other_texts_are_rejected() {
        for text in [
            "",
            "now",
            "-1",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-04-31T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:13:20+1:00",
            "2023-11-14 22:13",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "253402207201",
            "2023-+1-14T22:13:20Z",
            "2023-11-14T22:13:20ZZ",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn seconds_round_trip(seconds in 0..=MAX_SECONDS) {
            prop_assert_eq!(Timestamp(seconds).to_string().parse(), Ok(Timestamp(seconds)));
        }

        #[test]
        fn milliseconds_round_trip(millis in 0..=MAX_SECONDS * 1000) {
            prop_assert_eq!(TimestampMillis::try_from(TimestampMillis(millis).to_string()), Ok(TimestampMillis(millis)));
        }

        #[test]
        fn any_text_is_a_time_or_an_error(text: String) {
            let _ = text.parse::<Timestamp>();
            let _ = Timestamp::parse_in(&text, &TimeZone::UTC);
            let _ = TimestampMillis::try_from(text);
        }
    }
}
