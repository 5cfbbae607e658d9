//! Problems of values that do not fit together.

use super::{PrefixSet, overlap};
use crate::config::LanAddress;
use crate::config::tests::{
    ANNA, BERT, SERVER_PUBLIC, assert_errors, assert_warnings, config_of, peer,
};
use ipnet::IpNet;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use toml::Spanned;

/// A tunnel with both families.
const DUAL: &str = "[interface]\naddress = [\"10.8.0.1/24\", \"fd00:8::1/64\"]\n";

#[test]
fn the_endpoints_own_addresses_are_checked() {
    for (addresses, message) in [
        (
            "\"10.8.0.1/24\", \"10.8.0.2/24\"",
            "10.8.0.2/24 is in the network of 10.8.0.1/24; give the endpoint one address in each network",
        ),
        (
            "\"10.8.0.1/24\", \"10.8.0.129/25\"",
            "10.8.0.129/25 is in the network of 10.8.0.1/24; give the endpoint one address in each network",
        ),
        (
            "\"10.8.0.255/24\"",
            "10.8.0.255/24 is the broadcast address of its network; choose another address in it",
        ),
        (
            "\"127.0.0.1/8\"",
            "127.0.0.1/8 cannot be the address of a host that others reach; choose one of a private network that is used nowhere else, as \"10.8.0.1/24\"",
        ),
        (
            "\"10.8.0.1/0\"",
            "10.8.0.1/0 cannot be the address of a host that others reach; choose one of a private network that is used nowhere else, as \"10.8.0.1/24\"",
        ),
        (
            "\"224.0.0.1/24\"",
            "224.0.0.1/24 cannot be the address of a host that others reach; choose one of a private network that is used nowhere else, as \"10.8.0.1/24\"",
        ),
    ] {
        let text = format!("[interface]\naddress = [{addresses}]\n");
        assert_errors(
            &text,
            &[&format!("vcgate.toml:2: interface.address: {message}")],
        );
    }
    let two = "[interface]\naddress = [\"10.8.0.1/24\", \"10.9.0.0/31\", \"fd00:8::1/64\"]\n";
    assert_warnings(two, &[]);
    let many = |count| {
        let addresses: Vec<_> = (1..=count).map(|n| format!("\"10.{n}.0.1/24\"")).collect();
        format!("[interface]\naddress = [{}]\n", addresses.join(", "))
    };
    assert_warnings(&many(8), &[]);
    assert_errors(
        &many(10),
        &[
            "vcgate.toml:2: interface.address: 10.9.0.1/24 is one too many; give the endpoint 8 addresses at most",
        ],
    );
}

#[test]
fn too_many_shards_for_the_ports_are_reported() {
    let text = |shards: u8, ports: u16| {
        format!("[interface]\nshards = {shards}\n[nat.limits]\nports = {ports}\n")
    };
    assert_warnings(&text(8, 2048), &[]);
    assert_warnings(&text(64, 256), &[]);
    assert_warnings(
        &text(64, 2048),
        &[
            "vcgate.toml:2: interface.shards: with 64 a client has 280 ports, not the 2048 of nat.limits.ports; write 9, or leave it out",
        ],
    );
    assert_warnings(
        &text(1, 20000),
        &[
            "vcgate.toml:2: interface.shards: with 1 a client has 18816 ports, not the 20000 of nat.limits.ports; set nat.limits.ports to 18816",
        ],
    );
}

