//! Limits apply to a peer with all its inner addresses and do not affect other peers; reassigned
//! addresses inherit nothing.

use super::*;

const SITE: PeerId = PeerId(1 << 16);
const BOB: Ipv4Addr = super::BOB;

/// A site with a network of each family; all other peers have one address.
struct Site;

impl Peers for Site {
    fn of(&self, client: IpAddr) -> Option<PeerId> {
        let is_site = match client {
            IpAddr::V4(address) => address.octets()[..2] == [10, 20],
            IpAddr::V6(address) => address.segments()[1] == 0x20,
        };
        match is_site {
            true => Some(SITE),
            false => OneAddressPeers.of(client),
        }
    }
}

/// Returns an address of the site's network, alternating between the families.
fn host(number: u16) -> SocketAddr {
    let [a, b] = number.to_be_bytes();
    match number % 2 {
        0 => at([10, 20, a, b], 5000),
        _ => at([0xFD00, 0x20, 0, 0, 0, 0, 0, number], 5000),
    }
}

fn server(of: SocketAddr) -> SocketAddr {
    match of {
        SocketAddr::V4(_) => at(SERVER, 7777),
        SocketAddr::V6(_) => at(SERVER6, 7777),
    }
}

fn send(w: &mut World<()>, mut bytes: Vec<u8>) -> Outcome {
    let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    let sender = Site.of(packet.headers.src).unwrap();
    w.nat.outbound(&mut packet, sender, &Site, w.now)
}

fn is_forwarded(w: &mut World<()>, from: SocketAddr) -> bool {
    let outcome = send(w, udp(from, server(from), b"x"));
    matches!(outcome, Outcome::Forward(Some(_)))
}

fn world_with(limits: Limits) -> World<()> {
    World::new(Settings {
        limits,
        ..settings()
    })
}

#[test]
fn rfc6888_req4_a_site_gets_a_part_of_all_ports_whatever_its_addresses() {
    let mut w = world_with(Limits {
        ports: u16::MAX,
        sessions: u32::MAX,
        new_sessions: u32::MAX,
        ..Limits::default()
    });
    let of_host =
        |n: u16| (0..100).map(move |port| at([10, 20, 0, n as u8], 5000 + 100 * n + port));
    let granted = (0..250).flat_map(of_host);
    let granted = granted.filter(|from| is_forwarded(&mut w, *from)).count();
    let max = usize::from(max_ports_per_peer(1));
    assert!((max..max + 16).contains(&granted), "{granted}");
    assert!((0..32).all(|n| is_forwarded(&mut w, at([10, 8, 1, n], 5000))));
}

#[test]
fn rfc6888_req4_all_addresses_of_a_site_have_flows() {
    let mut w = World::<()>::new(settings());
    assert!((0..1000).all(|n| is_forwarded(&mut w, host(n))));
}

#[test]
fn rfc6888_req5_a_site_has_the_sessions_and_the_rate_of_one_peer() {
    let mut w = world_with(Limits {
        sessions: 20,
        ..Limits::default()
    });
    assert_eq!(
        (0..30).filter(|n| is_forwarded(&mut w, host(*n))).count(),
        20
    );
    assert_eq!(w.nat.counters().dropped(Reason::Sessions), 10);
    assert!(is_forwarded(&mut w, at(BOB, 5000)));
    let mut w = world_with(Limits {
        new_sessions: 20,
        ..Limits::default()
    });
    assert_eq!(
        (0..30).filter(|n| is_forwarded(&mut w, host(*n))).count(),
        20
    );
    assert_eq!(w.nat.counters().dropped(Reason::Rate), 10);
    assert!(is_forwarded(&mut w, at(BOB, 5000)));
}

#[test]
fn rfc4787_req14_a_site_has_the_fragmented_datagrams_of_one_peer() {
    let mut w = world_with(Limits {
        fragments: 5,
        ..Limits::default()
    });
    let fragment = |from: Ipv4Addr| {
        let datagram = udp(at(from, 5000), at(SERVER, 7777), &[7; 40]);
        v4::in_fragments(&datagram, 1, 24).remove(0)
    };
    let refused = |outcome| matches!(outcome, Outcome::Reply { .. });
    let site = (0..8).map(|n| fragment([10, 20, 0, n].into()));
    let outcomes: Vec<_> = site
        .map(|fragment| refused(send(&mut w, fragment)))
        .collect();
    assert_eq!(outcomes, [vec![false; 5], vec![true; 3]].concat());
    assert!(!refused(send(&mut w, fragment(BOB))));
}

#[test]
fn rfc6888_req4_one_peer_never_gets_all_blocks_of_its_shard() {
    for count in [1, 2, 16, 32, ShardId::MAX] {
        let ends = [ShardId::all(count).next(), ShardId::all(count).last()];
        for shard in ends.into_iter().flatten() {
            let mut w = World::<()>::new(Settings {
                shard,
                ..settings()
            });
            let mut granted = 0;
            for second in 0..3 {
                let sockets = (0..900).map(|n| at(super::ALICE, 2000 + 900 * second + n));
                granted += sockets.filter(|from| is_forwarded(&mut w, *from)).count();
                w.advance(Duration::from_secs(1));
            }
            assert!(
                granted >= 2 * usize::from(BLOCK_SIZE),
                "{granted} of {count}"
            );
            let others = (1..=3).filter(|n| is_forwarded(&mut w, at([10, 8, 1, *n], 5000)));
            assert_eq!(others.count(), 3, "shard {shard:?}");
        }
    }
}

