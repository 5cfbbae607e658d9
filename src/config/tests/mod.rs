//! Problems of invalid files: line, cause and remedy.

mod any;
mod values;

use super::*;
use crate::keys::KeyFile;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const SERVER: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
pub(super) const SERVER_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
pub(super) const ANNA: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
pub(super) const BERT: &str = "uagfjb8sRdJCvUSkmWU7OlEbm4dGkHtdZu+yNBg3QHg=";

/// A folder with a server's key and nothing else.
pub(super) fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("keys")).unwrap();
    let key = PrivateKey::from_base64(SERVER).unwrap();
    key.write_new(&dir.path().join("keys/server.key")).unwrap();
    dir
}

fn load_text(text: &str) -> (TempDir, Result<Loaded, Problems>) {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    fs::write(&path, text).unwrap();
    let result = load(&path);
    (dir, result)
}

/// Returns the errors and warnings of a text, without the folder's name.
fn said(text: &str) -> (Vec<String>, Vec<String>) {
    let (dir, result) = load_text(text);
    let folder = format!("{}/", dir.path().display());
    let plain = |problems: Vec<Problem>| -> Vec<String> {
        let lines = problems.iter().map(|problem| problem.to_string());
        lines.map(|line| line.replace(&folder, "")).collect()
    };
    match result {
        Ok(loaded) => (Vec::new(), plain(loaded.warnings)),
        Err(problems) => {
            assert!(!problems.errors.is_empty());
            (plain(problems.errors), plain(problems.warnings))
        }
    }
}

#[track_caller]
pub(super) fn assert_errors(text: &str, expected: &[&str]) {
    assert_eq!(said(text).0, expected, "{text}");
}

#[track_caller]
pub(super) fn assert_warnings(text: &str, expected: &[&str]) {
    let (errors, warnings) = said(text);
    assert_eq!(errors, [""; 0], "{text}");
    assert_eq!(warnings, expected, "{text}");
}

pub(super) fn config_of(text: &str) -> Config {
    let (_dir, loaded) = load_text(text);
    loaded.unwrap().config
}

/// A file that can be loaded, with its folder.
pub(super) fn loaded(text: &str) -> (TempDir, Loaded) {
    let (dir, loaded) = load_text(text);
    (dir, loaded.unwrap())
}

pub(super) fn peer(name: &str, key: &str, rest: &str) -> String {
    format!("[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\n{rest}\n")
}

#[test]
fn syntax_errors_are_reported_once_a_line() {
    assert_errors(
        "[interface]\nmtu = 1400\nmtu = 1420\n[lan\n",
        &[
            "vcgate.toml:3: duplicate key; keep one of the two",
            "vcgate.toml:4: unclosed table, expected `]`; correct the TOML of this line",
        ],
    );
}

#[test]
fn invalid_utf8_is_reported() {
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    fs::write(&path, b"# ok\n\n# \xFF\n").unwrap();
    let place = path.display();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!("{place}:3: this line is not UTF-8; save the file as UTF-8")
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!(
            "{place}: cannot read it: No such file or directory; \
             \"vcgate init\" makes one"
        )
    );
}

#[test]
fn unknown_keys_have_suggestions() {
    assert_errors(
        "colour = 1\n[interfaces]\n[interface]\nadress = []\nListenPort = 1\n[nat.timeout]\n",
        &[
            "vcgate.toml:1: unknown key \"colour\" in the file; known keys are interface, lan, smb, nat, dns, admin, metrics, offload, client, audit, forward, group, peer",
            "vcgate.toml:2: unknown key \"interfaces\" in the file; did you mean \"interface\"?",
            "vcgate.toml:4: unknown key \"adress\" in [interface]; did you mean \"address\"?",
            "vcgate.toml:5: unknown key \"ListenPort\" in [interface]; did you mean \"listen_port\"?",
            "vcgate.toml:6: unknown key \"timeout\" in [nat]; did you mean \"timeouts\"?",
        ],
    );
}

