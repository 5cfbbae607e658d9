//! Failures: full disks, closed pipes, missing permissions, concurrent commands.

use super::*;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Lists the files in a folder and its folders.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut all = Vec::new();
    for path in entries {
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => all.push(path),
        }
    }
    all.sort();
    all
}

#[test]
fn a_full_disk_leaves_no_files() {
    let dir = folder();
    let before = files(dir.path());
    // Files cannot grow: as on a full disk, they can be made, but not written.
    let mut full = Command::new("sh");
    full.current_dir(dir.path());
    full.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" peer add anna"]);
    full.arg(env!("CARGO_BIN_EXE_vcgate"));
    let done = run(full, b"");
    assert_eq!((done.code, &*done.stdout), (Some(1), ""));
    let said = "error: keys/anna.key: cannot write it: File too large";
    assert!(done.stderr.starts_with(said), "{done:?}");
    assert_eq!(files(dir.path()), before);
    assert_done(&vcgate(dir.path(), &["peer", "add", "anna"]));
}

#[test]
fn a_change_is_made_even_if_stdout_fails() {
    let dir = folder();
    let mut add = command(dir.path(), &["peer", "add", "anna"]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = add.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: cannot write to stdout: No space left on device (os error 28)\n"
    );
    assert_done(&vcgate(dir.path(), &["peer", "show", "anna"]));
}

#[test]
fn clients_are_added_concurrently() {
    let dir = folder();
    let names = ["anna", "bert", "carl", "dora", "emil", "fred"];
    let added = names.map(|name| {
        let mut add = command(dir.path(), &["peer", "add", name]);
        add.stdout(Stdio::null()).spawn().unwrap()
    });
    for mut child in added {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    let list = vcgate(dir.path(), &["peer", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    let peers = list.as_array().unwrap().iter();
    let mut listed: Vec<_> = peers.map(|peer| peer["name"].as_str().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(listed, names);
}

#[test]
fn errors_are_json_if_the_log_is() {
    let dir = folder();
    let done = vcgate(
        dir.path(),
        &["peer", "show", "nobody", "--log-format", "json"],
    );
    assert_eq!((done.code, &*done.stdout), (Some(1), ""));
    let line: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert_eq!(
        line["fields"]["message"],
        "vcgate.toml: no peer is called \"nobody\"; \"vcgate peer list\" shows all"
    );
}

#[test]
fn an_empty_log_filter_is_ignored() {
    let dir = folder();
    let shared = fs::File::create(dir.path().join("key")).unwrap();
    fs::set_permissions(dir.path().join("key"), Permissions::from_mode(0o644)).unwrap();
    let mut genkey = command(dir.path(), &["genkey"]);
    let output = genkey
        .env("VCGATE_LOG", "")
        .stdout(shared)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("set umask 077"), "{stderr}");
}

#[test]
fn unreadable_files_are_reported() {
    let dir = folder();
    for (file, said) in [
        (
            "",
            "vcgate.toml:2: interface.private_key_file: \"\" is not a file's name; write a path, \
             as \"keys/server.key\"",
        ),
        (
            "keys",
            "vcgate.toml:2: interface.private_key_file: keys is not a file; name a file that \
             vcgate genkey has written",
        ),
    ] {
        let text = format!("[interface]\nprivate_key_file = \"{file}\"\n");
        fs::write(dir.path().join("vcgate.toml"), text).unwrap();
        let said = format!("error: {said}\n");
        assert_fails(vcgate(dir.path(), &["check"]), 1, &said);
    }
    assert_fails(
        vcgate(dir.path(), &["import", "none.conf"]),
        1,
        "error: none.conf: cannot read it: No such file or directory; name the file that \
         the other endpoint uses, as /etc/wireguard/wg0.conf\n",
    );
}

#[test]
fn pipes_and_devices_are_rejected() {
    let dir = folder();
    let made = Command::new("mkfifo").arg(dir.path().join("pipe")).status();
    assert!(made.unwrap().success());
    let large = fs::File::create(dir.path().join("large")).unwrap();
    large.set_len(1 << 40).unwrap();
    let not_a_file = "cannot read it: not a regular file; name the file";
    let too_large = "cannot read it: larger than 32 MiB; name another file\n";
    for (file, said) in [
        ("pipe", not_a_file),
        ("/dev/zero", not_a_file),
        ("/dev/null", not_a_file),
        ("large", too_large),
        ("keys", "cannot read it: is a directory; name the file"),
    ] {
        let check = vcgate(dir.path(), &["check", "--config", file]);
        let up = vcgate(dir.path(), &["up", "--config", file]);
        let import = vcgate(dir.path(), &["import", file]);
        for done in [check, up, import] {
            assert_eq!((done.code, &*done.stdout), (Some(1), ""), "{file}");
            let start = format!("error: {file}: {said}");
            assert!(done.stderr.starts_with(&start), "{}", done.stderr);
        }
    }
    for key in ["pipe", "/dev/zero"] {
        let text = format!("[interface]\nprivate_key_file = \"{key}\"\n");
        fs::write(dir.path().join("vcgate.toml"), text).unwrap();
        let done = vcgate(dir.path(), &["check"]);
        let said = format!("private_key_file: {key} is not a file; ");
        assert!(done.stderr.contains(&said), "{}", done.stderr);
    }
}

/// Without the permission to make an interface, no file is made.
#[test]
fn a_first_run_that_cannot_start_makes_no_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let mut up = Command::new("setpriv");
    up.current_dir(dir.path());
    up.args([
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--reuid=65534",
        "--regid=65534",
    ]);
    up.args(["--clear-groups", env!("CARGO_BIN_EXE_vcgate"), "up"]);
    if !is_root() {
        up = command(dir.path(), &["up"]);
    }
    let done = run(up, b"");
    assert_eq!((done.code, &*done.stdout), (Some(1), ""), "{done:?}");
    assert!(done.stderr.contains("run as root"), "{done:?}");
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}
