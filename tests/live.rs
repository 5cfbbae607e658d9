//! Commands that change the configuration while an endpoint runs: a fake one, which serves the
//! socket that the commands use. Requires root.

mod fake;

use fake::{Fake, during};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use tempfile::TempDir;
use tokio::process::Command;
use vcgate::config;
use vcgate::control::endpoint::{Captured, PeerChange};
use vcgate::control::listener::Listener;
use vcgate::control::socket;
use vcgate_capture::Counts;

/// Changes the interface's name in the configuration to one without an endpoint.
fn rename(dir: &TempDir) {
    let path = dir.path().join("vcgate.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, text.replace("name = \"vcl", "name = \"vcx")).unwrap();
}

/// Makes a folder with a configuration for an endpoint called `name`.
fn folder(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("keys")).unwrap();
    let key = dir.path().join("keys/server.key");
    fs::write(&key, "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!("[interface]\nname = \"{name}\"\nendpoint = \"vpn.example.com\"\n");
    fs::write(dir.path().join("vcgate.toml"), text).unwrap();
    dir
}

/// Runs `test` with a folder and the fake endpoint of its configuration.
async fn with_endpoint<F: Future<Output = ()>>(test: impl FnOnce(TempDir, Rc<Fake>) -> F) {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!(
            "only root can serve in {}: nothing is tested",
            socket::DIRECTORY
        );
        return;
    }
    static NUMBER: AtomicU8 = AtomicU8::new(0);
    let number = NUMBER.fetch_add(1, Relaxed);
    let name = format!("vcl{}-{number}", std::process::id());
    let fake = Rc::new(Fake::default());
    let listener = Listener::bind(Path::new(socket::DIRECTORY), &name).unwrap();
    let server = socket::serve(&listener, Rc::clone(&fake));
    let dir = folder(&name);
    fake.file.replace(Some(dir.path().join("vcgate.toml")));
    during(server, test(dir, fake)).await;
}

/// Runs a command, and returns its exit code, stdout and stderr.
async fn vcgate(dir: &TempDir, arguments: &[&str], stdout: Stdio) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcgate"));
    command.current_dir(dir.path()).args(arguments);
    command.env_remove("RUST_LOG").env_remove("VCGATE_LOG");
    let child = command.stdout(stdout).stderr(Stdio::piped()).spawn();
    let output = child.unwrap().wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

fn full() -> Stdio {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    full.into()
}

