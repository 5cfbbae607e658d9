//! Parses single values: pure functions from a TOML value or a text to a typed value or a
//! [`Diagnostic`].

mod network;
mod rate;

pub use network::{DEFAULT_PORT, DomainName, endpoint_argument, prefix, tunnel_argument};
pub(super) use network::{endpoint, lan_address, lan_address6, lan_network, own_address};
pub(super) use rate::rate;

use super::document::kind;
use super::problem::Diagnostic;
use crate::keys::PublicKey;
use crate::time::Timestamp;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::de::DeValue;

/// Maximum length of a peer's name in bytes: with an extension, it is a file name.
pub(super) const MAX_NAME_LEN: usize = 64;
/// Maximum length of an interface's name in bytes (IFNAMSIZ without its zero).
const MAX_INTERFACE_NAME_LEN: usize = 15;
/// Maximum of all times in the configuration.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Accepts a text that `parse` accepts.
pub(super) fn text<T>(
    parse: impl Fn(&str) -> Result<T, Diagnostic>,
) -> impl Fn(&DeValue<'_>) -> Result<T, Diagnostic> {
    move |value| match value {
        DeValue::String(text) => parse(text),
        other => Err(not_a_text(other, "write it in quotes".to_owned())),
    }
}

/// The error for a value that should be a text.
fn not_a_text(found: &DeValue<'_>, remedy: String) -> Diagnostic {
    let remedy = match found {
        DeValue::Array(_) => "write one text in quotes, without brackets".to_owned(),
        _ => remedy,
    };
    Diagnostic::new(format!("expected a text, found {}", kind(found)), remedy)
}

/// Accepts a whole number within inclusive limits.
pub(super) fn number<T: TryFrom<i64>>(
    limits: RangeInclusive<i64>,
) -> impl Fn(&DeValue<'_>) -> Result<T, Diagnostic> {
    move |value| {
        let (low, high) = (limits.start(), limits.end());
        let DeValue::Integer(integer) = value else {
            let but = match value {
                DeValue::String(_) => ", without quotes",
                DeValue::Float(_) => ", without a point",
                DeValue::Array(_) => ", without brackets",
                _ => "",
            };
            return Err(Diagnostic::new(
                format!("expected a whole number, found {}", kind(value)),
                format!("write a number from {low} to {high}{but}"),
            ));
        };
        let parsed = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let within = parsed.filter(|number| limits.contains(number));
        within.and_then(|n| T::try_from(n).ok()).ok_or_else(|| {
            let remedy = format!("choose one from {low} to {high}");
            Diagnostic::new(format!("{integer} is out of range"), remedy)
        })
    }
}

/// Accepts the name of a variant of `T`.
pub(super) fn choice<T: DeserializeOwned>(value: &DeValue<'_>) -> Result<T, Diagnostic> {
    let DeValue::String(given) = value else {
        let known = known_names::<T>();
        return Err(not_a_text(value, format!("write one of {known}")));
    };
    variant(given).map_err(|UnknownName(known)| {
        let remedy = format!("choose one of {}", quoted(known));
        Diagnostic::new(format!("{given:?} is not known"), remedy)
    })
}

/// Returns the names of all variants of `T`, quoted.
fn known_names<T: DeserializeOwned>() -> String {
    variant::<T>("").map_or_else(|UnknownName(known)| quoted(known), |_| String::new())
}

fn variant<T: DeserializeOwned>(name: &str) -> Result<T, UnknownName> {
    T::deserialize(StrDeserializer::new(name))
}

/// A name is not that of a variant; these are.
#[derive(Debug, thiserror::Error)]
#[error("it is not one of {0:?}")]
struct UnknownName(&'static [&'static str]);

impl de::Error for UnknownName {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self(expected)
    }
}

/// Accepts `true` or `false`.
pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, Diagnostic> {
    match value {
        DeValue::Boolean(flag) => Ok(*flag),
        other => {
            let what = format!("expected true or false, found {}", kind(other));
            Err(Diagnostic::new(what, "write true or false, without quotes"))
        }
    }
}

/// Accepts a point in time with its offset from UTC: `2027-01-31T18:00:00Z`.
pub(super) fn time(value: &DeValue<'_>) -> Result<Timestamp, Diagnostic> {
    let remedy = "write it without quotes and with its offset, as 2027-01-31T18:00:00Z";
    let DeValue::Datetime(given) = value else {
        let what = format!("expected a date and time, found {}", kind(value));
        return Err(Diagnostic::new(what, remedy));
    };
    let parsed = given.to_string().parse();
    parsed.map_err(|_| Diagnostic::new(format!("{given} is not a point in time"), remedy))
}

/// Accepts a note: one line of text.
pub(super) fn note(text: &str) -> Result<String, Diagnostic> {
    const MAX_LEN: usize = 1024;
    if text.chars().any(char::is_control) {
        let what = format!("{text:?} has control characters");
        return Err(Diagnostic::new(what, "write one line of plain text"));
    }
    if text.len() > MAX_LEN {
        let what = format!("the text is {} bytes long", text.len());
        return Err(Diagnostic::new(what, format!("use up to {MAX_LEN}")));
    }
    Ok(text.to_owned())
}

/// Accepts a time with its unit: `"90s"`, `"5m"`, `"2h4m"`, `"1d"`.
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, Diagnostic> {
    let given = match value {
        DeValue::String(text) => text.as_ref(),
        DeValue::Integer(number) => {
            let remedy = format!("write \"{number}s\" for seconds");
            return Err(Diagnostic::new(format!("{number} has no unit"), remedy));
        }
        other => {
            let what = format!("expected a time, found {}", kind(other));
            return Err(Diagnostic::new(what, "write \"90s\", \"5m\" or \"2h4m\""));
        }
    };
    span(given)
}

