//! The rows of docs/nat-rows.md whose property could hold for one client and fail for many: each is
//! looked at for every client of a [`Crowd`], in both families, and no flow of the crowd may be affected.
//! [`WITHOUT_CROWD`] has the other rows, with the reason.

use crate::crowd::{CLIENTS, Crowd, assert_from_lan, one_each, ports, remote, tag, tag_number};
use crate::ip::{
    ACK, RST, SYN, SYN_ACK, fragment_in_two, icmp, of_protocol, ping, tcp, udp, unreachable,
    with_ttl,
};
use crate::network::{Family, MTU, source};
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;
use vcgate_core::nat::{Filtering, Protocol};
use vcgate_wire::ip::Headers;

/// The rows with a crowd here, and the property of a crowd that shows them.
macro_rules! rows {
    ($($rows:ident: $property:ident, $filtering:ident;)*) => {
        $(#[test]
        fn $rows() {
            for family in Family::BOTH {
                let mut crowd = Crowd::new(family, Filtering::$filtering);
                $property(&mut crowd);
                crowd.check();
            }
        })*

        const WITH_CROWD: &[&str] = &[$(stringify!($rows)),*];
    };
}

rows! {
    rfc4787_req1_req3_req4_req11_rfc5382_req1_req7: one_port_for_all_destinations, AddressDependent;
    rfc4787_req8_rfc5382_req3: strangers_reach_no_client, AddressDependent;
    rfc6888_req7: strangers_reach_every_client, EndpointIndependent;
    rfc4787_req9_rfc5382_req8_rfc5508_req7: clients_reach_each_other, EndpointIndependent;
    rfc4787_req5_req6_rfc5508_req2: idle_mappings_end_and_used_ones_do_not, AddressDependent;
    rfc4787_req12_rfc5382_req9_req10_rfc5508_req4_req6: errors_reach_their_client_and_end_nothing, AddressDependent;
    rfc5508_req5: errors_of_clients_reach_the_sender, AddressDependent;
    rfc4787_req13_rfc4443: packets_that_are_too_big_are_reported, AddressDependent;
    rfc5382_req2_req5_rfc7857: connections_open_and_outlive_a_reset, AddressDependent;
    rfc5508_req1: echoes_with_one_identifier, AddressDependent;
    rfc5508_req8_req10_rfc1812: every_client_gets_its_own_errors, AddressDependent;
    rfc6888_req4_req5: a_client_above_its_limits_affects_no_other, AddressDependent;
    rfc6888_req6: untranslated_fragments_follow_their_first, AddressDependent;
    rfc6888_req14: blocks_are_assigned_once_and_returned, AddressDependent;
    rfc6888_req15_rfc6056: ports_are_not_in_order, AddressDependent;
    rfc6864: fragments_have_different_identifications, AddressDependent;
}

/// Rows whose crowd is in another test, or for which it makes no sense.
const WITHOUT_CROWD: &[(&str, &str)] = &[
    (
        "4787-2",
        "scale::rfc4787_req2_three_thousand_clients_share_four_addresses",
    ),
    (
        "4787-3a",
        "nat::tests::ports and the lab: 480 clients for 1, 2 and 16 shards",
    ),
    (
        "4787-7",
        "a property of the configuration, which is checked before there is a client",
    ),
    (
        "4787-10",
        "each packet alone; the crowd compares the payload of each answer",
    ),
    (
        "4787-14",
        "nat::tests::fragments and peers: a crowd has fragmented datagrams at once",
    ),
    (
        "5382-4",
        "nat::tests::tcp::held_syns: SYNs of more hosts than one list holds",
    ),
    ("5382-6", "each packet alone, as 4787-10"),
    ("5508-3", "each packet alone"),
    ("5508-9", "a setting of the endpoint"),
    ("5508-11", "each packet alone"),
    ("6888-2", "as 4787-2"),
    (
        "6888-8",
        "nat::tests::ports: quarantines end early when no port is left",
    ),
    (
        "6888-11",
        "nat::tests::mapping and peers: ports are used up",
    ),
    ("6888-12", "the format of a log line"),
    (
        "6888-13",
        "nat::tests::mapping: every port of a shard is used",
    ),
    ("1122", "each packet alone"),
    ("1624", "each packet alone"),
    (
        "1858",
        "each packet alone, and the fragments of one datagram",
    ),
    ("3022", "each packet alone"),
    ("3128", "each packet alone"),
    ("5722", "the fragments of one datagram"),
    ("5961", "the state of one connection"),
    ("6946", "each packet alone"),
    ("7112", "each packet alone"),
    ("8200", "each packet alone"),
    ("MSS", "each packet alone"),
];

