//! RFC 4787 REQ-14: fragments that arrive.

use super::v4::*;
use crate::nat::endpoint::Side;
use crate::nat::fragments::Reassembly;
use proptest::prelude::*;
use vcgate_wire::fragment;

/// Clears DF and fragments a datagram.
pub(super) fn fragments_of(datagram: &[u8], id: u16, mtu: u16) -> Vec<Vec<u8>> {
    let mut bytes = datagram.to_vec();
    let mut view = Ipv4Packet::new_unchecked(&mut bytes[..]);
    view.set_dont_frag(false);
    view.set_ident(id);
    view.fill_checksum();
    fragment::fragment(&Packet::parse(&mut bytes, Checksum::Complete).unwrap(), mtu)
}

/// Reassembles a datagram from fragments in any order, as its receiver does.
pub(super) fn whole(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut fragments: Vec<_> = fragments
        .iter()
        .map(|p| Ipv4Packet::new_checked(&p[..]).unwrap())
        .collect();
    fragments.sort_by_key(Ipv4Packet::frag_offset);
    let ids: std::collections::HashSet<_> = fragments.iter().map(Ipv4Packet::ident).collect();
    assert_eq!(ids.len(), 1);
    let first = &fragments[0];
    let mut l4 = Vec::new();
    for (i, fragment) in fragments.iter().enumerate() {
        assert!(fragment.verify_checksum());
        assert_eq!(usize::from(fragment.frag_offset()), l4.len());
        assert_eq!(fragment.more_frags(), i + 1 < fragments.len());
        assert_eq!(
            (fragment.src_addr(), fragment.dst_addr()),
            (first.src_addr(), first.dst_addr())
        );
        l4.extend_from_slice(fragment.payload());
    }
    ip(first.src_addr(), first.dst_addr(), first.next_header(), &l4)
}

impl World {
    /// Sends a client's fragment; returns the fragments that leave for the LAN.
    pub(super) fn send_fragment(&mut self, fragment: &[u8]) -> Vec<Vec<u8>> {
        let mut fragment = fragment.to_vec();
        let outcome = self.outbound(&mut fragment);
        let passed = matches!(outcome, Outcome::Forward(_)).then_some(fragment);
        let late = std::iter::from_fn(|| self.nat.poll_deferred()).map(|late| match late {
            DeferredPacket::ToLan(fragment) => fragment,
            DeferredPacket::ToClient(_) => panic!(),
        });
        passed.into_iter().chain(late).collect()
    }

    /// Sends a fragment from the LAN, or a hairpinned one; returns the fragments that reach clients.
    fn receive_fragment(&mut self, mut fragment: Vec<u8>, from: Side) -> Vec<Vec<u8>> {
        let outcome = match from {
            Side::Lan => self.inbound(&mut fragment),
            Side::Inside => self.outbound(&mut fragment),
        };
        let passed =
            matches!(outcome, Outcome::Forward(_) | Outcome::Hairpin(_)).then_some(fragment);
        let late = std::iter::from_fn(|| self.nat.poll_deferred()).map(|late| match late {
            DeferredPacket::ToClient(fragment) => fragment,
            DeferredPacket::ToLan(_) => panic!(),
        });
        passed.into_iter().chain(late).collect()
    }
}

#[test]
fn rfc4787_req14_the_longest_datagram_passes_both_ways() {
    // The maximum payload of a UDP datagram (RFC 768).
    let payload: Vec<u8> = (0..65_507u32).map(|i| (i * 7) as u8).collect();
    for backwards in [false, true] {
        let mut w = World::new(settings());
        let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
        let mut parts = fragments_of(&udp(client, server, &payload), 77, 1420);
        if backwards {
            parts.reverse();
        }
        let out: Vec<_> = parts
            .iter()
            .flat_map(|fragment| w.send_fragment(fragment))
            .collect();
        assert_eq!(out.len(), parts.len());
        assert!(w.nat.fragments.next().is_none(), "no datagram remains");

        // A host of the LAN has an MTU of 1500, and the kernel fragments each of its fragments again.
        let port = w.flow_of(client).unwrap().port;
        let answer = udp(server, at(LAN, port), &payload);
        let parts = fragments_of(&answer, 78, 1500).into_iter();
        let mut parts: Vec<_> = parts.flat_map(|fragment| refragment(&fragment)).collect();
        if backwards {
            parts.reverse();
        }
        let arrived = parts.into_iter();
        let arrived: Vec<_> = arrived
            .flat_map(|p| w.receive_fragment(p, Side::Lan))
            .collect();
        let arrived = whole(&arrived);
        assert_checksums(&arrived);
        assert_eq!(arrived[IP + 8..], payload);
        assert!(w.nat.fragments.next().is_none(), "no datagram remains");
    }
}

