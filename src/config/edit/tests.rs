//! Adding and removing peers: the changes, and the unchanged rest of the file.

use super::*;
use crate::config::tests::folder;
use crate::config::without_checksum;
use crate::config::{Config, MissingInfo, client};
use proptest::prelude::*;
use std::fs::{read_to_string, write};
use std::os::unix::fs::PermissionsExt;

const ANNA: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
const BERT: &str = "uagfjb8sRdJCvUSkmWU7OlEbm4dGkHtdZu+yNBg3QHg=";

fn host() -> HostNetwork {
    HostNetwork::of(&["192.168.77.5/24"])
}

fn new(name: &str) -> NewPeer {
    NewPeer {
        name: name.to_owned(),
        public_key: None,
        allowed_ips: Vec::new(),
        assignments: Vec::new(),
    }
}

fn config(path: &Path) -> Config {
    load::load(path).unwrap().config
}

#[test]
fn a_peer_gets_keys_an_address_and_a_configuration() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "").unwrap();
    let added = add_peer(&path, &new("anna"), &host()).unwrap();
    assert_eq!(added.peer.allowed_ips, ["10.8.0.2/32".parse().unwrap()]);
    assert!(added.warnings.is_empty());
    let files = ["keys/anna.key", "keys/anna.psk", "clients/anna.conf"];
    let files = files.map(|file| dir.path().join(file));
    assert_eq!(added.created, files);
    for file in &files {
        let mode = file.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
    let key = PrivateKey::read(&files[0]).unwrap();
    let preshared = PresharedKey::read(&files[1]).unwrap();
    assert_eq!(
        read_to_string(&path).unwrap(),
        format!(
            "[[peer]]\nname = \"anna\"\npublic_key = \"{}\"\n\
             preshared_key_file = \"keys/anna.psk\"\nallowed_ips = [\"10.8.0.2/32\"]\n",
            key.public_key()
        )
    );
    let expected = format!(
        "# anna\n[Interface]\nPrivateKey = {}\nAddress = 10.8.0.2/32\nDNS = 10.8.0.1, lan.internal\nMTU = 1420\n\n\
         [Peer]\nPublicKey = hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n\
         PresharedKey = {}\nEndpoint = 192.168.77.5:51820\n\
         AllowedIPs = 10.8.0.0/24, 192.168.77.0/30, 192.168.77.4/32, 192.168.77.6/31, \
         192.168.77.8/29, 192.168.77.16/28, 192.168.77.32/27, 192.168.77.64/26, \
         192.168.77.128/25\nPersistentKeepalive = 25\n",
        key.to_base64().as_str(),
        preshared.to_base64().as_str()
    );
    let file = read_to_string(&files[2]).unwrap();
    assert_eq!(file, *added.client.text);
    assert_eq!(without_checksum(&file), expected);
    assert_eq!(added.client.lacks, []);
    let again = add_peer(&path, &new("bert"), &host()).unwrap();
    assert_eq!(again.peer.allowed_ips, ["10.8.0.3/32".parse().unwrap()]);
}

#[test]
fn no_private_key_is_made_for_a_given_public_key() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    let text = "[interface]\nendpoint = \"vpn.example.com:443\"\nmtu = 1380\n\
                address = [\"10.8.0.1/24\", \"fd00::1/64\"]\n\
                [lan]\nnetworks = [\"192.168.77.0/24\", \"10.1.0.0/16\"]\n";
    write(&path, text).unwrap();
    let site = NewPeer {
        public_key: Some(PublicKey::from_base64(ANNA).unwrap()),
        allowed_ips: ["10.8.0.9/32", "fd00::9/128", "172.16.0.0/16"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
        ..new("site")
    };
    let added = add_peer(&path, &site, &host()).unwrap();
    assert_eq!(added.client.lacks, [MissingInfo::PrivateKey]);
    assert!(!dir.path().join("keys/site.key").exists());
    let preshared = added.peer.preshared_key.unwrap();
    assert_eq!(
        without_checksum(&added.client.text),
        format!(
            "# site\n[Interface]\n# PrivateKey = (the one of {ANNA})\n\
             Address = 10.8.0.9/32, fd00::9/128\nDNS = 10.8.0.1, fd00::1, lan.internal\nMTU = 1380\n\n\
             [Peer]\nPublicKey = hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n\
             PresharedKey = {}\nEndpoint = vpn.example.com:443\n\
             AllowedIPs = 10.8.0.0/24, fd00::/64, 192.168.77.0/24, 10.1.0.0/16\n\
             PersistentKeepalive = 25\n",
            preshared.to_base64().as_str()
        )
    );
    assert_eq!(added.warnings[0].line, Some(12));
    assert_eq!(added.warnings[1..], added.client.warnings);
}