/// Every row of tests/rows.toml is in one of the two lists.
#[test]
fn every_row_has_a_crowd_or_a_reason() {
    let rows: BTreeMap<String, BTreeMap<String, String>> =
        toml::from_str(include_str!("../rows.toml")).unwrap();
    let rows: HashSet<String> = rows.into_values().flat_map(BTreeMap::into_keys).collect();
    let mut listed: HashSet<String> = WITHOUT_CROWD.iter().map(|(row, _)| (*row).into()).collect();
    for name in WITH_CROWD {
        let mut rfc = "";
        for word in name.split('_') {
            match (word.strip_prefix("rfc"), word.strip_prefix("req")) {
                (Some(number), _) => {
                    rfc = number;
                    if !rows.iter().any(|row| row.starts_with(&format!("{rfc}-"))) {
                        listed.insert(rfc.into());
                    }
                }
                (_, Some(number)) => assert!(listed.insert(format!("{rfc}-{number}")), "{name}"),
                _ => panic!("{name}"),
            }
        }
    }
    assert_eq!(listed, rows);
}

/// A datagram of a client with its tag.
fn datagram(crowd: &Crowd, client: usize, port: u16, to: (IpAddr, u16)) -> Vec<u8> {
    udp((crowd.inner(client), port), to, &tag(client))
}

/// A segment of a client with its tag as sequence number.
fn segment(crowd: &Crowd, client: usize, port: u16, to: (IpAddr, u16), flags: u8) -> Vec<u8> {
    tcp(
        (crowd.inner(client), port),
        to,
        (flags, tag_number(client), 1),
    )
}

/// Returns the port of the LAN address for each client.
fn lan_ports(packets: &[Vec<u8>]) -> Vec<u16> {
    packets.iter().map(|packet| ports(packet).0).collect()
}

/// Opens a mapping of each client for UDP and one for TCP; returns their ports.
fn opened(crowd: &mut Crowd, port: u16) -> [Vec<u16>; 2] {
    let to = (remote(crowd.family, 1), 8080);
    let by_udp = crowd.send(|crowd, client| datagram(crowd, client, port, to));
    let by_tcp = crowd.send(|crowd, client| segment(crowd, client, port, to, SYN));
    [lan_ports(&by_udp), lan_ports(&by_tcp)]
}

fn one_port_for_all_destinations(crowd: &mut Crowd) {
    for port in [5000, 5001] {
        let first = opened(crowd, port);
        for (number, service) in [(1, 8081), (2, 8080), (3, 53)] {
            crowd.stir();
            let to = (remote(crowd.family, number), service);
            let by_udp = crowd.send(|crowd, client| datagram(crowd, client, port, to));
            let by_tcp = crowd.send(|crowd, client| segment(crowd, client, port, to, SYN));
            assert_from_lan(crowd.family, &by_udp);
            assert_eq!([lan_ports(&by_udp), lan_ports(&by_tcp)], first);
        }
        for protocol in first {
            assert!(protocol.iter().all(|given| given % 2 == port % 2), "parity");
            let different: HashSet<u16> = protocol.iter().copied().collect();
            assert_eq!(different.len(), CLIENTS, "no port serves two clients");
        }
    }
}

fn strangers_reach_no_client(crowd: &mut Crowd) {
    let (lan, [by_udp, by_tcp]) = (crowd.family.lan(), opened(crowd, 5000));
    let from = |number, port| (remote(crowd.family, number), port);
    let (known, other) = (from(1, 999), from(2, 8080));
    let all = by_udp.iter().map(|port| udp(other, (lan, *port), b"x"));
    let syns = by_tcp
        .iter()
        .map(|port| tcp(other, (lan, *port), (SYN, 1, 0)));
    let packets = all.chain(syns).collect();
    assert!(crowd.receive(packets).iter().all(Vec::is_empty));
    crowd.stir();
    let answers = by_udp.iter().map(|port| udp(known, (lan, *port), b"x"));
    one_each(crowd.receive(answers.collect()));
}

