//! The requirements of RFC 5508 (ICMP).

use super::*;

/// Builds a port unreachable that quotes `quoted` bytes of `about`.
fn error<F: AddressFamily>(from: IpAddr, to: IpAddr, about: &[u8], quoted: usize) -> Vec<u8> {
    let quoted = &about[..about.len().min(quoted)];
    icmp(from, to, F::PORT_UNREACHABLE, [0; 4], quoted)
}

fn quote<F: AddressFamily>(bytes: &[u8]) -> &[u8] {
    &bytes[F::IP + 8..]
}

/// Returns the minimum quote of RFC 792: the IP header and 8 bytes.
fn min_quote_len<F: AddressFamily>() -> usize {
    F::IP + 8
}

/// Builds a query or reply of this type.
fn query(src: IpAddr, dst: IpAddr, kind: u8, id: u16) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, (kind, 0), [a, b, 0, 1], &[7; 12])
}

fn rfc5508_req1_queries_are_mapped_by_their_identifier<F: AddressFamily>() {
    for &[asks, answers] in F::QUERIES {
        let mut w = World::<F>::new(settings());
        let id = w.send(query(F::ALICE, F::SERVER, asks, 77));
        assert_eq!(w.send(query(F::ALICE, F::OTHER, asks, 77)), id);
        let bob_id = w.send(query(F::BOB, F::SERVER, asks, 77));
        assert_ne!(bob_id, id);
        let answer = |from, id| query(from, F::LAN, answers, id);
        assert_eq!(w.receive(answer(F::SERVER, id)), Some(at(F::ALICE, 77)));
        assert_eq!(w.receive(answer(F::SERVER, bob_id)), Some(at(F::BOB, 77)));
        assert_eq!(w.receive(answer(F::neighbour(50), id)), None);
        // The LAN does not query clients, and clients do not reply without a query.
        assert_eq!(w.receive(query(F::SERVER, F::LAN, asks, id)), None);
        assert_eq!(
            w.outbound(&mut query(F::ALICE, F::SERVER, answers, 77)),
            Outcome::Drop(Reason::IcmpType)
        );
    }
}

fn rfc5508_req2_queries_live_60_seconds<F: AddressFamily>() {
    for &[asks, answers] in F::QUERIES {
        let mut w = World::<F>::new(settings());
        let id = w.send(query(F::ALICE, F::SERVER, asks, 77));
        w.advance(Duration::from_millis(59_999));
        assert!(w.receive(query(F::SERVER, F::LAN, answers, id)).is_some());
        w.advance(Duration::from_millis(1));
        assert!(w.receive(query(F::SERVER, F::LAN, answers, id)).is_none());
    }
}

fn rfc5508_req4_rfc5382_req9_an_error_from_the_lan_reaches_the_client_with_its_own_packet_quoted<
    F: AddressFamily,
>() {
    let router = F::neighbour(1);
    let mut w = World::<F>::new(settings());
    let originals = [
        udp(at(F::ALICE, 5000), at(F::SERVER, 7053), &[9; 600]),
        tcp(
            at(F::ALICE, 5000),
            at(F::SERVER, 445),
            (SYN, 1, 0),
            &[],
            b"",
        ),
        ping(F::ALICE, F::SERVER, false, 5000),
    ];
    for original in originals {
        for quoted in [
            min_quote_len::<F>(),
            min_quote_len::<F>() + 1,
            F::IP + 20,
            F::IP + 21,
            548,
        ] {
            let mut sent = original.clone();
            assert!(matches!(w.outbound(&mut sent), Outcome::Forward(_)));
            let mut error = error::<F>(router, F::LAN, &sent, quoted);
            assert_eq!(w.inbound(&mut error), Outcome::Forward(None));
            assert_checksums(&error);
            let (from, to) = ends(&error);
            assert_eq!((from.ip(), to.ip()), (router, F::ALICE));
            let quote = quote::<F>(&error);
            assert_eq!(quote, &original[..quote.len()]);
        }
    }
}

