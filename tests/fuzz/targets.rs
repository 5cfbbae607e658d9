//! The fuzz targets for texts that the vcgate crate reads; `fuzz/fuzz_targets` uses this file too.

use std::path::Path;
use vcgate::config;
use vcgate::control::uapi::text;

/// Parses a UAPI request. Its error names a key, never a value: that may be secret.
pub(crate) fn uapi(bytes: &[u8]) {
    if let Err(error) = text::parse(bytes) {
        assert!(error.message.len() < 1024, "{}", error.message);
    }
}

/// Parses a configuration file whose key files do not exist. Every problem names a line of it.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let path = Path::new("/nonexistent/vcgate.toml");
    let Err(problems) = config::parse(text, path) else {
        return;
    };
    assert!(!problems.errors.is_empty());
    let lines = text.split('\n').count();
    for problem in problems.errors.iter().chain(&problems.warnings) {
        assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)));
    }
}