fn strangers_reach_every_client(crowd: &mut Crowd) {
    let (lan, [by_udp, by_tcp]) = (crowd.family.lan(), opened(crowd, 5000));
    let stranger = (remote(crowd.family, 2), 8080);
    let datagrams = by_udp.iter().map(|port| udp(stranger, (lan, *port), b"x"));
    let received = one_each(crowd.receive(datagrams.collect()));
    assert!(received.iter().all(|packet| ports(packet) == (8080, 5000)));
    crowd.stir();
    let syns = by_tcp
        .iter()
        .map(|port| tcp(stranger, (lan, *port), (SYN, 1, 0)));
    one_each(crowd.receive(syns.collect()));
}

/// Each client sends to the next one, which is of another shard.
fn clients_reach_each_other(crowd: &mut Crowd) {
    let lan = crowd.family.lan();
    let next = |client: usize| (client + 1) % CLIENTS;
    for ([mapped, _], is_udp) in [(opened(crowd, 5000), true), (opened(crowd, 5002), false)] {
        let mapped = match is_udp {
            true => mapped,
            false => opened(crowd, 5002)[1].clone(),
        };
        let packets: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let to = (lan, mapped[next(client)]);
                let packet = match is_udp {
                    true => datagram(crowd, client, 5000, to),
                    false => segment(crowd, client, 5002, to, SYN),
                };
                (client, packet)
            })
            .collect();
        crowd.take_received();
        assert!(
            crowd.send_all(packets).is_empty(),
            "nothing leaves for the LAN"
        );
        let received = one_each(crowd.take_received());
        for (client, packet) in received.iter().enumerate() {
            let before = (client + CLIENTS - 1) % CLIENTS;
            assert_eq!(source(packet), lan);
            assert_eq!(ports(packet).0, mapped[before]);
        }
        crowd.stir();
        // Each receiver reports an error, which reaches the sender from the LAN address.
        let errors = received.iter().enumerate().map(|(client, packet)| {
            let error = unreachable(crowd.inner(client), lan, packet);
            (client, error)
        });
        let errors = errors.collect();
        crowd.take_received();
        crowd.send_all(errors);
        for (client, error) in one_each(crowd.take_received()).iter().enumerate() {
            assert_eq!(source(error), lan);
            assert_eq!(
                quoted_ports(error).0,
                [5002, 5000][usize::from(is_udp)],
                "{client}"
            );
        }
    }
}

fn destination(packet: &[u8]) -> IpAddr {
    Headers::parse(packet).unwrap().dst
}

/// Returns the ports in the quote of an ICMP error.
fn quoted_ports(error: &[u8]) -> (u16, u16) {
    let quote = &error[Headers::parse(error).unwrap().l4 + 8..];
    let l4 = match quote[0] >> 4 {
        4 => 20,
        _ => 40,
    };
    let port = |at: usize| u16::from_be_bytes([quote[at], quote[at + 1]]);
    (port(l4), port(l4 + 2))
}

fn idle_mappings_end_and_used_ones_do_not(crowd: &mut Crowd) {
    let (lan, to) = (crowd.family.lan(), (remote(crowd.family, 1), 8080));
    let [used, _] = opened(crowd, 5000);
    let idle = lan_ports(&crowd.send(|crowd, client| datagram(crowd, client, 5002, to)));
    let echo = (remote(crowd.family, 1), crowd.family);
    let pings = (0..CLIENTS).map(|client| (client, ping(crowd.inner(client), echo.0, 7, b"x")));
    let pings = crowd.send_all(pings.collect());
    assert_eq!(pings.len(), CLIENTS);
    let reply = |request: &Vec<u8>| {
        let kind = if echo.1 == Family::V4 { 0 } else { 129 };
        let l4 = Headers::parse(request).unwrap().l4;
        let id = [request[l4 + 4], request[l4 + 5], 0, 1];
        icmp(echo.0, lan, [kind, 0], id, b"x")
    };
    let replies: Vec<Vec<u8>> = pings.iter().map(reply).collect();
    crowd.network.wait(Duration::from_secs(58));
    one_each(crowd.receive(replies.clone()));
    for _ in 0..2 {
        crowd.network.wait(Duration::from_secs(115));
        let again = crowd.send(|crowd, client| datagram(crowd, client, 5000, to));
        assert_eq!(lan_ports(&again), used);
        // Packets of the LAN keep no mapping alive.
        crowd.receive(
            idle.iter()
                .map(|port| udp(to, (lan, *port), b"x"))
                .collect(),
        );
        crowd.check();
    }
    crowd.network.wait(Duration::from_secs(15));
    assert!(crowd.receive(replies).iter().all(Vec::is_empty), "5508-2");
    let late = |given: &[u16]| {
        given
            .iter()
            .map(|port| udp(to, (lan, *port), b"x"))
            .collect()
    };
    assert!(crowd.receive(late(&idle)).iter().all(Vec::is_empty));
    one_each(crowd.receive(late(&used)));
}

