//! Unsolicited SYNs of the LAN, which wait for a SYN of the client.

use super::*;

fn rfc5382_req4_an_unsolicited_syn_is_held_6_seconds_for_the_client_s<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.send(tcp(
        alice_endpoint::<F>(),
        at(F::OTHER, 1),
        (SYN, 1, 0),
        &[],
        b"",
    ));
    let syn = tcp(
        server_endpoint::<F>(),
        at(F::LAN, port),
        (SYN, 500, 0),
        &[],
        b"",
    );
    assert_eq!(w.inbound(&mut syn.clone()), Outcome::Held);
    w.advance(Duration::from_millis(5999));
    assert_eq!(w.nat.poll_deferred(), None);
    w.advance(Duration::from_millis(1));
    let Some(DeferredPacket::ToLan(error)) = w.nat.poll_deferred() else {
        panic!()
    };
    assert_checksums(&error);
    assert_eq!((error[F::IP], error[F::IP + 1]), F::PORT_UNREACHABLE);
    let (from, to) = ends(&error);
    assert_eq!((from.ip(), to.ip()), (F::LAN, F::SERVER));
    assert_eq!(&error[F::IP + 8..], &syn[..]);

    assert_eq!(w.inbound(&mut syn.clone()), Outcome::Held);
    w.advance(Duration::from_secs(5));
    assert_eq!(w.client(SYN, 100, 0), port);
    w.advance(MINUTE);
    assert_eq!(w.nat.poll_deferred(), None);
}

fn rfc5382_req4_rfc5508_req9_an_unsolicited_syn_can_be_dropped<F: AddressFamily>() {
    let on_unsolicited = OnUnsolicited::Drop;
    let mut w = World::<F>::new(Settings {
        on_unsolicited,
        ..settings()
    });
    let mut syn = tcp(
        server_endpoint::<F>(),
        at(F::LAN, 5555),
        (SYN, 500, 0),
        &[],
        b"",
    );
    assert_eq!(w.inbound(&mut syn), Outcome::Drop(Reason::NoMapping));
    assert_eq!(w.nat.next_timeout(), None);
}

fn rfc5382_req4_a_hairpinned_syn_is_not_held<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut syn = tcp(
        alice_endpoint::<F>(),
        at(F::LAN, 7777),
        (SYN, 1, 0),
        &[],
        b"",
    );
    assert_eq!(w.outbound(&mut syn), Outcome::Drop(Reason::NoMapping));
    w.advance(MINUTE);
    assert_eq!(w.nat.poll_deferred(), None);
}

fn rfc5382_req4_held_syns_are_bounded<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let held = (0..1000)
        .filter(|p| {
            let mut syn = tcp(at(F::OTHER, *p), at(F::LAN, 5555), (SYN, 1, 0), &[], b"");
            w.inbound(&mut syn) == Outcome::Held
        })
        .count();
    assert_eq!(held, 64);
    w.advance(MINUTE);
    assert_eq!(std::iter::from_fn(|| w.nat.poll_deferred()).count(), 64);
}

fn rfc5382_req4_a_crowd_of_unsolicited_syns_is_answered<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut answers = 0;
    // 50 a second, below the rate of errors; 300 are held at a time.
    for n in 0..1000u16 {
        let from = at(F::neighbour(100 + (n % 50) as u8), 2000 + n);
        let mut syn = tcp(from, at(F::LAN, 5555), (SYN, 1, 0), &[], b"");
        assert_eq!(w.inbound(&mut syn), Outcome::Held, "{n}");
        w.advance(Duration::from_millis(20));
        answers += std::iter::from_fn(|| w.nat.poll_deferred()).count();
    }
    w.advance(MINUTE);
    answers += std::iter::from_fn(|| w.nat.poll_deferred()).count();
    assert_eq!(answers, 1000);
}

both_families! {
    rfc5382_req4_an_unsolicited_syn_is_held_6_seconds_for_the_client_s,
    rfc5382_req4_rfc5508_req9_an_unsolicited_syn_can_be_dropped,
    rfc5382_req4_a_hairpinned_syn_is_not_held,
    rfc5382_req4_held_syns_are_bounded,
    rfc5382_req4_a_crowd_of_unsolicited_syns_is_answered,
}
