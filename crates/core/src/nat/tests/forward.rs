//! Inbound forwards.

use super::*;
use proptest::prelude::*;

const PORT: u16 = 8443;

fn forward(protocol: Protocol, port: u16, to: SocketAddr) -> Forward {
    Forward {
        protocol,
        port,
        to,
        lan: None,
    }
}

fn web<F: AddressFamily>() -> SocketAddr {
    at(F::ALICE, 443)
}

/// Returns a NAT that forwards port 8443 to Alice, for TCP and UDP.
fn forwarded<F: AddressFamily>(settings: Settings) -> World<F> {
    let mut w = World::<F>::new(settings);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let forward = forward(protocol, PORT, web::<F>());
        w.nat.add_forward(forward, w.now).unwrap();
    }
    w
}

fn segment(src: SocketAddr, dst: SocketAddr, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    tcp(src, dst, (flags, seq, ack), &[], b"")
}

fn any_host_reaches_a_forwarded_port_and_is_answered_from_it<F: AddressFamily>() {
    let mut w = forwarded::<F>(settings());
    let stranger = at(F::OTHER, 50000);
    assert_eq!(
        w.receive(segment(stranger, at(F::LAN, PORT), SYN, 1, 0)),
        Some(web::<F>())
    );
    assert_eq!(w.send(segment(web::<F>(), stranger, SYN | ACK, 9, 2)), PORT);
    assert_eq!(
        w.receive(segment(stranger, at(F::LAN, PORT), ACK, 2, 10)),
        Some(web::<F>())
    );
    let flow = w.flow_of(web::<F>()).unwrap();
    assert_eq!((flow.port, flow.state), (PORT, Some(TcpState::Established)));
    assert_eq!(
        w.receive(udp(stranger, at(F::LAN, PORT), b"x")),
        Some(web::<F>())
    );
    assert_eq!(w.send(udp(web::<F>(), stranger, b"y")), PORT);
}

fn only_a_syn_opens_a_forwarded_connection<F: AddressFamily>() {
    let mut w = forwarded::<F>(settings());
    let stranger = at(F::OTHER, 50000);
    for flags in [ACK, SYN | ACK, FIN | ACK, RST] {
        assert_eq!(
            w.receive(segment(stranger, at(F::LAN, PORT), flags, 1, 1)),
            None
        );
    }
    assert_eq!(w.nat.flows(w.now).count(), 0);
    assert_eq!(w.nat.counters().dropped(Reason::NoSession), 4);
}

fn rfc4787_req1_the_client_s_endpoint_has_its_forwarded_port_for_every_destination<
    F: AddressFamily,
>() {
    let mut w = World::<F>::new(settings());
    let before = w.send(udp(web::<F>(), at(F::SERVER, 7053), b"x"));
    assert_ne!(before, PORT);
    w.nat
        .add_forward(forward(Protocol::Udp, PORT, web::<F>()), w.now)
        .unwrap();
    assert_eq!(
        w.flow_of(web::<F>()),
        None,
        "the flow through the other port has ended"
    );
    for dst in [at(F::SERVER, 7053), at(F::OTHER, 99)] {
        assert_eq!(w.send(udp(web::<F>(), dst, b"x")), PORT);
    }
    // The client's other endpoints have ports of its blocks.
    assert_ne!(
        w.send(udp(at(F::ALICE, 444), at(F::SERVER, 7053), b"x")),
        PORT
    );
}

fn a_forwarded_port_is_not_assigned_to_clients<F: AddressFamily>() {
    let blocks = PORT / BLOCK_SIZE..PORT / BLOCK_SIZE + 1;
    let mut w = forwarded::<F>(Settings {
        blocks,
        ..settings()
    });
    let mut given = std::collections::HashSet::new();
    for port in 5000..5063 {
        given.insert(w.send(udp(at(F::BOB, port), at(F::SERVER, 7053), b"x")));
    }
    assert_eq!(given.len(), 63);
    assert!(!given.contains(&PORT));
    let mut one_more = udp(at(F::BOB, 5063), at(F::SERVER, 7053), b"x");
    assert!(matches!(w.outbound(&mut one_more), Outcome::Reply { .. }));
    // After the forward is removed the port is assigned again.
    assert!(
        w.nat
            .remove_forward(forward(Protocol::Udp, PORT, web::<F>()), w.now)
    );
    let next = at(F::client(0, 99), 5063);
    assert_eq!(w.send(udp(next, at(F::SERVER, 7053), b"x")), PORT);
}