fn errors_reach_their_client_and_end_nothing(crowd: &mut Crowd) {
    let (lan, to) = (crowd.family.lan(), (remote(crowd.family, 1), 8080));
    let router = remote(crowd.family, 4);
    for port in [5000, 5002] {
        let sent = match port {
            5000 => crowd.send(|crowd, client| datagram(crowd, client, port, to)),
            _ => crowd.send(|crowd, client| segment(crowd, client, port, to, SYN)),
        };
        let errors: Vec<_> = sent
            .iter()
            .map(|packet| unreachable(router, lan, packet))
            .collect();
        for error in one_each(crowd.receive(errors.clone())) {
            assert_eq!(source(&error), router);
            assert_eq!(quoted_ports(&error), (port, 8080));
        }
        crowd.stir();
        // A storm of errors, some with quotes of no flow.
        for _ in 0..3 {
            crowd.receive(errors.clone());
        }
        let again = match port {
            5000 => crowd.send(|crowd, client| datagram(crowd, client, port, to)),
            _ => crowd.send(|crowd, client| segment(crowd, client, port, to, SYN)),
        };
        assert_eq!(lan_ports(&again), lan_ports(&sent));
    }
}

fn errors_of_clients_reach_the_sender(crowd: &mut Crowd) {
    let (lan, to) = (crowd.family.lan(), (remote(crowd.family, 1), 8080));
    let [mapped, _] = opened(crowd, 5000);
    let answers = mapped.iter().map(|port| udp(to, (lan, *port), b"answer"));
    let received = one_each(crowd.receive(answers.collect()));
    let errors = received.iter().enumerate();
    let errors =
        errors.map(|(client, packet)| (client, unreachable(crowd.inner(client), to.0, packet)));
    let sent = crowd.send_all(errors.collect());
    assert_from_lan(crowd.family, &sent);
    let quoted: HashSet<u16> = sent.iter().map(|error| quoted_ports(error).1).collect();
    assert_eq!(quoted, mapped.into_iter().collect());
}

fn packets_that_are_too_big_are_reported(crowd: &mut Crowd) {
    let (lan, to) = (crowd.family.lan(), (remote(crowd.family, 1), 8080));
    let [mapped, _] = opened(crowd, 5000);
    // Hosts of the LAN cause other errors, as many as they can, before and meanwhile.
    let (family, stranger) = (crowd.family, remote(crowd.family, 51));
    let noise = || (0..150).map(|_| of_protocol(47, stranger, family.lan(), &[0; 8]));
    crowd.network.wait(Duration::from_secs(2));
    crowd.receive(noise().collect());
    let payload = vec![7; usize::from(MTU)];
    let big = mapped.iter().map(|port| udp(to, (lan, *port), &payload));
    crowd.network.on_lan.clear();
    let all = noise().chain(big).collect();
    assert!(crowd.receive(all).iter().all(Vec::is_empty));
    let errors = std::mem::take(&mut crowd.network.on_lan).into_iter();
    let errors = errors.filter(|error| destination(error) == to.0);
    let reported: HashSet<u16> = errors.map(|error| quoted_ports(&error).1).collect();
    assert_eq!(reported, mapped.into_iter().collect());
}

