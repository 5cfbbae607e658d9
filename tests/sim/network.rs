//! The simulated network: one engine or several shards, boringtun clients with TCP/IP stacks of
//! their own, one server on the LAN, and wires between them that lose, reorder and duplicate. Time
//! is virtual; a run depends on its seed alone.

use crate::device::{as_super_packets, on_tun};
use crate::host::Host;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use mock_instant::MockClock;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smoltcp::wire::{IpProtocol, TcpPacket};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use vcgate_core::engine::{Engine, Output, ShardMessage, ShardTarget};
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_wire::ip::Headers;
use vcgate_wire::split::{self, Split};
use vcgate_wire::virtio_net::{Gso, Header};

/// What the wire between the clients and the engine does to a datagram.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The share of datagrams that are lost, of those that come late, and of those that come
    /// twice; 0 to 1.
    pub loss: f64,
    pub reorder: f64,
    pub duplicate: f64,
}

/// A client: WireGuard, a stack behind it, an address on the Internet.
pub struct Client {
    pub address: SocketAddr,
    pub host: Host,
    tunn: Box<Tunn>,
    /// What arrives and does not go to the stack.
    pub received: Vec<Vec<u8>>,
    /// The test sends packets itself instead of the stack.
    pub raw: bool,
    /// The sender index of its initiation that a response may come to. A standard client takes one
    /// to its newest initiation only, and to none once it has answered one of the engine's.
    expected: Option<[u8; 4]>,
    /// TCP segments to this port get lost in the client itself, as in a firewall of its own.
    pub deaf_at: Option<u16>,
}

/// Everything, and what is under way between them.
pub struct Network {
    pub now: Instant,
    pub engine: Engine,
    /// The other shards.
    pub mates: Vec<Engine>,
    pub family: Family,
    pub clients: Vec<Client>,
    pub server: Host,
    /// Every packet that the engine handed to the LAN, cut as the kernel would.
    pub on_lan: Vec<Vec<u8>>,
    pub keep_lan: bool,
    /// The outer marks of the next datagrams to the engine; without any, none.
    pub marks: VecDeque<Ecn>,
    /// The outer marks of all datagrams to clients.
    pub marked: Vec<Ecn>,
    /// The first bytes of all datagrams of each side: WireGuard's message types.
    pub messages: [Vec<u8>; 2],
    /// The gateway's machine has stopped: nothing reaches the engines, and what comes waits.
    pub paused: bool,
    pub faults: Faults,
    pub lan_faults: Faults,
    /// From the clients to the engine and back, each.
    pub latency: Duration,
    flying: BinaryHeap<Reverse<Flight>>,
    /// What came for the engines during a pause.
    waiting: Vec<Flight>,
    sent: u64,
    rng: SmallRng,
    next_tick: Instant,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    due: Instant,
    serial: u64,
    to: Place,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Engine { from: SocketAddr },
    Client(usize),
    Server,
    EngineFromLan,
}

const LATENCY: Duration = Duration::from_millis(10);
const LAN_LATENCY: Duration = Duration::from_micros(200);
/// How often boringtun's clients look at their timers.
const TICK: Duration = Duration::from_millis(250);

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
pub const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, 0, 1);
pub const LAN6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 2);
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 0x10);
pub const MTU: u16 = 1420;

/// What the hosts speak; the engine speaks both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn server(self) -> IpAddr {
        match self {
            Self::V4 => SERVER.into(),
            Self::V6 => SERVER6.into(),
        }
    }

    pub fn lan(self) -> IpAddr {
        match self {
            Self::V4 => LAN.into(),
            Self::V6 => LAN6.into(),
        }
    }

    pub fn gateway(self) -> IpAddr {
        match self {
            Self::V4 => GATEWAY.into(),
            Self::V6 => GATEWAY6.into(),
        }
    }

    pub fn inner(self, client: usize) -> IpAddr {
        match self {
            Self::V4 => inner(client).into(),
            Self::V6 => inner6(client).into(),
        }
    }
}

/// The inner address of a client.
pub fn inner(client: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 8, 0, 11)) + client as u32)
}

/// Its inner IPv6 address.
pub fn inner6(client: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, 0, 0x11 + client as u16)
}

