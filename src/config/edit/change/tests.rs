//! Changes of peers: the changed bytes, the unchanged rest, and the files of clients.

use super::super::{NewPeer, add_peer};
use super::*;
use crate::config::tests::folder;
use proptest::prelude::*;
use std::fs::{read_to_string, write};
use std::time::SystemTime;
use tempfile::TempDir;

const SECTION: &str = "\n# of the first floor\n[[peer]] # a laptop\nname = \"bert\" # Bert\n\
                       public_key = \"uagfjb8sRdJCvUSkmWU7OlEbm4dGkHtdZu+yNBg3QHg=\"\n\
                       allowed_ips = [\n  \"10.8.0.9/32\", # the only one\n]\n\n[nat]\n\
                       filtering = \"address-dependent\"\n";

fn host() -> HostNetwork {
    HostNetwork::of(&["192.168.77.5/24"])
}

fn assignments(list: &[&str]) -> Vec<Assignment> {
    let parse = |text: &&str| Assignment::parse(text, SystemTime::UNIX_EPOCH).unwrap();
    list.iter().map(parse).collect()
}

fn set(path: &Path, name: &str, list: &[&str]) -> Result<Changed, Problems> {
    set_peer(path, name, &assignments(list), &host())
}

/// A folder with a peer "anna" that was added by a command, and "bert" that was written by hand.
fn two_peers() -> (TempDir, PathBuf) {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, SECTION).unwrap();
    let anna = NewPeer {
        name: "anna".into(),
        public_key: None,
        allowed_ips: Vec::new(),
        assignments: Vec::new(),
    };
    add_peer(&path, &anna, &host()).unwrap();
    (dir, path)
}

#[test]
fn keys_are_added_replaced_and_removed_and_no_other_byte_changes() {
    let (_dir, path) = two_peers();
    let before = read_to_string(&path).unwrap();
    let changed = set(&path, "bert", &["note=A laptop", "disabled=true"]).unwrap();
    assert_eq!(changed.keys, ["disabled", "note"]);
    assert_eq!(
        read_to_string(&path).unwrap(),
        before.replace("one\n]\n", "one\n]\nnote = \"A laptop\"\ndisabled = true\n")
    );
    let list = ["allowed_ips=10.8.0.10", "note=It's \"his\"", "disabled="];
    let changed = set(&path, "bert", &list).unwrap();
    assert_eq!(changed.keys, ["allowed_ips", "disabled", "note"]);
    let note = changed.peer.lifecycle.note.as_deref();
    assert_eq!(note, Some("It's \"his\""));
    set(&path, "bert", &["note=", "allowed_ips=10.8.0.9/32"]).unwrap();
    let plain = "[\n  \"10.8.0.9/32\", # the only one\n]";
    assert_eq!(
        read_to_string(&path).unwrap(),
        before.replace(plain, "[\"10.8.0.9/32\"]")
    );
    let same = set(&path, "bert", &["note="]).unwrap();
    assert_eq!(same.keys, [] as [&str; 0]);
}

#[test]
fn invalid_changes_leave_the_file_as_it_was() {
    let (_dir, path) = two_peers();
    let before = read_to_string(&path).unwrap();
    for (change, message) in [
        ("groups=staff", "there is no group \"staff\""),
        ("allowed_ips=", "allowed_ips is missing"),
        (
            "allowed_ips=192.168.77.20",
            "192.168.77.20/32 is in the LAN's",
        ),
        ("persistent_keepalive=65536", "65536 is out of range"),
        ("note=a\tb", "control characters"),
    ] {
        let error = set(&path, "bert", &[change])
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(read_to_string(&path).unwrap(), before);
    }
    let error = set(&path, "ana", &["note=x"]).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("did you mean \"anna\"?"));
}

#[test]
fn an_undone_change_restores_the_file() {
    let (_dir, path) = two_peers();
    let before = read_to_string(&path).unwrap();
    set(&path, "bert", &["disabled=true"])
        .unwrap()
        .undo(&path)
        .unwrap();
    assert_eq!(read_to_string(&path).unwrap(), before);
}

#[test]
fn a_client_s_configuration_follows_unless_it_was_edited() {
    let (dir, path) = two_peers();
    let file = dir.path().join("clients/anna.conf");
    let changed = set(&path, "anna", &["allowed_ips=10.8.0.77"]).unwrap();
    assert_eq!(changed.written, std::slice::from_ref(&file));
    let text = read_to_string(&file).unwrap();
    assert!(text.contains("Address = 10.8.0.77/32\n"), "{text}");
    let edited = text.replace("MTU = 1420", "MTU = 1300");
    write(&file, &edited).unwrap();
    let changed = set(&path, "anna", &["allowed_ips=10.8.0.78"]).unwrap();
    assert_eq!(changed.written, [] as [PathBuf; 0]);
    let warning = changed.warnings[0].to_string();
    assert!(
        warning.contains("it was edited, so it stays as it is"),
        "{warning}"
    );
    assert_eq!(read_to_string(&file).unwrap(), edited);
}

