//! The whole pipeline, from a datagram to a packet for the LAN and back.

mod new_flow;

pub(crate) use new_flow::{NewFlow, Protocol};

use crate::packets::{ACK, CLIENT, GATEWAY, HEADERS, LAN, MTU, SEGMENT, SERVER, SYN, Side, Stream};
use crate::packets::{offloaded, tcp};
use crate::{Work, lookup};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use ipnet::{IpNet, Ipv4Net};
use std::hint::black_box;
use std::io::IoSlice;
use std::net::SocketAddrV4;
use std::time::Instant;
use vcgate_core::engine::{Engine, GlobalPolicy, Merge, Output, Rule, Settings, ShardMessage};
use vcgate_core::smb;
use vcgate_core::tunnel::{self, Ecn, Path, PeerSettings, ShardId};
use vcgate_wire::ip::Headers;
use vcgate_wire::virtio_net::Header;

/// The bytes that encapsulation adds to a packet.
const OVERHEAD: usize = tunnel::OVERHEAD;
/// The client's endpoint.
const PATH: &str = "203.0.113.10:40000";

/// The kind of traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP to a port that the hook does not watch.
    Plain,
    Smb1,
    Smb2,
}

/// Returns the payload of full segments, in bytes.
pub(crate) const fn payload(segments: usize) -> usize {
    segments * SEGMENT
}

/// Client → LAN: datagrams become one packet.
pub(crate) struct Up {
    scene: Scene,
    segments: usize,
}

impl Up {
    pub(crate) fn new(kind: Kind, segments: usize) -> Self {
        let scene = Scene::new(kind, Side::Client);
        Self { scene, segments }
    }
}

impl Work for Up {
    fn input(&mut self) -> Vec<u8> {
        self.scene.acknowledge();
        let scene = &mut self.scene;
        let mut datagrams = Vec::new();
        for _ in 0..self.segments {
            let payload = scene.stream.take(SEGMENT);
            let packet = tcp(scene.client, scene.server, scene.next, ACK, &payload);
            scene.next.0 = scene.next.0.wrapping_add(SEGMENT as u32);
            datagrams.extend(scene.sealed(&packet));
        }
        datagrams
    }

    fn run(&mut self, datagrams: &mut [u8]) {
        let Scene {
            engine, now, out, ..
        } = &mut self.scene;
        let stride = usize::from(MTU) + OVERHEAD;
        engine.datagrams(&path(), Ecn::NotCapable, stride, datagrams, *now, out);
        engine.flush(*now, out);
    }

    fn check(&self, runs: usize) {
        let Count { packets, bytes } = self.scene.out.lan;
        assert_eq!(packets, runs, "each run makes one packet for the LAN");
        assert_eq!(bytes, runs * (HEADERS + payload(self.segments)));
        self.scene.check_hook();
    }
}

/// LAN → client: one packet becomes datagrams.
pub(crate) struct Down {
    scene: Scene,
    segments: usize,
}

impl Down {
    pub(crate) fn new(kind: Kind, segments: usize) -> Self {
        let scene = Scene::new(kind, Side::Server);
        Self { scene, segments }
    }
}

impl Work for Down {
    fn input(&mut self) -> Vec<u8> {
        let scene = &mut self.scene;
        let payload = scene.stream.take(payload(self.segments));
        let (ack, seq) = scene.next;
        let mut packet = tcp(scene.server, scene.outside, (seq, ack), ACK, &payload);
        scene.next.1 = seq.wrapping_add(payload.len() as u32);
        let header = offloaded(&mut packet).encode();
        [&header[..], &packet].concat()
    }

    fn run(&mut self, input: &mut [u8]) {
        let Scene {
            engine, now, out, ..
        } = &mut self.scene;
        let Some((header, packet)) = input.split_first_chunk_mut() else {
            return;
        };
        if let Ok(header) = Header::decode(header, packet) {
            engine.lan_packet(&header, packet, *now, out);
        }
        engine.flush(*now, out);
    }

