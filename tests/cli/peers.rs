//! `vcgate peer`: the files that it writes, as clients and `wg` read them.

use super::*;

/// A command that is recommended works as it is printed: it needs sudo if this one did.
#[test]
fn recommended_commands_have_the_sudo_of_the_caller() {
    let dir = folder();
    let mut add = command(dir.path(), &["peer", "add", "anna"]);
    add.env("SUDO_UID", "1000");
    let added = run(add, b"");
    assert!(
        added
            .stdout
            .ends_with("\n  sudo vcgate peer show anna --qr\n"),
        "{added:?}"
    );
    let new = tempfile::tempdir().unwrap();
    let mut init = command(
        new.path(),
        &["init", "--lan", "lo", "--endpoint", "203.0.113.9"],
    );
    init.env("SUDO_UID", "1000");
    let made = run(init, b"");
    for line in [
        "scan: sudo vcgate peer show client1 --qr\n",
        "Add more clients with: sudo vcgate peer add NAME\n",
    ] {
        assert!(made.stdout.contains(line), "{made:?}");
    }
}

#[test]
fn peers_are_added_listed_and_removed() {
    let dir = folder();
    let file = dir.path().join("vcgate.toml");
    let before = fs::read_to_string(&file).unwrap();
    let added = vcgate(dir.path(), &["peer", "add", "anna"]);
    assert_done(&added);
    assert_eq!(
        added.stdout,
        "Added anna with 10.8.0.2/32.\n\n  made keys/anna.key\n  made keys/anna.psk\n  \
         made clients/anna.conf\n\nHand clients/anna.conf to the client, or let its app scan:\n  \
         vcgate peer show anna --qr\n"
    );
    let shown = vcgate(dir.path(), &["peer", "show", "anna"]);
    assert_done(&shown);
    assert_eq!(
        shown.stdout,
        fs::read_to_string(dir.path().join("clients/anna.conf")).unwrap()
    );
    assert!(shown.stdout.contains("\nEndpoint = 203.0.113.9:51820\n"));
    let code = vcgate(dir.path(), &["peer", "show", "anna", "--qr"]);
    assert_done(&code);
    assert!(code.stdout.starts_with("████") && !code.stdout.contains('\x1b'));

    let private = fs::read_to_string(dir.path().join("keys/anna.key")).unwrap();
    let public = run(command(dir.path(), &["pubkey"]), private.as_bytes()).stdout;
    let list = vcgate(dir.path(), &["peer", "list"]);
    assert_done(&list);
    assert_eq!(
        list.stdout,
        format!(
            "NAME  PUBLIC KEY                                    ALLOWED IPS  STATE    GROUPS  NOTE\n\
             anna  {}  10.8.0.2/32  enabled\n",
            public.trim()
        )
    );
    let list = vcgate(dir.path(), &["peer", "list", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    let expected = serde_json::json!([{
        "name": "anna", "public_key": public.trim(), "allowed_ips": ["10.8.0.2/32"],
        "preshared_key": true, "persistent_keepalive_seconds": null, "reach": null,
        "state": "enabled", "expires": null, "note": null, "groups": [],
        "rate_up_bits_per_second": null, "rate_down_bits_per_second": null,
        "client": { "dns": null, "mtu": null, "keepalive": null, "full_tunnel": null, "allowed_ips": null }
    }]);
    assert_eq!(json, expected);

    assert_fails(
        vcgate(dir.path(), &["peer", "add", "anna"]),
        1,
        "error: vcgate.toml: a peer is called \"anna\" already; choose another name, \
         or \"vcgate peer remove anna\" first\n",
    );
    for arguments in [&["peer", "show", "ana"], &["peer", "remove", "ana"]] {
        assert_fails(
            vcgate(dir.path(), arguments),
            1,
            "error: vcgate.toml: no peer is called \"ana\"; did you mean \"anna\"?\n",
        );
    }
    let removed = vcgate(dir.path(), &["peer", "remove", "anna"]);
    assert_done(&removed);
    assert_eq!(
        removed.stdout,
        "Removed anna.\n  deleted clients/anna.conf\n  deleted keys/anna.psk\n  \
         deleted keys/anna.key\n"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    assert!(!dir.path().join("keys/anna.key").exists());
}

#[test]
fn a_peer_is_added_with_its_keys_and_shown_as_an_image() {
    let dir = folder();
    let options = [
        "--expires",
        "30d",
        "--note",
        "a laptop",
        "--rate-up",
        "10Mbit",
    ];
    let more = [
        "--reach",
        "192.168.77.10:445,icmp",
        "--set",
        "client.keepalive=0",
    ];
    let arguments = [&["peer", "add", "anna"], &options[..], &more].concat();
    assert_done(&vcgate(dir.path(), &arguments));
    let list = vcgate(dir.path(), &["peer", "list", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    assert_eq!(json[0]["note"], "a laptop");
    assert_eq!(json[0]["rate_up_bits_per_second"], 10_000_000);
    assert_eq!(json[0]["client"]["keepalive"], 0);
    assert!(json[0]["expires"].is_string());
    let shown = vcgate(dir.path(), &["peer", "show", "anna", "--png", "anna.png"]);
    assert_done(&shown);
    let image = fs::read(dir.path().join("anna.png")).unwrap();
    assert!(image.starts_with(b"\x89PNG"));
    let again = vcgate(dir.path(), &["peer", "show", "anna", "--png", "anna.png"]);
    assert_fails(
        again,
        1,
        "error: cannot write anna.png: it exists already and is never overwritten; move it away\n",
    );
}

#[test]
fn a_peer_with_its_own_key_has_no_qr_code() {
    let dir = folder();
    let key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
    let arguments = [
        "peer",
        "add",
        "bert",
        "--public-key",
        key,
        "--allowed-ips",
        "10.8.0.9,10.8.0.16/28",
    ];
    let added = vcgate(dir.path(), &arguments);
    assert_done(&added);
    assert_eq!(
        added.stdout,
        "Added bert with 10.8.0.9/32, 10.8.0.16/28.\n\n  made keys/bert.psk\n  \
         made clients/bert.conf\n\nHand clients/bert.conf to the client, which adds its own \
         private key.\n"
    );
    assert_fails(
        vcgate(dir.path(), &["peer", "show", "bert", "--qr"]),
        1,
        "error: a code would be incomplete. Hand clients/bert.conf to the client, which adds \
        its own private key.\n",
    );
    // A peer that was added by hand has no client file.
    fs::remove_file(dir.path().join("clients/bert.conf")).unwrap();
    assert_fails(
        vcgate(dir.path(), &["peer", "show", "bert", "--qr"]),
        1,
        "error: a code would be incomplete. Save it with (umask 077; vcgate peer show bert > \
         bert.conf), and hand that to the client, which adds its own private key.\n",
    );
}

#[test]
fn wg_accepts_the_configurations_of_clients() {
    if Command::new("wg-quick").arg("--help").output().is_err() {
        eprintln!("wg-quick is not installed: nothing to read with");
        return;
    }
    let dir = folder();
    assert_done(&vcgate(dir.path(), &["peer", "add", "anna"]));
    let mut strip = Command::new("wg-quick");
    strip
        .current_dir(dir.path())
        .args(["strip", "./clients/anna.conf"]);
    let stripped = run(strip, b"");
    assert_eq!(stripped.code, Some(0), "{stripped:?}");
    assert!(stripped.stdout.contains("PublicKey = ") && !stripped.stdout.contains("Address"));
}

#[test]
fn a_wg_quick_endpoint_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[Interface]\nPrivateKey = {ALICE}\nAddress = 10.9.0.1/24\nPostUp = true\n\n# Anna\n\
         [Peer]\nPublicKey = 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\nAllowedIPs = 10.9.0.2\n"
    );
    fs::write(dir.path().join("wg0.conf"), text).unwrap();
    let done = vcgate(dir.path(), &["import", "wg0.conf"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.stdout
            .starts_with("Imported the peer Anna from wg0.conf.\n"),
        "{done:?}"
    );
    assert!(
        done.stderr
            .starts_with("warning: wg0.conf:4: PostUp is not imported; "),
        "{done:?}"
    );
    assert_eq!(
        vcgate(dir.path(), &["check"]).stdout,
        "vcgate.toml is in order: 1 peer\n"
    );
    assert_fails(
        vcgate(dir.path(), &["import", "wg0.conf"]),
        1,
        "error: keys/server.key: it exists already and is never overwritten; \
         move keys/server.key away\n",
    );
}

/// "invalid" never resolves (RFC 6761).
#[test]
fn an_unresolvable_endpoint_causes_a_warning() {
    let dir = folder();
    let text = "[interface]\nname = \"vcgate-none\"\nendpoint = \"vpn.invalid\"\n";
    fs::write(dir.path().join("vcgate.toml"), text).unwrap();
    for arguments in [&["peer", "add", "anna"], &["peer", "show", "anna"]] {
        let done = vcgate(dir.path(), arguments);
        assert_eq!(done.code, Some(0), "{done:?}");
        let warning = "warning: clients/anna.conf: cannot resolve vpn.invalid: ";
        assert!(done.stderr.starts_with(warning), "{done:?}");
    }
}

#[test]
fn json_lists_the_changes() {
    let dir = folder();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let done = vcgate(dir.path(), arguments);
        assert_done(&done);
        serde_json::from_str(&done.stdout).unwrap()
    };
    let added = json(&["peer", "add", "anna", "--json"]);
    let expected = serde_json::json!({
        "peer": "anna", "public_key": added["public_key"], "allowed_ips": ["10.8.0.2/32"],
        "client_file": "clients/anna.conf",
        "created": ["keys/anna.key", "keys/anna.psk", "clients/anna.conf"], "interface": null
    });
    assert_eq!(added, expected);
    assert_eq!(added["public_key"].as_str().unwrap().len(), 44);
    // Without a terminal there are no questions.
    let removed = json(&["peer", "remove", "anna", "--json"]);
    let expected = serde_json::json!({
        "peer": "anna", "public_key": added["public_key"],
        "deleted": ["clients/anna.conf", "keys/anna.psk", "keys/anna.key"], "interface": null
    });
    assert_eq!(removed, expected);
}

/// On a terminal, which script(1) provides, removal is confirmed.
#[test]
fn removal_on_a_terminal_is_confirmed() {
    let dir = folder();
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("script(1) is not installed: there is no terminal");
        return;
    }
    assert_done(&vcgate(dir.path(), &["peer", "add", "anna"]));
    let remove = |answer: &str, option: &str| {
        let program = env!("CARGO_BIN_EXE_vcgate");
        let mut script = Command::new("script");
        let command = format!("{program} peer remove anna {option}");
        script
            .current_dir(dir.path())
            .args(["-qec", &command, "/dev/null"]);
        run(script, answer.as_bytes())
    };
    let no = remove("n\n", "");
    assert_eq!(no.code, Some(1), "{no:?}");
    assert!(
        no.stdout
            .contains("Remove anna (10.8.0.2/32) and its keys?"),
        "{no:?}"
    );
    assert!(no.stdout.contains("nothing was removed"), "{no:?}");
    assert!(dir.path().join("keys/anna.key").exists());
    assert_eq!(remove("y\n", "").code, Some(0));
    assert!(!dir.path().join("keys/anna.key").exists());
    assert_done(&vcgate(dir.path(), &["peer", "add", "anna"]));
    let sure = remove("", "--yes");
    assert_eq!(sure.code, Some(0), "{sure:?}");
}

#[test]
fn completions_and_manual_pages_list_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = vcgate(dir.path(), &["completions", shell]);
        assert_done(&script);
        assert!(script.stdout.contains("allowed-ips"), "{shell}");
    }
    assert_done(&vcgate(dir.path(), &["man", "."]));
    let page = fs::read_to_string(dir.path().join("vcgate-peer-add.1")).unwrap();
    assert!(page.contains("allowed\\-ips"), "{page}");
    assert!(dir.path().join("vcgate.1").exists());
    let missing = vcgate(dir.path(), &["man", "none"]);
    assert_eq!(missing.code, Some(1));
    assert!(
        missing
            .stderr
            .starts_with("error: cannot write manual pages into none: "),
        "{missing:?}"
    );
}