#[test]
fn sections_must_be_sections() {
    assert_errors(
        "lan = 1\nnat = { timeouts = \"x\" }\npeer = { name = \"a\" }\n",
        &[
            "vcgate.toml:1: lan: expected a section, found a whole number; begin it with [lan]",
            "vcgate.toml:2: nat.timeouts: expected a section, found a text; begin it with [nat.timeouts]",
            "vcgate.toml:3: peer: expected a list of sections, found a section; write [[peer]], in two brackets, before each",
        ],
    );
    assert_errors(
        "[peer]\nname = \"a\"\n\n[forward]\nlan_port = 1\n",
        &[
            "vcgate.toml:1: peer: expected a list of sections, found a section; write [[peer]], in two brackets, before each",
            "vcgate.toml:4: forward: expected a list of sections, found a section; write [[forward]], in two brackets, before each",
        ],
    );
    assert_errors(
        "[peer]\nname = \"a\"\n[peer]\nname = \"b\"\n",
        &["vcgate.toml:3: duplicate key; write [[peer]], in two brackets, before each"],
    );
}

#[test]
fn unquoted_values_are_reported() {
    for (line, remedy) in [
        (
            "allowed_ips = [10.8.0.2/32]",
            "write \"10.8.0.2/32\", in quotes",
        ),
        (
            "allowed_ips = [\"10.8.0.2/32\", fd00::2/128] # two",
            "write \"fd00::2/128\", in quotes",
        ),
        ("name = anna", "write \"anna\", in quotes"),
        ("udp = 5m", "write \"5m\", in quotes"),
        ("name = \"anna", "end it with another quote, \""),
        ("mtu = ", "correct the TOML of this line"),
    ] {
        let text = format!("[x]\n{line}\n");
        let (errors, _) = said(&text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("vcgate.toml:2: "), "{errors:?}");
        assert!(errors[0].ends_with(&format!("; {remedy}")), "{errors:?}");
    }
}

#[test]
fn renamed_keys_name_their_successors() {
    assert_errors(
        "[interface]\nclients_may_meet = true\ndeny = \"silent\"\n[nat]\nunsolicited = \"icmp\"\nuntranslated = []\n",
        &[
            "vcgate.toml:2: unknown key \"clients_may_meet\" in [interface]; write client_to_client instead",
            "vcgate.toml:3: unknown key \"deny\" in [interface]; write on_deny = \"reject\" for \"icmp\", \"drop\" for \"silent\"",
            "vcgate.toml:5: unknown key \"unsolicited\" in [nat]; write on_unsolicited = \"reject\" for \"icmp\", \"drop\" for \"silent\"",
            "vcgate.toml:6: unknown key \"untranslated\" in [nat]; write no_nat instead",
        ],
    );
}

#[test]
fn values_of_the_wrong_kind_get_a_remedy() {
    let text = "name = [\"a\"]\npersistent_keepalive = true\n[interface]\nclient_to_client = 1\nmtu = 1420.0\nlisten_port = \"port\"\non_deny = true\n";
    assert_errors(
        &text.replacen(
            "name",
            "[[peer]]\npublic_key = \"x\"\nallowed_ips = true\nname",
            1,
        ),
        &[
            "vcgate.toml:2: a peer: public_key: not a key: it has 1 characters, a key has 44; copy it whole from what \"vcgate pubkey\" or the client's app shows",
            "vcgate.toml:3: a peer: allowed_ips: expected a list, found true or false; write it in brackets, [ ]",
            "vcgate.toml:4: a peer: name: expected a text, found a list; write one text in quotes, without brackets",
            "vcgate.toml:5: a peer: persistent_keepalive: expected a whole number, found true or false; write a number from 0 to 65535",
            "vcgate.toml:7: interface.client_to_client: expected true or false, found a whole number; write true or false, without quotes",
            "vcgate.toml:8: interface.mtu: expected a whole number, found a number with a point; write a number from 576 to 65455, without a point",
            "vcgate.toml:9: interface.listen_port: expected a whole number, found a text; write a number from 1 to 65535, without quotes",
            "vcgate.toml:10: interface.on_deny: expected a text, found true or false; write one of \"reject\", \"drop\"",
        ],
    );
}

