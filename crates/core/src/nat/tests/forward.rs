//! Inbound forwards.

use super::*;
use proptest::prelude::*;

const PORT: u16 = 8443;

fn forward(protocol: Protocol, port: u16, to: SocketAddr) -> Forward {
    Forward { protocol, port, to }
}

fn web() -> SocketAddr {
    at(ALICE, 443)
}

/// A world in which port 8443 leads to Alice, for TCP and for UDP.
fn forwarded(settings: Settings) -> World {
    let mut w = World::new(settings);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let forward = forward(protocol, PORT, web());
        w.nat.add_forward(forward, w.now).unwrap();
    }
    w
}

fn segment(src: SocketAddr, dst: SocketAddr, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    tcp(src, dst, (flags, seq, ack), &[], b"")
}

#[test]
fn a_stranger_comes_in_and_is_answered_from_the_forwarded_port() {
    let mut w = forwarded(settings());
    let stranger = at(OTHER, 50000);
    assert_eq!(
        w.arrives(segment(stranger, at(LAN, PORT), SYN, 1, 0)),
        Some(web())
    );
    assert_eq!(w.leaves(segment(web(), stranger, SYN | ACK, 9, 2)), PORT);
    assert_eq!(
        w.arrives(segment(stranger, at(LAN, PORT), ACK, 2, 10)),
        Some(web())
    );
    let flow = w.flow_of(web()).unwrap();
    assert_eq!((flow.port, flow.state), (PORT, Some(TcpState::Established)));
    assert_eq!(w.arrives(udp(stranger, at(LAN, PORT), b"x")), Some(web()));
    assert_eq!(w.leaves(udp(web(), stranger, b"y")), PORT);
}

#[test]
fn only_a_syn_opens_a_forwarded_connection() {
    let mut w = forwarded(settings());
    let stranger = at(OTHER, 50000);
    for flags in [ACK, SYN | ACK, FIN | ACK, RST] {
        assert_eq!(
            w.arrives(segment(stranger, at(LAN, PORT), flags, 1, 1)),
            None
        );
    }
    assert_eq!(w.nat.flows(w.now).count(), 0);
    assert_eq!(w.nat.counters().dropped(Reason::NoSession), 4);
}

#[test]
fn rfc4787_req1_the_client_s_end_has_its_forwarded_port_for_every_destination() {
    let mut w = World::new(settings());
    let before = w.leaves(udp(web(), at(SERVER, 7053), b"x"));
    assert_ne!(before, PORT);
    w.nat
        .add_forward(forward(Protocol::Udp, PORT, web()), w.now)
        .unwrap();
    assert_eq!(
        w.flow_of(web()),
        None,
        "the flow by the other port has ended"
    );
    for dst in [at(SERVER, 7053), at(OTHER, 99)] {
        assert_eq!(w.leaves(udp(web(), dst, b"x")), PORT);
    }
    // Its other ends have ports of its blocks.
    assert_ne!(w.leaves(udp(at(ALICE, 444), at(SERVER, 7053), b"x")), PORT);
}

#[test]
fn a_forwarded_port_is_in_nobody_s_choice() {
    let blocks = PORT / BLOCK_SIZE..PORT / BLOCK_SIZE + 1;
    let mut w = forwarded(Settings {
        blocks,
        ..settings()
    });
    let mut given = std::collections::HashSet::new();
    for port in 5000..5063 {
        given.insert(w.leaves(udp(at(BOB, port), at(SERVER, 7053), b"x")));
    }
    assert_eq!(given.len(), 63);
    assert!(!given.contains(&PORT));
    let mut one_more = udp(at(BOB, 5063), at(SERVER, 7053), b"x");
    assert!(matches!(w.out(&mut one_more), Outcome::Reply { .. }));
    // Once it is free it is everybody's.
    assert!(
        w.nat
            .remove_forward(forward(Protocol::Udp, PORT, web()), w.now)
    );
    assert_eq!(w.leaves(udp(at(BOB, 5063), at(SERVER, 7053), b"x")), PORT);
}

#[test]
fn what_contradicts_is_refused() {
    let mut w = forwarded(settings());
    let taken = w.leaves(segment(at(BOB, 5000), at(SERVER, 80), SYN, 1, 0));
    let mut add = |protocol, port, to| w.nat.add_forward(forward(protocol, port, to), w.now);
    let web_end = web();
    for (result, expected) in [
        (
            add(Protocol::Tcp, PORT, at(BOB, 1)),
            ForwardError::Duplicate(PORT, web_end),
        ),
        (
            add(Protocol::Tcp, 9000, web()),
            ForwardError::Target(web_end, PORT),
        ),
        (
            add(Protocol::Tcp, taken, at(BOB, 443)),
            ForwardError::InUse(taken),
        ),
        (
            add(Protocol::Echo, 9000, at(BOB, 443)),
            ForwardError::NoPort,
        ),
        (add(Protocol::Tcp, 9000, at(BOB, 0)), ForwardError::NoPort),
    ] {
        assert_eq!(result, Err(expected));
    }
    assert_eq!(add(Protocol::Tcp, PORT, web()), Ok(()), "so it was before");
    assert_eq!(w.nat.forwards().count(), 2);
    assert!(w.flow_of(at(BOB, 5000)).is_some(), "nobody was cut off");
}

