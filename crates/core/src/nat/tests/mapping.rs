//! The requirements of RFC 4787 (UDP) and RFC 6888.

use super::*;
use std::collections::HashSet;

fn rfc4787_req1_rfc5382_req1_endpoint_independent_mapping<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    for port in [7053, 7054, 9999] {
        for dst in [F::SERVER, F::OTHER] {
            let udp = w.send(udp(at(F::ALICE, 5000), at(dst, port), b"x"));
            let tcp = w.send(tcp(
                at(F::ALICE, 5000),
                at(dst, port),
                (SYN, 1, 0),
                &[],
                b"",
            ));
            let (same_udp, same_tcp) = {
                let mut flows = w.nat.flows(w.now);
                (
                    flows.find(|f| f.protocol == Protocol::Udp).unwrap().port,
                    w.nat
                        .flows(w.now)
                        .find(|f| f.protocol == Protocol::Tcp)
                        .unwrap()
                        .port,
                )
            };
            assert_eq!((udp, tcp), (same_udp, same_tcp));
        }
    }
    assert_eq!(w.nat.flows(w.now).count(), 12);
}

fn rfc4787_req3_rfc5382_req7_no_port_overloading<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut given = HashSet::new();
    for n in 0..20 {
        for port in 0..50 {
            let src = at(F::client(1, n), 4000 + port);
            assert!(given.insert(w.send(udp(src, at(F::SERVER, 7053), b"x"))));
        }
    }
}

fn rfc4787_req3a_rfc4787_req4_port_class_and_parity_are_kept<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    for port in [1, 2, 500, 1023, 1024, 1025, 40000, 65535] {
        let arrived = w.send(udp(at(F::ALICE, port), at(F::SERVER, 7053), b"x"));
        assert_eq!(
            (arrived < 1024, arrived % 2),
            (port < 1024, port % 2),
            "{port} became {arrived}"
        );
    }
}

fn rfc4787_req8_rfc5382_req3_filtering_is_address_dependent_by_default<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let client = at(F::ALICE, 5000);
    let port = w.send(udp(client, at(F::SERVER, 7053), b"x"));
    assert_eq!(
        w.receive(udp(at(F::SERVER, 7053), at(F::LAN, port), b"y")),
        Some(client)
    );
    assert_eq!(
        w.receive(udp(at(F::SERVER, 999), at(F::LAN, port), b"y")),
        Some(client)
    );
    assert_eq!(
        w.receive(udp(at(F::OTHER, 7053), at(F::LAN, port), b"y")),
        None
    );
    assert_eq!(w.nat.counters().dropped(Reason::Filtered), 1);
    // Another port of a known address opens no session.
    assert_eq!(w.nat.flows(w.now).count(), 1);
}

fn rfc4787_req8_rfc5382_req3_rfc6888_req7_filtering_can_be_endpoint_independent<
    F: AddressFamily,
>() {
    let filtering = Filtering::EndpointIndependent;
    let mut w = World::<F>::new(Settings {
        filtering,
        ..settings()
    });
    let client = at(F::ALICE, 5000);
    let port = w.send(udp(client, at(F::SERVER, 7053), b"x"));
    assert_eq!(
        w.receive(udp(at(F::OTHER, 7053), at(F::LAN, port), b"y")),
        Some(client)
    );
    let port = w.send(tcp(client, at(F::SERVER, 445), (SYN, 1, 0), &[], b""));
    let syn = tcp(at(F::OTHER, 999), at(F::LAN, port), (SYN, 9, 0), &[], b"");
    assert_eq!(w.receive(syn), Some(client));
    let answer = tcp(client, at(F::OTHER, 999), (SYN | ACK, 1, 10), &[], b"");
    assert_eq!(w.send(answer), port);
}

