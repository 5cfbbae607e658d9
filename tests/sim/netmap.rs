//! Mapped prefixes: clients know the LAN by other addresses than it has, in both families.
//!
//! Packets are compared as a whole with packets that are made from scratch, so their checksums are
//! compared too.

use crate::ip::{SYN, SYN_ACK, fragments, icmp, ping, tcp, udp, unreachable, with_ttl};
use crate::network::{Family, Faults, Network};
use crate::raw::{raw, send_and_wait, take_icmp_errors, take_lan_packets, take_received};
use crate::rules::lan;
use crate::smb::{assert_distinct_numbers_and_unchanged_data, transfer_streams};
use crate::{lan_rules, network_of_shards};
use proptest::prelude::*;
use smoltcp::wire::checksum;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vcgate_core::engine::{Destination, Filter, GlobalPolicy, Rule};
use vcgate_core::nat::{Forward, Protocol};
use vcgate_core::netmap::{NetMap, PrefixMap};
use vcgate_wire::ip::Headers;

/// Maps the LAN's networks of both families.
fn netmap() -> NetMap {
    let map = |lan: &str, client: &str| {
        PrefixMap::new(lan.parse().unwrap(), client.parse().unwrap()).unwrap()
    };
    let maps = [
        map("192.168.77.0/24", "10.77.1.0/24"),
        map("fd00:77::/64", "fd00:1077::/64"),
    ];
    NetMap::new(maps.to_vec()).unwrap()
}

fn policy() -> GlobalPolicy {
    GlobalPolicy {
        client_to_client: true,
        netmap: netmap(),
        ..GlobalPolicy::default()
    }
}

/// Returns a host of the LAN for which the test answers.
fn host(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 168, 77, 20]),
        Family::V6 => IpAddr::from([0xFD00, 0x77, 0, 0, 0, 0, 0, 0x20]),
    }
}

/// Returns the address by which clients know a host of the LAN.
fn known(lan: IpAddr) -> IpAddr {
    netmap().to_client(lan).unwrap()
}

fn mapped(rules: usize) -> Network {
    raw(policy(), &vec![lan_rules(); rules])
}

/// Takes the only packet that left for the LAN, and its source port.
fn take_one(network: &mut Network) -> (Vec<u8>, u16) {
    let [packet] = &take_lan_packets(network)[..] else {
        panic!("expected one packet");
    };
    let at = Headers::parse(packet).unwrap().l4;
    let port = u16::from_be_bytes([packet[at], packet[at + 1]]);
    (packet.clone(), port)
}

#[test]
fn a_client_reaches_the_lan_by_the_mapped_address() {
    for family in Family::BOTH {
        let mut network = mapped(1);
        let (client, lan, server) = ((family.inner(0), 5000), family.lan(), host(family));
        send_and_wait(
            &mut network,
            0,
            &udp(client, (known(server), 53), b"question"),
        );
        let (packet, port) = take_one(&mut network);
        assert_eq!(packet, udp((lan, port), (server, 53), b"question"));
        network.server_sends(udp((server, 53), (lan, port), b"answer"));
        network.wait(Duration::from_millis(100));
        let answer = udp((known(server), 53), client, b"answer");
        assert_eq!(take_received(&mut network, 0), [answer]);

        let syn = tcp(client, (known(server), 80), (SYN, 9, 0));
        send_and_wait(&mut network, 0, &syn);
        let (packet, port) = take_one(&mut network);
        assert_eq!(packet, tcp((lan, port), (server, 80), (SYN, 9, 0)));
        network.server_sends(tcp((server, 80), (lan, port), (SYN_ACK, 7, 10)));
        network.wait(Duration::from_millis(100));
        let accepted = tcp((known(server), 80), client, (SYN_ACK, 7, 10));
        assert_eq!(take_received(&mut network, 0), [accepted]);

        let echo = ping(client.0, known(server), 77, b"echo");
        send_and_wait(&mut network, 0, &echo);
        let [request] = &take_lan_packets(&mut network)[..] else {
            panic!("expected one echo");
        };
        let at = Headers::parse(request).unwrap().l4;
        let id = u16::from_be_bytes([request[at + 4], request[at + 5]]);
        assert_eq!(*request, ping(lan, server, id, b"echo"));
        let reply = |from, to, id: u16| {
            let kind = if family == Family::V4 { 0 } else { 129 };
            let [a, b] = id.to_be_bytes();
            icmp(from, to, [kind, 0], [a, b, 0, 1], b"echo")
        };
        network.server_sends(reply(server, lan, id));
        network.wait(Duration::from_millis(100));
        let expected = reply(known(server), client.0, 77);
        assert_eq!(take_received(&mut network, 0), [expected]);
    }
}

