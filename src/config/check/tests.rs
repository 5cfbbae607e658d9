//! What is said of values that do not fit together.

use crate::config::tests::{ANNA, BERT, SERVER_PUBLIC, assert_errors, assert_warnings, peer};

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
            "127.0.0.1 cannot be the address of a host; choose a free address of the LAN, or \"auto\"",
        ),
        (
            "fd00::2",
            "fd00::2 is IPv6, which is not translated; choose a free IPv4 address of the LAN, or \"auto\"",
        ),
        (
            "10.8.0.9",
            "10.8.0.9 is in the tunnel's 10.8.0.0/24; choose a free address of the LAN",
        ),
        (
            "192.168.77.255",
            "192.168.77.255 is no host of 192.168.77.0/24; choose a free address between its first and its last",
        ),
        (
            "192.168.77.0",
            "192.168.77.0 is no host of 192.168.77.0/24; choose a free address between its first and its last",
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
            "vcgate.toml:4: peer \"anna\": allowed_ips: 10.8.0.11/32 is taken out of 10.8.0.0/28 of peer \"bert\"; right if meant so, the longest prefix wins; else choose another",
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
