//! Key files, each with one key. It refuses files that other users can read, and never overwrites
//! one.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

pub use vcgate_core::keys::{KEY_LEN, KEY_TEXT_LEN, KeyError, PresharedKey, PrivateKey, PublicKey};

/// A key that is stored in a file of its own: one line of base64 that only its owner can read.
pub trait KeyFile: Sized {
    /// Reads the key.
    ///
    /// # Errors
    /// Refuses a file that is missing, is not a regular file, is open to other users, or does not
    /// contain exactly one key.
    fn read(path: &Path) -> Result<Self, KeyFileError>;

    /// Writes the key to a new file with mode 0600.
    ///
    /// # Errors
    /// Refuses to overwrite an existing file; reports files that cannot be written.
    fn write_new(&self, path: &Path) -> Result<(), KeyFileError>;
}

impl KeyFile for PrivateKey {
    fn read(path: &Path) -> Result<Self, KeyFileError> {
        read(path, Self::from_base64)
    }

    fn write_new(&self, path: &Path) -> Result<(), KeyFileError> {
        write(path, &self.to_base64())
    }
}

impl KeyFile for PresharedKey {
    fn read(path: &Path) -> Result<Self, KeyFileError> {
        read(path, Self::from_base64)
    }

    fn write_new(&self, path: &Path) -> Result<(), KeyFileError> {
        write(path, &self.to_base64())
    }
}

/// Maximum number of bytes that are read from a key file.
const MAX_FILE_LEN: u64 = 1024;

/// The reason why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read {}: {}", path.display(), reason(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The user may read the file, but the running endpoint has restricted itself to other folders.
    #[error(
        "cannot read {}: the endpoint reads only the folders that its configuration named when it started",
        path.display()
    )]
    Confined {
        /// The file.
        path: PathBuf,
    },
    /// The path is a directory, a pipe or a device.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Users other than the owner can read or write the file.
    #[error("{} is open to users other than its owner (mode {mode:04o})", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not contain a key.
    #[error("{} does not contain a key: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The cause.
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
        /// The cause.
        source: io::Error,
    },
}

impl KeyFileError {
    /// Returns the remedy; `generate` is the command that creates such a key.
    pub fn remedy(&self, generate: &str) -> String {
        match self {
            Self::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                format!("create it: (umask 077; {generate} > {})", path.display())
            }
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as the user who owns it, or let the user of the service own it; after a change of \
                 folder, restart the service"
                    .to_owned()
            }
            Self::Confined { path } => format!(
                "restart the endpoint, or move {} to the folder of the other keys",
                path.display()
            ),
            Self::Read { .. } | Self::NotAFile { .. } => {
                format!("name a file that {generate} has written")
            }
            Self::Open { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Content { .. } => format!("a key file is one line, as {generate} writes it"),
            Self::Exists { path } => format!("move {} away", path.display()),
            Self::Write { source, .. } => write_remedy(source).to_owned(),
        }
    }
}

/// Returns the remedy for a file that cannot be written.
pub(crate) fn write_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run as the user who owns its folder",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space",
        _ => "choose a folder that this user can write to",
    }
}

/// Returns the system's message without the number that Rust adds.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Reads a secret of one line, such as a token, from a file that only its owner can read.
///
/// # Errors
/// As [`KeyFile::read`].
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    read(path, |text| Ok(Zeroizing::new(text.to_owned())))
}

/// Checks that only its owner can read a file, of any content.
///
/// # Errors
/// If it cannot be read, or others can read it.
pub(crate) fn check_private(path: &Path) -> Result<(), KeyFileError> {
    let unreadable = |source| KeyFileError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    match metadata.permissions().mode() & 0o7777 {
        mode if mode & 0o077 != 0 => Err(KeyFileError::Open {
            path: path.to_owned(),
            mode,
        }),
        _ => Ok(()),
    }
}