#[test]
fn errors_quote_the_addresses_that_their_receiver_knows() {
    for family in Family::BOTH {
        let mut network = mapped(1);
        let (client, lan, server) = ((family.inner(0), 5000), family.lan(), host(family));
        let sent = udp(client, (known(server), 53), b"question");
        send_and_wait(&mut network, 0, &sent);
        let (packet, port) = take_one(&mut network);
        // The server answers with an error.
        network.server_sends(unreachable(server, lan, &packet));
        network.wait(Duration::from_millis(100));
        let error = unreachable(known(server), client.0, &sent);
        assert_same_error(&take_received(&mut network, 0), &error);
        // The client does.
        let answer = udp((server, 53), (lan, port), b"answer");
        network.server_sends(answer.clone());
        network.wait(Duration::from_millis(100));
        let [received] = &take_received(&mut network, 0)[..] else {
            panic!("expected one answer");
        };
        let error = unreachable(client.0, known(server), received);
        send_and_wait(&mut network, 0, &error);
        assert_same_error(
            &take_lan_packets(&mut network),
            &unreachable(lan, server, &answer),
        );
        // The gateway does: the packet expires here.
        send_and_wait(&mut network, 0, &with_ttl(sent, 1));
        let [error] = &take_received(&mut network, 0)[..] else {
            panic!("expected one error");
        };
        let headers = Headers::parse(error).unwrap();
        let quote = Headers::parse(&error[headers.l4 + 8..]).unwrap();
        assert_eq!((headers.src, quote.dst), (family.gateway(), known(server)));
        assert_valid_icmp(error);
    }
}

fn assert_same_error(got: &[Vec<u8>], expected: &[u8]) {
    let [got] = got else {
        panic!("expected one error, got {}", got.len());
    };
    assert_eq!(got, expected);
    assert_valid_icmp(got);
}

fn assert_valid_icmp(packet: &[u8]) {
    let headers = Headers::parse(packet).unwrap();
    let l4 = &packet[headers.l4..];
    let pseudo = match headers.src {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => headers.pseudo_header(l4.len()),
    };
    assert_eq!(checksum::combine(&[pseudo, checksum::data(l4)]), 0xFFFF);
}

#[test]
fn all_fragments_of_a_datagram_are_mapped() {
    for family in Family::BOTH {
        for order in [[0, 1], [1, 0]] {
            let mut network = mapped(1);
            let (client, lan, server) = ((family.inner(0), 5000), family.lan(), host(family));
            let sent = fragments(client, (known(server), 53), 7);
            for at in order {
                send_and_wait(&mut network, 0, &sent[at]);
            }
            let left = take_lan_packets(&mut network);
            let ends = |p: &Vec<u8>| Headers::parse(p).map(|h| (h.src, h.dst)).unwrap();
            assert_eq!(
                left.iter().map(ends).collect::<Vec<_>>(),
                [(lan, server); 2]
            );
            let at = Headers::parse(&left[0]).unwrap().l4;
            let port = u16::from_be_bytes([left[0][at], left[0][at + 1]]);

            let answer = fragments((server, 53), (lan, port), 8);
            for at in order {
                network.server_sends(answer[at].clone());
            }
            network.wait(Duration::from_millis(100));
            let expected = fragments((known(server), 53), client, 8);
            assert_eq!(take_received(&mut network, 0), expected);
        }
    }
}

