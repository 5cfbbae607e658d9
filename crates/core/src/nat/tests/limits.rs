//! RFC 6888 REQ-3 to 5: limits per client. A client at its limit gets an error and is counted, and
//! others are not affected. REQ-12 to 14: block events.

use super::*;

/// Uses up Alice's limit and asserts that one more `attempt` gets an error and is counted, while
/// Bob is not affected.
fn assert_limited(
    limits: Limits,
    reason: Reason,
    granted: u16,
    attempt: impl Fn(IpAddr, u16) -> Vec<u8>,
) {
    let mut w = World::new(Settings {
        limits,
        ..settings()
    });
    for number in 0..granted {
        let outcome = w.outbound(&mut attempt(ALICE, number));
        assert!(
            matches!(outcome, Outcome::Forward(_) | Outcome::Held),
            "{number}: {outcome:?}"
        );
    }
    let Outcome::Reply { error, .. } = w.outbound(&mut attempt(ALICE, granted)) else {
        panic!("{reason:?}: not refused");
    };
    assert_checksums(&error);
    assert_eq!((ends(&error).0.ip(), ends(&error).1.ip()), (GATEWAY, ALICE));
    assert_eq!((error[IP], error[IP + 1]), PROHIBITED, "RFC 5508 REQ-8");
    assert_eq!(w.nat.counters().dropped(reason), 1);
    assert!(reason.is_limit());
    for number in 0..granted {
        let outcome = w.outbound(&mut attempt(BOB, number));
        assert!(matches!(outcome, Outcome::Forward(_)), "{outcome:?}");
    }
}

fn datagram(client: IpAddr, number: u16) -> Vec<u8> {
    udp(at(client, 5000 + number), at(SERVER, 7053), b"x")
}

#[test]
fn rfc6888_req4_ports() {
    let limits = Limits {
        blocks: 1,
        ..Limits::default()
    };
    assert_limited(limits, Reason::NoPort, 64, datagram);
}

#[test]
fn a_changed_limit_applies_to_new_sessions() {
    let mut w = World::new(settings());
    for number in 0..3 {
        let outcome = w.outbound(&mut datagram(ALICE, number));
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
        w.outbound(&mut datagram(ALICE, 3)),
        Outcome::Reply { .. }
    ));
    assert!(matches!(
        w.outbound(&mut datagram(ALICE, 0)),
        Outcome::Forward(_)
    ));
}

#[test]
fn rfc6888_req4_icmp_ids() {
    let limits = Limits {
        blocks: 1,
        ..Limits::default()
    };
    assert_limited(limits, Reason::NoPort, 64, |client, number| {
        ping(client, SERVER, false, number)
    });
}

#[test]
fn rfc6888_req5_sessions() {
    let limits = Limits {
        sessions: 10,
        ..Limits::default()
    };
    assert_limited(limits, Reason::Sessions, 10, |client, number| {
        udp(at(client, 5000), at(SERVER, 7053 + number), b"x")
    });
}

#[test]
fn rfc6888_req4_new_flows_a_second() {
    let limits = Limits {
        new_sessions: 20,
        ..Limits::default()
    };
    assert_limited(limits, Reason::Rate, 20, datagram);
}

#[test]
fn rfc4787_req14_datagrams_in_fragments() {
    let limits = Limits {
        fragments: 5,
        ..Limits::default()
    };
    assert_limited(limits, Reason::FragmentFlood, 5, |client, number| {
        let datagram = udp(at(client, 5000 + number), at(SERVER, 7053), &[7; 40]);
        in_fragments(&datagram, number, 24).remove(0)
    });
}

#[test]
fn rfc6888_req14_one_event_when_a_block_is_given_and_one_when_it_is_returned() {
    let mut w = World::new(settings());
    let port = w.send(datagram(ALICE, 0));
    for number in 1..20 {
        w.send(datagram(ALICE, 2 * number));
    }
    let block = port / BLOCK_SIZE;
    let event = |given| BlockEvent {
        client: ALICE,
        block,
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
