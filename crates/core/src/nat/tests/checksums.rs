//! Checksums of translated packets: RFC 1624, RFC 3022 and RFC 8200.

use super::*;

/// Returns the checksum field that the kernel leaves: the folded pseudo-header sum.
fn pseudo(src: IpAddr, dst: IpAddr, protocol: u16, len: usize) -> [u8; 2] {
    use smoltcp::wire::checksum::{combine, data};
    let sum = |ip| match ip {
        IpAddr::V4(ip) => data(&ip.octets()),
        IpAddr::V6(ip) => data(&ip.octets()),
    };
    combine(&[sum(src), sum(dst), protocol, len as u16]).to_be_bytes()
}

fn rfc1624_rfc3022_rfc8200_udp_without_checksum_stays_without_and_is_dropped_in_ipv6<
    F: AddressFamily,
>() {
    let mut w = World::<F>::new(settings());
    let port = w.send(udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"x"));
    let mut there = udp(at(F::ALICE, 5000), at(F::SERVER, 7053), b"x");
    let mut back = udp(at(F::SERVER, 7053), at(F::LAN, port), b"x");
    let checksum = F::IP + 6..F::IP + 8;
    there[checksum.clone()].fill(0);
    back[checksum.clone()].fill(0);
    for (outcome, p) in [
        (w.outbound(&mut there), &there),
        (w.inbound(&mut back), &back),
    ] {
        match F::ALICE {
            IpAddr::V4(_) => assert!(matches!(outcome, Outcome::Forward(Some(_)))),
            IpAddr::V6(_) => assert_eq!(outcome, Outcome::Drop(Reason::NoChecksum)),
        }
        assert_eq!(p[checksum.clone()], [0, 0]);
    }
}

fn rfc1624_a_damaged_packet_stays_damaged<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let mut p = tcp(
        at(F::ALICE, 5000),
        at(F::SERVER, 445),
        (SYN, 1, 0),
        &[2, 4, 0xFF, 0xFF],
        b"",
    );
    p[F::IP + 16] ^= 0x55;
    assert!(matches!(w.outbound(&mut p), Outcome::Forward(_)));
    let tcp = TcpPacket::new_checked(&p[F::IP..]).unwrap();
    assert!(!tcp.verify_checksum(&F::LAN.into(), &F::SERVER.into()));
}

fn rfc1624_a_partial_checksum_follows_the_address_and_not_the_port<F: AddressFamily>() {
    let mut w = World::<F>::new(settings());
    let (client, server) = (at(F::ALICE, 5000), at(F::SERVER, 445));
    let port = w.send(tcp(client, server, (SYN, 1, 0), &[], b""));
    let lan = at(F::LAN, port);
    // The partial sum does not cover a clamped MSS either.
    let syn = tcp(server, lan, (SYN | ACK, 1, 2), &[2, 4, 5, 0xB4], b"");
    let data = tcp(server, lan, (ACK, 2, 2), &[], b"payload");
    let port = w.send(udp(client, server, b"x"));
    let datagram = udp(server, at(F::LAN, port), b"payload");
    for (mut p, protocol, field) in [
        (syn, 6, F::IP + 16),
        (data, 6, F::IP + 16),
        (datagram, 17, F::IP + 6),
    ] {
        let len = p.len() - F::IP;
        p[field..field + 2].copy_from_slice(&pseudo(F::SERVER, F::LAN, protocol, len));
        let mut packet = Packet::parse(&mut p, Checksum::Partial).unwrap();
        let outcome = w.nat.inbound(&mut packet, &OneAddressPeers, w.now);
        assert!(matches!(outcome, Outcome::Forward(_)));
        assert_eq!(packet.headers.dst, F::ALICE);
        assert_eq!(
            p[field..field + 2],
            pseudo(F::SERVER, F::ALICE, protocol, len)
        );
        assert_eq!(ends(&p).1, client);
    }
}

both_families! {
    rfc1624_rfc3022_rfc8200_udp_without_checksum_stays_without_and_is_dropped_in_ipv6,
    rfc1624_a_damaged_packet_stays_damaged,
    rfc1624_a_partial_checksum_follows_the_address_and_not_the_port,
}