/// Fragments a fragment that is too long for the tunnel, as the kernel does.
fn refragment(fragment: &[u8]) -> Vec<Vec<u8>> {
    let mut bytes = fragment.to_vec();
    fragment::fragment(
        &Packet::parse(&mut bytes, Checksum::Complete).unwrap(),
        1420,
    )
}

#[test]
fn rfc4787_req14_a_flood_of_tiny_fragments_is_bounded() {
    let mut w = World::new(settings());
    let port = w.send(udp(at(ALICE, 5000), at(SERVER, 7053), b"x"));
    let answer = udp(at(SERVER, 7053), at(LAN, port), &[7; 60_000]);
    // Without the first fragment all others would be held.
    let tiny = fragments_of(&answer, 9, IP as u16 + 8).split_off(1);
    let outcomes = tiny
        .into_iter()
        .map(|mut fragment| w.inbound(&mut fragment));
    let held = outcomes.filter(|o| *o == Outcome::Held).count();
    assert_eq!(held, 256);
    assert!(w.nat.counters().dropped(Reason::FragmentFlood) > 7000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rfc4787_req14_fragments_pass_in_any_order(order in Just((0..5).collect::<Vec<usize>>()).prop_shuffle(),
                                              ping in any::<bool>()) {
        let mut w = World::new(settings());
        let payload: Vec<u8> = (0..2500u32).map(|i| (i * 7) as u8).collect();
        let (datagram, there, back): (_, _, Box<dyn Fn(u16) -> Vec<u8>>) = if ping {
            let echo = |src, dst, kind, id: u16| {
                let [a, b] = id.to_be_bytes();
                icmp(src, dst, (kind, 0), [a, b, 0, 1], &[3; 2500])
            };
            (echo(ALICE, SERVER, 8, 5000), SERVER, Box::new(move |port| echo(SERVER, LAN, 0, port)))
        } else {
            let server = at(SERVER, 7053);
            let answer = payload.clone();
            (udp(at(ALICE, 5000), server, &payload), SERVER,
             Box::new(move |port| udp(server, at(LAN, port), &answer)))
        };
        let parts = fragments_of(&datagram, 77, 576);
        prop_assert_eq!(parts.len(), 5);
        let out: Vec<_> = order.iter().flat_map(|i| w.send_fragment(&parts[*i])).collect();
        prop_assert_eq!(out.len(), 5);
        let out = whole(&out);
        assert_checksums(&out);
        prop_assert_eq!((ends(&out).0.ip(), ends(&out).1.ip()), (LAN, there));

        let answer = back(w.flow_of(at(ALICE, 5000)).unwrap().port);
        let parts = fragments_of(&answer, 78, 576);
        let back: Vec<_> = order.iter().flat_map(|i| w.receive_fragment(parts[*i].clone(), Side::Lan)).collect();
        prop_assert_eq!(back.len(), 5);
        let back = whole(&back);
        assert_checksums(&back);
        prop_assert_eq!(ends(&back).1, at(ALICE, 5000));
        prop_assert!(w.nat.fragments.next().is_none(), "no datagram remains");
    }
}

#[test]
fn rfc4787_req14_fragments_for_an_unmapped_port_are_dropped() {
    let mut w = World::new(settings());
    let parts = fragments_of(&udp(at(SERVER, 7053), at(LAN, 5555), &[1; 2000]), 1, 576);
    for fragment in parts.iter().rev() {
        assert!(w.receive_fragment(fragment.clone(), Side::Lan).is_empty());
    }
    assert_eq!(w.nat.counters().dropped(Reason::NoMapping), 1);
    assert_eq!(w.nat.counters().held, 3);
    w.advance(crate::nat::fragments::REASSEMBLY_TIMEOUT);
    assert_eq!(w.nat.next_timeout(), None);
}

#[test]
fn rfc4787_req14_a_client_s_later_fragments_wait_for_the_first() {
    let limits = Limits {
        ports: 0,
        ..Limits::default()
    };
    let mut w = World::new(Settings {
        limits,
        ..settings()
    });
    let parts = fragments_of(&udp(at(ALICE, 5000), at(SERVER, 7053), &[1; 2000]), 1, 576);
    for i in [1, 0, 2, 3] {
        assert!(w.send_fragment(&parts[i]).is_empty());
    }
    assert_eq!(w.nat.counters().dropped(Reason::NoPort), 1);
}

#[test]
fn rfc4787_req9_rfc4787_req14_fragments_are_hairpinned() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut w = World::new(settings());
        let (alice, bob) = (at(ALICE, 5000), at(BOB, 6000));
        let alice_port = w.send(udp(alice, at(SERVER, 7053), b"x"));
        let mut probe = udp(bob, at(LAN, alice_port), b"x");
        w.outbound(&mut probe);
        let bob_port = ends(&probe).0.port();
        let parts = fragments_of(&udp(alice, at(LAN, bob_port), &[4; 1200]), 1, 576);
        let arrived: Vec<_> = order
            .iter()
            .flat_map(|i| w.receive_fragment(parts[*i].clone(), Side::Inside))
            .collect();
        assert_eq!(arrived.len(), 3);
        let arrived = whole(&arrived);
        assert_checksums(&arrived);
        assert_eq!(ends(&arrived), (at(LAN, alice_port), bob));
        assert!(w.nat.fragments.next().is_none());
    }
}

