//! Problems of a configuration: file, line, cause and remedy.

use crate::keys::KeyFileError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// The cause and the remedy of a problem, without its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{what}; {remedy}")]
pub struct Diagnostic {
    /// The cause.
    pub what: String,
    /// The remedy.
    pub remedy: String,
}

impl Diagnostic {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn key_file(error: &KeyFileError, generate: &str) -> Self {
        Self::new(error.to_string(), error.remedy(generate))
    }

    /// Prefixes the cause with a context.
    pub(super) fn within(self, context: &str) -> Self {
        Self::new(format!("{context}: {}", self.what), self.remedy)
    }
}

/// A problem with its place. Its text is `FILE:LINE: WHAT; REMEDY`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1; `None` for the file as a whole.
    pub line: Option<usize>,
    /// The cause and the remedy.
    #[serde(flatten)]
    pub wrong: Diagnostic,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.wrong)
    }
}

/// All errors and warnings of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    /// Problems that make the file invalid; never empty if `Problems` is an error.
    pub errors: Vec<Problem>,
    /// Problems with which the file is valid.
    pub warnings: Vec<Problem>,
}

impl Problems {
    /// Makes one error about a file as a whole.
    pub(super) fn one(file: &Path, wrong: Diagnostic) -> Self {
        Self::at(file, None, wrong)
    }

    /// Makes one error at a line.
    pub(super) fn at(file: &Path, line: Option<usize>, wrong: Diagnostic) -> Self {
        let file = file.to_owned();
        Self {
            errors: vec![Problem { file, line, wrong }],
            warnings: Vec::new(),
        }
    }

    /// Removes lines from `first` on, since they are not in the file that the user sees.
    pub(super) fn unplaced(mut self, file: &Path, first: usize) -> Self {
        for error in &mut self.errors {
            error.line = error.line.filter(|line| *line < first);
            error.file = file.to_owned();
        }
        self
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.errors.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects the problems of one text and maps offsets in it to lines.
pub(super) struct Collector<'a> {
    path: &'a Path,
    text: &'a str,
    /// The offset at which each line begins, in ascending order.
    line_starts: Vec<usize>,
    problems: Problems,
}

impl<'a> Collector<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            path,
            text,
            line_starts: std::iter::once(0)
                .chain(newlines.map(|(at, _)| at + 1))
                .collect(),
            problems: Problems::default(),
        }
    }

    /// Adds an error at a byte of the text.
    pub(super) fn error(&mut self, offset: usize, wrong: Diagnostic) {
        let problem = self.problem(offset, wrong);
        self.problems.errors.push(problem);
    }

    /// Adds a warning at a byte of the text.
    pub(super) fn warning(&mut self, offset: usize, wrong: Diagnostic) {
        let problem = self.problem(offset, wrong);
        self.problems.warnings.push(problem);
    }

    /// Returns the number of the line that contains the byte at `offset`, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Returns the text of a line, counted from 1; empty where there is no such line.
    pub(super) fn text_of(&self, line: usize) -> &'a str {
        let start = self.line_starts.get(line.saturating_sub(1));
        let rest = start.and_then(|start| self.text.get(*start..));
        rest.and_then(|rest| rest.lines().next())
            .unwrap_or_default()
    }

    /// Returns the warnings, if there was no error.
    pub(super) fn into_warnings(self) -> Result<Vec<Problem>, Problems> {
        match self.problems.errors.is_empty() {
            true => Ok(self.into_errors().warnings),
            false => Err(self.into_errors()),
        }
    }

    /// Returns all problems, in the order of the text.
    pub(super) fn into_errors(mut self) -> Problems {
        self.problems.errors.sort_by_key(|problem| problem.line);
        self.problems.warnings.sort_by_key(|problem| problem.line);
        self.problems
    }

    fn problem(&self, offset: usize, wrong: Diagnostic) -> Problem {
        Problem {
            file: self.path.to_owned(),
            line: Some(self.line(offset)),
            wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_map_to_lines() {
        let text = "one\r\n\nthree";
        let problems = Collector::new(Path::new("vcgate.toml"), text);
        let lines = [0, 3, 4, 5, 6, 10, 11, 99].map(|offset| problems.line(offset));
        assert_eq!(lines, [1, 1, 1, 2, 3, 3, 3, 3]);
        let texts = [1, 2, 3, 4].map(|line| problems.text_of(line));
        assert_eq!(texts, ["one", "", "three", ""]);
    }
}