/// Keys that a test can make again: the engine's is number 0, the clients' follow.
pub fn secret(number: usize) -> StaticSecret {
    let mut key = [7; 32];
    key[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    StaticSecret::from(key)
}

impl Network {
    /// `clients` are peers of all engines already, by their keys and inner addresses.
    pub fn new(
        (mut engines, now): (Vec<Engine>, Instant),
        family: Family,
        clients: usize,
        seed: u64,
    ) -> Self {
        let client = |i: usize| {
            let server = PublicKey::from(&secret(0));
            Client {
                address: SocketAddr::new(Ipv4Addr::new(203, 0, 113, 10).into(), 40_000 + i as u16),
                host: Host::new(family.inner(i), MTU.into(), seed + i as u64, now),
                tunn: Box::new(Tunn::new(secret(i + 1), server, None, None, i as u32, None)),
                received: Vec::new(),
                raw: false,
                expected: None,
                deaf_at: None,
            }
        };
        Self {
            now,
            engine: engines.remove(0),
            mates: engines,
            family,
            clients: (0..clients).map(client).collect(),
            server: Host::new(family.server(), 1500, seed, now),
            on_lan: Vec::new(),
            keep_lan: false,
            marks: VecDeque::new(),
            marked: Vec::new(),
            messages: Default::default(),
            paused: false,
            faults: Faults::default(),
            lan_faults: Faults::default(),
            latency: LATENCY,
            flying: BinaryHeap::new(),
            waiting: Vec::new(),
            sent: 0,
            rng: SmallRng::seed_from_u64(seed),
            next_tick: now,
        }
    }

    /// Lets everything happen that happens within `time`, or until `done`.
    pub fn run(&mut self, time: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + time;
        self.settle();
        loop {
            if done(self) {
                return true;
            }
            self.settle();
            let next = self.next_event();
            if next > end {
                self.advance_to(end);
                return false;
            }
            self.advance_to(next);
            self.step();
        }
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    /// A client sends an inner packet of the test's own.
    pub fn client_sends(&mut self, client: usize, packet: &[u8]) {
        let mut room = vec![0; packet.len().max(148) + 32];
        let bytes = match self.clients[client].tunn.encapsulate(packet, &mut room) {
            TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            _ => return,
        };
        let from = self.clients[client].address;
        self.fly(Place::Engine { from }, bytes);
    }

    /// The server sends a packet of the test's own to the LAN address.
    pub fn server_sends(&mut self, packet: Vec<u8>) {
        self.fly(Place::EngineFromLan, on_tun(&Header::default(), &packet));
    }

    /// Any bytes from anywhere reach the engine's UDP socket.
    pub fn datagram(&mut self, from: SocketAddr, bytes: Vec<u8>) {
        self.fly(Place::Engine { from }, bytes);
    }

    fn next_event(&mut self) -> Instant {
        let now = self.now;
        let flight = self.flying.peek().map(|f| f.0.due);
        let hosts = self.clients.iter_mut().map(|c| c.host.next_timeout(now));
        let hosts = hosts.flatten().min();
        let server = self.server.next_timeout(now);
        let next = [flight, hosts, server, Some(self.next_tick)];
        let awake = self.shards().filter(|_| !self.paused);
        let engines = awake.map(Engine::next_timeout);
        next.into_iter()
            .chain(engines)
            .flatten()
            .min()
            .unwrap_or(now)
            .max(now)
    }

    fn advance_to(&mut self, to: Instant) {
        MockClock::advance(to - self.now);
        self.now = to;
    }

    fn step(&mut self) {
        if self.next_tick <= self.now {
            self.next_tick = self.now + TICK;
            for i in 0..self.clients.len() {
                self.tick(i);
            }
        }
        let mut out = Sent::default();
        let mut touched = BTreeSet::new();
        while self.flying.peek().is_some_and(|f| f.0.due <= self.now) {
            let Some(Reverse(flight)) = self.flying.pop() else {
                break;
            };
            let for_engine = matches!(flight.to, Place::Engine { .. } | Place::EngineFromLan);
            if self.paused && for_engine {
                self.waiting.push(flight);
                continue;
            }
            let Flight { to, mut bytes, .. } = flight;
            match to {
                Place::Engine { from } => {
                    let path = Path {
                        remote: from,
                        local: None,
                    };
                    let (len, now) = (bytes.len(), self.now);
                    let mark = self.marks.pop_front().unwrap_or_default();
                    let shard = self.any_shard();
                    self.shard(shard)
                        .datagrams(&path, mark, len, &bytes, now, &mut out);
                    touched.insert(shard);
                }
                Place::EngineFromLan => {
                    let (vnet, packet) = bytes.split_first_chunk_mut().expect("on_tun wrote it");
                    let vnet = Header::decode(vnet, packet).expect("on_tun wrote it");
                    touched.extend(self.lan_packet(&vnet, packet, &mut out));
                }
                Place::Client(i) => self.client_receives(i, &bytes),
                Place::Server => self.server.receive(bytes),
            }
        }
        for i in touched {
            let now = self.now;
            self.shard(i).flush(now, &mut out);
        }
        self.dispatch(out);
        if !self.paused {
            self.run_timers();
        }
    }

    /// As in a shard's round, after all that came.
    fn run_timers(&mut self) {
        let mut out = Sent::default();
        for i in 0..=self.mates.len() {
            let now = self.now;
            if self.shard(i).next_timeout().is_some_and(|due| due <= now) {
                self.shard(i).handle_timeout(now, &mut out);
            }
        }
        self.dispatch(out);
    }

    /// The gateway's machine runs again.
    pub fn resume(&mut self) {
        self.paused = false;
        for mut flight in std::mem::take(&mut self.waiting) {
            flight.due = self.now;
            self.flying.push(Reverse(flight));
        }
    }

    /// A packet of the LAN comes to one of the shards, and from there to whose it is.
    fn lan_packet(&mut self, vnet: &Header, packet: &mut [u8], out: &mut Sent) -> Vec<usize> {
        let (reader, now) = (self.any_shard(), self.now);
        let shards = match self.shard(reader).lan_packet(vnet, packet, now, out) {
            ShardTarget::Local => return vec![reader],
            ShardTarget::Remote(mate) => vec![mate.into()],
            ShardTarget::Broadcast => (0..=self.mates.len()).collect(),
        };
        for i in &shards {
            let mail = ShardMessage::FromLan {
                header: *vnet,
                bytes: packet.to_vec(),
            };
            self.shard(*i).deliver_message(mail, now, out);
        }
        shards
    }

    /// The shards by their numbers.
    pub fn shard(&mut self, number: usize) -> &mut Engine {
        match number {
            0 => &mut self.engine,
            mate => &mut self.mates[mate - 1],
        }
    }

    /// All of them.
    pub fn shards(&self) -> impl Iterator<Item = &Engine> {
        std::iter::once(&self.engine).chain(&self.mates)
    }

    /// The kernel may hand a datagram to any of them, and any may read the device.
    fn any_shard(&mut self) -> usize {
        self.rng.random_range(0..=self.mates.len())
    }

    /// Runs the stacks until they have nothing more to say now.
    fn settle(&mut self) {
        for i in 0..self.clients.len() {
            for packet in self.clients[i].host.poll(self.now) {
                self.client_sends(i, &packet);
            }
        }
        let packets = self.server.poll(self.now);
        for bytes in as_super_packets(&packets) {
            self.fly(Place::EngineFromLan, bytes);
        }
    }

    fn tick(&mut self, i: usize) {
        let mut room = [0; 256];
        if let TunnResult::WriteToNetwork(bytes) = self.clients[i].tunn.update_timers(&mut room) {
            let bytes = bytes.to_vec();
            let from = self.clients[i].address;
            self.fly(Place::Engine { from }, bytes);
        }
    }

    fn client_receives(&mut self, i: usize, datagram: &[u8]) {
        let response_to = datagram.get(8..).and_then(|rest| rest.first_chunk());
        if datagram.first() == Some(&RESPONSE) && response_to != self.clients[i].expected.as_ref() {
            return;
        }
        let mut room = vec![0; 65_536];
        let mut input = datagram;
        loop {
            let client = &mut self.clients[i];
            match client.tunn.decapsulate(None, input, &mut room) {
                TunnResult::WriteToNetwork(bytes) => {
                    let (from, bytes) = (client.address, bytes.to_vec());
                    self.fly(Place::Engine { from }, bytes);
                    input = &[];
                    continue;
                }
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    let is_deaf = client.deaf_at.is_some() && port_of(packet) == client.deaf_at;
                    match client.raw || is_deaf {
                        true => client.received.push(packet.to_vec()),
                        false => client.host.receive(packet.to_vec()),
                    }
                }
                TunnResult::Done | TunnResult::Err(_) => {}
            }
            return;
        }
    }

    fn dispatch(&mut self, mut out: Sent) {
        while !out.mail.is_empty() {
            let now = self.now;
            let mut touched = BTreeSet::new();
            for (shard, mail) in std::mem::take(&mut out.mail) {
                self.shard(shard.into())
                    .deliver_message(mail, now, &mut out);
                touched.insert(shard);
            }
            for shard in touched {
                self.shard(shard.into()).flush(now, &mut out);
            }
        }
        for (to, mark, bytes) in out.datagrams {
            self.marked.push(mark);
            if let Some(i) = self.clients.iter().position(|c| c.address == to) {
                self.fly(Place::Client(i), bytes);
            }
        }
        for packet in out.lan {
            if self.keep_lan {
                self.on_lan.push(packet.clone());
            }
            self.fly(Place::Server, packet);
        }
    }

    fn fly(&mut self, to: Place, bytes: Vec<u8>) {
        self.note_message(to, &bytes);
        let lan = matches!(to, Place::Server | Place::EngineFromLan);
        let (faults, latency) = if lan {
            (self.lan_faults, LAN_LATENCY)
        } else {
            (self.faults, self.latency)
        };
        let copies = 1 + usize::from(self.rng.random_bool(faults.duplicate));
        for _ in 0..copies {
            if self.rng.random_bool(faults.loss) {
                continue;
            }
            let late = if self.rng.random_bool(faults.reorder) {
                latency * 2
            } else {
                Duration::ZERO
            };
            self.sent += 1;
            let flight = Flight {
                due: self.now + latency + late,
                serial: self.sent,
                to,
                bytes: bytes.clone(),
            };
            self.flying.push(Reverse(flight));
        }
    }

    fn note_message(&mut self, to: Place, bytes: &[u8]) {
        let from = match to {
            Place::Engine { from } => from,
            Place::Client(_) => return self.messages[0].extend(bytes.first()),
            Place::Server | Place::EngineFromLan => return,
        };
        self.messages[1].extend(bytes.first());
        let Some(client) = self.clients.iter_mut().find(|c| c.address == from) else {
            return;
        };
        match bytes.first() {
            Some(&INITIATION) => {
                client.expected = bytes.get(4..).and_then(|b| b.first_chunk().copied())
            }
            Some(&RESPONSE) => client.expected = None,
            _ => {}
        }
    }
}

/// WireGuard's message types.
pub const INITIATION: u8 = 1;
pub const RESPONSE: u8 = 2;

/// What the engine sent during one call, cut as the kernel's GSO would.
#[derive(Default)]
struct Sent {
    datagrams: Vec<(SocketAddr, Ecn, Vec<u8>)>,
    lan: Vec<Vec<u8>>,
    mail: Vec<(u8, ShardMessage)>,
}

impl Output for Sent {
    fn datagrams(&mut self, path: &Path, ecn: Ecn, segment: usize, bytes: &[u8]) {
        assert!(segment > 0 && !bytes.is_empty());
        let cut = bytes.chunks(segment);
        self.datagrams
            .extend(cut.map(|b| (path.remote, ecn, b.to_vec())));
    }

    fn to_shard(&mut self, shard: u8, mail: ShardMessage) {
        self.mail.push((shard, mail));
    }

    fn lan_packet(&mut self, header: &Header, pieces: &[IoSlice<'_>]) {
        let mut packet: Vec<u8> = pieces.iter().flat_map(|p| p.to_vec()).collect();
        let headers = Headers::parse(&packet).expect("the engine sends whole packets");
        assert_eq!(headers.len, packet.len());
        if header.gso == Gso::None {
            if header.needs_csum {
                assert!(split::complete(header, &headers, &mut packet));
            }
            return self.lan.push(packet);
        }
        let mut cut = Split::new(header, &headers, &packet).expect("a good super-packet");
        while let Some(place) = cut.next(&mut packet) {
            assert!(place.len() <= 1500);
            self.lan.push(packet[place].to_vec());
        }
    }
}

/// The port that a TCP segment is for.
fn port_of(packet: &[u8]) -> Option<u16> {
    let headers = Headers::parse(packet).ok()?;
    let tcp = TcpPacket::new_checked(&packet[headers.l4..]).ok()?;
    (headers.protocol == IpProtocol::Tcp).then(|| tcp.dst_port())
}

/// The source address of a packet, for assertions.
pub fn source(packet: &[u8]) -> IpAddr {
    Headers::parse(packet).expect("a whole packet").src
}
