//! IPv6 only: extension headers, the Fragment header (RFC 8200), Packet
//! Too Big (RFC 4443). RFC 4787 REQ-14 applies by analogy.

use super::v6::*;
use crate::nat::fragments::REASSEMBLY_TIMEOUT;
use proptest::prelude::*;

const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;
const HOP_BY_HOP: u8 = 0;

/// Builds an extension header of 8 bytes, filled with PadN.
fn padding(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

/// Inserts extension headers after the IP header; the first is of this kind.
fn with_headers(packet: &[u8], kind: u8, headers: &[u8]) -> Vec<u8> {
    let mut p = [&packet[..40], headers, &packet[40..]].concat();
    p[6] = kind;
    let len = p.len() as u16 - 40;
    p[4..6].copy_from_slice(&len.to_be_bytes());
    p
}

/// Fragments a packet into parts of at most `step` bytes. With `options` there are extension headers
/// before and after the Fragment header.
pub(super) fn fragments_of(packet: &[u8], id: u32, step: usize, options: bool) -> Vec<Vec<u8>> {
    let l4 = packet[6];
    let whole = match options {
        true => [&padding(l4)[..], &packet[40..]].concat(),
        false => packet[40..].to_vec(),
    };
    let next = if options { OPTIONS } else { l4 };
    let count = whole.chunks(step).count();
    let fragment = |(i, part): (usize, &[u8])| {
        let flags = (i * step) as u16 | u16::from(i + 1 < count);
        let mut headers = vec![next, 0];
        headers.extend(flags.to_be_bytes());
        headers.extend(id.to_be_bytes());
        let mut p = with_headers(&[&packet[..40], part].concat(), FRAGMENT, &headers);
        if options {
            p = with_headers(&p, HOP_BY_HOP, &padding(FRAGMENT));
        }
        p
    };
    whole.chunks(step).enumerate().map(fragment).collect()
}

/// Reassembles fragments in any order; returns the packet without extension headers and its
/// identification.
fn whole(fragments: &[Vec<u8>]) -> (Vec<u8>, u32) {
    let mut parts: Vec<_> = fragments
        .iter()
        .map(|p| {
            let headers = Headers::parse(p).unwrap();
            let f = headers.fragment.unwrap();
            (f.offset, f.more, f.id, &p[f.payload_start..], headers)
        })
        .collect();
    parts.sort_by_key(|p| p.0);
    let (_, _, id, _, first) = parts[0];
    let mut joined = Vec::new();
    for (i, (offset, more, same, part, headers)) in parts.iter().enumerate() {
        assert_eq!((usize::from(*offset), *same), (joined.len(), id));
        assert_eq!(*more, i + 1 < parts.len());
        assert_eq!((headers.src, headers.dst), (first.src, first.dst));
        joined.extend_from_slice(part);
    }
    let skipped = first.l4 - first.fragment.unwrap().payload_start;
    let protocol = match first.protocol {
        IpProtocol::Icmpv6 => IpProtocol::Icmp,
        other => other,
    };
    (ip(first.src, first.dst, protocol, &joined[skipped..]), id)
}

/// Sends a client's fragment; returns the fragments that leave for the LAN.
fn sends(w: &mut World, fragment: &[u8]) -> Vec<Vec<u8>> {
    let mut fragment = fragment.to_vec();
    let outcome = w.outbound(&mut fragment);
    let passed = matches!(outcome, Outcome::Forward(_)).then_some(fragment);
    passed.into_iter().chain(late(w)).collect()
}

/// Sends a fragment from the LAN; returns the fragments that reach clients.
fn receives(w: &mut World, fragment: &[u8]) -> Vec<Vec<u8>> {
    let mut fragment = fragment.to_vec();
    let outcome = w.inbound(&mut fragment);
    let passed = matches!(outcome, Outcome::Forward(_)).then_some(fragment);
    passed.into_iter().chain(late(w)).collect()
}

fn late(w: &mut World) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| w.nat.poll_deferred())
        .map(|(DeferredPacket::ToLan(p) | DeferredPacket::ToClient(p))| p)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rfc4787_req14_rfc8200_fragments_pass_in_any_order(order in Just((0..4).collect::<Vec<usize>>()).prop_shuffle(),
                                                      options in any::<bool>(), ping in any::<bool>()) {
        let mut w = World::new(settings());
        let make = |src: SocketAddr, dst: SocketAddr, reply| match ping {
            true => {
                let id = if reply { dst } else { src }.port().to_be_bytes();
                icmp(src.ip(), dst.ip(), (128 + u8::from(reply), 0), [id[0], id[1], 0, 1], &[3; 2000])
            }
            false => udp(src, dst, &[5; 2000]),
        };
        let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
        let parts = fragments_of(&make(client, server, false), 77, 512, options);
        prop_assert_eq!(parts.len(), 4);
        let out: Vec<_> = order.iter().flat_map(|i| sends(&mut w, &parts[*i])).collect();
        prop_assert_eq!(out.len(), 4);
        let (out, _) = whole(&out);
        assert_checksums(&out);
        prop_assert_eq!((ends(&out).0.ip(), ends(&out).1.ip()), (LAN, SERVER));

        let port = w.flow_of(client).unwrap().port;
        let parts = fragments_of(&make(server, at(LAN, port), true), 78, 512, options);
        let back: Vec<_> = order.iter().flat_map(|i| receives(&mut w, &parts[*i])).collect();
        prop_assert_eq!(back.len(), 4);
        let (back, id) = whole(&back);
        assert_checksums(&back);
        prop_assert_eq!((ends(&back).1, id), (client, 78));
        prop_assert!(w.nat.fragments.next().is_none(), "no datagram remains");
    }
}