#[test]
fn the_lan_s_own_addresses_are_refused_and_hosts_behind_the_map_are_not_heard() {
    for family in Family::BOTH {
        let rules = vec![vec![Rule::all(Destination::Anywhere)]];
        let mut network = raw(policy(), &rules);
        let (client, server) = ((family.inner(0), 5000), host(family));
        let sent = udp(client, (server, 53), b"question");
        send_and_wait(&mut network, 0, &sent);
        assert!(take_lan_packets(&mut network).is_empty());
        let [error] = &take_received(&mut network, 0)[..] else {
            panic!("expected one error");
        };
        let quote = Headers::parse(error).unwrap().l4 + 8;
        assert_eq!(error[quote..], sent, "the client recognizes its packet");
        assert_valid_icmp(error);

        // A host whose real address clients take for another host's.
        let now = network.now;
        let to = SocketAddr::from((client.0, 80));
        let forward = Forward {
            protocol: Protocol::Udp,
            port: 80,
            to,
            lan: None,
        };
        network.engine.add_forward(forward, now).unwrap();
        network.server_sends(udp((known(server), 53), (family.lan(), 80), b"x"));
        network.wait(Duration::from_millis(100));
        assert_eq!(take_received(&mut network, 0), [] as [Vec<u8>; 0]);
        assert_eq!(network.engine.counters().address, 1);
    }
}

#[test]
fn a_forward_shows_the_mapped_address_of_its_peer() {
    for family in Family::BOTH {
        let mut network = mapped(2);
        let (lan, server) = (family.lan(), host(family));
        let (user, inner) = ((family.inner(0), 5000), (family.inner(1), 445));
        let forward = Forward {
            protocol: Protocol::Tcp,
            port: 445,
            to: inner.into(),
            lan: None,
        };
        let now = network.now;
        network.engine.add_forward(forward, now).unwrap();
        // From a host of the LAN.
        network.server_sends(tcp((server, 6000), (lan, 445), (SYN, 9, 0)));
        network.wait(Duration::from_millis(100));
        let syn = tcp((known(server), 6000), inner, (SYN, 9, 0));
        assert_eq!(take_received(&mut network, 1), [syn]);
        send_and_wait(
            &mut network,
            1,
            &tcp(inner, (known(server), 6000), (SYN_ACK, 7, 10)),
        );
        let (answer, _) = take_one(&mut network);
        assert_eq!(answer, tcp((lan, 445), (server, 6000), (SYN_ACK, 7, 10)));
        // From another client, by the LAN address as clients know it (hairpin).
        send_and_wait(&mut network, 0, &tcp(user, (known(lan), 445), (SYN, 99, 0)));
        let [syn] = &take_received(&mut network, 1)[..] else {
            panic!("expected one SYN");
        };
        let at = Headers::parse(syn).unwrap().l4;
        let port = u16::from_be_bytes([syn[at], syn[at + 1]]);
        let expected = tcp((known(lan), port), inner, (SYN, 99, 0));
        assert_eq!(*syn, with_ttl(expected, 63));
        send_and_wait(
            &mut network,
            1,
            &tcp(inner, (known(lan), port), (SYN_ACK, 7, 100)),
        );
        let accepted = tcp((known(lan), 445), user, (SYN_ACK, 7, 100));
        assert_eq!(take_received(&mut network, 0), [with_ttl(accepted, 63)]);
    }
}

