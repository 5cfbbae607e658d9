//! Requirements for the NAT as a whole (RFC 4787, 6888, 7857).

use super::*;
use std::collections::HashSet;

fn rfc4787_req2_rfc6888_req2_all_of_a_client_s_flows_come_from_one_address<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut seen = HashSet::new();
    for n in 0..200 {
        let client = at(F::ALICE, 3000 + n);
        for mut p in [
            udp(client, at(F::SERVER, 7053 + n), b"x"),
            tcp(client, at(F::OTHER, 80), (SYN, 1, 0), &[], b""),
            ping(F::ALICE, F::OTHER, false, n),
        ] {
            assert!(matches!(w.outbound(&mut p), Outcome::Forward(Some(_))));
            seen.insert(ends(&p).0.ip());
        }
    }
    assert_eq!(seen, HashSet::from([F::LAN]));
}

fn rfc4787_req10_rfc5382_req6_payloads_are_not_modified<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    // Payloads that gateways for FTP and SIP would rewrite.
    let (alice, server) = (F::ALICE, F::SERVER);
    let ftp = format!("PORT {alice},19,136\r\n");
    let sip = format!("REGISTER sip:{server} SIP/2.0\r\nContact: <sip:anna@{alice}:5060>\r\n");
    for port in [21, 5060] {
        for payload in [ftp.as_bytes(), sip.as_bytes()] {
            let (client, server) = (at(F::ALICE, port), at(F::SERVER, port));
            for mut p in [
                udp(client, server, payload),
                tcp(client, server, (ACK, 1, 1), &[], payload),
            ] {
                assert!(matches!(w.outbound(&mut p), Outcome::Forward(Some(_))));
                assert_eq!(p[p.len() - payload.len()..], *payload);
            }
        }
    }
}

fn rfc4787_req11_behaviour_does_not_depend_on_the_number_of_flows<F: AddressFamily>() {
    let limits = Limits {
        ports: 64,
        new_sessions: u32::MAX,
        ..Limits::default()
    };
    let mut w = World::<F>::new(Settings {
        limits,
        blocks: 100..101,
        ..settings()
    });
    let mut given = Vec::new();
    for n in 0..64 {
        let client = at(F::ALICE, 5000 + n);
        given.push(w.send(udp(client, at(F::SERVER, 7053), b"x")));
        for (known, port) in (0..=n).zip(&given) {
            // Endpoint-independent mapping, address-dependent filtering.
            let client = at(F::ALICE, 5000 + known);
            assert_eq!(w.send(udp(client, at(F::SERVER, 1000 + n), b"x")), *port);
            let answer = |from, number| udp(at(from, number), at(F::LAN, *port), b"y");
            assert_eq!(w.receive(answer(F::SERVER, 7)), Some(client));
            assert_eq!(w.receive(answer(F::OTHER, 7053)), None);
        }
    }
}

fn rfc7857_section5_tcp_and_udp_of_one_endpoint_have_separate_mappings<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let (client, server) = (at(F::ALICE, 5000), at(F::SERVER, 7053));
    let port = w.send(udp(client, server, b"x"));
    let syn = tcp(server, at(F::LAN, port), (SYN, 1, 0), &[], b"");
    assert_eq!(
        w.inbound(&mut syn.clone()),
        Outcome::Held,
        "not mapped for TCP"
    );
    let by_tcp = w.send(tcp(client, server, (SYN, 1, 0), &[], b""));
    let udp_port = |w: &World<F>| w.flow_of(client).map(|f| (f.protocol, f.port));
    assert_eq!(udp_port(&w), Some((Protocol::Udp, port)));
    w.advance(4 * MINUTE);
    let left: Vec<_> = w.nat.flows(w.now).map(|f| f.protocol).collect();
    assert_eq!(
        left,
        [Protocol::Udp],
        "only the TCP flow on port {by_tcp} expired"
    );
}

fn flows_are_listed_in_parts_and_counted_by_client<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    for number in 0..30 {
        w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 53 + number), b"x"));
        if number < 7 {
            w.send(udp(at(F::BOB, 5000), at(F::SERVER, 53 + number), b"x"));
        }
    }
    let parts = (0..w.nat.slot_count()).step_by(8).map(|at| at..at + 8);
    let listed = parts.flat_map(|slots| w.nat.flows_in(slots, w.now));
    let ids: Vec<_> = listed.map(|flow| flow.id).collect();
    assert_eq!(ids, Vec::from_iter(w.nat.flows(w.now).map(|flow| flow.id)));
    let mut counts: Vec<_> = w.nat.clients().collect();
    counts.sort();
    assert_eq!(counts, [(F::ALICE, 30), (F::BOB, 7)]);
}

both_families! {
    rfc4787_req2_rfc6888_req2_all_of_a_client_s_flows_come_from_one_address,
    rfc4787_req10_rfc5382_req6_payloads_are_not_modified,
    rfc4787_req11_behaviour_does_not_depend_on_the_number_of_flows,
    rfc7857_section5_tcp_and_udp_of_one_endpoint_have_separate_mappings,
    flows_are_listed_in_parts_and_counted_by_client,
}