#[test]
fn no_limit_gives_one_peer_all_ports() {
    let mut w = World::<()>::new(Settings {
        blocks: 100..115,
        ..settings()
    });
    w.nat.update_settings(AdjustableSettings {
        filtering: Filtering::default(),
        on_unsolicited: OnUnsolicited::default(),
        timeouts: Timeouts::default(),
        limits: Limits {
            ports: u16::MAX,
            ..Limits::default()
        },
    });
    let granted = (0..900).filter(|n| is_forwarded(&mut w, at(super::ALICE, 2000 + n)));
    assert_eq!(granted.count(), 280, "a third of seven eighths of 960");
}

#[test]
fn rfc1812_4_3_2_8_errors_to_one_peer_do_not_use_up_those_of_others() {
    let limits = Limits {
        errors: 10,
        sessions: 1,
        ..Limits::default()
    };
    let mut w = world_with(limits);
    let reported = |w: &mut World<()>, from| {
        matches!(
            send(w, udp(from, server(from), b"x")),
            Outcome::Reply { .. }
        )
    };
    assert!(is_forwarded(&mut w, host(0)));
    assert_eq!((1..100).filter(|n| reported(&mut w, host(*n))).count(), 10);
    for number in 0..20 {
        let other = at([10, 8, 1, number], 5000);
        assert!(is_forwarded(&mut w, other));
        let next = at(other.ip(), 5001);
        // All peers together get 16 times the errors of one.
        let all = (0..20).filter(|_| reported(&mut w, next)).count();
        assert_eq!(all, if number < 15 { 10 } else { 0 }, "{number}");
    }
    w.advance(Duration::from_secs(1));
    assert!(reported(&mut w, host(1)));
}

/// Assigns all addresses to one peer.
struct All(PeerId);

impl Peers for All {
    fn of(&self, _: IpAddr) -> Option<PeerId> {
        Some(self.0)
    }
}

#[test]
fn rfc6888_req14_a_reassigned_address_inherits_nothing() {
    let client = at(super::ALICE, 5000);
    for is_moved in [false, true] {
        let mut w = World::<()>::new(settings());
        let (before, after) = (All(PeerId(3)), All(PeerId(4)));
        let open = |w: &mut World<()>, peers: &All| {
            let mut bytes = udp(client, server(client), b"x");
            let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
            let outcome = w.nat.outbound(&mut packet, peers.0, peers, w.now);
            assert!(matches!(outcome, Outcome::Forward(Some(_))));
            ends(&bytes).0.port()
        };
        let port = open(&mut w, &before);
        w.nat.drop_reassigned(&before, w.now);
        w.nat.remove_peer(PeerId(4), w.now);
        assert_eq!(w.nat.flows(w.now).count(), 1, "another peer's flow remains");
        match is_moved {
            true => w.nat.drop_reassigned(&after, w.now),
            false => w.nat.remove_peer(PeerId(3), w.now),
        }
        assert_eq!(w.nat.flows(w.now).count(), 0);
        assert_eq!(w.nat.clients.iter().count(), 0);
        // RFC 6888 REQ-8: the port stays in quarantine although its block was released.
        assert!(w.nat.ports.quarantined().any(|q| q.port == port));
        let next = open(&mut w, &after);
        assert_ne!(next, port);
        let events: Vec<_> = std::iter::from_fn(|| w.nat.poll_block()).collect();
        let event = |port: u16, given| BlockEvent {
            client: client.ip(),
            lan: LAN.into(),
            first_port: port - port % BLOCK_SIZE,
            last_port: port - port % BLOCK_SIZE + (BLOCK_SIZE - 1),
            given,
        };
        let all = [event(port, true), event(port, false), event(next, true)];
        assert_eq!(events, all);
    }
}

#[test]
fn a_forward_to_an_address_of_no_peer_admits_no_packets() {
    let mut w = World::<()>::new(settings());
    let forward = Forward {
        protocol: Protocol::Tcp,
        port: 8443,
        to: at(super::ALICE, 443),
        lan: None,
    };
    w.nat.add_forward(forward, w.now).unwrap();
    let mut bytes = tcp(at(OTHER, 50000), at(LAN, 8443), (SYN, 1, 0), &[], b"");
    let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    struct NoPeers;
    impl Peers for NoPeers {
        fn of(&self, _: IpAddr) -> Option<PeerId> {
            None
        }
    }
    let outcome = w.nat.inbound(&mut packet, &NoPeers, w.now);
    assert_eq!(outcome, Outcome::Drop(Reason::NoMapping));
    assert_eq!(w.nat.flows(w.now).count(), 0);
}
