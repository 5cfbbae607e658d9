//! Reads a TOML document section by section, and collects all problems.
//!
//! A [`Section`] returns values by key and records the requested keys: these are the known keys, and
//! any others in the table are unknown.

use super::problem::{Collector, Diagnostic};
use super::syntax::in_two_brackets;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// Keys of earlier versions, each with the key that replaces it.
const RENAMED: [(&str, &str); 4] = [
    (
        "interface.clients_may_meet",
        "write client_to_client instead",
    ),
    (
        "interface.deny",
        "write on_deny = \"reject\" for \"icmp\", \"drop\" for \"silent\"",
    ),
    (
        "nat.unsolicited",
        "write on_unsolicited = \"reject\" for \"icmp\", \"drop\" for \"silent\"",
    ),
    ("nat.untranslated", "write no_nat instead"),
];

/// A table of the document, which may be missing.
pub(super) struct Section<'a, 'i> {
    /// The prefix of keys in problems, such as `interface.`.
    label: String,
    /// The header in the file, such as `[interface]`.
    title: String,
    /// The offset in the text.
    offset: usize,
    table: Option<&'a DeTable<'i>>,
    known: Vec<&'static str>,
}

impl<'a, 'i> Section<'a, 'i> {
    /// Makes the section of the document itself.
    pub(super) fn root(table: &'a DeTable<'i>) -> Self {
        Self {
            label: String::new(),
            title: "the file".to_owned(),
            offset: 0,
            table: Some(table),
            known: Vec::new(),
        }
    }

    /// Returns the table `[key]` in this one; empty if it is missing.
    pub(super) fn section(
        &mut self,
        key: &'static str,
        problems: &mut Collector<'_>,
    ) -> Section<'a, 'i> {
        let name = self.name(key);
        let title = format!("[{name}]");
        let remedy = format!("begin it with {title}");
        self.table(key, title, remedy, problems)
    }

    /// Returns the inline table `key` in this one, written like `example`; empty if it is missing.
    pub(super) fn inline_table(
        &mut self,
        key: &'static str,
        example: &str,
        problems: &mut Collector<'_>,
    ) -> Section<'a, 'i> {
        let remedy = format!("write it like {key} = {example}");
        self.table(key, key.to_owned(), remedy, problems)
    }

