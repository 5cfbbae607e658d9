//! `vcgate import`: access rules of a wg-quick file are never lost silently; clients of other products
//! keep their names, keys and state.

use super::*;

/// Hooks that filter one client, block a host, and forward a port.
const RULES: [(&str, &str); 8] = [
    (
        "PostUp = iptables -A FORWARD -s 10.9.0.2 -d 192.168.77.9 -j DROP",
        "`iptables -A FORWARD -s 10.9.0.2 -d 192.168.77.9 -j DROP` restricts access",
    ),
    (
        "PostUp = ip6tables -I FORWARD -i %i -j REJECT",
        "`ip6tables -I FORWARD -i %i -j REJECT` restricts access",
    ),
    (
        "PostUp = iptables -A FORWARD -i %i -p tcp --dport 445 -j ACCEPT",
        "`iptables -A FORWARD -i %i -p tcp --dport 445 -j ACCEPT` restricts access",
    ),
    (
        "PreUp = iptables -P FORWARD DROP",
        "`iptables -P FORWARD DROP` restricts access",
    ),
    (
        "PostUp = true; iptables -t nat -A PREROUTING -p tcp --dport 8443 -j DNAT --to-destination 10.9.0.2:443",
        "-j DNAT --to-destination 10.9.0.2:443` forwards a port",
    ),
    (
        "PostUp = nft add rule inet filter forward iifname wg0 ip daddr 192.168.77.9 drop",
        "`nft add rule inet filter forward iifname wg0 ip daddr 192.168.77.9 drop` restricts access",
    ),
    (
        "PostUp = nft -f /etc/nftables.d/wg.nft",
        "`nft -f /etc/nftables.d/wg.nft` may contain access rules",
    ),
    (
        "PostUp = /etc/wireguard/up.sh %i",
        "`/etc/wireguard/up.sh %i` may contain access rules",
    ),
];

fn wg_quick(dir: &TempDir, hooks: &[&str]) {
    let text = format!(
        "[Interface]\nPrivateKey = {ALICE}\nAddress = 10.9.0.1/24\n{}\n[Peer]\n\
         PublicKey = 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\nAllowedIPs = 10.9.0.2\n",
        hooks.join("\n")
    );
    fs::write(dir.path().join("wg0.conf"), text).unwrap();
}

