//! A client's file server behind a port of the LAN address: to it all who come by that address are one,
//! so the hook sees to them as to those of a server on the LAN.

use crate::ip::{ACK, SYN, SYN_ACK, pieces, ping, tcp, tcp_data};
use crate::network::{Family, Faults, GATEWAY, LAN, Network, inner};
use crate::network_of_shards;
use crate::raw::{raw, received, sends};
use crate::rules::lan;
use crate::smb::{
    NEGOTIATE, SESSION_SETUP_ANDX, all_distinct_and_otherwise_unchanged, gets_from, message,
    take_numbers,
};
use crate::stale::crash;
use proptest::prelude::*;
use smoltcp::iface::SocketHandle;
use std::net::SocketAddr;
use std::time::Duration;
use vcgate_core::engine::{Destination, GlobalPolicy, Rule};
use vcgate_core::nat::{Forward, Protocol};
use vcgate_core::smb::Mode;

/// The client with the server, behind two that come to it.
const SERVER: usize = 2;

fn forward(network: &mut Network, number: usize, to: SocketAddr) {
    let (now, protocol) = (network.now, Protocol::Tcp);
    let port = 445;
    let forward = Forward { protocol, port, to };
    network.shard(number).add_forward(forward, now).unwrap();
}

/// All shards know of the server, and where it is.
fn forwarded(shards: u8, family: Family, seed: u64) -> Network {
    let mut network = network_of_shards(shards, family, SERVER + 1, Mode::Assign, seed);
    for number in 0..shards.into() {
        forward(&mut network, number, (family.inner(SERVER), 445).into());
    }
    network.client_sends(SERVER, &ping(inner(SERVER), GATEWAY, 1, b""));
    network.wait(Duration::from_secs(1));
    network
}

fn server_gets(shards: u8, family: Family, seed: u64, faults: Faults) -> Vec<Vec<u8>> {
    let mut network = forwarded(shards, family, seed);
    network.faults = faults;
    let to = (family.lan(), 445).into();
    gets_from(
        &mut network,
        |net| &mut net.clients[SERVER].host,
        to,
        SERVER,
        50_000,
    )
}

#[test]
fn every_client_has_a_number_of_its_own() {
    for shards in 1..4 {
        for family in Family::BOTH {
            let got = server_gets(shards, family, 1, Faults::default());
            all_distinct_and_otherwise_unchanged(got);
        }
    }
}

#[test]
fn a_logon_in_fragments_gets_its_number_too() {
    let rules = vec![vec![Rule::all(Destination::Anywhere)], vec![lan()]];
    let mut network = raw(GlobalPolicy::default(), &rules);
    forward(&mut network, 0, (inner(1), 445).into());
    let (client, server) = ((inner(0), 50_000), (LAN, 445));
    sends(&mut network, 0, &tcp(client, server, (SYN, 99, 0)));
    let [syn] = &received(&mut network, 1)[..] else {
        panic!("one SYN");
    };
    let seen = (LAN, u16::from_be_bytes([syn[20], syn[21]]));
    let accepts = tcp((inner(1), 445), seen, (SYN_ACK, 499, 100));
    sends(&mut network, 1, &accepts);
    let logon = message(SESSION_SETUP_ANDX, 900);
    let segment = tcp_data(client, server, (ACK, 100, 500), &logon);
    for (order, id) in [([0, 1], 7), ([1, 0], 8)] {
        let cut = pieces(&segment, 504, id);
        order
            .iter()
            .for_each(|piece| sends(&mut network, 0, &cut[*piece]));
        let [packet] = &received(&mut network, 1)[..] else {
            panic!("one packet");
        };
        let mut got = packet[40..].to_vec();
        assert_eq!(take_numbers(&mut got), [1]);
        assert_eq!(got, logon);
    }
}

/// A client connects from a port of its own, logs on and is answered: its socket and the server's.
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
fn what_a_client_left_open_when_it_crashed_is_reset_at_the_server() {
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
    fn numbers_stay_right_under_loss_reorder_and_duplication(
        shards in 1u8..4, seed in any::<u64>(),
        loss in 0.0..0.05, reorder in 0.0..0.3, duplicate in 0.0..0.1,
    ) {
        let faults = Faults { loss, reorder, duplicate };
        all_distinct_and_otherwise_unchanged(server_gets(shards, Family::V4, seed, faults));
    }
}
