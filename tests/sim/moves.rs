//! Inner addresses that move between peers, and overlapping prefixes.

use crate::ip::{udp, udp_parts};
use crate::network::{LAN, Network, SERVER, inner, secret};
use crate::raw::{raw, send_and_wait, take_datagrams, take_lan_packets};
use crate::rules::lan;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use vcgate_core::engine::GlobalPolicy;
use vcgate_core::ids::PeerId;
use vcgate_core::nat::BLOCK_SIZE;
use vcgate_core::tunnel::PeerSettings;

const REMOTE: (Ipv4Addr, u16) = (SERVER, 7777);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn two_clients(policy: GlobalPolicy) -> (Network, [PeerId; 2]) {
    let network = raw(policy, &[vec![lan()], vec![lan()]]);
    let peers: Vec<_> = network.engine.tunnel().peers().map(|p| p.id).collect();
    (network, [peers[0], peers[1]])
}

/// Opens a flow from a client to the server; returns its LAN port.
fn open_flow(network: &mut Network, client: usize) -> u16 {
    send_and_wait(network, client, &udp((inner(0), 5000), REMOTE, b"question"));
    let [packet] = &take_lan_packets(network)[..] else {
        panic!("expected one packet on the LAN");
    };
    udp_parts(packet).unwrap().0
}

/// Adds an allowed IP, as `wg set PEER allowed-ips +NET` does.
fn allow(network: &mut Network, peer: PeerId, net: IpNet) {
    let now = network.now;
    (network.engine).change_peers(now, |engine| engine.tunnel_mut().allow(peer, net));
}

fn send_answer(network: &mut Network, port: u16) {
    network.server_sends(udp(REMOTE, (LAN, port), b"answer"));
    network.wait(Duration::from_millis(100));
}

#[test]
fn rfc6888_req14_a_reassigned_address_keeps_no_flows_of_its_previous_peer() {
    let (mut network, [_, second]) = two_clients(GlobalPolicy::default());
    let port = open_flow(&mut network, 0);
    send_answer(&mut network, port);
    assert_eq!(take_datagrams(&mut network, 0).len(), 1);
    let address = net("10.8.0.11/32");
    assert!(address.contains(&IpAddr::from(inner(0))));
    let now = network.now;
    allow(&mut network, second, address);
    assert_eq!(network.engine.nat().flows(now).count(), 0);
    send_answer(&mut network, port);
    assert_eq!(take_datagrams(&mut network, 1).len(), 0);
    let next = open_flow(&mut network, 1);
    let blocks = network.take_blocks();
    let blocks = blocks.iter().map(|e| (e.first_port / BLOCK_SIZE, e.given));
    let blocks: Vec<_> = blocks.collect();
    let (first, second) = (port / BLOCK_SIZE, next / BLOCK_SIZE);
    assert_eq!(blocks, [(first, true), (first, false), (second, true)]);
}

#[test]
fn a_new_peer_takes_over_an_address_of_a_wider_prefix() {
    let (mut network, [first, _]) = two_clients(GlobalPolicy::default());
    let (own, now) = (net("10.8.0.11/32"), network.now);
    network.engine.tunnel_mut().allow(first, net("10.8.0.0/28"));
    network.engine.tunnel_mut().disallow(first, own);
    open_flow(&mut network, 0);
    assert_eq!(network.engine.nat().flows(now).count(), 1);
    let new = PeerSettings {
        name: "new".to_owned(),
        public_key: (&secret(99)).into(),
        preshared_key: None,
        allowed_ips: vec![own],
        endpoint: None,
        persistent_keepalive: None,
    };
    network.engine.add_peer(new, vec![lan()], now).unwrap();
    assert_eq!(network.engine.nat().flows(now).count(), 0);
}

#[test]
fn a_change_of_other_prefixes_keeps_flows() {
    let (mut network, [first, second]) = two_clients(GlobalPolicy::default());
    let port = open_flow(&mut network, 0);
    let now = network.now;
    allow(&mut network, second, net("10.20.0.0/16"));
    network.engine.remove_peer(second, now);
    send_answer(&mut network, port);
    assert_eq!(take_datagrams(&mut network, 0).len(), 1);
    network.engine.remove_peer(first, now);
    assert_eq!(network.engine.nat().flows(now).count(), 0);
}

#[test]
fn an_allowed_prefix_cannot_take_the_lan_address() {
    let (mut network, [_, second]) = two_clients(GlobalPolicy {
        no_nat: vec![net("10.1.0.0/16")],
        ..GlobalPolicy::default()
    });
    let own = net("192.168.77.2/32");
    assert!(own.contains(&IpAddr::from(LAN)));
    allow(&mut network, second, own);
    let port = open_flow(&mut network, 0);
    send_answer(&mut network, port);
    assert_eq!(take_datagrams(&mut network, 0).len(), 1);
    // To itself through the LAN address (RFC 4787 REQ-9).
    send_and_wait(
        &mut network,
        0,
        &udp((inner(0), 5000), (LAN, port), b"to myself"),
    );
    let hairpinned = take_datagrams(&mut network, 0);
    assert_eq!(
        hairpinned.len() + take_datagrams(&mut network, 1).len(),
        hairpinned.len()
    );
}