#[test]
fn peers_are_changed_renamed_and_given_new_keys() {
    let dir = folder();
    assert_done(&vcgate(dir.path(), &["peer", "add", "anna"]));
    let run = |arguments: &[&str]| {
        let done = vcgate(dir.path(), arguments);
        assert_done(&done);
        done.stdout
    };
    let set = run(&[
        "peer",
        "set",
        "anna",
        "note=2nd floor",
        "expires=2100-01-31T18:00:00Z",
    ]);
    assert_eq!(set, "Changed anna: expires, note.\n");
    assert_eq!(
        run(&["peer", "set", "anna", "note=2nd floor"]),
        "anna is as before.\n"
    );
    assert_eq!(
        run(&["peer", "disable", "anna"]),
        "Changed anna: disabled.\n"
    );
    let list: serde_json::Value = serde_json::from_str(&run(&["peer", "list", "--json"])).unwrap();
    let anna = list
        .as_array()
        .unwrap()
        .iter()
        .find(|peer| peer["name"] == "anna")
        .unwrap();
    assert_eq!(anna["state"], "disabled");
    assert_eq!(anna["expires"], "2100-01-31T18:00:00Z");
    assert_eq!(anna["note"], "2nd floor");
    assert_eq!(
        run(&["peer", "enable", "anna"]),
        "Changed anna: disabled.\n"
    );
    assert_eq!(
        run(&["peer", "rename", "anna", "anna2"]),
        "Changed anna: name.\n  wrote keys/anna2.key\n  wrote keys/anna2.psk\n  \
         wrote clients/anna2.conf\n  deleted keys/anna.key\n  deleted keys/anna.psk\n  \
         deleted clients/anna.conf\n"
    );
    let rekeyed: serde_json::Value =
        serde_json::from_str(&run(&["peer", "rekey", "anna2", "--json"])).unwrap();
    assert_eq!(
        rekeyed["changed"],
        serde_json::json!(["public_key", "preshared_key_file"])
    );
    assert_eq!(rekeyed["interface"], serde_json::Value::Null);
    let file = rekeyed["client_file"].as_str().unwrap();
    let text = fs::read_to_string(dir.path().join(file)).unwrap();
    assert_eq!(run(&["peer", "show", "anna2"]), text);
    assert_fails(
        vcgate(dir.path(), &["peer", "set", "anna2", "expire=1d"]),
        1,
        "error: cannot set \"expire\" of a peer; did you mean \"expires\"?\n",
    );
}
