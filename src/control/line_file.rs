//! Files of JSON lines that are rotated: `FILE`, `FILE.1`, `FILE.2` and so on, of which larger numbers
//! are older. A line that was written in part is removed before the next one.

use serde::Serialize;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file of whole lines.
#[derive(Debug)]
pub(super) struct LineFile {
    file: File,
    /// Length up to the end of the last whole line, in bytes.
    len: u64,
    /// Whether part of a line may follow.
    torn: bool,
}

impl LineFile {
    /// Opens the file, and makes it and its folder for their owner only if they are missing.
    pub(super) fn open_with_folder(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        Self::open(path)
    }

    /// Opens the file, and makes it for its owner only if it is missing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            // A pipe may be full, and a device cannot be rotated.
            return Err(io::Error::other("not a regular file"));
        }
        let mut len = metadata.len();
        let mut last = [b'\n'];
        if len > 0 {
            file.read_exact_at(&mut last, len - 1)?;
        }
        if last != *b"\n" {
            file.write_all(b"\n")?; // a killed endpoint left half a line
            len += 1;
        }
        Ok(Self {
            file,
            len,
            torn: false,
        })
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Appends one line of JSON, or nothing.
    pub(super) fn write(&mut self, record: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.torn && self.file.metadata()?.len() > self.len {
            self.file.set_len(self.len)?;
        }
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.len += line.len() as u64;
        Ok(())
    }
}

/// Returns the name of a rotated file. Larger numbers are older files.
pub(super) fn rotated(file: &Path, number: u16) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Renames `FILE` to `FILE.1`, and each older file to the next number up to `keep`.
pub(super) fn shift_rotated(file: &Path, keep: u16) -> io::Result<()> {
    // A rotation that failed may have left a gap: files beyond it do not move.
    let gap = (1..keep).find(|number| !rotated(file, *number).exists());
    for number in (1..gap.unwrap_or(keep)).rev() {
        fs::rename(rotated(file, number), rotated(file, number + 1))?;
    }
    absent_is_fine(fs::rename(file, rotated(file, 1)))
}

/// Turns the error of a missing file into success.
pub(super) fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
