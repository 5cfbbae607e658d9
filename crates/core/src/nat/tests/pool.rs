//! Several LAN addresses: a pool that clients share, and addresses of single peers.

use super::*;
use std::collections::{HashMap, HashSet};

const POOL: [Ipv4Addr; 3] = [
    Ipv4Addr::new(192, 168, 77, 3),
    Ipv4Addr::new(192, 168, 77, 4),
    Ipv4Addr::new(192, 168, 77, 5),
];
const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 50);

fn pool() -> World {
    World::new(Settings {
        pool: POOL.to_vec(),
        ..settings()
    })
}

/// Sends a packet that must pass; returns the LAN endpoint from which it leaves.
fn send(w: &mut World, mut bytes: Vec<u8>) -> SocketAddr {
    let outcome = w.outbound(&mut bytes);
    assert!(matches!(outcome, Outcome::Forward(Some(_))), "{outcome:?}");
    assert_checksums(&bytes);
    ends(&bytes).0
}

fn set_own(w: &mut World, client: Ipv4Addr, address: Option<Ipv4Addr>) {
    let peer = OneAddressPeers.of(client.into()).unwrap();
    w.nat.set_lan_address(peer, address, w.now).unwrap();
}

#[test]
fn rfc4787_req2_all_flows_of_each_client_of_a_crowd_come_from_one_address() {
    let mut w = pool();
    let mut seen = HashMap::new();
    let mut outer = HashSet::new();
    for n in 0..3000u16 {
        let [a, b] = (n + 256).to_be_bytes();
        let client = Ipv4Addr::new(10, 8, a, b);
        let flows = [
            udp(at(client, 5000), at(SERVER, 53), b"x"),
            udp(at(client, 5001), at(OTHER, 53), b"x"),
            tcp(at(client, 5000), at(SERVER, 445), (SYN, 1, 0), &[], b""),
        ];
        for (flow, bytes) in flows.into_iter().enumerate() {
            let from = send(&mut w, bytes);
            assert_eq!(*seen.entry(client).or_insert(from.ip()), from.ip());
            assert!(outer.insert((flow == 2, from)), "{from} twice");
            if flow == 0 {
                let answer = udp(at(SERVER, 53), from, b"y");
                assert_eq!(w.receive(answer), Some(at(client, 5000)));
            }
        }
    }
    let mut clients = HashMap::new();
    for address in seen.into_values() {
        *clients.entry(address).or_insert(0) += 1;
    }
    assert_eq!(clients.len(), 4);
    assert!(clients.values().all(|count| *count == 750), "{clients:?}");
    let logged = std::iter::from_fn(|| w.nat.poll_block()).map(|event| event.lan);
    assert_eq!(logged.collect::<HashSet<_>>().len(), 4);
}

#[test]
fn each_address_of_a_pool_has_its_own_ports() {
    let mut w = World::<()>::new(Settings {
        pool: POOL.to_vec(),
        blocks: 100..101,
        ..settings()
    });
    let clients = (0..4).map(|n| Ipv4Addr::new(10, 8, 0, n));
    for client in clients {
        for port in 0..64 {
            let mut bytes = udp(at(client, 5000 + port), at(SERVER, 53), b"x");
            let outcome = w.outbound(&mut bytes);
            assert!(matches!(outcome, Outcome::Forward(Some(_))), "{outcome:?}");
        }
    }
    assert_eq!(w.nat.flows(w.now).count(), 4 * 64);
}

#[test]
fn an_address_of_one_peer_keeps_its_ports_and_serves_no_other() {
    let mut w = pool();
    set_own(&mut w, ALICE, Some(OWN));
    for port in [111, 700, 5000, 5001, 65535] {
        let syn = tcp(at(ALICE, port), at(SERVER, 445), (SYN, 1, 0), &[], b"");
        assert_eq!(send(&mut w, syn), at(OWN, port));
        let dns = udp(at(ALICE, port), at(SERVER, 53), b"x");
        assert_eq!(send(&mut w, dns), at(OWN, port));
    }
    assert_ne!(
        send(&mut w, udp(at(BOB, 700), at(SERVER, 53), b"x")).ip(),
        OWN
    );
    let flows = w.nat.flows(w.now).filter(|flow| flow.lan == OWN).count();
    assert_eq!(flows, 10);
    // Without the address, its flows end and new ones use the pool.
    set_own(&mut w, ALICE, None);
    assert_eq!(w.nat.flows(w.now).count(), 1, "Bob's");
    let from = send(&mut w, udp(at(ALICE, 700), at(SERVER, 53), b"x"));
    assert_ne!(from.ip(), OWN);
    assert_eq!(w.receive(udp(at(SERVER, 53), at(OWN, 700), b"y")), None);
}

