//! Datagrams of unknown senders, attackers and faulty networks.

use super::net::*;
use crate::tunnel::{DropReason, Path, Received, Sealed, ShardId, Tunnel};
use boringtun::noise::{Tunn, TunnResult};
use proptest::prelude::*;
use std::time::Instant;

/// Returns an initiation to the gateway by `client`.
pub(super) fn initiation(client: &mut Tunn) -> Vec<u8> {
    #[cfg(feature = "virtual-time")] // each has a later time stamp
    mock_instant::MockClock::advance(std::time::Duration::from_nanos(1));
    let mut buffer = [0; 148];
    match client.format_handshake_initiation(&mut buffer, true) {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn gateway(now: Instant) -> Tunnel {
    let mut gateway = Tunnel::new(secret(1), MTU, ShardId::default(), 7, now);
    gateway.add_peer(peer(2, &["10.8.0.2/32"]), now).unwrap();
    gateway
}

pub(super) fn client(n: u8) -> Tunn {
    Tunn::new(secret(n), public(1), None, None, 9, None)
}

/// Gives the gateway a datagram that contains no packet.
pub(super) fn offer(
    gateway: &mut Tunnel,
    from: &Path,
    datagram: &[u8],
    now: Instant,
) -> Result<(), DropReason> {
    match gateway.receive(from, datagram, &mut [0; 256], now) {
        Received::Nothing => Ok(()),
        Received::Dropped(reason) => Err(reason),
        Received::Packet { .. } => panic!("a packet"),
        Received::OtherShard { shard, .. } => panic!("there is no shard {shard}"),
    }
}

#[test]
fn a_replayed_datagram_is_dropped() {
    let mut net = Net::connected();
    net.send(CLIENT);
    let data = net.heard.last().unwrap().clone();
    net.run(LATENCY * 2);
    net.deliver(data);
    assert_eq!(net.nodes[GATEWAY].drops, [DropReason::Replay]);
    assert_eq!(net.nodes[GATEWAY].inbox, [0, 1]);
}

#[test]
fn a_replayed_initiation_is_dropped_and_does_not_change_the_endpoint() {
    let mut net = Net::new();
    net.send(CLIENT);
    net.run(LATENCY * 4);
    let mut initiation = net.heard[0].clone();
    let before = net.nodes[GATEWAY].status().path.copied();
    initiation.source = address("203.0.113.66:666");
    net.deliver(initiation);
    assert_eq!(net.nodes[GATEWAY].drops, [DropReason::Replay]);
    assert_eq!(net.nodes[GATEWAY].status().path.copied(), before);
}

#[test]
fn forged_data_does_not_change_the_endpoint() {
    let mut net = Net::connected();
    net.send(CLIENT);
    let mut data = net.heard.pop().unwrap();
    let before = net.nodes[GATEWAY].status().path.copied();
    data.source = address("203.0.113.66:666");
    *data.bytes.last_mut().unwrap() ^= 1;
    net.deliver(data);
    assert_eq!(net.nodes[GATEWAY].drops, [DropReason::NotAuthentic]);
    assert_eq!(net.nodes[GATEWAY].status().path.copied(), before);
}

#[test]
fn a_receiver_index_that_was_not_allocated_has_no_peer() {
    let mut net = Net::connected();
    net.send(CLIENT);
    let data = net.heard.last().unwrap().clone();
    for at in 4..8 {
        let mut forged = data.clone();
        forged.bytes[at] ^= 0x40;
        net.deliver(forged);
    }
    assert_eq!(net.nodes[GATEWAY].drops, [DropReason::UnknownIndex; 4]);
}

#[test]
fn a_counter_at_the_end_of_its_range_is_refused() {
    let mut net = Net::connected();
    net.send(CLIENT);
    let mut data = net.heard.last().unwrap().clone();
    data.bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    net.deliver(data);
    assert_eq!(net.nodes[GATEWAY].drops, [DropReason::Replay]);
}

#[test]
fn a_packet_with_a_foreign_inner_source_is_dropped() {
    let mut net = Net::connected();
    net.send_packet(CLIENT, &packet([10, 8, 0, 3], [10, 8, 0, 1], 1, 60));
    net.send_packet(CLIENT, &[0x00; 64]);
    net.send(CLIENT);
    net.run(LATENCY * 2);
    let expected = [DropReason::SourceNotAllowed, DropReason::InnerMalformed];
    assert_eq!(net.nodes[GATEWAY].drops, expected);
    assert_eq!(net.nodes[GATEWAY].inbox, [0, 1]);
}

#[test]
fn a_longer_prefix_of_another_peer_takes_the_address() {
    let mut net = Net::with(|me, settings| {
        if me == GATEWAY {
            settings.allowed_ips = vec!["10.8.0.0/24".parse().unwrap()];
        }
    });
    net.send(CLIENT);
    net.run(LATENCY * 4);
    assert_eq!(net.nodes[GATEWAY].inbox, [0]);
    let other = peer(3, &["10.8.0.2/31"]);
    net.nodes[GATEWAY].tunnel.add_peer(other, net.now).unwrap();
    net.send(CLIENT);
    net.run(LATENCY * 2);
    assert_eq!(net.nodes[GATEWAY].drops, [DropReason::SourceNotAllowed]);
}

#[test]
fn an_unknown_key_gets_no_answer() {
    let now = Instant::now();
    let mut gateway = gateway(now);
    let (from, stranger) = (path("203.0.113.66:666"), &mut client(99));
    let offered = offer(&mut gateway, &from, &initiation(stranger), now);
    assert_eq!(offered, Err(DropReason::UnknownPeer));
    assert_eq!(gateway.poll_transmit(), None);
}

#[test]
fn a_message_for_another_gateway_costs_no_key_exchange() {
    let now = Instant::now();
    let mut stranger = Tunn::new(secret(2), public(77), None, None, 9, None);
    let (from, initiation) = (path("203.0.113.66:666"), initiation(&mut stranger));
    let offered = offer(&mut gateway(now), &from, &initiation, now);
    assert_eq!(offered, Err(DropReason::Mac));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes and any damage to valid messages, with any size of the buffer.
    #[test]
    fn no_datagram_causes_a_panic(
        garbage in prop::collection::vec((0u8..6, prop::collection::vec(any::<u8>(), 0..200)), 1..20),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        space in 0usize..200,
    ) {
        let now = Instant::now();
        let mut gateway = gateway(now);
        let (from, mut dst) = (path("198.51.100.7:40000"), vec![0; space]);
        let mut real = initiation(&mut client(2));
        for (kind, mut bytes) in garbage {
            if let Some(head) = bytes.get_mut(..4) {
                head.copy_from_slice(&[kind, 0, 0, 0]);
            }
            let _ = gateway.receive(&from, &bytes, &mut dst, now);
            bytes.resize(148, 0);
            let _ = gateway.receive(&from, &bytes, &mut dst, now);
        }
        for (at, with) in damage {
            *at.get_mut(&mut real) ^= with;
        }
        let _ = gateway.receive(&from, &real[..cut.index(real.len())], &mut dst, now);
        let _ = gateway.receive(&from, &real, &mut dst, now);
        let id = gateway.find(&public(2)).unwrap();
        let sealed = gateway.seal(id, &real, &mut dst, now);
        prop_assert!(!matches!(sealed, Sealed::NoPeer | Sealed::Written(_)));
    }
}

#[test]
fn a_buffer_that_is_too_small_is_reported_and_not_overrun() {
    let mut net = Net::connected();
    let client = &mut net.nodes[CLIENT];
    let data = packet([10, 8, 0, 2], [10, 8, 0, 1], 9, 100);
    let len = client.tunnel.sealed_len(data.len());
    for space in [0, 32, len - 1] {
        let sealed = client
            .tunnel
            .seal(client.other, &data, &mut vec![0; space], net.now);
        assert_eq!(sealed, Sealed::BufferTooSmall);
    }
    let mut dst = vec![0; len];
    assert_eq!(
        client.tunnel.seal(client.other, &data, &mut dst, net.now),
        Sealed::Written(len)
    );
    let from = path("198.51.100.7:40000");
    for space in [0, len - 1] {
        let mut space = vec![0; space];
        let received = net.nodes[GATEWAY]
            .tunnel
            .receive(&from, &dst, &mut space, net.now);
        assert_eq!(received, Received::Dropped(DropReason::BufferTooSmall));
    }
}
