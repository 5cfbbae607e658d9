//! Makes and replaces files: all of them or none, private from the first byte. It never overwrites an
//! existing file.

use super::problem::{Diagnostic, Problems};
use crate::keys::{KeyFileError, reason, write_remedy};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Maximum time that a change waits for another one.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two attempts to lock the file.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// New files, which are removed on drop unless [`finish`](Self::finish) is called.
#[derive(Default)]
pub(super) struct Created {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Created {
    /// Makes a folder that only its owner can enter, unless it exists.
    pub(super) fn private_dir(&mut self, dir: &Path) -> Result<(), Problems> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {
                self.dirs.push(dir.to_owned());
                give_to_owner_of_folder(dir)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(error) => return Err(cannot_make("make this folder", dir, &error)),
        }
        Ok(())
    }

    /// Makes a key file.
    pub(super) fn key(
        &mut self,
        path: &Path,
        write: impl FnOnce(&Path) -> Result<(), KeyFileError>,
    ) -> Result<(), Problems> {
        write(path).map_err(|error| match error {
            KeyFileError::Write { source, .. } => cannot_make("write it", path, &source),
            _ => exists(path),
        })?;
        self.files.push(path.to_owned());
        give_to_owner_of_folder(path)
    }

    /// Makes a file that only its owner can read.
    pub(super) fn private_file(&mut self, path: &Path, text: &str) -> Result<(), Problems> {
        self.file(path, text, 0o600)
    }

    /// Makes a file that all users can read.
    pub(super) fn public_file(&mut self, path: &Path, text: &str) -> Result<(), Problems> {
        self.file(path, text, 0o644)
    }

    /// Gives a file a second name, which must be free.
    pub(super) fn link(&mut self, from: &Path, to: &Path) -> Result<(), Problems> {
        fs::hard_link(from, to).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(to),
            _ => cannot_make("write it", to, &error),
        })?;
        self.files.push(to.to_owned());
        Ok(())
    }

    /// Makes the files durable. Call it before a configuration refers to them.
    pub(super) fn sync(&self) -> Result<(), Problems> {
        let folders: BTreeSet<&Path> = self.files.iter().map(|file| folder(file)).collect();
        folders.into_iter().try_for_each(|dir| {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(|error| cannot("write to this folder", dir, &error))
        })
    }

    /// Keeps all files, and returns them in the order in which they were made.
    pub(super) fn finish(mut self) -> Vec<PathBuf> {
        self.dirs.clear();
        std::mem::take(&mut self.files)
    }

    fn file(&mut self, path: &Path, text: &str, mode: u32) -> Result<(), Problems> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(mode);
        let mut file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => cannot_make("write it", path, &error),
        })?;
        self.files.push(path.to_owned());
        let written = file.write_all(text.as_bytes());
        let synced = written.and_then(|()| file.sync_all());
        synced.map_err(|error| cannot_make("write it", path, &error))?;
        give_to_owner_of_folder(path)
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        // Fails on purpose if others have put files there.
        for dir in self.dirs.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Replaces a file that only its owner can read, atomically.
pub(super) fn replace_private(path: &Path, text: &str) -> Result<(), Problems> {
    let mut new_path = path.as_os_str().to_owned();
    new_path.push(".new");
    let mut new = Created::default();
    // A killed command may have left it.
    let _ = fs::remove_file(&new_path);
    new.private_file(Path::new(&new_path), text)?;
    fs::rename(&new_path, path).map_err(|error| cannot("replace it", path, &error))?;
    new.finish();
    Ok(())
}

/// A file that is about to be replaced as a whole. There is one replacement at a time.
pub(super) struct Replacement {
    path: PathBuf,
    new_path: PathBuf,
    /// The new file, locked.
    new_file: File,
    done: bool,
}

impl Replacement {
    /// Makes an empty file beside the old one, with the same owner and mode. Waits while another
    /// process changes the file.
    pub(super) fn begin(path: &Path) -> Result<Self, Problems> {
        let failed = |error: io::Error| cannot("change it", path, &error);
        // Links are resolved, or the link would be replaced instead of the file.
        let real_path = fs::canonicalize(path).map_err(failed)?;
        let old = fs::metadata(&real_path).map_err(failed)?;
        let mut new_path = real_path.clone().into_os_string();
        new_path.push(".new");
        let new_path = PathBuf::from(new_path);
        let new_file = locked(&new_path).map_err(|error| match error {
            TryLockError::Error(error) => failed(error),
            TryLockError::WouldBlock => {
                let remedy = "try again when it has finished";
                Problems::one(
                    path,
                    Diagnostic::new("another process is changing it", remedy),
                )
            }
        })?;
        let replacement = Self {
            path: real_path,
            new_path,
            new_file,
            done: false,
        };
        let new_file = &replacement.new_file;
        let new = new_file.metadata().map_err(failed)?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(new_file, Some(old.uid()), Some(old.gid())).map_err(failed)?;
        }
        new_file
            .set_permissions(old.permissions())
            .map_err(failed)?;
        Ok(replacement)
    }

    /// Replaces the old file by `text` atomically.
    pub(super) fn commit(mut self, text: &str) -> Result<(), Problems> {
        let mut replace = || {
            self.new_file.write_all(text.as_bytes())?;
            self.new_file.sync_all()?;
            fs::rename(&self.new_path, &self.path)
        };
        replace().map_err(|error| cannot("change it", &self.path, &error))?;
        self.done = true;
        // The file is changed already, even if that is not durable yet.
        let _ = File::open(folder(&self.path)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.new_path);
        }
    }
}