fn rfc5508_req3_options_and_extensions_of_the_quoted_header_are_skipped<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut sent = udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    let mut with = sent[..F::IP].to_vec();
    match F::ALICE {
        // A router recorded its address on the way (RFC 791).
        IpAddr::V4(_) => {
            with.extend([7, 7, 8, 192, 168, 77, 1, 0]);
            let mut view = Ipv4Packet::new_unchecked(&mut with[..]);
            view.set_header_len(28);
            view.set_total_len(44);
            view.fill_checksum();
        }
        // An atomic fragment (RFC 6946).
        IpAddr::V6(_) => {
            with[6] = 44;
            with.extend([17, 0, 0, 0, 1, 2, 3, 4]);
        }
    }
    with.extend(&sent[F::IP..F::IP + 8]);
    let mut error = error::<F>(F::SERVER, F::LAN, &with, F::IP + 16);
    assert_eq!(w.inbound(&mut error), Outcome::Forward(None));
    assert_checksums(&error);
    let quoted = quote::<F>(&error);
    if F::ALICE.is_ipv4() {
        assert!(Ipv4Packet::new_unchecked(quoted).verify_checksum());
    }
    assert_eq!(Headers::parse_quote(quoted).unwrap().src, F::ALICE);
    assert_eq!(quoted[F::IP + 8..F::IP + 10], 5000u16.to_be_bytes());
}

fn rfc5508_req3_a_damaged_error_is_dropped_and_a_damaged_quote_of_l4_is_not<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut sent = udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    let whole = error::<F>(F::SERVER, F::LAN, &sent, sent.len());
    for at in F::IP..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x11;
        let kind = at - F::IP < 2
            && matches!(
                w.inbound(&mut damaged.clone()),
                Outcome::Drop(Reason::IcmpType)
            );
        assert!(
            kind || w.inbound(&mut damaged) == Outcome::Drop(Reason::BadChecksum),
            "{at}"
        );
    }
    // The router received and quoted a damaged packet.
    for (at, passes) in [(8, F::IP == 40), (F::IP + 6, true), (F::IP + 9, true)] {
        let mut quoted = sent.clone();
        quoted[at] ^= 0x11;
        let mut error = error::<F>(F::SERVER, F::LAN, &quoted, quoted.len());
        let dropped = Outcome::Drop(Reason::BadChecksum);
        assert_eq!(w.inbound(&mut error) != dropped, passes, "{at}");
    }
    // The same applies to an error from a client.
    let port = ends(&sent).0.port();
    let mut arrived = udp(at(F::SERVER, 7053), at(F::LAN, port), b"12345678");
    w.inbound(&mut arrived);
    let mut damaged = error::<F>(F::ALICE, F::SERVER, &arrived, min_quote_len::<F>());
    damaged[F::IP + 5] ^= 1;
    assert_eq!(w.outbound(&mut damaged), Outcome::Drop(Reason::BadChecksum));
}

fn rfc5508_req5_an_error_from_a_client_reaches_the_sender_with_its_own_packet_quoted<
    F: AddressFamily,
>() {
    let mut w = World::<F>::new(settings());
    let port = w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"x"));
    for from in [53, 99] {
        let original = udp(at(F::SERVER, from), at(F::LAN, port), b"12345678");
        let mut arrived = original.clone();
        assert!(matches!(w.inbound(&mut arrived), Outcome::Forward(_)));
        let mut error = error::<F>(F::ALICE, F::SERVER, &arrived, min_quote_len::<F>());
        assert_eq!(w.outbound(&mut error), Outcome::Forward(None));
        assert_checksums(&error);
        let (src, dst) = ends(&error);
        assert_eq!((src.ip(), dst.ip()), (F::LAN, F::SERVER));
        assert_eq!(quote::<F>(&error), &original[..min_quote_len::<F>()]);
    }
}

