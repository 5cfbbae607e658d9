//! The requirements of RFC 5508 (ICMP).

use super::*;

/// Builds a port unreachable that quotes `quoted` bytes of `about`.
fn error(from: IpAddr, to: IpAddr, about: &[u8], quoted: usize) -> Vec<u8> {
    let quoted = &about[..about.len().min(quoted)];
    icmp(from, to, PORT_UNREACHABLE, [0; 4], quoted)
}

fn quote(bytes: &[u8]) -> &[u8] {
    &bytes[IP + 8..]
}

/// Returns the minimum quote of RFC 792: the IP header and 8 bytes.
const LEAST: usize = IP + 8;

/// Builds a query or reply of this type.
fn query(src: IpAddr, dst: IpAddr, kind: u8, id: u16) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, (kind, 0), [a, b, 0, 1], &[7; 12])
}

#[test]
fn rfc5508_req1_queries_are_mapped_by_their_identifier() {
    for [asks, answers] in QUERIES {
        let mut w = World::new(settings());
        let id = w.send(query(ALICE, SERVER, asks, 77));
        assert_eq!(w.send(query(ALICE, OTHER, asks, 77)), id);
        let bobs = w.send(query(BOB, SERVER, asks, 77));
        assert_ne!(bobs, id);
        let answer = |from, id| query(from, LAN, answers, id);
        assert_eq!(w.receive(answer(SERVER, id)), Some(at(ALICE, 77)));
        assert_eq!(w.receive(answer(SERVER, bobs)), Some(at(BOB, 77)));
        assert_eq!(w.receive(answer(neighbour(50), id)), None);
        // The LAN does not query clients, and clients do not reply without a query.
        assert_eq!(w.receive(query(SERVER, LAN, asks, id)), None);
        assert_eq!(
            w.outbound(&mut query(ALICE, SERVER, answers, 77)),
            Outcome::Drop(Reason::IcmpType)
        );
    }
}

#[test]
fn rfc5508_req2_queries_live_60_seconds() {
    for [asks, answers] in QUERIES {
        let mut w = World::new(settings());
        let id = w.send(query(ALICE, SERVER, asks, 77));
        w.advance(Duration::from_millis(59_999));
        assert!(w.receive(query(SERVER, LAN, answers, id)).is_some());
        w.advance(Duration::from_millis(1));
        assert!(w.receive(query(SERVER, LAN, answers, id)).is_none());
    }
}

#[test]
fn rfc5508_req4_rfc5382_req9_an_error_from_the_lan_reaches_the_client_with_its_own_packet_quoted() {
    let router = neighbour(1);
    let mut w = World::new(settings());
    let originals = [
        udp(at(ALICE, 5000), at(SERVER, 7053), &[9; 600]),
        tcp(at(ALICE, 5000), at(SERVER, 445), (SYN, 1, 0), &[], b""),
        ping(ALICE, SERVER, false, 5000),
    ];
    for original in originals {
        for quoted in [LEAST, LEAST + 1, IP + 20, IP + 21, 548] {
            let mut sent = original.clone();
            assert!(matches!(w.outbound(&mut sent), Outcome::Forward(_)));
            let mut error = error(router, LAN, &sent, quoted);
            assert_eq!(w.inbound(&mut error), Outcome::Forward(None));
            assert_checksums(&error);
            let (from, to) = ends(&error);
            assert_eq!((from.ip(), to.ip()), (router, ALICE));
            let quote = quote(&error);
            assert_eq!(quote, &original[..quote.len()]);
        }
    }
}

