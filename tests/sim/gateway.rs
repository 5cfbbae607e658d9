//! Services of the gateway machine at its own tunnel address. The host's kernel is at the same side
//! as the LAN.

use crate::ip::{SYN, SYN_ACK, fragments, ping, tcp, udp, unreachable, with_ttl};
use crate::network::{GATEWAY, Network, SERVER, inner};
use crate::raw::{raw, send_and_wait, take_icmp_errors, take_lan_packets, take_received};
use crate::rules::{lan, rule};
use smoltcp::wire::IpProtocol;
use std::net::Ipv4Addr;
use std::time::Duration;
use vcgate_core::engine::{Destination, GlobalPolicy, Rule};
use vcgate_core::ids::PeerId;

const NOTHING: [Vec<u8>; 0] = [];

/// A network of two clients; client 0 may use SSH and DNS at the gateway.
fn network() -> Network {
    let ssh = rule(Destination::Gateway, IpProtocol::Tcp, 22);
    let dns = rule(Destination::Gateway, IpProtocol::Udp, 53);
    let mut network = raw(
        GlobalPolicy::default(),
        &[
            vec![lan(), ssh, dns],
            vec![Rule::all(Destination::Anywhere)],
        ],
    );
    take_lan_packets(&mut network);
    network
}

/// Sends a packet of the kernel and returns those that a client receives.
fn from_kernel(network: &mut Network, client: usize, packet: &[u8]) -> Vec<Vec<u8>> {
    network.server_sends(packet.to_vec());
    network.wait(Duration::from_millis(100));
    take_received(network, client)
}

fn syn(client: usize, port: u16) -> Vec<u8> {
    tcp((inner(client), 4000), (GATEWAY, port), (SYN, 1, 0))
}

#[test]
fn an_allowed_service_is_the_kernels_and_sees_the_clients_address() {
    let mut network = network();
    let request = with_ttl(syn(0, 22), 1);
    send_and_wait(&mut network, 0, &request);
    assert_eq!(take_lan_packets(&mut network), [request]);
    assert_eq!(take_received(&mut network, 0), NOTHING);
    let answer = tcp((GATEWAY, 22), (inner(0), 4000), (SYN_ACK, 9, 2));
    assert_eq!(from_kernel(&mut network, 0, &answer), [answer]);
}

#[test]
fn other_services_are_refused_and_pings_are_answered_without_the_kernel() {
    let mut network = network();
    for (client, port) in [(0, 23), (1, 22)] {
        send_and_wait(&mut network, client, &syn(client, port));
        let [answer] = &take_received(&mut network, client)[..] else {
            panic!("no answer");
        };
        assert_eq!(answer[33] & 0x04, 0x04, "RST");
    }
    let query = udp((inner(1), 4000), (GATEWAY, 53), b"?");
    send_and_wait(&mut network, 1, &query);
    assert_eq!(take_icmp_errors(&mut network, 1), [(GATEWAY.into(), 3, 3)]);
    send_and_wait(&mut network, 0, &ping(inner(0), GATEWAY, 1, b"x"));
    assert_eq!(take_icmp_errors(&mut network, 0), [(GATEWAY.into(), 0, 0)]);
    assert_eq!(take_lan_packets(&mut network), NOTHING);
}

#[test]
fn the_kernel_reaches_a_client_only_from_an_allowed_service() {
    let mut network = network();
    for packet in [
        tcp((GATEWAY, 23), (inner(0), 4000), (SYN_ACK, 9, 2)),
        udp((GATEWAY, 54), (inner(0), 4000), b"x"),
        ping(GATEWAY, inner(0), 1, b""),
        // A host of the LAN has no access to a client's own address.
        tcp((SERVER, 22), (inner(0), 4000), (SYN, 9, 0)),
    ] {
        assert_eq!(from_kernel(&mut network, 0, &packet), NOTHING);
    }
    let answer = tcp((GATEWAY, 22), (inner(1), 4000), (SYN_ACK, 9, 2));
    assert_eq!(from_kernel(&mut network, 1, &answer), NOTHING);
    // With a rule for all services the gateway may also ping the client, whose reply arrives.
    let now_all = vec![Rule::all(Destination::Gateway)];
    network.engine.set_rules(PeerId(0), now_all);
    let request = ping(GATEWAY, inner(0), 1, b"");
    assert_eq!(from_kernel(&mut network, 0, &request), [request]);
    let mut reply = ping(inner(0), GATEWAY, 1, b"");
    (reply[20], reply[22]) = (0, reply[22] + 8);
    send_and_wait(&mut network, 0, &reply);
    assert_eq!(take_lan_packets(&mut network), [reply]);
}

