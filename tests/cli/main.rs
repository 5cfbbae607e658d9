//! The program as scripts see it: exit codes, stdout, stderr, and files.

mod captures;
mod checkout;
mod documented;
mod imports;
mod init;
mod mishaps;
mod peers;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// RFC 7748, section 6.1: Alice's private key and its public half.
const ALICE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const ALICE_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// The result of a command.
#[derive(Debug, PartialEq)]
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(mut command: Command, stdin: &[u8]) -> Done {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command may exit because of its arguments before it reads.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcgate"));
    command.current_dir(dir).args(arguments);
    command.env_remove("RUST_LOG").env_remove("VCGATE_LOG");
    command.env_remove("SUDO_UID");
    command
}

fn vcgate(dir: &Path, arguments: &[&str]) -> Done {
    run(command(dir, arguments), b"")
}

#[track_caller]
fn assert_fails(done: Done, code: i32, stderr: &str) {
    assert_eq!(done.code, Some(code), "{done:?}");
    assert_eq!(done.stdout, "");
    assert_eq!(done.stderr, stderr);
}

#[track_caller]
fn assert_done(done: &Done) {
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.stderr, "");
}

/// Makes a folder with a server's key and an empty configuration.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("keys")).unwrap();
    let key = dir.path().join("keys/server.key");
    fs::write(&key, ALICE).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    // A name that no endpoint of this machine has.
    let text = "[interface]\nname = \"vcgate-none\"\nendpoint = \"203.0.113.9\"\n";
    fs::write(dir.path().join("vcgate.toml"), text).unwrap();
    dir
}

#[test]
fn keys_have_the_format_of_wg() {
    let dir = tempfile::tempdir().unwrap();
    let private = vcgate(dir.path(), &["genkey"]);
    assert_done(&private);
    assert_eq!(private.stdout.len(), 45);
    assert!(private.stdout.ends_with("=\n"));
    let public = run(command(dir.path(), &["pubkey"]), private.stdout.as_bytes());
    assert_done(&public);
    let shared = vcgate(dir.path(), &["genpsk"]);
    assert_done(&shared);
    assert_eq!(shared.stdout.len(), 45);
    assert_ne!(shared.stdout, private.stdout);
    let known = run(command(dir.path(), &["pubkey"]), ALICE.as_bytes());
    assert_eq!(known.stdout, format!("{ALICE_PUBLIC}\n"));
}

/// `wg pubkey` is the oracle for results and errors.
#[test]
fn pubkey_matches_wg() {
    if Command::new("wg").arg("--version").output().is_err() {
        eprintln!("wg is not installed: nothing to compare with");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let random = vcgate(dir.path(), &["genkey"]).stdout;
    for input in [
        random.as_bytes(),
        ALICE.as_bytes(),
        format!("{ALICE}\n\x0B\t \r\n").as_bytes(),
        format!("{ALICE} x").as_bytes(),
        format!("{ALICE}\0").as_bytes(),
        format!(" {ALICE}").as_bytes(),
        &ALICE.as_bytes()[1..],
        ALICE.replace('=', "A").as_bytes(),
        ALICE.replace("o=", "p=").as_bytes(),
        ALICE.replace('d', "-").as_bytes(),
        &[0xFF; 44],
        b"",
        b"\n",
    ] {
        let mut wg = Command::new("wg");
        wg.arg("pubkey");
        let theirs = run(wg, input);
        let ours = run(command(dir.path(), &["pubkey"]), input);
        let shown = String::from_utf8_lossy(input);
        assert_eq!(
            (ours.code, &ours.stdout),
            (theirs.code, &theirs.stdout),
            "{shown:?}"
        );
        let sentence = theirs.stderr.trim_end().replace("wg: ", "error: ");
        assert!(ours.stderr.starts_with(&sentence), "{shown:?}: {ours:?}");
    }
}

#[test]
fn genkey_warns_of_a_file_that_others_can_read() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, warns) in [(0o644, true), (0o600, false)] {
        let path = dir.path().join(format!("{mode:o}"));
        let file = fs::File::create(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let output = command(dir.path(), &["genkey"])
            .stdout(file)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.contains("set umask 077"), warns, "{stderr}");
        assert_eq!(path.metadata().unwrap().len(), 45);
    }
}

