//! RFC 6888 REQ-3 to 5: limits per client. A client at its limit gets an error and is counted, and
//! others are not affected. REQ-12 to 14: block events.

use super::*;

/// Uses up Alice's limit and asserts that one more `attempt` gets an error and is counted, while
/// Bob is not affected.
fn assert_limited<F: AddressFamily>(
    limits: Limits,
    reason: Reason,
    granted: u16,
    attempt: impl Fn(IpAddr, u16) -> Vec<u8>,
) {
    let mut w = World::<F>::new(Settings {
        limits,
        ..settings()
    });
    for number in 0..granted {
        let outcome = w.outbound(&mut attempt(F::ALICE, number));
        assert!(
            matches!(outcome, Outcome::Forward(_) | Outcome::Held),
            "{number}: {outcome:?}"
        );
    }
    let Outcome::Reply { error, .. } = w.outbound(&mut attempt(F::ALICE, granted)) else {
        panic!("{reason:?}: not refused");
    };
    assert_checksums(&error);
    assert_eq!(
        (ends(&error).0.ip(), ends(&error).1.ip()),
        (F::GATEWAY, F::ALICE)
    );
    assert_eq!(
        (error[F::IP], error[F::IP + 1]),
        F::PROHIBITED,
        "RFC 5508 REQ-8"
    );
    assert_eq!(w.nat.counters().dropped(reason), 1);
    assert!(reason.is_limit());
    for number in 0..granted {
        let outcome = w.outbound(&mut attempt(F::BOB, number));
        assert!(matches!(outcome, Outcome::Forward(_)), "{outcome:?}");
    }
}

fn datagram<F: AddressFamily>(client: IpAddr, number: u16) -> Vec<u8> {
    udp(at(client, 5000 + number), at(F::SERVER, 7053), b"x")
}

fn rfc6888_req4_ports<F: AddressFamily>() {
    let limits = Limits {
        ports: 64,
        ..Limits::default()
    };
    assert_limited::<F>(limits, Reason::NoPort, 64, datagram::<F>);
}

fn a_changed_limit_applies_to_new_sessions<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    for number in 0..3 {
        let outcome = w.outbound(&mut datagram::<F>(F::ALICE, number));
        assert!(matches!(outcome, Outcome::Forward(_)), "{outcome:?}");
    }
    w.nat.update_settings(AdjustableSettings {
        filtering: Filtering::default(),
        on_unsolicited: OnUnsolicited::default(),
        timeouts: Timeouts::default(),
        limits: Limits {
            sessions: 2,
            ..Limits::default()
        },
    });
    assert!(matches!(
        w.outbound(&mut datagram::<F>(F::ALICE, 3)),
        Outcome::Reply { .. }
    ));
    assert!(matches!(
        w.outbound(&mut datagram::<F>(F::ALICE, 0)),
        Outcome::Forward(_)
    ));
}

fn rfc6888_req4_icmp_ids<F: AddressFamily>() {
    let limits = Limits {
        ports: 64,
        ..Limits::default()
    };
    assert_limited::<F>(limits, Reason::NoPort, 64, |client, number| {
        ping(client, F::SERVER, false, number)
    });
}

fn rfc6888_req5_sessions<F: AddressFamily>() {
    let limits = Limits {
        sessions: 10,
        ..Limits::default()
    };
    assert_limited::<F>(limits, Reason::Sessions, 10, |client, number| {
        udp(at(client, 5000), at(F::SERVER, 7053 + number), b"x")
    });
}

fn rfc6888_req4_new_flows_per_second<F: AddressFamily>() {
    let limits = Limits {
        new_sessions: 20,
        ..Limits::default()
    };
    assert_limited::<F>(limits, Reason::Rate, 20, datagram::<F>);
}

fn rfc4787_req14_datagrams_in_fragments<F: AddressFamily>() {
    let limits = Limits {
        fragments: 5,
        ..Limits::default()
    };
    assert_limited::<F>(limits, Reason::FragmentFlood, 5, |client, number| {
        let datagram = udp(at(client, 5000 + number), at(F::SERVER, 7053), &[7; 40]);
        F::in_fragments(&datagram, number, 24).remove(0)
    });
}

fn rfc6888_req14_one_event_when_a_block_is_given_and_one_when_it_is_returned<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.send(datagram::<F>(F::ALICE, 0));
    for number in 1..20 {
        w.send(datagram::<F>(F::ALICE, 2 * number));
    }
    let first_port = port - port % BLOCK_SIZE;
    let event = |given| BlockEvent {
        client: F::ALICE,
        lan: F::LAN,
        first_port,
        last_port: first_port + (BLOCK_SIZE - 1),
        given,
    };
    assert_eq!(w.nat.poll_block(), Some(event(true)));
    assert_eq!(w.nat.poll_block(), None);
    // RFC 6888 REQ-8: the quarantine of its UDP ports ends before the block is returned.
    w.advance(5 * MINUTE + PORT_HOLD_TIME - Duration::from_millis(1));
    assert_eq!(w.nat.poll_block(), None);
    w.advance(Duration::from_millis(1));
    assert_eq!(w.nat.poll_block(), Some(event(false)));
    assert_eq!(w.nat.poll_block(), None);
}

/// One DNS query a second of each client, from a new port each time: its mapping lives for 30 seconds,
/// and its port is in quarantine for two minutes.
fn rfc6888_req8_rfc6888_req13_a_crowd_of_resolvers_has_ports<F: AddressFamily>() {
    for filtering in [Filtering::AddressDependent, Filtering::EndpointIndependent] {
        let mut w = World::<F>::new(Settings {
            filtering,
            blocks: 100..201,
            ..settings()
        });
        for second in 0..150 {
            for n in 0..70 {
                let query = udp(
                    at(F::client(1, n), 20_000 + second),
                    at(F::SERVER, 53),
                    b"?",
                );
                w.outbound(&mut query.clone());
            }
            w.advance(Duration::from_secs(1));
        }
        // RFC 6888 REQ-8 (C): only a filter by address allows a port to be assigned again at once.
        let refused = w.nat.counters().dropped(Reason::NoPort);
        assert_eq!(
            refused == 0,
            filtering == Filtering::AddressDependent,
            "{refused}"
        );
    }
}

both_families! {
    rfc6888_req8_rfc6888_req13_a_crowd_of_resolvers_has_ports,
    rfc6888_req4_ports,
    a_changed_limit_applies_to_new_sessions,
    rfc6888_req4_icmp_ids,
    rfc6888_req5_sessions,
    rfc6888_req4_new_flows_per_second,
    rfc4787_req14_datagrams_in_fragments,
    rfc6888_req14_one_event_when_a_block_is_given_and_one_when_it_is_returned,
}