#[test]
fn rfc5508_req3_options_and_extensions_of_the_quoted_header_are_skipped() {
    let mut w = World::new(settings());
    let mut sent = udp(at(ALICE, 5000), at(SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    let mut with = sent[..IP].to_vec();
    match ALICE {
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
    with.extend(&sent[IP..IP + 8]);
    let mut error = error(SERVER, LAN, &with, IP + 16);
    assert_eq!(w.inbound(&mut error), Outcome::Forward(None));
    assert_checksums(&error);
    let quoted = quote(&error);
    if ALICE.is_ipv4() {
        assert!(Ipv4Packet::new_unchecked(quoted).verify_checksum());
    }
    assert_eq!(Headers::parse_quote(quoted).unwrap().src, ALICE);
    assert_eq!(quoted[IP + 8..IP + 10], 5000u16.to_be_bytes());
}

#[test]
fn rfc5508_req3_a_damaged_error_is_dropped_and_a_damaged_quote_of_l4_is_not() {
    let mut w = World::new(settings());
    let mut sent = udp(at(ALICE, 5000), at(SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    let whole = error(SERVER, LAN, &sent, sent.len());
    for at in IP..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x11;
        let kind = at - IP < 2
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
    for (at, passes) in [(8, IP == 40), (IP + 6, true), (IP + 9, true)] {
        let mut quoted = sent.clone();
        quoted[at] ^= 0x11;
        let mut error = error(SERVER, LAN, &quoted, quoted.len());
        let dropped = Outcome::Drop(Reason::BadChecksum);
        assert_eq!(w.inbound(&mut error) != dropped, passes, "{at}");
    }
    // The same applies to an error from a client.
    let port = ends(&sent).0.port();
    let mut got = udp(at(SERVER, 7053), at(LAN, port), b"12345678");
    w.inbound(&mut got);
    let mut damaged = error(ALICE, SERVER, &got, LEAST);
    damaged[IP + 5] ^= 1;
    assert_eq!(w.outbound(&mut damaged), Outcome::Drop(Reason::BadChecksum));
}

#[test]
fn rfc5508_req5_an_error_from_a_client_reaches_the_sender_with_its_own_packet_quoted() {
    let mut w = World::new(settings());
    let port = w.send(udp(at(ALICE, 5000), at(SERVER, 7053), b"x"));
    for from in [53, 99] {
        let original = udp(at(SERVER, from), at(LAN, port), b"12345678");
        let mut got = original.clone();
        assert!(matches!(w.inbound(&mut got), Outcome::Forward(_)));
        let mut error = error(ALICE, SERVER, &got, LEAST);
        assert_eq!(w.outbound(&mut error), Outcome::Forward(None));
        assert_checksums(&error);
        let (src, dst) = ends(&error);
        assert_eq!((src.ip(), dst.ip()), (LAN, SERVER));
        assert_eq!(quote(&error), &original[..LEAST]);
    }
}

#[test]
fn rfc5508_req4_an_error_about_a_packet_that_was_never_sent_is_dropped() {
    let mut w = World::new(settings());
    let port = w.send(udp(at(ALICE, 5000), at(SERVER, 7053), b"x"));
    let cases = [
        udp(at(LAN, port), at(OTHER, 7053), b"12345678"),
        udp(at(LAN, port), at(SERVER, 54), b"12345678"),
        udp(at(LAN, port ^ 1), at(SERVER, 7053), b"12345678"),
        udp(at(OTHER, port), at(SERVER, 7053), b"12345678"),
        tcp(at(LAN, port), at(SERVER, 7053), (SYN, 1, 0), &[], b""),
        ping(LAN, SERVER, true, port),
    ];
    for about in cases {
        assert_eq!(
            w.inbound(&mut error(SERVER, LAN, &about, LEAST)),
            Outcome::Drop(Reason::Quote)
        );
    }
    // A client's error about a packet that it cannot have received.
    let never = udp(at(OTHER, 7053), at(ALICE, 5000), b"12345678");
    assert_eq!(
        w.outbound(&mut error(ALICE, OTHER, &never, LEAST)),
        Outcome::Drop(Reason::Quote)
    );
    // A later fragment has no ports.
    let later = later_fragment(at(LAN, port), at(SERVER, 7053));
    assert_eq!(
        w.inbound(&mut error(SERVER, LAN, &later, LEAST)),
        Outcome::Drop(Reason::Quote)
    );
    // Truncated before the 8 bytes that RFC 792 requires.
    let about = udp(at(LAN, port), at(SERVER, 7053), b"12345678");
    assert_eq!(
        w.inbound(&mut error(SERVER, LAN, &about, LEAST - 1)),
        Outcome::Drop(Reason::Quote)
    );
    // From a client, to another host than the packet's sender.
    let mut got = udp(at(SERVER, 7053), at(LAN, port), b"12345678");
    w.inbound(&mut got);
    assert_eq!(
        w.outbound(&mut error(ALICE, OTHER, &got, LEAST)),
        Outcome::Drop(Reason::Quote)
    );
    assert_eq!(
        w.outbound(&mut error(
            BOB,
            SERVER,
            &udp(at(SERVER, 7053), at(BOB, 5000), b"12345678"),
            LEAST
        )),
        Outcome::Drop(Reason::Quote)
    );
}

/// Builds a later fragment.
fn later_fragment(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let mut p = udp(src, dst, b"12345678");
    if IP == 20 {
        p[7] = 2;
        return p;
    }
    p[6] = 44;
    p.splice(IP..IP, [17, 0, 0, 16, 1, 2, 3, 4]);
    p[5] += 8;
    p
}

#[test]
fn rfc4787_req12_rfc5382_req10_rfc5508_req6_no_error_ends_or_refreshes_a_mapping() {
    let mut w = World::new(settings());
    let mut sent = udp(at(ALICE, 5000), at(SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    w.advance(4 * MINUTE);
    for kind in ERRORS {
        let mut error = icmp(SERVER, LAN, kind, [0; 4], &sent[..LEAST]);
        assert_eq!(w.inbound(&mut error), Outcome::Forward(None));
    }
    let port = ends(&sent).0.port();
    let mut got = udp(at(SERVER, 7053), at(LAN, port), b"12345678");
    w.inbound(&mut got);
    assert_eq!(
        w.outbound(&mut error(ALICE, SERVER, &got, LEAST)),
        Outcome::Forward(None)
    );
    assert_eq!(w.flow_of(at(ALICE, 5000)).unwrap().idle, 4 * MINUTE);
    w.advance(MINUTE);
    assert_eq!(w.nat.flows(w.now).count(), 0);
}

#[test]
fn rfc5508_req7_an_error_about_a_hairpinned_packet_is_hairpinned() {
    let mut w = World::new(settings());
    let (alice, bob) = (at(ALICE, 5000), at(BOB, 6000));
    let alices = w.send(udp(alice, at(SERVER, 7053), b"x"));
    let mut first = udp(bob, at(LAN, alices), b"x");
    assert_eq!(w.outbound(&mut first), Outcome::Drop(Reason::Filtered));
    let bobs = ends(&first).0.port();
    let original = udp(alice, at(LAN, bobs), b"12345678");
    let mut hairpinned = original.clone();
    assert!(matches!(w.outbound(&mut hairpinned), Outcome::Hairpin(_)));
    let mut error = error(BOB, LAN, &hairpinned, LEAST);
    assert!(matches!(w.outbound(&mut error), Outcome::Hairpin(_)));
    assert_checksums(&error);
    let (src, dst) = ends(&error);
    assert_eq!((src.ip(), dst.ip()), (LAN, ALICE));
    let quoted = quote(&error);
    // The quote differs only in the decremented TTL (RFC 1812 section 4.3.2.3) and the checksum.
    let hops = if IP == 20 { 8 } else { 7 };
    assert_eq!(quoted[..hops], original[..hops]);
    assert_eq!(quoted[12..LEAST], original[12..LEAST]);
}

#[test]
fn rfc5508_req10_rfc1812_each_client_gets_time_exceeded() {
    let mut w = World::new(settings());
    for who in [ALICE, BOB] {
        for n in 0..30 {
            let probes = [
                udp(at(who, 33_000 + n), at(SERVER, 33_434), b"probe"),
                tcp(at(who, 33_000 + n), at(SERVER, 80), (SYN, 1, 0), &[], b""),
                ping(who, SERVER, false, n),
            ];
            for probe in probes {
                let probe = with_hops(probe, 1);
                let Outcome::Reply { error, .. } = w.outbound(&mut probe.clone()) else {
                    panic!("{who}: probe {n} was not answered");
                };
                assert_checksums(&error);
                assert_eq!((error[IP], error[IP + 1]), TIME_EXCEEDED);
                let (from, to) = ends(&error);
                assert_eq!((from.ip(), to.ip()), (GATEWAY, who));
                assert_eq!(quote(&error), &probe[..]);
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

#[test]
fn rfc1122_no_error_is_answered_with_an_error() {
    let mut w = World::new(settings());
    let mut sent = udp(at(ALICE, 5000), at(SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    let expired = |p| with_hops(p, 1);
    let cases = [
        (error(ALICE, LAN, &sent, LEAST), false),
        (ping(ALICE, LAN, true, 1), false),
        (ping(ALICE, LAN, false, 1), true),
        (udp(at(ALICE, 5000), at(LAN, 1), b"x"), true),
    ];
    for (p, answered) in cases {
        let outcome = w.outbound(&mut expired(p));
        assert_eq!(matches!(outcome, Outcome::Reply { .. }), answered);
    }
    let later = later_fragment(at(ALICE, 5000), at(LAN, 1));
    assert_eq!(
        w.outbound(&mut expired(later)),
        Outcome::Drop(Reason::Expired)
    );
}

#[test]
fn rfc5508_req11_redirects_source_quenches_and_neighbour_discovery_are_dropped() {
    let mut w = World::new(settings());
    let mut sent = udp(at(ALICE, 5000), at(SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    for kind in NEVER {
        let mut p = icmp(SERVER, LAN, kind, [0; 4], &sent[..LEAST]);
        assert_eq!(w.inbound(&mut p), Outcome::Drop(Reason::IcmpType));
    }
}

#[test]
fn an_open_filter_does_not_make_senders_contacts() {
    let mut w = World::new(Settings {
        filtering: Filtering::EndpointIndependent,
        ..settings()
    });
    let client = at(ALICE, 5000);
    let port = w.send(udp(client, at(SERVER, 7053), b"x"));
    for (sender, known) in [(SERVER, true), (OTHER, false)] {
        let mut came = udp(at(sender, 53), at(LAN, port), b"x");
        assert!(matches!(w.inbound(&mut came), Outcome::Forward(_)));
        let mut error = icmp(ALICE, sender, PORT_UNREACHABLE, [0; 4], &came);
        let packet = Packet::parse(&mut error, Checksum::Complete).unwrap();
        assert_eq!(w.nat.answers_contact(&packet), known);
    }
}