/// Gives a new file of root's to the owner of its folder: the user of the service reads it as well.
fn give_to_owner_of_folder(path: &Path) -> Result<(), Problems> {
    let give = || {
        let folder = fs::metadata(folder(path))?;
        // The owner of the folder can put another file in its place.
        let new = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        let metadata = new.metadata()?;
        let is_own = metadata.uid() == 0 && (metadata.is_dir() || metadata.nlink() == 1);
        match is_own && folder.uid() != 0 {
            true => fchown(&new, Some(folder.uid()), Some(folder.gid())),
            false => Ok(()),
        }
    };
    give().map_err(|error| cannot("give it to the owner of its folder", path, &error))
}

fn exists(path: &Path) -> Problems {
    let remedy = format!("move {} away", path.display());
    Problems::one(
        path,
        Diagnostic::new("it exists already and is never overwritten", remedy),
    )
}

/// Returns the error for a file that cannot be made. If a path is missing, it is its folder.
fn cannot_make(what: &str, path: &Path, error: &io::Error) -> Problems {
    match error.kind() {
        io::ErrorKind::NotFound => {
            let remedy = format!("mkdir -p {}", folder(path).display());
            Problems::one(
                path,
                Diagnostic::new(format!("cannot {what}: its folder is missing"), remedy),
            )
        }
        _ => cannot(what, path, error),
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Problems {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "name the file with --config",
        _ => write_remedy(error),
    };
    Problems::one(
        path,
        Diagnostic::new(format!("cannot {what}: {}", reason(error)), remedy),
    )
}

/// Whether two paths lead to the same file.
pub(super) fn is_same(a: &Path, b: &Path) -> bool {
    let real = |path| fs::canonicalize(path).ok();
    a == b || real(a).is_some_and(|a| Some(a) == real(b))
}

/// Returns the folder of a file.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Opens an empty file of this name, and locks it until it is closed or the process ends. The file of a
/// killed command is reused.
fn locked(path: &Path) -> Result<File, TryLockError> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let options = options.custom_flags(libc::O_NOFOLLOW);
    let start = Instant::now();
    loop {
        let file = options.open(path).map_err(TryLockError::Error)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => {
                file.set_len(0).map_err(TryLockError::Error)?;
                return Ok(file);
            }
            // The process that had the lock has renamed or removed the file.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_TIMEOUT => {
                sleep(LOCK_POLL_INTERVAL)
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let there = fs::symlink_metadata(path).ok().map(identity);
    there.is_some() && there == file.metadata().ok().map(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, read_to_string};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn unfinished_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let mut created = Created::default();
        created.private_dir(&keys).unwrap();
        created.private_file(&keys.join("a"), "a").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&keys), mode(&keys.join("a"))), (0o700, 0o600));
        drop(created);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn new_files_of_root_belong_to_the_owner_of_their_folder() {
        const USER: u32 = 12345;
        let dir = tempfile::tempdir().unwrap();
        if dir.path().metadata().unwrap().uid() != 0 {
            eprintln!("only root can give files away: nothing is tested");
            return;
        }
        let of = |path: &Path| path.metadata().unwrap().uid();
        std::os::unix::fs::chown(dir.path(), Some(USER), Some(USER)).unwrap();
        let keys = dir.path().join("keys");
        let mut created = Created::default();
        created.private_dir(&keys).unwrap();
        created.private_file(&keys.join("a"), "a").unwrap();
        let key = crate::keys::PrivateKey::generate().unwrap();
        let write = |file: &Path| crate::keys::KeyFile::write_new(&key, file);
        created.key(&keys.join("b"), write).unwrap();
        assert_eq!(
            [&keys, &keys.join("a"), &keys.join("b")].map(|p| of(p)),
            [USER; 3]
        );
    }

    #[test]
    fn existing_files_are_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "old").unwrap();
        let mut created = Created::default();
        created.private_dir(dir.path()).unwrap();
        let error = created.public_file(&file, "new").unwrap_err();
        let place = file.display();
        assert_eq!(
            error.to_string(),
            format!("{place}: it exists already and is never overwritten; move {place} away")
        );
        drop(created);
        assert_eq!(read_to_string(&file).unwrap(), "old");
    }

    #[test]
    fn a_replacement_keeps_the_mode_and_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        symlink("a", &link).unwrap();
        Replacement::begin(&link).unwrap().commit("new").unwrap();
        assert_eq!(read_to_string(&file).unwrap(), "new");
        assert!(link.is_symlink());
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(names(dir.path()), ["a", "b"]);
    }

    #[test]
    fn replacements_wait_for_each_other_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "").unwrap();
        let file = &file;
        let append = move |letter: &str| {
            let replacement = Replacement::begin(file).unwrap();
            let old = read_to_string(file).unwrap();
            replacement.commit(&(old + letter)).unwrap();
        };
        let letters = ["b", "c", "d", "e", "f", "g", "h", "i"];
        std::thread::scope(|scope| {
            for letter in letters {
                scope.spawn(move || append(letter));
            }
        });
        let mut written: Vec<char> = read_to_string(file).unwrap().chars().collect();
        written.sort_unstable();
        assert_eq!(written.iter().collect::<String>(), letters.concat());
        drop(Replacement::begin(file).unwrap());
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn leftovers_of_a_killed_command_are_reused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "old").unwrap();
        fs::write(dir.path().join("a.new"), "half of what sho").unwrap();
        Replacement::begin(&file).unwrap().commit("new").unwrap();
        assert_eq!(read_to_string(&file).unwrap(), "new");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_missing_folder_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("none/keys");
        let error = Created::default().private_dir(&keys).unwrap_err();
        let (place, missing) = (keys.display(), dir.path().join("none"));
        let missing = missing.display();
        assert_eq!(
            error.to_string(),
            format!("{place}: cannot make this folder: its folder is missing; mkdir -p {missing}")
        );
    }
}
