//! `vcgate import`: access rules of a wg-quick file are never lost silently.

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
    assert_eq!(done.stderr.lines().count(), hooks.len(), "{done:?}");
}