#[test]
fn the_resolved_endpoint_is_excluded_from_allowed_ips() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    let text =
        "[interface]\nendpoint = \"vpn.example.com\"\n[lan]\nnetworks = [\"192.168.77.0/30\"]\n";
    write(&path, text).unwrap();
    let unresolved = add_peer(&path, &new("anna"), &host()).unwrap();
    let whole = "AllowedIPs = 10.8.0.0/24, 192.168.77.0/30\n";
    assert!(unresolved.client.text.contains(whole));
    let warning = unresolved.warnings[0].to_string();
    assert!(
        warning.contains("cannot resolve vpn.example.com"),
        "{warning}"
    );

    let mut host = host();
    host.endpoint = ["203.0.113.9", "192.168.77.1"]
        .map(|ip| ip.parse().unwrap())
        .to_vec();
    let resolved = client(&config(&path), "anna", &host).unwrap();
    let split = "AllowedIPs = 10.8.0.0/24, 192.168.77.0/32, 192.168.77.2/31\n";
    assert!(resolved.text.contains(split), "{}", resolved.text.as_str());
    assert_eq!(resolved.warnings, []);
}

/// wg-quick and the apps keep the endpoint out of a default route themselves, by marks and sockets.
#[test]
fn a_default_route_is_not_split() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "[lan]\nnetworks = [\"0.0.0.0/0\"]\n").unwrap();
    let added = add_peer(&path, &new("anna"), &host()).unwrap();
    let text = added.client.text.as_str();
    assert!(text.contains("\nAllowedIPs = 0.0.0.0/0\n"), "{text}");
}

#[test]
fn a_tunnel_with_both_families_gives_an_address_of_each() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    let text = "[interface]\naddress = [\"10.8.0.1/24\", \"fd00:8::1/64\"]\n";
    write(&path, text).unwrap();
    let host = HostNetwork::of(&["192.168.77.5/24", "fd00:77::5/64"]);
    let added = add_peer(&path, &new("anna"), &host).unwrap();
    let text = added.client.text.as_str();
    assert!(
        text.contains("\nAddress = 10.8.0.2/32, fd00:8::2/128\n"),
        "{text}"
    );
    let reached = "192.168.77.128/25, fd00:77::/64\n";
    assert!(text.contains(reached), "{text}");
    let next = add_peer(&path, &new("bert"), &host).unwrap();
    assert!(
        next.client
            .text
            .contains("\nAddress = 10.8.0.3/32, fd00:8::3/128\n")
    );
}

#[test]
fn a_missing_endpoint_is_reported() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "").unwrap();
    let added = add_peer(&path, &new("anna"), &HostNetwork::default()).unwrap();
    assert_eq!(added.client.lacks, [MissingInfo::Endpoint]);
    assert!(added.client.text.contains("\n# Endpoint = (host):51820\n"));
    assert!(added.client.text.contains("\nAllowedIPs = 10.8.0.0/24\n"));
    let later = client(&config(&path), "anna", &host()).unwrap();
    assert!(later.text.contains("\nEndpoint = 192.168.77.5:51820\n"));
}

