//! Remedies for syntax errors, from the line where the text stops being TOML.

use super::problem::{Collector, Diagnostic};
use toml::de::Error;

/// The sections that may occur several times.
const LISTS: [&str; 2] = ["peer", "forward"];

/// The parser's message for a key that occurs twice in a table.
const DUPLICATE: &str = "duplicate key";

/// Reports one problem a line: further errors of a line follow from its first.
pub(super) fn report(errors: &[Error], problems: &mut Collector<'_>) {
    let mut last_line = 0;
    let mut second_section = false;
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        let line = problems.line(offset);
        let is_duplicate = error.message() == DUPLICATE;
        // If a section occurs twice, each of its keys is a duplicate too.
        if line == last_line || (is_duplicate && second_section) {
            continue;
        }
        last_line = line;
        let text = problems.text_of(line);
        let remedy = match (is_duplicate, list_of(text)) {
            (true, Some(key)) => {
                second_section = true;
                in_two_brackets(key)
            }
            (true, None) => "keep one of the two".to_owned(),
            (false, _) => remedy(text),
        };
        problems.error(offset, Diagnostic::new(error.message(), remedy));
    }
}

/// Returns the key of a list of sections that a line writes in single brackets.
fn list_of(line: &str) -> Option<&'static str> {
    let is_it = |key: &&&str| line.trim().starts_with(&format!("[{key}]"));
    LISTS.iter().find(is_it).copied()
}

fn remedy(line: &str) -> String {
    let value = line.split_once('=').map_or("", |(_, value)| value);
    match without_quotes(value) {
        Some(Bare::Word(word)) => format!("write \"{word}\", in quotes"),
        Some(Bare::Unclosed) => "end it with another quote, \"".to_owned(),
        None => "correct the TOML of this line".to_owned(),
    }
}

/// Returns the remedy for `[key]` where it must be `[[key]]`.
pub(super) fn in_two_brackets(key: &str) -> String {
    format!("write [[{key}]], in two brackets, before each")
}

/// A part of a value that should be a quoted text.
enum Bare<'v> {
    Word(&'v str),
    Unclosed,
}

/// Finds the first word outside of quotes that is neither a number nor `true` or `false`.
fn without_quotes(value: &str) -> Option<Bare<'_>> {
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || "[],{}".contains(c));
        let first = rest.chars().next().filter(|c| *c != '#')?;
        if first == '"' || first == '\'' {
            match rest.get(1..)?.split_once(first) {
                Some((_, after)) => rest = after,
                None => return Some(Bare::Unclosed),
            }
            continue;
        }
        let end = rest.find(|c: char| c.is_whitespace() || "],}#".contains(c));
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        let is_scalar = word.parse::<f64>().is_ok() || word == "true" || word == "false";
        if !is_scalar && !word.contains(['"', '\'', '=']) {
            return Some(Bare::Word(word));
        }
        rest = after;
    }
}
