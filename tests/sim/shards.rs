//! Several shards with one UDP port and one LAN address behave like one engine. The network passes
//! each datagram and packet to a random shard.

use crate::ip::{fragments, ping, udp, udp_parts};
use crate::network::{Family, LAN, Network, SERVER, inner, source};
use crate::network_of_shards;
use crate::transfer::copy_both_ways;
use smoltcp::wire::{IpProtocol, Ipv4Packet};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use vcgate_core::nat::{BLOCK_SIZE, Forward, Protocol};
use vcgate_core::smb::Mode;

const SHARDS: u8 = 3;
const CLIENTS: usize = 5;

fn network(seed: u64) -> Network {
    let mut network = network_of_shards(SHARDS, Family::V4, CLIENTS, Mode::Assign, seed);
    network.keep_lan = true;
    network
}

/// Makes a network in which all clients are connected.
fn connected(seed: u64) -> Network {
    let mut network = network(seed);
    network.clients.iter_mut().for_each(|c| c.raw = true);
    for client in 0..CLIENTS {
        network.client_sends(client, &udp((inner(client), 4000), (SERVER, 9), b"here"));
    }
    network.wait(Duration::from_secs(2));
    assert_eq!(network.on_lan.len(), CLIENTS);
    network.on_lan.clear();
    network
}

#[test]
fn peers_and_ports_are_distributed_and_every_shard_has_all_peers() {
    let network = connected(1);
    let mut ports = HashSet::new();
    for engine in network.shards() {
        let shard = engine.shard();
        let own: Vec<_> = engine.tunnel().own_peers().map(|peer| peer.id.0).collect();
        assert!(!own.is_empty() && own.iter().all(|id| shard.owns(*id)));
        assert!(engine.tunnel().own_peers().all(|peer| peer.connected));
        assert_eq!(engine.tunnel().peers().count(), CLIENTS);
        let flows: Vec<_> = engine.nat().flows(network.now).collect();
        assert_eq!(flows.len(), own.len());
        for flow in flows {
            assert!(shard.owns((flow.port / BLOCK_SIZE).into()));
            assert!(ports.insert(flow.port));
        }
    }
    assert_eq!(ports.len(), CLIENTS);
}

#[test]
fn sessions_rekey_for_an_hour_without_a_lost_packet() {
    let mut network = connected(2);
    for number in 0..3600u64 {
        for client in 0..CLIENTS {
            let from = (inner(client), 4000);
            network.client_sends(client, &udp(from, (SERVER, 5000), &number.to_be_bytes()));
        }
        network.wait(Duration::from_millis(500));
        let arrived = std::mem::take(&mut network.on_lan);
        assert_eq!(arrived.len(), CLIENTS, "in second {number}");
        for packet in arrived {
            let (port, _, payload) = udp_parts(&packet).unwrap();
            network.server_sends(udp((SERVER, 5000), (LAN, port), payload));
        }
        network.wait(Duration::from_millis(500));
    }
    for client in &network.clients {
        let numbers = client.received.iter().filter_map(|p| udp_parts(p));
        let numbers: Vec<_> = numbers.map(|(_, _, n)| n.to_vec()).collect();
        let all: Vec<_> = (0..3600u64).map(|n| n.to_be_bytes().to_vec()).collect();
        assert_eq!(numbers, all);
    }
}

#[test]
fn clients_of_different_shards_reach_each_other() {
    let mut network = connected(3);
    for to in 1..CLIENTS {
        network.client_sends(0, &ping(inner(0), inner(to), to as u16, b"hello"));
    }
    network.wait(Duration::from_secs(1));
    for client in &network.clients[1..] {
        let requests = client.received.iter().filter(|p| source(p) == inner(0));
        let [request] = requests.collect::<Vec<_>>()[..] else {
            panic!("{:?}", client.received);
        };
        assert_eq!(request[8], 63, "one hop");
    }
}

