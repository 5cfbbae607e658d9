//! Long runs, in virtual time.

use super::net::*;
use crate::tunnel::{Sealed, ShardId, Tunnel};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Sends from `senders` every `gap` for `duration`, and asserts that every packet arrives in order.
fn assert_nothing_is_lost(senders: &[usize], gap: Duration, duration: Duration) -> Net {
    let mut net = Net::connected();
    let mut expected = [vec![0], vec![]];
    let mut number = 1;
    let until = net.now + duration;
    while net.now < until {
        for &from in senders {
            assert!(!matches!(
                net.send(from),
                Sealed::NoEndpoint | Sealed::BufferTooSmall
            ));
            expected[1 - from].push(number);
            number += 1;
        }
        net.run(gap);
    }
    net.run(SECOND);
    for (node, expected) in net.nodes.iter().zip(&expected) {
        assert!(
            node.inbox == *expected,
            "{} of {}",
            node.inbox.len(),
            expected.len()
        );
        assert_eq!(node.drops, []);
    }
    net
}

#[test]
fn six_hours_of_traffic_both_ways_lose_nothing() {
    let net = assert_nothing_is_lost(&[CLIENT, GATEWAY], Duration::from_millis(2300), 6 * HOUR);
    // The client is the initiator, so it rekeys every 120 s (REKEY_AFTER_TIME).
    let rekeys = net.count(CLIENT, 1);
    assert!((170..=180).contains(&rekeys), "{rekeys} handshakes");
    assert_eq!(net.count(GATEWAY, 1), 0);
}

#[test]
fn a_client_that_only_receives_rekeys_before_the_session_ends() {
    let net = assert_nothing_is_lost(&[GATEWAY], Duration::from_millis(1300), HOUR);
    let rekeys = net.count(CLIENT, 1);
    assert!(
        (27..=30).contains(&rekeys),
        "{rekeys} handshakes, with the first keepalive after 120 s"
    );
    assert_eq!(net.count(GATEWAY, 1), 0);
}

#[test]
fn rare_packets_are_not_lost() {
    for gap in [19, 59, 119, 179, 181, 239, 539, 541, 1801] {
        assert_nothing_is_lost(&[CLIENT], gap * SECOND, 7 * gap * SECOND);
        assert_nothing_is_lost(&[GATEWAY], gap * SECOND, 7 * gap * SECOND);
    }
}

#[test]
fn after_an_idle_hour_the_first_packet_of_either_side_starts_a_session() {
    for from in [CLIENT, GATEWAY] {
        let mut net = Net::connected();
        net.run(HOUR);
        assert!(
            net.nodes.iter().all(|n| n.tunnel.next_timeout().is_none()),
            "an idle peer has no timers"
        );
        assert!(net.nodes.iter().all(|n| !n.status().connected));
        net.heard.clear();
        assert_eq!(net.send(from), Sealed::Queued);
        net.run(LATENCY * 4);
        assert_eq!(net.nodes[1 - from].inbox.last(), Some(&1));
        net.run(2 * MINUTE);
        assert!(
            net.nodes.iter().all(|n| n.status().connected),
            "the new session has expired"
        );
        assert_eq!(net.count(from, 1), 1);
    }
}

#[test]
fn a_pause_is_not_mistaken_for_a_missing_answer() {
    let mut net = Net::connected();
    for _ in 0..3 {
        net.run(30 * SECOND);
        net.send(CLIENT);
        net.run(LATENCY * 2);
        net.send(GATEWAY);
    }
    net.run(SECOND);
    assert_eq!((net.count(CLIENT, 1), net.count(GATEWAY, 1)), (0, 0));
}

#[test]
fn a_peer_that_only_receives_is_not_mistaken_for_unreachable() {
    let mut net = Net::connected();
    net.run(30 * SECOND);
    for _ in 0..80 {
        net.send(GATEWAY);
        net.run(SECOND);
    }
    assert_eq!((net.count(CLIENT, 1), net.count(GATEWAY, 1)), (0, 0));
}

#[test]
fn an_unreachable_peer_is_sent_an_initiation_after_15_seconds() {
    let mut net = Net::connected();
    net.run(30 * SECOND);
    net.lose = Box::new(|_| true);
    for second in 0..17 {
        assert_eq!(net.count(GATEWAY, 1), usize::from(second >= 15), "{second}");
        net.send(GATEWAY);
        net.run(SECOND);
    }
}

/// Returns the source addresses that a node requested for its initiations.
fn sources(net: &Net, from: usize) -> Vec<Option<IpAddr>> {
    let initiations = net.heard.iter();
    let initiations = initiations.filter(|d| d.from == from && d.bytes[0] == 1);
    initiations.map(|d| d.local).collect()
}