#[test]
fn rfc8200_extension_headers_are_skipped() {
    let mut w = World::new(settings());
    let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
    for headers in [
        &padding(17)[..],
        &[padding(HOP_BY_HOP).as_slice(), &padding(17)].concat(),
        // A routing header without segments left (RFC 6275 section 6.4).
        &[&padding(43)[..], &[17, 0, 2, 0, 0, 0, 0, 0]].concat(),
    ] {
        let there = with_headers(&udp(client, server, b"x"), OPTIONS, headers);
        let port = w.send(there.clone());
        let back = with_headers(&udp(server, at(LAN, port), b"x"), OPTIONS, headers);
        assert_eq!(w.receive(back), Some(client));
    }
    assert_eq!(w.nat.flows(w.now).count(), 1);
}

#[test]
fn rfc4787_req14_rfc7112_rfc5722_tiny_and_overlapping_fragments_are_dropped() {
    let mut w = World::new(settings());
    let (client, server) = (at(ALICE, 5000), at(SERVER, 445));
    let connect = tcp(client, server, (SYN, 1, 0), &[], &[0; 100]);
    // The header chain ends in the second fragment.
    let parts = fragments_of(&connect, 1, 16, false);
    assert_eq!(
        w.outbound(&mut parts[0].clone()),
        Outcome::Drop(Reason::Truncated)
    );
    assert_eq!(
        w.outbound(&mut parts[1].clone()),
        Outcome::Drop(Reason::BadFragment)
    );
    let parts = fragments_of(&connect, 2, 24, true);
    assert_eq!(
        w.outbound(&mut parts[0].clone()),
        Outcome::Drop(Reason::Truncated)
    );
    assert_eq!(w.nat.flows(w.now).count(), 0);
    let datagram = udp(client, server, &[1; 1000]);
    let (wide, narrow) = (
        fragments_of(&datagram, 3, 512, false),
        fragments_of(&datagram, 3, 256, false),
    );
    assert_eq!(sends(&mut w, &wide[0]).len(), 1);
    assert_eq!(
        w.outbound(&mut narrow[1].clone()),
        Outcome::Drop(Reason::OverlappingFragment)
    );
}

#[test]
fn rfc6946_an_atomic_fragment_is_independent_of_all_others() {
    let mut w = World::new(settings());
    let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
    let parts = fragments_of(&udp(client, server, &[1; 1000]), 7, 512, false);
    assert!(sends(&mut w, &parts[1]).is_empty());
    let atomic = fragments_of(&udp(client, server, b"x"), 7, 512, false);
    assert_eq!(atomic.len(), 1);
    w.send(atomic[0].clone());
    assert_eq!(sends(&mut w, &parts[0]).len(), 2);
}

