//! RFC 4787 REQ-13 between clients: packets that are too long for the next tunnel.

use super::*;

fn assert_too_big<F: AddressFamily>(outcome: Outcome, (from, to): (IpAddr, IpAddr), about: &[u8]) {
    let Outcome::Reply { error, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_checksums(&error);
    assert_eq!((error[F::IP], error[F::IP + 1]), F::TOO_BIG);
    assert_eq!(error[F::IP + 4..F::IP + 8], 1420u32.to_be_bytes());
    assert_eq!((ends(&error).0.ip(), ends(&error).1.ip()), (from, to));
    assert_eq!(&error[F::IP + 8..], &about[..F::LONGEST_ERROR - F::IP - 8]);
}

fn rfc4787_req9_rfc4787_req13_an_oversized_hairpinned_packet_is_refused_with_the_mtu<
    F: AddressFamily,
>() {
    let mut w = World::<F>::new(settings());
    let (alice, bob) = (at(F::ALICE, 5000), at(F::BOB, 6000));
    let alice_port = w.send(udp(alice, at(F::SERVER, 7053), b"x"));
    let bob_port = w.send(udp(bob, at(F::SERVER, 7053), b"x"));
    for (from, to) in [(alice, bob_port), (bob, alice_port)] {
        w.outbound(&mut udp(from, at(F::LAN, to), b"x"));
    }
    let mut fits = udp(alice, at(F::LAN, bob_port), &vec![7; 1420 - 8 - F::IP]);
    assert!(matches!(w.outbound(&mut fits), Outcome::Hairpin(_)));
    let big = udp(alice, at(F::LAN, bob_port), &vec![7; 1421 - 8 - F::IP]);
    let outcome = w.outbound(&mut big.clone());
    assert_too_big::<F>(outcome, (F::GATEWAY, F::ALICE), &big);
    // The tunnel's MTU does not apply towards the LAN.
    w.send(udp(alice, at(F::SERVER, 7053), &[7; 3000]));
}

fn rfc4787_req13_an_oversized_routed_packet_is_refused_with_the_mtu<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let big = udp(
        at(F::ALICE, 5000),
        at(F::BOB, 53),
        &vec![7; 1421 - 8 - F::IP],
    );
    let mut bytes = big.clone();
    let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    let sender = sender_of(&packet);
    let outcome = w
        .nat
        .route_out(&mut packet, Egress::Client, sender, &OneAddressPeers, w.now);
    assert_too_big::<F>(outcome, (F::GATEWAY, F::ALICE), &big);
    let outcome = w
        .nat
        .route_out(&mut packet, Egress::Lan, sender, &OneAddressPeers, w.now);
    assert_eq!(outcome, Outcome::Forward(None));
    let big = udp(
        at(F::SERVER, 7053),
        at(F::ALICE, 5000),
        &vec![7; 1421 - 8 - F::IP],
    );
    let mut bytes = big.clone();
    let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    let outcome = w.nat.route_in(&mut packet, &OneAddressPeers, w.now);
    assert_too_big::<F>(outcome, (F::LAN, F::SERVER), &big);
}

fn rfc4787_req13_an_oversized_routed_packet_without_df_is_fragmented<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut big = udp(at(super::ALICE, 5000), at(super::BOB, 53), &[7; 1421 - 28]);
    big[6] = 0;
    let mut packet = Packet::parse(&mut big, Checksum::Complete).unwrap();
    let sender = sender_of(&packet);
    let outcome = w
        .nat
        .route_out(&mut packet, Egress::Client, sender, &OneAddressPeers, w.now);
    assert_eq!(outcome, Outcome::Held);
    let mut lens = Vec::new();
    while let Some(DeferredPacket::ToClient(fragment)) = w.nat.poll_deferred() {
        let headers = Headers::parse(&fragment).unwrap();
        assert_eq!(headers.ttl, 63);
        lens.push(headers.len - headers.l4);
    }
    assert_eq!(lens.len(), 2);
    assert_eq!(lens.iter().sum::<usize>(), 1421 - 20);
}

both_families! {
    rfc4787_req9_rfc4787_req13_an_oversized_hairpinned_packet_is_refused_with_the_mtu,
    rfc4787_req13_an_oversized_routed_packet_is_refused_with_the_mtu,
    rfc4787_req13_an_oversized_routed_packet_without_df_is_fragmented,
}