fn contradictory_forwards_are_refused<F: AddressFamily>() {
    let mut w = forwarded::<F>(settings());
    let taken = w.send(segment(at(F::BOB, 5000), at(F::SERVER, 80), SYN, 1, 0));
    let mut add = |protocol, port, to| w.nat.add_forward(forward(protocol, port, to), w.now);
    let web_end = web::<F>();
    for (result, expected) in [
        (
            add(Protocol::Tcp, PORT, at(F::BOB, 1)),
            ForwardError::Duplicate(PORT, web_end),
        ),
        (
            add(Protocol::Tcp, 9000, web::<F>()),
            ForwardError::Target(web_end, PORT),
        ),
        (
            add(Protocol::Tcp, taken, at(F::BOB, 443)),
            ForwardError::InUse(taken),
        ),
        (
            add(Protocol::Echo, 9000, at(F::BOB, 443)),
            ForwardError::NoPort,
        ),
        (
            add(Protocol::Tcp, 9000, at(F::BOB, 0)),
            ForwardError::NoPort,
        ),
    ] {
        assert_eq!(result, Err(expected));
    }
    assert_eq!(
        add(Protocol::Tcp, PORT, web::<F>()),
        Ok(()),
        "adding it again has no effect"
    );
    assert_eq!(w.nat.forwards().count(), 2);
    assert!(w.flow_of(at(F::BOB, 5000)).is_some(), "no flow was closed");
}

fn a_removed_forward_closes_its_flows_and_its_port<F: AddressFamily>() {
    let mut w = forwarded::<F>(settings());
    let stranger = at(F::OTHER, 50000);
    w.receive(segment(stranger, at(F::LAN, PORT), SYN, 1, 0))
        .unwrap();
    let web = forward(Protocol::Tcp, PORT, web::<F>());
    let to_another = forward(Protocol::Tcp, PORT, at(F::BOB, 443));
    assert!(!w.nat.remove_forward(to_another, w.now));
    assert!(w.nat.remove_forward(web, w.now));
    assert!(w.nat.poll_closed().is_some());
    assert_eq!(
        w.receive(segment(stranger, at(F::LAN, PORT), ACK, 2, 1)),
        None
    );
    assert!(!w.nat.remove_forward(web, w.now));
}

fn rfc4787_req9_hairpin_to_a_forwarded_port<F: AddressFamily>() {
    let mut w = forwarded::<F>(settings());
    let (bob, lan) = (at(F::BOB, 5000), at(F::LAN, PORT));
    let mut syn = segment(bob, lan, SYN, 1, 0);
    assert!(matches!(w.outbound(&mut syn), Outcome::Hairpin(_)));
    assert_checksums(&syn);
    let (src, dst) = ends(&syn);
    assert_eq!((src.ip(), dst), (F::LAN, web::<F>()));
    let mut answer = segment(web::<F>(), src, SYN | ACK, 9, 2);
    assert!(matches!(w.outbound(&mut answer), Outcome::Hairpin(_)));
    assert_checksums(&answer);
    assert_eq!(ends(&answer), (lan, bob));
}

fn rfc6888_req4_flows_through_a_forward_count_for_its_target_only<F: AddressFamily>() {
    let limits = Limits {
        sessions: 6,
        ..Limits::default()
    };
    let mut w = forwarded::<F>(Settings {
        limits,
        ..settings()
    });
    for port in 0..10 {
        w.receive(segment(
            at(F::OTHER, 50000 + port),
            at(F::LAN, PORT),
            SYN,
            1,
            0,
        ));
    }
    assert_eq!(w.nat.flows(w.now).count(), 3);
    assert_eq!(w.nat.counters().dropped(Reason::Sessions), 7);
    for client in [F::ALICE, F::BOB] {
        w.send(udp(at(client, 5000), at(F::SERVER, 7053), b"x"));
    }
}

fn rfc6888_req5_lan_hosts_open_at_most_half_of_a_client_s_sessions<F: AddressFamily>() {
    let limits = Limits {
        sessions: 10,
        ..Limits::default()
    };
    let mut w = World::<F>::new(Settings {
        limits,
        filtering: Filtering::EndpointIndependent,
        ..settings()
    });
    let port = w.send(segment(at(F::ALICE, 5000), at(F::SERVER, 80), SYN, 1, 0));
    let came = (0..10)
        .filter(|n| {
            let syn = segment(at(F::OTHER, 50000 + n), at(F::LAN, port), SYN, 1, 0);
            w.receive(syn).is_some()
        })
        .count();
    assert_eq!(came, 4);
    assert_eq!(w.nat.counters().dropped(Reason::Sessions), 6);
    for n in 0..5 {
        w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 53 + n), b"x"));
    }
}