fn rfc4787_req9_rfc5382_req8_hairpinning_shows_the_external_source<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let (alice, bob) = (at(F::ALICE, 5000), at(F::BOB, 6000));
    let alice_port = w.send(udp(alice, at(F::SERVER, 7053), b"x"));
    let bob_port = w.send(udp(bob, at(F::SERVER, 7053), b"x"));
    // Bob has not sent to Alice's LAN endpoint yet: his filter drops her packet.
    let mut probe = udp(alice, at(F::LAN, bob_port), b"hi");
    assert_eq!(w.outbound(&mut probe), Outcome::Drop(Reason::Filtered));
    let mut answer = udp(bob, at(F::LAN, alice_port), b"ho");
    assert!(matches!(w.outbound(&mut answer), Outcome::Hairpin(_)));
    assert_checksums(&answer);
    assert_eq!(ends(&answer), (at(F::LAN, bob_port), alice));
    assert_eq!(Headers::parse(&answer).unwrap().ttl, 63);
    let mut again = udp(alice, at(F::LAN, bob_port), b"hi");
    assert!(matches!(w.outbound(&mut again), Outcome::Hairpin(_)));
    assert_checksums(&again);
    assert_eq!(ends(&again), (at(F::LAN, alice_port), bob));
    assert_eq!(w.nat.counters().hairpinned, 2);
}

fn rfc5508_req10_a_hairpinned_packet_with_ttl_1_gets_time_exceeded<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut p = with_hops(udp(at(F::ALICE, 5000), at(F::LAN, 7000), b"hi"), 1);
    let Outcome::Reply { error, .. } = w.outbound(&mut p) else {
        panic!()
    };
    assert_checksums(&error);
    assert_eq!((error[F::IP], error[F::IP + 1]), F::TIME_EXCEEDED);
    assert_eq!(ends(&error).1.ip(), F::ALICE);
    assert_eq!(&error[F::IP + 8..], &p[..]);
}

fn rfc4787_req13_an_oversized_packet_with_df_is_refused_with_the_mtu<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let (client, server) = (at(F::ALICE, 5000), at(F::SERVER, 7053));
    let port = w.send(udp(client, server, b"x"));
    let mut fits = udp(server, at(F::LAN, port), &vec![7; 1420 - 8 - F::IP]);
    assert!(matches!(w.inbound(&mut fits), Outcome::Forward(_)));
    let big = udp(server, at(F::LAN, port), &vec![7; 1421 - 8 - F::IP]);
    let mut p = big.clone();
    let Outcome::Reply { error, .. } = w.inbound(&mut p) else {
        panic!()
    };
    assert_eq!(p, big, "untouched");
    assert_checksums(&error);
    assert_eq!(error.len(), F::LONGEST_ERROR);
    assert_eq!((error[F::IP], error[F::IP + 1]), F::TOO_BIG);
    assert_eq!(error[F::IP + 4..F::IP + 8], 1420u32.to_be_bytes());
    assert_eq!(&error[F::IP + 8..], &big[..F::LONGEST_ERROR - F::IP - 8]);
    let (src, dst) = ends(&error);
    assert_eq!((src.ip(), dst.ip()), (F::LAN, F::SERVER));
}

fn rfc4787_req13_the_mtu_applies_to_the_segments_of_a_super_packet<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let (client, server) = (at(F::ALICE, 5000), at(F::SERVER, 445));
    let port = w.send(tcp(client, server, (SYN, 1, 0), &[], b""));
    let many = tcp(server, at(F::LAN, port), (ACK, 1, 2), &[], &[7; 30000]);
    for (segment, passes) in [(1400 - F::IP as u16, true), (1401 - F::IP as u16, false)] {
        let mut bytes = many.clone();
        let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        packet.segment = Some(segment);
        let outcome = w.nat.inbound(&mut packet, &OneAddressPeers, w.now);
        assert_eq!(matches!(outcome, Outcome::Forward(_)), passes);
    }
}

fn rfc5508_req8_rfc6888_req11_without_a_free_port_the_packet_is_refused_and_no_mapping_evicted<
    F: AddressFamily,
>() {
    let limits = Limits {
        ports: 64,
        ..Limits::default()
    };
    let mut w = World::<F>::new(Settings {
        limits,
        blocks: 100..101,
        ..settings()
    });
    for port in 0..64 {
        w.send(udp(at(F::ALICE, 5000 + port), at(F::SERVER, 7053), b"x"));
    }
    for src in [at(F::ALICE, 6000), at(F::BOB, 6000)] {
        let p = udp(src, at(F::SERVER, 7053), b"x");
        let Outcome::Reply { error, .. } = w.outbound(&mut p.clone()) else {
            panic!()
        };
        assert_checksums(&error);
        assert_eq!(
            (error[F::IP], error[F::IP + 1]),
            F::PROHIBITED,
            "RFC 5508 REQ-8"
        );
        let (from, to) = ends(&error);
        assert_eq!((from.ip(), to.ip()), (F::GATEWAY, src.ip()));
        assert_eq!(&error[F::IP + 8..], &p[..]);
    }
    assert_eq!(w.nat.counters().dropped(Reason::NoPort), 2);
    assert_eq!(w.nat.flows(w.now).count(), 64);
    // Other protocols have separate ports in the same block.
    w.send(tcp(
        at(F::ALICE, 5000),
        at(F::SERVER, 445),
        (SYN, 1, 0),
        &[],
        b"",
    ));
    w.send(ping(F::ALICE, F::SERVER, false, 1));
}

