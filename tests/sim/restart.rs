//! The endpoint restarts with its saved flows, and all connections survive.

use crate::ip::udp;
use crate::network::{Family, Network, secret};
use crate::smb::{streams_at_server_from, take_numbers};
use crate::stale::{Connection, log_on};
use crate::transfer::move_data;
use crate::{engine, network_of_shards, settings};
use boringtun::x25519::PublicKey;
use ipnet::IpNet;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use vcgate_core::engine::{Destination, Engine, GlobalPolicy, Rule};
use vcgate_core::ids::ShardId;
use vcgate_core::journal::{Record, State, Timestamp, encode, replay};
use vcgate_core::nat::Limits;
use vcgate_core::smb::Mode;

/// The end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It stops, and writes a last snapshot.
    Stop,
    /// It is killed while it writes.
    Kill,
}

/// Replaces the engines by new ones, which restore the flows from a journal.
fn restart(network: &mut Network, end: End) {
    let shards = network.shards().count() as u8;
    restart_with_shards(network, end, shards);
}

fn restart_with_shards(network: &mut Network, end: End, shards: u8) {
    let rules = vec![vec![Rule::all(Destination::Anywhere)]; network.clients.len()];
    let now = network.now;
    let journal = match end {
        End::Stop => {
            let mut records: Vec<Record> = network
                .shards()
                .flat_map(|engine| engine.final_snapshot(now))
                .collect();
            records.push(Record::end());
            let mut journal = encode::head().to_vec();
            encode::append(&mut journal, Timestamp(1 << 40), &records);
            journal
        }
        End::Kill => network.journal().to_vec(),
    };
    let state = replay(&journal).unwrap().state;
    // The peers are assigned to the shards by turns.
    let shard_of = |key: &[u8; 32]| {
        let is_it = |client: &usize| PublicKey::from(&secret(client + 1)).as_bytes() == key;
        let client = (0..network.clients.len()).find(is_it)?;
        Some((client % usize::from(shards)) as u8)
    };
    let moved = Arc::new(state.moved_ports(shards, shard_of));
    let new: Vec<Engine> = ShardId::all(shards)
        .map(|shard| {
            let policy = GlobalPolicy::default();
            let limits = Limits::default();
            let settings = settings(shard, policy, limits, Mode::Assign, 77);
            let mut new = engine(settings, &rules, now);
            new.move_ports(Arc::clone(&moved));
            new.restore(&state, Duration::ZERO, now).unwrap();
            new.resume_sessions(now);
            new
        })
        .collect();
    network.replace_engines(new);
}

#[test]
fn transfers_continue_after_a_restart() {
    const SIZE: usize = 1_000_000;
    let ends = [End::Stop, End::Kill].into_iter();
    for (family, end) in ends.flat_map(|end| Family::BOTH.map(|family| (family, end))) {
        let mut network = network_of_shards(1, family, 2, Mode::Assign, 5);
        // One client sends, the other receives.
        let ends = [0, 1].map(|client| {
            let port = 5000 + client as u16;
            let far = network.server.listen(port);
            let host = &mut network.clients[client].host;
            (host.connect(40_000, (family.server(), port).into()), far)
        });
        let (mut sent, mut arrived, mut restarted) = ([0; 2], [0; 2], false);
        let done = network.run(Duration::from_secs(120), |net| {
            for (client, (near, far)) in ends.into_iter().enumerate() {
                let near = net.clients[client].host.tcp(near);
                let far = net.server.tcp(far);
                let (from, to) = match client {
                    0 => (near, far),
                    _ => (far, near),
                };
                move_data(from, client, SIZE, &mut sent[client], &mut 0);
                move_data(to, client, 0, &mut 0, &mut arrived[client]);
            }
            if !restarted && arrived.iter().all(|n| *n > 0) && arrived[0] + arrived[1] > SIZE / 2 {
                assert!(arrived.iter().all(|n| *n < SIZE));
                restart(net, end);
                restarted = true;
            }
            arrived == [SIZE; 2]
        });
        assert!(done && restarted, "{arrived:?}");
        let flows: usize = network
            .shards()
            .map(|engine| engine.nat().flows(network.now).count())
            .sum();
        assert_eq!(flows, 2, "a transfer continued through another port");
    }
}

/// The time between two packets of a client.
const INTERVAL: Duration = Duration::from_millis(20);

#[test]
fn a_client_that_only_sends_continues_within_a_round_trip() {
    // By itself a client notices only after 15 s that its session no longer exists.
    let mut network = network_of_shards(2, Family::V4, 3, Mode::Assign, 8);
    network.keep_lan = true;
    let server = (Family::V4.server(), 9);
    let send = |network: &mut Network| {
        network.on_lan.clear();
        for client in 0..3 {
            let packet = udp((Family::V4.inner(client), 40_000), server, b"");
            network.client_sends(client, &packet);
        }
        network.wait(INTERVAL);
        network.on_lan.len()
    };
    for _ in 0..10 {
        send(&mut network);
    }
    restart(&mut network, End::Stop);
    let lost = (0..).take_while(|_| send(&mut network) < 3).count();
    assert!(
        INTERVAL * lost as u32 <= network.latency * 6,
        "{lost} packets are lost"
    );
}