#[test]
fn a_forward_works_with_a_port_of_any_shard() {
    for n in 0..usize::from(SHARDS) {
        let mut network = network(4);
        let port = forwarded(&mut network, Protocol::Tcp)[n];
        network.client_sends(1, &ping(inner(1), SERVER, 1, b""));
        network.wait(Duration::from_secs(1));
        let listening = [443, 443].map(|port| network.clients[1].host.listen(port + n as u16));
        let to = SocketAddr::new(LAN.into(), port);
        // From the LAN, and from a client of another shard (hairpin).
        let stranger = network.server.connect(50_000, to);
        let other = network.clients[2].host.connect(50_001, to);
        let connected = network.run(Duration::from_secs(10), |network| {
            let mut near = |handle| network.clients[1].host.tcp(handle).may_send();
            let both = near(listening[0]) && near(listening[1]);
            both && network.server.tcp(stranger).may_send()
                && network.clients[2].host.tcp(other).may_send()
        });
        assert!(connected, "port {port}");
    }
}

/// Forwards one port of each shard to client 1; returns the ports.
fn forwarded(network: &mut Network, protocol: Protocol) -> [u16; SHARDS as usize] {
    let ports = [8000, 8000 + BLOCK_SIZE, 8000 + 2 * BLOCK_SIZE];
    for number in 0..ports.len() {
        for (n, port) in (0..).zip(ports) {
            let to = SocketAddr::new(inner(1).into(), 443 + n);
            let forward = Forward {
                protocol,
                port,
                to,
                lan: None,
            };
            let now = network.now;
            network.shard(number).add_forward(forward, now).unwrap();
        }
    }
    ports
}

#[test]
fn a_peer_of_any_shard_has_a_lan_address_of_its_own() {
    for client in 0..CLIENTS {
        let mut network = network(6);
        let own = Ipv4Addr::new(192, 168, 77, 50);
        let now = network.now;
        for number in 0..usize::from(SHARDS) {
            let engine = network.shard(number);
            let mut peers = engine.tunnel().peers();
            let peer = peers.nth(client).map(|peer| peer.id);
            drop(peers);
            let set = engine.set_lan_address(peer.unwrap(), Some(own), now);
            set.unwrap();
        }
        network.clients.iter_mut().for_each(|c| c.raw = true);
        for port in [700, 4000] {
            let question = udp((inner(client), port), (SERVER, 9), b"question");
            network.client_sends(client, &question);
            network.wait(Duration::from_secs(2));
            let [packet] = &std::mem::take(&mut network.on_lan)[..] else {
                panic!("expected one packet on the LAN");
            };
            assert_eq!(source(packet), own);
            assert_eq!(udp_parts(packet).unwrap().0, port, "the port is kept");
            network.server_sends(udp((SERVER, 9), (own, port), b"answer"));
            network.wait(Duration::from_millis(100));
        }
        // The server has no program at that port, and says so too.
        let received = network.clients[client].received.iter();
        let answers = received.filter_map(|packet| udp_parts(packet));
        assert_eq!(answers.filter(|(.., text)| *text == b"answer").count(), 2);
    }
}

#[test]
fn fragments_reach_their_client_in_any_order() {
    for seed in 0..20 {
        let mut network = connected(100 + seed);
        let ports = forwarded(&mut network, Protocol::Udp);
        for (id, port) in (1..).zip(ports) {
            // From the LAN, and from a client of another shard (hairpin).
            let pieces = fragments((SERVER, 9), (LAN, port), id);
            let hairpin = fragments((inner(2), 4000), (LAN, port), id);
            let order = if seed % 2 == 0 { [0, 1] } else { [1, 0] };
            for piece in order {
                network.server_sends(pieces[piece].clone());
                network.client_sends(2, &hairpin[piece]);
                network.wait(Duration::from_millis(50));
            }
        }
        let received = &network.clients[1].received;
        let arrived = |from: Ipv4Addr| {
            let pieces = received.iter().map(Ipv4Packet::new_unchecked);
            let pieces =
                pieces.filter(|p| p.src_addr() == from && p.next_header() == IpProtocol::Udp);
            pieces.count()
        };
        assert_eq!((arrived(SERVER), arrived(LAN)), (6, 6), "{received:?}");
    }
}

#[test]
fn concurrent_transfers_of_all_clients_complete() {
    for family in [Family::V4, Family::V6] {
        let mut network = network_of_shards(SHARDS, family, CLIENTS, Mode::Assign, 5);
        assert!(copy_both_ways(&mut network, 500_000));
    }
}
