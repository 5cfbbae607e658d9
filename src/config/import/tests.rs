//! Imports of wg-quick files, and names from comments.

use super::super::load;
use super::*;
use std::fs::{read_dir, read_to_string, write};

const SERVER: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const ANNA: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
const BERT: &str = "uagfjb8sRdJCvUSkmWU7OlEbm4dGkHtdZu+yNBg3QHg=";

fn import_text(text: &str) -> (tempfile::TempDir, Result<Imported, Problems>) {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("wg0.conf");
    write(&from, text).unwrap();
    let result = import(&from, None, &dir.path().join("vcgate.toml"), false);
    (dir, result)
}

#[test]
fn an_endpoint_is_imported() {
    let (dir, imported) = import_text(&format!(
        "[Interface]\nAddress = 10.9.0.1/24\nListenPort = 443\nPrivateKey = {SERVER}\n\
         PostUp = iptables -t nat -A POSTROUTING -j MASQUERADE\nMTU = 1380\n\
         DNS = 10.9.0.1, 10.1.0.53, fd00::53, LAN.example\n\n\
         ### Client Anna's laptop\n[Peer]\nPublicKey = {ANNA}\nPresharedKey = {SERVER}\n\
         AllowedIPs = 10.9.0.2/32\nEndpoint = 192.0.2.1:1\n\n\
         [Peer]\nPublicKey = {BERT}\nAllowedIPs = 10.9.0.3, 10.9.0.4/32\n\
         PersistentKeepalive = 25\n"
    ));
    let imported = imported.unwrap();
    assert_eq!(imported.peers, ["Anna-s-laptop", "peer"]);
    let text = read_to_string(&imported.config).unwrap();
    let (_, text) = text.split_once("\n\n").unwrap();
    assert_eq!(
        text,
        format!(
            "[interface]\nprivate_key_file = \"keys/server.key\"\nlisten_port = 443\n\
             mtu = 1380\naddress = [\"10.9.0.1/24\"]\nservices = [\"tcp\", \"udp\"]\n\n\
             [dns]\nservers = [\"10.1.0.53\", \"fd00::53\"]\nsearch = [\"lan.example\"]\n\n\
             [[peer]]\nname = \"Anna-s-laptop\"\npublic_key = \"{ANNA}\"\n\
             preshared_key_file = \"keys/Anna-s-laptop.psk\"\n\
             allowed_ips = [\"10.9.0.2/32\"]\n\n\
             [[peer]]\nname = \"peer\"\npublic_key = \"{BERT}\"\n\
             allowed_ips = [\"10.9.0.3/32\", \"10.9.0.4/32\"]\npersistent_keepalive = 25\n"
        )
    );
    let config = load(&imported.config).unwrap().config;
    assert_eq!(config.interface.private_key.to_base64().as_str(), SERVER);
    let folder = format!("{}/", dir.path().display());
    let warnings = imported.warnings.iter().map(ToString::to_string);
    let warnings: Vec<_> = warnings.map(|line| line.replace(&folder, "")).collect();
    assert_eq!(
        warnings,
        [
            "wg0.conf:5: PostUp is not imported; vcgate sets addresses, forwarding and translation itself, and undoes them",
            "wg0.conf:14: Endpoint is not imported; vcgate answers clients at their source addresses",
        ]
    );
}

#[test]
fn errors_are_reported_and_leave_no_files() {
    let interface = format!("[Interface]\nPrivateKey = {SERVER}\nAddress = 10.8.0.1/24\n");
    for (text, said) in [
        (
            String::new(),
            "wg0.conf: the file does not have exactly one [Interface]; name the file that wg-quick uses",
        ),
        (
            "[Interface]\n".to_owned(),
            "wg0.conf:1: [Interface] has no PrivateKey; add the endpoint's private key",
        ),
        (
            "[Interface]\nPrivateKey = x\n".to_owned(),
            "wg0.conf:2: PrivateKey: it has 1 characters, a key has 44; name the file that wg-quick uses",
        ),
        (
            format!("{interface}ListenPort = x\n"),
            "wg0.conf:4: \"x\" is not a number; write a whole number",
        ),
        (
            format!("{interface}[Peer]\n"),
            "wg0.conf:4: [Peer] has no PublicKey; add it, or take the peer out",
        ),
        (
            format!("{interface}[Peer]\nPublicKey = {ANNA}\nPresharedKey = {SERVER}\n"),
            "wg0.conf: peer \"peer\": allowed_ips is empty; add the client's address in the tunnel, as [\"10.8.0.11/32\"]",
        ),
    ] {
        let (dir, imported) = import_text(&text);
        let folder = format!("{}/", dir.path().display());
        let error = imported.err().unwrap().to_string().replace(&folder, "");
        assert_eq!(error, said);
        let left: Vec<_> = read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["wg0.conf"]);
    }
}

#[test]
fn names_come_from_comments_and_differ() {
    let mut import = Import {
        from: Path::new(""),
        dir: Path::new(""),
        created: Created::default(),
        warnings: Vec::new(),
        rules: Vec::new(),
        names: HashSet::new(),
        peers: Vec::new(),
    };
    let cjk = "安".repeat(24);
    for (comment, name) in [
        (Some("Anna"), "Anna"),
        (Some("Name = Anna"), "Anna-2"),
        (Some("client bert's phone!"), "bert-s-phone"),
        (Some("   "), "peer"),
        (Some("/../.."), "peer-2"),
        (None, "peer-3"),
        (Some("Jürgen"), "Jürgen"),
        (Some("BEGIN_PEER carl"), "carl"),
        (Some("begin dora"), "dora"),
        (Some("Client: emil (1)"), "emil-1"),
        (Some("Anna laptop (office)"), "Anna-laptop-office"),
        (Some(&cjk), cjk.get(..48).unwrap()),
        (Some(&cjk), &format!("{}-2", cjk.get(..48).unwrap())),
    ] {
        let made = import.name(comment);
        assert_eq!(made, name);
        assert!(value::peer_name(&made).is_ok());
    }
}
