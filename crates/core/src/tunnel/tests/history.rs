//! Totals of a peer that continue from an earlier run.

use super::net::*;
use crate::tunnel::PeerHistory;
use std::time::Duration;

#[test]
fn totals_continue_and_the_peer_was_last_seen_before_until_it_comes() {
    let mut net = Net::new();
    let before = net.now;
    net.run(Duration::from_secs(5));
    let history = PeerHistory {
        rx: 1000,
        tx: 2000,
        last_handshake: Some(before),
        last_seen: Some(before),
    };
    let gateway = &mut net.nodes[GATEWAY];
    assert_eq!(gateway.status().last_seen, None);
    gateway.tunnel.restore_history(gateway.other, history);
    let status = gateway.status();
    assert_eq!((status.rx, status.tx), (1000, 2000));
    assert_eq!(status.last_handshake, Some(before));
    assert_eq!(status.last_seen, Some(before));
    assert!(!status.connected);
    net.send(CLIENT);
    net.run(LATENCY * 4);
    let status = net.nodes[GATEWAY].status();
    assert!(status.connected && status.rx > 1000 && status.tx > 2000);
    assert!(status.last_handshake > Some(before) && status.last_seen > Some(before));
}
