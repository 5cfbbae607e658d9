//! Standard clients over hours, and unauthenticated senders.

use crate::ip::{icmp, ping, udp, udp_parts};
use crate::network::{
    Family, GATEWAY, GATEWAY6, INITIATION, LAN, Network, SERVER, SERVER6, inner, inner6, source,
};
use crate::{network, network_of, network_of_mtu};
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use vcgate_core::smb::Mode;

/// Sends one numbered datagram to the server, which answers all that arrived.
fn exchange(network: &mut Network, number: u64) {
    let from = (inner(0), 4000);
    let packet = udp(from, (SERVER, 5000), &number.to_be_bytes());
    network.client_sends(0, &packet);
    network.wait(Duration::from_millis(500));
    for packet in std::mem::take(&mut network.on_lan) {
        let Some((port, 5000, payload)) = udp_parts(&packet) else {
            continue;
        };
        let answer = udp((SERVER, 5000), (LAN, port), payload);
        network.server_sends(answer);
    }
    network.wait(Duration::from_millis(500));
}

fn numbers(packets: &[Vec<u8>]) -> Vec<u64> {
    let parse = |p: &Vec<u8>| Some(u64::from_be_bytes(udp_parts(p)?.2.try_into().ok()?));
    packets.iter().filter_map(parse).collect()
}

#[test]
fn sessions_rekey_for_six_hours_without_a_lost_packet() {
    let mut network = network(1, Mode::Assign, 1);
    network.clients[0].raw = true;
    network.keep_lan = true;
    let count = 6 * 3600;
    for number in 0..count {
        exchange(&mut network, number);
    }
    network.wait(Duration::from_secs(1));
    assert_eq!(
        numbers(&network.clients[0].received),
        Vec::from_iter(0..count)
    );
    // REKEY_AFTER_TIME is 120 s: the test is only valid if there were about 180 sessions.
    let peer = network.engine.tunnel().peers().next().unwrap();
    let age = network.now - peer.last_handshake.unwrap();
    assert!(
        age < Duration::from_secs(130),
        "the last handshake is {age:?} old"
    );
}

#[test]
fn packets_queued_for_a_session_leave_before_later_packets() {
    let mut network = network(1, Mode::Assign, 12);
    network.clients[0].raw = true;
    network.keep_lan = true;
    network.client_sends(0, &udp((inner(0), 4000), (SERVER, 5000), b"hello"));
    network.wait(Duration::from_secs(1));
    let (port, _, _) = udp_parts(&network.on_lan.remove(0)).unwrap();
    // The session expires (REJECT_AFTER_TIME) and is not renewed; the flow remains.
    network.faults.loss = 1.0;
    network.wait(Duration::from_secs(185));
    network.faults.loss = 0.0;
    network.clients[0].received.clear();
    let count = 100;
    let send = |network: &mut Network, number: u64| {
        network.server_sends(udp((SERVER, 5000), (LAN, port), &number.to_be_bytes()));
    };
    send(&mut network, 0);
    // The client's response arrives together with more packets than one GSO send can carry.
    network.wait(Duration::from_millis(20));
    assert!(network.clients[0].received.is_empty());
    (1..count).for_each(|number| send(&mut network, number));
    network.wait(Duration::from_secs(1));
    assert_eq!(
        numbers(&network.clients[0].received),
        Vec::from_iter(0..count)
    );
}

#[test]
fn a_packet_that_does_not_fit_into_a_datagram_is_counted() {
    let mut network = network_of_mtu(u16::MAX, 13);
    network.keep_lan = true;
    network.client_sends(0, &udp((inner(0), 4000), (SERVER, 5000), b"hello"));
    network.wait(Duration::from_secs(1));
    let (port, _, _) = udp_parts(&network.on_lan.remove(0)).unwrap();
    network.server_sends(udp((SERVER, 5000), (LAN, port), &[0; 65_480]));
    network.wait(Duration::from_secs(1));
    assert_eq!(network.engine.counters().too_long, 1);
}

#[test]
fn after_a_suspend_clients_reconnect_with_their_first_handshake() {
    for pause in [20, 45, 60, 85, 100, 130] {
        let mut network = network(6, Mode::Assign, pause);
        network.keep_lan = true;
        network.clients.iter_mut().for_each(|c| c.raw = true);
        let send_requests = |network: &mut Network, number: u64| {
            for client in 0..6 {
                let from = (inner(client), 4000);
                let packet = udp(from, (SERVER, 5000), &number.to_be_bytes());
                network.client_sends(client, &packet);
            }
        };
        for number in 0..4 {
            send_requests(&mut network, number);
            network.wait(Duration::from_millis(500));
            for packet in std::mem::take(&mut network.on_lan) {
                let (port, _, payload) = udp_parts(&packet).unwrap();
                network.server_sends(udp((SERVER, 5000), (LAN, port), payload));
            }
            network.wait(Duration::from_millis(500));
        }
        // The pause starts before the last packets from the LAN are answered.
        network.wait(Duration::from_millis(100));
        network.paused = true;
        for second in 0..pause {
            send_requests(&mut network, 100 + second);
            network.wait(Duration::from_secs(1));
        }
        network.messages = Default::default();
        network.resume();
        network.wait(Duration::from_secs(1));
        network.on_lan.clear();
        send_requests(&mut network, 1000);
        network.wait(Duration::from_secs(1));
        let arrived = numbers(&network.on_lan);
        assert_eq!(arrived, [1000; 6], "pause {pause}");
        let [ours, theirs] = &network.messages;
        let count = |messages: &[u8]| messages.iter().filter(|m| **m == INITIATION).count();
        assert_eq!(count(ours), 0, "pause {pause}");
        // A client that gave up after 90 s starts again with its next packet.
        assert!(count(theirs) <= 6, "pause {pause}");
    }
}