#[tokio::test]
async fn a_change_is_applied_even_if_stdout_is_full() {
    with_endpoint(async |dir, fake| {
        let (code, ..) = vcgate(&dir, &["peer", "add", "anna"], full()).await;
        assert_eq!(code, 1);
        assert_eq!(fake.added.borrow()[0].name, "anna");
        let (code, ..) = vcgate(&dir, &["peer", "remove", "anna"], full()).await;
        assert_eq!(code, 1);
        assert!(fake.added.borrow().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_peer_is_removed_by_its_key_not_its_name() {
    with_endpoint(async |dir, fake| {
        vcgate(&dir, &["peer", "add", "anna"], Stdio::piped()).await;
        fake.added.borrow_mut()[0].name = "80rnk+he".into();
        let (code, stdout, stderr) =
            vcgate(&dir, &["peer", "remove", "anna"], Stdio::piped()).await;
        assert_eq!((code, &*stderr), (0, ""));
        assert!(
            stdout.ends_with("is running and has applied it.\n"),
            "{stdout}"
        );
        assert!(fake.added.borrow().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_peer_unknown_to_the_endpoint_is_removed_from_the_file() {
    with_endpoint(async |dir, fake| {
        vcgate(&dir, &["peer", "add", "anna"], Stdio::piped()).await;
        fake.added.borrow_mut().clear();
        let (code, _, stderr) = vcgate(&dir, &["peer", "remove", "anna"], Stdio::piped()).await;
        assert_eq!((code, &*stderr), (0, ""));
    })
    .await;
}

#[tokio::test]
async fn a_refused_peer_leaves_no_files() {
    with_endpoint(async |dir, fake| {
        let path = dir.path().join("vcgate.toml");
        let before = fs::read_to_string(&path).unwrap();
        fake.added.borrow_mut().push(PeerChange {
            name: "anna".into(),
            public_key: [7; 32].into(),
            preshared_key: None,
            allowed_ips: vec![],
            persistent_keepalive: None,
            reach: None,
            rates: Default::default(),
            lan_address: None,
            lifecycle: Default::default(),
            dns: true,
            client: Default::default(),
        });
        let (code, stdout, stderr) = vcgate(&dir, &["peer", "add", "anna"], Stdio::piped()).await;
        assert_eq!((code, &*stdout), (1, ""));
        assert!(
            stderr.starts_with("error: there is a peer anna already"),
            "{stderr}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        assert!(!dir.path().join("keys/anna.key").exists());
        assert!(config::load(&path).unwrap().config.peers.is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_is_found_by_its_file_after_a_renaming() {
    with_endpoint(async |dir, fake| {
        vcgate(&dir, &["peer", "add", "anna"], Stdio::piped()).await;
        rename(&dir);
        let (code, stdout, stderr) = vcgate(&dir, &["reload"], Stdio::piped()).await;
        assert_eq!((code, &*stdout), (0, "peer anna: added\n"), "{stderr}");
        let (code, stdout, stderr) =
            vcgate(&dir, &["peer", "remove", "anna"], Stdio::piped()).await;
        assert_eq!((code, &*stderr), (0, ""));
        assert!(
            stdout.ends_with("is running and has applied it.\n"),
            "{stdout}"
        );
        assert!(fake.added.borrow().is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_of_another_file_is_not_changed() {
    with_endpoint(async |dir, fake| {
        vcgate(&dir, &["peer", "add", "anna"], Stdio::piped()).await;
        rename(&dir);
        fs::write(dir.path().join("other.toml"), "").unwrap();
        fake.file.replace(Some(dir.path().join("other.toml")));
        let (code, stdout, _) = vcgate(&dir, &["peer", "remove", "anna"], Stdio::piped()).await;
        assert_eq!(code, 0);
        assert!(!stdout.contains("is running"), "{stdout}");
        assert_eq!(fake.added.borrow().len(), 1);
        let (code, _, stderr) = vcgate(&dir, &["reload"], Stdio::piped()).await;
        assert_eq!(code, 1);
        assert!(
            stderr.starts_with("error: no endpoint is running as vcx"),
            "{stderr}"
        );
    })
    .await;
}

/// Every command that uses the running endpoint, with the files that it would change.
#[tokio::test]
async fn an_endpoint_of_this_name_that_reads_another_file_is_not_touched() {
    with_endpoint(async |dir, fake| {
        vcgate(&dir, &["peer", "add", "anna"], Stdio::piped()).await;
        let forward = ["forward", "add", "8443", "10.8.0.2:443"];
        vcgate(&dir, &forward, Stdio::piped()).await;
        let (file, other) = (
            dir.path().join("vcgate.toml"),
            dir.path().join("other.toml"),
        );
        fs::copy(&file, &other).unwrap();
        fake.file.replace(Some(other.clone()));
        let before = fs::read_to_string(&file).unwrap();
        for arguments in [
            &["peer", "add", "bert"][..],
            &["peer", "remove", "anna"],
            &["forward", "add", "8444", "10.8.0.2:444"],
            &["forward", "remove", "8443"],
            &["reload"],
            &["status"],
            &["flows"],
            &["smb"],
            &["smb", "--follow"],
            &["metrics"],
            &["capture", "-w", "capture.pcapng"],
        ] {
            for given in [&[][..], &["--config", "vcgate.toml"]] {
                let arguments = [arguments, given].concat();
                let (code, stdout, stderr) = vcgate(&dir, &arguments, Stdio::piped()).await;
                assert_eq!((code, &*stdout), (1, ""), "{arguments:?}");
                for named in [&file, &other] {
                    let named = named.to_str().unwrap();
                    assert!(stderr.contains(named), "{arguments:?}: {stderr}");
                }
            }
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), before);
        assert!(!dir.path().join("keys/bert.key").exists());
        assert!(!dir.path().join("capture.pcapng").exists());
        let peers = fake.added.borrow();
        assert_eq!((peers.len(), &*peers[0].name), (1, "anna"));
        assert_eq!(fake.forwards.borrow().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_file_under_another_path_is_the_same_file() {
    with_endpoint(async |dir, fake| {
        let link = dir.path().join("link.toml");
        fs::hard_link(dir.path().join("vcgate.toml"), link).unwrap();
        let status = ["status", "--config", "link.toml"];
        let (code, _, stderr) = vcgate(&dir, &status, Stdio::piped()).await;
        assert_eq!((code, &*stderr), (0, ""));
        drop(fake);
    })
    .await;
}

/// A running endpoint is found by its file, valid or not; another endpoint is not used.
#[tokio::test]
async fn an_invalid_file_leads_to_its_own_endpoint_only() {
    with_endpoint(async |dir, fake| {
        let file = dir.path().join("vcgate.toml");
        fs::write(&file, "[interface]\nmtu = 1\n").unwrap();
        for given in [&[][..], &["--config", "vcgate.toml"]] {
            let arguments = [&["status"], given].concat();
            let (code, _, stderr) = vcgate(&dir, &arguments, Stdio::piped()).await;
            assert_eq!((code, &*stderr), (0, ""));
        }
        fs::write(dir.path().join("other.toml"), "").unwrap();
        fake.file.replace(Some(dir.path().join("other.toml")));
        let (code, stdout, stderr) = vcgate(&dir, &["status"], Stdio::piped()).await;
        assert_eq!((code, &*stdout), (1, ""), "{stderr}");
        assert!(stderr.starts_with("error: vcgate.toml:2: "), "{stderr}");
    })
    .await;
}

/// A capture contains the packets of all clients, so no other user may read it.
#[tokio::test]
async fn a_capture_is_private_and_ends_at_its_limit() {
    with_endpoint(async |dir, fake| {
        let captured = || Captured {
            packets: ["one", "two", "three"].map(fake::packet).to_vec(),
            dropped: Counts::default(),
        };
        let file = dir.path().join("a.pcapng");
        fs::write(&file, "an earlier one").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fake.captured.set(captured());
        let capture = [
            "capture",
            "-w",
            "a.pcapng",
            "--packets",
            "2",
            "--snaplen",
            "40",
        ];
        let (code, _, stderr) = vcgate(&dir, &capture, Stdio::piped()).await;
        assert_eq!(code, 0, "{stderr}");
        assert!(
            stderr.contains("\n2 packets captured (0 in the tunnel, 2 on the LAN)"),
            "{stderr}"
        );
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
        let bytes = fs::read(&file).unwrap();
        let longest = bytes.windows(41).any(|bytes| bytes == [0x45; 41]);
        assert!(bytes.windows(40).any(|bytes| bytes == [0x45; 40]) && !longest);

        fake.captured.set(captured());
        let capture = ["capture", "-w", "b.pcapng", "--duration", "1s"];
        let (code, _, stderr) = vcgate(&dir, &capture, Stdio::piped()).await;
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("\n4 packets captured"), "{stderr}");
        let new = dir.path().join("b.pcapng").metadata().unwrap();
        assert_eq!(new.mode() & 0o7777, 0o600);
    })
    .await;
}

#[tokio::test]
async fn a_capture_is_not_given_to_another_user() {
    with_endpoint(async |dir, _fake| {
        let file = dir.path().join("a.pcapng");
        fs::write(&file, "theirs").unwrap();
        std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
        let (code, stdout, stderr) =
            vcgate(&dir, &["capture", "-w", "a.pcapng"], Stdio::piped()).await;
        assert_eq!((code, &*stdout), (1, ""));
        assert_eq!(
            stderr,
            "error: cannot write a.pcapng: it belongs to another user, who could read the capture; \
             remove it, or name another file\n"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    })
    .await;
}