fn rfc6888_req5_lan_hosts_do_not_use_up_a_client_s_rate_of_new_flows<F: AddressFamily>() {
    let limits = Limits {
        new_sessions: 10,
        ..Limits::default()
    };
    let mut w = forwarded::<F>(Settings {
        limits,
        ..settings()
    });
    for port in 0..20 {
        w.receive(segment(
            at(F::OTHER, 50000 + port),
            at(F::LAN, PORT),
            SYN,
            1,
            0,
        ));
    }
    assert_eq!(w.nat.counters().dropped(Reason::Rate), 10);
    for n in 0..10 {
        w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 53 + n), b"x"));
    }
}

fn a_client_without_blocks_is_removed_with_its_last_session<F: AddressFamily>() {
    let mut w = forwarded::<F>(settings());
    w.receive(udp(at(F::OTHER, 50000), at(F::LAN, PORT), b"x"))
        .unwrap();
    assert_eq!(w.nat.clients.iter().count(), 1);
    w.advance(5 * MINUTE);
    assert_eq!(w.nat.flows(w.now).count(), 0);
    assert_eq!(w.nat.clients.iter().count(), 0);
    // The same applies with a block.
    w.receive(udp(at(F::OTHER, 50000), at(F::LAN, PORT), b"x"))
        .unwrap();
    w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"x"));
    w.remove_peer_of(F::ALICE);
    assert_eq!(w.nat.flows(w.now).count(), 0);
    w.advance(PORT_HOLD_TIME);
    assert_eq!(w.nat.clients.iter().count(), 0);
}

fn only_hosts_that_connected_through_a_forward_may_be_answered<F: AddressFamily>() {
    let mut w = forwarded::<F>(settings());
    let (stranger, other) = (at(F::OTHER, 50000), at(F::OTHER, 50001));
    w.receive(segment(stranger, at(F::LAN, PORT), SYN, 1, 0))
        .unwrap();
    let answers = |w: &World<F>, src, dst| {
        let mut bytes = segment(src, dst, SYN | ACK, 1, 2);
        let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        w.nat.answers_forward(&packet)
    };
    assert!(answers(&w, web::<F>(), stranger));
    assert!(!answers(&w, web::<F>(), other));
    assert!(!answers(&w, at(F::ALICE, 444), stranger));
}

fn forwarded_connections_survive_a_restart_and_those_of_changed_forwards_do_not<
    F: AddressFamily,
>() {
    let mut w = forwarded::<F>(settings());
    let stranger = at(F::OTHER, 50000);
    w.receive(segment(stranger, at(F::LAN, PORT), SYN, 1, 0))
        .unwrap();
    let port = w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"x"));
    let state = super::snapshot::stopped(&w.nat, w.now);
    let restored = |mut w: World<F>| {
        let done = w.nat.restore(
            state.nat_snapshot(|_| true),
            &OneAddressPeers,
            |_| true,
            Duration::ZERO,
            w.now,
        );
        done.map(|()| w).unwrap()
    };
    let mut same = restored(forwarded::<F>(settings()));
    assert_eq!(
        same.send(segment(web::<F>(), stranger, SYN | ACK, 9, 2)),
        PORT
    );
    assert_eq!(same.nat.flows(same.now).count(), 2);
    // The forward was removed.
    let without = restored(World::<F>::new(settings()));
    assert_eq!(without.nat.flows(without.now).count(), 1);
    assert!(without.flow_of(at(F::ALICE, 5000)).is_some());
    // Another forward has the port of a client's flow, or its endpoint.
    for (port, to) in [(port, at(F::BOB, 53)), (9000, at(F::ALICE, 5000))] {
        let mut w = forwarded::<F>(settings());
        let new = forward(Protocol::Udp, port, to);
        w.nat.add_forward(new, w.now).unwrap();
        let mut w = restored(w);
        assert_eq!(w.nat.flows(w.now).count(), 1);
        let given: Vec<_> = std::iter::from_fn(|| w.nat.poll_block())
            .map(|event| event.given)
            .collect();
        assert_eq!(
            given,
            [true, false],
            "the block was released without a port"
        );
        w.advance(5 * MINUTE);
        assert_eq!(w.nat.clients.iter().count(), 0);
    }
}

