//! Moments as reports and the port log write them: RFC 3339, UTC.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;
/// The end of the year 9999, which is as far as RFC 3339 goes.
const LAST: u64 = 253_402_300_799;

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
#[error("{0:?} is not a time: write 2026-11-22T20:19:36Z, or Unix seconds")]
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
        let (year, month, day) = civil(self.0 / DAY);
        let second = self.0 % DAY;
        let (hour, minute) = (second / 3600, second / 60 % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z",
            second % 60
        )
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
        let Timestamp(seconds) = text.parse()?;
        // Behind the point, as `Display` writes it.
        let millis = text.get(20..23).and_then(|digits| digits.parse().ok());
        Ok(Self(seconds * 1000 + millis.unwrap_or(0)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = Timestamp(self.0 / 1000).to_string();
        write!(f, "{}.{:03}Z", whole.trim_end_matches('Z'), self.0 % 1000)
    }
}

impl FromStr for Timestamp {
    type Err = BadTime;

    /// Unix seconds, or RFC 3339 with `Z` or an offset; a space may stand for the `T`, and what
    /// is smaller than a second is ignored.
    fn from_str(text: &str) -> Result<Self, BadTime> {
        let seconds = match text.parse::<u64>() {
            Ok(seconds) => Some(seconds),
            Err(_) => rfc3339(text),
        };
        let seconds = seconds.filter(|seconds| *seconds <= LAST);
        seconds.map(Self).ok_or_else(|| BadTime(text.to_owned()))
    }
}

fn rfc3339(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>, limits: std::ops::RangeInclusive<u64>| {
        let digits = text.get(range)?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        let value = digits.parse().ok().filter(|_| plain)?;
        limits.contains(&value).then_some(value)
    };
    let at = |place: usize, expected: &[u8]| {
        let byte = text.as_bytes().get(place)?;
        expected.contains(byte).then_some(())
    };
    let (year, month, day) = (
        number(0..4, 1970..=9999)?,
        number(5..7, 1..=12)?,
        number(8..10, 1..=31)?,
    );
    let (hour, minute, second) = (
        number(11..13, 0..=23)?,
        number(14..16, 0..=59)?,
        number(17..19, 0..=60)?,
    );
    at(4, b"-")
        .and(at(7, b"-"))
        .and(at(10, b"Tt "))
        .and(at(13, b":"))
        .and(at(16, b":"))?;
    let days = days(year, month, day);
    if civil(days) != (year, month, day) {
        return None; // as 31 April
    }
    let local = days * DAY + hour * 3600 + minute * 60 + second;
    let rest = text.get(19..)?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let end = text.len() - rest.len();
    match rest.chars().next()? {
        'Z' | 'z' if rest.len() == 1 => Some(local),
        sign @ ('+' | '-') if rest.len() == 6 => {
            at(end + 3, b":")?;
            let hours = number(end + 1..end + 3, 0..=23)?;
            let offset = hours * 3600 + number(end + 4..end + 6, 0..=59)? * 60;
            match sign {
                '+' => local.checked_sub(offset),
                _ => local.checked_add(offset),
            }
        }
        _ => None,
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years are counted from March, so
/// that the leap day is the last one.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = match month {
        ..=2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let in_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + in_year - EPOCH
}

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: u64 = 719_468;

/// The day of the Gregorian calendar that is so many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    match month {
        ..=9 => (year, month + 3, day),
        _ => (year + 1, month - 9, day),
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
            (LAST, "9999-12-31T23:59:59Z"),
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
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "253402300800",
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
        fn the_days_follow_one_another(day in 0..LAST / DAY) {
            let ((y, m, d), next) = (civil(day), civil(day + 1));
            let follows = next == (y, m, d + 1) || next == (y, m + 1, 1) || next == (y + 1, 1, 1);
            prop_assert!(follows && days(y, m, d) == day);
        }

        #[test]
        fn any_text_is_a_time_or_an_error(text: String) {
            let _ = text.parse::<Timestamp>();
            let _ = Moment::try_from(text);
        }
    }
}