#[test]
fn lan_values_are_checked() {
    let lan = |address: &str| {
        format!("[lan]\naddress = \"{address}\"\nnetworks = [\"192.168.77.0/24\"]\n")
    };
    for (address, message) in [
        (
            "192.168.77.2/24",
            "\"192.168.77.2/24\" is not an address; write \"192.168.77.2\", without a prefix length",
        ),
        (
            "Auto",
            "\"Auto\" is not an address; write a free address of the LAN, or \"auto\"",
        ),
        (
            "127.0.0.1",
            "127.0.0.1 cannot be the address of a host that others reach; choose a free address of the LAN, or \"auto\"",
        ),
        (
            "fd00::2",
            "fd00::2 is IPv6; write it as address6, and here a free IPv4 address of the LAN, or \"auto\"",
        ),
        (
            "10.8.0.9",
            "10.8.0.9 is in the tunnel's 10.8.0.0/24; choose a free address of the LAN",
        ),
        (
            "192.168.77.255",
            "192.168.77.255 is not a host address of 192.168.77.0/24; choose a free address between its first and its last",
        ),
        (
            "192.168.77.0",
            "192.168.77.0 is not a host address of 192.168.77.0/24; choose a free address between its first and its last",
        ),
    ] {
        assert_errors(
            &lan(address),
            &[&format!("vcgate.toml:2: lan.address: {message}")],
        );
    }
    assert_warnings(
        &lan("192.168.78.2"),
        &[
            "vcgate.toml:2: lan.address: 192.168.78.2 is in none of lan.networks; clients reach none of its neighbours; add its network if they shall",
        ],
    );
    assert_warnings(&lan("192.168.77.2"), &[]);
}

#[test]
fn rfc4787_req7_the_tunnel_s_addresses_are_in_use_nowhere_else() {
    assert_errors(
        "[lan]\nnetworks = [\"10.8.0.128/25\"]\n",
        &[
            "vcgate.toml:2: lan.networks: 10.8.0.128/25 is in the tunnel's 10.8.0.0/24; give interface.address a network that is used nowhere else",
        ],
    );
    assert_warnings(
        "[lan]\nnetworks = [\"10.0.0.0/8\", \"0.0.0.0/0\"]\n",
        &[
            "vcgate.toml:2: lan.networks: 10.0.0.0/8 is around the tunnel's 10.8.0.0/24; right if the LAN has no hosts there; else move the tunnel",
        ],
    );
}

#[test]
fn peers_must_differ() {
    let same = peer("anna", ANNA, "allowed_ips = [\"10.8.0.11/32\"]");
    assert_errors(
        &format!("{same}{same}"),
        &[
            "vcgate.toml:6: a second peer is called \"anna\"; give it another name than the one of line 2",
            &format!(
                "vcgate.toml:7: public_key {ANNA} is that of line 3; each client needs a key of its own; let \"vcgate peer add\" make one"
            ),
            "vcgate.toml:8: peer \"anna\": allowed_ips: 10.8.0.11/32 is that of peer \"anna\" (line 4); an address can be only one peer's",
        ],
    );
    assert_errors(
        &peer("anna", SERVER_PUBLIC, "allowed_ips = [\"10.8.0.11/32\"]"),
        &[
            "vcgate.toml:3: peer \"anna\": public_key is the endpoint's own; put the client's public key here",
        ],
    );
    assert_errors(
        &peer("anna", ANNA, "allowed_ips = [\"10.8.0.1/32\"]"),
        &[
            "vcgate.toml:4: peer \"anna\": allowed_ips: 10.8.0.1/32 is the endpoint's own address; choose another address of the tunnel",
        ],
    );
    let nameless = format!("[[peer]]\npublic_key = \"{ANNA}\"\nallowed_ips = [\"10.8.0.1/32\"]\n");
    assert_errors(
        &nameless,
        &[
            "vcgate.toml:1: a peer: name is missing; give the peer one, as name = \"anna\"",
            "vcgate.toml:3: a peer: allowed_ips: 10.8.0.1/32 is the endpoint's own address; choose another address of the tunnel",
        ],
    );
}

#[test]
fn overlaps_that_wireguard_allows_are_warnings() {
    let anna = peer(
        "anna",
        ANNA,
        "allowed_ips = [\"10.8.0.11/32\", \"10.8.0.11/32\"]",
    );
    let bert = peer(
        "bert",
        BERT,
        "allowed_ips = [\"10.8.0.9/28\", \"172.16.0.0/12\"]",
    );
    assert_warnings(
        &format!("{anna}{bert}"),
        &[
            "vcgate.toml:4: peer \"anna\": allowed_ips: 10.8.0.11/32 stands here twice; take it out, it is in line 4 too",
            "vcgate.toml:4: peer \"anna\": allowed_ips: 10.8.0.11/32 is taken out of 10.8.0.0/28 of peer \"bert\"; right if intended, the longest prefix wins; else choose another",
            "vcgate.toml:8: peer \"bert\": allowed_ips: 10.8.0.9/28 means all of 10.8.0.0/28; write \"10.8.0.9/32\" for the one address",
            "vcgate.toml:8: peer \"bert\": allowed_ips: 172.16.0.0/12 is outside the tunnel's 10.8.0.0/24; right for a network behind this peer; else choose an address inside",
        ],
    );
}

