//! Parses the arguments of `vcgate peer set` and `peer add`: a key of a peer's section, or of `client`
//! in it, and its new value as TOML.

use super::super::document::nearest;
use super::super::problem::Diagnostic;
use super::super::value;
use crate::time::Timestamp;
use std::time::SystemTime;
use toml_edit::InlineTable;

/// A new value for a key of a peer's section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub(super) key: &'static str,
    /// The value as TOML; `None` removes the key.
    pub(super) literal: Option<String>,
}

/// The notation of a value on the command line.
#[derive(Debug, Clone, Copy)]
enum Notation {
    /// A text, which gets quotes.
    Text,
    /// Texts with commas between.
    List,
    /// A number, or true or false.
    Plain,
    /// A point in time, a time from now on, or `never`.
    Time,
}

const KEYS: [(&str, Notation); 17] = [
    ("allowed_ips", Notation::List),
    ("persistent_keepalive", Notation::Plain),
    ("reach", Notation::List),
    ("groups", Notation::List),
    ("dns", Notation::Plain),
    ("rate_up", Notation::Text),
    ("rate_down", Notation::Text),
    ("lan_address", Notation::Text),
    ("disabled", Notation::Plain),
    ("expires", Notation::Time),
    ("note", Notation::Text),
    ("lan_address", Notation::Text),
    ("client.dns", Notation::List),
    ("client.mtu", Notation::Plain),
    ("client.keepalive", Notation::Plain),
    ("client.full_tunnel", Notation::Plain),
    ("client.allowed_ips", Notation::List),
];

/// The key of a peer's section whose value is a table.
const TABLE: &str = "client";

