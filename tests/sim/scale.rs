//! One engine with 10,000 peers, all of which have five flows, or 1,000 of which have 60: ports are
//! unique, every answer reaches its flow, and all state expires.

use crate::ip::{udp, udp_parts};
use crate::network::{MTU, inner, secret, source};
use crate::{engine_of, lan_rules};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::PublicKey;
use mock_instant::MockClock;
use std::collections::{HashMap, HashSet};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use vcgate_core::engine::{Engine, Output, ShardMessage};
use vcgate_core::nat::PORT_HOLD_TIME;
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_wire::virtio_net::Header;

const PEERS: usize = 10_000;
const SERVER: (Ipv4Addr, u16) = (crate::network::SERVER, 7053);

/// The output of the engine.
#[derive(Default)]
struct Sent {
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    lan: Vec<Vec<u8>>,
}

impl Output for Sent {
    fn datagrams(&mut self, path: &Path, _: Ecn, segment: usize, bytes: &[u8]) {
        let cut = bytes.chunks(segment).map(|b| (path.remote, b.to_vec()));
        self.datagrams.extend(cut);
    }

    fn lan_packet(&mut self, _: &Header, pieces: &[IoSlice<'_>]) {
        self.lan
            .push(pieces.iter().flat_map(|p| p.to_vec()).collect());
    }

    fn to_shard(&mut self, shard: u8, _: ShardMessage) {
        panic!("there is no shard {shard}");
    }
}

struct World {
    engine: Engine,
    now: Instant,
    out: Sent,
    buffer: Vec<u8>,
    clients: Vec<Tunn>,
}

impl World {
    /// Returns a world in which the first `active` peers exist.
    fn new(active: usize, pool: Vec<Ipv4Addr>) -> Self {
        let rules = vec![lan_rules(); PEERS];
        let (engine, now) = engine_of(&rules, pool);
        let server = PublicKey::from(&secret(0));
        let client = |i: usize| Tunn::new(secret(i + 1), server, None, None, i as u32, None);
        Self {
            engine,
            now,
            out: Sent::default(),
            buffer: vec![0; usize::from(MTU) + 200],
            clients: (0..active).map(client).collect(),
        }
    }

    /// Returns the outer path of a client.
    fn path(client: usize) -> Path {
        Path {
            remote: SocketAddr::new([203, 0, 113, 1].into(), 20_000 + client as u16),
            local: None,
        }
    }

    /// Sends a packet from a client, after a handshake if necessary.
    fn client_sends(&mut self, client: usize, packet: &[u8]) {
        let mut next = self.clients[client].encapsulate(packet, &mut self.buffer);
        while let TunnResult::WriteToNetwork(bytes) = next {
            let (len, path) = (bytes.len(), Self::path(client));
            self.engine
                .datagrams(&path, Ecn::default(), len, bytes, self.now, &mut self.out);
            self.engine.flush(self.now, &mut self.out);
            // Empty input yields the packet that was queued during the handshake.
            let answer = self.out.datagrams.pop().map(|(_, bytes)| bytes);
            let answer = answer.unwrap_or_default();
            next = self.clients[client].decapsulate(None, &answer, &mut self.buffer);
        }
    }

    /// Delivers a packet from the LAN; returns the client and the packet that it received.
    fn deliver_from_lan(&mut self, mut packet: Vec<u8>) -> Option<(usize, Vec<u8>)> {
        self.engine
            .lan_packet(&Header::default(), &mut packet, self.now, &mut self.out);
        self.engine.flush(self.now, &mut self.out);
        let (to, datagram) = self.out.datagrams.pop()?;
        let client = usize::from(to.port() - 20_000);
        match self.clients[client].decapsulate(None, &datagram, &mut self.buffer) {
            TunnResult::WriteToTunnelV4(packet, _) => Some((client, packet.to_vec())),
            other => panic!("{other:?}"),
        }
    }