#[test]
fn access_rules_stop_an_import() {
    let dir = tempfile::tempdir().unwrap();
    wg_quick(&dir, &RULES.map(|(hook, _)| hook));
    let done = vcgate(dir.path(), &["import", "wg0.conf"]);
    assert_eq!((done.code, &*done.stdout), (Some(1), ""), "{done:?}");
    for (number, (_, said)) in RULES.iter().enumerate() {
        let start = format!("error: wg0.conf:{}: P", number + 4);
        let mut lines = done.stderr.lines();
        let line = lines.find(|line| line.starts_with(&start));
        assert!(
            line.is_some_and(|line| line.contains(said)),
            "{said}: {done:?}"
        );
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing was written");

    let forced = vcgate(dir.path(), &["import", "wg0.conf", "--force"]);
    assert_eq!(forced.code, Some(0), "{forced:?}");
    for (number, (_, said)) in RULES.iter().enumerate() {
        let start = format!("warning: wg0.conf:{}: P", number + 4);
        let mut lines = forced.stderr.lines();
        let line = lines.find(|line| line.starts_with(&start));
        assert!(
            line.is_some_and(|line| line.contains(said)),
            "{said}: {forced:?}"
        );
    }
}

/// Hooks that common installers write, and that vcgate makes unnecessary.
#[test]
fn translation_and_open_forwarding_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let hooks = [
        "PostUp = iptables -A FORWARD -i %i -j ACCEPT; iptables -A FORWARD -o %i -j ACCEPT; \
         iptables -t nat -A POSTROUTING -s 10.9.0.0/24 -o eth0 -j MASQUERADE",
        "PostDown = iptables -D FORWARD -i %i -j ACCEPT; iptables -D FORWARD -o %i -j ACCEPT",
        "PostUp = sysctl -w net.ipv4.ip_forward=1 && echo 1 > /proc/sys/net/ipv4/ip_forward",
        "PostUp = ufw route allow in on wg0 out on eth0",
    ];
    wg_quick(&dir, &hooks);
    let done = vcgate(dir.path(), &["import", "wg0.conf"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    // Another warning may concern the cards of this machine.
    let about_hooks = done
        .stderr
        .lines()
        .filter(|line| line.contains("wg0.conf:"));
    assert_eq!(about_hooks.count(), hooks.len(), "{done:?}");
}

/// A client's private and public key (RFC 7748 section 6.1, Bob).
const CLIENT: [&str; 2] = [
    "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=",
    "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
];
/// Two more public keys.
const OTHERS: [&str; 2] = [
    "uagfjb8sRdJCvUSkmWU7OlEbm4dGkHtdZu+yNBg3QHg=",
    "TwN8ofoJAhK2pIX7ddu9cPX8oRzZ/tnA7a4OHxoJ+xg=",
];

/// Makes an SQLite database; `None` where there is no `sqlite3` and need not be.
fn database(dir: &TempDir, name: &str, text: &str) -> Option<()> {
    let mut sqlite3 = Command::new("sqlite3");
    match sqlite3.arg(dir.path().join(name)).arg(text).output() {
        Ok(done) => assert!(done.status.success(), "{done:?}"),
        Err(error) => {
            assert!(std::env::var_os("VCGATE_NO_ROOT").is_some(), "{error}");
            return None;
        }
    }
    Some(())
}

/// Checks the configuration that was made of the three clients, below the interface's keys.
#[track_caller]
fn assert_imported(dir: &TempDir, file: &str, interface: &str, keepalive: &str) {
    let done = vcgate(dir.path(), &["import", file]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let text = fs::read_to_string(dir.path().join("vcgate.toml")).unwrap();
    let (_, text) = text.split_once("\n\n").unwrap();
    let [first, second] = OTHERS;
    let own = CLIENT[1];
    assert_eq!(
        text,
        format!(
            "{interface}\n[[peer]]\nname = \"anna\"\npublic_key = \"{own}\"\n\
             preshared_key_file = \"keys/anna.psk\"\nallowed_ips = [\"10.9.0.2/32\"]\n{keepalive}\n\
             [[peer]]\nname = \"bert-s-phone\"\npublic_key = \"{first}\"\n\
             allowed_ips = [\"10.9.0.3/32\"]\n{keepalive}disabled = true\n\n\
             [[peer]]\nname = \"carl\"\npublic_key = \"{second}\"\n\
             allowed_ips = [\"10.9.0.4/32\"]\n{keepalive}expires = 2031-01-31T22:59:59Z\n"
        )
    );
    let client = vcgate(dir.path(), &["peer", "show", "anna"]);
    assert!(client.stdout.contains(CLIENT[0]), "{client:?}");
}

#[test]
fn the_clients_of_wg_easy_14_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let [private, public] = CLIENT;
    let [first, second] = OTHERS;
    let text = format!(
        r#"{{"server": {{"privateKey": "{ALICE}", "publicKey": "x", "address": "10.9.0.1"}},
        "clients": {{
            "0a": {{"id": "0a", "name": "anna", "address": "10.9.0.2", "privateKey": "{private}",
                "publicKey": "{public}", "preSharedKey": "{ALICE}", "expiredAt": null, "enabled": true}},
            "0b": {{"id": "0b", "name": "bert's phone", "address": "10.9.0.3",
                "publicKey": "{first}", "enabled": false}},
            "0c": {{"id": "0c", "name": "carl", "address": "10.9.0.4", "publicKey": "{second}",
                "expiredAt": "2031-01-31T22:59:59.000Z", "enabled": true}}
        }}}}"#
    );
    fs::write(dir.path().join("wg0.json"), text).unwrap();
    let interface = "[interface]\nprivate_key_file = \"keys/server.key\"\n\
                     address = [\"10.9.0.1/24\"]\nservices = [\"tcp\", \"udp\"]\n";
    assert_imported(&dir, "wg0.json", interface, "");
}