/// A key of a peer's section, and its new value as TOML; `None` removes the key.
pub(super) type Edit = (&'static str, Option<String>);

/// Returns the changes of a peer's section. Those of keys in `client` become one of the whole table,
/// which is `present` until now.
pub(super) fn edits(
    assignments: &[Assignment],
    present: Option<&InlineTable>,
) -> Result<Vec<Edit>, Diagnostic> {
    let (mut edits, mut table) = (Vec::new(), None);
    for Assignment { key, literal } in assignments {
        let Some(inner) = key.strip_prefix("client.") else {
            edits.push((*key, literal.clone()));
            continue;
        };
        let table = table.get_or_insert_with(|| present.cloned().unwrap_or_default());
        match literal {
            Some(literal) => drop(table.insert(inner, parsed(literal)?)),
            None => drop(table.remove(inner)),
        }
    }
    if let Some(mut table) = table {
        table.fmt();
        let literal = (!table.is_empty()).then(|| table.to_string().trim().to_owned());
        edits.push((TABLE, literal));
    }
    Ok(edits)
}

impl Assignment {
    /// Switches a peer off or on.
    pub fn disabled(disabled: bool) -> Self {
        Self {
            key: "disabled",
            literal: disabled.then(|| "true".to_owned()),
        }
    }

    /// Sets a key to a value in its notation on the command line.
    ///
    /// # Errors
    /// If there is no such key, or its value is not in its notation.
    pub fn of(key: &str, value: &str, now: SystemTime) -> Result<Self, Diagnostic> {
        Self::parse(&format!("{key}={value}"), now)
    }

    /// Parses `KEY=VALUE`; without a value, the key is removed.
    ///
    /// # Errors
    /// If there is no such key, or its value is not in its notation. Whether the value is valid is
    /// known when the file is read.
    pub fn parse(text: &str, now: SystemTime) -> Result<Self, Diagnostic> {
        let Some((given, value)) = text.split_once('=') else {
            let what = format!("{text:?} has no \"=\"");
            return Err(Diagnostic::new(
                what,
                "write KEY=VALUE, or KEY= to remove the key",
            ));
        };
        let (given, value) = (given.trim(), value.trim());
        let Some((key, notation)) = KEYS.into_iter().find(|(key, _)| *key == given) else {
            return Err(no_key(given));
        };
        let literal = match value {
            "" => None,
            _ => notation.literal(value, now)?,
        };
        Ok(Self { key, literal })
    }
}

impl Notation {
    /// Returns a value as TOML.
    fn literal(self, value: &str, now: SystemTime) -> Result<Option<String>, Diagnostic> {
        Ok(match self {
            Self::Text => Some(toml_edit::value(value).to_string()),
            Self::List if value.starts_with('[') => Some(toml_value(value)?),
            Self::List => {
                let parts = value.split(',').map(str::trim);
                let list: toml_edit::Array = parts.filter(|part| !part.is_empty()).collect();
                Some(list.to_string().trim().to_owned())
            }
            Self::Plain => Some(toml_value(value)?),
            Self::Time if value == "never" => None,
            Self::Time => Some(point_in_time(value, now)?.to_string()),
        })
    }
}

/// Accepts one value in TOML.
fn toml_value(text: &str) -> Result<String, Diagnostic> {
    parsed(text).map(|_| text.to_owned())
}

fn parsed(text: &str) -> Result<toml_edit::Value, Diagnostic> {
    text.parse().map_err(|_| {
        let what = format!("{text:?} is not a value");
        let remedy = "write a number, true, false or a list, as in the file";
        Diagnostic::new(what, remedy)
    })
}

/// Parses a point in time, or a time from now on.
fn point_in_time(text: &str, now: SystemTime) -> Result<Timestamp, Diagnostic> {
    if let Ok(span) = value::span(text) {
        return Ok((now + span).into());
    }
    Timestamp::parse_local(text).map_err(|_| {
        let what = format!("{text:?} is not a time");
        let remedy = "write 2027-01-31T18:00:00Z, a local time such as \"2027-01-31 18:00\", a time \
                      from now such as 30d, or never";
        Diagnostic::new(what, remedy)
    })
}

fn no_key(given: &str) -> Diagnostic {
    let what = format!("cannot set {given:?} of a peer");
    let known = KEYS.map(|(key, _)| key);
    let remedy = match (given, nearest(given, &known)) {
        ("name", _) => "use \"vcgate peer rename\"".to_owned(),
        ("public_key" | "preshared_key_file", _) => "use \"vcgate peer rekey\"".to_owned(),
        (_, Some(known)) => format!("did you mean {known:?}?"),
        (_, None) => format!("the keys are {}", known.join(", ")),
    };
    Diagnostic::new(what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn literal(text: &str) -> Result<Option<String>, String> {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let parsed = Assignment::parse(text, now).map_err(|wrong| wrong.to_string());
        parsed.map(|assignment| assignment.literal)
    }

    #[test]
    fn values_become_toml() {
        for (text, expected) in [
            ("note=Anna's \"old\" laptop", Some("'Anna''s'")),
            ("groups=staff, admins", Some("[\"staff\", \"admins\"]")),
            ("reach=[]", Some("[]")),
            (
                "reach=192.168.77.10:445,icmp",
                Some("[\"192.168.77.10:445\", \"icmp\"]"),
            ),
            ("persistent_keepalive=25", Some("25")),
            ("disabled = true", Some("true")),
            (
                "expires=2027-01-31T19:00:00+01:00",
                Some("2027-01-31T18:00:00Z"),
            ),
            ("expires=1d", Some("2023-11-15T22:13:20Z")),
            ("expires=never", None),
            ("note=", None),
        ] {
            let got = literal(text).unwrap();
            match text.starts_with("note=Anna") {
                // The quotes are the library's choice; the value must survive.
                true => {
                    let document = format!("note = {}", got.unwrap());
                    let read: toml_edit::DocumentMut = document.parse().unwrap();
                    assert_eq!(read["note"].as_str(), Some("Anna's \"old\" laptop"));
                }
                false => assert_eq!(got.as_deref(), expected, "{text}"),
            }
        }
    }

    #[test]
    fn other_keys_have_their_own_commands() {
        for (text, expected) in [
            (
                "name=x",
                "cannot set \"name\" of a peer; use \"vcgate peer rename\"",
            ),
            (
                "public_key=x",
                "cannot set \"public_key\" of a peer; use \"vcgate peer rekey\"",
            ),
            (
                "expire=1d",
                "cannot set \"expire\" of a peer; did you mean \"expires\"?",
            ),
            (
                "note",
                "\"note\" has no \"=\"; write KEY=VALUE, or KEY= to remove the key",
            ),
        ] {
            assert_eq!(literal(text), Err(expected.to_owned()));
        }
        assert!(literal("expires=tomorrow").is_err());
        for text in [
            "persistent_keepalive=often",
            "disabled=true\nname = \"x\"",
            "reach=[\"icmp\"",
            "reach=[]]",
        ] {
            assert!(
                literal(text).unwrap_err().contains("is not a value"),
                "{text}"
            );
        }
        assert!(
            literal("colour=red")
                .unwrap_err()
                .contains("the keys are allowed_ips")
        );
    }
}