/// systemd.exec(5) and sd-daemon(3): a priority in front, and no time.
#[test]
fn lines_for_the_journal_have_priorities() {
    let dir = folder();
    let run = |arguments: &[&str], is_journal: bool| {
        let path = dir.path().join("stderr");
        let file = fs::File::create(&path).unwrap();
        let metadata = file.metadata().unwrap();
        let stream = match is_journal {
            true => format!("{}:{}", metadata.dev(), metadata.ino()),
            false => format!("{}:{}", metadata.dev(), metadata.ino() + 1),
        };
        let mut command = command(dir.path(), arguments);
        command.env("JOURNAL_STREAM", stream).stderr(file);
        command.stdout(fs::File::create(dir.path().join("open")).unwrap());
        command.status().unwrap();
        fs::read_to_string(&path).unwrap()
    };
    let missing = ["check", "--config", "no.toml"];
    assert!(run(&missing, true).starts_with("<3>error: no.toml: "));
    assert!(run(&missing, false).starts_with("error: no.toml: "));
    // The log's own line: stdout is a file that others can read.
    fs::set_permissions(dir.path().join("open"), Permissions::from_mode(0o644)).unwrap();
    let warned = run(&["genkey"], true);
    assert!(warned.starts_with("<4> WARN stdout is a file"), "{warned}");
    let warned = run(&["genkey"], false);
    assert!(
        warned.starts_with("20") && warned.contains(" WARN stdout"),
        "{warned}"
    );
}

#[test]
fn wrong_usage_has_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &[][..],
        &["nonsense"],
        &["peer"],
        &["peer", "add"],
        &["peer", "add", "x", "--public-key", "abc"],
        &["peer", "add", "x", "--allowed-ips", "10.8.0.300"],
        &["check", "--log-format", "xml"],
        &["check", "-q", "-v"],
        &["genkey", "extra"],
    ] {
        let done = vcgate(dir.path(), arguments);
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}"
        );
        assert!(!done.stderr.is_empty());
    }
    let mut check = command(dir.path(), &["check"]);
    check.env("VCGATE_LOG", "a=b=c");
    assert_fails(
        run(check, b""),
        2,
        "error: VCGATE_LOG: \"a=b=c\" is not a log filter; \
         write \"debug\" or \"info,vcgate_core::tunnel=debug\"\n",
    );
}

#[test]
fn help_and_version_go_to_stdout() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["peer", "--help"], &["--version"]] {
        let done = vcgate(dir.path(), arguments);
        assert_done(&done);
        assert!(!done.stdout.is_empty());
    }
}

/// The command's options come first; global options have their own heading.
#[test]
fn help_explains_every_argument() {
    let dir = tempfile::tempdir().unwrap();
    for (command, explained) in [
        (&["peer", "add"][..], "<NAME>  The client's name"),
        (&["peer", "remove"], "<NAME>  The client's name"),
        (&["peer", "show"], "<NAME>  The client's name"),
        (&["who"], "<PORT>  The port of the LAN address"),
        (&["capture"], "-w, --write <FILE> "),
    ] {
        let help = vcgate(dir.path(), &[command, &["--help"]].concat()).stdout;
        let (own, global) = help.split_once("\nGlobal options:\n").unwrap();
        assert!(own.contains(explained), "{help}");
        for option in ["--config", "--log-format", "--verbose", "--quiet"] {
            assert!(global.contains(option) && !own.contains(option), "{help}");
        }
        assert!(!global.contains("--write"), "{help}");
    }
}