#[test]
fn without_an_answer_the_source_address_is_left_to_the_kernel() {
    // The route of that address may have failed.
    let ours = Some(address("192.0.2.1:0").ip());
    let mut net = Net::connected();
    net.run(30 * SECOND);
    net.lose = Box::new(|_| true);
    for _ in 0..17 {
        net.send(GATEWAY);
        net.run(SECOND);
    }
    assert_eq!(sources(&net, GATEWAY), [None], "data had no answer");
    let [first, .., last] = &*net.heard else {
        panic!("nothing was sent");
    };
    assert_eq!((first.local, last.local), (ours, None));
    net.lose = Box::new(|_| false);
    net.run(6 * SECOND);
    assert_eq!(net.nodes[GATEWAY].status().path.unwrap().local, ours);

    let mut net = Net::connected();
    net.run(200 * SECOND);
    net.lose = Box::new(|_| true);
    net.heard.clear();
    assert_eq!(net.send(GATEWAY), Sealed::Queued);
    net.run(12 * SECOND);
    assert_eq!(sources(&net, GATEWAY), [ours, None, None]);
    net.lose = Box::new(|_| false);
    net.run(6 * SECOND);
    assert_eq!(net.nodes[GATEWAY].status().path.unwrap().local, ours);
}

#[test]
fn a_reply_needs_an_answer_like_other_data() {
    let mut net = Net::connected();
    net.run(30 * SECOND);
    net.send(CLIENT);
    net.run(LATENCY * 2);
    net.lose = Box::new(|_| true);
    net.send(GATEWAY);
    net.run(14 * SECOND);
    assert_eq!(net.count(GATEWAY, 1), 0);
    net.run(SECOND);
    assert_eq!(net.count(GATEWAY, 1), 1);
}

#[test]
fn the_initiator_rekeys_with_the_first_packet_after_the_rekey_time() {
    // REKEY_AFTER_TIME when it sends; 15 s before the end of the session when it receives.
    for (from, early, late) in [(CLIENT, 119, 2), (GATEWAY, 164, 2)] {
        let mut net = Net::connected();
        net.run(early * SECOND);
        net.send(from);
        net.run(LATENCY * 2);
        assert_eq!(net.count(CLIENT, 1), 0, "{early} s");
        let mut net = Net::connected();
        net.run((early + late) * SECOND);
        net.send(from);
        net.run(LATENCY * 2);
        assert_eq!(net.count(CLIENT, 1), 1, "{} s", early + late);
    }
}

#[test]
fn an_unconfirmed_session_does_not_replace_an_expired_one() {
    let mut net = Net::connected();
    net.run(140 * SECOND);
    net.lose = Box::new(|datagram| datagram.from == GATEWAY);
    net.send(GATEWAY);
    // boringtun's ring has eight sessions: after seven sessions of the gateway, the client's new
    // session takes the slot of the old one.
    while net.count(GATEWAY, 1) < 7 {
        net.run(SECOND);
    }
    assert_eq!(net.send(GATEWAY), Sealed::Queued, "the session is over");
    net.send(CLIENT);
    net.run(3 * SECOND);
    assert_eq!((net.count(GATEWAY, 1), net.count(GATEWAY, 2)), (7, 1));
    assert_eq!(net.send(GATEWAY), Sealed::Queued);
    assert!(!net.nodes[GATEWAY].status().connected);
    net.lose = Box::new(|_| false);
    net.run(10 * SECOND);
    assert_eq!(net.nodes[CLIENT].inbox, [2, 4], "all but the lost one");
}

#[test]
fn data_without_an_answer_is_answered_with_a_keepalive() {
    let mut net = Net::connected();
    net.send(CLIENT);
    net.run(9 * SECOND);
    assert_eq!(net.count(GATEWAY, 4), 0);
    net.run(2 * SECOND);
    assert_eq!(net.count(GATEWAY, 4), 1);
    assert_eq!(net.heard.last().unwrap().bytes.len(), 32);
    net.run(MINUTE);
    assert_eq!(net.count(CLIENT, 1), 0);
}

/// Returns the timeouts of both sides in ten minutes after the first packet of a session.
fn ticks_of_an_idle_session(keepalive: [Option<u16>; 2]) -> [usize; 2] {
    let mut net = Net::with(|me, settings| settings.persistent_keepalive = keepalive[me]);
    net.send(CLIENT);
    net.run(LATENCY * 4);
    net.ticks = [0; 2];
    net.run(10 * MINUTE);
    net.ticks
}