fn rfc5508_req4_an_error_about_a_packet_that_was_never_sent_is_dropped<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let port = w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"x"));
    let cases = [
        udp(at(F::LAN, port), at(F::OTHER, 7053), b"12345678"),
        udp(at(F::LAN, port), at(F::SERVER, 54), b"12345678"),
        udp(at(F::LAN, port ^ 1), at(F::SERVER, 7053), b"12345678"),
        udp(at(F::OTHER, port), at(F::SERVER, 7053), b"12345678"),
        tcp(at(F::LAN, port), at(F::SERVER, 7053), (SYN, 1, 0), &[], b""),
        ping(F::LAN, F::SERVER, true, port),
    ];
    for about in cases {
        assert_eq!(
            w.inbound(&mut error::<F>(
                F::SERVER,
                F::LAN,
                &about,
                min_quote_len::<F>()
            )),
            Outcome::Drop(Reason::Quote)
        );
    }
    // A client's error about a packet that it cannot have received.
    let never = udp(at(F::OTHER, 7053), at(F::ALICE, 5000), b"12345678");
    assert_eq!(
        w.outbound(&mut error::<F>(
            F::ALICE,
            F::OTHER,
            &never,
            min_quote_len::<F>()
        )),
        Outcome::Drop(Reason::Quote)
    );
    // A later fragment has no ports.
    let later = later_fragment::<F>(at(F::LAN, port), at(F::SERVER, 7053));
    assert_eq!(
        w.inbound(&mut error::<F>(
            F::SERVER,
            F::LAN,
            &later,
            min_quote_len::<F>()
        )),
        Outcome::Drop(Reason::Quote)
    );
    // Truncated before the 8 bytes that RFC 792 requires.
    let about = udp(at(F::LAN, port), at(F::SERVER, 7053), b"12345678");
    assert_eq!(
        w.inbound(&mut error::<F>(
            F::SERVER,
            F::LAN,
            &about,
            min_quote_len::<F>() - 1
        )),
        Outcome::Drop(Reason::Quote)
    );
    // From a client, to another host than the packet's sender.
    let mut arrived = udp(at(F::SERVER, 7053), at(F::LAN, port), b"12345678");
    w.inbound(&mut arrived);
    assert_eq!(
        w.outbound(&mut error::<F>(
            F::ALICE,
            F::OTHER,
            &arrived,
            min_quote_len::<F>()
        )),
        Outcome::Drop(Reason::Quote)
    );
    assert_eq!(
        w.outbound(&mut error::<F>(
            F::BOB,
            F::SERVER,
            &udp(at(F::SERVER, 7053), at(F::BOB, 5000), b"12345678"),
            min_quote_len::<F>()
        )),
        Outcome::Drop(Reason::Quote)
    );
}

/// Builds a later fragment.
fn later_fragment<F: AddressFamily>(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let mut p = udp(src, dst, b"12345678");
    if F::IP == 20 {
        p[7] = 2;
        return p;
    }
    p[6] = 44;
    p.splice(F::IP..F::IP, [17, 0, 0, 16, 1, 2, 3, 4]);
    p[5] += 8;
    p
}

fn rfc4787_req12_rfc5382_req10_rfc5508_req6_no_error_ends_or_refreshes_a_mapping<
    F: AddressFamily,
>() {
    let mut w = World::<F>::new(settings());
    let mut sent = udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    w.advance(4 * MINUTE);
    for &kind in F::ERRORS {
        let mut error = icmp(
            F::SERVER,
            F::LAN,
            kind,
            [0; 4],
            &sent[..min_quote_len::<F>()],
        );
        assert_eq!(w.inbound(&mut error), Outcome::Forward(None));
    }
    let port = ends(&sent).0.port();
    let mut arrived = udp(at(F::SERVER, 7053), at(F::LAN, port), b"12345678");
    w.inbound(&mut arrived);
    assert_eq!(
        w.outbound(&mut error::<F>(
            F::ALICE,
            F::SERVER,
            &arrived,
            min_quote_len::<F>()
        )),
        Outcome::Forward(None)
    );
    assert_eq!(w.flow_of(at(F::ALICE, 5000)).unwrap().idle, 4 * MINUTE);
    w.advance(MINUTE);
    assert_eq!(w.nat.flows(w.now).count(), 0);
}

fn rfc5508_req7_an_error_about_a_hairpinned_packet_is_hairpinned<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let (alice, bob) = (at(F::ALICE, 5000), at(F::BOB, 6000));
    let alice_port = w.send(udp(alice, at(F::SERVER, 7053), b"x"));
    let mut first = udp(bob, at(F::LAN, alice_port), b"x");
    assert_eq!(w.outbound(&mut first), Outcome::Drop(Reason::Filtered));
    let bob_port = ends(&first).0.port();
    let original = udp(alice, at(F::LAN, bob_port), b"12345678");
    let mut hairpinned = original.clone();
    assert!(matches!(w.outbound(&mut hairpinned), Outcome::Hairpin(_)));
    let mut error = error::<F>(F::BOB, F::LAN, &hairpinned, min_quote_len::<F>());
    assert!(matches!(w.outbound(&mut error), Outcome::Hairpin(_)));
    assert_checksums(&error);
    let (src, dst) = ends(&error);
    assert_eq!((src.ip(), dst.ip()), (F::LAN, F::ALICE));
    let quoted = quote::<F>(&error);
    // The quote differs only in the decremented TTL (RFC 1812 section 4.3.2.3) and the checksum.
    let hops = if F::IP == 20 { 8 } else { 7 };
    assert_eq!(quoted[..hops], original[..hops]);
    assert_eq!(
        quoted[12..min_quote_len::<F>()],
        original[12..min_quote_len::<F>()]
    );
}

