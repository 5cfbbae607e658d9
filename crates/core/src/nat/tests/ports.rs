//! Port allocation.

use super::*;
use crate::nat::block::BlockNumber;
use crate::nat::endpoint::{ClientId, Family, Outside};
use crate::nat::ports::{PortRequest, Ports, ReleasedBlock};
use std::collections::HashSet;

const CLIENT: ClientId = ClientId(7);

fn all() -> Ports {
    Ports::new(0..BLOCK_COUNT, ShardId::ALONE, 1)
}

fn take(
    ports: &mut Ports,
    client: ClientId,
    held: &mut Vec<BlockNumber>,
    max_blocks: u16,
    protocol: Protocol,
    inner: u16,
) -> Option<u16> {
    ports.take(&mut PortRequest {
        client,
        family: Family::V4,
        protocol,
        inner,
        blocks: held,
        max_blocks,
    })
}

#[test]
fn rfc4787_req3a_the_class_of_the_port_is_kept() {
    let (mut ports, mut held) = (all(), Vec::new());
    for inner in [1, 53, 123, 1023] {
        let port = take(&mut ports, CLIENT, &mut held, 8, Protocol::Udp, inner).unwrap();
        assert!((1..1024).contains(&port));
    }
    for inner in [1024, 5060, 65535] {
        let port = take(&mut ports, CLIENT, &mut held, 8, Protocol::Udp, inner).unwrap();
        assert!(port >= 1024);
    }
}

#[test]
fn rfc4787_req4_parity_is_kept_where_free() {
    let (mut ports, mut held) = (all(), Vec::new());
    for inner in 5000..5064 {
        let port = take(&mut ports, CLIENT, &mut held, 1, Protocol::Udp, inner).unwrap();
        assert_eq!(port % 2, inner % 2);
    }
    assert_eq!(
        take(&mut ports, CLIENT, &mut held, 1, Protocol::Udp, 5000),
        None
    );
    let (mut ports, mut held) = (all(), Vec::new());
    let given: HashSet<_> = (0..64)
        .filter_map(|i| {
            take(
                &mut ports,
                CLIENT,
                &mut held,
                1,
                Protocol::Tcp,
                5000 + 2 * i,
            )
        })
        .collect();
    assert_eq!(
        given.len(),
        64,
        "the other parity is used when this one is exhausted"
    );
}

#[test]
fn rfc6056_rfc6888_req15_the_choice_is_random_inside_the_block() {
    let firsts: HashSet<_> = (0..200)
        .map(|seed| {
            let mut ports = Ports::new(32..33, ShardId::ALONE, seed);
            let port = take(&mut ports, CLIENT, &mut Vec::new(), 1, Protocol::Tcp, 4000);
            port.unwrap()
        })
        .collect();
    assert!(firsts.len() > 20, "only {} of 32 even ports", firsts.len());
    let blocks: HashSet<_> = (0..200)
        .map(|seed| {
            let mut ports = Ports::new(0..BLOCK_COUNT, ShardId::ALONE, seed);
            let port = take(&mut ports, CLIENT, &mut Vec::new(), 1, Protocol::Tcp, 4000);
            port.unwrap() / BLOCK_SIZE
        })
        .collect();
    assert!(blocks.len() > 100, "only {} blocks", blocks.len());
}

#[test]
fn rfc6888_req4_a_client_gets_at_most_its_maximum_of_blocks_and_never_another_client_s() {
    let (mut ports, mut mine, mut theirs) = (
        Ports::new(100..103, ShardId::ALONE, 3),
        Vec::new(),
        Vec::new(),
    );
    let count = |ports: &mut Ports, who, held: &mut Vec<BlockNumber>| {
        (0..1000)
            .map_while(|_| take(ports, who, held, 2, Protocol::Tcp, 40000))
            .count()
    };
    assert_eq!(count(&mut ports, ClientId(1), &mut mine), 128);
    assert_eq!(count(&mut ports, ClientId(2), &mut theirs), 64);
    assert!(mine.iter().all(|b| !theirs.contains(b)));
    let freed = ports.in_use(Family::V4, mine[0]).collect::<Vec<_>>();
    assert_eq!(freed.len(), 64);
    let now = Instant::now();
    let released: Vec<_> = freed
        .into_iter()
        .filter_map(|o| ports.give_back(o, now))
        .collect();
    assert_eq!(
        released,
        [ReleasedBlock {
            client: ClientId(1),
            block: mine[0]
        }]
    );
    assert_eq!(count(&mut ports, ClientId(2), &mut theirs), 64);
}