fn read<K>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<K, KeyError>,
) -> Result<K, KeyFileError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied if may_read(path) => KeyFileError::Confined {
            path: path.to_owned(),
        },
        _ => KeyFileError::Read {
            path: path.to_owned(),
            source,
        },
    };
    // Without O_NONBLOCK, opening a pipe would wait for a writer.
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        let path = path.to_owned();
        return Err(KeyFileError::NotAFile { path });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN as usize));
    file.take(MAX_FILE_LEN)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(KeyFileError::Open { path, mode });
    }
    // Bytes that are not text count as one character each, so that the error has a length.
    let text = std::str::from_utf8(&bytes)
        .map(str::trim_ascii)
        .map_err(|_| KeyError::Length(bytes.len()));
    text.and_then(parse)
        .map_err(|source| KeyFileError::Content {
            path: path.to_owned(),
            source,
        })
}

/// Whether the file belongs to this user, who may read it. Landlock's rules do not concern the question,
/// unlike the opening of the file.
fn may_read(path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    path.metadata()
        .is_ok_and(|file| file.uid() == user && file.mode() & 0o400 != 0)
}

fn write(path: &Path, key: &str) -> Result<(), KeyFileError> {
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
        // A partial file would make the next attempt fail.
        let _ = fs::remove_file(path);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, read_to_string, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    /// RFC 7748, section 6.1: Alice's private key.
    const ALICE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";

    #[test]
    fn files_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let key = PrivateKey::from_base64(ALICE).unwrap();
        key.write_new(&path).unwrap();
        assert_eq!(read_to_string(&path).unwrap(), format!("{ALICE}\n"));
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(
            PrivateKey::read(&path).unwrap().public_key(),
            key.public_key()
        );

        let error = PrivateKey::generate()
            .unwrap()
            .write_new(&path)
            .unwrap_err();
        let place = path.display();
        assert_eq!(
            error.to_string(),
            format!("{place} exists already and is never overwritten")
        );
        assert_eq!(error.remedy("vcgate genkey"), format!("move {place} away"));
        assert_eq!(read_to_string(&path).unwrap(), format!("{ALICE}\n"));
    }

    #[test]
    fn files_open_to_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        write(&path, ALICE).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o644] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = PresharedKey::read(&path).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "{} is open to users other than its owner (mode {mode:04o})",
                    path.display()
                )
            );
            assert_eq!(error.remedy(""), format!("chmod 600 {}", path.display()));
        }
        for mode in [0o600, 0o400, 0o700] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(PresharedKey::read(&path).is_ok());
        }
    }

    #[test]
    fn a_file_outside_the_folders_of_a_confined_process_is_named_as_such() {
        use crate::confine::{Needs, control};
        let [allowed, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let files = [&allowed, &other].map(|dir| dir.path().join("a.psk"));
        for file in &files {
            write(file, ALICE).unwrap();
            set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        }
        let read = vec![allowed.path().to_owned()];
        let [inside, outside] = std::thread::spawn(move || {
            control(&Needs {
                read,
                ..Needs::default()
            });
            files.map(|file| PresharedKey::read(&file).map(drop))
        })
        .join()
        .unwrap();
        assert!(inside.is_ok(), "{inside:?}");
        // A kernel without landlock reads all files.
        let Err(error) = outside else { return };
        let place = other.path().join("a.psk").display().to_string();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot read {place}: the endpoint reads only the folders that its configuration \
                 named when it started"
            )
        );
        assert_eq!(
            error.remedy("vcgate genpsk"),
            format!("restart the endpoint, or move {place} to the folder of the other keys")
        );
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let error = PrivateKey::read(&path).unwrap_err();
        let place = path.display();
        assert_eq!(
            error.to_string(),
            format!("cannot read {place}: No such file or directory")
        );
        assert_eq!(
            error.remedy("vcgate genkey"),
            format!("create it: (umask 077; vcgate genkey > {place})")
        );
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for other in [dir.path(), &pipe] {
            let error = PrivateKey::read(other).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{} is not a file", other.display())
            );
            assert_eq!(
                error.remedy("vcgate genkey"),
                "name a file that vcgate genkey has written"
            );
        }

        write(&path, b"\xFF\xFE").unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = PrivateKey::read(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{place} does not contain a key: it has 2 characters, a key has 44")
        );
        assert_eq!(
            error.remedy("vcgate genkey"),
            "a key file is one line, as vcgate genkey writes it"
        );
    }
}
