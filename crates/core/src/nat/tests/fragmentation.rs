//! Datagrams that the NAT fragments (RFC 4787 REQ-13), and their identification (RFC 6864).

use super::fragments::{fragments_of, whole};
use super::v4::*;

#[test]
fn rfc4787_req13_an_oversized_packet_without_df_is_fragmented() {
    for (checksum, payload) in [(Checksum::Complete, 3000), (Checksum::Partial, 1393)] {
        let mut w = World::new(settings());
        let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
        let port = w.send(udp(client, server, b"x"));
        let mut p = udp(server, at(LAN, port), &vec![5; payload]);
        let mut view = Ipv4Packet::new_unchecked(&mut p[..]);
        view.set_dont_frag(false);
        view.fill_checksum();
        if checksum == Checksum::Partial {
            use smoltcp::wire::checksum::{combine, data};
            let pseudo = combine(&[
                data(&super::SERVER.octets()),
                data(&super::LAN.octets()),
                17,
                8 + payload as u16,
            ]);
            p[26..28].copy_from_slice(&pseudo.to_be_bytes());
        }
        let mut packet = Packet::parse(&mut p, checksum).unwrap();
        assert_eq!(
            w.nat.inbound(&mut packet, &OneAddressPeers, w.now),
            Outcome::Held
        );
        let fragments: Vec<_> = std::iter::from_fn(|| w.nat.poll_deferred())
            .map(|late| match late {
                DeferredPacket::ToClient(fragment) => fragment,
                DeferredPacket::ToLan(_) => panic!(),
            })
            .collect();
        assert!(fragments.len() > 1 && fragments.iter().all(|p| p.len() <= 1420));
        let whole = whole(&fragments);
        assert_checksums(&whole);
        assert_eq!(
            (ends(&whole), whole.len()),
            ((server, client), 28 + payload)
        );
    }
}

#[test]
fn rfc4787_req13_an_oversized_super_packet_is_fragmented_segment_by_segment() {
    let mut w = World::new(settings());
    let (client, server) = (at(ALICE, 5000), at(SERVER, 7053));
    let port = w.send(udp(client, server, b"x"));
    let mut many = udp(server, at(LAN, port), &[5; 4500]);
    let mut view = Ipv4Packet::new_unchecked(&mut many[..]);
    view.set_dont_frag(false);
    view.fill_checksum();
    let mut packet = Packet::parse(&mut many, Checksum::Partial).unwrap();
    packet.segment = Some(1500);
    assert_eq!(
        w.nat.inbound(&mut packet, &OneAddressPeers, w.now),
        Outcome::Held
    );
    let late: Vec<_> = std::iter::from_fn(|| w.nat.poll_deferred()).collect();
    assert_eq!(late.len(), 6);
    for pair in late.chunks(2) {
        let pair: Vec<_> = pair
            .iter()
            .map(|late| match late {
                DeferredPacket::ToClient(fragment) => fragment.clone(),
                DeferredPacket::ToLan(_) => panic!(),
            })
            .collect();
        let datagram = whole(&pair);
        assert_checksums(&datagram);
        assert_eq!(
            (ends(&datagram), datagram.len()),
            ((server, client), 28 + 1500)
        );
    }
}

#[test]
fn rfc6864_shards_never_share_an_identification() {
    let mut ids = std::collections::HashSet::new();
    for shard in ShardId::all(3) {
        let mut w = World::new(Settings {
            shard,
            ..settings()
        });
        for _ in 0..2000 {
            let mut p = udp(at(ALICE, 5000), at(SERVER, 7053), b"x");
            p[6] = 0;
            assert!(matches!(w.outbound(&mut p), Outcome::Forward(_)));
            assert!(ids.insert(Ipv4Packet::new_unchecked(&p[..]).ident()));
        }
    }
}

#[test]
fn rfc6864_clients_never_share_an_identification() {
    let mut w = World::new(settings());
    let mut ids = std::collections::HashSet::new();
    for port in 0..100 {
        for client in [ALICE, BOB] {
            let mut p = udp(at(client, 5000 + port), at(SERVER, 7053), b"x");
            let mut view = Ipv4Packet::new_unchecked(&mut p[..]);
            view.set_dont_frag(false);
            view.fill_checksum();
            assert!(matches!(w.outbound(&mut p), Outcome::Forward(_)));
            assert_checksums(&p);
            assert!(ids.insert(Ipv4Packet::new_unchecked(&p[..]).ident()));
            let parts = fragments_of(
                &udp(at(client, 5000 + port), at(SERVER, 7053), &[0; 1000]),
                7,
                576,
            );
            let out: Vec<_> = parts.iter().flat_map(|p| w.send_fragment(p)).collect();
            assert!(ids.insert(Ipv4Packet::new_unchecked(&out[0][..]).ident()));
            assert_checksums(&whole(&out));
        }
    }
    // Each segment of a super-packet has its own identification.
    let mut send = |payload: usize| {
        let mut p = tcp(
            at(ALICE, 1),
            at(SERVER, 445),
            (ACK, 1, 1),
            &[],
            &vec![0; payload],
        );
        p[6] = 0;
        let mut packet = Packet::parse(&mut p, Checksum::Complete).unwrap();
        let sender = sender_of(&packet);
        packet.segment = Some(1000);
        w.nat.outbound(&mut packet, sender, &OneAddressPeers, w.now);
        Ipv4Packet::new_unchecked(&p[..]).ident()
    };
    let first = send(10_000);
    assert!(send(1).wrapping_sub(first) >= 10);
    // An atomic datagram keeps its identification (section 4.1).
    let mut p = udp(at(ALICE, 5000), at(SERVER, 7053), b"x");
    w.outbound(&mut p);
    assert_eq!(Ipv4Packet::new_unchecked(&p[..]).ident(), 0x1234);
}