#[test]
fn what_is_removed_is_cut_off_and_shut() {
    let mut w = forwarded(settings());
    let stranger = at(OTHER, 50000);
    w.arrives(segment(stranger, at(LAN, PORT), SYN, 1, 0))
        .unwrap();
    let web = forward(Protocol::Tcp, PORT, web());
    let to_another = forward(Protocol::Tcp, PORT, at(BOB, 443));
    assert!(!w.nat.remove_forward(to_another, w.now));
    assert!(w.nat.remove_forward(web, w.now));
    assert!(w.nat.poll_closed().is_some());
    assert_eq!(w.arrives(segment(stranger, at(LAN, PORT), ACK, 2, 1)), None);
    assert!(!w.nat.remove_forward(web, w.now));
}

#[test]
fn rfc4787_req9_hairpin_to_a_forwarded_port() {
    let mut w = forwarded(settings());
    let (bob, lan) = (at(BOB, 5000), at(LAN, PORT));
    let mut syn = segment(bob, lan, SYN, 1, 0);
    assert!(matches!(w.out(&mut syn), Outcome::Hairpin(_)));
    assert_right(&syn);
    let (src, dst) = ends(&syn);
    assert_eq!((src.ip(), dst), (LAN, web()));
    let mut answer = segment(web(), src, SYN | ACK, 9, 2);
    assert!(matches!(w.out(&mut answer), Outcome::Hairpin(_)));
    assert_right(&answer);
    assert_eq!(ends(&answer), (lan, bob));
}

#[test]
fn rfc6888_req4_strangers_use_up_their_target_s_share_alone() {
    let limits = Limits {
        sessions: 6,
        ..Limits::default()
    };
    let mut w = forwarded(Settings {
        limits,
        ..settings()
    });
    for port in 0..10 {
        w.arrives(segment(at(OTHER, 50000 + port), at(LAN, PORT), SYN, 1, 0));
    }
    assert_eq!(w.nat.flows(w.now).count(), 3);
    assert_eq!(w.nat.counters().dropped(Reason::Sessions), 7);
    for client in [ALICE, BOB] {
        w.leaves(udp(at(client, 5000), at(SERVER, 7053), b"x"));
    }
}

#[test]
fn rfc6888_req5_strangers_take_half_of_a_client_s_sessions_at_most() {
    let limits = Limits {
        sessions: 10,
        ..Limits::default()
    };
    let mut w = World::new(Settings {
        limits,
        filtering: Filtering::EndpointIndependent,
        ..settings()
    });
    let port = w.leaves(segment(at(ALICE, 5000), at(SERVER, 80), SYN, 1, 0));
    let came = (0..10)
        .filter(|n| {
            let syn = segment(at(OTHER, 50000 + n), at(LAN, port), SYN, 1, 0);
            w.arrives(syn).is_some()
        })
        .count();
    assert_eq!(came, 4);
    assert_eq!(w.nat.counters().dropped(Reason::Sessions), 6);
    for n in 0..5 {
        w.leaves(udp(at(ALICE, 5000), at(SERVER, 53 + n), b"x"));
    }
}

#[test]
fn rfc6888_req5_strangers_do_not_use_up_a_client_s_rate_of_new_flows() {
    let limits = Limits {
        new_sessions: 10,
        ..Limits::default()
    };
    let mut w = forwarded(Settings {
        limits,
        ..settings()
    });
    for port in 0..20 {
        w.arrives(segment(at(OTHER, 50000 + port), at(LAN, PORT), SYN, 1, 0));
    }
    assert_eq!(w.nat.counters().dropped(Reason::Rate), 10);
    for n in 0..10 {
        w.leaves(udp(at(ALICE, 5000), at(SERVER, 53 + n), b"x"));
    }
}

#[test]
fn a_client_without_blocks_is_forgotten_when_its_last_visitor_goes() {
    let mut w = forwarded(settings());
    w.arrives(udp(at(OTHER, 50000), at(LAN, PORT), b"x"))
        .unwrap();
    assert_eq!(w.nat.clients.iter().count(), 1);
    w.pass(5 * MINUTE);
    assert_eq!(w.nat.flows(w.now).count(), 0);
    assert_eq!(w.nat.clients.iter().count(), 0);
    // And all the same with a block of its own.
    w.arrives(udp(at(OTHER, 50000), at(LAN, PORT), b"x"))
        .unwrap();
    w.leaves(udp(at(ALICE, 5000), at(SERVER, 7053), b"x"));
    w.forget(ALICE);
    assert_eq!(w.nat.flows(w.now).count(), 0);
    w.pass(PORT_HOLD_TIME);
    assert_eq!(w.nat.clients.iter().count(), 0);
}