    fn check(&self, runs: usize) {
        let sealed = usize::from(MTU) + OVERHEAD;
        let bytes = self.scene.out.clients.bytes;
        assert_eq!(bytes, runs * self.segments * sealed);
        self.scene.check_hook();
    }
}

/// An engine with a client and an open TCP connection.
struct Scene {
    engine: Engine,
    tunn: Tunn,
    now: Instant,
    out: Counted,
    kind: Kind,
    client: SocketAddrV4,
    /// The client's end as the server sees it.
    outside: SocketAddrV4,
    server: SocketAddrV4,
    /// The client's next sequence number, and the server's.
    next: (u32, u32),
    stream: Stream,
}

impl Scene {
    fn new(kind: Kind, from: Side) -> Self {
        let now = Instant::now();
        let (ours, theirs) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]));
        let mut engine = Engine::new(settings(ours.clone()), now);
        let peer = PeerSettings {
            name: "client".into(),
            public_key: PublicKey::from(&theirs),
            preshared_key: None,
            allowed_ips: vec![IpNet::V4(CLIENT.into())],
            endpoint: None,
            persistent_keepalive: None,
        };
        let lan = Rule::network(Ipv4Net::new_assert(SERVER, 24).trunc().into());
        let added = engine.add_peer(peer, vec![lan], now);
        added.expect("the only peer");
        let (port, stream) = match kind {
            Kind::Plain => (5001, Stream::plain()),
            Kind::Smb1 => (445, Stream::smb1(from)),
            Kind::Smb2 => (445, Stream::smb2(from)),
        };
        let client = SocketAddrV4::new(CLIENT, 50_000);
        let mut scene = Self {
            engine,
            tunn: Tunn::new(theirs, PublicKey::from(&ours), None, None, 1, None),
            now,
            out: Counted::default(),
            kind,
            client,
            outside: client,
            server: SocketAddrV4::new(SERVER, port),
            next: (1000, 2000),
            stream,
        };
        scene.connect();
        if let Kind::Smb2 = kind {
            // The server's first answer decides on the protocol.
            scene.answer(&Stream::smb2(Side::Server).take(100));
        }
        scene
    }

    /// Makes a WireGuard handshake, then a TCP connection.
    fn connect(&mut self) {
        let Self { client, server, .. } = *self;
        let mut buffer = [0; 2048];
        let opening = tcp(client, server, (999, 0), SYN, &[]);
        let initiation = written(self.tunn.encapsulate(&opening, &mut buffer));
        let (answers, _) = self.receive(&initiation);
        let confirmation = written(self.tunn.decapsulate(None, &answers[0], &mut buffer));
        self.receive(&confirmation);
        // The packet that was queued for the session.
        let queued = written(self.tunn.decapsulate(None, &[], &mut buffer));
        let (_, on_lan) = self.receive(&queued);
        let (port, _) = ports(&on_lan[0]);
        self.outside = SocketAddrV4::new(LAN, port);

        let mut out = Recorded::default();
        let mut accept = tcp(server, self.outside, (1999, 1000), SYN | ACK, &[]);
        let vnet = Header::default();
        self.engine
            .lan_packet(&vnet, &mut accept, self.now, &mut out);
        self.engine.flush(self.now, &mut out);
        let confirm = tcp(client, server, self.next, ACK, &[]);
        let confirm = self.sealed(&confirm);
        self.receive(&confirm);
    }

    /// Lets the server acknowledge everything that the client has sent, as it does in a copy.
    fn acknowledge(&mut self) {
        self.answer(&[]);
    }

    /// Sends bytes of the server, with an acknowledgement of all that the client has sent.
    fn answer(&mut self, bytes: &[u8]) {
        let (acknowledged, seq) = self.next;
        self.next.1 = seq.wrapping_add(bytes.len() as u32);
        let mut packet = tcp(self.server, self.outside, (seq, acknowledged), ACK, bytes);
        let mut out = Recorded::default();
        let vnet = Header::default();
        self.engine
            .lan_packet(&vnet, &mut packet, self.now, &mut out);
        self.engine.flush(self.now, &mut out);
    }

    /// Seals a packet of the client.
    fn sealed(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 2048];
        written(self.tunn.encapsulate(packet, &mut buffer))
    }

    /// Gives the engine a datagram, and returns the datagrams and LAN packets that it sends.
    fn receive(&mut self, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let Self { engine, now, .. } = self;
        let (mut out, len) = (Recorded::default(), datagram.len());
        engine.datagrams(&path(), Ecn::NotCapable, len, datagram, *now, &mut out);
        engine.flush(*now, &mut out);
        (out.clients, out.lan)
    }

    /// Checks that the hook read the flow if it is SMB1, and only then.
    fn check_hook(&self) {
        let flow = self.engine.nat().flows(self.now).next();
        let report = flow.and_then(|flow| self.engine.hook().flow(flow.id));
        match self.kind {
            Kind::Plain => assert!(report.is_none()),
            Kind::Smb1 => assert_eq!(report.expect("a watched flow").bypass, None),
            Kind::Smb2 => {
                let bypass = report.expect("a watched flow").bypass;
                assert_eq!(bypass, Some(smb::Reason::Smb2));
            }
        }
    }
}

