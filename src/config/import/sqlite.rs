//! Reads tables of an SQLite database with the `sqlite3` program: a library of its own for a command
//! that is used once would be larger than vcgate. It never writes.

use crate::config::problem::{Diagnostic, Problems};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

/// The first bytes of a database (SQLite's "Database File Format", section 1.3).
const MAGIC: [u8; 16] = *b"SQLite format 3\0";

/// A record: its fields by name.
pub(super) struct Row(pub Map<String, Value>);

impl Row {
    /// Returns a field as text, if it is not empty.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        match self.0.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
        .filter(|text| !text.is_empty())
    }

    /// Returns whether a field is true, or a number other than 0.
    pub(super) fn is_true(&self, key: &str) -> bool {
        match self.0.get(key) {
            Some(Value::Bool(is_true)) => *is_true,
            Some(Value::Number(number)) => number.as_i64() != Some(0),
            _ => false,
        }
    }

    /// Returns a field that is a list of texts, or a text with one as JSON, separated by commas.
    pub(super) fn list(&self, key: &str) -> Option<String> {
        let parsed;
        let list = match self.0.get(key)? {
            Value::Array(list) => list,
            Value::String(text) => {
                parsed = serde_json::from_str::<Vec<Value>>(text).ok()?;
                &parsed
            }
            _ => return None,
        };
        let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
        Some(texts.join(", ")).filter(|list| !list.is_empty())
    }
}

/// Returns whether a file is a database.
pub(super) fn is_database(path: &Path) -> bool {
    // Opening a FIFO waits for a writer.
    if path.metadata().is_ok_and(|meta| meta.file_type().is_fifo()) {
        return false;
    }
    let mut start = [0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == MAGIC
}

/// Returns whether a database has a table.
pub(super) fn has_table(path: &Path, table: &str) -> Result<bool, Problems> {
    let tables = rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")?;
    Ok(tables
        .iter()
        .any(|row| row.text("name").as_deref() == Some(table)))
}

/// Returns the result of a query.
pub(super) fn rows(path: &Path, query: &str) -> Result<Vec<Row>, Problems> {
    let fault = |what: String, remedy: &str| Problems::one(path, Diagnostic::new(what, remedy));
    // An absolute path is never taken for an option.
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let output = Command::new("sqlite3")
        .args(["-readonly", "-batch", "-init", "/dev/null", "-json"])
        .arg(file)
        .arg(query)
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => fault(
                "cannot read the database: there is no sqlite3 program".to_owned(),
                "install it: sudo apt-get install sqlite3",
            ),
            _ => fault(
                format!("cannot run sqlite3: {error}"),
                "look into the cause",
            ),
        })?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let what = format!("cannot read the database: {}", said.trim());
        let remedy =
            "name the database of wg-easy 15 or wg-portal 2, and copy its -wal file with it";
        return Err(fault(what, remedy));
    }
    if output.stdout.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<Map<String, Value>> =
        serde_json::from_slice(&output.stdout).map_err(|error| {
            let remedy = "install a newer sqlite3";
            fault(format!("cannot read what sqlite3 prints: {error}"), remedy)
        })?;
    Ok(rows.into_iter().map(Row).collect())
}

/// Returns the interface of a database that is named, or the only one.
pub(super) fn interface(
    from: &Path,
    found: Vec<Row>,
    key: &str,
    wanted: Option<&str>,
) -> Result<Row, Problems> {
    let names: Vec<String> = found.iter().filter_map(|row| row.text(key)).collect();
    let mut fitting = found
        .into_iter()
        .filter(|row| wanted.is_none_or(|wanted| row.text(key).as_deref() == Some(wanted)));
    if let (Some(chosen), None) = (fitting.next(), fitting.next()) {
        return Ok(chosen);
    }
    let wrong = match (names.is_empty(), wanted) {
        (true, _) => Diagnostic::new(
            "the database has no interface",
            "set up the old endpoint, or name another file",
        ),
        (false, None) => Diagnostic::new(
            format!("the database has several interfaces: {}", names.join(", ")),
            "choose one with --interface",
        ),
        (false, Some(wanted)) => Diagnostic::new(
            format!("the database has no interface {wanted:?}"),
            format!("choose one of them with --interface: {}", names.join(", ")),
        ),
    };
    Err(Problems::one(from, wrong))
}