/// Parses a time with its unit: `90s`, `5m`, `2h4m`, `1d`.
///
/// # Errors
/// If the text is not a time from 1 s to 365 days.
pub fn span(given: &str) -> Result<Duration, Diagnostic> {
    let wrong = || {
        let what = format!("{given:?} is not a time");
        Diagnostic::new(what, "write \"90s\", \"5m\" or \"2h4m\"")
    };
    let seconds = parse_duration(given).ok_or_else(wrong)?;
    let duration = Duration::from_secs(seconds);
    if duration.is_zero() || duration > MAX_DURATION {
        let what = format!("{given:?} is out of range");
        return Err(Diagnostic::new(what, "choose a time from 1s to 365d"));
    }
    Ok(duration)
}

/// Parses a text such as `2h4m` to seconds.
fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut seconds = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at(digits);
        let factor = match unit.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(factor)?;
        seconds = seconds.checked_add(part)?;
        rest = unit.get(1..)?;
    }
    (!text.is_empty()).then_some(seconds)
}

/// Formats a time as in the file.
pub(super) fn format_duration(time: Duration) -> String {
    let mut rest = time.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("h", 3600), ("m", 60), ("s", 1)] {
        if rest >= seconds {
            text += &format!("{}{unit}", rest / seconds);
            rest %= seconds;
        }
    }
    text
}

/// Accepts the path of a file; `example` is for the remedy.
pub(super) fn file(example: &str) -> impl Fn(&str) -> Result<String, Diagnostic> {
    move |text| match text.is_empty() || text.ends_with('/') || text.contains('\0') {
        true => Err(Diagnostic::new(
            format!("{text:?} is not a file's name"),
            format!("write a path, as {example:?}"),
        )),
        false => Ok(text.to_owned()),
    }
}

/// Parses a public key.
pub(super) fn public_key(text: &str) -> Result<PublicKey, Diagnostic> {
    PublicKey::from_base64(text).map_err(|error| {
        let remedy = "copy it whole from what \"vcgate pubkey\" or the client's app shows";
        Diagnostic::new(format!("not a key: {error}"), remedy)
    })
}

/// Accepts a peer's name, which is also the name of its files.
pub(super) fn peer_name(text: &str) -> Result<String, Diagnostic> {
    let allowed = |c: char| c.is_alphanumeric() || "-_.@".contains(c);
    if !text.chars().all(allowed) || !text.starts_with(char::is_alphanumeric) {
        return Err(Diagnostic::new(
            format!("{text:?} cannot be a name"),
            "use letters, digits, \"-\", \"_\", \".\" and \"@\", the first a letter or digit",
        ));
    }
    if text.len() > MAX_NAME_LEN {
        return Err(Diagnostic::new(
            format!("{text:?} is {} bytes long", text.len()),
            format!("use up to {MAX_NAME_LEN}; a letter outside of ASCII has 2 to 4"),
        ));
    }
    Ok(text.to_owned())
}

/// Accepts the name of a network interface, as the kernel does.
pub(super) fn interface_name(text: &str) -> Result<String, Diagnostic> {
    let graphic = text
        .bytes()
        .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':' && b != b'%');
    let reserved = ["", ".", "..", "all", "default"].contains(&text);
    if graphic && !reserved && text.len() <= MAX_INTERFACE_NAME_LEN {
        return Ok(text.to_owned());
    }
    Err(Diagnostic::new(
        format!("{text:?} cannot be the name of an interface"),
        format!("use up to {MAX_INTERFACE_NAME_LEN} letters and digits, as \"vcg0\""),
    ))
}

fn quoted(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    quoted.join(", ")
}

/// Returns the values without their offsets.
pub(super) fn inner<T>(list: Vec<toml::Spanned<T>>) -> Vec<T> {
    list.into_iter().map(toml::Spanned::into_inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("2h4m", 7440), ("1d", 86400)] {
            assert_eq!(parse_duration(text), Some(seconds));
            let same = format_duration(Duration::from_secs(seconds));
            assert_eq!(parse_duration(&same), Some(seconds), "{same}");
        }
        for (seconds, text) in [(45, "45s"), (90, "1m30s"), (3600, "1h"), (7440, "2h4m")] {
            assert_eq!(format_duration(Duration::from_secs(seconds)), text);
        }
        for text in [
            "",
            "5",
            "m",
            "5x",
            "5m5",
            "-5m",
            "5 m",
            "5µ",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_duration("18446744073709551615d"), None);
    }

    #[test]
    fn names_are_file_names_too() {
        for name in ["anna", "Jürgen", "anna@home", "a.b-c_d", "0"] {
            assert_eq!(peer_name(name).as_deref(), Ok(name));
        }
        for name in [
            "",
            ".",
            "..",
            "-a",
            "a/b",
            "a b",
            "a\n",
            "a\0",
            &"a".repeat(65),
        ] {
            assert!(peer_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn interface_names_are_the_kernels() {
        assert!(interface_name("vcg0").is_ok());
        assert!(interface_name(&"a".repeat(15)).is_ok());
        for name in [
            "",
            ".",
            "..",
            "all",
            "default",
            "a/b",
            "a b",
            "ä",
            &"a".repeat(16),
        ] {
            assert!(interface_name(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_an_error(given: String) {
            let value = DeValue::String(given.as_str().into());
            let _ = (duration(&value), number::<u16>(0..=9)(&value), choice::<super::super::OnDeny>(&value));
            let _ = (prefix(&given), own_address(&given), public_key(&given), peer_name(&given));
            let _ = (interface_name(&given), lan_address(&given), endpoint(&given, 1));
        }
    }
}