#[test]
fn the_database_of_wg_easy_15_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let [private, public] = CLIENT;
    let [first, second] = OTHERS;
    let text = format!(
        "CREATE TABLE interfaces_table (name text, device text, port integer, private_key text,
            public_key text, ipv4_cidr text, ipv6_cidr text, mtu integer, enabled integer);
        INSERT INTO interfaces_table VALUES
            ('wg0', 'eth0', 51821, '{ALICE}', 'x', '10.9.0.0/24', 'fd00:9::/112', 1420, 1);
        CREATE TABLE user_configs_table (id text, default_dns text, host text, port integer);
        INSERT INTO user_configs_table VALUES ('wg0', '[\"10.1.0.53\"]', 'vpn.example.com', 443);
        CREATE TABLE hooks_table (id text, pre_up text, post_up text, pre_down text, post_down text);
        INSERT INTO hooks_table VALUES
            ('wg0', '', 'iptables -A FORWARD -i wg0 -j ACCEPT', '', '');
        CREATE TABLE clients_table (id integer, name text, ipv4_address text, ipv6_address text,
            private_key text, public_key text, pre_shared_key text, expires_at text,
            server_allowed_ips text, persistent_keepalive integer, enabled integer);
        INSERT INTO clients_table VALUES
            (1, 'anna', '10.9.0.2', '', '{private}', '{public}', '{ALICE}', NULL, '[]', 0, 1),
            (2, 'bert''s phone', '10.9.0.3', '', '', '{first}', '', NULL, '[]', 0, 0),
            (3, 'carl', '10.9.0.4', '', '', '{second}', '', '2031-01-31T22:59:59.000Z', '[]', 0, 1);"
    );
    let Some(()) = database(&dir, "wg-easy.db", &text) else {
        return;
    };
    let interface = "[interface]\nprivate_key_file = \"keys/server.key\"\nlisten_port = 51821\n\
                     mtu = 1420\naddress = [\"10.9.0.1/24\", \"fd00:9::1/112\"]\n\
                     endpoint = \"vpn.example.com:443\"\nservices = [\"tcp\", \"udp\"]\n\n\
                     [dns]\nservers = [\"10.1.0.53\"]\n";
    assert_imported(&dir, "wg-easy.db", interface, "");
}

#[test]
fn an_interface_of_wg_portal_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let [private, public] = CLIENT;
    let [first, second] = OTHERS;
    let text = format!(
        "CREATE TABLE interfaces (identifier text, private_key text, listen_port integer, mtu integer,
            dns_str text, peer_def_dns_str text, peer_def_endpoint text, post_up text);
        INSERT INTO interfaces VALUES
            ('wg0', '{ALICE}', 51820, 0, '', '10.1.0.53', 'vpn.example.com:51820', '');
        CREATE TABLE interface_addresses (interface_identifier text, cidr_cidr text);
        INSERT INTO interface_addresses VALUES ('wg0', '10.9.0.1/24');
        CREATE TABLE peers (created_at text, identifier text, interface_identifier text,
            display_name text, preshared_key text, private_key text, disabled datetime,
            expires_at datetime, notes text, persistent_keep_alive_v integer,
            extra_allowed_ips_str text);
        INSERT INTO peers VALUES
            ('1', '{public}', 'wg0', 'anna', '{ALICE}', '{private}', NULL, NULL, '', 16, ''),
            ('2', '{first}', 'wg0', 'bert''s phone', '', '', '2026-01-01', NULL, '', 16, ''),
            ('3', '{second}', 'wg0', 'carl', '', '', NULL, '2031-01-31 23:59:59+01:00', '', 16, '');
        CREATE TABLE peer_addresses (peer_identifier text, cidr_cidr text);
        INSERT INTO peer_addresses VALUES
            ('{public}', '10.9.0.2/24'), ('{first}', '10.9.0.3/24'), ('{second}', '10.9.0.4/24');"
    );
    let Some(()) = database(&dir, "sqlite.db", &text) else {
        return;
    };
    let interface = "[interface]\nprivate_key_file = \"keys/server.key\"\nlisten_port = 51820\n\
                     address = [\"10.9.0.1/24\"]\nendpoint = \"vpn.example.com:51820\"\n\
                     services = [\"tcp\", \"udp\"]\n\n[dns]\nservers = [\"10.1.0.53\"]\n";
    assert_imported(&dir, "sqlite.db", interface, "persistent_keepalive = 16\n");
}