#[test]
fn errors_about_allowed_packets_pass_in_both_directions() {
    let mut network = network();
    let answer = udp((GATEWAY, 53), (inner(0), 4000), b"answer");
    let error = unreachable(inner(0), GATEWAY, &answer);
    send_and_wait(&mut network, 0, &error);
    assert_eq!(take_lan_packets(&mut network), [error]);
    let others = udp((GATEWAY, 53), (inner(1), 4000), b"answer");
    for forged in [
        unreachable(inner(0), GATEWAY, &others),
        unreachable(inner(0), GATEWAY, &udp((GATEWAY, 54), (inner(0), 1), b"")),
    ] {
        send_and_wait(&mut network, 0, &forged);
        assert_eq!(take_lan_packets(&mut network), NOTHING);
    }
    let query = udp((inner(0), 4000), (GATEWAY, 53), b"?");
    let closed = unreachable(GATEWAY, inner(0), &query);
    assert_eq!(from_kernel(&mut network, 0, &closed), [closed]);
    let query = udp((inner(0), 4000), (GATEWAY, 54), b"?");
    let closed = unreachable(GATEWAY, inner(0), &query);
    assert_eq!(from_kernel(&mut network, 0, &closed), NOTHING);
}

#[test]
fn errors_of_the_kernel_about_untranslated_packets_still_arrive() {
    let policy = GlobalPolicy {
        no_nat: vec!["192.168.77.0/24".parse().unwrap()],
        ..GlobalPolicy::default()
    };
    let mut network = raw(policy, &[vec![lan()]]);
    let packet = udp((inner(0), 4000), (SERVER, 9), b"x");
    let error = unreachable(GATEWAY, inner(0), &packet);
    assert_eq!(from_kernel(&mut network, 0, &error).len(), 1);
}

#[test]
fn fragments_of_an_allowed_service_pass_in_both_directions() {
    let mut network = network();
    let query = fragments((inner(0), 4000), (GATEWAY, 53), 7);
    for fragment in &query {
        send_and_wait(&mut network, 0, fragment);
    }
    assert_eq!(take_lan_packets(&mut network), query);
    let answer = fragments((GATEWAY, 53), (inner(0), 4000), 8);
    for fragment in &answer {
        let arrived = from_kernel(&mut network, 0, fragment);
        assert_eq!(arrived, std::slice::from_ref(fragment));
    }
    // A client without a rule sends none, first or later.
    let query = fragments((inner(1), 4000), (GATEWAY, 53), 9);
    for fragment in &query {
        send_and_wait(&mut network, 1, fragment);
    }
    assert_eq!(take_lan_packets(&mut network), NOTHING);
}

#[test]
fn answers_reach_the_shard_of_their_client() {
    let rules = vec![vec![Rule::all(Destination::Gateway)]; 4];
    let mut network = crate::ruled_network_of_shards(3, &rules);
    network
        .clients
        .iter_mut()
        .for_each(|client| client.raw = true);
    for client in 0..rules.len() {
        network.client_sends(client, &ping(inner(client), GATEWAY, 1, b""));
    }
    network.wait(Duration::from_secs(1));
    for client in 0..rules.len() {
        take_received(&mut network, client);
        let to: Ipv4Addr = inner(client);
        let answer = udp((GATEWAY, 53), (to, 4000), b"answer");
        assert_eq!(from_kernel(&mut network, client, &answer), [answer]);
    }
}