#[test]
fn refusals_change_no_files() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "[interface]\naddress = [\"10.8.0.1/30\"]\n").unwrap();
    add_peer(&path, &new("anna"), &host()).unwrap();
    write(dir.path().join("clients/bert.conf"), "mine").unwrap();
    let before = snapshot(dir.path());
    let refused = |new: &NewPeer| {
        let error = add_peer(&path, new, &host()).err().unwrap().to_string();
        error.replace(&format!("{}/", dir.path().display()), "")
    };
    let given = |name: &str, net: &str| NewPeer {
        allowed_ips: vec![net.parse().unwrap()],
        ..new(name)
    };
    for (new, said) in [
        (
            new("anna"),
            "vcgate.toml: a peer is called \"anna\" already; choose another name, or \
             \"vcgate peer remove anna\" first",
        ),
        (
            new("bert"),
            "vcgate.toml: no address is free in 10.8.0.0/30; widen it: address = [\"10.8.0.1/29\"] \
             under [interface], then restart the endpoint",
        ),
        (
            given("bert", "192.168.77.9/32"),
            "vcgate.toml: 192.168.77.9/32 is in the LAN's 192.168.77.0/24; a client has an address \
             of the tunnel, 10.8.0.0/30: leave --allowed-ips out for the next free one",
        ),
        (
            given("bert", "10.8.0.2/32"),
            "vcgate.toml: peer \"bert\": allowed_ips: 10.8.0.2/32 is that of peer \
             \"anna\" (line 8); an address can be only one peer's",
        ),
        (
            given("bert", "10.9.0.2/32"),
            "clients/bert.conf: it exists already and is never overwritten; \
             move clients/bert.conf away",
        ),
        (
            given("server", "10.9.0.2/32"),
            "vcgate.toml: keys/server.key is the endpoint's own key; choose another name",
        ),
        (
            new("../x"),
            "vcgate.toml: \"../x\" cannot be a name; use letters, digits, \"-\", \"_\", \".\" \
             and \"@\", the first a letter or digit",
        ),
    ] {
        assert_eq!(refused(&new), said);
        assert_eq!(snapshot(dir.path()), before);
    }
    let error = remove_peer(&path, "ana").err().unwrap().to_string();
    assert!(
        error.ends_with("no peer is called \"ana\"; did you mean \"anna\"?"),
        "{error}"
    );
    assert_eq!(snapshot(dir.path()), before);
}

/// Every file of the folder, with what it holds.
fn snapshot(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(snapshot(&path)),
            false => all.push((path.clone(), read_to_string(path).unwrap())),
        }
    }
    all.sort();
    all
}

#[test]
fn removing_a_peer_restores_the_file_and_deletes_its_files() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    // A peer by hand, named as the server's key is, with a preshared key of another name.
    let text = format!(
        "[[peer]]\nname = \"server\"\npublic_key = \"{ANNA}\"\nallowed_ips = [\"10.8.0.7\"]\n\
         preshared_key_file = \"keys/server.key\"\n"
    );
    write(&path, &text).unwrap();
    add_peer(&path, &new("bert"), &host()).unwrap();
    let removed = remove_peer(&path, "server").unwrap();
    assert!(removed.deleted.is_empty() && removed.warnings.is_empty());
    assert!(dir.path().join("keys/server.key").exists());
    let removed = remove_peer(&path, "bert").unwrap();
    assert_eq!(removed.deleted.len(), 3);
    let left = snapshot(dir.path());
    let left: Vec<_> = left
        .iter()
        .map(|(path, _)| path.file_name().unwrap())
        .collect();
    assert_eq!(left, ["server.key", "vcgate.toml"]);
    assert_eq!(read_to_string(&path).unwrap(), "");
}

