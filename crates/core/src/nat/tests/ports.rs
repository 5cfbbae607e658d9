//! Port allocation.

use super::*;
use crate::nat::block::Block;
use crate::nat::clients::Clients;
use crate::nat::endpoint::{ClientId, Family, LanId, Outside};
use crate::nat::lan_addresses::LanAddresses;
use crate::nat::lan_ports::LanPorts;
use crate::nat::ports::owner_of_port;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

/// Clients of one address each, and the ports of one shard.
struct Pool {
    clients: Clients,
    addresses: LanAddresses,
    ports: LanPorts,
    limits: Limits,
    now: Instant,
}

impl Pool {
    fn new(blocks: std::ops::Range<u16>, shard: ShardId, seed: u64) -> Self {
        let settings = Settings {
            blocks,
            shard,
            ..settings()
        };
        Self {
            clients: Clients::default(),
            addresses: LanAddresses::new(&settings),
            ports: LanPorts::new(&settings, seed),
            limits: Limits::default(),
            now: Instant::now(),
        }
    }

    /// Returns all ports of the only shard.
    fn full() -> Self {
        Self::new(0..BLOCK_COUNT, ShardId::ALONE, 1)
    }

    fn with_ports(mut self, ports: u16) -> Self {
        self.limits.ports = ports;
        self
    }

    fn client(&mut self, n: u32) -> ClientId {
        let address = IpAddr::from((10 << 24 | n).to_be_bytes());
        let id = self
            .clients
            .get_or_insert(address, Some(PeerId(n)), &self.addresses, self.now);
        id.unwrap()
    }

    fn take(&mut self, n: u32, protocol: Protocol, inner: u16) -> Option<u16> {
        let id = self.client(n);
        let port =
            self.clients
                .take_port(id, &mut self.ports, protocol, inner, &self.limits, false);
        self.clients.remove_if_idle(id);
        port.ok().map(|outside| outside.port)
    }

