//! The files that a thread may use (landlock(7)). It needs no rights, and only removes some.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use std::path::PathBuf;

/// The remedy for a kernel without landlock.
pub(crate) const REMEDY: &str = "use Linux 5.13 or later, with landlock in the lsm= list of the kernel command line, and in a container \
     allow its system calls";

/// The version of the rights that are restricted; an older kernel restricts those that it knows.
/// Later ones include the connection to a socket by its path, as to that of systemd.
const VERSION: ABI = ABI::V5;

/// The kind of access to a file, or to the files in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Read files and list folders.
    Read,
    /// The same, and write, make and remove files and folders.
    Write,
}

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir;
        match self {
            Self::Read => read,
            Self::Write => read | write,
        }
    }
}

/// The restriction in force.
#[derive(Debug)]
pub(super) struct Landlock {
    version: u8,
    /// Keeps the kernel from forgetting the folders of rules.
    _paths: Vec<PathFd>,
}

impl Landlock {
    /// Returns the version that the kernel supports (landlock(7)).
    pub(super) fn version(&self) -> u8 {
        self.version
    }
}

/// The reason why files are not restricted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The kernel has no landlock.
    #[error("this kernel has no landlock")]
    Unsupported,
    /// A call failed.
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
}

/// Allows the calling thread the named files and folders, and no others. Paths that do not exist are
/// left out.
pub(super) fn restrict(rules: &[(&[PathBuf], Access)]) -> Result<Landlock, Error> {
    let mut opened = Vec::new();
    for (paths, access) in rules {
        let paths = paths.iter().filter_map(|path| PathFd::new(path).ok());
        opened.extend(paths.map(|path| (path, *access)));
    }
    apply(AccessFs::from_all(VERSION), opened)
}

/// Lets the calling process and its programs read all files and write none but devices.
pub(super) fn restrict_writes() -> Result<Landlock, Error> {
    let devices = PathFd::new("/dev").ok();
    let devices = devices.map(|path| (path, Access::Write));
    apply(AccessFs::from_write(VERSION), devices.into_iter().collect())
}

fn apply(handled: BitFlags<AccessFs>, rules: Vec<(PathFd, Access)>) -> Result<Landlock, Error> {
    let mut ruleset = Ruleset::default().handle_access(handled)?.create()?;
    for (path, access) in &rules {
        ruleset = ruleset.add_rule(PathBeneath::new(path, access.rights() & handled))?;
    }
    let status = ruleset.restrict_self()?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err(Error::Unsupported),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(Landlock {
            version: effective_abi as u8,
            _paths: rules.into_iter().map(|(path, _)| path).collect(),
        }),
        (_, _) => Err(Error::Unsupported),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind;
    use std::thread;

    /// Whether the kernel that runs the tests has landlock, after a message if it does not.
    fn is_supported() -> bool {
        let supported = thread::spawn(|| restrict(&[]).is_ok()).join().unwrap();
        if !supported {
            eprintln!("this kernel has no landlock: skipped");
        }
        supported
    }

    #[test]
    fn a_thread_reads_and_writes_only_where_it_may() {
        if !is_supported() {
            return;
        }
        let [etc, run, other] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let file = |dir: &tempfile::TempDir| dir.path().join("file");
        for dir in [&etc, &run, &other] {
            fs::write(file(dir), "old").unwrap();
        }
        thread::scope(|scope| {
            let test = || {
                let (read, write) = ([etc.path().to_owned()], [run.path().to_owned()]);
                let missing = [PathBuf::from("/missing")];
                let rules = [
                    (&read[..], Access::Read),
                    (&write, Access::Write),
                    (&missing, Access::Read),
                ];
                restrict(&rules).unwrap();
                let denied = |result: std::io::Result<()>| {
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
                };
                assert_eq!(fs::read_to_string(file(&etc)).unwrap(), "old");
                denied(fs::write(file(&etc), "new"));
                denied(fs::remove_file(file(&etc)));
                let new = run.path().join("file.new");
                fs::write(&new, "new").unwrap();
                fs::rename(&new, file(&run)).unwrap();
                assert_eq!(fs::read_to_string(file(&run)).unwrap(), "new");
                fs::remove_file(file(&run)).unwrap();
                denied(fs::read(file(&other)).map(drop));
                denied(fs::write(file(&other), "new"));
                denied(fs::read("/etc/passwd").map(drop));
                denied(std::process::Command::new("/bin/true").status().map(drop));
            };
            scope.spawn(test).join().unwrap();
        });
        assert_eq!(fs::read_to_string(file(&other)).unwrap(), "old");
    }

    #[test]
    fn a_helper_runs_programs_that_write_nothing() {
        if !is_supported() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let written = path.clone();
        let run = move || {
            restrict_writes().unwrap();
            let script = "echo new > \"$0\"; echo read > /dev/null";
            let mut command = std::process::Command::new("sh");
            let command = command.args(["-c", script]).arg(&written);
            command
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap()
        };
        assert!(thread::spawn(run).join().unwrap().success());
        assert!(!path.exists());
    }
}