#[test]
fn check_reports_all_errors_and_warnings() {
    let dir = folder();
    // Without it, the file fits only machines that have a default route.
    let text = "[interface]\n[lan]\ninterface = \"lo\"\n";
    fs::write(dir.path().join("vcgate.toml"), text).unwrap();
    assert_eq!(
        vcgate(dir.path(), &["check"]),
        Done {
            code: Some(0),
            stdout: "vcgate.toml is in order: 0 peers\n".to_owned(),
            stderr: String::new(),
        }
    );
    let text = "[interface]\nadress = []\nmtu = 1\n[nat.timeouts]\nudp = \"1s\"\n";
    fs::write(dir.path().join("other.toml"), text).unwrap();
    assert_fails(
        vcgate(dir.path(), &["check", "--config", "other.toml"]),
        1,
        "warning: other.toml:5: nat.timeouts.udp: 1s is less than the 2m of RFC 4787 REQ-5; \
         idle connections will break early; leave it out for the default\n\
         error: other.toml:2: unknown key \"adress\" in [interface]; did you mean \"address\"?\n\
         error: other.toml:3: interface.mtu: 1 is out of range; choose one from 576 to 65455\n",
    );
    assert_fails(
        vcgate(dir.path(), &["check", "--config", "no.toml"]),
        1,
        "error: no.toml: cannot read it: No such file or directory; \
         \"vcgate init\" makes one\n",
    );
    // If vcgate is installed on this machine, there is a default configuration.
    if !Path::new("/etc/vcgate/vcgate.toml").exists() {
        let empty = tempfile::tempdir().unwrap();
        assert_fails(
            vcgate(empty.path(), &["check"]),
            1,
            "error: there is no configuration, neither ./vcgate.toml nor /etc/vcgate/vcgate.toml; \
             name one with --config, or make one with \"vcgate init\"\n",
        );
    }
    let key = dir.path().join("keys/server.key");
    fs::set_permissions(key, Permissions::from_mode(0o640)).unwrap();
    assert_fails(
        vcgate(dir.path(), &["check"]),
        1,
        "error: vcgate.toml:1: interface.private_key_file: keys/server.key is open to users \
         other than its owner (mode 0640); chmod 600 keys/server.key\n",
    );
}

#[test]
fn check_compares_with_the_machine_and_writes_json() {
    let dir = folder();
    let text = "[lan]\ninterface = \"vcgate-none\"\n[nat.timeouts]\nudp = \"1s\"\n";
    fs::write(dir.path().join("vcgate.toml"), text).unwrap();
    let done = vcgate(dir.path(), &["check", "--json"]);
    assert_done(&done);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["file"], "vcgate.toml");
    assert_eq!(
        (&report["peers"], &report["errors"]),
        (&0.into(), &serde_json::json!([]))
    );
    let lines: Vec<_> = report["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| &w["line"])
        .collect();
    assert_eq!(lines, [2, 4]);
    assert_eq!(
        report["warnings"][0]["what"],
        "lan.interface: this machine has no interface \"vcgate-none\""
    );
    let remedy = report["warnings"][0]["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("choose one of "), "{remedy}");

    fs::write(dir.path().join("vcgate.toml"), "[peer]\nname = 1\n").unwrap();
    let done = vcgate(dir.path(), &["check", "--json"]);
    assert_eq!(
        (done.code, &*done.stderr),
        (Some(1), "error: vcgate.toml is not in order\n")
    );
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["peers"], serde_json::Value::Null);
    assert_eq!(report["errors"][0]["line"], 1);
}

