//! A client's file server that is reached through a forwarded port of the LAN address. It sees all
//! clients with that address, so the hook must give them distinct numbers.

use crate::ip::{ACK, SYN, SYN_ACK, fragment_in_two, ping, tcp, tcp_data};
use crate::network::{Family, Faults, GATEWAY, LAN, Network, inner};
use crate::network_of_shards;
use crate::raw::{raw, send_and_wait, take_received};
use crate::rules::lan;
use crate::smb::{
    NEGOTIATE, SESSION_SETUP_ANDX, assert_distinct_numbers_and_unchanged_data, message,
    take_numbers, transfer_streams,
};
use crate::stale::crash;
use proptest::prelude::*;
use smoltcp::iface::SocketHandle;
use std::net::SocketAddr;
use std::time::Duration;
use vcgate_core::engine::{Destination, GlobalPolicy, Rule};
use vcgate_core::nat::{Forward, Protocol};
use vcgate_core::smb::Mode;

/// The client that runs the server, after two clients that use it.
const SERVER: usize = 2;

fn forward(network: &mut Network, number: usize, to: SocketAddr) {
    let (now, protocol) = (network.now, Protocol::Tcp);
    let port = 445;
    let forward = Forward {
        protocol,
        port,
        to,
        lan: None,
    };
    network.shard(number).add_forward(forward, now).unwrap();
}

/// Makes a network in which all shards have the forward and the server is connected.
fn forwarded(shards: u8, family: Family, seed: u64) -> Network {
    let mut network = network_of_shards(shards, family, SERVER + 1, Mode::Assign, seed);
    for number in 0..shards.into() {
        forward(&mut network, number, (family.inner(SERVER), 445).into());
    }
    network.client_sends(SERVER, &ping(inner(SERVER), GATEWAY, 1, b""));
    network.wait(Duration::from_secs(1));
    network
}

fn streams_at_server(shards: u8, family: Family, seed: u64, faults: Faults) -> Vec<Vec<u8>> {
    let mut network = forwarded(shards, family, seed);
    network.faults = faults;
    let to = (family.lan(), 445).into();
    transfer_streams(
        &mut network,
        |net| &mut net.clients[SERVER].host,
        to,
        SERVER,
        50_000,
    )
}

#[test]
fn every_client_gets_a_distinct_number() {
    for shards in 1..4 {
        for family in Family::BOTH {
            let got = streams_at_server(shards, family, 1, Faults::default());
            assert_distinct_numbers_and_unchanged_data(got);
        }
    }
}

#[test]
fn a_fragmented_logon_gets_its_number() {
    let rules = vec![vec![Rule::all(Destination::Anywhere)], vec![lan()]];
    let mut network = raw(GlobalPolicy::default(), &rules);
    forward(&mut network, 0, (inner(1), 445).into());
    let (client, server) = ((inner(0), 50_000), (LAN, 445));
    send_and_wait(&mut network, 0, &tcp(client, server, (SYN, 99, 0)));
    let [syn] = &take_received(&mut network, 1)[..] else {
        panic!("expected one SYN");
    };
    let seen = (LAN, u16::from_be_bytes([syn[20], syn[21]]));
    let accepts = tcp((inner(1), 445), seen, (SYN_ACK, 499, 100));
    send_and_wait(&mut network, 1, &accepts);
    let logon = message(SESSION_SETUP_ANDX, 900);
    let segment = tcp_data(client, server, (ACK, 100, 500), &logon);
    for (order, id) in [([0, 1], 7), ([1, 0], 8)] {
        let cut = fragment_in_two(&segment, 504, id);
        order
            .iter()
            .for_each(|piece| send_and_wait(&mut network, 0, &cut[*piece]));
        let [packet] = &take_received(&mut network, 1)[..] else {
            panic!("expected one packet");
        };
        let mut got = packet[40..].to_vec();
        assert_eq!(take_numbers(&mut got), [1]);
        assert_eq!(got, logon);
    }
}

/// Connects a client, logs on and awaits the answer; returns the sockets of client and server.
fn log_on(network: &mut Network, client: usize, port: u16) -> [SocketHandle; 2] {
    let far = network.clients[SERVER].host.listen(445);
    let near = &mut network.clients[client].host;
    let near = near.connect(port, (LAN, 445).into());
    let mut stream = [message(NEGOTIATE, 90), message(SESSION_SETUP_ANDX, 60)].concat();
    let answered = network.run(Duration::from_secs(30), |net| {
        let socket = net.clients[client].host.tcp(near);
        if socket.may_send() {
            let sent = socket.send_slice(&stream).unwrap_or(0);
            stream.drain(..sent);
        }
        let answered = socket.can_recv();
        let socket = net.clients[SERVER].host.tcp(far);
        if socket.can_recv() {
            let _ = socket.recv(|data| (data.len(), ()));
            let _ = socket.send_slice(b"welcome");
        }
        answered && stream.is_empty()
    });
    assert!(answered, "the server answers the logon");
    network.wait(Duration::from_millis(100));
    [near, far]
}

#[test]
fn the_old_connection_of_a_crashed_client_is_reset_at_the_server() {
    for shards in 1..4 {
        let mut network = forwarded(shards, Family::V4, 2);
        let [_, old] = log_on(&mut network, 0, 50_000);
        let [_, others] = log_on(&mut network, 1, 50_000);
        network.wait(Duration::from_secs(60));
        crash(&mut network, 0);
        log_on(&mut network, 0, 50_001);
        let mut has = |socket| network.clients[SERVER].host.tcp(socket).may_send();
        assert!(has(others) && !has(old), "with {shards} shards");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn numbers_are_distinct_under_loss_reordering_and_duplication(
        shards in 1u8..4, seed in any::<u64>(),
        loss in 0.0..0.05, reorder in 0.0..0.3, duplicate in 0.0..0.1,
    ) {
        let faults = Faults { loss, reorder, duplicate };
        assert_distinct_numbers_and_unchanged_data(streams_at_server(shards, Family::V4, seed, faults));
    }
}