#[test]
fn keys_of_the_client_s_file_are_set_one_by_one() {
    let (dir, path) = two_peers();
    let before = read_to_string(&path).unwrap();
    let changed = set(&path, "anna", &["client.mtu=1300", "client.dns=10.8.0.1"]).unwrap();
    assert_eq!(changed.keys, ["client"]);
    assert_eq!(changed.written, [dir.path().join("clients/anna.conf")]);
    let line = "client = { mtu = 1300, dns = [\"10.8.0.1\"] }\n";
    assert!(read_to_string(&path).unwrap().ends_with(line));
    set(&path, "anna", &["client.mtu=", "client.keepalive=0"]).unwrap();
    let line = "client = { dns = [\"10.8.0.1\"], keepalive = 0 }\n";
    let text = read_to_string(&path).unwrap();
    assert!(text.ends_with(line), "{text}");
    let changed = set(&path, "anna", &["client.dns=", "client.keepalive="]).unwrap();
    assert!(!changed.client.text.contains("PersistentKeepalive = 0"));
    assert_eq!(read_to_string(&path).unwrap(), before);
    // A section of its own is left to an editor.
    write(&path, before + "[peer.client]\nmtu = 1300\n").unwrap();
    let error = set(&path, "anna", &["client.mtu=1280"])
        .map(|_| ())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("\"client\" is not written as one value"),
        "{error}"
    );
}

#[test]
fn a_renamed_peer_takes_its_files_with_it() {
    let (dir, path) = two_peers();
    let renamed = rename_peer(&path, "anna", "anna.laptop", &host()).unwrap();
    assert_eq!(renamed.peer.public_key, renamed.before.public_key);
    let names = |stem: &str| {
        let files = ["keys/X.key", "keys/X.psk", "clients/X.conf"];
        files.map(|file| dir.path().join(file.replace('X', stem)))
    };
    assert_eq!(renamed.written, names("anna.laptop"));
    assert_eq!(renamed.deleted, names("anna"));
    let text = read_to_string(&renamed.client.path).unwrap();
    assert_eq!(text, *renamed.client.text);
    assert!(text.starts_with("# anna.laptop\n"));
    let error = rename_peer(&path, "anna.laptop", "bert", &host()).map(|_| ());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("is called \"bert\" already")
    );
    // A peer without files of its own.
    rename_peer(&path, "bert", "berta", &host()).unwrap();
    let text = read_to_string(&path).unwrap();
    assert!(text.contains("name = \"berta\" # Bert\n"), "{text}");
}

#[test]
fn a_new_key_replaces_the_files_of_the_old_one() {
    let (dir, path) = two_peers();
    let old = read_to_string(dir.path().join("clients/anna.conf")).unwrap();
    let rekeyed = rekey_peer(&path, "anna", None, &host()).unwrap();
    assert_ne!(rekeyed.peer.public_key, rekeyed.before.public_key);
    assert_eq!(rekeyed.deleted.len(), 3);
    let text = read_to_string(&rekeyed.client.path).unwrap();
    assert_ne!(text, old);
    assert_eq!(text, *rekeyed.client.text);
    let config = load::load(&path).unwrap().config;
    let peer = config.peer("anna").unwrap();
    let (_, private) = client_files::private_key(config.dir(), peer).unwrap();
    assert_eq!(private.public_key(), rekeyed.peer.public_key);
    // The client's own key.
    let own = PrivateKey::from([9; 32]).public_key();
    let rekeyed = rekey_peer(&path, "anna", Some(own), &host()).unwrap();
    assert_eq!(rekeyed.peer.public_key, own);
    assert!(rekeyed.client.text.contains("# PrivateKey = (the one of "));
    assert_eq!(
        client_files::all(&load::load(&path).unwrap().config, &rekeyed.peer).len(),
        2
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_note_survives(note in "[ -~äß€]{1,40}") {
        let (_dir, path) = two_peers();
        let text = format!("note={note}");
        let changed = set(&path, "bert", &[&text]).unwrap();
        let note = note.trim();
        let expected = Some(note.to_owned()).filter(|note| !note.is_empty());
        prop_assert_eq!(changed.peer.lifecycle.note, expected);
    }
}
