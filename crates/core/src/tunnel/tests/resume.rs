//! Handshakes after a restart.

use super::net::*;
use crate::ids::PeerId;
use crate::tunnel::handshake_limiter::LOAD_THRESHOLD;
use crate::tunnel::resume::RESUME_INTERVAL;
use crate::tunnel::{DropReason, Sealed, ShardId, Tunnel};
use std::time::Duration;

#[test]
fn a_client_that_only_receives_has_a_session_after_one_round_trip() {
    let mut net = Net::connected();
    let (now, client) = (net.now, net.nodes[CLIENT].address);
    let mut new = Tunnel::new(secret(1), MTU, ShardId::default(), 9, now);
    let peer = new.add_peer(peer(2, &["10.8.0.2/32"]), now).unwrap();
    new.set_endpoint(peer, client, now);
    net.nodes[GATEWAY].tunnel = new;
    net.nodes[GATEWAY].other = peer;
    net.nodes[GATEWAY].tunnel.resume([peer], now);
    net.run(LATENCY * 2 + Duration::from_millis(1));
    assert!(net.nodes[GATEWAY].status().connected);
    assert!(matches!(net.send(GATEWAY), Sealed::Written(_)));
    net.run(LATENCY * 2);
    assert_eq!(net.nodes[CLIENT].inbox, [1]);
    assert_eq!((net.count(GATEWAY, 1), net.count(CLIENT, 1)), (1, 0));
}

/// A gateway with many peers whose addresses are known, and the time.
fn crowd(peers: u32) -> (Tunnel, std::time::Instant) {
    let now = std::time::Instant::now();
    let mut tunnel = Tunnel::new(secret(1), MTU, ShardId::default(), 9, now);
    for n in 0..peers {
        let mut settings = peer(2, &[]);
        let mut key = [3; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        settings.public_key = (&boringtun::x25519::StaticSecret::from(key)).into();
        settings.endpoint = Some(([198, 51, 100, 7], 1000 + n as u16).into());
        tunnel.add_peer(settings, now).unwrap();
    }
    (tunnel, now)
}

#[test]
fn the_handshakes_of_a_crowd_are_spread_below_the_load() {
    let (mut tunnel, start) = crowd(300);
    let mut now = start;
    tunnel.resume((0..300).rev().map(PeerId), now);
    let mut sent = Vec::new();
    while sent.len() < 300 {
        tunnel.handle_timeout(now);
        while let Some(transmit) = tunnel.poll_transmit() {
            assert_eq!(transmit.bytes[0], 1);
            sent.push((now - start, transmit.path.remote.port()));
        }
        let next = tunnel.next_timeout().unwrap();
        assert!(next > now);
        now = next;
    }
    for (n, (at, port)) in sent.iter().enumerate() {
        assert_eq!(*at, RESUME_INTERVAL * n as u32);
        assert_eq!(usize::from(*port), 1299 - n, "in the given order");
    }
    assert!(RESUME_INTERVAL * LOAD_THRESHOLD as u32 > Duration::from_secs(1));
}

#[test]
fn a_peer_that_has_connected_or_has_no_address_is_left_out() {
    let mut net = Net::connected();
    let (now, other) = (net.now, net.nodes[GATEWAY].other);
    let unknown = peer(7, &[]);
    let tunnel = &mut net.nodes[GATEWAY].tunnel;
    let unknown = tunnel.add_peer(unknown, now).unwrap();
    tunnel.resume([other, unknown, PeerId(99)], now);
    net.run(Duration::from_secs(1));
    assert_eq!(net.count(GATEWAY, 1), 0);
    assert_eq!(net.nodes[CLIENT].drops, [] as [DropReason; 0]);
}