#[test]
fn rfc6864_rfc8200_section_4_5_clients_never_share_an_identification() {
    let mut w = World::new(settings());
    let mut ids = std::collections::HashSet::new();
    for client in [ALICE, BOB] {
        for _ in 0..20 {
            let parts = fragments_of(
                &udp(at(client, 5000), at(SERVER, 7053), &[1; 1000]),
                7,
                512,
                true,
            );
            let out: Vec<_> = parts.iter().flat_map(|p| sends(&mut w, p)).collect();
            let (out, id) = whole(&out);
            assert_checksums(&out);
            assert!(ids.insert(id));
        }
    }
    // An unfragmented packet has no identification field, and no byte of it is overwritten.
    let original = with_headers(
        &udp(at(ALICE, 5000), at(SERVER, 7053), b"x"),
        OPTIONS,
        &padding(17),
    );
    let mut p = original.clone();
    w.outbound(&mut p);
    assert_eq!(p[40..48], original[40..48]);
}

#[test]
fn rfc4787_req13_rfc4443_oversized_fragments_get_one_error_and_do_not_pass() {
    let mut w = World::new(settings());
    let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
    let port = w.send(udp(client, server, b"x"));
    let datagram = udp(server, at(LAN, port), &[1; 4000]);
    let large = fragments_of(&datagram, 1, 1448, false);
    let Outcome::Reply { error, .. } = w.inbound(&mut large[0].clone()) else {
        panic!()
    };
    assert_checksums(&error);
    assert_eq!((error[40], error[44..48].to_vec()), (2, vec![0, 0, 5, 140]));
    assert!(receives(&mut w, &large[1]).is_empty());
    w.advance(REASSEMBLY_TIMEOUT);
    // A first fragment that fits does not admit larger ones.
    for order in [[0, 1], [1, 0]] {
        let small = fragments_of(&datagram, 2, 512, false);
        let mut odd = fragments_of(&datagram, 2, 1448, false).remove(1);
        odd[42..44].copy_from_slice(&(512u16 | 1).to_be_bytes());
        let two = [small[0].clone(), odd];
        let arrived: usize = order.iter().map(|i| receives(&mut w, &two[*i]).len()).sum();
        assert_eq!(arrived, 1);
        w.advance(REASSEMBLY_TIMEOUT);
    }
}

#[test]
fn rfc4443_packet_too_big_keeps_its_mtu_both_ways() {
    let mut w = World::new(settings());
    let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
    let original = udp(client, server, &[7; 1300]);
    let mut sent = original.clone();
    w.outbound(&mut sent);
    let mtu = [0, 0, 5, 0];
    let mut error = icmp(neighbour(1), LAN, TOO_BIG, mtu, &sent[..1232]);
    assert_eq!(w.inbound(&mut error), Outcome::Forward(None));
    assert_checksums(&error);
    assert_eq!(ends_of_error(&error), (neighbour(1), ALICE));
    assert_eq!(
        (&error[44..48], &error[48..]),
        (&mtu[..], &original[..1232])
    );
    // The client is a site with a link of a smaller MTU.
    let port = ends(&sent).0.port();
    let original = udp(server, at(LAN, port), &[7; 1300]);
    let mut arrived = original.clone();
    w.inbound(&mut arrived);
    let mut error = icmp(ALICE, SERVER, TOO_BIG, mtu, &arrived[..1232]);
    assert_eq!(w.outbound(&mut error), Outcome::Forward(None));
    assert_checksums(&error);
    assert_eq!(ends_of_error(&error), (LAN, SERVER));
    assert_eq!(
        (&error[44..48], &error[48..]),
        (&mtu[..], &original[..1232])
    );
}

fn ends_of_error(error: &[u8]) -> (IpAddr, IpAddr) {
    let headers = Headers::parse(error).unwrap();
    (headers.src, headers.dst)
}

