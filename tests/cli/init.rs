//! `vcgate init` without a terminal: files and errors. The lab tests its questions on a terminal, on a
//! machine with several cards.

use super::*;

fn init(dir: &Path, arguments: &[&str]) -> Done {
    vcgate(dir, &[&["init", "--lan", "lo"], arguments].concat())
}

#[test]
fn init_makes_a_configuration_and_starts_no_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "--endpoint",
        "203.0.113.9:443",
        "--address",
        "10.9.0.0/24",
        "--dir",
        "vpn",
    ];
    let done = init(dir.path(), &arguments);
    assert_done(&done);
    for part in [
        "made vpn/vcgate.toml",
        "made vpn/keys/server.key",
        "made vpn/clients/client1.conf",
        "Start the endpoint with: sudo vcgate up --config vpn/vcgate.toml",
    ] {
        assert!(done.stdout.contains(part), "{part}: {done:?}");
    }
    let client = fs::read_to_string(dir.path().join("vpn/clients/client1.conf")).unwrap();
    assert!(
        client.contains("\nEndpoint = 203.0.113.9:443\n"),
        "{client}"
    );
    assert!(client.contains("\nAddress = 10.9.0.2/32\n"), "{client}");
    let mode = fs::metadata(dir.path().join("vpn")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o7777, 0o700);
    let check = vcgate(dir.path(), &["check", "--config", "vpn/vcgate.toml"]);
    assert_eq!(check.code, Some(0), "{check:?}");
}

#[test]
fn init_never_overwrites() {
    let dir = folder();
    let before = fs::read_to_string(dir.path().join("vcgate.toml")).unwrap();
    assert_fails(
        init(dir.path(), &["--endpoint", "203.0.113.9"]),
        1,
        "error: cannot make vcgate.toml: it exists already and is never overwritten; start it \
         with `vcgate up --config vcgate.toml`, or move it away\n",
    );
    let after = fs::read_to_string(dir.path().join("vcgate.toml")).unwrap();
    assert_eq!(after, before);
}

/// Without an endpoint the client files name the LAN address, with a warning.
#[test]
fn an_endpoint_is_never_guessed_silently() {
    let dir = tempfile::tempdir().unwrap();
    let done = init(dir.path(), &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let warning = "warning: no --endpoint was given: client files name 127.0.0.1, which clients reach \
                   from the LAN only";
    assert!(done.stderr.starts_with(warning), "{done:?}");
}

#[test]
fn init_rejects_unusable_choices() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = vcgate(dir.path(), &["init", "--lan", "vcgate-none"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("choose one of"), "{unknown:?}");
    for arguments in [
        &["--endpoint", "two words"][..],
        &["--address", "10.8.0.0"],
        &["--config", "other.toml"],
    ] {
        let done = init(dir.path(), arguments);
        assert_eq!((done.code, &*done.stdout), (Some(2), ""), "{done:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn up_rejects_choices_if_there_is_a_configuration() {
    let dir = folder();
    assert_fails(
        vcgate(dir.path(), &["up", "--lan", "lo"]),
        2,
        "error: there is a configuration, vcgate.toml; change that file, or leave --lan, --endpoint \
         and --address out\n",
    );
}