fn settings(private_key: StaticSecret) -> Settings {
    Settings {
        private_key,
        addresses: vec![Ipv4Net::new_assert(GATEWAY, 24).into()],
        mtu: MTU,
        merge: Merge {
            tcp: true,
            udp: true,
        },
        max_segments: vcgate_io::udp::MAX_SEGMENTS,
        shard: ShardId::default(),
        nat: lookup::settings(),
        policy: GlobalPolicy::default(),
        smb: smb::Settings::default(),
        seed: 1,
    }
}

fn path() -> Path {
    Path {
        remote: PATH.parse().expect("an address"),
        local: None,
    }
}

fn written(result: TunnResult<'_>) -> Vec<u8> {
    match result {
        TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
        other => panic!("nothing to send: {other:?}"),
    }
}

fn ports(packet: &[u8]) -> (u16, u16) {
    let l4 = Headers::parse(packet).expect("a whole packet").l4;
    let port = |at: usize| u16::from_be_bytes([packet[l4 + at], packet[l4 + at + 1]]);
    (port(0), port(2))
}

/// Keeps the output of the preparation.
#[derive(Default)]
struct Recorded {
    clients: Vec<Vec<u8>>,
    lan: Vec<Vec<u8>>,
}

impl Output for Recorded {
    fn datagrams(&mut self, _: &Path, _: Ecn, segment: usize, bytes: &[u8]) {
        self.clients
            .extend(bytes.chunks(segment).map(<[u8]>::to_vec));
    }

    fn lan_packet(&mut self, _: &Header, pieces: &[IoSlice<'_>]) {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &**piece).collect();
        self.lan.push(pieces.concat());
    }

    fn to_shard(&mut self, shard: u8, _: ShardMessage) {
        panic!("there is no shard {shard}");
    }
}

/// Counts the output.
#[derive(Default)]
struct Counted {
    clients: Count,
    lan: Count,
}

#[derive(Clone, Copy, Default)]
struct Count {
    packets: usize,
    bytes: usize,
}

impl Output for Counted {
    fn datagrams(&mut self, _: &Path, _: Ecn, _: usize, bytes: &[u8]) {
        self.clients.packets += 1;
        self.clients.bytes += black_box(bytes).len();
    }

    fn lan_packet(&mut self, _: &Header, pieces: &[IoSlice<'_>]) {
        self.lan.packets += 1;
        let lengths = black_box(pieces).iter().map(|piece| piece.len());
        self.lan.bytes += lengths.sum::<usize>();
    }

    fn to_shard(&mut self, shard: u8, _: ShardMessage) {
        panic!("there is no shard {shard}");
    }
}