fn connections_open_and_outlive_a_reset(crowd: &mut Crowd) {
    let (lan, to) = (crowd.family.lan(), (remote(crowd.family, 1), 8080));
    let [_, mapped] = opened(crowd, 5000);
    // The clients' segments acknowledge byte 1.
    let back = |flags, number| {
        let one = |(client, port): (usize, &u16)| {
            tcp(to, (lan, *port), (flags, number, tag_number(client) + 1))
        };
        mapped.iter().enumerate().map(one).collect::<Vec<_>>()
    };
    one_each(crowd.receive(back(SYN_ACK, 0)));
    crowd.send(|crowd, client| segment(crowd, client, 5000, to, ACK));
    // A simultaneous open of the same clients.
    let other = (to.0, 8081);
    let syns = crowd.send(|crowd, client| segment(crowd, client, 5002, other, SYN));
    let crossed = lan_ports(&syns)
        .into_iter()
        .map(|port| tcp(other, (lan, port), (SYN, 9, 0)));
    one_each(crowd.receive(crossed.collect()));
    crowd.send(|crowd, client| segment(crowd, client, 5002, other, SYN_ACK));
    // Longer than an opening connection lives.
    for _ in 0..2 {
        crowd.network.wait(Duration::from_secs(130));
        crowd.check();
    }
    one_each(crowd.receive(back(ACK, 1)));
    one_each(crowd.receive(back(RST, 1)));
    crowd.stir();
    let live = |crowd: &Crowd| {
        let shards = crowd.network.shards();
        let flows = shards.flat_map(|shard| shard.nat().flows(crowd.network.now));
        flows
            .filter(|flow| flow.protocol == Protocol::Tcp && flow.remote.port() == to.1)
            .count()
    };
    crowd.network.wait(Duration::from_secs(230));
    assert_eq!(live(crowd), CLIENTS);
    crowd.network.wait(Duration::from_secs(15));
    assert_eq!(live(crowd), 0, "4 minutes after the reset");
}

fn echoes_with_one_identifier(crowd: &mut Crowd) {
    let (lan, family) = (crowd.family.lan(), crowd.family);
    let mut given = Vec::new();
    for number in [1, 2] {
        let host = remote(family, number);
        let pings =
            (0..CLIENTS).map(|client| (client, ping(crowd.inner(client), host, 7, &tag(client))));
        let sent = crowd.send_all(pings.collect());
        let mut ids: Vec<(u32, [u8; 2])> = Vec::new();
        let mut replies = Vec::new();
        for packet in &sent {
            let l4 = Headers::parse(packet).unwrap().l4;
            let id = [packet[l4 + 4], packet[l4 + 5]];
            let payload = &packet[l4 + 8..];
            ids.push((u32::from_be_bytes(payload.try_into().unwrap()), id));
            let kind = if family == Family::V4 { 0 } else { 129 };
            replies.push(icmp(host, lan, [kind, 0], [id[0], id[1], 0, 1], payload));
        }
        assert_eq!(ids.len(), CLIENTS);
        ids.sort_unstable();
        given.push(ids);
        crowd.stir();
        for (client, reply) in one_each(crowd.receive(replies)).iter().enumerate() {
            let l4 = Headers::parse(reply).unwrap().l4;
            assert_eq!(reply[l4 + 4..l4 + 6], [0, 7]);
            assert_eq!(reply[l4 + 8..], tag(client), "client {client}");
        }
    }
    assert_eq!(given[0], given[1], "whatever the destination");
    let ids: HashSet<[u8; 2]> = given[0].iter().map(|(_, id)| *id).collect();
    assert_eq!(ids.len(), CLIENTS);
}

fn every_client_gets_its_own_errors(crowd: &mut Crowd) {
    let (family, to) = (crowd.family, (remote(crowd.family, 1), 8080));
    // Each client traces a route at the same time.
    let traced =
        (0..CLIENTS).map(|client| (client, with_ttl(datagram(crowd, client, 5000, to), 1)));
    let traced = traced.collect();
    crowd.take_received();
    assert!(crowd.send_all(traced).is_empty());
    let expired = one_each(crowd.take_received());
    assert!(
        expired
            .iter()
            .all(|error| source(error) == family.gateway())
    );
    // Each client uses all ports that it may have: each gets the error of its own packet.
    let mut refused = HashSet::new();
    for round in 0..12 {
        let wanted =
            (0..CLIENTS).flat_map(|client| (0..5).map(move |n| (client, 30_000 + round * 5 + n)));
        let packets: Vec<_> = wanted
            .map(|(client, port)| (client, datagram(crowd, client, port, to)))
            .collect();
        crowd.take_received();
        crowd.send_all(packets);
        for (client, errors) in crowd.take_received().iter().enumerate() {
            for error in errors {
                assert_eq!(source(error), family.gateway());
                assert!(quoted_ports(error).0 >= 30_000);
                refused.insert(client);
            }
        }
    }
    assert_eq!(refused.len(), CLIENTS, "no port is left for each client");
}

