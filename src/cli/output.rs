//! Results on stdout, errors and warnings on stderr. A reader that has gone away is no error.

use super::table::Screen;
use anyhow::Context;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tracing::Level;
use vcgate::config::{Problem, Problems};
use vcgate::logging::{Log, journal};

const RED: &str = "\x1b[1;31m";
pub const YELLOW: &str = "\x1b[1;33m";
pub const PLAIN: &str = "\x1b[0m";

/// Whether errors and warnings are JSON, as the log is.
static JSON: AtomicBool = AtomicBool::new(false);
/// The log, once it has started.
static LOG: OnceLock<Log> = OnceLock::new();

/// From here on, errors and warnings go the way of the log, and into it if that is JSON.
pub fn use_log(log: Log, json: bool) {
    JSON.store(json, Relaxed);
    // A process has one log.
    let _ = LOG.set(log);
}

/// The end of the process: what was logged is written, unless nothing reads it.
pub fn flush_log() {
    if let Some(log) = LOG.get() {
        log.flush();
    }
}

/// Writes a result at once.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    let written = written.and_then(|()| stdout.flush());
    written.context("cannot write to stdout")
}

/// Writes a report: as pretty JSON, or as the text that `text` makes of it.
pub fn report<T: Serialize>(
    report: &T,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    print(&match json {
        true => serde_json::to_string_pretty(report)? + "\n",
        false => text(report),
    })
}

/// Reports why something was not done: one line for each reason.
pub fn errors(error: &anyhow::Error) {
    match error.downcast_ref::<Problems>() {
        Some(problems) => {
            warnings(&problems.warnings);
            for problem in &problems.errors {
                tell(Kind::Error, problem);
            }
        }
        None => tell(Kind::Error, &in_full(error)),
    }
}

/// Reports what may not be meant.
pub fn warnings(warnings: &[Problem]) {
    for problem in warnings {
        tell(Kind::Warning, problem);
    }
}

/// Reports something that may not be meant, without a place.
pub fn warning(text: &str) {
    tell(Kind::Warning, &text);
}

/// The files that were made, a line for each.
pub fn made(files: &[PathBuf]) -> String {
    let lines = files
        .iter()
        .map(|file| format!("  made {}\n", file.display()));
    lines.collect()
}

/// Whether the error is that the reader of stdout has gone, as `head` does when it has enough.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    io_error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Whether stderr shows colours, and the user wants some.
pub fn stderr_has_colours() -> bool {
    io::stderr().is_terminal() && wants_colours()
}

/// What stdout shows: the width of a terminal, and colours.
pub fn screen() -> Screen {
    let size = console::Term::stdout().size_checked();
    Screen {
        columns: size.map(|(_, columns)| columns.into()),
        colours: io::stdout().is_terminal() && wants_colours(),
    }
}

/// Whether the user wants colours (no-color.org).
fn wants_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The error and its causes, but for those whose words it repeats.
fn in_full(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[derive(Clone, Copy)]
enum Kind {
    Error,
    Warning,
}

fn tell(kind: Kind, text: &dyn Display) {
    if JSON.load(Relaxed) {
        return match kind {
            Kind::Error => tracing::error!("{text}"),
            Kind::Warning => tracing::warn!("{text}"),
        };
    }
    let (kind, colour, level) = match kind {
        Kind::Error => ("error", RED, Level::ERROR),
        Kind::Warning => ("warning", YELLOW, Level::WARN),
    };
    let line = match stderr_has_colours() {
        true => format!("{colour}{kind}:{PLAIN} {text}"),
        false if journal::reads_stderr() => format!("{}{kind}: {text}", journal::prefix(level)),
        false => format!("{kind}: {text}"),
    };
    match LOG.get() {
        Some(log) => log.write_line(&line),
        // If this fails, there is no place left to report it.
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write a: {source}")]
    struct Repeats {
        source: io::Error,
    }

    #[test]
    fn a_cause_is_told_once() {
        let source = io::Error::from_raw_os_error(libc::EACCES);
        let said = source.to_string();
        let error = anyhow::Error::new(Repeats { source });
        assert_eq!(in_full(&error), format!("cannot write a: {said}"));
        let error = error.context("b");
        assert_eq!(in_full(&error), format!("b: cannot write a: {said}"));
    }

    #[test]
    fn a_reader_that_has_gone_is_known_by_its_error() {
        let gone: Result<(), _> = Err(io::Error::from(ErrorKind::BrokenPipe));
        let gone = gone.context("cannot write to stdout").unwrap_err();
        assert!(is_closed_pipe(&gone));
        assert!(!is_closed_pipe(&anyhow::anyhow!("else")));
    }
}
