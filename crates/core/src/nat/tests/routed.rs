//! Packets without translation: RFC 6888 REQ-6, and packets between clients.

use super::*;

fn route<F: AddressFamily>(w: &mut World<F>, bytes: &mut [u8], to: Egress) -> Outcome {
    let mut packet = Packet::parse(bytes, Checksum::Complete).unwrap();
    let sender = sender_of(&packet);
    w.nat
        .route_out(&mut packet, to, sender, &OneAddressPeers, w.now)
}

fn route_in<F: AddressFamily>(w: &mut World<F>, bytes: &mut [u8]) -> Outcome {
    let mut packet = Packet::parse(bytes, Checksum::Complete).unwrap();
    w.nat.route_in(&mut packet, &OneAddressPeers, w.now)
}

/// Returns a datagram in two fragments.
fn fragments_of<F: AddressFamily>(src: IpAddr, dst: IpAddr) -> [Vec<u8>; 2] {
    let whole = udp(at(src, 5000), at(dst, 53), &[7; 40]);
    F::in_fragments(&whole, 7, 24).try_into().unwrap()
}

fn rfc6888_req6_packets_routed_to_the_lan_are_not_modified<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    for original in [
        udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"x"),
        tcp(
            at(F::ALICE, 5000),
            at(F::SERVER, 80),
            (ACK, 1, 1),
            &[],
            b"x",
        ),
        ping(F::ALICE, F::SERVER, true, 7),
        ip(F::ALICE, F::SERVER, IpProtocol::Unknown(47), b"anything"),
    ] {
        let mut packet = original.clone();
        assert_eq!(
            route(&mut w, &mut packet, Egress::Lan),
            Outcome::Forward(None)
        );
        assert_eq!(packet, original);
    }
    assert_eq!(w.nat.flows(w.now).count(), 0);
    assert_eq!(w.nat.counters().outbound, 4);
}

fn between_clients_the_ttl_is_decremented_and_its_expiry_reported<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut packet = udp(at(F::ALICE, 5000), at(F::BOB, 53), b"x");
    assert!(matches!(
        route(&mut w, &mut packet, Egress::Client),
        Outcome::Hairpin(_)
    ));
    assert_checksums(&packet);
    assert_eq!(Headers::parse(&packet).unwrap().ttl, 63);
    assert_eq!(ends(&packet), (at(F::ALICE, 5000), at(F::BOB, 53)));
    for to in [Egress::Client, Egress::Lan] {
        let mut last = with_hops(udp(at(F::ALICE, 5000), at(F::BOB, 53), b"x"), 1);
        let Outcome::Reply { error, .. } = route(&mut w, &mut last, to) else {
            panic!("no answer");
        };
        assert_checksums(&error);
        assert_eq!(
            (ends(&error).0.ip(), ends(&error).1.ip()),
            (F::GATEWAY, F::ALICE)
        );
        assert_eq!((error[F::IP], error[F::IP + 1]), F::TIME_EXCEEDED);
    }
    assert_eq!(w.nat.counters().dropped(Reason::Expired), 2);
}

fn rfc4787_req14_routed_fragments_wait_for_the_first<F: AddressFamily>() {
    for order in [[0, 1], [1, 0]] {
        let mut w = World::<F>::new(settings());
        let mut arrived = Vec::new();
        for index in order {
            let mut fragment = fragments_of::<F>(F::ALICE, F::BOB)[index].clone();
            match route(&mut w, &mut fragment, Egress::Client) {
                Outcome::Hairpin(_) => arrived.push(fragment),
                outcome => assert_eq!((index, outcome), (1, Outcome::Held)),
            }
        }
        while let Some(late) = w.nat.poll_deferred() {
            let DeferredPacket::ToClient(fragment) = late else {
                panic!("the packet is not for a client");
            };
            arrived.push(fragment);
        }
        assert_eq!(arrived.len(), 2);
        for fragment in arrived {
            let headers = Headers::parse(&fragment).unwrap();
            assert_eq!(
                (headers.src, headers.dst, headers.ttl),
                (F::ALICE, F::BOB, 63)
            );
            assert!(
                F::ALICE.is_ipv6() || Ipv4Packet::new_unchecked(&fragment[..]).verify_checksum()
            );
        }
    }
    // Without the first fragment it is held.
    let mut w = World::<F>::new(settings());
    let [_, mut second] = fragments_of::<F>(F::ALICE, F::BOB);
    assert_eq!(route(&mut w, &mut second, Egress::Client), Outcome::Held);
    w.advance(MINUTE);
    assert_eq!(w.nat.poll_deferred(), None);
}

fn rfc4787_req14_routed_fragments_of_the_lan_pass_in_any_order<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let [mut first, mut second] = fragments_of::<F>(F::SERVER, F::ALICE);
    assert_eq!(route_in(&mut w, &mut second), Outcome::Held);
    assert_eq!(route_in(&mut w, &mut first), Outcome::Forward(None));
    assert_eq!(
        w.nat.poll_deferred(),
        Some(DeferredPacket::ToClient(second))
    );
}

fn rfc4787_req14_tiny_first_fragments_are_dropped<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let segment = ip(F::ALICE, F::BOB, IpProtocol::Tcp, &[0; 32]);
    let mut tiny = F::in_fragments(&segment, 7, 16).remove(0);
    let outcome = route(&mut w, &mut tiny, Egress::Client);
    assert_eq!(outcome, Outcome::Drop(Reason::Truncated));
}

fn mss_is_clamped_both_ways_in_routed_packets<F: AddressFamily>() {
    let mss = |bytes: &[u8]| u16::from_be_bytes([bytes[F::IP + 22], bytes[F::IP + 23]]);
    let option = [2, 4, 0x05, 0xB4]; // 1460
    let mut w = World::<F>::new(settings());
    let mut out = tcp(
        at(F::ALICE, 5000),
        at(F::SERVER, 80),
        (SYN, 1, 0),
        &option,
        b"",
    );
    assert_eq!(route(&mut w, &mut out, Egress::Lan), Outcome::Forward(None));
    let mut back = tcp(
        at(F::SERVER, 80),
        at(F::ALICE, 5000),
        (SYN | ACK, 1, 2),
        &option,
        b"",
    );
    assert_eq!(route_in(&mut w, &mut back), Outcome::Forward(None));
    for packet in [out, back] {
        assert_checksums(&packet);
        assert_eq!(mss(&packet), 1400 - F::IP as u16);
    }
}

both_families! {
    rfc6888_req6_packets_routed_to_the_lan_are_not_modified,
    between_clients_the_ttl_is_decremented_and_its_expiry_reported,
    rfc4787_req14_routed_fragments_wait_for_the_first,
    rfc4787_req14_routed_fragments_of_the_lan_pass_in_any_order,
    rfc4787_req14_tiny_first_fragments_are_dropped,
    mss_is_clamped_both_ways_in_routed_packets,
}