    /// Advances the time; returns the number of calls of the engine's timers.
    fn advance(&mut self, time: Duration) -> usize {
        MockClock::advance(time);
        self.now += time;
        let mut calls = 0;
        while self
            .engine
            .next_timeout()
            .is_some_and(|due| due <= self.now)
        {
            self.engine.handle_timeout(self.now, &mut self.out);
            calls += 1;
            assert!(calls < 10_000, "the timers do not end");
        }
        self.out.datagrams.clear(); // keepalives
        calls
    }
}

/// Opens flows of all clients, answers each, and lets them expire. Returns the number of port blocks
/// that were given, and of clients for each LAN address.
fn serve(
    active: usize,
    flows_per_client: u16,
    pool: Vec<Ipv4Addr>,
) -> (usize, HashMap<IpAddr, usize>) {
    let mut world = World::new(active, pool);
    let mut clients = HashMap::new();
    let mut ports = HashSet::new();
    for client in 0..active {
        // Stays below the handshake rate from which cookies are required.
        world.advance(Duration::from_millis(20));
        let mut own = Vec::new();
        for n in 0..flows_per_client {
            let from = (inner(client), 20_000 + n);
            world.client_sends(client, &udp(from, SERVER, b"question"));
            let packet = world.out.lan.pop().expect("a packet on the LAN");
            let (port, ..) = udp_parts(&packet).unwrap();
            let lan = source(&packet);
            assert!(ports.insert((lan, port)), "port {port} of {lan}");
            own.push((lan, port, from.1));
        }
        let (lan, ..) = own[0];
        assert!(
            own.iter().all(|(other, ..)| *other == lan),
            "RFC 4787 REQ-2"
        );
        *clients.entry(lan).or_insert(0) += 1;
        for (lan, port, inner_port) in own {
            let (reached, packet) = world
                .deliver_from_lan(udp(SERVER, (lan, port), b"answer"))
                .expect("a packet at a client");
            assert_eq!(reached, client);
            assert_eq!(
                udp_parts(&packet),
                Some((SERVER.1, inner_port, &b"answer"[..]))
            );
        }
    }
    let all = active * usize::from(flows_per_client);
    assert_eq!(world.engine.tunnel().peers().count(), PEERS);
    assert_eq!(world.engine.nat().flows(world.now).count(), all);
    // All expire at once. Then their ports are in quarantine (RFC 6888 REQ-8).
    let calls = world.advance(Duration::from_secs(300));
    assert!(calls >= all / 256, "{calls} calls");
    assert_eq!(world.engine.nat().flows(world.now).count(), 0);
    world.advance(PORT_HOLD_TIME);
    let (mut given, mut returned) = (0, 0);
    while let Some(event) = world.engine.poll_block() {
        match event.given {
            true => given += 1,
            false => returned += 1,
        }
    }
    assert_eq!(given, returned);
    assert_eq!(world.engine.nat().next_timeout(), None);
    (given, clients)
}

#[test]
fn one_engine_serves_10000_peers_and_60000_mappings() {
    let (blocks, _) = serve(PEERS / 10, 60, Vec::new());
    assert!(blocks > PEERS / 10, "{blocks} blocks");
}

#[test]
fn ten_thousand_clients_have_five_flows_each_behind_one_address() {
    let (blocks, _) = serve(PEERS, 5, Vec::new());
    assert!(blocks < 5 * PEERS, "{blocks} blocks");
}

#[test]
fn rfc4787_req2_three_thousand_clients_share_four_addresses() {
    let pool = [3, 4, 5].map(|n| Ipv4Addr::new(192, 168, 77, n));
    let (blocks, clients) = serve(3000, 4, pool.to_vec());
    assert_eq!(blocks, 3000, "one block each");
    assert_eq!(clients.len(), 4);
    assert!(clients.values().all(|count| *count == 750), "{clients:?}");
}