/// A name is the operator's to change: the files stay the client's, by its key.
#[test]
fn a_renamed_peer_keeps_its_files() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "").unwrap();
    let rename = |from: &str, to: &str| {
        let text = read_to_string(&path).unwrap();
        write(
            &path,
            text.replace(&format!("name = {from:?}"), &format!("name = {to:?}")),
        )
        .unwrap();
    };
    let before = add_peer(&path, &new("anna"), &host()).unwrap();
    rename("anna", "annika");
    let show = |name: &str| client(&config(&path), name, &host()).unwrap();
    let renamed = show("annika");
    assert_eq!(
        (&renamed.path, renamed.lacks),
        (&before.client.path, vec![])
    );
    let body = |text: &str| {
        without_checksum(text)
            .split_once('\n')
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(body(&renamed.text), body(&before.client.text));

    // The name is free for another one, who gets files of its own.
    let second = add_peer(&path, &new("anna"), &host()).unwrap();
    let files = ["keys/anna-2.key", "keys/anna-2.psk", "clients/anna-2.conf"];
    assert_eq!(second.created, files.map(|file| dir.path().join(file)));
    assert_eq!(*show("anna").text, *second.client.text);
    assert_eq!(body(&show("annika").text), body(&before.client.text));

    let mut removed = remove_peer(&path, "annika").unwrap();
    removed.deleted.sort();
    let files = ["clients/anna.conf", "keys/anna.key", "keys/anna.psk"];
    assert_eq!(removed.deleted, files.map(|file| dir.path().join(file)));
    assert_eq!(*show("anna").text, *second.client.text);
    remove_peer(&path, "anna").unwrap();
    for folder in ["keys", "clients"] {
        let left = std::fs::read_dir(dir.path().join(folder)).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name != "server.key").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A client that has its private key to itself is known by the key that its file names.
#[test]
fn a_renamed_peer_with_a_key_of_its_own_keeps_its_files() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "").unwrap();
    let with_key = NewPeer {
        public_key: Some(ANNA.parse().unwrap()),
        ..new("anna")
    };
    add_peer(&path, &with_key, &host()).unwrap();
    let text = read_to_string(&path).unwrap();
    write(&path, text.replace("name = \"anna\"", "name = \"annika\"")).unwrap();
    add_peer(&path, &new("anna"), &host()).unwrap();
    let removed = remove_peer(&path, "annika").unwrap();
    let files = ["clients/anna.conf", "keys/anna.psk"];
    assert_eq!(removed.deleted, files.map(|file| dir.path().join(file)));
}

#[test]
fn a_preshared_key_that_another_peer_uses_stays() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "").unwrap();
    add_peer(&path, &new("anna"), &host()).unwrap();
    let second = format!(
        "[[peer]]\nname = \"bert\"\npublic_key = \"{BERT}\"\nallowed_ips = [\"10.8.0.9\"]\n\
         preshared_key_file = \"keys/../keys/anna.psk\"\n"
    );
    write(&path, read_to_string(&path).unwrap() + &second).unwrap();
    let removed = remove_peer(&path, "anna").unwrap();
    let left = dir.path().join("keys/anna.psk");
    assert!(!removed.deleted.contains(&left) && left.exists());
    assert_eq!(config(&path).peers[0].name, "bert");
}

#[test]
fn new_warnings_are_reported_and_old_ones_are_not() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "[nat.timeouts]\nudp = \"1s\"\n").unwrap();
    add_peer(&path, &new("anna"), &host()).unwrap();
    let whole = NewPeer {
        allowed_ips: vec!["10.8.0.0/24".parse().unwrap()],
        ..new("whole")
    };
    let [warning] = &add_peer(&path, &whole, &host()).unwrap().warnings[..] else {
        panic!("one warning: the other one is old");
    };
    assert_eq!(warning.line, Some(8));
    assert!(
        warning
            .wrong
            .what
            .ends_with("10.8.0.2/32 is taken out of 10.8.0.0/24 of peer \"whole\"")
    );
}

#[test]
fn a_name_that_wg_quick_rejects_causes_a_warning() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "").unwrap();
    for (name, warns) in [
        ("anna@home", true),
        ("jürgen", true),
        ("a-name-of-16-let", true),
        ("a-name-of-15_le", false),
    ] {
        let warnings = add_peer(&path, &new(name), &host()).unwrap().warnings;
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), usize::from(warns), "{said:?}");
        let file = format!("clients/{name}.conf: wg-quick does not take a file of this name");
        assert!(said.iter().all(|text| text.contains(&file)), "{said:?}");
    }
}

#[test]
fn removal_includes_only_the_peers_comment() {
    let block = |name: &str, key: &str, last: u8| {
        format!(
            "[[peer]]  # {name}\nname = '{name}'\npublic_key = \"{key}\"\nallowed_ips = [\n  \"10.8.0.{last}\", # odd\n] # end\n"
        )
    };
    let (anna, bert) = (block("anna", ANNA, 7), block("bert", BERT, 8));
    let text = format!(
        "# top\n\n# the clients\n\n# Anna's laptop\n# is blue\n{anna}# tail\n\n# Bert\n{bert}\n[nat]\n# end"
    );
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, &text).unwrap();
    remove_peer(&path, "anna").unwrap();
    let expected = format!("# top\n\n# the clients\n# tail\n\n# Bert\n{bert}\n[nat]\n# end");
    assert_eq!(read_to_string(&path).unwrap(), expected);
    remove_peer(&path, "bert").unwrap();
    assert_eq!(
        read_to_string(&path).unwrap(),
        "# top\n\n# the clients\n# tail\n\n[nat]\n# end"
    );
}

