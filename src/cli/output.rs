//! Results on stdout, errors and warnings on stderr. A reader of stdout that exits early is not an
//! error.

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
pub(super) const YELLOW: &str = "\x1b[1;33m";
pub(super) const PLAIN: &str = "\x1b[0m";
/// Additional indentation of the further lines of a long line, in characters.
const CONTINUATION: usize = 4;

/// The medium that a report is written to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Screen {
    /// The width of a terminal, in characters; a file has none.
    pub columns: Option<usize>,
    /// Whether it shows colours.
    pub colours: bool,
}

impl Screen {
    /// Renders a line. Words beyond the width continue on further lines, indented; a line about
    /// something wrong has a colour.
    pub(super) fn line(self, text: &str, is_wrong: bool) -> String {
        let columns = self.columns.unwrap_or(usize::MAX);
        let own_indent = text.len() - text.trim_start().len();
        let mut lines = vec![" ".repeat(own_indent)];
        let (mut used, mut has_word) = (own_indent, false);
        // Two blanks in a row separate the parts of a line, and stay.
        for word in text.trim_start().split(' ') {
            let length = word.chars().count();
            if has_word && used + 1 + length > columns {
                used = own_indent + CONTINUATION;
                lines.push(" ".repeat(used));
                has_word = false;
            }
            if let Some(line) = lines.last_mut() {
                *line += if has_word { " " } else { "" };
                *line += word;
            }
            used += usize::from(has_word) + length;
            has_word = true;
        }
        let shown = lines.iter().map(|line| match self.colours && is_wrong {
            true => format!("{YELLOW}{}{PLAIN}\n", line.trim_end()),
            false => format!("{}\n", line.trim_end()),
        });
        shown.collect()
    }
}

/// Whether errors and warnings are JSON, as the log is.
static JSON: AtomicBool = AtomicBool::new(false);
/// The log, once it has started.
static LOG: OnceLock<Log> = OnceLock::new();

/// Writes errors and warnings through the log's queue from now on, and as events if the log is JSON.
pub(super) fn use_log(log: Log, json: bool) {
    JSON.store(json, Relaxed);
    // A process has one log.
    let _ = LOG.set(log);
}

/// Writes the last lines of the log before the process ends, unless nothing reads them.
pub(super) fn flush_log() {
    if let Some(log) = LOG.get() {
        log.flush();
    }
}

/// Writes a result and flushes it.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    let written = written.and_then(|()| stdout.flush());
    written.context("cannot write to stdout")
}

/// Writes a report: as indented JSON, or as the text that `text` returns.
pub(super) fn report<T: Serialize>(
    report: &T,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    print(&match json {
        true => serde_json::to_string_pretty(report)? + "\n",
        false => text(report),
    })
}

/// Writes an error to stderr, one line for each problem.
pub(super) fn errors(error: &anyhow::Error) {
    match error.downcast_ref::<Problems>() {
        Some(problems) => {
            warnings(&problems.warnings);
            for problem in &problems.errors {
                write(Kind::Error, problem);
            }
        }
        None => write(Kind::Error, &in_full(error)),
    }
}

/// Writes warnings about a file to stderr.
pub(super) fn warnings(warnings: &[Problem]) {
    for problem in warnings {
        write(Kind::Warning, problem);
    }
}

/// Writes a warning to stderr.
pub(super) fn warning(text: &str) {
    write(Kind::Warning, &text);
}

/// Lists created files, a line for each.
pub(super) fn made(files: &[PathBuf]) -> String {
    let lines = files
        .iter()
        .map(|file| format!("  made {}\n", file.display()));
    lines.collect()
}

/// Lists files that were replaced, a line for each.
pub(super) fn wrote(files: &[PathBuf]) -> String {
    let lines = files.iter();
    lines
        .map(|file| format!("  wrote {}\n", file.display()))
        .collect()
}

/// Returns "sudo " if this command was run with sudo, for the commands that it recommends: they need the
/// same rights.
pub(super) fn sudo() -> &'static str {
    match std::env::var_os("SUDO_UID") {
        Some(_) => "sudo ",
        None => "",
    }
}

/// Whether the error is that the reader of stdout has exited, as `head` does.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    io_error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Whether stderr shows colours and the user wants them.
pub(super) fn stderr_has_colours() -> bool {
    io::stderr().is_terminal() && wants_colours()
}

/// Returns the properties of stdout.
pub(super) fn screen() -> Screen {
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

/// Joins an error and its causes, except for causes that its text contains already.
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

fn write(kind: Kind, text: &dyn Display) {
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

    #[test]
    fn every_line_of_a_long_line_about_something_wrong_has_the_colour() {
        let screen = |columns, colours| Screen { columns, colours };
        let text = "  one two  three four";
        assert_eq!(screen(None, false).line(text, true), format!("{text}\n"));
        let narrow = screen(Some(12), false).line(text, false);
        assert_eq!(narrow, "  one two\n      three\n      four\n");
        let wrong = screen(Some(12), true).line(text, true);
        let coloured = |line| format!("\x1b[1;33m{line}\x1b[0m\n");
        let expected = ["  one two", "      three", "      four"].map(coloured);
        assert_eq!(wrong, expected.concat());
        // A word that is too long for any line is not cut.
        assert_eq!(
            screen(Some(3), false).line("a abcdefgh", false),
            "a\n    abcdefgh\n"
        );
        assert_eq!(screen(Some(3), true).line("", false), "\n");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write a: {source}")]
    struct Repeats {
        source: io::Error,
    }

    #[test]
    fn repeated_causes_are_left_out() {
        let source = io::Error::from_raw_os_error(libc::EACCES);
        let cause = source.to_string();
        let error = anyhow::Error::new(Repeats { source });
        assert_eq!(in_full(&error), format!("cannot write a: {cause}"));
        let error = error.context("b");
        assert_eq!(in_full(&error), format!("b: cannot write a: {cause}"));
    }

    #[test]
    fn a_closed_pipe_is_recognized() {
        let gone: Result<(), _> = Err(io::Error::from(ErrorKind::BrokenPipe));
        let gone = gone.context("cannot write to stdout").unwrap_err();
        assert!(is_closed_pipe(&gone));
        assert!(!is_closed_pipe(&anyhow::anyhow!("else")));
    }
}