fn rfc5508_req10_rfc1812_each_client_gets_time_exceeded<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    for who in [F::ALICE, F::BOB] {
        for n in 0..30 {
            let probes = [
                udp(at(who, 33_000 + n), at(F::SERVER, 33_434), b"probe"),
                tcp(
                    at(who, 33_000 + n),
                    at(F::SERVER, 80),
                    (SYN, 1, 0),
                    &[],
                    b"",
                ),
                ping(who, F::SERVER, false, n),
            ];
            for probe in probes {
                let probe = with_hops(probe, 1);
                let Outcome::Reply { error, .. } = w.outbound(&mut probe.clone()) else {
                    panic!("{who}: probe {n} was not answered");
                };
                assert_checksums(&error);
                assert_eq!((error[F::IP], error[F::IP + 1]), F::TIME_EXCEEDED);
                let (from, to) = ends(&error);
                assert_eq!((from.ip(), to.ip()), (F::GATEWAY, who));
                assert_eq!(quote::<F>(&error), &probe[..]);
            }
        }
    }
    assert_eq!(
        w.nat.flows(w.now).count(),
        0,
        "an expired packet opens no flow"
    );
    assert_eq!(w.nat.counters().dropped(Reason::Expired), 180);
}

fn rfc1122_no_error_is_answered_with_an_error<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut sent = udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    let expired = |p| with_hops(p, 1);
    let cases = [
        (
            error::<F>(F::ALICE, F::LAN, &sent, min_quote_len::<F>()),
            false,
        ),
        (ping(F::ALICE, F::LAN, true, 1), false),
        (ping(F::ALICE, F::LAN, false, 1), true),
        (udp(at(F::ALICE, 5000), at(F::LAN, 1), b"x"), true),
    ];
    for (p, answered) in cases {
        let outcome = w.outbound(&mut expired(p));
        assert_eq!(matches!(outcome, Outcome::Reply { .. }), answered);
    }
    let later = later_fragment::<F>(at(F::ALICE, 5000), at(F::LAN, 1));
    assert_eq!(
        w.outbound(&mut expired(later)),
        Outcome::Drop(Reason::Expired)
    );
}

fn rfc5508_req11_redirects_source_quenches_and_neighbour_discovery_are_dropped<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut sent = udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    for &kind in F::NEVER {
        let mut p = icmp(
            F::SERVER,
            F::LAN,
            kind,
            [0; 4],
            &sent[..min_quote_len::<F>()],
        );
        assert_eq!(w.inbound(&mut p), Outcome::Drop(Reason::IcmpType));
    }
}

fn an_open_filter_does_not_make_senders_contacts<F: AddressFamily>() {
    let mut w = World::<F>::new(Settings {
        filtering: Filtering::EndpointIndependent,
        ..settings()
    });
    let client = at(F::ALICE, 5000);
    let port = w.send(udp(client, at(F::SERVER, 7053), b"x"));
    for (sender, known) in [(F::SERVER, true), (F::OTHER, false)] {
        let mut arrived = udp(at(sender, 53), at(F::LAN, port), b"x");
        assert!(matches!(w.inbound(&mut arrived), Outcome::Forward(_)));
        let mut error = icmp(F::ALICE, sender, F::PORT_UNREACHABLE, [0; 4], &arrived);
        let packet = Packet::parse(&mut error, Checksum::Complete).unwrap();
        assert_eq!(w.nat.answers_contact(&packet), known);
    }
}

both_families! {
    rfc5508_req1_queries_are_mapped_by_their_identifier,
    rfc5508_req2_queries_live_60_seconds,
    rfc5508_req4_rfc5382_req9_an_error_from_the_lan_reaches_the_client_with_its_own_packet_quoted,
    rfc5508_req3_options_and_extensions_of_the_quoted_header_are_skipped,
    rfc5508_req3_a_damaged_error_is_dropped_and_a_damaged_quote_of_l4_is_not,
    rfc5508_req5_an_error_from_a_client_reaches_the_sender_with_its_own_packet_quoted,
    rfc5508_req4_an_error_about_a_packet_that_was_never_sent_is_dropped,
    rfc4787_req12_rfc5382_req10_rfc5508_req6_no_error_ends_or_refreshes_a_mapping,
    rfc5508_req7_an_error_about_a_hairpinned_packet_is_hairpinned,
    rfc5508_req10_rfc1812_each_client_gets_time_exceeded,
    rfc1122_no_error_is_answered_with_an_error,
    rfc5508_req11_redirects_source_quenches_and_neighbour_discovery_are_dropped,
    an_open_filter_does_not_make_senders_contacts,
}