#[test]
fn traffic_continues_after_an_idle_hour() {
    let mut network = network(1, Mode::Assign, 2);
    network.clients[0].raw = true;
    network.keep_lan = true;
    exchange(&mut network, 1);
    network.wait(Duration::from_secs(3600));
    exchange(&mut network, 2);
    assert_eq!(numbers(&network.clients[0].received), [1, 2]);
}

#[test]
fn pings_to_the_gateway_and_to_the_server_are_answered() {
    let mut network = network(1, Mode::Assign, 3);
    network.clients[0].raw = true;
    network.keep_lan = true;
    network.client_sends(0, &ping(inner(0), GATEWAY, 7, b"gateway"));
    network.client_sends(0, &ping(inner(0), SERVER, 8, b"server"));
    network.wait(Duration::from_secs(1));
    let sources: HashSet<_> = network.clients[0]
        .received
        .iter()
        .map(|p| network::source(p))
        .collect();
    assert_eq!(sources, HashSet::from([GATEWAY.into(), SERVER.into()]));
    assert_eq!(network.on_lan.len(), 1);
    assert_eq!(network::source(&network.on_lan[0]), LAN);
}

#[test]
fn a_client_cannot_use_the_address_of_another_client() {
    let mut network = network(2, Mode::Assign, 4);
    network.keep_lan = true;
    network.client_sends(0, &udp((inner(1), 1), (SERVER, 5000), b"not mine"));
    network.client_sends(0, &udp((inner(0), 1), (SERVER, 5000), b"mine"));
    network.wait(Duration::from_secs(1));
    let payloads: Vec<_> = network
        .on_lan
        .iter()
        .filter_map(|p| udp_parts(p))
        .map(|p| p.2)
        .collect();
    assert_eq!(payloads, [b"mine"]);
}

#[test]
fn packets_without_a_rule_are_rejected_with_an_icmp_error() {
    let mut network = network(2, Mode::Assign, 5);
    network.clients[0].raw = true;
    network.keep_lan = true;
    network.client_sends(
        0,
        &udp((inner(0), 1), (Ipv4Addr::new(198, 51, 100, 9), 53), b"x"),
    );
    network.client_sends(0, &udp((inner(0), 1), (inner(1), 53), b"to a neighbour"));
    network.wait(Duration::from_secs(1));
    assert!(network.on_lan.is_empty());
    assert_eq!(network.engine.counters().denied, 2);
    // RFC 1812 section 5.2.7.1: destination unreachable (3), administratively prohibited (13).
    let errors: Vec<_> = network.clients[0]
        .received
        .iter()
        .map(|p| (p[20], p[21]))
        .collect();
    assert_eq!(errors, [(3, 13), (3, 13)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_datagram_and_no_lan_packet_panics(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
        kinds in prop::collection::vec(1u8..5, 8),
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
    ) {
        let mut network = network(1, Mode::Assign, 6);
        let stranger: SocketAddr = "198.51.100.66:1".parse().unwrap();
        for (mut bytes, kind) in datagrams.into_iter().zip(kinds) {
            // Half of them start with a valid WireGuard message type.
            if let [a, b, c, d, ..] = &mut bytes[..] && *a & 1 == 0 {
                (*a, *b, *c, *d) = (kind, 0, 0, 0);
            }
            network.datagram(stranger, bytes);
        }
        for mut bytes in packets {
            if let Some(first) = bytes.first_mut() { *first = 0x45; }
            network.server_sends(bytes.clone());
            network.client_sends(0, &bytes);
        }
        network.wait(Duration::from_secs(1));
        prop_assert_eq!(network.engine.tunnel().peers().count(), 1);
    }
}

#[test]
fn neighbour_discovery_and_multicast_of_clients_never_reach_the_lan() {
    let mut network = network_of(Family::V6, 1, Mode::Assign, 9);
    network.keep_lan = true;
    network.clients[0].raw = true;
    let client = inner6(0);
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    let never: [(Ipv6Addr, Ipv6Addr, u8); 5] = [
        (client, "ff02::1".parse().unwrap(), 128),
        (client, "ff02::2".parse().unwrap(), 133),
        (client, SERVER6, 135),
        (client, SERVER6, 136),
        (link_local, SERVER6, 128),
    ];
    for (from, to, kind) in never {
        let message = icmp(from.into(), to.into(), [kind, 0], [0; 4], b"");
        network.client_sends(0, &message);
    }
    network.wait(Duration::from_secs(1));
    assert!(network.on_lan.is_empty());
    network.client_sends(0, &ping(client, SERVER6, 1, b""));
    network.client_sends(0, &ping(client, GATEWAY6, 1, b""));
    network.wait(Duration::from_secs(1));
    assert_eq!(network.on_lan.len(), 1);
    let got: Vec<_> = network.clients[0]
        .received
        .iter()
        .map(|p| (source(p), p[40]))
        .collect();
    assert_eq!(got, [(GATEWAY6.into(), 129), (SERVER6.into(), 129)]);
}
