//! Changes that `wg set` makes while packets flow.

use super::net::*;
use crate::ids::PeerId;
use crate::keys::PresharedKey;
use crate::tunnel::{PeerError, PeerSettings, Sealed};

fn psk(n: u8) -> Option<PresharedKey> {
    Some(PresharedKey::from([n; 32]))
}

#[test]
fn a_peer_must_have_its_own_key_and_its_own_prefixes() {
    let mut net = Net::new();
    let now = net.now;
    let tunnel = &mut net.nodes[GATEWAY].tunnel;
    let error = tunnel.add_peer(peer(2, &[]), now).unwrap_err();
    assert_eq!(error, PeerError::DuplicateKey("peer 2".into()));
    assert_eq!(tunnel.add_peer(peer(1, &[]), now), Err(PeerError::OwnKey));
    let taken = PeerError::AllowedIpTaken {
        net: "10.8.0.2/32".parse().unwrap(),
        owner: "peer 2".into(),
    };
    assert_eq!(
        tunnel.add_peer(peer(3, &["10.9.0.0/16", "10.8.0.2/32"]), now),
        Err(taken)
    );
    assert_eq!(tunnel.find(&public(3)), None);
    assert_eq!(tunnel.route([10, 9, 0, 1].into()), None);
    assert_eq!(tunnel.peers().count(), 1);
}

#[test]
fn a_prefix_moves_to_the_peer_that_it_was_assigned_to_last() {
    let mut net = Net::new();
    let now = net.now;
    let tunnel = &mut net.nodes[GATEWAY].tunnel;
    let (first, net4) = (
        tunnel.find(&public(2)).unwrap(),
        "10.8.0.2/32".parse().unwrap(),
    );
    let second = tunnel.add_peer(peer(3, &[]), now).unwrap();
    assert_eq!(tunnel.allow(second, net4), Some(first));
    assert_eq!(tunnel.allow(second, net4), None);
    assert_eq!(tunnel.route([10, 8, 0, 2].into()), Some(second));
    let lists: Vec<usize> = tunnel.peers().map(|p| p.allowed_ips.len()).collect();
    assert_eq!(lists, [0, 1]);
    assert!(!tunnel.disallow(first, net4));
    assert!(tunnel.disallow(second, net4));
    assert_eq!(tunnel.route([10, 8, 0, 2].into()), None);
}

#[test]
fn a_prefix_loses_its_host_bits() {
    let mut net = Net::new();
    let now = net.now;
    let tunnel = &mut net.nodes[GATEWAY].tunnel;
    let id = tunnel.add_peer(peer(3, &["10.9.1.7/16"]), now).unwrap();
    assert_eq!(tunnel.route([10, 9, 200, 1].into()), Some(id));
    assert_eq!(
        tunnel.peers().last().unwrap().allowed_ips,
        ["10.9.0.0/16".parse().unwrap()]
    );
    tunnel.clear_allowed_ips(id);
    assert_eq!(tunnel.route([10, 9, 200, 1].into()), None);
}

#[test]
fn a_removed_peer_is_gone_and_its_id_is_not_reused_at_once() {
    let mut net = Net::connected();
    let id = net.nodes[GATEWAY].other;
    net.nodes[GATEWAY].tunnel.remove_peer(id);
    net.send(CLIENT);
    net.run(LATENCY * 2);
    let now = net.now;
    let tunnel = &mut net.nodes[GATEWAY].tunnel;
    assert_eq!(tunnel.seal(id, &[], &mut [0; 64], now), Sealed::NoPeer);
    assert_eq!(tunnel.route([10, 8, 0, 2].into()), None);
    assert_eq!((tunnel.path(id), tunnel.next_timeout()), (None, None));
    assert_eq!(net.nodes[GATEWAY].inbox, [0]);
    let tunnel = &mut net.nodes[GATEWAY].tunnel;
    assert_ne!(tunnel.add_peer(peer(2, &["10.8.0.2/32"]), now).unwrap(), id);
    tunnel.remove_peer(PeerId(77));
}

#[test]
fn a_hundred_thousand_additions_and_removals_do_not_grow_the_peer_table() {
    let mut net = Net::new();
    let now = net.now;
    let tunnel = &mut net.nodes[GATEWAY].tunnel;
    for _ in 0..100_000 {
        let id = tunnel.add_peer(peer(3, &["10.9.0.0/16"]), now).unwrap();
        tunnel.remove_peer(id);
        tunnel.release_removed_ids();
    }
    assert!(tunnel.peers.len() < 2000, "{} slots", tunnel.peers.len());
    let id = tunnel.add_peer(peer(4, &[]), now).unwrap();
    assert_eq!(tunnel.find(&public(4)), Some(id));
    assert_eq!(tunnel.peers().count(), 2);
}