#[test]
fn each_client_with_flows_gets_a_handshake_before_anything_is_sent_to_it() {
    let mut network = network_of_shards(2, Family::V4, 3, Mode::Assign, 9);
    streams_at_server_from(&mut network, 50_000);
    network.wait(Duration::from_secs(1));
    restart(&mut network, End::Stop);
    network.messages = Default::default();
    network.wait(Duration::from_millis(100));
    let [from_engine, from_clients] = &network.messages;
    let count = |messages: &[u8], kind| messages.iter().filter(|m| **m == kind).count();
    assert_eq!([count(from_engine, 1), count(from_clients, 2)], [3, 3]);
}

#[test]
fn the_number_of_a_restored_connection_is_not_assigned_again() {
    let mut network = network_of_shards(2, Family::V4, 3, Mode::Assign, 6);
    let mut streams = streams_at_server_from(&mut network, 50_000);
    restart(&mut network, End::Stop);
    streams.extend(streams_at_server_from(&mut network, 50_001));
    let numbers: HashSet<u16> = streams.iter_mut().map(|s| take_numbers(s)[0]).collect();
    assert_eq!(numbers.len(), 6, "{numbers:?}");
    let restored = network.shards().flat_map(|engine| {
        let flows = engine.nat().flows(network.now);
        flows.filter_map(|flow| Some(engine.hook().flow(flow.id)?.number?.get()))
    });
    assert_eq!(restored.collect::<HashSet<u16>>(), numbers);
}

/// The hook of the next run has not seen the connection's beginning, but the NAT has.
#[test]
fn a_file_connection_of_a_run_without_the_hook_continues() {
    let mut network = network_of_shards(1, Family::V4, 1, Mode::Off, 8);
    let Connection { near, far, .. } = log_on(&mut network, 0, 50_000);
    restart(&mut network, End::Stop);
    let socket = network.clients[0].host.tcp(near);
    socket.send_slice(b"still here").unwrap();
    let arrives = |net: &mut Network| net.server.tcp(far).can_recv();
    assert!(network.run(Duration::from_secs(60), arrives));
    assert_eq!(network.engine.hook().counters().unreadable_reset, 0);
}

#[test]
fn flows_of_a_removed_or_reassigned_address_are_not_restored() {
    let mut network = network_of_shards(1, Family::V4, 3, Mode::Assign, 7);
    streams_at_server_from(&mut network, 50_000);
    let records = network.engine.final_snapshot(network.now);
    let mut state = State::default();
    records.into_iter().for_each(|record| state.apply(record));
    let (shard, now) = (network.engine.shard(), network.now);
    let (policy, limits) = (GlobalPolicy::default(), Limits::default());
    let rules = vec![vec![Rule::all(Destination::Anywhere)]; 3];
    let settings = settings(shard, policy, limits, Mode::Assign, 77);
    let mut new = engine(settings, &rules, now);
    // The first client is removed, the second has its address, the third is unchanged.
    let first = Family::V4.inner(0);
    let new_owner = new.tunnel().route(Family::V4.inner(1)).unwrap();
    new.remove_peer(new.tunnel().route(first).unwrap(), now);
    new.tunnel_mut().allow(new_owner, IpNet::from(first));
    new.tunnel_mut()
        .disallow(new_owner, IpNet::from(Family::V4.inner(1)));
    new.restore(&state, Duration::ZERO, now).unwrap();
    let flows: Vec<_> = new.nat().flows(now).map(|f| f.inside.ip()).collect();
    assert_eq!(flows, [Family::V4.inner(2)]);
}

#[test]
fn connections_continue_with_another_number_of_shards() {
    for (before, after) in [(1, 3), (3, 1), (2, 3), (3, 2)] {
        let mut network = network_of_shards(before, Family::V4, 5, Mode::Assign, 11);
        let connections: Vec<_> = (0..5)
            .map(|client| log_on(&mut network, client, 50_000))
            .collect();
        for (client, Connection { near, .. }) in connections.iter().enumerate() {
            let socket = network.clients[client].host.tcp(*near);
            assert_eq!(socket.recv_slice(&mut [0; 20]), Ok("welcome".len()));
        }
        for end in [End::Kill, End::Stop] {
            let flows = flow_count(&network);
            restart_with_shards(&mut network, end, after);
            assert_eq!(flow_count(&network), flows);
            for (client, Connection { near, far, .. }) in connections.iter().enumerate() {
                let socket = network.clients[client].host.tcp(*near);
                socket.send_slice(b"up").unwrap();
                network.server.tcp(*far).send_slice(b"down").unwrap();
                let both = |net: &mut Network| {
                    let up = net.server.tcp(*far).recv_queue();
                    let down = net.clients[client].host.tcp(*near).recv_queue();
                    (up, down) == (2, 4)
                };
                assert!(
                    network.run(Duration::from_secs(60), both),
                    "{before} {after}"
                );
                let mut bytes = [0; 4];
                network.server.tcp(*far).recv_slice(&mut bytes).unwrap();
                let socket = network.clients[client].host.tcp(*near);
                socket.recv_slice(&mut bytes).unwrap();
            }
            // New flows do not get ports of others.
            streams_at_server_from(&mut network, 51_000 + u16::from(end == End::Stop));
        }
    }
}

fn flow_count(network: &Network) -> usize {
    network
        .shards()
        .map(|engine| engine.nat().flow_count())
        .sum()
}