#[test]
fn rfc4787_req14_rfc3128_tiny_and_overlapping_fragments_are_dropped() {
    let mut w = World::new(settings());
    let connect = tcp(
        at(ALICE, 5000),
        at(SERVER, 445),
        (SYN, 1, 0),
        &[],
        &[0; 100],
    );
    // A first fragment of 8 bytes, without the flags, and a second inside the header.
    let parts = fragments_of(&connect, 1, 28);
    assert_eq!(
        w.outbound(&mut parts[0].clone()),
        Outcome::Drop(Reason::Truncated)
    );
    assert_eq!(
        w.outbound(&mut parts[1].clone()),
        Outcome::Drop(Reason::BadFragment)
    );
    assert_eq!(w.nat.flows(w.now).count(), 0);
    // A second fragment that overlaps the end of the first.
    let datagram = udp(at(ALICE, 5000), at(SERVER, 7053), &[1; 1000]);
    let (wide, narrow) = (
        fragments_of(&datagram, 2, 576),
        fragments_of(&datagram, 2, 300),
    );
    assert_eq!(w.send_fragment(&wide[0]).len(), 1);
    assert_eq!(
        w.outbound(&mut narrow[1].clone()),
        Outcome::Drop(Reason::OverlappingFragment)
    );
    assert_eq!(
        w.outbound(&mut wide[0].clone()),
        Outcome::Drop(Reason::OverlappingFragment)
    );
    // A fragment after the last one, or another last one.
    let long = fragments_of(&udp(at(ALICE, 5000), at(SERVER, 7053), &[1; 2000]), 2, 576);
    assert_eq!(w.send_fragment(&wide[1]).len(), 1);
    let longer = fragments_of(&udp(at(ALICE, 5000), at(SERVER, 54), &[1; 1000]), 3, 576);
    assert_eq!(w.outbound(&mut longer[1].clone()), Outcome::Held);
    let beyond = fragments_of(&udp(at(ALICE, 5000), at(SERVER, 54), &[1; 2000]), 3, 576);
    assert_eq!(
        w.outbound(&mut beyond[3].clone()),
        Outcome::Drop(Reason::OverlappingFragment)
    );
    // A last fragment before one that was received, and one in the middle whose length is not a multiple of 8.
    let fragment = |offset, more, len| {
        let mut p = udp(at(ALICE, 5000), at(SERVER, 7053), &vec![0; len]);
        let mut view = Ipv4Packet::new_unchecked(&mut p[..]);
        view.clear_flags();
        view.set_ident(9);
        view.set_more_frags(more);
        view.set_frag_offset(offset);
        view.fill_checksum();
        p
    };
    assert_eq!(w.outbound(&mut fragment(1024, true, 64 - 8)), Outcome::Held);
    assert_eq!(
        w.outbound(&mut fragment(512, false, 64 - 8)),
        Outcome::Drop(Reason::OverlappingFragment)
    );
    assert_eq!(
        w.outbound(&mut fragment(512, true, 60 - 8)),
        Outcome::Drop(Reason::BadFragment)
    );
    // A fragment beyond the maximum length of a datagram.
    let mut last = long[3].clone();
    let mut view = Ipv4Packet::new_unchecked(&mut last[..]);
    view.set_frag_offset(65528);
    view.fill_checksum();
    assert_eq!(w.outbound(&mut last), Outcome::Drop(Reason::BadFragment));
}

