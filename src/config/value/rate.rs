//! Parses and formats rates in bits per second: `10Mbit`, `500kbit`, `1Gbit`.

use super::super::problem::Diagnostic;

/// The units with their factors, from the largest.
const UNITS: [(&str, u64); 3] = [
    ("Gbit", 1_000_000_000),
    ("Mbit", 1_000_000),
    ("kbit", 1_000),
];
/// The minimum rate: a full packet leaves within a quarter of a second.
const MIN_RATE: u64 = 64_000;
/// The maximum rate.
const MAX_RATE: u64 = 100_000_000_000;

/// Parses a rate in bits per second.
pub(in crate::config) fn rate(text: &str) -> Result<u64, Diagnostic> {
    let parsed = UNITS.iter().find_map(|(unit, factor)| {
        let lower = text.to_ascii_lowercase();
        let number = lower.strip_suffix(&unit.to_ascii_lowercase())?.trim();
        number.parse::<u64>().ok()?.checked_mul(*factor)
    });
    let Some(rate) = parsed else {
        let what = format!("{text:?} is not a rate");
        return Err(Diagnostic::new(
            what,
            "write a whole number of kbit, Mbit or Gbit, as \"10Mbit\"",
        ));
    };
    if !(MIN_RATE..=MAX_RATE).contains(&rate) {
        let what = format!("{text:?} is out of range");
        return Err(Diagnostic::new(
            what,
            "choose a rate from 64kbit to 100Gbit",
        ));
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_number_and_a_unit() {
        for (text, bits) in [
            ("10Mbit", 10_000_000),
            ("64kbit", 64_000),
            ("100 Gbit", 100_000_000_000),
            ("512KBIT", 512_000),
        ] {
            assert_eq!(rate(text).ok(), Some(bits), "{text}");
        }
        for text in [
            "",
            "10",
            "Mbit",
            "1.5Mbit",
            "-1Mbit",
            "63kbit",
            "101Gbit",
            "99999999999999999999Gbit",
            "10MB",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
