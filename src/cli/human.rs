//! Formats quantities for people.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the current time in Unix seconds.
pub(super) fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Formats a size: `999 B`, `1.5 KiB`, `2.0 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const ONE_MORE: f64 = 1023.95; // from here on it would be shown as 1024.0
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    for unit in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < ONE_MORE {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} EiB")
}

/// Formats a time in its two largest units: `5 seconds`, `2 minutes 1 second`, `3 days 4 hours`.
pub(super) fn duration(seconds: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("day", 86_400),
        ("hour", 3_600),
        ("minute", 60),
        ("second", 1),
    ];
    let mut rest = seconds;
    let parts = UNITS.map(|(unit, length)| {
        let count = rest / length;
        rest %= length;
        (count, unit)
    });
    let shown: Vec<_> = parts
        .iter()
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| counted(*count, unit))
        .collect();
    match shown.is_empty() {
        true => "0 seconds".to_owned(),
        false => shown.join(" "),
    }
}

/// Formats the time since `then`: `2 minutes 1 second ago`, or `now` if `then` is not past.
pub(super) fn ago(then: u64, now: u64) -> String {
    match now.saturating_sub(then) {
        0 => "now".to_owned(),
        seconds => format!("{} ago", duration(seconds)),
    }
}

/// Formats a count with its noun: `1 flow`, `2 flows`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Parts with their lengths, side by side in indented lines of at most `columns` characters; a part
/// that is longer has a line to itself.
pub(super) fn wrapped(parts: impl IntoIterator<Item = (String, usize)>, columns: usize) -> String {
    const INDENT: usize = 2;
    let mut text = String::new();
    let mut used = 0;
    for (part, length) in parts {
        let fits = used > 0 && used + 2 + length <= columns;
        if fits {
            text += "  ";
            used += 2 + length;
        } else {
            text += if used > 0 { "\n  " } else { "  " };
            used = INDENT + length;
        }
        text += &part;
    }
    if used > 0 {
        text.push('\n');
    }
    text
}

/// Formats a value, or a dash if there is none.
pub(super) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn times_have_at_most_two_units() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (121, "2 minutes 1 second"),
            (3_600, "1 hour"),
            (3_601, "1 hour"),
            (86_400 * 3 + 3_600 * 4 + 61, "3 days 4 hours"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(ago(100, 221), "2 minutes 1 second ago");
        assert_eq!(ago(100, 100), "now");
        assert_eq!(ago(100, 99), "now");
    }

    #[test]
    fn extreme_numbers_do_not_panic() {
        let _ = duration(u64::MAX);
        let _ = ago(u64::MAX, 0);
    }
}