#[test]
fn the_clients_of_pivpn_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let [private, public] = CLIENT;
    let [first, _] = OTHERS;
    let text = format!(
        "[Interface]\nPrivateKey = {ALICE}\nAddress = 10.9.0.1/24\n\
         ### begin anna ###\n[Peer]\nPublicKey = {public}\nPresharedKey = {ALICE}\n\
         AllowedIPs = 10.9.0.2/32\n### end anna ###\n\
         #[disabled] ### begin bert ###\n#[disabled] [Peer]\n#[disabled] PublicKey = {first}\n\
         #[disabled] AllowedIPs = 10.9.0.3/32\n#[disabled] ### end bert ###\n"
    );
    let from = dir.path().join("etc/wireguard");
    fs::create_dir_all(from.join("keys")).unwrap();
    fs::write(from.join("wg0.conf"), text).unwrap();
    fs::write(from.join("keys/anna_priv"), format!("{private}\n")).unwrap();
    let done = vcgate(dir.path(), &["import", "etc/wireguard/wg0.conf"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let text = fs::read_to_string(dir.path().join("vcgate.toml")).unwrap();
    assert!(
        text.ends_with("allowed_ips = [\"10.9.0.3/32\"]\ndisabled = true\n"),
        "{text}"
    );
    let client = vcgate(dir.path(), &["peer", "show", "anna"]);
    assert!(client.stdout.contains(private), "{client:?}");
}

#[test]
fn data_that_is_not_understood_is_refused_and_leaves_no_files() {
    let server = format!(r#""server": {{"privateKey": "{ALICE}", "address": "10.9.0.1"}}"#);
    let client = |fields: &str| format!(r#"{{{server}, "clients": {{"1": {{{fields}}}}}}}"#);
    for (text, said) in [
        ("{".to_owned(), "wg0.json:1: not valid JSON"),
        ("{}".to_owned(), "wg0.json: there is no \"server\" in it"),
        (
            format!(r#"{{{server}, "clients": 3}}"#),
            "\"clients\" is not an object",
        ),
        (client(""), "wg0.json: client \"\": [Peer] has no PublicKey"),
        (
            client(r#""name": "anna", "publicKey": "x""#),
            "wg0.json: client \"anna\": PublicKey: not a key",
        ),
        (
            client(&format!(
                r#""name": "anna", "publicKey": "{}", "address": "10.9.0.2", "expiredAt": "soon""#,
                CLIENT[1]
            )),
            "wg0.json: client \"anna\": its expiry \"soon\" is not a time",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("wg0.json"), text).unwrap();
        let done = vcgate(dir.path(), &["import", "wg0.json"]);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.stderr.contains(said), "{said}: {done:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{said}");
    }

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.db"), "SQLite format 3\0 and no more").unwrap();
    let two = "CREATE TABLE interfaces (identifier text);
               INSERT INTO interfaces VALUES ('wg0'), ('wg1');";
    let Some(()) = database(&dir, "b.db", two) else {
        return;
    };
    for (arguments, said) in [
        (
            &["import", "a.db"][..],
            "error: a.db: cannot read the database",
        ),
        (
            &["import", "b.db"],
            "error: b.db: the database has several interfaces: wg0, wg1; choose one with --interface",
        ),
        (
            &["import", "b.db", "--interface", "wg2"],
            "error: b.db: the database has no interface \"wg2\"",
        ),
    ] {
        let done = vcgate(dir.path(), arguments);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.stderr.contains(said), "{said}: {done:?}");
    }
}