#[test]
fn rules_outside_the_lan_are_warnings() {
    let anna = peer(
        "anna",
        ANNA,
        "allowed_ips = [\"10.8.0.11\"]\nreach = [\"192.168.78.1:445\", \"icmp\"]",
    );
    assert_warnings(
        &format!("[lan]\nnetworks = [\"192.168.77.0/24\"]\n{anna}"),
        &[
            "vcgate.toml:7: peer \"anna\": reach: 192.168.78.1/32 is in none of lan.networks; add its network to lan.networks, or nothing will reach it",
        ],
    );
}

#[test]
fn ipv6_on_the_lan_goes_with_ipv6_in_the_tunnel() {
    let lan = |lines: &str| format!("{DUAL}[lan]\n{lines}networks = [\"fd00:77::/64\"]\n");
    let address6 = |text: &str| config_of(text).lan.address6;
    assert_eq!(address6(""), None);
    assert_eq!(address6(DUAL), Some(LanAddress::Auto));
    assert_eq!(
        address6(&lan("address6 = \"auto\"\naddress = \"192.168.77.2\"\n")),
        Some(LanAddress::Auto)
    );
    assert_warnings(&lan("address6 = \"fd00:77::2\"\n"), &[]);
    assert_warnings(
        &format!("{DUAL}[lan]\naddress = \"192.168.77.2\"\n"),
        &[
            "vcgate.toml:2: interface.address: fd00:8::1/64 leads nowhere; give the LAN side IPv6 too, with lan.address6; \"auto\" will do",
        ],
    );
    assert_warnings(
        "[lan]\naddress6 = \"fd00:77::2\"\n",
        &[
            "vcgate.toml:2: lan.address6: the tunnel has no IPv6 that could be translated; add an IPv6 address to interface.address, as \"fd00:8::1/64\"",
        ],
    );
    for (address, message) in [
        (
            "192.168.77.2",
            "192.168.77.2 is IPv4; write it as address, and here a free IPv6 address of the LAN, or \"auto\"",
        ),
        (
            "fe80::2",
            "fe80::2 cannot be the address of a host that others reach; choose a free address of the LAN, or \"auto\"",
        ),
        (
            "fd00:8::2",
            "fd00:8::2 is in the tunnel's fd00:8::/64; choose a free address of the LAN",
        ),
        (
            "fd00:77::",
            "fd00:77:: is not a host address of fd00:77::/64; choose a free address between its first and its last",
        ),
    ] {
        assert_errors(
            &lan(&format!("address6 = \"{address}\"\n")),
            &[&format!("vcgate.toml:4: lan.address6: {message}")],
        );
    }
}

#[test]
fn rules_about_clients_need_client_to_client() {
    let anna = peer(
        "anna",
        ANNA,
        "allowed_ips = [\"10.8.0.11\"]\nreach = [\"10.8.0.12/32:22\"]",
    );
    let lan = "[lan]\nnetworks = [\"192.168.77.0/24\"]\n";
    assert_warnings(
        &format!("{lan}{anna}"),
        &[
            "vcgate.toml:7: peer \"anna\": reach: 10.8.0.12/32 is a client's; set interface.client_to_client, or it stays out of reach",
        ],
    );
    assert_warnings(
        &format!("[interface]\nclient_to_client = true\n{lan}{anna}"),
        &[],
    );
}

