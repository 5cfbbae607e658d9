//! Files that hold one key each. One that others can read is refused, and none is ever overwritten.

use super::{KEY_LEN, KeyError, decode};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// More than this of a key file is never read, in bytes.
const MOST: u64 = 1024;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read {}: {}", path.display(), reason(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a folder, a pipe or a device.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// Somebody other than the owner can read or write the file.
    #[error("{} is open to others than its owner (mode {mode:04o})", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{} does not hold a key: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with what it holds.
        source: KeyError,
    },
    /// The file exists and is not overwritten.
    #[error("{} exists already and is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {}", path.display(), reason(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl KeyFileError {
    /// What to do about it; `generate` is the command that makes such a key.
    pub fn remedy(&self, generate: &str) -> String {
        match self {
            Self::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                format!("make it: (umask 077; {generate} > {})", path.display())
            }
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as the user who owns it".to_owned()
            }
            Self::Read { .. } | Self::NotAFile { .. } => {
                format!("name a file that {generate} has written")
            }
            Self::Open { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Content { .. } => format!("a key file is one line, as {generate} writes it"),
            Self::Exists { path } => format!("move {} away", path.display()),
            Self::Write { source, .. } => written(source).to_owned(),
        }
    }
}

/// What to do about a file that could not be written.
pub(crate) fn written(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run as the user who owns its folder",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space",
        _ => "choose a folder that this user can write to",
    }
}

/// What the system said, without the number that Rust adds.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

pub(super) fn read(path: &Path) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyFileError> {
    let unreadable = |source| KeyFileError::Read {
        path: path.to_owned(),
        source,
    };
    // Opening a pipe would wait for somebody who writes.
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        let path = path.to_owned();
        return Err(KeyFileError::NotAFile { path });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST as usize));
    file.take(MOST)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(KeyFileError::Open { path, mode });
    }
    // Bytes that are no text count as one character each, so that the length is still told.
    let text = std::str::from_utf8(&bytes)
        .map(str::trim_ascii)
        .map_err(|_| KeyError::Length(bytes.len()));
    text.and_then(decode)
        .map_err(|source| KeyFileError::Content {
            path: path.to_owned(),
            source,
        })
}

pub(super) fn write(path: &Path, key: &str) -> Result<(), KeyFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists {
            path: path.to_owned(),
        },
        _ => KeyFileError::Write {
            path: path.to_owned(),
            source,
        },
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let mut write_all = || {
        file.write_all(key.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write_all().map_err(|error| {
        // Part of a key would be in the way of the next try.
        let _ = fs::remove_file(path);
        failed(error)
    })
}
