//! What holds for every packet.

use super::*;
use proptest::prelude::*;

/// The same packet from its receiver to its sender; its checksums stay right.
fn mirror(bytes: &mut [u8]) {
    for i in 0..4 {
        bytes.swap(12 + i, 16 + i);
    }
    if bytes[9] == 1 {
        // An echo request became the reply to it, or back.
        let mut icmp = Icmpv4Packet::new_unchecked(&mut bytes[20..]);
        let other = if u8::from(icmp.msg_type()) == 8 { 0 } else { 8 };
        icmp.set_msg_type(other.into());
        icmp.fill_checksum();
    } else {
        for i in 0..2 {
            bytes.swap(20 + i, 22 + i);
        }
    }
}

prop_compose! {
    fn packet()(protocol in 0..3u8, src in (1..255u8, 1..=u16::MAX), dst in (1..255u8, 1..=u16::MAX),
                payload in prop::collection::vec(any::<u8>(), 0..64), numbers in any::<(u32, u32)>(),
                no_checksum in prop::bool::weighted(0.1)) -> Vec<u8> {
        let src = at(Ipv4Addr::new(10, 8, 0, src.0), src.1);
        let dst = at(Ipv4Addr::new(172, 16, 9, dst.0), dst.1);
        match protocol {
            0 => tcp(src, dst, (ACK, numbers.0, numbers.1), &[], &payload),
            1 => {
                let mut p = udp(src, dst, &payload);
                if no_checksum {
                    p[26..28].fill(0);
                }
                p
            }
            _ => ping(*src.ip(), *dst.ip(), false, src.port()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn back_is_the_reverse_of_there(packets in prop::collection::vec(packet(), 1..20)) {
        let mut w = World::new(settings());
        for original in packets {
            let mut p = original.clone();
            prop_assert!(matches!(w.out(&mut p), Outcome::Forward(Some(_))));
            assert_right(&p);
            mirror(&mut p);
            prop_assert!(matches!(w.inn(&mut p), Outcome::Forward(Some(_))));
            assert_right(&p);
            mirror(&mut p);
            prop_assert_eq!(p, original);
        }
    }

    #[test]
    fn checksums_stay_right_under_any_sequence_of_rewrites(original in packet(),
                                                           turns in prop::collection::vec(any::<u8>(), 1..6)) {
        // Through one NAT after another, each with an address and ports of its own.
        let mut p = original;
        for address in turns {
            let address = Ipv4Addr::new(10, 77, 0, address);
            let mut w = World::new(Settings { address, ..settings() });
            prop_assert!(matches!(w.out(&mut p), Outcome::Forward(Some(_))));
            assert_right(&p);
        }
    }

    #[test]
    fn any_bytes_do_no_harm(packets in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 0..100), any::<[u8; 8]>(), any::<bool>()), 1..20,
    )) {
        let mut w = World::new(settings());
        // Something to hit.
        let port = w.leaves(udp(at(ALICE, 5000), at(SERVER, 53), b"x"));
        w.leaves(tcp(at(ALICE, 5000), at(SERVER, 445), (SYN, 1, 0), &[], b""));
        for (mut bytes, dice, partial) in packets {
            shape(&mut bytes, dice, port);
            let checksum = if partial { Checksum::Partial } else { Checksum::Complete };
            for outbound in [true, false] {
                let mut bytes = bytes.clone();
                let Ok(mut packet) = Packet::parse(&mut bytes, checksum) else { continue };
                if outbound {
                    w.nat.outbound(&mut packet, w.now);
                } else {
                    w.nat.inbound(&mut packet, w.now);
                }
            }
        }
        w.pass(300 * MINUTE);
        prop_assert_eq!(w.nat.flows(w.now).count(), 0);
    }

    #[test]
    fn a_cut_or_flipped_packet_does_no_harm(original in packet(), cut in 20..100usize,
                                            flips in prop::collection::vec((0..100usize, any::<u8>()), 0..4)) {
        let mut w = World::new(settings());
        let mut sent = original;
        w.out(&mut sent);
        let about = icmp(OTHER, LAN, (3, 1), [0; 4], &sent);
        mirror(&mut sent);
        for mut p in [sent, about] {
            p.truncate(cut.min(p.len()));
            let len = p.len() as u16;
            p[2..4].copy_from_slice(&len.to_be_bytes());
            for (at, bits) in &flips {
                let at = at % p.len();
                p[at] ^= bits;
            }
            if let Ok(mut packet) = Packet::parse(&mut p, Checksum::Complete) {
                w.nat.inbound(&mut packet, w.now);
            }
        }
    }
}

/// Makes bytes likely to get far: a version, lengths, protocols and addresses that occur.
fn shape(bytes: &mut [u8], dice: [u8; 8], port: u16) {
    let pick = |die: u8, values: &[u8]| values[usize::from(die) % values.len()];
    if bytes.len() < 28 || dice[0].is_multiple_of(16) {
        return;
    }
    bytes[0] = 0x40 | pick(dice[0], &[5, 5, 5, 6, 7]);
    let len = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    bytes[6] = pick(dice[1], &[0, 0x40, 0x20, 0, 0x40]);
    bytes[7] = pick(dice[2], &[0, 0, 0, 1, 2, 3]);
    bytes[9] = pick(dice[3], &[1, 6, 17, 17, 58]);
    let known = [ALICE, SERVER, LAN, OTHER];
    bytes[12..16].copy_from_slice(&known[usize::from(dice[4]) % 4].octets());
    bytes[16..20].copy_from_slice(&known[usize::from(dice[5]) % 4].octets());
    let l4 = usize::from(bytes[0] & 15) * 4;
    if dice[6].is_multiple_of(2) && bytes.len() >= l4 + 4 {
        bytes[l4 + 2..l4 + 4].copy_from_slice(&port.to_be_bytes());
    } else if let Some(kind) = bytes.get_mut(l4) {
        *kind = pick(dice[7], &[0, 3, 8, 11, 12]);
    }
}