    fn give_back(&mut self, protocol: Protocol, port: u16) {
        let outside = outside(protocol, port);
        if let Some(released) = self.ports.give_back(outside, self.now) {
            self.clients.on_block_released(released);
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        while let Some(released) = self.ports.end_quarantine(self.now) {
            if let Some(released) = released {
                self.clients.on_block_released(released);
            }
        }
    }

    fn blocks(&mut self, n: u32) -> Vec<Block> {
        let id = self.client(n);
        self.clients.client(id).unwrap().blocks.clone()
    }

    /// Returns the number of ports that a client can take, up to 100,000.
    fn take_all(&mut self, n: u32, protocol: Protocol) -> usize {
        let takes = (0..100_000).map_while(|_| self.take(n, protocol, 40_000));
        takes.count()
    }
}

fn outside(protocol: Protocol, port: u16) -> Outside {
    Outside {
        lan: LanId::first(Family::V4),
        protocol,
        port,
    }
}

#[test]
fn rfc4787_req3a_the_class_of_the_port_is_kept() {
    let mut pool = Pool::full();
    for inner in [1, 53, 123, 1023] {
        let port = pool.take(7, Protocol::Udp, inner).unwrap();
        assert!((1..1024).contains(&port));
    }
    for inner in [1024, 5060, 65535] {
        assert!(pool.take(7, Protocol::Udp, inner).unwrap() >= 1024);
    }
}

#[test]
fn rfc4787_req3a_480_clients_have_a_privileged_port_each() {
    for count in [1, 2, 16, ShardId::MAX] {
        let mut given = HashSet::new();
        for shard in ShardId::all(count) {
            let mut pool = Pool::new(0..BLOCK_COUNT, shard, 5);
            for n in (0..480).filter(|n| shard.owns(*n)) {
                let port = pool.take(n, Protocol::Tcp, 700).unwrap();
                assert!((1..1024).contains(&port), "client {n} of {count} shards");
                assert!(
                    port.is_multiple_of(2) || count == ShardId::MAX,
                    "RFC 4787 REQ-4"
                );
                assert_eq!(owner_of_port(shard, port), shard.number());
                assert!(given.insert(port));
                // One line of the log for this port.
                let event = pool.clients.events.pop_back().unwrap();
                assert_eq!((event.first_port, event.last_port), (port, port));
            }
        }
        assert_eq!(given.len(), 480);
    }
}

#[test]
fn rfc4787_req3a_no_client_uses_up_the_privileged_ports() {
    let mut pool = Pool::full();
    let greedy = |pool: &mut Pool, n| {
        let ports = (0..2000).filter_map(|_| pool.take(n, Protocol::Tcp, 700));
        ports.filter(|port| *port < 1024).count()
    };
    assert_eq!(greedy(&mut pool, 0), 299, "a third of seven eighths");
    assert!((1..10).all(|n| greedy(&mut pool, n) > 4));
    for n in 100..130 {
        assert!(pool.take(n, Protocol::Tcp, 701).unwrap() < 1024);
    }
}

#[test]
fn rfc4787_req4_parity_is_kept_where_free() {
    let mut pool = Pool::full().with_ports(64);
    for inner in 5000..5064 {
        let port = pool.take(7, Protocol::Udp, inner).unwrap();
        assert_eq!(port % 2, inner % 2);
    }
    assert_eq!(pool.take(7, Protocol::Udp, 5000), None);
    let mut pool = Pool::full().with_ports(64);
    let given: HashSet<_> = (0..64)
        .filter_map(|i| pool.take(7, Protocol::Tcp, 5000 + 2 * i))
        .collect();
    assert_eq!(
        given.len(),
        64,
        "the other parity is used when this one is exhausted"
    );
}

#[test]
fn rfc6056_rfc6888_req15_the_choice_is_random_inside_the_block() {
    let first = |blocks: std::ops::Range<u16>, seed| {
        let mut pool = Pool::new(blocks, ShardId::ALONE, seed);
        pool.take(7, Protocol::Tcp, 4000).unwrap()
    };
    let firsts: HashSet<_> = (0..200).map(|seed| first(32..33, seed)).collect();
    assert!(firsts.len() > 20, "only {} of 32 even ports", firsts.len());
    let blocks = (0..200).map(|seed| first(0..BLOCK_COUNT, seed) / BLOCK_SIZE);
    let blocks: HashSet<_> = blocks.collect();
    assert!(blocks.len() > 100, "only {} blocks", blocks.len());
}

#[test]
fn rfc6888_req4_a_client_gets_at_most_its_maximum_of_ports() {
    let mut pool = Pool::full().with_ports(100);
    assert_eq!(pool.take_all(1, Protocol::Tcp), 100);
    assert_eq!(pool.take_all(2, Protocol::Tcp), 100);
    let (mine, theirs) = (pool.blocks(1), pool.blocks(2));
    assert_eq!(mine.iter().map(|b| b.size()).sum::<u16>(), 100);
    let ports = |blocks: Vec<Block>| blocks.into_iter().flat_map(|b| b.first()..=b.last());
    let ports: HashSet<_> = ports(mine.clone()).chain(ports(theirs)).collect();
    assert_eq!(ports.len(), 200);
    // The last port of a block returns it.
    pool.clients.events.clear();
    for outside in pool.ports.in_use(LanId::first(Family::V4), mine[0]) {
        pool.give_back(outside.protocol, outside.port);
    }
    let [event] = Vec::from_iter(pool.clients.events.drain(..))[..] else {
        panic!("expected one event");
    };
    assert_eq!((event.first_port, event.given), (mine[0].first(), false));
}

#[test]
fn rfc6888_req4_32_greedy_clients_leave_ports_for_all_others() {
    let mut pool = Pool::full();
    let taken = (0..32).map(|n| pool.take_all(n, Protocol::Tcp));
    let taken: Vec<_> = taken.collect();
    assert!(taken[..25].iter().all(|taken| *taken == 2048), "{taken:?}");
    assert!(taken.iter().all(|taken| *taken > 100), "{taken:?}");
    for n in 100..1100 {
        for inner in [5000, 5001] {
            assert!(pool.take(n, Protocol::Tcp, inner).is_some(), "client {n}");
        }
    }
}

#[test]
fn rfc6888_req11_ten_thousand_clients_have_five_flows_each() {
    let mut pool = Pool::full();
    let mut given = HashSet::new();
    for n in 0..10_000 {
        for inner in 5000..5005 {
            let port = pool.take(n, Protocol::Tcp, inner);
            assert!(given.insert(port.expect("a port")), "client {n}");
        }
    }
    // Each port has one holder by the log: what was returned was given before.
    let mut holders = HashMap::new();
    for event in pool.clients.events.drain(..) {
        for port in event.first_port..=event.last_port {
            match event.given {
                true => assert_eq!(holders.insert(port, event.client), None),
                false => assert_eq!(holders.remove(&port), Some(event.client)),
            }
        }
    }
    assert!(given.iter().all(|port| holders.contains_key(port)));
}

#[test]
fn rfc6888_req8_a_released_udp_port_is_quarantined_for_120_seconds() {
    let mut pool = Pool::new(20..21, ShardId::ALONE, 9);
    let given: Vec<_> = std::iter::from_fn(|| pool.take(7, Protocol::Udp, 2000)).collect();
    assert_eq!(given.len(), 64);
    pool.give_back(Protocol::Udp, given[5]);
    assert_eq!(pool.take(7, Protocol::Udp, 2000), None);
    pool.advance(PORT_HOLD_TIME - Duration::from_millis(1));
    assert_eq!(pool.take(7, Protocol::Udp, 2000), None);
    let end = pool.now + Duration::from_millis(1);
    assert_eq!(pool.ports.next_quarantine_end(), Some(end));
    pool.advance(Duration::from_millis(1));
    assert_eq!(pool.take(7, Protocol::Udp, 2000), Some(given[5]));
}

#[test]
fn shards_share_no_port_and_each_has_privileged_ones() {
    let mut all = HashSet::new();
    for shard in ShardId::all(3) {
        let mut pool = Pool::new(0..BLOCK_COUNT, shard, 11);
        for inner in [22, 4000] {
            let port = pool.take(7, Protocol::Tcp, inner).unwrap();
            assert_eq!(port < 1024, inner < 1024);
        }
        for _ in 0..1000 {
            let port = pool.take(7, Protocol::Tcp, 4000).unwrap();
            assert_eq!(owner_of_port(shard, port), shard.number());
            assert!(all.insert(port));
        }
    }
}

#[test]
fn rfc6888_req8_the_quarantine_of_an_abandoned_block_holds_for_its_next_owner() {
    let mut pool = Pool::new(20..21, ShardId::ALONE, 9);
    let port = pool.take(1, Protocol::Udp, 2000).unwrap();
    pool.give_back(Protocol::Udp, port);
    let id = pool.client(1);
    pool.clients.abandon_blocks(id, &mut pool.ports);
    let others = std::iter::from_fn(|| pool.take(2, Protocol::Udp, 2000));
    let others: HashSet<_> = others.collect();
    assert_eq!(others.len(), 63);
    assert!(!others.contains(&port));
    pool.advance(PORT_HOLD_TIME);
    assert_eq!(pool.take(2, Protocol::Udp, 2000), Some(port));
}

#[test]
fn rfc6056_rfc6888_req15_identifications_do_not_reveal_the_seed_of_the_ports() {
    let mut first = v4::in_fragments(&udp(at(ALICE, 9), at(SERVER, 9), &[7; 40]), 1, 24).remove(0);
    let packet = Packet::parse(&mut first, Checksum::Complete).unwrap();
    for seed in 0..50u32 {
        let mut nat = Nat::new(settings(), seed.into(), Instant::now());
        assert_ne!(nat.identification(&packet), Some(seed));
    }
}

#[test]
fn each_shard_has_the_maximum_of_ports_for_a_peer() {
    for count in [1, 2, 10, 16, ShardId::MAX] {
        for shard in ShardId::all(count) {
            let mut pool = Pool::new(0..BLOCK_COUNT, shard, 1).with_ports(u16::MAX);
            let taken = pool.take_all(0, Protocol::Tcp);
            assert!(
                taken >= max_ports_per_peer(count).into(),
                "{count}: {taken}"
            );
        }
    }
    for (ports, shards) in [(1, 64), (256, 64), (2048, 9), (4096, 4), (18_816, 1)] {
        assert_eq!(max_shards(ports), shards, "{ports}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Take {
        client: u32,
        count: u16,
        protocol: Protocol,
        inner: u16,
    },
    /// The index among the ports in use.
    GiveBack(usize),
    Abandon(u32),
    Reserve(u16),
    Advance(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let inner = prop_oneof![1..1024u16, 1024..=65535u16];
    let protocol = prop::sample::select(&Protocol::ALL[..]);
    prop_oneof![
        6 => (0..40u32, 1..80u16, protocol, inner).prop_map(|(client, count, protocol, inner)| {
            Step::Take { client, count, protocol, inner }
        }),
        8 => any::<usize>().prop_map(Step::GiveBack),
        1 => (0..40u32).prop_map(Step::Abandon),
        1 => (1..640u16).prop_map(Step::Reserve),
        1 => (1..150u64).prop_map(Step::Advance),
    ]
}

/// The ports as lists: slow and obvious.
#[derive(Default)]
struct PortOracle {
    used: HashMap<(Protocol, u16), u32>,
    quarantine: Vec<(u16, Instant)>,
    reserved: HashSet<u16>,
    /// The holder of each port by the events.
    holders: HashMap<u16, IpAddr>,
}

impl PortOracle {
    fn follow(&mut self, pool: &mut Pool) {
        for event in pool.clients.events.drain(..) {
            for port in event.first_port..=event.last_port {
                match event.given {
                    true => assert_eq!(self.holders.insert(port, event.client), None),
                    false => assert_eq!(self.holders.remove(&port), Some(event.client)),
                }
            }
        }
    }

    fn is_free(&self, protocol: Protocol, port: u16) -> bool {
        let is_kept_back = match protocol {
            Protocol::Tcp => self.reserved.contains(&port),
            Protocol::Udp => self.quarantine.iter().any(|(p, _)| *p == port),
            Protocol::Echo => false,
        };
        !is_kept_back && !self.used.contains_key(&(protocol, port))
    }

    fn on_taken(&mut self, n: u32, protocol: Protocol, inner: u16, port: u16, pool: &mut Pool) {
        assert!(port >= 1024 || inner < 1024, "{inner} became {port}");
        assert!(self.is_free(protocol, port), "{protocol:?} {port} is taken");
        self.used.insert((protocol, port), n);
        self.follow(pool);
        let id = pool.client(n);
        let address = pool.clients.client(id).unwrap().address;
        assert_eq!(self.holders.get(&port), Some(&address));
    }

    /// A client without any port is refused only if each port is taken by it or by another one.
    fn on_refused(&self, n: u32, protocol: Protocol, pool: &mut Pool) {
        let id = pool.client(n);
        let has_ports = !pool.clients.client(id).unwrap().blocks.is_empty();
        pool.clients.remove_if_idle(id);
        if has_ports {
            return;
        }
        let is_available = |port: &u16| {
            let is_used = Protocol::ALL
                .iter()
                .any(|p| self.used.contains_key(&(*p, *port)));
            let is_quarantined = self.quarantine.iter().any(|(p, _)| p == port);
            let shards = ShardId::all(3).nth(1).unwrap();
            let is_ours = owner_of_port(shards, *port) == 1;
            !is_used && !is_quarantined && is_ours && self.is_free(protocol, *port)
        };
        let available = (1024..40 * BLOCK_SIZE).find(is_available);
        assert_eq!(available, None, "refused although it is idle");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_ports_agree_with_a_simple_oracle(
        steps in prop::collection::vec(steps(), 1..120), seed in any::<u64>(),
    ) {
        // The second of three shards, with some privileged ports and 8 groups of others.
        let shard = ShardId::all(3).nth(1).unwrap();
        let mut pool = Pool::new(13..40, shard, seed);
        let mut oracle = PortOracle::default();
        for step in steps {
            match step {
                Step::Take { client, count, protocol, inner } => for _ in 0..count {
                    match pool.take(client, protocol, inner) {
                        Some(port) => oracle.on_taken(client, protocol, inner, port, &mut pool),
                        None => oracle.on_refused(client, protocol, &mut pool),
                    }
                },
                Step::GiveBack(index) => {
                    let mut all: Vec<_> = oracle.used.keys().copied().collect();
                    all.sort_by_key(|(protocol, port)| (*port, *protocol as u8));
                    if let Some((protocol, port)) = all.get(index % all.len().max(1)).copied() {
                        oracle.used.remove(&(protocol, port));
                        pool.give_back(protocol, port);
                        if protocol == Protocol::Udp {
                            oracle.quarantine.push((port, pool.now + PORT_HOLD_TIME));
                        }
                    }
                }
                Step::Abandon(n) => {
                    let all = oracle.used.iter().filter(|(_, user)| **user == n);
                    for (protocol, port) in all.map(|(key, _)| *key).collect::<Vec<_>>() {
                        oracle.used.remove(&(protocol, port));
                        pool.give_back(protocol, port);
                        if protocol == Protocol::Udp {
                            oracle.quarantine.push((port, pool.now + PORT_HOLD_TIME));
                        }
                    }
                    let id = pool.client(n);
                    pool.clients.abandon_blocks(id, &mut pool.ports);
                    pool.clients.remove_if_idle(id);
                }
                Step::Reserve(offset) => {
                    let port = 1024 + offset;
                    let outside = outside(Protocol::Tcp, port);
                    if oracle.reserved.remove(&port) {
                        pool.ports.unreserve(outside);
                    } else if pool.ports.reserve(outside) {
                        oracle.reserved.insert(port);
                    }
                }
                Step::Advance(seconds) => {
                    pool.advance(Duration::from_secs(seconds));
                    oracle.quarantine.retain(|(_, until)| *until > pool.now);
                }
            }
            oracle.follow(&mut pool);
            let held: usize = pool.clients.iter().map(|(_, client)| {
                client.blocks.iter().map(|b| usize::from(b.size())).sum::<usize>()
            }).sum();
            prop_assert_eq!(held, oracle.holders.len());
        }
        for (protocol, port) in std::mem::take(&mut oracle.used).into_keys() {
            pool.give_back(protocol, port);
        }
        pool.advance(PORT_HOLD_TIME);
        oracle.follow(&mut pool);
        prop_assert!(oracle.holders.is_empty());
        prop_assert_eq!(pool.clients.iter().count(), 0);
    }
}