#[test]
fn without_an_ipv6_lan_address_ipv6_is_refused() {
    let mut w = World::new(Settings {
        address6: None,
        ..settings()
    });
    let p = udp(at(ALICE, 5000), at(SERVER, 7053), b"x");
    let Outcome::Reply { error, .. } = w.outbound(&mut p.clone()) else {
        panic!()
    };
    assert_checksums(&error);
    assert_eq!((error[40], error[41]), (1, 0), "no route");
    assert_eq!(ends_of_error(&error), (GATEWAY, ALICE));
    let mut back = udp(at(SERVER, 7053), at(LAN, 5000), b"x");
    assert_eq!(w.inbound(&mut back), Outcome::Drop(Reason::Family));
}

#[test]
fn icmp_of_the_other_family_is_dropped() {
    let mut w = World::new(settings());
    let cases = [
        (ip(super::ALICE, super::SERVER, IpProtocol::Icmpv6, &[128; 12])),
        (with_headers(&ip(ALICE, SERVER, IpProtocol::Udp, &[8; 12]), 1, &[])),
    ];
    for mut p in cases {
        assert_eq!(w.outbound(&mut p), Outcome::Drop(Reason::Protocol));
    }
    // An error of one family does not quote a packet of the other.
    let mut sent = udp(at(super::ALICE, 5000), at(super::SERVER, 7053), b"12345678");
    w.outbound(&mut sent);
    let mut error = icmp(SERVER, LAN, PORT_UNREACHABLE, [0; 4], &sent);
    assert_eq!(w.inbound(&mut error), Outcome::Drop(Reason::Quote));
}

#[test]
fn a_packet_that_the_rules_deny_is_administratively_prohibited() {
    let mut w = World::new(settings());
    let mut p = udp(at(ALICE, 5000), at(SERVER, 7053), b"x");
    let packet = Packet::parse(&mut p, Checksum::Complete).unwrap();
    let sender = sender_of(&packet);
    let error = w.nat.prohibit(&packet, sender, w.now).unwrap();
    assert_checksums(&error);
    assert_eq!((error[40], error[41]), (1, 1));
    assert_eq!(ends_of_error(&error), (GATEWAY, ALICE));
}

/// Forwards port 8443 to Alice's web server of this family.
fn web(alice: impl Into<IpAddr>) -> Forward {
    Forward {
        protocol: Protocol::Tcp,
        port: 8443,
        to: at(alice, 443),
        lan: None,
    }
}

#[test]
fn a_port_is_forwarded_in_each_family_separately() {
    let mut w = World::new(settings());
    let (four, six) = (web(super::ALICE), web(ALICE));
    let four_comes = |w: &mut World| {
        let (from, to) = (at(super::OTHER, 50000), at(super::LAN, 8443));
        w.receive(tcp(from, to, (SYN, 1, 0), &[], b""))
    };
    let six_comes =
        |w: &mut World| w.receive(tcp(at(OTHER, 50000), at(LAN, 8443), (SYN, 1, 0), &[], b""));
    w.nat.add_forward(four, w.now).unwrap();
    assert_eq!(
        (four_comes(&mut w), six_comes(&mut w)),
        (Some(four.to), None)
    );
    w.nat.add_forward(six, w.now).unwrap();
    assert_eq!(six_comes(&mut w), Some(six.to));
    assert_eq!(w.nat.flows(w.now).count(), 2);
    // Removed in one family, it remains reserved in the other.
    assert!(w.nat.remove_forward(four, w.now));
    assert_eq!(
        (four_comes(&mut w), six_comes(&mut w)),
        (None, Some(six.to))
    );
    let outside = w.nat.outside_of(&six).unwrap();
    assert!(!w.nat.ports.is_free(outside));
    assert!(w.nat.remove_forward(six, w.now));
    assert!(w.nat.ports.is_free(outside));
    assert_eq!(w.nat.flows(w.now).count(), 0);
}

#[test]
fn without_an_ipv6_lan_address_no_port_is_forwarded_to_ipv6() {
    let mut w = World::new(Settings {
        address6: None,
        ..settings()
    });
    let six = web(ALICE);
    let refused = w.nat.add_forward(six, w.now).unwrap_err();
    assert_eq!(refused, ForwardError::Family(six.to));
    assert!(refused.to_string().contains("set lan.address6"));
    w.nat.add_forward(web(super::ALICE), w.now).unwrap();
}