#[test]
fn an_idle_session_costs_no_more_than_wireguards_timers() {
    let [gateway, client] = ticks_of_an_idle_session([None, None]);
    // A keepalive for the packet, the end of the session, and the erasure of its keys.
    assert!(gateway <= 3 && client <= 3, "{gateway} and {client}");
    // The client sends 24 keepalives, and each session of 120 s starts with a handshake.
    let [gateway, client] = ticks_of_an_idle_session([None, Some(25)]);
    assert!(gateway <= 2 && client <= 24 + 5, "{gateway} and {client}");
    let [gateway, client] = ticks_of_an_idle_session([Some(25), None]);
    assert!(gateway <= 24 + 5 && client <= 2, "{gateway} and {client}");
}

#[test]
fn persistent_keepalives_keep_a_session_for_hours_and_can_be_changed() {
    let mut net = Net::with(|me, settings| {
        if me == CLIENT {
            settings.persistent_keepalive = Some(25);
        }
    });
    net.run(3 * HOUR);
    assert!(net.nodes.iter().all(|n| n.status().connected));
    let keepalives = net
        .heard
        .iter()
        .filter(|d| d.bytes.len() == 32 && d.from == CLIENT)
        .count();
    assert!((432..=530).contains(&keepalives), "{keepalives}");
    assert_eq!(net.send(GATEWAY), Sealed::Written(144));

    let client = &mut net.nodes[CLIENT];
    client
        .tunnel
        .set_persistent_keepalive(client.other, None, net.now);
    net.run(HOUR);
    assert!(net.nodes.iter().all(|n| n.tunnel.next_timeout().is_none()));
    let client = &mut net.nodes[CLIENT];
    client
        .tunnel
        .set_persistent_keepalive(client.other, Some(5), net.now);
    net.run(SECOND);
    assert!(net.nodes.iter().all(|n| n.status().connected));
}

#[test]
fn an_unanswered_handshake_is_retried_for_90_seconds_and_started_again_by_the_next_packet() {
    let mut net = Net::new();
    net.lose = Box::new(|_| true);
    net.send(CLIENT);
    net.run(10 * MINUTE);
    let tries = net.count(CLIENT, 1);
    assert!((16..=18).contains(&tries), "{tries}");
    assert_eq!(net.nodes[CLIENT].status().queued, 0);
    assert_eq!(net.nodes[CLIENT].tunnel.next_timeout(), None);

    net.lose = Box::new(|_| false);
    net.send(CLIENT);
    net.run(LATENCY * 4);
    assert_eq!(net.nodes[GATEWAY].inbox, [1]);
}

#[test]
fn a_handshake_is_not_cut_off_by_the_end_of_an_old_session() {
    let mut net = Net::connected();
    net.run(500 * SECOND);
    net.lose = Box::new(|_| true);
    net.send(CLIENT);
    net.run(70 * SECOND);
    net.lose = Box::new(|_| false);
    net.run(7 * SECOND);
    assert_eq!(net.nodes[GATEWAY].inbox, [0, 1]);
}

#[test]
fn sessions_are_established_over_a_network_that_loses_every_other_datagram() {
    let mut net = Net::new();
    let mut state = 7_u32;
    net.lose = Box::new(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 31 == 1
    });
    for _ in 0..3600 {
        net.send(CLIENT);
        net.send(GATEWAY);
        net.run(SECOND);
    }
    for node in &net.nodes {
        let received = node.inbox.len();
        assert!(received > 1500, "{received} of 3600");
    }
}

#[test]
fn a_client_that_lost_its_state_is_served_at_once() {
    let mut net = Net::connected();
    net.run(10 * SECOND);
    let client = &mut net.nodes[CLIENT];
    client.tunnel.remove_peer(client.other);
    let mut settings = peer(1, &["0.0.0.0/0"]);
    settings.endpoint = Some(address("192.0.2.1:51820"));
    client.other = client.tunnel.add_peer(settings, net.now).unwrap();
    net.send(CLIENT);
    net.run(LATENCY * 4);
    assert_eq!(net.nodes[GATEWAY].inbox.len(), 1 + 1);
}

#[test]
fn ten_thousand_peers_that_never_connected_have_no_timers() {
    let now = Instant::now();
    let mut gateway = Tunnel::new(secret(1), MTU, ShardId::default(), 7, now);
    let settings = peer(2, &[]);
    for n in 0..10_000_u32 {
        let (mut settings, mut key) = (settings.clone(), [0; 32]);
        key[..4].copy_from_slice(&n.to_le_bytes());
        settings.public_key = key.into();
        gateway.add_peer(settings, now).unwrap();
    }
    assert_eq!(gateway.next_timeout(), None);
    assert_eq!(gateway.peers().filter(|p| p.connected).count(), 0);
}
