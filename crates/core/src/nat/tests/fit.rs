//! RFC 4787 REQ-13 between clients: what is too big for the next tunnel.

use super::*;

fn assert_too_big(outcome: Outcome, (from, to): (IpAddr, IpAddr), about: &[u8]) {
    let Outcome::Reply { error, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_right(&error);
    assert_eq!((error[IP], error[IP + 1]), TOO_BIG);
    assert_eq!(error[IP + 4..IP + 8], 1420u32.to_be_bytes());
    assert_eq!((ends(&error).0.ip(), ends(&error).1.ip()), (from, to));
    assert_eq!(&error[IP + 8..], &about[..LONGEST_ERROR - IP - 8]);
}

#[test]
fn rfc4787_req9_rfc4787_req13_what_turns_and_is_too_big_is_told() {
    let mut w = World::new(settings());
    let (alice, bob) = (at(ALICE, 5000), at(BOB, 6000));
    let alices = w.leaves(udp(alice, at(SERVER, 7053), b"x"));
    let bobs = w.leaves(udp(bob, at(SERVER, 7053), b"x"));
    for (from, to) in [(alice, bobs), (bob, alices)] {
        w.out(&mut udp(from, at(LAN, to), b"x"));
    }
    let mut fits = udp(alice, at(LAN, bobs), &[7; 1420 - 8 - IP]);
    assert!(matches!(w.out(&mut fits), Outcome::Hairpin(_)));
    let big = udp(alice, at(LAN, bobs), &[7; 1421 - 8 - IP]);
    let outcome = w.out(&mut big.clone());
    assert_too_big(outcome, (GATEWAY, ALICE), &big);
    // To the LAN it may be as big as it likes.
    w.leaves(udp(alice, at(SERVER, 7053), &[7; 3000]));
}

#[test]
fn rfc4787_req13_what_is_routed_and_too_big_is_told() {
    let mut w = World::new(settings());
    let big = udp(at(ALICE, 5000), at(BOB, 53), &[7; 1421 - 8 - IP]);
    let mut bytes = big.clone();
    let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    let outcome = w.nat.route_out(&mut packet, Egress::Client, &Alone, w.now);
    assert_too_big(outcome, (GATEWAY, ALICE), &big);
    let outcome = w.nat.route_out(&mut packet, Egress::Lan, &Alone, w.now);
    assert_eq!(outcome, Outcome::Forward(None));
    let big = udp(at(SERVER, 7053), at(ALICE, 5000), &[7; 1421 - 8 - IP]);
    let mut bytes = big.clone();
    let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    let outcome = w.nat.route_in(&mut packet, &Alone, w.now);
    assert_too_big(outcome, (LAN, SERVER), &big);
}

#[test]
fn rfc4787_req13_what_is_routed_and_may_be_cut_is_cut() {
    let mut w = World::new(settings());
    let mut big = udp(
        at(super::super::ALICE, 5000),
        at(super::super::BOB, 53),
        &[7; 1421 - 28],
    );
    big[6] = 0;
    let mut packet = Packet::parse(&mut big, Checksum::Complete).unwrap();
    let outcome = w.nat.route_out(&mut packet, Egress::Client, &Alone, w.now);
    assert_eq!(outcome, Outcome::Held);
    let mut lens = Vec::new();
    while let Some(DeferredPacket::ToClient(piece)) = w.nat.poll_deferred() {
        let headers = Headers::parse(&piece).unwrap();
        assert_eq!(headers.ttl, 63);
        lens.push(headers.len - headers.l4);
    }
    assert_eq!(lens.len(), 2);
    assert_eq!(lens.iter().sum::<usize>(), 1421 - 20);
}
