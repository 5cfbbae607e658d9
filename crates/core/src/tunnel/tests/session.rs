//! Sessions between correct peers.

use super::net::*;
use crate::tunnel::peer::Peer;
use crate::tunnel::{Ecn, OVERHEAD, Received, Sealed, ShardId, Tunnel};
use boringtun::noise::{Tunn, TunnResult};
use std::time::Instant;

#[test]
fn packets_flow_both_ways_after_one_handshake() {
    let mut net = Net::new();
    assert_eq!(net.send(CLIENT), Sealed::Queued);
    net.run(LATENCY * 4);
    for _ in 0..3 {
        assert!(matches!(net.send(GATEWAY), Sealed::Written(_)));
        assert!(matches!(net.send(CLIENT), Sealed::Written(_)));
    }
    net.run(LATENCY * 2);
    assert_eq!(net.nodes[GATEWAY].inbox, [0, 2, 4, 6]);
    assert_eq!(net.nodes[CLIENT].inbox, [1, 3, 5]);
    assert_eq!((net.count(CLIENT, 1), net.count(GATEWAY, 2)), (1, 1));
    assert_eq!((net.count(GATEWAY, 1), net.count(CLIENT, 2)), (0, 0));
    let written_to = Some(net.nodes[GATEWAY].address.ip());
    let mut answers = net.heard.iter().filter(|d| d.from == GATEWAY);
    assert!(answers.all(|d| d.local == written_to));
}

#[test]
fn both_sides_count_the_same_bytes_and_report_the_handshake() {
    let mut net = Net::connected();
    net.send(GATEWAY);
    net.run(LATENCY * 2);
    let (gateway, client) = (net.nodes[GATEWAY].status(), net.nodes[CLIENT].status());
    assert_eq!((gateway.rx, gateway.tx), (client.tx, client.rx));
    assert_eq!(gateway.rx, 148 + 144); // initiation, and 100 bytes padded to 112
    assert_eq!(gateway.tx, 92 + 144);
    assert!(gateway.connected && gateway.last_handshake > client.last_handshake);
}

#[test]
fn the_padding_equals_the_kernels() {
    let mut net = Net::connected();
    for (len, padded) in [
        (24, 32),
        (32, 32),
        (100, 112),
        (1408, 1408),
        (1409, 1420),
        (1420, 1420),
    ] {
        assert_eq!(
            net.send_len(CLIENT, len),
            Sealed::Written(padded + OVERHEAD)
        );
    }
    net.run(LATENCY * 2);
    assert_eq!(net.nodes[GATEWAY].inbox.len(), 1 + 6);
}

#[test]
fn queued_packets_arrive_in_order_after_one_handshake() {
    let mut net = Net::new();
    for _ in 0..10 {
        assert_eq!(net.send(CLIENT), Sealed::Queued);
    }
    assert_eq!(net.nodes[CLIENT].status().queued, 10);
    net.run(LATENCY * 4);
    assert_eq!(net.nodes[GATEWAY].inbox, (0..10).collect::<Vec<_>>());
    assert_eq!(net.nodes[CLIENT].status().queued, 0);
    assert_eq!((net.count(CLIENT, 1), net.count(GATEWAY, 1)), (1, 0));
    assert_eq!(net.count(CLIENT, 4), 10, "the packets replace a keepalive");
}

#[test]
fn the_responder_waits_for_the_confirmation_and_starts_no_handshake() {
    let mut net = Net::new();
    net.send(CLIENT);
    net.run(LATENCY);
    assert_eq!(net.send(GATEWAY), Sealed::Queued);
    assert_eq!(net.send(GATEWAY), Sealed::Queued);
    net.run(LATENCY * 4);
    assert_eq!(net.nodes[CLIENT].inbox, [1, 2]);
    assert_eq!(net.count(GATEWAY, 1), 0);
}

#[test]
fn at_most_the_newest_128_packets_are_queued() {
    let mut net = Net::new();
    for _ in 0..200 {
        net.send(CLIENT);
    }
    net.run(LATENCY * 4);
    assert_eq!(net.nodes[GATEWAY].inbox, (72..200).collect::<Vec<_>>());
}

#[test]
fn queued_packets_keep_their_congestion_mark() {
    let mut net = Net::new();
    let mut marked = packet([10, 8, 0, 2], [10, 8, 0, 1], 0, 60);
    marked[1] = Ecn::Congested as u8;
    net.send_packet(CLIENT, &marked);
    net.run(LATENCY);
    let response = net.heard.last().unwrap().clone();
    assert_eq!(response.bytes[0], 2);
    let client = &mut net.nodes[CLIENT].tunnel;
    let mut dst = [0; 256];
    client.receive(&path("192.0.2.1:51820"), &response.bytes, &mut dst, net.now);
    assert_eq!(client.poll_transmit().unwrap().ecn, Ecn::Capable0);
}

#[test]
fn packets_for_a_peer_without_an_endpoint_are_dropped() {
    let mut net = Net::new();
    assert_eq!(net.send(GATEWAY), Sealed::NoEndpoint);
    assert_eq!(net.nodes[GATEWAY].status().queued, 0);
    assert!(net.heard.is_empty());
}

