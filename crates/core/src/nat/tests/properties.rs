//! Properties of every packet.

use super::*;
use proptest::prelude::*;
use vcgate_wire::checksum::Delta;

/// Swaps the ends of a packet; its checksums stay valid.
fn mirror(bytes: &mut [u8]) {
    let (src, len, l4) = match bytes[0] >> 4 {
        4 => (12, 4, 20),
        _ => (8, 16, 40),
    };
    for i in src..src + len {
        bytes.swap(i, i + len);
    }
    // An echo request becomes its reply, and vice versa.
    let other = match (l4, bytes[l4 - 11], bytes[6], bytes[l4]) {
        (20, 1, _, 8) => 0,
        (20, 1, _, 0) => 8,
        (40, _, 58, 128) => 129,
        (40, _, 58, 129) => 128,
        _ => {
            bytes.swap(l4, l4 + 2);
            bytes.swap(l4 + 1, l4 + 3);
            return;
        }
    };
    let mut icmp = Icmpv4Packet::new_unchecked(&mut bytes[l4..]);
    let delta = Delta::default().byte(false, icmp.msg_type().into(), other);
    icmp.set_msg_type(other.into());
    icmp.set_checksum(delta.apply(icmp.checksum()));
}

prop_compose! {
    fn packet()(protocol in 0..3u8, six in any::<bool>(),
                src in (1..255u8, 1..=u16::MAX), dst in (1..255u8, 1..=u16::MAX),
                payload in prop::collection::vec(any::<u8>(), 0..64), numbers in any::<(u32, u32)>(),
                no_checksum in prop::bool::weighted(0.1)) -> Vec<u8> {
        let (client, server) = match six {
            false => (v4::client(0, src.0), IpAddr::from([172, 16, 9, dst.0])),
            true => (v6::client(0, src.0), v6::client(99, dst.0)),
        };
        let (src, dst) = (at(client, src.1), at(server, dst.1));
        match protocol {
            0 => tcp(src, dst, (ACK, numbers.0, numbers.1), &[], &payload),
            1 => {
                let mut p = udp(src, dst, &payload);
                if no_checksum && !six {
                    p[26..28].fill(0);
                }
                p
            }
            _ => ping(src.ip(), dst.ip(), false, src.port()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_reply_direction_reverses_the_translation(packets in prop::collection::vec(packet(), 1..20)) {
        let mut w = World::<()>::new(settings());
        for original in packets {
            let mut p = original.clone();
            prop_assert!(matches!(w.outbound(&mut p), Outcome::Forward(Some(_))));
            assert_checksums(&p);
            mirror(&mut p);
            prop_assert!(matches!(w.inbound(&mut p), Outcome::Forward(Some(_))));
            assert_checksums(&p);
            mirror(&mut p);
            prop_assert_eq!(p, original);
        }
    }

    #[test]
    fn rfc1624_checksums_stay_valid_under_any_sequence_of_rewrites(original in packet(),
                                                           addresses in prop::collection::vec(any::<u8>(), 1..6)) {
        // Through several NATs, each with a different address and ports.
        let mut p = original;
        for address in addresses {
            let mut w = World::<()>::new(Settings {
                address: Ipv4Addr::new(10, 77, 0, address),
                address6: Some(Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, address.into())),
                ..settings()
            });
            prop_assert!(matches!(w.outbound(&mut p), Outcome::Forward(Some(_))));
            assert_checksums(&p);
        }
    }

    #[test]
    fn any_bytes_do_not_panic_and_leave_no_state(packets in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 0..140), any::<[u8; 8]>(), any::<bool>()), 1..20,
    )) {
        let mut w = World::<()>::new(settings());
        // A mapping that the packets can match.
        let port = w.send(udp(at(ALICE, 5000), at(SERVER, 7053), b"x"));
        w.send(tcp(at(ALICE, 5000), at(SERVER, 445), (SYN, 1, 0), &[], b""));
        let port6 = w.send(udp(at(ALICE6, 5000), at(SERVER6, 7053), b"x"));
        w.send(tcp(at(ALICE6, 5000), at(SERVER6, 445), (SYN, 1, 0), &[], b""));
        for (mut bytes, dice, partial) in packets {
            shape(&mut bytes, dice, [port, port6]);
            let checksum = if partial { Checksum::Partial } else { Checksum::Complete };
            for direction in 0..3 {
                let mut bytes = bytes.clone();
                let Ok(mut packet) = Packet::parse(&mut bytes, checksum) else { continue };
                let sender = sender_of(&packet);
                match direction {
                    0 => drop(w.nat.reassemble(&packet, true, sender, &OneAddressPeers, w.now)),
                    1 => drop(w.nat.outbound(&mut packet, sender, &OneAddressPeers, w.now)),
                    _ => drop(w.nat.inbound(&mut packet, &OneAddressPeers, w.now)),
                }
            }
        }
        w.advance(300 * MINUTE);
        prop_assert_eq!(w.nat.flows(w.now).count(), 0);
        prop_assert!(w.nat.table.is_empty(), "the table is empty");
        prop_assert_eq!((w.nat.clients.iter().count(), w.nat.fragments.len()), (0, 0));
        prop_assert_eq!(w.nat.next_timeout(), None);
    }

    #[test]
    fn truncated_or_corrupted_packets_do_not_panic(original in packet(), len in 20..140usize,
                                            flips in prop::collection::vec((0..100usize, any::<u8>()), 0..4)) {
        let mut w = World::<()>::new(settings());
        let mut sent = original;
        w.outbound(&mut sent);
        let error = match sent[0] >> 4 {
            4 => icmp(OTHER, LAN, (3, 1), [0; 4], &sent),
            _ => icmp(OTHER6, LAN6, (1, 3), [0; 4], &sent),
        };
        mirror(&mut sent);
        for mut p in [sent, error] {
            p.truncate(len.min(p.len()));
            match p[0] >> 4 {
                4 => { let len = p.len() as u16; p[2..4].copy_from_slice(&len.to_be_bytes()) }
                _ => { let len = p.len().saturating_sub(40) as u16; p[4..6].copy_from_slice(&len.to_be_bytes()) }
            }
            for (at, bits) in &flips {
                let at = at % p.len();
                p[at] ^= bits;
            }
            if let Ok(mut packet) = Packet::parse(&mut p, Checksum::Complete) {
                w.nat.inbound(&mut packet, &OneAddressPeers, w.now);
            }
        }
    }
}