#[test]
fn destinations_without_translation_are_mapped_too() {
    for family in Family::BOTH {
        let policy = GlobalPolicy {
            no_nat: ["192.168.77.0/24", "fd00:77::/64"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            ..policy()
        };
        let mut network = raw(policy, &[lan_rules()]);
        let (client, server) = ((family.inner(0), 5000), host(family));
        send_and_wait(
            &mut network,
            0,
            &udp(client, (known(server), 53), b"question"),
        );
        let (packet, _) = take_one(&mut network);
        assert_eq!(packet, udp(client, (server, 53), b"question"));
        network.server_sends(udp((server, 53), client, b"answer"));
        network.wait(Duration::from_millis(100));
        let answer = udp((known(server), 53), client, b"answer");
        assert_eq!(take_received(&mut network, 0), [answer]);
    }
}

#[test]
fn clients_reach_each_other_without_a_map() {
    let rules = vec![vec![lan(), Rule::all(Destination::Clients)]; 2];
    let mut network = raw(policy(), &rules);
    let (one, other) = ((Family::V4.inner(0), 5000), (Family::V4.inner(1), 53));
    let packet = udp(one, other, b"hello");
    send_and_wait(&mut network, 0, &packet);
    assert_eq!(take_received(&mut network, 1), [with_ttl(packet, 63)]);
}

#[test]
fn the_map_can_change_while_packets_flow() {
    let mut network = raw(GlobalPolicy::default(), &[lan_rules()]);
    let (client, server) = ((Family::V4.inner(0), 5000), host(Family::V4));
    send_and_wait(&mut network, 0, &udp(client, (server, 53), b"1"));
    assert_eq!(take_one(&mut network).0.last(), Some(&b'1'));
    network.engine.set_global_policy(policy());
    send_and_wait(&mut network, 0, &udp(client, (server, 53), b"2"));
    assert!(take_lan_packets(&mut network).is_empty());
    send_and_wait(&mut network, 0, &udp(client, (known(server), 53), b"3"));
    assert_eq!(take_one(&mut network).0.last(), Some(&b'3'));
    assert_eq!(
        network.engine.nat().flows(network.now).count(),
        1,
        "the flow stays"
    );
    network.engine.set_global_policy(GlobalPolicy::default());
    take_received(&mut network, 0);
    send_and_wait(&mut network, 0, &udp(client, (server, 53), b"4"));
    assert_eq!(take_one(&mut network).0.last(), Some(&b'4'));
    assert_eq!(take_icmp_errors(&mut network, 0), []);
}

#[test]
fn a_capture_shows_both_addresses() {
    let mut network = mapped(1);
    let (client, server) = ((Family::V4.inner(0), 5000), host(Family::V4));
    network.engine.start_capture(Filter {
        peer: Some("client0".into()),
        ..Filter::default()
    });
    send_and_wait(
        &mut network,
        0,
        &udp(client, (known(server), 53), b"question"),
    );
    let (_, port) = take_one(&mut network);
    network.server_sends(udp((server, 53), (Family::V4.lan(), port), b"answer"));
    network.wait(Duration::from_millis(100));
    let captured = network.engine.stop_capture();
    let comments: Vec<_> = captured
        .frames()
        .map(|(frame, _)| frame.metadata.to_string())
        .collect();
    let line = |arrow, mapped| {
        format!("client0 10.8.0.11:5000 {arrow} 192.168.77.20:53{mapped} as 192.168.77.2:{port}")
    };
    let mapped = " (for the client 10.77.1.20)";
    let expected = [
        line("→", mapped),
        line("→", mapped),
        line("←", ""),
        line("←", mapped),
    ];
    assert_eq!(comments, expected);
}

fn smb_streams(shards: u8, family: Family, seed: u64, faults: Faults) -> Vec<Vec<u8>> {
    let mut network = network_of_shards(shards, family, 3, vcgate_core::smb::Mode::Assign, seed);
    for number in 0..shards.into() {
        network.shard(number).set_global_policy(policy());
    }
    network.faults = faults;
    let to = (known(family.server()), 445).into();
    transfer_streams(&mut network, |net| &mut net.server, to, 3, 50_000)
}

#[test]
fn smb_users_of_a_mapped_server_get_distinct_numbers() {
    for shards in 1..4 {
        for family in Family::BOTH {
            let got = smb_streams(shards, family, 1, Faults::default());
            assert_distinct_numbers_and_unchanged_data(got);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn mapped_streams_survive_loss_reordering_and_duplication(
        shards in 1u8..4, seed in any::<u64>(),
        loss in 0.0..0.05, reorder in 0.0..0.3, duplicate in 0.0..0.1,
        v6 in any::<bool>(),
    ) {
        let faults = Faults { loss, reorder, duplicate };
        let family = if v6 { Family::V6 } else { Family::V4 };
        assert_distinct_numbers_and_unchanged_data(smb_streams(shards, family, seed, faults));
    }
}