#[test]
fn rfc4787_req9_rfc4787_req14_fragments_are_hairpinned() {
    for order in [[0, 1], [1, 0]] {
        let mut w = World::new(settings());
        let (alice, bob) = (at(ALICE, 5000), at(BOB, 6000));
        let alice_port = w.send(udp(alice, at(SERVER, 7053), b"x"));
        let mut probe = udp(bob, at(LAN, alice_port), b"x");
        w.outbound(&mut probe);
        let bob_port = ends(&probe).0.port();
        let parts = fragments_of(&udp(alice, at(LAN, bob_port), &[4; 900]), 1, 512, true);
        let mut arrived = Vec::new();
        for i in order {
            let mut fragment = parts[i].clone();
            if matches!(w.outbound(&mut fragment), Outcome::Hairpin(_)) {
                arrived.push(fragment);
            }
            arrived.extend(late(&mut w));
        }
        assert!(arrived.iter().all(|p| Headers::parse(p).unwrap().ttl == 63));
        let (arrived, _) = whole(&arrived);
        assert_checksums(&arrived);
        assert_eq!(ends(&arrived), (at(LAN, alice_port), bob));
        assert!(w.nat.fragments.next().is_none());
    }
}

#[test]
fn rfc4443_an_error_about_an_unknown_protocol_points_to_its_next_header_field() {
    let mut w = World::new(settings());
    let plain = ip(SERVER, LAN, IpProtocol::Unknown(47), b"gre gre gre");
    let cases = [
        (plain.clone(), 6),
        (with_headers(&plain, OPTIONS, &padding(47)), 40),
        (
            with_headers(
                &plain,
                HOP_BY_HOP,
                &[padding(OPTIONS), padding(47)].concat(),
            ),
            48,
        ),
    ];
    for (mut packet, pointer) in cases {
        let Outcome::Reply { error, .. } = w.inbound(&mut packet) else {
            panic!("no error");
        };
        assert_checksums(&error);
        assert_eq!(error[40..42], [4, 1]);
        assert_eq!(error[44..48], u32::to_be_bytes(pointer));
        assert_eq!(error[48..], packet);
    }
    // No Next Header (RFC 8200 section 4.7).
    let mut empty = ip(SERVER, LAN, IpProtocol::Ipv6NoNxt, b"");
    assert_eq!(w.inbound(&mut empty), Outcome::Drop(Reason::Protocol));
}

#[test]
fn rfc4787_req14_the_longest_datagram_passes_both_ways() {
    let payload: Vec<u8> = (0..65_507u32).map(|i| (i * 7) as u8).collect();
    for backwards in [false, true] {
        let mut w = World::new(settings());
        let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
        let order = |mut parts: Vec<Vec<u8>>| {
            if backwards {
                parts.reverse();
            }
            parts
        };
        let bytes =
            |fragments: &[Vec<u8>]| -> usize { fragments.iter().map(|p| p.len() - 48).sum() };
        let mut passed = Vec::new();
        for mut fragment in order(fragments_of(
            &udp(client, server, &payload),
            77,
            1232,
            false,
        )) {
            if let Outcome::Forward(_) = w.outbound(&mut fragment) {
                passed.push(fragment);
            }
            while let Some(DeferredPacket::ToLan(fragment)) = w.nat.poll_deferred() {
                passed.push(fragment);
            }
        }
        assert_eq!(bytes(&passed), 8 + payload.len());
        let port = w.flow_of(client).unwrap().port;
        let answer = udp(server, at(LAN, port), &payload);
        passed.clear();
        for mut fragment in order(fragments_of(&answer, 78, 1232, false)) {
            if let Outcome::Forward(_) = w.inbound(&mut fragment) {
                passed.push(fragment);
            }
            while let Some(DeferredPacket::ToClient(fragment)) = w.nat.poll_deferred() {
                passed.push(fragment);
            }
        }
        assert_eq!(bytes(&passed), 8 + payload.len());
        assert!(w.nat.fragments.next().is_none(), "no datagram remains");
    }
}