#[test]
fn rfc6888_req8_a_released_udp_port_is_quarantined_for_120_seconds() {
    let now = Instant::now();
    let (mut ports, mut held) = (Ports::new(20..21, ShardId::ALONE, 9), Vec::new());
    let mut take = |ports: &mut Ports| take(ports, CLIENT, &mut held, 1, Protocol::Udp, 2000);
    let given: Vec<_> = std::iter::from_fn(|| take(&mut ports)).collect();
    assert_eq!(given.len(), 64);
    let freed = Outside {
        family: Family::V4,
        protocol: Protocol::Udp,
        port: given[5],
    };
    assert_eq!(ports.give_back(freed, now), None);
    assert_eq!(take(&mut ports), None);
    let almost = now + PORT_HOLD_TIME - Duration::from_millis(1);
    assert_eq!(ports.end_quarantine(almost), None);
    assert_eq!(take(&mut ports), None);
    assert_eq!(ports.next_quarantine_end(), Some(now + PORT_HOLD_TIME));
    assert_eq!(ports.end_quarantine(now + PORT_HOLD_TIME), Some(None));
    assert_eq!(take(&mut ports), Some(given[5]));
}

#[test]
fn shards_share_no_port_and_each_has_privileged_ones() {
    let mut all = HashSet::new();
    for shard in ShardId::all(3) {
        let (mut ports, mut held) = (Ports::new(0..BLOCK_COUNT, shard, 11), Vec::new());
        for inner in [22, 4000] {
            let port = take(&mut ports, CLIENT, &mut held, 64, Protocol::Tcp, inner).unwrap();
            assert_eq!(port < 1024, inner < 1024);
        }
        for _ in 0..1000 {
            let port = take(&mut ports, CLIENT, &mut held, 64, Protocol::Tcp, 4000).unwrap();
            assert!(shard.owns((port / BLOCK_SIZE).into()));
            assert!(all.insert(port));
        }
    }
}

#[test]
fn each_family_has_separate_blocks() {
    let mut ports = Ports::new(100..101, ShardId::ALONE, 1);
    let mut take = |family, client| {
        ports.take(&mut PortRequest {
            client,
            family,
            protocol: Protocol::Tcp,
            inner: 4000,
            blocks: &mut Vec::new(),
            max_blocks: 1,
        })
    };
    assert!(take(Family::V4, ClientId(1)).is_some());
    assert!(take(Family::V6, ClientId(2)).is_some());
    assert_eq!(take(Family::V4, ClientId(3)), None);
    assert_eq!(take(Family::V6, ClientId(3)), None);
}

#[test]
fn rfc6888_req8_the_quarantine_of_an_abandoned_block_holds_for_its_next_owner() {
    let now = Instant::now();
    let mut ports = Ports::new(20..21, ShardId::ALONE, 9);
    let mut held = Vec::new();
    let port = take(&mut ports, ClientId(1), &mut held, 1, Protocol::Udp, 2000).unwrap();
    let freed = Outside {
        family: Family::V4,
        protocol: Protocol::Udp,
        port,
    };
    assert_eq!(ports.give_back(freed, now), None);
    ports.abandon(Family::V4, held[0]);
    let mut held = Vec::new();
    let mut given = || take(&mut ports, ClientId(2), &mut held, 1, Protocol::Udp, 2000);
    let others: HashSet<_> = std::iter::from_fn(&mut given).collect();
    assert_eq!(others.len(), 63);
    assert!(!others.contains(&port));
    assert_eq!(ports.end_quarantine(now + PORT_HOLD_TIME), Some(None));
    assert_eq!(
        take(&mut ports, ClientId(2), &mut held, 1, Protocol::Udp, 2000),
        Some(port)
    );
}

#[test]
fn a_privileged_port_does_not_take_a_client_s_last_block() {
    let (mut ports, mut held) = (all(), Vec::new());
    let ntp = take(&mut ports, CLIENT, &mut held, 1, Protocol::Udp, 123).unwrap();
    assert!(ntp >= 1024);
    assert!(take(&mut ports, CLIENT, &mut held, 1, Protocol::Udp, 5000).is_some());
    // With one more block, each class has its own.
    let ntp = take(&mut ports, CLIENT, &mut held, 2, Protocol::Udp, 123).unwrap();
    assert!(ntp < 1024);
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
fn each_shard_has_the_maximum_of_blocks_for_a_peer() {
    let least = |count| {
        let shares = ShardId::all(count).map(|shard| Ports::new(0..BLOCK_COUNT, shard, 1).share());
        shares.min().unwrap()
    };
    for count in 1..=ShardId::MAX {
        assert_eq!(max_blocks_per_peer(count), least(count), "{count}");
    }
    for (blocks, shards) in [(1, 64), (4, 64), (32, 8), (64, 4), (256, 1), (1008, 1)] {
        assert_eq!(max_shards(blocks), shards, "{blocks}");
    }
}