#[test]
fn rfc4787_req14_a_flood_of_fragments_harms_only_the_flooder() {
    let mut w = World::new(settings());
    let port = w.send(udp(at(ALICE, 5000), at(SERVER, 7053), b"x"));
    let good = fragments_of(&udp(at(SERVER, 7053), at(LAN, port), &[1; 1000]), 1, 576);
    assert!(w.receive_fragment(good[1].clone(), Side::Lan).is_empty());
    for id in 0..3000 {
        let flood = fragments_of(&udp(at(OTHER, 1), at(LAN, 5555), &[1; 1000]), id, 576);
        assert!(w.receive_fragment(flood[1].clone(), Side::Lan).is_empty());
    }
    assert_eq!(w.nat.counters().dropped(Reason::FragmentFlood), 3000 - 256);
    assert_eq!(w.receive_fragment(good[0].clone(), Side::Lan).len(), 2);
}

#[test]
fn rfc4787_req14_a_server_s_datagrams_to_a_crowd_arrive() {
    let mut w = World::new(settings());
    let clients = (0..200).map(|n| at(client(1, n), 5000));
    let ports = clients.map(|from| (from, w.send(udp(from, at(SERVER, 7053), b"x"))));
    let ports: Vec<_> = ports.collect();
    let datagrams = (0..).zip(&ports).map(|(id, (_, port))| {
        fragments_of(&udp(at(SERVER, 7053), at(LAN, *port), &[1; 1000]), id, 576)
    });
    let datagrams: Vec<_> = datagrams.collect();
    // The first fragments of all before the second ones.
    for index in 0..2 {
        for ((inside, _), datagram) in ports.iter().zip(&datagrams) {
            let arrived = w.receive_fragment(datagram[index].clone(), Side::Lan);
            assert_eq!(arrived.len(), 1, "{inside}");
        }
    }
}

#[test]
fn rfc4787_req14_a_crowd_s_datagrams_leave() {
    let mut w = World::new(settings());
    let datagrams = (0..500u16).map(|n| {
        let from = at(client(1 + (n >> 8) as u8, n as u8), 5000);
        fragments_of(&udp(from, at(SERVER, 7053), &[1; 1000]), n, 576)
    });
    let datagrams: Vec<_> = datagrams.collect();
    for index in 0..2 {
        for datagram in &datagrams {
            assert_eq!(w.send_fragment(&datagram[index]).len(), 1);
        }
    }
}

