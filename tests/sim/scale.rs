//! One engine with ten thousand peers, of whom a thousand have sixty flows each: every port is one
//! client's, every answer finds its flow, and nothing is left when all is over.

use crate::ip::{udp, udp_parts};
use crate::network::{Family, MTU, inner, secret};
use crate::{engine_of, lan_rules};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::PublicKey;
use mock_instant::MockClock;
use std::collections::HashMap;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use vcgate_core::engine::{Engine, Output, ShardMessage};
use vcgate_core::nat::PORT_HOLD_TIME;
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_wire::virtio_net::Header;

const PEERS: usize = 10_000;
const BUSY: usize = 1_000;
const EACH: u16 = 60;
const SERVER: (Ipv4Addr, u16) = (crate::network::SERVER, 7053);

/// What the engine sent since somebody asked.
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

struct Crowd {
    engine: Engine,
    now: Instant,
    out: Sent,
    room: Vec<u8>,
    clients: Vec<Tunn>,
}

impl Crowd {
    fn new() -> Self {
        let rules = vec![lan_rules(); PEERS];
        let (engine, now) = engine_of(&rules);
        let server = PublicKey::from(&secret(0));
        let client = |i: usize| Tunn::new(secret(i + 1), server, None, None, i as u32, None);
        Self {
            engine,
            now,
            out: Sent::default(),
            room: vec![0; usize::from(MTU) + 200],
            clients: (0..BUSY).map(client).collect(),
        }
    }

    /// Where a client is on the Internet.
    fn path(client: usize) -> Path {
        Path {
            remote: SocketAddr::new([203, 0, 113, 1].into(), 20_000 + client as u16),
            local: None,
        }
    }

    /// A client sends a packet, after a handshake if there was none.
    fn sends(&mut self, client: usize, packet: &[u8]) {
        let mut next = self.clients[client].encapsulate(packet, &mut self.room);
        while let TunnResult::WriteToNetwork(bytes) = next {
            let (len, path) = (bytes.len(), Self::path(client));
            self.engine
                .datagrams(&path, Ecn::default(), len, bytes, self.now, &mut self.out);
            self.engine.flush(self.now, &mut self.out);
            // Without an answer: what waited for the handshake.
            let answer = self.out.datagrams.pop().map(|(_, bytes)| bytes);
            let answer = answer.unwrap_or_default();
            next = self.clients[client].decapsulate(None, &answer, &mut self.room);
        }
    }

    /// A packet from the LAN; the client whom it reached, and what came there.
    fn arrives(&mut self, mut packet: Vec<u8>) -> Option<(usize, Vec<u8>)> {
        self.engine
            .lan_packet(&Header::default(), &mut packet, self.now, &mut self.out);
        self.engine.flush(self.now, &mut self.out);
        let (to, datagram) = self.out.datagrams.pop()?;
        let client = usize::from(to.port() - 20_000);
        match self.clients[client].decapsulate(None, &datagram, &mut self.room) {
            TunnResult::WriteToTunnelV4(packet, _) => Some((client, packet.to_vec())),
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass for the engine; how often it had to be called.
    fn pass(&mut self, time: Duration) -> usize {
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
            assert!(calls < 10_000, "it never comes to an end");
        }
        self.out.datagrams.clear(); // keepalives
        calls
    }
}

#[test]
fn ten_thousand_peers_and_sixty_thousand_mappings_in_one_engine() {
    let mut crowd = Crowd::new();
    let mut ports = HashMap::new();
    for client in 0..BUSY {
        // Not more handshakes a second than an endpoint takes without cookies.
        crowd.pass(Duration::from_millis(20));
        for n in 0..EACH {
            let from = (inner(client), 20_000 + n);
            crowd.sends(client, &udp(from, SERVER, b"question"));
            let packet = crowd.out.lan.pop().expect("it left for the LAN");
            let (port, ..) = udp_parts(&packet).unwrap();
            assert_eq!(ports.insert(port, (client, from.1)), None, "port {port}");
        }
    }
    let all = BUSY * usize::from(EACH);
    assert_eq!(crowd.engine.tunnel().peers().count(), PEERS);
    assert_eq!(crowd.engine.nat().flows(crowd.now).count(), all);
    for (port, (client, inner_port)) in &ports {
        let (reached, packet) = crowd
            .arrives(udp(SERVER, (Family::V4.lan(), *port), b"answer"))
            .expect("it arrived");
        assert_eq!(reached, *client);
        assert_eq!(
            udp_parts(&packet),
            Some((SERVER.1, *inner_port, &b"answer"[..]))
        );
    }
    // All are due at once. RFC 6888 REQ-8: then their ports rest.
    let calls = crowd.pass(Duration::from_secs(300));
    assert!(calls >= all / 256, "{calls} calls ended all of them");
    assert_eq!(crowd.engine.nat().flows(crowd.now).count(), 0);
    crowd.pass(PORT_HOLD_TIME);
    let (mut given, mut returned) = (0, 0);
    while let Some(event) = crowd.engine.poll_block() {
        match event.given {
            true => given += 1,
            false => returned += 1,
        }
    }
    assert_eq!((given, returned), (BUSY, BUSY));
    assert_eq!(crowd.engine.nat().next_timeout(), None);
}