#[test]
fn forwards_are_added_listed_and_removed() {
    let dir = folder();
    let forward = |arguments: &[&str]| vcgate(dir.path(), &[&["forward"], arguments].concat());
    let empty = forward(&["list"]);
    assert_done(&empty);
    assert_eq!(
        empty.stdout,
        "No forwards: add one with `vcgate forward add PORT TO`\n"
    );
    assert_done(&vcgate(dir.path(), &["peer", "add", "anna"]));
    let added = forward(&["add", "8443", "10.8.0.2:443"]);
    assert_done(&added);
    assert_eq!(
        added.stdout,
        "LAN port tcp/8443 leads to 10.8.0.2:443, which is anna's.\n"
    );
    assert_done(&forward(&["add", "udp/5060", "10.8.0.2:5060"]));
    assert_eq!(
        forward(&["list"]).stdout,
        "LAN PORT  TO             PEER\n\
         tcp/8443  10.8.0.2:443   anna\n\
         udp/5060  10.8.0.2:5060  anna\n"
    );
    assert_fails(
        forward(&["add", "8444", "10.8.0.9:443"]),
        1,
        "error: vcgate.toml: forward tcp/8444: 10.8.0.9 is in no peer's allowed_ips; forward to \
         an address of a client, or add it to the client's allowed_ips\n",
    );
    let removed = forward(&["remove", "8443"]);
    assert_done(&removed);
    assert_eq!(
        removed.stdout,
        "LAN port tcp/8443 leads to 10.8.0.2:443 no longer.\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&forward(&["list", "--json"]).stdout).unwrap();
    let expected = serde_json::json!([
        {"protocol": "udp", "lan_port": 5060, "to": "10.8.0.2:5060", "peer": "anna"}
    ]);
    assert_eq!(json, expected);
    let misunderstood = forward(&["add", "sctp/1", "10.8.0.2:443"]);
    assert_eq!(misunderstood.code, Some(2), "{misunderstood:?}");
}

#[test]
fn who_finds_the_holder_of_a_port_in_the_log() {
    let dir = folder();
    assert_fails(
        vcgate(dir.path(), &["who", "1030"]),
        1,
        "error: cannot look up the port: no port log is configured; set log_file under [nat] in \
         vcgate.toml, and restart the endpoint\n",
    );
    let config = dir.path().join("vcgate.toml");
    let text = fs::read_to_string(&config).unwrap() + "[nat]\nlog_file = \"ports.jsonl\"\n";
    fs::write(&config, text).unwrap();
    assert_fails(
        vcgate(dir.path(), &["who", "1030"]),
        1,
        "error: cannot read ports.jsonl: it does not exist; the endpoint makes it when it starts\n",
    );
    let block = "\"peer\":\"anna\",\"client\":\"10.8.0.2\",\"lan_address\":\"192.168.77.2\",\
                 \"first_port\":1024,\"last_port\":1087}\n";
    let log = [
        "{\"time\":\"2023-11-14T22:13:20Z\",\"event\":\"started\"}\n".to_owned(),
        format!("{{\"time\":\"2023-11-14T22:13:21Z\",\"event\":\"given\",{block}"),
        format!("{{\"time\":\"2023-11-14T22:15:21Z\",\"event\":\"returned\",{block}"),
    ];
    fs::write(dir.path().join("ports.jsonl"), log.concat()).unwrap();
    let who = vcgate(dir.path(), &["who", "1030", "--at", "2023-11-14T22:14:00Z"]);
    assert_done(&who);
    assert_eq!(
        who.stdout,
        "anna (10.8.0.2) had from 2023-11-14T22:13:21Z to 2023-11-14T22:15:21Z: \
         ports 1024 to 1087 of 192.168.77.2\n"
    );
    assert_fails(
        vcgate(dir.path(), &["who", "1030"]),
        1,
        "error: no client has port 1030; name another time with --at\n",
    );
    let misunderstood = vcgate(dir.path(), &["who", "1030", "--at", "yesterday"]);
    assert_eq!(misunderstood.code, Some(2), "{misunderstood:?}");
}

/// The output is longer than the pipe's buffer, so that the reader exits before it is written.
#[test]
fn a_reader_that_exits_early_is_not_an_error() {
    let dir = folder();
    let mut text = fs::read_to_string(dir.path().join("vcgate.toml")).unwrap();
    for number in 0..1500u32 {
        let digits: String = format!("{number:05}");
        let key = format!("{digits}{}=", "A".repeat(38));
        let (third, fourth) = (number / 250, number % 250 + 2);
        text += &format!(
            "[[peer]]\nname = \"p{digits}\"\npublic_key = \"{key}\"\nallowed_ips = [\"10.8.{third}.{fourth}\"]\n"
        );
    }
    let text = text.replace(
        "[interface]\n",
        "[interface]\naddress = [\"10.8.0.1/16\"]\n",
    );
    fs::write(dir.path().join("vcgate.toml"), text).unwrap();
    let mut list = command(dir.path(), &["peer", "list"]);
    let mut child = list
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn reload_requires_a_valid_file_and_an_endpoint() {
    let dir = folder();
    let file = dir.path().join("vcgate.toml");
    fs::write(&file, "[interface]\nname = \"vcgate-none\"\n").unwrap();
    let reload = ["reload", "--config", "vcgate.toml"];
    let done = vcgate(dir.path(), &reload);
    assert_eq!((done.code, &*done.stdout), (Some(1), ""));
    let said = "error: no endpoint is running as vcgate-none";
    assert!(done.stderr.starts_with(said), "{done:?}");
    fs::write(&file, "[interface]\nmtu = 1\nname = \"vcgate-none\"\n").unwrap();
    let checked = vcgate(dir.path(), &["check"]).stderr;
    assert!(checked.contains("vcgate.toml:2: "), "{checked}");
    assert_fails(vcgate(dir.path(), &reload), 1, &checked);
}