    fn table(
        &mut self,
        key: &'static str,
        title: String,
        remedy: String,
        problems: &mut Collector<'_>,
    ) -> Section<'a, 'i> {
        let name = self.name(key);
        let value = self.take(key);
        let table = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, table) {
            let what = format!(
                "{name}: expected a section, found {}",
                kind(value.get_ref())
            );
            problems.error(value.span().start, Diagnostic::new(what, remedy));
        }
        Section {
            label: format!("{name}."),
            title,
            offset: value.map_or(0, |value| value.span().start),
            table,
            known: Vec::new(),
        }
    }

    /// Returns the tables `[[key]]` in this one.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        problems: &mut Collector<'_>,
    ) -> Vec<Section<'a, 'i>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let section = |item: &'a Spanned<DeValue<'i>>| {
            Some(Section {
                label: format!("{key}: "),
                title: format!("[[{key}]]"),
                offset: item.span().start,
                table: Some(item.get_ref().as_table()?),
                known: Vec::new(),
            })
        };
        let array = value.get_ref().as_array();
        let sections = array.and_then(|items| items.iter().map(section).collect());
        sections.unwrap_or_else(|| {
            let found = kind(value.get_ref());
            let what = format!("{key}: expected a list of sections, found {found}");
            let wrong = Diagnostic::new(what, in_two_brackets(key));
            problems.error(value.span().start, wrong);
            Vec::new()
        })
    }

    /// Sets the prefix of keys in problems.
    pub(super) fn set_label(&mut self, label: String) {
        self.label = label;
    }

    /// The offset in the text.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Returns a value, if it is present and valid.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        problems: &mut Collector<'_>,
        parse: impl FnOnce(&DeValue<'i>) -> Result<T, Diagnostic>,
    ) -> Option<Spanned<T>> {
        let value = self.take(key)?;
        match parse(value.get_ref()) {
            Ok(parsed) => Some(Spanned::new(value.span(), parsed)),
            Err(wrong) => {
                problems.error(value.span().start, wrong.within(&self.name(key)));
                None
            }
        }
    }

    /// Reports that a key is missing.
    pub(super) fn require(&self, key: &str, problems: &mut Collector<'_>, remedy: &str) {
        if self.table.is_some_and(|table| !table.contains_key(key)) {
            let what = format!("{} is missing", self.name(key));
            problems.error(self.offset, Diagnostic::new(what, remedy));
        }
    }

    /// Returns a list without its invalid values, each of which is reported.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        problems: &mut Collector<'_>,
        mut parse: impl FnMut(&DeValue<'i>) -> Result<T, Diagnostic>,
    ) -> Option<Vec<Spanned<T>>> {
        let value = self.take(key)?;
        let name = self.name(key);
        let Some(items) = value.get_ref().as_array() else {
            let remedy = match value.get_ref() {
                DeValue::String(text) => format!("write [{text:?}]"),
                DeValue::Integer(number) => format!("write [{number}]"),
                _ => "write it in brackets, [ ]".to_owned(),
            };
            let what = format!("{name}: expected a list, found {}", kind(value.get_ref()));
            problems.error(value.span().start, Diagnostic::new(what, remedy));
            return None;
        };
        let mut parsed = Vec::with_capacity(items.len());
        for item in items {
            match parse(item.get_ref()) {
                Ok(value) => parsed.push(Spanned::new(item.span(), value)),
                Err(wrong) => problems.error(item.span().start, wrong.within(&name)),
            }
        }
        Some(parsed)
    }

    /// Returns a list that must not be empty if it is present.
    pub(super) fn filled_list<T>(
        &mut self,
        key: &'static str,
        problems: &mut Collector<'_>,
        parse: impl FnMut(&DeValue<'i>) -> Result<T, Diagnostic>,
        remedy: &str,
    ) -> Option<Vec<Spanned<T>>> {
        let value = self.table.and_then(|table| table.get(key));
        let empty = |value: &&Spanned<DeValue<'i>>| {
            let array = value.get_ref().as_array();
            array.is_some_and(|items| items.is_empty())
        };
        if let Some(value) = value.filter(empty) {
            let what = format!("{} is empty", self.name(key));
            problems.error(value.span().start, Diagnostic::new(what, remedy));
        }
        self.list(key, problems, parse)
    }

    /// Returns all entries of a table whose keys are names that the user chose, in the order of the
    /// file.
    pub(super) fn entries(self) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
        let mut entries: Vec<_> = self.table.into_iter().flatten().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
    }

    /// Reports unknown keys.
    pub(super) fn finish(self, problems: &mut Collector<'_>) {
        let keys = self.table.into_iter().flat_map(DeTable::keys);
        for key in keys.filter(|key| !self.known.contains(&key.get_ref().as_ref())) {
            let what = format!("unknown key {:?} in {}", key.get_ref(), self.title);
            let name = self.name(key.get_ref());
            let renamed = RENAMED.iter().find(|(old, _)| *old == name);
            let remedy = match (renamed, nearest(key.get_ref(), &self.known)) {
                (Some((_, remedy)), _) => (*remedy).to_owned(),
                (None, Some(known)) => format!("did you mean {known:?}?"),
                (None, None) => format!("known keys are {}", self.known.join(", ")),
            };
            problems.error(key.span().start, Diagnostic::new(what, remedy));
        }
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.label)
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.table?.get(key)
    }
}

/// Returns the name of a kind of value, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// Finds the known word that an unknown one was probably meant to be. Case, `_` and `-` are
/// ignored, so that the names of wg-quick's keys lead to ours.
pub(super) fn nearest<'k>(unknown: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |word: &str| -> String {
        let letters = word.chars().filter(|c| *c != '_' && *c != '-');
        letters.flat_map(char::to_lowercase).take(64).collect()
    };
    let wanted = plain(unknown);
    let close = |word: &&'k str| (strsim::levenshtein(&wanted, &plain(word)), *word);
    let (distance, word) = known.iter().map(close).min()?;
    let shorter = wanted.chars().count().min(word.len());
    (distance <= 2 && distance < shorter).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_forgives_small_typing_errors_only() {
        let known = ["address", "listen_port", "mtu", "public_key"];
        assert_eq!(nearest("adress", &known), Some("address"));
        assert_eq!(nearest("ListenPort", &known), Some("listen_port"));
        assert_eq!(nearest("public-key", &known), Some("public_key"));
        assert_eq!(nearest("mut", &known), Some("mtu"));
        assert_eq!(nearest("dns", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