#[test]
fn peers_in_an_inline_list_are_not_changed() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    let text = format!(
        "peer = [{{ name = \"anna\", public_key = \"{ANNA}\", allowed_ips = [\"10.8.0.7\"] }}]\n"
    );
    write(&path, &text).unwrap();
    let said = "the peers are written as one list, which commands do not change; \
                write each as a section, [[peer]]";
    let error = add_peer(&path, &new("bert"), &host()).err().unwrap();
    assert!(error.to_string().ends_with(said), "{error}");
    let error = remove_peer(&path, "anna").err().unwrap();
    assert!(error.to_string().ends_with(said), "{error}");
    assert_eq!(read_to_string(&path).unwrap(), text);
}

/// Lines of a valid configuration as people write them.
fn text() -> impl Strategy<Value = String> {
    let line =
        proptest::sample::select(&["", "   ", "# a comment", "  # [[peer]]", "\t", "#", "# ä"][..]);
    let lines = || {
        let lines = proptest::collection::vec(line.clone(), 0..5);
        lines.prop_map(|lines| {
            lines
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        })
    };
    let peer = format!(
        "[[peer]]\nname = \"carl\"\npublic_key = \"{ANNA}\"\nallowed_ips = [\"10.8.0.200\"]\n"
    );
    let peers = prop_oneof![Just(String::new()), Just(peer)];
    (lines(), lines(), peers, lines(), lines(), any::<bool>()).prop_map(
        |(a, b, peer, c, d, dos)| {
            let text = format!("{a}[interface] # x\n{b}mtu=1400\n{peer}{c}[lan]\n{d}");
            if dos {
                text.replace('\n', "\r\n")
            } else {
                text
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn adding_and_removing_changes_no_byte(text in text()) {
        let dir = folder();
        let path = dir.path().join("vcgate.toml");
        write(&path, &text).unwrap();
        add_peer(&path, &new("anna"), &host()).unwrap();
        let with_anna = read_to_string(&path).unwrap();
        prop_assert!(with_anna.starts_with(&text));
        add_peer(&path, &new("bert"), &host()).unwrap();
        remove_peer(&path, "bert").unwrap();
        prop_assert_eq!(&read_to_string(&path).unwrap(), &with_anna);
        add_peer(&path, &new("bert"), &host()).unwrap();
        remove_peer(&path, "anna").unwrap();
        remove_peer(&path, "bert").unwrap();
        prop_assert_eq!(read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_new_peer_has_the_keys_that_were_given() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    write(&path, "[lan]\nnetworks = [\"0.0.0.0/0\"]\n").unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH;
    let keys = [
        "note=2nd floor",
        "client.full_tunnel=true",
        "client.mtu=1300",
    ];
    let anna = NewPeer {
        assignments: keys
            .map(|key| Assignment::parse(key, now).unwrap())
            .to_vec(),
        ..new("anna")
    };
    let added = add_peer(&path, &anna, &host()).unwrap();
    let text = read_to_string(&path).unwrap();
    let end = "note = \"2nd floor\"\nclient = { full_tunnel = true, mtu = 1300 }\n";
    assert!(text.ends_with(end), "{text}");
    let file = &added.client.text;
    assert!(file.contains("\nMTU = 1300\n"), "{}", **file);
    assert!(
        file.contains("\nAllowedIPs = 0.0.0.0/0, ::/0\n"),
        "{}",
        **file
    );
    let wrong = NewPeer {
        assignments: vec![Assignment::parse("client.mtu=5", now).unwrap()],
        ..new("bert")
    };
    assert!(add_peer(&path, &wrong, &host()).is_err());
    assert_eq!(read_to_string(&path).unwrap(), text);
    assert!(!dir.path().join("keys/bert.psk").exists());
}
