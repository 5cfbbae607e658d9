//! Parses a wg-quick file: sections, keys and values with their lines, and the comments that usually
//! name the peers.

use super::problem::{Diagnostic, Problems};
use std::path::Path;

/// `[Interface]` or `[Peer]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub is_peer: bool,
    /// The line of its header, counted from 1.
    pub line: usize,
    /// The comment directly above the header, or else the one between it and the first key.
    pub comment: Option<String>,
    pub entries: Vec<Entry>,
    /// Whether each line of it begins with [`DISABLED`].
    pub disabled: bool,
    /// More data of another endpoint.
    pub record: Option<Record>,
}

/// The parts of another endpoint's data that a wg-quick file does not have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// The record's place in errors, such as `client "anna"`; empty if the section has a line.
    pub place: String,
    /// The time at which a peer expires, as it is written.
    pub expires: Option<String>,
    pub note: Option<String>,
    /// The private key of a peer.
    pub private_key: Option<String>,
}

/// The comment by which pivpn disables the lines of a peer.
const DISABLED: &str = "#[disabled] ";

/// One `Key = Value`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub line: usize,
    /// The key in lower case, since wg ignores case.
    pub key: String,
    /// The key as it is written.
    pub written: String,
    pub value: String,
}

impl Section {
    /// Makes a section of a record. Values that are empty or missing are left out.
    pub(super) fn of_record<'v>(
        is_peer: bool,
        record: Record,
        entries: impl IntoIterator<Item = (&'static str, Option<&'v str>)>,
    ) -> Self {
        let given = entries.into_iter().filter_map(|(key, value)| {
            let value = value.map(str::trim).filter(|value| !value.is_empty())?;
            Some(Entry {
                line: 0,
                key: key.to_ascii_lowercase(),
                written: key.to_owned(),
                value: value.to_owned(),
            })
        });
        Self {
            is_peer,
            line: 0,
            comment: None,
            entries: given.collect(),
            disabled: false,
            record: Some(record),
        }
    }

    /// Returns all values of a key, split at commas.
    pub(super) fn values(&self, key: &str) -> impl Iterator<Item = (usize, &str)> {
        let entries = self.entries.iter().filter(move |entry| entry.key == key);
        entries.flat_map(|entry| {
            let values = entry.value.split(',').map(str::trim);
            let given = values.filter(|value| !value.is_empty());
            given.map(|value| (entry.line, value))
        })
    }

    /// Returns the last value of a key, which takes precedence.
    pub(super) fn value(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().rfind(|entry| entry.key == key)
    }
}

/// Parses a file's text. The first invalid line is an error.
pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<Section>, Problems> {
    let mut sections: Vec<Section> = Vec::new();
    let mut comment = None;
    for (index, whole) in text.lines().enumerate() {
        let line = index + 1;
        let (disabled, whole) = match whole.strip_prefix(DISABLED) {
            Some(rest) => (true, rest),
            None => (false, whole),
        };
        let (content, remark) = match whole.split_once('#') {
            Some((content, remark)) => (content.trim(), Some(remark)),
            None => (whole.trim(), None),
        };
        if content.is_empty() {
            comment = remark.map(|remark| remark.trim_matches(['#', ' ', '\t']).to_owned());
            if let Some(section) = sections.last_mut().filter(|s| s.entries.is_empty()) {
                section.comment = section.comment.take().or_else(|| comment.clone());
            }
        } else if let Some(header) = content.strip_prefix('[') {
            let is_peer = match header.to_ascii_lowercase().as_str() {
                "interface]" => false,
                "peer]" => true,
                _ => return Err(invalid_line(path, line, content)),
            };
            sections.push(Section {
                is_peer,
                line,
                comment: comment.take().filter(|comment| !comment.is_empty()),
                entries: Vec::new(),
                disabled,
                record: None,
            });
        } else {
            let entry = content.split_once('=').zip(sections.last_mut());
            let Some(((key, value), section)) = entry else {
                return Err(invalid_line(path, line, content));
            };
            comment = None;
            section.entries.push(Entry {
                line,
                key: key.trim().to_ascii_lowercase(),
                written: key.trim().to_owned(),
                value: value.trim().to_owned(),
            });
        }
    }
    Ok(sections)
}

/// Returns the error for an invalid line, without its text, which may be part of a key.
fn invalid_line(path: &Path, line: usize, content: &str) -> Problems {
    let what = match content.starts_with('[') {
        true => format!("{content} is neither [Interface] nor [Peer]"),
        false => "this line is not a \"Key = Value\" of a section".to_owned(),
    };
    let remedy = "name the file that wg-quick uses";
    Problems::at(path, Some(line), Diagnostic::new(what, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comments_name_the_section_they_touch() {
        let text = "\
# the server
[Interface]
Address = 10.8.0.1/24, fd00::1/64 # both

# Anna
[Peer]
PublicKey = a=

[peer]
### Client bob
publickey=b
# not his name
";
        let sections = parse(text, Path::new("wg0.conf")).unwrap();
        let comments: Vec<_> = sections.iter().map(|s| s.comment.as_deref()).collect();
        assert_eq!(
            comments,
            [Some("the server"), Some("Anna"), Some("Client bob")]
        );
        let kinds: Vec<_> = sections.iter().map(|s| (s.is_peer, s.line)).collect();
        assert_eq!(kinds, [(false, 2), (true, 6), (true, 9)]);
        let addresses: Vec<_> = sections[0].values("address").collect();
        assert_eq!(addresses, [(3, "10.8.0.1/24"), (3, "fd00::1/64")]);
        assert_eq!(sections[1].value("publickey").unwrap().value, "a=");
        assert_eq!(sections[2].value("publickey").unwrap().line, 11);
    }

    #[test]
    fn a_peer_that_pivpn_disabled_is_read() {
        let text = "\
### begin anna ###
[Peer]
PublicKey = a
### end anna ###
#[disabled] ### begin bert ###
#[disabled] [Peer]
#[disabled] PublicKey = b
#[disabled] ### end bert ###
";
        let sections = parse(text, Path::new("wg0.conf")).unwrap();
        let peers = sections.iter();
        let peers: Vec<_> = peers
            .map(|s| (s.comment.as_deref().unwrap(), s.entries.len(), s.disabled))
            .collect();
        assert_eq!(peers, [("begin anna", 1, false), ("begin bert", 1, true)]);
    }

    #[test]
    fn what_is_not_understood_has_a_line() {
        let said = |text: &str| {
            let error = parse(text, Path::new("wg0.conf")).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            said("\n[Server]\n"),
            "wg0.conf:2: [Server] is neither [Interface] nor [Peer]; name the file that wg-quick uses"
        );
        let no_entry =
            "this line is not a \"Key = Value\" of a section; name the file that wg-quick uses";
        assert_eq!(said("a = b"), format!("wg0.conf:1: {no_entry}"));
        assert_eq!(said("[Peer]\nsecret"), format!("wg0.conf:2: {no_entry}"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_an_error(text in "(\\[(Peer|Interface)\\]|#|=|,|\n|\\PC)*") {
            let _ = parse(&text, Path::new(""));
        }
    }
}