#[test]
fn no_nat_destinations_must_be_routable() {
    let text = |nets| format!("[lan]\nnetworks = [\"192.168.77.0/24\"]\n[nat]\nno_nat = [{nets}]");
    assert_errors(
        &text("\"10.8.0.0/16\", \"fd00::/64\""),
        &[
            "vcgate.toml:4: nat.no_nat: 10.8.0.0/16 meets the tunnel's 10.8.0.0/24; take it out; clients reach one another with interface.client_to_client",
            "vcgate.toml:4: nat.no_nat: fd00::/64 is IPv6, which the LAN side has not; add an IPv6 address to interface.address, as \"fd00:8::1/64\"",
        ],
    );
    assert_warnings(
        &text("\"10.1.0.0/16\", \"192.168.77.64/26\""),
        &[
            "vcgate.toml:4: nat.no_nat: 10.1.0.0/16 is not in lan.networks; add it there too, or only clients whose reach names it get there",
        ],
    );
}

#[test]
fn forwards_and_no_nat_need_a_lan_side_of_their_family() {
    let anna = peer("anna", ANNA, "allowed_ips = [\"fd00:8::11\"]");
    let exceptions = format!(
        "[nat]\nno_nat = [\"fd00:1::/64\"]\n{anna}[[forward]]\nlan_port = 8443\nto = \"[fd00:8::11]:443\""
    );
    let lacks = |lines: &str, [net, forward]: [u32; 2], remedy: &str| {
        let what = "is IPv6, which the LAN side has not";
        assert_errors(
            &format!("{lines}{exceptions}"),
            &[
                &format!("vcgate.toml:{net}: nat.no_nat: fd00:1::/64 {what}; {remedy}"),
                &format!(
                    "vcgate.toml:{forward}: forward tcp/8443: [fd00:8::11]:443 {what}; {remedy}"
                ),
            ],
        );
    };
    let tunnel = "add an IPv6 address to interface.address, as \"fd00:8::1/64\"";
    lacks("", [2, 9], tunnel);
    let fixed = format!("{DUAL}[lan]\naddress = \"192.168.77.2\"\n");
    let lan = "give it IPv6 with lan.address6; \"auto\" will do";
    lacks(&fixed, [6, 13], lan);
    for lines in [
        DUAL.to_owned(),
        format!("{fixed}address6 = \"auto\"\n"),
        format!("{fixed}address6 = \"fd00:77::2\"\n"),
    ] {
        assert_warnings(&format!("{lines}{exceptions}"), &[]);
    }
}

#[test]
fn a_port_has_one_target_in_each_family() {
    let anna = peer(
        "anna",
        ANNA,
        "allowed_ips = [\"10.8.0.11\", \"fd00:8::11\"]",
    );
    let forward = |port: u16, to: &str| {
        format!("[[forward]]\nlan_port = {port}\nto = \"{to}\"\nproto = \"udp\"\n")
    };
    let both = [
        forward(8443, "10.8.0.11:443"),
        forward(8443, "[fd00:8::11]:443"),
    ];
    let all = |last: String| format!("{DUAL}{anna}{}{}{last}", both[0], both[1]);
    assert_eq!(config_of(&all(String::new())).forwards.len(), 2);
    assert_errors(
        &all(forward(8443, "[fd00:8::11]:444")),
        &["vcgate.toml:16: LAN port udp/8443 is forwarded in line 12 too; choose another lan_port"],
    );
    assert_errors(
        &all(forward(51820, "[fd00:8::11]:444")),
        &[
            "vcgate.toml:16: forward udp/51820: clients' tunnels come in by this port; choose another lan_port, or give lan.address6 an address of its own",
        ],
    );
}