/// An event around forwards; few ports and endpoints make collisions likely.
#[derive(Debug, Clone)]
enum Step {
    Add(u8, u8),
    Remove(u8),
    Out(u8, u8),
    In(u8, u8),
    RemovePeer(u8),
    Advance(u16),
}

fn steps() -> impl Strategy<Value = Step> {
    let small = 0..6u8;
    prop_oneof![
        (small.clone(), small.clone()).prop_map(|(port, end)| Step::Add(port, end)),
        small.clone().prop_map(Step::Remove),
        (small.clone(), small.clone()).prop_map(|(end, far)| Step::Out(end, far)),
        (small.clone(), small.clone()).prop_map(|(port, far)| Step::In(port, far)),
        small.clone().prop_map(Step::RemovePeer),
        (1..400u16).prop_map(Step::Advance),
    ]
}

fn end<F: AddressFamily>(number: u8) -> SocketAddr {
    at(F::client(0, 11 + number % 3), 5000 + u16::from(number))
}

fn a_port_has_one_endpoint_and_a_forwarded_port_its_target<F: AddressFamily>() {
    let config = ProptestConfig::with_cases(256);
    proptest!(config, |(steps in prop::collection::vec(steps(), 1..60))| {
        let block = PORT / BLOCK_SIZE;
        let limits = Limits { sessions: 4, ..Limits::default() };
        let mut w = World::<F>::new(Settings { blocks: block..block + 3, limits, ..settings() });
        let port = |number: u8| PORT + u16::from(number);
        let far = |number: u8| at(F::OTHER, 50_000 + u16::from(number));
        for step in steps {
            match step {
                Step::Add(p, e) => {
                    let _ = w.nat.add_forward(forward(Protocol::Udp, port(p), end::<F>(e)), w.now);
                }
                Step::Remove(p) => {
                    let there = w.nat.forwards().find(|f| f.port == port(p));
                    let removed = there.is_none_or(|f| w.nat.remove_forward(f, w.now));
                    prop_assert!(removed);
                }
                Step::Out(e, f) => drop(w.outbound(&mut udp(end::<F>(e), far(f), b"x"))),
                Step::In(p, f) => drop(w.inbound(&mut udp(far(f), at(F::LAN, port(p)), b"x"))),
                Step::RemovePeer(e) => w.remove_peer_of(end::<F>(e).ip()),
                Step::Advance(seconds) => w.advance(Duration::from_secs(seconds.into())),
            }
            let mut ends = std::collections::HashMap::new();
            for flow in w.nat.flows(w.now) {
                prop_assert_eq!(*ends.entry(flow.port).or_insert(flow.inside), flow.inside);
            }
            for forward in w.nat.forwards() {
                prop_assert!(ends.get(&forward.port).is_none_or(|inside| *inside == forward.to));
                let by_other = ends.iter().any(|(p, i)| *i == forward.to && *p != forward.port);
                prop_assert!(!by_other, "{forward:?} is seen by another port");
            }
        }
        // Idle clients are removed.
        for number in 0..6 {
            w.remove_peer_of(end::<F>(number).ip());
        }
        w.advance(PORT_HOLD_TIME);
        prop_assert_eq!(w.nat.clients.iter().count(), 0);
    });
}

both_families! {
    any_host_reaches_a_forwarded_port_and_is_answered_from_it,
    only_a_syn_opens_a_forwarded_connection,
    rfc4787_req1_the_client_s_endpoint_has_its_forwarded_port_for_every_destination,
    a_forwarded_port_is_not_assigned_to_clients,
    contradictory_forwards_are_refused,
    a_removed_forward_closes_its_flows_and_its_port,
    rfc4787_req9_hairpin_to_a_forwarded_port,
    rfc6888_req4_flows_through_a_forward_count_for_its_target_only,
    rfc6888_req5_lan_hosts_open_at_most_half_of_a_client_s_sessions,
    rfc6888_req5_lan_hosts_do_not_use_up_a_client_s_rate_of_new_flows,
    a_client_without_blocks_is_removed_with_its_last_session,
    only_hosts_that_connected_through_a_forward_may_be_answered,
    forwarded_connections_survive_a_restart_and_those_of_changed_forwards_do_not,
    a_port_has_one_endpoint_and_a_forwarded_port_its_target,
}