fn rfc6888_req5_sessions_are_limited_per_client<F: AddressFamily>() {
    let limits = Limits {
        sessions: 3,
        ..Limits::default()
    };
    let mut w = World::<F>::new(Settings {
        limits,
        ..settings()
    });
    for port in 1..=3 {
        w.send(udp(at(F::ALICE, 5000), at(F::SERVER, port), b"x"));
    }
    assert!(matches!(
        w.outbound(&mut udp(at(F::ALICE, 5000), at(F::SERVER, 4), b"x")),
        Outcome::Reply { .. }
    ));
    assert_eq!(w.nat.counters().dropped(Reason::Sessions), 1);
    w.send(udp(at(F::BOB, 5000), at(F::SERVER, 4), b"x"));
    w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 1), b"x"));
    w.advance(5 * MINUTE);
    w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 4), b"x"));
}

fn rfc6888_req8_a_released_udp_port_is_quarantined_and_a_tcp_port_is_not<F: AddressFamily>() {
    let mut w = World::<F>::new(Settings {
        filtering: Filtering::EndpointIndependent,
        blocks: 100..101,
        ..settings()
    });
    let all = |w: &mut World<F>| {
        (0..64)
            .filter(|i| {
                matches!(
                    w.outbound(&mut udp(at(F::ALICE, 5000 + i), at(F::SERVER, 7053), b"x")),
                    Outcome::Forward(_)
                )
            })
            .count()
    };
    assert_eq!(all(&mut w), 64);
    w.advance(5 * MINUTE);
    assert_eq!(all(&mut w), 0);
    w.advance(PORT_HOLD_TIME - Duration::from_millis(1));
    assert_eq!(all(&mut w), 0);
    w.advance(Duration::from_millis(1));
    assert_eq!(all(&mut w), 64);
}

fn rfc1812_the_nat_s_own_errors_are_rate_limited<F: AddressFamily>() {
    let limits = Limits {
        ports: 0,
        errors: 5,
        ..Limits::default()
    };
    let mut w = World::<F>::new(Settings {
        limits,
        ..settings()
    });
    let replies = |w: &mut World<F>| {
        (0..20)
            .filter(|_| {
                matches!(
                    w.outbound(&mut udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"x")),
                    Outcome::Reply { .. }
                )
            })
            .count()
    };
    assert_eq!(replies(&mut w), 5);
    w.advance(Duration::from_secs(1));
    assert_eq!(replies(&mut w), 5);
    assert_eq!(w.nat.counters().refused, 10);
    assert_eq!(w.nat.counters().dropped(Reason::NoPort), 40);
}

fn removing_a_peer_closes_only_its_flows<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    for client in [F::ALICE, F::BOB] {
        for port in 0..100 {
            w.send(udp(at(client, 5000 + port), at(F::SERVER, 7053), b"x"));
            w.send(udp(at(client, 5000 + port), at(F::OTHER, 7053), b"x"));
            w.send(tcp(
                at(client, 5000 + port),
                at(F::SERVER, 445),
                (SYN, 1, 0),
                &[],
                b"",
            ));
        }
        w.send(ping(client, F::SERVER, false, 1));
    }
    w.remove_peer_of(F::ALICE);
    assert!(w.nat.flows(w.now).all(|f| f.inside.ip() == F::BOB));
    assert_eq!(w.nat.flows(w.now).count(), 301);
    assert_eq!(std::iter::from_fn(|| w.nat.poll_closed()).count(), 301);
    w.advance(PORT_HOLD_TIME);
    assert_eq!(w.nat.clients.iter().count(), 1);
    w.advance(60 * MINUTE);
    assert_eq!(
        (w.nat.clients.iter().count(), w.nat.next_timeout()),
        (0, None)
    );
}