#[test]
fn forwards_are_whole() {
    let anna = peer("anna", ANNA, "allowed_ips = [\"10.8.0.11\"]");
    assert_errors(
        &format!(
            "{anna}[[forward]]\nto = \"10.8.0.11\"\n[[forward]]\nlan_port = 0\n\
             [[forward]]\nlan_port = 1\nto = \"10.8.0.11:1\"\nproto = \"icmp\"\n\n\n\
             [[forward]]\nlan_port = 2\nproto = \"udp\"\n[nat]\nlog_file = \"\""
        ),
        &[
            "vcgate.toml:5: forward: lan_port is missing; add the port of the LAN address, as lan_port = 8443",
            "vcgate.toml:6: forward: to: \"10.8.0.11\" is not an address with a port; write the client's inner address and port, as \"10.8.0.11:443\" or \"[fd00:8::11]:443\"",
            "vcgate.toml:7: forward: to is missing; add the client's inner address and port, as to = \"10.8.0.11:443\"",
            "vcgate.toml:8: forward: lan_port: 0 is out of range; choose one from 1 to 65535",
            "vcgate.toml:12: forward: proto: \"icmp\" is not known; choose one of \"tcp\", \"udp\"",
            "vcgate.toml:15: forward udp/2: to is missing; add the client's inner address and port, as to = \"10.8.0.11:443\"",
            "vcgate.toml:19: nat.log_file: \"\" is not a file's name; write a path, as \"/var/log/vcgate/log.jsonl\"",
        ],
    );
}

#[test]
fn allowed_ips_must_not_cover_the_lan() {
    let lan = "[lan]\naddress = \"192.168.77.2\"\nnetworks = [\"192.168.77.0/24\"]\n";
    let with = |net: &str| {
        let allowed = format!("allowed_ips = [\"{net}\"]");
        format!("{lan}{}", peer("anna", ANNA, &allowed))
    };
    for (net, what) in [
        (
            "192.168.77.0/24",
            "192.168.77.0/24 of lan.networks; no client would reach the LAN",
        ),
        (
            "0.0.0.0/0",
            "192.168.77.0/24 of lan.networks; no client would reach the LAN",
        ),
        ("192.168.77.0/30", "the LAN address 192.168.77.2"),
    ] {
        assert_errors(
            &with(net),
            &[&format!(
                "vcgate.toml:7: peer \"anna\": allowed_ips: {net} covers {what}; write only what is behind this peer"
            )],
        );
    }
    assert_warnings(
        &with("192.168.77.128/25"),
        &[
            "vcgate.toml:7: peer \"anna\": allowed_ips: 192.168.77.128/25 is outside the tunnel's 10.8.0.0/24; right for a network behind this peer; else choose an address inside",
        ],
    );
}

#[test]
fn a_port_log_with_masquerading_causes_a_warning() {
    let log = "[nat]\nlog_file = \"ports.jsonl\"\n";
    let warning = |line: usize, key: &str| {
        format!(
            "vcgate.toml:{line}: nat.log_file: with {key} = \"auto\" the kernel may use other ports than those logged, and \"vcgate who\" name the wrong client; set {key} to a free address of the LAN"
        )
    };
    assert_warnings(log, &[&warning(2, "lan.address")]);
    let lan = "[lan]\naddress = \"192.168.77.2\"\n";
    assert_warnings(&format!("{lan}{log}"), &[]);
    assert_warnings(
        &format!("{DUAL}{lan}address6 = \"auto\"\n{log}"),
        &[&warning(7, "lan.address6")],
    );
}

proptest! {
    #[test]
    fn a_prefix_set_finds_the_overlaps_that_a_walk_finds(
        nets in proptest::collection::vec((any::<bool>(), 0..64u32, 24..=32u8), 0..8),
        (is_v6, last, length) in (any::<bool>(), 0..64u32, 24..=32u8),
    ) {
        let prefix = |is_v6: bool, last: u32, length: u8| -> IpNet {
            match is_v6 {
                true => IpNet::new_assert(Ipv6Addr::from(u128::from(last)).into(), length + 96),
                false => IpNet::new_assert(Ipv4Addr::from(last).into(), length),
            }
        };
        let net = prefix(is_v6, last, length).trunc();
        let nets: Vec<_> = nets.into_iter().map(|(v6, last, length)| Spanned::new(0..0, prefix(v6, last, length))).collect();
        let expected = nets.iter().any(|other| overlap(other.get_ref(), &net));
        prop_assert_eq!(PrefixSet::new(nets.iter()).overlaps(&net), expected);
    }
}
