//! Times as reports and the port log write them: RFC 3339, UTC. A user may also give a local time.
//! The calendar and the time zones are jiff's.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The last second that jiff knows, at the end of the year 9999, as far as RFC 3339 goes.
const LAST: u64 = 253_402_207_200;

/// Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(pub u64);

/// Milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(pub u64);

/// What is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a time: write 2026-11-22T20:19:36Z, a local time such as \"2026-11-22 21:19\", or \
     Unix seconds"
)]
pub struct BadTime(String);

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_secs().min(LAST))
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = BadTime;

    fn try_from(text: String) -> Result<Self, BadTime> {
        text.parse()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_second(self.0 as i64);
        time.unwrap_or(jiff::Timestamp::MAX).fmt(f)
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_secs().min(LAST) * 1000 + u64::from(since.subsec_millis()))
    }
}

impl From<Moment> for String {
    fn from(time: Moment) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = BadTime;

    fn try_from(text: String) -> Result<Self, BadTime> {
        let time: Result<jiff::Timestamp, _> = text.parse();
        let millis = time
            .ok()
            .and_then(|time| u64::try_from(time.as_millisecond()).ok());
        millis.map(Self).ok_or(BadTime(text))
    }
}

impl fmt::Display for Moment {
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
    pub fn parse_local(text: &str) -> Result<Self, BadTime> {
        Self::parse_in(text, &TimeZone::system())
    }

    fn parse_in(text: &str, zone: &TimeZone) -> Result<Self, BadTime> {
        text.parse().or_else(|bad| {
            // A date alone would be its first second, which is hardly meant.
            let has_time = text.contains(':');
            let local = text.parse::<DateTime>().ok().filter(|_| has_time);
            // Of the two that a clock shows twice in autumn, the first.
            let time = local.and_then(|local| zone.to_timestamp(local).ok());
            time.and_then(Self::from_jiff).ok_or(bad)
        })
    }

    fn from_jiff(time: jiff::Timestamp) -> Option<Self> {
        let seconds = u64::try_from(time.as_second()).ok()?;
        (seconds <= LAST).then_some(Self(seconds))
    }
}

impl FromStr for Timestamp {
    type Err = BadTime;

    /// Unix seconds, or RFC 3339 with `Z` or an offset; a space may stand for the `T`, and what
    /// is smaller than a second is ignored.
    fn from_str(text: &str) -> Result<Self, BadTime> {
        let time = match text.parse::<u64>() {
            Ok(seconds) => Some(Self(seconds)).filter(|time| time.0 <= LAST),
            Err(_) => text.parse().ok().and_then(Self::from_jiff),
        };
        time.ok_or_else(|| BadTime(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST, "9999-12-30T22:00:00Z"),
        ] {
            assert_eq!(Timestamp(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(seconds)));
        }
    }

    #[test]
    fn other_ways_to_write_the_same() {
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
    fn a_user_may_give_local_time() {
        // CET, without the database of time zones.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        for (text, seconds) in [
            ("2026-11-28 14:05", 1_795_871_100),
            ("2026-11-28T14:05", 1_795_871_100),
            ("2026-11-28 14:05:00", 1_795_871_100),
            ("2026-11-28T13:05:00Z", 1_795_871_100),
            ("2026-07-01 00:00", 1_782_856_800),
            // The clock shows it twice: the first one.
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
    fn what_is_no_time() {
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
        fn what_is_written_is_read_back(seconds in 0..=LAST) {
            prop_assert_eq!(Timestamp(seconds).to_string().parse(), Ok(Timestamp(seconds)));
        }

        #[test]
        fn so_are_milliseconds(millis in 0..=LAST * 1000) {
            prop_assert_eq!(Moment::try_from(Moment(millis).to_string()), Ok(Moment(millis)));
        }

        #[test]
        fn any_text_is_a_time_or_an_error(text: String) {
            let _ = text.parse::<Timestamp>();
            let _ = Timestamp::parse_in(&text, &TimeZone::UTC);
            let _ = Moment::try_from(text);
        }
    }
}