#[test]
fn rfc4787_req14_a_flood_from_many_senders_is_bounded_and_evicts_the_oldest() {
    let mut w = World::new(settings());
    let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
    let port = w.send(udp(client, server, b"x"));
    let good = |id| fragments_of(&udp(server, at(LAN, port), &[1; 1000]), id, 576);
    let (early, late) = (good(1), good(2));
    let own = fragments_of(&udp(client, server, &[1; 1000]), 3, 576);
    // A datagram that was accepted before the flood, and one that waits on the other side.
    assert_eq!(w.receive_fragment(early[0].clone(), Side::Lan).len(), 1);
    assert!(w.send_fragment(&own[1]).is_empty());
    for n in 0..3000u16 {
        let [a, b] = n.to_be_bytes();
        let flood = udp(at([172, 16, a, b], 1), at(LAN, 5555), &[1; 1000]);
        let fragment = fragments_of(&flood, 1, 576).remove(1);
        assert!(w.receive_fragment(fragment, Side::Lan).is_empty());
    }
    assert_eq!(w.nat.fragments.len(), 1024 + 1);
    assert_eq!(w.receive_fragment(early[1].clone(), Side::Lan).len(), 1);
    assert_eq!(w.send_fragment(&own[0]).len(), 2);
    assert!(w.receive_fragment(late[1].clone(), Side::Lan).is_empty());
    assert_eq!(w.receive_fragment(late[0].clone(), Side::Lan).len(), 2);
}

#[test]
fn rfc4787_req9_rfc4787_req14_a_flood_of_hairpinned_fragments_harms_only_the_flooder() {
    let mut w = World::new(settings());
    let (alice, bob) = (at(ALICE, 5000), at(BOB, 6000));
    let alice_port = w.send(udp(alice, at(SERVER, 7053), b"x"));
    let bob_port = w.send(udp(bob, at(SERVER, 7053), b"x"));
    for (from, to) in [(alice, bob_port), (bob, alice_port)] {
        w.outbound(&mut udp(from, at(LAN, to), b"x"));
    }
    for id in 0..32 {
        let first = fragments_of(&udp(alice, at(LAN, bob_port), &[4; 1200]), id, 576).remove(0);
        assert_eq!(w.receive_fragment(first, Side::Inside).len(), 1);
    }
    let replies = fragments_of(&udp(bob, at(LAN, alice_port), &[4; 1000]), 1, 576);
    for fragment in replies {
        assert_eq!(w.receive_fragment(fragment, Side::Inside).len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_watched_datagram_is_reassembled(
        order in Just((0..5).collect::<Vec<usize>>()).prop_shuffle(),
        v6 in any::<bool>(),
    ) {
        let mut w = World::new(settings());
        let (client, server) = match v6 {
            false => (at(ALICE, 5000), at(SERVER, 445)),
            true => (at(ALICE6, 5000), at(SERVER6, 445)),
        };
        let payload: Vec<u8> = (0..2500u32).map(|i| (i * 7) as u8).collect();
        let segment = tcp(client, server, (ACK, 1, 1), &[], &payload);
        let parts = match v6 {
            false => fragments_of(&segment, 77, 576),
            true => ipv6::fragments_of(&segment, 77, 552, false),
        };
        prop_assert_eq!(parts.len(), 5);
        let mut first_came = false;
        for (n, index) in order.iter().enumerate() {
            first_came |= *index == 0;
            let mut fragment = parts[*index].clone();
            let mut packet = Packet::parse(&mut fragment, Checksum::Complete).unwrap();
            let sender = sender_of(&packet);
            match w.nat.reassemble(&packet, *index == 0, sender, &OneAddressPeers, w.now) {
                // Its destination is not known yet: it is held like all others.
                Reassembly::Separate => {
                    prop_assert!(!first_came);
                    prop_assert_eq!(w.nat.outbound(&mut packet, sender, &OneAddressPeers, w.now), Outcome::Held);
                }
                Reassembly::Stopped(outcome) => prop_assert_eq!((first_came, outcome), (true, Outcome::Held)),
                Reassembly::Whole(whole) => {
                    prop_assert_eq!(n, 4);
                    assert_checksums(&whole);
                    prop_assert_eq!(ends(&whole), (client, server));
                    prop_assert!(whole.ends_with(&payload));
                    w.send(whole);
                }
            }
        }
        prop_assert_eq!(w.nat.flows(w.now).count(), 1);
        prop_assert_eq!((w.nat.fragments.len(), w.nat.poll_deferred()), (0, None));
    }
}
