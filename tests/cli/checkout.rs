//! `tests/as-user`, which everything that builds in a checkout goes through: the messages to a user
//! whose Rust is missing or old.

use super::*;
use std::os::unix::fs::symlink;

/// Runs `tests/as-user true` for a user who has these basic tools only, and `cargo`, a shell script, if
/// one is given.
fn as_user(cargo: Option<&str>) -> Done {
    let dir = tempfile::tempdir().unwrap();
    for tool in [
        "awk", "bash", "dirname", "head", "id", "sed", "sort", "true",
    ] {
        let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
        let found = found.into_iter().find(|path| path.exists()).unwrap();
        symlink(found, dir.path().join(tool)).unwrap();
    }
    if let Some(script) = cargo {
        let path = dir.path().join("cargo");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/as-user");
    let mut command = Command::new("/bin/bash");
    command
        .env_clear()
        .env("PATH", dir.path())
        .env("HOME", dir.path());
    command.arg(script).arg("true");
    run(command, b"")
}

#[test]
fn a_missing_or_old_cargo_is_reported_with_the_way_to_a_newer_one() {
    for (cargo, said) in [
        (None, "there is no cargo on the PATH of"),
        (
            Some("echo cargo 1.63.0"),
            "this is cargo 1.63.0, Rust 1.89 is needed",
        ),
        (
            Some("echo error: rustup could not choose a version of cargo to run >&2; exit 1"),
            "cargo does not run (error: rustup could not choose a version of cargo to run)",
        ),
    ] {
        let done = as_user(cargo);
        assert_eq!((done.code, &*done.stdout), (Some(1), ""), "{done:?}");
        let begin = format!("error: cannot build vcgate: {said}");
        assert!(done.stderr.starts_with(&begin), "{done:?}");
        for remedy in ["Rust 1.89 or newer with rustup", "https://sh.rustup.rs"] {
            assert!(done.stderr.contains(remedy), "{done:?}");
        }
    }
}
