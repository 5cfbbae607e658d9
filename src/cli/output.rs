//! Results on stdout, errors and warnings on stderr. A reader that has gone away is no error.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use vcgate::config::{Problem, Problems};

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const PLAIN: &str = "\x1b[0m";

/// Writes a result.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Reports why something was not done: one line for each reason.
pub fn errors(error: &anyhow::Error) {
    match error.downcast_ref::<Problems>() {
        Some(problems) => {
            warnings(&problems.warnings);
            for problem in &problems.errors {
                line("error", RED, problem);
            }
        }
        None => line("error", RED, &format_args!("{error:#}")),
    }
}

/// Reports what may not be meant.
pub fn warnings(warnings: &[Problem]) {
    for problem in warnings {
        line("warning", YELLOW, problem);
    }
}

/// Reports something that may not be meant, without a place.
pub fn warning(text: &str) {
    line("warning", YELLOW, &text);
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

/// Whether stderr shows colours, and the user wants some (no-color.org).
pub fn stderr_has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !unwanted
}

fn line(kind: &str, colour: &str, text: &dyn Display) {
    let mut stderr = io::stderr().lock();
    // Nobody is left to tell if this fails.
    let _ = match stderr_has_colours() {
        true => writeln!(stderr, "{colour}{kind}:{PLAIN} {text}"),
        false => writeln!(stderr, "{kind}: {text}"),
    };
}