fn a_client_above_its_limits_affects_no_other(crowd: &mut Crowd) {
    let to = (remote(crowd.family, 1), 8080);
    let greedy = 0;
    // Sessions: one mapping, many remote endpoints. Ports: as many as it gets.
    let sessions = (0..600).map(|n| (greedy, datagram(crowd, greedy, 5000, (to.0, 1000 + n))));
    let sessions = crowd.send_all(sessions.collect());
    assert!(sessions.len() < 256, "{} sessions", sessions.len());
    let wanted = (0..600).map(|n| (greedy, datagram(crowd, greedy, 30_000 + n, to)));
    crowd.send_all(wanted.collect());
    let others = (1..CLIENTS).map(|client| (client, datagram(crowd, client, 5000, to)));
    let sent = crowd.send_all(others.collect());
    assert_eq!(sent.len(), CLIENTS - 1, "each other client has a new flow");
}

/// As datagrams of a size that no tunnel carries, to a network for which translation is off.
fn untranslated_fragments_follow_their_first(crowd: &mut Crowd) {
    let branch: IpAddr = match crowd.family {
        Family::V4 => [10, 1, 0, 5].into(),
        Family::V6 => "fd00:1::5".parse().unwrap(),
    };
    let fragments: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let whole = datagram_of(crowd, client, branch, 64);
            (client, fragment_in_two(&whole, 32, 77))
        })
        .collect();
    crowd.stir();
    for index in [0, 1] {
        let packets = fragments
            .iter()
            .map(|(client, both)| (*client, both[index].clone()));
        let sent = crowd.send_all(packets.collect());
        let senders: HashSet<IpAddr> = sent.iter().map(|packet| source(packet)).collect();
        assert_eq!(senders.len(), CLIENTS, "fragment {index}");
    }
}

fn datagram_of(crowd: &Crowd, client: usize, to: IpAddr, len: usize) -> Vec<u8> {
    let mut payload = vec![7; len];
    payload[..4].copy_from_slice(&tag(client));
    udp((crowd.inner(client), 5000), (to, 9), &payload)
}

fn blocks_are_assigned_once_and_returned(crowd: &mut Crowd) {
    opened(crowd, 5000);
    crowd.stir();
    let mut owners: BTreeMap<u16, IpAddr> = BTreeMap::new();
    let mut lines = 0;
    let mut follow = |crowd: &mut Crowd| {
        for event in crowd.network.take_blocks() {
            lines += 1;
            for port in event.first_port..=event.last_port {
                match event.given {
                    true => assert!(owners.insert(port, event.client).is_none(), "{event:?}"),
                    false => assert_eq!(owners.remove(&port), Some(event.client), "{event:?}"),
                }
            }
        }
        (lines, owners.clone())
    };
    let (lines, owned) = follow(crowd);
    for client in 0..CLIENTS {
        let all = crowd.given_to(client).iter();
        assert!(
            all.clone()
                .all(|port| owned.get(port) == Some(&crowd.inner(client)))
        );
    }
    let mappings = crowd.given().count();
    assert!(lines < mappings, "{lines} lines for {mappings} ports");
    let owned = owned.len();
    assert!(owned > mappings, "{owned}");
}

fn ports_are_not_in_order(crowd: &mut Crowd) {
    for client in 0..CLIENTS {
        let given = crowd.given_to(client);
        let next = given
            .windows(2)
            .filter(|pair| pair[1] == pair[0] + 1)
            .count();
        assert!(next < given.len() / 2, "client {client}: {given:?}");
    }
}

fn fragments_have_different_identifications(crowd: &mut Crowd) {
    let host = remote(crowd.family, 1);
    let mut packets = Vec::new();
    for client in 0..CLIENTS {
        let both = fragment_in_two(&datagram_of(crowd, client, host, 64), 32, 77);
        packets.extend(both.map(|fragment| (client, fragment)));
    }
    let sent = crowd.send_all(packets);
    let mut by_id: BTreeMap<u32, usize> = BTreeMap::new();
    for packet in &sent {
        let id = match crowd.family {
            Family::V4 => u16::from_be_bytes([packet[4], packet[5]]).into(),
            Family::V6 => u32::from_be_bytes(packet[44..48].try_into().unwrap()),
        };
        *by_id.entry(id).or_default() += 1;
    }
    assert_eq!(by_id.len(), CLIENTS, "{by_id:?}");
    assert!(by_id.values().all(|fragments| *fragments == 2));
}