#[test]
fn interface_values_are_checked() {
    assert_errors(
        "[interface]
name = \"a-name-that-is-too-long\"
listen_port = 0
address = [\"10.8.0.1\", \"10.8.0.0/24\", \"x\", 7]
mtu = 575
endpoint = \"a:b\"
",
        &[
            "vcgate.toml:2: interface.name: \"a-name-that-is-too-long\" cannot be the name of an interface; use up to 15 letters and digits, as \"vcg0\"",
            "vcgate.toml:3: interface.listen_port: 0 is out of range; choose one from 1 to 65535",
            "vcgate.toml:4: interface.address: \"10.8.0.1\" has no prefix length; write \"10.8.0.1/24\" or the like",
            "vcgate.toml:4: interface.address: 10.8.0.0/24 is the network, not an address in it; write \"10.8.0.1/24\"",
            "vcgate.toml:4: interface.address: \"x\" is not an address with a prefix length; write it like \"10.8.0.11/32\" or \"fd00::11/128\"",
            "vcgate.toml:4: interface.address: expected a text, found a whole number; write it in quotes",
            "vcgate.toml:5: interface.mtu: 575 is out of range; choose one from 576 to 65455",
            "vcgate.toml:6: interface.endpoint: \"a:b\" is not a host and a port; write it like \"vpn.example.com:51820\" or \"[2001:db8::1]:51820\"",
        ],
    );
    assert_errors(
        "[interface]\naddress = \"10.8.0.1/24\"\nmtu = 65536\nlisten_port = 99999999999999999999\n",
        &[
            "vcgate.toml:2: interface.address: expected a list, found a text; write [\"10.8.0.1/24\"]",
            "vcgate.toml:3: interface.mtu: 65536 is out of range; choose one from 576 to 65455",
            "vcgate.toml:4: interface.listen_port: 99999999999999999999 is out of range; choose one from 1 to 65535",
        ],
    );
    assert_errors(
        "[interface]\naddress = []\nmtu = \"1420\"\nlisten_port = 1.5\n",
        &[
            "vcgate.toml:2: interface.address is empty; give the endpoint an address in the tunnel, as [\"10.8.0.1/24\"]",
            "vcgate.toml:3: interface.mtu: expected a whole number, found a text; write a number from 576 to 65455, without quotes",
            "vcgate.toml:4: interface.listen_port: expected a whole number, found a number with a point; write a number from 1 to 65535, without a point",
        ],
    );
    assert_errors(
        "[interface]\naddress = [\"fd00::1/64\"]\nmtu = 1279\n",
        &[
            "vcgate.toml:3: interface.mtu: 1279 is too small for fd00::1/64; IPv6 needs at least 1280",
        ],
    );
}

#[test]
fn key_files_are_checked() {
    assert_errors(
        "[interface]\nname = \"a\"\nprivate_key_file = \"no.key\"\n",
        &[
            "vcgate.toml:3: interface.private_key_file: cannot read no.key: No such file or directory; create it: (umask 077; vcgate genkey > no.key)",
        ],
    );
    let rest = "allowed_ips = [\"10.8.0.11/32\"]\npreshared_key_file = \"vcgate.toml\"";
    assert_errors(
        &peer("anna", ANNA, rest),
        &[
            "vcgate.toml:5: peer \"anna\": preshared_key_file: vcgate.toml is open to users other than its owner (mode 0644); chmod 600 vcgate.toml",
        ],
    );
    let dir = folder();
    let path = dir.path().join("vcgate.toml");
    fs::write(&path, "\n[interface]\n").unwrap();
    let key = dir.path().join("keys/server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let (place, key_place) = (path.display(), key.display());
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!(
            "{place}:2: interface.private_key_file: {key_place} is open to users other than its owner \
             (mode 0640); chmod 600 {key_place}"
        )
    );
}

#[test]
fn smb_and_nat_values_are_checked() {
    assert_errors(
        "[smb]
hook = \"on\"
stale = \"probes\"
unreadable = \"drop\"
ports = []
[nat]
filtering = \"port-dependent\"
[nat.timeouts]
udp = 300
icmp = \"1 minute\"
tcp_established = \"0s\"
[nat.limits]
ports = 64513
sessions = -1
",
        &[
            "vcgate.toml:2: smb.hook: \"on\" is not known; choose one of \"assign\", \"observe\", \"off\"",
            "vcgate.toml:3: smb.stale: \"probes\" is not known; choose one of \"probe\", \"reset\", \"keep\"",
            "vcgate.toml:4: smb.unreadable: \"drop\" is not known; choose one of \"pass\", \"reset\"",
            "vcgate.toml:5: smb.ports is empty; leave it out for 445 and 139, or set hook = \"off\"",
            "vcgate.toml:7: nat.filtering: \"port-dependent\" is not known; choose one of \"address-dependent\", \"endpoint-independent\"",
            "vcgate.toml:9: nat.timeouts.udp: 300 has no unit; write \"300s\" for seconds",
            "vcgate.toml:10: nat.timeouts.icmp: \"1 minute\" is not a time; write \"90s\", \"5m\" or \"2h4m\"",
            "vcgate.toml:11: nat.timeouts.tcp_established: \"0s\" is out of range; choose a time from 1s to 365d",
            "vcgate.toml:13: nat.limits.ports: 64513 is out of range; choose one from 1 to 64512",
            "vcgate.toml:14: nat.limits.sessions: -1 is out of range; choose one from 1 to 16777216",
        ],
    );
    assert_warnings(
        "[nat.timeouts]\nudp = \"119s\"\n",
        &[
            "vcgate.toml:2: nat.timeouts.udp: 1m59s is less than the 2m of RFC 4787 REQ-5; idle connections will break early; leave it out for the default",
        ],
    );
}

#[test]
fn peers_are_checked_one_by_one() {
    assert_errors(
        "[[peer]]
[[peer]]
name = \"a/b\"
public_key = \"x\"
allowed_ips = []
persistent_keepalive = 65536
reach = [\"sctp\"]
[[peer]]
name = \"bert\"
Endpoint = \"x\"
",
        &[
            "vcgate.toml:1: a peer: name is missing; give the peer one, as name = \"anna\"",
            "vcgate.toml:1: a peer: public_key is missing; add what the client's app shows, or let \"vcgate peer add\" make a key",
            "vcgate.toml:1: a peer: allowed_ips is missing; add the client's address in the tunnel, as [\"10.8.0.11/32\"]",
            "vcgate.toml:3: a peer: name: \"a/b\" cannot be a name; use letters, digits, \"-\", \"_\", \".\" and \"@\", the first a letter or digit",
            "vcgate.toml:4: a peer: public_key: not a key: it has 1 characters, a key has 44; copy it whole from what \"vcgate pubkey\" or the client's app shows",
            "vcgate.toml:5: a peer: allowed_ips is empty; add the client's address in the tunnel, as [\"10.8.0.11/32\"]",
            "vcgate.toml:6: a peer: persistent_keepalive: 65536 is out of range; choose one from 0 to 65535",
            "vcgate.toml:7: a peer: reach: \"sctp\" is not a protocol; write tcp, udp or icmp",
            "vcgate.toml:8: peer \"bert\": public_key is missing; add what the client's app shows, or let \"vcgate peer add\" make a key",
            "vcgate.toml:8: peer \"bert\": allowed_ips is missing; add the client's address in the tunnel, as [\"10.8.0.11/32\"]",
            "vcgate.toml:10: unknown key \"Endpoint\" in [[peer]]; known keys are name, public_key, preshared_key_file, allowed_ips, persistent_keepalive, reach, dns, rate_up, rate_down, client, lan_address, disabled, expires, note, groups",
        ],
    );
}