#[test]
fn without_the_same_preshared_key_there_is_no_session() {
    let mut net = Net::with(|me, settings| settings.preshared_key = psk(me as u8));
    net.send(CLIENT);
    net.run(LATENCY * 4);
    assert!(net.nodes[GATEWAY].inbox.is_empty());
    assert!(!net.nodes[CLIENT].status().connected && !net.nodes[GATEWAY].status().connected);
}

#[test]
fn a_preshared_key_that_both_sides_change_takes_effect_at_once() {
    let mut net = Net::connected();
    for node in &mut net.nodes {
        node.tunnel.set_preshared_key(node.other, psk(5), net.now);
    }
    net.run(LATENCY * 6);
    assert!(net.nodes.iter().all(|n| n.status().connected));
    net.send(CLIENT);
    net.send(GATEWAY);
    net.run(LATENCY * 2);
    assert_eq!(net.nodes[GATEWAY].inbox, [0, 1]);
    assert_eq!(net.nodes[CLIENT].inbox, [2]);
}

#[test]
fn settings_other_than_secrets_change_without_a_new_handshake() {
    let mut net = Net::connected();
    let now = net.now;
    let node = &mut net.nodes[GATEWAY];
    node.tunnel.set_name(node.other, "another".into());
    node.tunnel.set_preshared_key(node.other, None, now);
    node.tunnel
        .set_persistent_keepalive(node.other, Some(25), now);
    node.tunnel.set_private_key(secret(1), now);
    node.tunnel
        .allow(node.other, "10.8.7.0/24".parse().unwrap());
    net.send(CLIENT);
    net.send(GATEWAY);
    net.run(LATENCY * 2);
    assert_eq!(net.nodes[GATEWAY].inbox, [0, 1]);
    assert_eq!(net.nodes[CLIENT].inbox, [2]);
    assert_eq!((net.count(CLIENT, 1), net.count(GATEWAY, 1)), (0, 0));
    let lens: Vec<usize> = net.heard.iter().map(|d| d.bytes.len()).collect();
    assert_eq!(lens, [32, 144, 144], "the first keepalive goes at once");
}

#[test]
fn a_peer_with_new_settings_keeps_its_session_and_its_endpoint() {
    let mut net = Net::connected();
    let now = net.now;
    let node = &mut net.nodes[GATEWAY];
    let third = node.tunnel.add_peer(peer(3, &["10.9.0.0/16"]), now);
    let third = third.unwrap();
    let (before, path) = (
        node.status().last_handshake,
        node.tunnel.path(node.other).copied(),
    );
    let changed = PeerSettings {
        name: "another".into(),
        ..peer(2, &["10.8.0.2/32", "10.9.0.0/16"])
    };
    node.tunnel.change_peer(node.other, changed, now);
    assert_eq!(node.status().last_handshake, before);
    assert_eq!(node.tunnel.path(node.other).copied(), path);
    assert_eq!(node.status().name, "another");
    assert_eq!(node.tunnel.route([10, 9, 0, 1].into()), Some(node.other));
    node.tunnel.change_peer(third, peer(3, &[]), now);
    assert_eq!(node.tunnel.route([10, 9, 0, 1].into()), Some(node.other));
    net.send(CLIENT);
    net.run(LATENCY * 2);
    assert_eq!(net.nodes[GATEWAY].inbox, [0, 1]);
    assert_eq!((net.count(CLIENT, 1), net.count(GATEWAY, 1)), (0, 0));

    let node = &mut net.nodes[GATEWAY];
    node.tunnel
        .change_peer(node.other, peer(2, &["10.8.0.7/32"]), now);
    assert_eq!(node.tunnel.route([10, 8, 0, 2].into()), None);
    assert_eq!(node.tunnel.route([10, 8, 0, 7].into()), Some(node.other));
}

#[test]
fn a_new_private_key_ends_sessions_and_serves_clients_that_know_it() {
    let mut net = Net::connected();
    let now = net.now;
    net.nodes[GATEWAY].tunnel.set_private_key(secret(3), now);
    assert!(!net.nodes[GATEWAY].status().connected);
    let client = &mut net.nodes[CLIENT];
    client.tunnel.remove_peer(client.other);
    let mut settings = peer(3, &["0.0.0.0/0"]);
    settings.endpoint = Some(address("192.0.2.1:51820"));
    client.other = client.tunnel.add_peer(settings, now).unwrap();
    net.send(CLIENT);
    net.run(LATENCY * 4);
    assert_eq!(net.nodes[GATEWAY].inbox, [0, 1]);
}

#[test]
fn a_peer_with_our_own_new_key_is_removed() {
    let mut net = Net::new();
    let now = net.now;
    net.nodes[GATEWAY].tunnel.set_private_key(secret(2), now);
    assert_eq!(net.nodes[GATEWAY].tunnel.peers().count(), 0);
}

#[test]
fn a_preshared_key_is_not_printed() {
    let mut settings = peer(2, &[]);
    settings.preshared_key = psk(0xAB);
    assert!(!format!("{settings:?}").contains("171"));
}