#[test]
fn the_shard_of_an_address_of_one_peer_is_that_of_the_peer() {
    for shard in ShardId::all(3) {
        let mut nat = Nat::new(
            Settings {
                shard,
                ..settings()
            },
            7,
            Instant::now(),
        );
        let set = nat.set_lan_address(PeerId(11), Some(OWN), Instant::now());
        set.unwrap();
        for (dst, port) in [(OWN, 700), (OWN, 40_000)] {
            let mut bytes = udp(at(SERVER, 53), at(dst, port), b"y");
            let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
            assert_eq!(nat.shard_lookup(&packet), ShardLookup::Peer(PeerId(11)));
        }
    }
}

#[test]
fn forwards_belong_to_an_address() {
    let mut w = pool();
    let forward = |lan: Option<Ipv4Addr>, to| Forward {
        protocol: Protocol::Tcp,
        port: 8443,
        to,
        lan: lan.map(IpAddr::V4),
    };
    let alice = forward(None, at(ALICE, 443));
    let bob = forward(Some(POOL[1]), at(BOB, 443));
    w.nat.add_forward(alice, w.now).unwrap();
    w.nat.add_forward(bob, w.now).unwrap();
    let mut listed: Vec<_> = w.nat.forwards().collect();
    listed.sort_by_key(|forward| forward.to);
    assert_eq!(listed, [alice, bob]);
    let come =
        |w: &mut World, to| w.receive(tcp(at(OTHER, 5000), at(to, 8443), (SYN, 1, 0), &[], b""));
    assert_eq!(come(&mut w, LAN), Some(alice.to));
    assert_eq!(come(&mut w, POOL[1]), Some(bob.to));
    assert_eq!(come(&mut w, POOL[0]), None);
    let unknown = w.nat.add_forward(forward(Some(OWN), at(BOB, 80)), w.now);
    assert_eq!(unknown, Err(ForwardError::Address(OWN.into())));
    assert!(w.nat.remove_forward(bob, w.now));
    assert_eq!(come(&mut w, POOL[1]), None);
}

#[test]
fn rfc4787_req9_clients_on_different_addresses_reach_each_other() {
    let mut w = pool();
    set_own(&mut w, ALICE, Some(OWN));
    let alice = send(&mut w, udp(at(ALICE, 5000), at(SERVER, 53), b"x"));
    // The filter is closed until Alice sends too, but Bob has a port from now on.
    let mut punch = udp(at(BOB, 4000), alice, b"punch");
    assert_eq!(w.outbound(&mut punch), Outcome::Drop(Reason::Filtered));
    let bob = ends(&punch).0;
    let mut bytes = udp(at(ALICE, 5000), bob, b"hello");
    let outcome = w.outbound(&mut bytes);
    assert!(matches!(outcome, Outcome::Hairpin(_)), "{outcome:?}");
    assert_eq!(ends(&bytes), (at(OWN, 5000), at(BOB, 4000)));
}

#[test]
fn a_snapshot_restores_the_flows_of_each_address() {
    let mut w = pool();
    set_own(&mut w, ALICE, Some(OWN));
    let ours = send(&mut w, udp(at(ALICE, 700), at(SERVER, 53), b"x"));
    let clients = (20..40).map(|n| Ipv4Addr::new(10, 8, 0, n));
    for client in clients.clone() {
        send(&mut w, udp(at(client, 5000), at(SERVER, 53), b"x"));
    }
    let state = super::snapshot::stopped(&w.nat, w.now);
    let describe = |nat: &Nat, now| {
        let flows = nat.flows(now).map(|f| (f.inside, f.lan, f.port, f.remote));
        flows.collect::<HashSet<_>>()
    };
    let restored = |own: Option<Ipv4Addr>| {
        let mut new = pool();
        new.now = w.now;
        set_own(&mut new, ALICE, own);
        let snapshot = state.nat_snapshot(|_| true);
        let done = (new.nat).restore(
            snapshot,
            &OneAddressPeers,
            |_| true,
            Duration::ZERO,
            new.now,
        );
        done.unwrap();
        new
    };
    let mut same = restored(Some(OWN));
    assert_eq!(describe(&same.nat, w.now), describe(&w.nat, w.now));
    let answer = udp(at(SERVER, 53), ours, b"y");
    assert_eq!(same.receive(answer), Some(at(ALICE, 700)));
    // A peer whose address is another one now begins without flows; all others continue.
    let without = restored(None);
    let mut expected = describe(&w.nat, w.now);
    expected.retain(|(inside, ..)| inside.ip() != ALICE);
    assert_eq!(describe(&without.nat, w.now), expected);
}