fn a_flow_reports_its_endpoints_traffic_and_idle_time<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let (client, server) = (at(F::ALICE, 5000), at(F::SERVER, 7053));
    let port = w.send(udp(client, server, b"x"));
    w.advance(MINUTE);
    w.receive(udp(server, at(F::LAN, port), b"four")).unwrap();
    let flow = w.flow_of(client).unwrap();
    assert_eq!(w.nat.flow(flow.id, w.now), Some(flow));
    assert_eq!(
        (flow.inside, flow.port, flow.remote),
        (client, port, server)
    );
    assert_eq!(
        (flow.protocol, flow.state, flow.idle),
        (Protocol::Udp, None, MINUTE)
    );
    assert_eq!(
        flow.sent,
        TrafficCounters {
            packets: 1,
            bytes: F::IP as u64 + 9
        }
    );
    assert_eq!(
        flow.received,
        TrafficCounters {
            packets: 1,
            bytes: F::IP as u64 + 12
        }
    );
    w.advance(4 * MINUTE);
    assert_eq!(w.nat.flow(flow.id, w.now), None);
    assert_eq!(w.nat.poll_closed(), Some(flow.id));
    w.send(udp(client, server, b"x"));
    let next = w.flow_of(client).unwrap();
    assert_eq!(next.id.slot, flow.id.slot);
    assert_ne!(next.id, flow.id);
}

#[test]
fn records_are_small() {
    assert_eq!(size_of::<table::Mapping>(), 44);
    assert_eq!(size_of::<table::Session>(), 128);
}

fn rfc4787_req3_rfc6888_req13_every_port_of_the_shard_is_used_once<F: AddressFamily>() {
    let limits = Limits {
        ports: 64,
        ..Limits::default()
    };
    let mut w = World::<F>::new(Settings {
        limits,
        blocks: 400..600,
        ..settings()
    });
    let endpoint = |n: u8, port| at(F::client(9, n), port);
    let mut given = HashSet::new();
    for n in 0..150 {
        for port in 0..64 {
            assert!(given.insert(w.send(udp(endpoint(n, 3000 + port), at(F::SERVER, 7053), b"x"))));
        }
    }
    // The last ports are shared by more clients.
    let newcomer = |n: u16| at(F::client(10 + (n >> 8) as u8, n as u8), 3000);
    for n in 0..3200 {
        assert!(given.insert(w.send(udp(newcomer(n), at(F::SERVER, 7053), b"x"))));
    }
    let all: HashSet<u16> = (400 * BLOCK_SIZE..600 * BLOCK_SIZE).collect();
    assert_eq!(given, all);
    let mut late = udp(endpoint(200, 3000), at(F::SERVER, 7053), b"x");
    assert!(matches!(w.outbound(&mut late), Outcome::Reply { .. }));
    // All mappings are still found.
    for n in 0..150 {
        assert!(given.contains(&w.send(udp(endpoint(n, 3000), at(F::SERVER, 7053), b"x"))));
    }
}

both_families! {
    rfc4787_req1_rfc5382_req1_endpoint_independent_mapping,
    rfc4787_req3_rfc5382_req7_no_port_overloading,
    rfc4787_req3a_rfc4787_req4_port_class_and_parity_are_kept,
    rfc4787_req8_rfc5382_req3_filtering_is_address_dependent_by_default,
    rfc4787_req8_rfc5382_req3_rfc6888_req7_filtering_can_be_endpoint_independent,
    rfc4787_req9_rfc5382_req8_hairpinning_shows_the_external_source,
    rfc5508_req10_a_hairpinned_packet_with_ttl_1_gets_time_exceeded,
    rfc4787_req13_an_oversized_packet_with_df_is_refused_with_the_mtu,
    rfc4787_req13_the_mtu_applies_to_the_segments_of_a_super_packet,
    rfc5508_req8_rfc6888_req11_without_a_free_port_the_packet_is_refused_and_no_mapping_evicted,
    rfc6888_req5_sessions_are_limited_per_client,
    rfc6888_req8_a_released_udp_port_is_quarantined_and_a_tcp_port_is_not,
    rfc1812_the_nat_s_own_errors_are_rate_limited,
    removing_a_peer_closes_only_its_flows,
    a_flow_reports_its_endpoints_traffic_and_idle_time,
    rfc4787_req3_rfc6888_req13_every_port_of_the_shard_is_used_once,
}