#[test]
fn handshakes_from_both_sides_at_once_lose_nothing() {
    let mut net = Net::with(|me, settings| {
        if me == GATEWAY {
            settings.endpoint = Some(address("198.51.100.7:40000"));
        }
    });
    net.send(CLIENT);
    net.send(GATEWAY);
    net.run(LATENCY * 6);
    net.send(CLIENT);
    net.send(GATEWAY);
    net.run(LATENCY * 2);
    assert_eq!(net.nodes[GATEWAY].inbox, [0, 2]);
    assert_eq!(net.nodes[CLIENT].inbox, [1, 3]);
}

#[test]
fn the_gateway_follows_a_client_that_roams_with_data() {
    let mut net = Net::connected();
    net.nodes[CLIENT].address = address("[2001:db8::7]:41000");
    net.send(CLIENT);
    net.run(LATENCY * 2);
    assert_eq!(
        net.nodes[GATEWAY].status().path.unwrap().remote,
        net.nodes[CLIENT].address
    );
    net.send(GATEWAY);
    net.run(LATENCY * 2);
    assert_eq!(net.nodes[CLIENT].inbox, [2]);
}

#[test]
fn a_client_follows_the_address_that_answers_its_initiation() {
    let mut net = Net::new();
    net.send(CLIENT);
    net.run(LATENCY);
    let response = net.heard.iter_mut().find(|d| d.bytes[0] == 2).unwrap();
    response.source = address("192.0.2.99:51820");
    let response = response.clone();
    net.deliver(response);
    let client = net.nodes[CLIENT].status();
    assert_eq!(client.path.unwrap().remote, address("192.0.2.99:51820"));
}

#[test]
fn bare_boringtun_as_a_client_sees_a_wireguard_endpoint() {
    let now = Instant::now();
    let mut gateway = Tunnel::new(secret(1), MTU, ShardId::default(), 7, now);
    let id = gateway.add_peer(peer(2, &["10.8.0.2/32"]), now).unwrap();
    let mut client = Tunn::new(secret(2), public(1), None, None, 9, None);
    let (mut buffer, mut dst) = ([0; 2048], [0; 2048]);
    let from = path("198.51.100.7:40000");
    let hello = packet([10, 8, 0, 2], [10, 8, 0, 1], 1, 60);

    let TunnResult::WriteToNetwork(initiation) = client.encapsulate(&hello, &mut buffer) else {
        panic!("no initiation");
    };
    assert_eq!(gateway.initiator(initiation), Some(public(2)));
    assert_eq!(
        gateway.receive(&from, initiation, &mut dst, now),
        Received::Nothing
    );
    let response = gateway.poll_transmit().unwrap();
    assert_eq!(response.path, from);
    let TunnResult::WriteToNetwork(keepalive) =
        client.decapsulate(None, &response.bytes, &mut buffer)
    else {
        panic!("no keepalive");
    };
    assert_eq!(
        gateway.receive(&from, keepalive, &mut dst, now),
        Received::Nothing
    );
    let TunnResult::WriteToNetwork(data) = client.decapsulate(None, &[], &mut buffer) else {
        panic!("nothing was queued");
    };
    let Received::Packet {
        peer,
        packet: received,
    } = gateway.receive(&from, data, &mut dst, now)
    else {
        panic!("no packet");
    };
    assert_eq!((peer, &*received), (id, &hello[..]));

    let reply = packet([10, 8, 0, 1], [10, 8, 0, 2], 2, 61);
    let Sealed::Written(len) = gateway.seal(id, &reply, &mut dst, now) else {
        panic!("not sealed");
    };
    assert!(matches!(
        client.decapsulate(None, &dst[..len], &mut buffer),
        TunnResult::WriteToTunnelV4(packet, _) if *packet == reply[..]
    ));
}

#[test]
fn the_initiator_is_determined_only_once() {
    let now = Instant::now();
    let shard = |shard| {
        let mut tunnel = Tunnel::new(secret(1), MTU, shard, 7, now);
        let id = tunnel.add_peer(peer(2, &["10.8.0.2/32"]), now).unwrap();
        (tunnel, id)
    };
    let mut shards: Vec<_> = ShardId::all(2).map(shard).collect();
    let mut client = Tunn::new(secret(2), public(1), None, None, 9, None);
    let (mut buffer, mut dst) = ([0; 2048], [0; 2048]);
    let from = path("198.51.100.7:40000");
    let TunnResult::WriteToNetwork(initiation) = client.encapsulate(&[], &mut buffer) else {
        panic!("no initiation");
    };
    let (other, id) = &mut shards[1];
    let forwarded = other.receive(&from, initiation, &mut dst, now);
    let (shard, initiator) = (0, Some(*id));
    assert_eq!(forwarded, Received::OtherShard { shard, initiator });
    let (owner, _) = &mut shards[0];
    let received = owner.receive_from_shard(&from, initiation, initiator, &mut dst, now);
    assert_eq!(received, Received::Nothing);
    assert_eq!(owner.poll_transmit().unwrap().bytes[0], 2);
}

#[test]
fn an_idle_peer_costs_little_memory() {
    let without_session = size_of::<Peer>();
    assert!(without_session <= 512, "{without_session} bytes");
    let with_sessions = without_session + size_of::<Tunn>();
    assert!(with_sessions <= 16 * 1024, "{with_sessions} bytes");
}

#[test]
fn a_tunnel_can_move_to_another_thread() {
    fn can_move<T: Send>() {}
    can_move::<Tunnel>();
}
