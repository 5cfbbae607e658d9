//! `vcgate peer show`: a client's configuration, as text or as a QR code.

use super::super::{output, qr as terminal};
use super::advice;
use anyhow::Context;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use vcgate::config;
use vcgate::operate::{host_network, qr};

/// The form in which a client's configuration is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Form {
    Text,
    /// A QR code for the terminal.
    Qr,
    /// A QR code as an SVG image.
    Svg,
    /// A QR code as a PNG image in a file; `-` is stdout.
    Png(PathBuf),
}

impl Form {
    /// Returns the form that the options select.
    pub(in crate::cli) fn of(qr: bool, svg: bool, png: Option<PathBuf>) -> Self {
        match (qr, svg, png) {
            (_, _, Some(file)) => Self::Png(file),
            (_, true, None) => Self::Svg,
            (true, false, None) => Self::Qr,
            (false, false, None) => Self::Text,
        }
    }
}

/// Shows a client's configuration.
pub(in crate::cli) fn show(path: &Path, name: &str, form: Form) -> anyhow::Result<()> {
    let config = config::load(path)?.config;
    let client = config::client(&config, name, &host_network::of(&config))?;
    output::warnings(&client.warnings);
    if form == Form::Text {
        return output::print(&client.text);
    }
    if let Some(lack) = client.lacks.first() {
        anyhow::bail!(
            "a code would be incomplete. {}",
            advice(*lack, &client).trim()
        );
    }
    // The line for the file makes the code larger.
    let text = config::without_checksum(&client.text);
    match form {
        Form::Text => Ok(()),
        Form::Qr => output::print(&terminal::render(text)?),
        Form::Svg => output::print(&qr::svg(text)?),
        Form::Png(file) => write(&file, &qr::png(text)?),
    }
}

/// Writes a new file that only its owner can read, or to stdout.
fn write(file: &Path, image: &[u8]) -> anyhow::Result<()> {
    if file == Path::new("-") {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(image).and_then(|()| stdout.flush());
        return written.context("cannot write to stdout");
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let opened = options
        .open(file)
        .and_then(|mut file| file.write_all(image));
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::anyhow!(
            "cannot write {}: it exists already and is never overwritten; move it away",
            file.display()
        ),
        _ => anyhow::anyhow!(
            "cannot write {}: {error}; name a file in a folder that you may write to",
            file.display()
        ),
    })
}