#[test]
fn whoever_came_in_may_be_answered_and_nobody_else() {
    let mut w = forwarded(settings());
    let (stranger, other) = (at(OTHER, 50000), at(OTHER, 50001));
    w.arrives(segment(stranger, at(LAN, PORT), SYN, 1, 0))
        .unwrap();
    let answers = |w: &World, src, dst| {
        let mut bytes = segment(src, dst, SYN | ACK, 1, 2);
        let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        w.nat.answers_forward(&packet)
    };
    assert!(answers(&w, web(), stranger));
    assert!(!answers(&w, web(), other));
    assert!(!answers(&w, at(ALICE, 444), stranger));
}

#[test]
fn connections_of_forwards_survive_a_restart_and_those_of_others_make_room() {
    let mut w = forwarded(settings());
    let stranger = at(OTHER, 50000);
    w.arrives(segment(stranger, at(LAN, PORT), SYN, 1, 0))
        .unwrap();
    let port = w.leaves(udp(at(ALICE, 5000), at(SERVER, 7053), b"x"));
    let snapshot = w.nat.snapshot(w.now);
    let restored = |mut w: World| {
        let done = w
            .nat
            .restore(snapshot.clone(), &Alone, |_| true, Duration::ZERO, w.now);
        done.map(|()| w).unwrap()
    };
    let mut same = restored(forwarded(settings()));
    assert_eq!(same.leaves(segment(web(), stranger, SYN | ACK, 9, 2)), PORT);
    assert_eq!(same.nat.flows(same.now).count(), 2);
    // The forward is gone.
    let without = restored(World::new(settings()));
    assert_eq!(without.nat.flows(without.now).count(), 1);
    assert!(without.flow_of(at(ALICE, 5000)).is_some());
    // Another one has the port of a client's flow, or its end.
    for (port, to) in [(port, at(BOB, 53)), (9000, at(ALICE, 5000))] {
        let mut w = forwarded(settings());
        let new = forward(Protocol::Udp, port, to);
        w.nat.add_forward(new, w.now).unwrap();
        let mut w = restored(w);
        assert_eq!(w.nat.flows(w.now).count(), 1);
        let given: Vec<_> = std::iter::from_fn(|| w.nat.poll_block())
            .map(|event| event.given)
            .collect();
        assert_eq!(given, [true, false], "the block was kept for nothing");
        w.pass(5 * MINUTE);
        assert_eq!(w.nat.clients.iter().count(), 0);
    }
}

/// What can happen around forwards, in few ports and ends, so that all of it meets.
#[derive(Debug, Clone)]
enum Step {
    Add(u8, u8),
    Remove(u8),
    Out(u8, u8),
    In(u8, u8),
    Forget(u8),
    Pass(u16),
}

fn steps() -> impl Strategy<Value = Step> {
    let small = 0..6u8;
    prop_oneof![
        (small.clone(), small.clone()).prop_map(|(port, end)| Step::Add(port, end)),
        small.clone().prop_map(Step::Remove),
        (small.clone(), small.clone()).prop_map(|(end, far)| Step::Out(end, far)),
        (small.clone(), small.clone()).prop_map(|(port, far)| Step::In(port, far)),
        small.clone().prop_map(Step::Forget),
        (1..400u16).prop_map(Step::Pass),
    ]
}

fn end(number: u8) -> SocketAddr {
    at(client(0, 11 + number % 3), 5000 + u16::from(number))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_port_is_one_end_s_and_a_forwarded_one_its_target_s(
        steps in prop::collection::vec(steps(), 1..60),
    ) {
        let block = PORT / BLOCK_SIZE;
        let limits = Limits { sessions: 4, ..Limits::default() };
        let mut w = World::new(Settings { blocks: block..block + 3, limits, ..settings() });
        let port = |number: u8| PORT + u16::from(number);
        let far = |number: u8| at(OTHER, 50_000 + u16::from(number));
        for step in steps {
            match step {
                Step::Add(p, e) => {
                    let _ = w.nat.add_forward(forward(Protocol::Udp, port(p), end(e)), w.now);
                }
                Step::Remove(p) => {
                    let there = w.nat.forwards().find(|f| f.port == port(p));
                    let removed = there.is_none_or(|f| w.nat.remove_forward(f, w.now));
                    prop_assert!(removed);
                }
                Step::Out(e, f) => drop(w.out(&mut udp(end(e), far(f), b"x"))),
                Step::In(p, f) => drop(w.inn(&mut udp(far(f), at(LAN, port(p)), b"x"))),
                Step::Forget(e) => w.forget(end(e).ip()),
                Step::Pass(seconds) => w.pass(Duration::from_secs(seconds.into())),
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
        // Nothing is left of clients who have nothing.
        for number in 0..6 {
            w.forget(end(number).ip());
        }
        w.pass(PORT_HOLD_TIME);
        prop_assert_eq!(w.nat.clients.iter().count(), 0);
    }
}