/// Sets version, lengths, protocols and addresses so that random bytes pass the first checks.
fn shape(bytes: &mut [u8], dice: [u8; 8], [port, port6]: [u16; 2]) {
    if dice[0].is_multiple_of(16) {
        return;
    }
    match (bytes.len(), dice[0].is_multiple_of(2)) {
        (28.., false) => shape_v4(bytes, dice, port),
        (56.., true) => shape_v6(bytes, dice, port6),
        _ => {}
    }
}

fn pick<T: Copy>(die: u8, values: &[T]) -> T {
    values[usize::from(die) % values.len()]
}

fn shape_v4(bytes: &mut [u8], dice: [u8; 8], port: u16) {
    bytes[0] = 0x40 | pick(dice[0] / 2, &[5, 5, 5, 6, 7]);
    let len = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    bytes[6] = pick(dice[1], &[0, 0x40, 0x20, 0, 0x40]);
    bytes[7] = pick(dice[2], &[0, 0, 0, 1, 2, 3]);
    bytes[9] = pick(dice[3], &[1, 6, 17, 17, 58]);
    let known = [ALICE, SERVER, LAN, OTHER];
    bytes[12..16].copy_from_slice(&pick(dice[4], &known).octets());
    bytes[16..20].copy_from_slice(&pick(dice[5], &known).octets());
    let l4 = usize::from(bytes[0] & 15) * 4;
    shape_l4(bytes, l4, dice, port, &[0, 3, 8, 11, 12]);
}

fn shape_v6(bytes: &mut [u8], dice: [u8; 8], port: u16) {
    const EXTENSIONS: [u8; 3] = [0, 44, 60];
    bytes[0] = 0x60;
    let len = bytes.len() as u16 - 40;
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    let protocols = [58, 6, 17, 17, 1];
    bytes[6] = pick(dice[3], &[58, 6, 17, 44, 60, 0]);
    let known = [ALICE6, SERVER6, LAN6, OTHER6];
    bytes[8..24].copy_from_slice(&pick(dice[4], &known).octets());
    bytes[24..40].copy_from_slice(&pick(dice[5], &known).octets());
    let mut l4 = 40;
    if EXTENSIONS.contains(&bytes[6]) {
        bytes[40] = pick(dice[1], &protocols);
        bytes[41] = 0;
        if bytes[6] == 44 {
            bytes[42..44].copy_from_slice(&[0, pick(dice[2], &[0, 1, 8, 9])]);
            bytes[44..48].fill(dice[2] & 1);
        }
        l4 = 48;
    }
    shape_l4(bytes, l4, dice, port, &[1, 2, 3, 4, 128, 129, 135]);
}

fn shape_l4(bytes: &mut [u8], l4: usize, dice: [u8; 8], port: u16, kinds: &[u8]) {
    if dice[6].is_multiple_of(2) && bytes.len() >= l4 + 4 {
        bytes[l4 + 2..l4 + 4].copy_from_slice(&port.to_be_bytes());
    } else if let Some(kind) = bytes.get_mut(l4) {
        *kind = pick(dice[7], kinds);
    }
}
