//! RFC 4787 REQ-5 and REQ-6: the lifetimes of UDP sessions.

use super::*;

fn rfc4787_req5_rfc4787_req6_udp_lives_five_minutes_after_the_last_packet_of_the_client<
    F: AddressFamily,
>() {
    let mut w = World::<F>::new(settings());
    let (client, server) = (at(F::ALICE, 5000), at(F::SERVER, 7053));
    let port = w.send(udp(client, server, b"x"));
    w.advance(4 * MINUTE);
    assert_eq!(w.send(udp(client, server, b"x")), port);
    w.advance(5 * MINUTE - Duration::from_millis(1));
    // Packets from the LAN do not refresh it.
    assert_eq!(w.receive(udp(server, at(F::LAN, port), b"y")), Some(client));
    w.advance(Duration::from_millis(1));
    assert_eq!(w.receive(udp(server, at(F::LAN, port), b"y")), None);
    assert_eq!(w.nat.flows(w.now).count(), 0);
    assert!(w.nat.poll_closed().is_some());
    assert_eq!(w.nat.counters().dropped(Reason::NoMapping), 1);
}

fn rfc4787_req5_rfc6888_req8_a_dns_query_releases_its_port_soon<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let (client, server) = (at(F::ALICE, 5000), at(F::SERVER, 53));
    let port = w.send(udp(client, server, b"x"));
    w.advance(Duration::from_millis(29_999));
    assert_eq!(w.receive(udp(server, at(F::LAN, port), b"y")), Some(client));
    w.advance(Duration::from_millis(1));
    assert_eq!(w.nat.flows(w.now).count(), 0);
    // So a resolver can use 10 new ports per second indefinitely.
    for number in 0..10 * 600 {
        let port = 2000 + number % 5000;
        w.send(udp(at(F::ALICE, port), server, b"x"));
        w.advance(Duration::from_millis(100));
    }
}

fn rfc4787_req6_the_lan_refreshes_a_udp_session_only_if_configured<F: AddressFamily>() {
    for may in [false, true] {
        let mut w = World::<F>::new(settings());
        let (client, server) = (at(F::ALICE, 5000), at(F::SERVER, 7053));
        let port = w.send(udp(client, server, b"subscribe"));
        let echo = w.send(ping(F::ALICE, F::SERVER, false, 7));
        w.nat.update_settings(AdjustableSettings {
            filtering: Filtering::AddressDependent,
            on_unsolicited: OnUnsolicited::Reject,
            timeouts: Timeouts {
                udp_inbound_refresh: may,
                ..Timeouts::default()
            },
            limits: Limits::default(),
        });
        for second in 1..900_u64 {
            w.advance(Duration::from_secs(1));
            let arrived = w.receive(udp(server, at(F::LAN, port), b"news"));
            assert_eq!(arrived.is_some(), may || second < 300, "{second} s");
            // A query expires 60 s after the client's last packet (RFC 5508 REQ-2).
            let arrived = w.receive(ping(F::SERVER, F::LAN, true, echo));
            assert_eq!(arrived.is_some(), second < 60, "{second} s");
        }
        w.advance(5 * MINUTE);
        assert_eq!(w.nat.flows(w.now).count(), 0);
    }
}

fn rfc4787_req6_one_session_keeps_the_mapping_for_all<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let client = at(F::ALICE, 5000);
    let port = w.send(udp(client, at(F::SERVER, 7053), b"x"));
    for _ in 0..3 {
        w.advance(4 * MINUTE);
        assert_eq!(w.send(udp(client, at(F::OTHER, 7053), b"x")), port);
    }
    // The filter no longer admits the silent server.
    assert_eq!(
        w.receive(udp(at(F::SERVER, 7053), at(F::LAN, port), b"y")),
        None
    );
    assert_eq!(
        w.receive(udp(at(F::OTHER, 7053), at(F::LAN, port), b"y")),
        Some(client)
    );
}

both_families! {
    rfc4787_req5_rfc4787_req6_udp_lives_five_minutes_after_the_last_packet_of_the_client,
    rfc4787_req5_rfc6888_req8_a_dns_query_releases_its_port_soon,
    rfc4787_req6_the_lan_refreshes_a_udp_session_only_if_configured,
    rfc4787_req6_one_session_keeps_the_mapping_for_all,
}
