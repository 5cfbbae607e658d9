//! The simulated network: one or more shards, boringtun clients with TCP/IP stacks, one server on the
//! LAN, and links that lose, reorder and duplicate packets. Time is virtual; a run depends only on
//! its seed.

mod delivery;

pub(crate) use crate::addresses::{
    Family, GATEWAY, GATEWAY6, LAN, LAN6, SERVER, SERVER6, inner, inner6,
};
use crate::device::{EngineOutput, as_super_packets, on_tun};
use crate::host::Host;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use mock_instant::MockClock;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smoltcp::wire::{IpProtocol, TcpPacket};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use vcgate_core::engine::{Engine, ShardMessage, ShardTarget};
use vcgate_core::nat::BlockEvent;
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_test_support::journal::JournalOracle;
use vcgate_wire::ip::Headers;
use vcgate_wire::virtio_net::Header;

/// The faults of a link.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Fraction of lost packets, from 0 to 1.
    pub loss: f64,
    /// Fraction of packets that arrive late.
    pub reorder: f64,
    /// Fraction of packets that arrive twice.
    pub duplicate: f64,
}

/// A client: an address on the Internet, a WireGuard tunnel and a TCP/IP stack.
pub struct Client {
    pub address: SocketAddr,
    pub host: Host,
    tunn: Box<Tunn>,
    /// Received packets that did not go to the stack.
    pub received: Vec<Vec<u8>>,
    /// The test handles all packets instead of the stack.
    pub raw: bool,
    /// The sender index of the initiation that accepts a response. A standard client accepts one
    /// only for its newest initiation, and for none after it has answered the engine's initiation.
    expected: Option<[u8; 4]>,
    /// The client drops TCP segments to this port, as a local firewall does.
    pub blocked_port: Option<u16>,
}

/// All hosts, and the packets between them.
pub struct Network {
    pub now: Instant,
    pub engine: Engine,
    /// The shards after the first.
    pub other_shards: Vec<Engine>,
    pub family: Family,
    pub clients: Vec<Client>,
    pub server: Host,
    /// All packets from the engine to the LAN, split into segments.
    pub on_lan: Vec<Vec<u8>>,
    pub keep_lan: bool,
    /// The outer ECN marks of the next datagrams to the engine; then `NotCapable`.
    pub ecn_marks: VecDeque<Ecn>,
    /// The outer ECN marks of all datagrams to clients.
    pub sent_ecn_marks: Vec<Ecn>,
    /// The WireGuard message types of all datagrams, from the engine and from the clients.
    pub messages: [Vec<u8>; 2],
    /// The gateway's machine is suspended; packets to it are delayed.
    pub paused: bool,
    pub faults: Faults,
    pub lan_faults: Faults,
    /// One-way latency between the clients and the engine.
    pub latency: Duration,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    /// Packets to the engines that arrived during a pause.
    delayed: Vec<InFlight>,
    sent: u64,
    rng: SmallRng,
    next_client_timers: Instant,
    /// The changes of the engines, with which their state is compared.
    journal: JournalOracle,
    steps: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InFlight {
    due: Instant,
    serial: u64,
    to: Destination,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Destination {
    Engine { from: SocketAddr },
    Client(usize),
    Server,
    EngineFromLan,
}

const LATENCY: Duration = Duration::from_millis(10);
const LAN_LATENCY: Duration = Duration::from_micros(200);
/// Number of steps between two comparisons of the engines with their journal.
const JOURNAL_CHECK_INTERVAL: usize = 200;
/// Number of flows from which the comparison would take too long.
const MAX_COMPARED_FLOWS: usize = 500;
/// Interval of the timers of boringtun's clients.
const CLIENT_TIMER_INTERVAL: Duration = Duration::from_millis(250);

pub(crate) const MTU: u16 = 1420;

/// Derives a private key: number 0 is the engine's, the others are the clients'.
pub(crate) fn secret(number: usize) -> StaticSecret {
    let mut key = [7; 32];
    key[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    StaticSecret::from(key)
}

impl Network {
    /// Makes a network. The clients must already be peers of all engines.
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
                blocked_port: None,
            }
        };
        let journal = JournalOracle::begin(engines.iter_mut(), now);
        Self {
            now,
            engine: engines.remove(0),
            other_shards: engines,
            family,
            clients: (0..clients).map(client).collect(),
            server: Host::new(family.server(), 1500, seed, now),
            on_lan: Vec::new(),
            keep_lan: false,
            ecn_marks: VecDeque::new(),
            sent_ecn_marks: Vec::new(),
            messages: Default::default(),
            paused: false,
            faults: Faults::default(),
            lan_faults: Faults::default(),
            latency: LATENCY,
            in_flight: BinaryHeap::new(),
            delayed: Vec::new(),
            sent: 0,
            rng: SmallRng::seed_from_u64(seed),
            next_client_timers: now,
            journal,
            steps: 0,
        }
    }

    /// Runs until `done`, or until `time` has passed; returns whether it was `done`.
    pub fn run(&mut self, time: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + time;
        self.poll_hosts();
        loop {
            self.write_journal();
            if done(self) {
                self.check_journal();
                return true;
            }
            self.poll_hosts();
            let next = self.next_event();
            if next > end {
                self.advance_to(end);
                self.check_journal();
                return false;
            }
            self.advance_to(next);
            self.step();
        }
    }

    /// Replaces the engines, in the order of their shards.
    pub fn replace_engines(&mut self, mut engines: Vec<Engine>) {
        self.journal = JournalOracle::begin(engines.iter_mut(), self.now);
        self.engine = engines.remove(0);
        self.other_shards = engines;
    }

    /// Returns the journal of the engines' changes.
    pub fn journal(&mut self) -> &[u8] {
        self.write_journal();
        self.journal.bytes()
    }

    /// Takes the assignments and returns of port blocks so far.
    pub fn take_blocks(&mut self) -> Vec<BlockEvent> {
        self.write_journal();
        self.journal.take_blocks()
    }

    /// Writes the changes of the engines, of which any may be the first.
    fn write_journal(&mut self) {
        let shards = 1 + self.other_shards.len();
        let (first, now) = (self.steps * 7 / 3 % shards, self.now);
        for i in (first..shards).chain(0..first) {
            let engine = match i {
                0 => &mut self.engine,
                other => &mut self.other_shards[other - 1],
            };
            self.journal.take(engine, now);
        }
        self.steps += 1;
        if self.steps.is_multiple_of(JOURNAL_CHECK_INTERVAL) {
            self.check_journal();
        }
    }

    /// Compares the engines with what their journal says.
    fn check_journal(&mut self) {
        let flows = self.shards().map(|engine| engine.nat().flow_count());
        if flows.sum::<usize>() < MAX_COMPARED_FLOWS {
            self.journal.check(self.shards(), self.now);
        }
    }

    /// Runs for `time`.
    pub fn wait(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    /// Sends an inner packet from a client.
    pub fn client_sends(&mut self, client: usize, packet: &[u8]) {
        let mut buffer = vec![0; packet.len().max(148) + 32];
        let bytes = match self.clients[client].tunn.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            _ => return,
        };
        let from = self.clients[client].address;
        self.send(Destination::Engine { from }, bytes);
    }

    /// Sends a packet from the LAN.
    pub fn server_sends(&mut self, packet: Vec<u8>) {
        self.send(
            Destination::EngineFromLan,
            on_tun(&Header::default(), &packet),
        );
    }

    /// Sends a datagram from any address to the engine.
    pub fn datagram(&mut self, from: SocketAddr, bytes: Vec<u8>) {
        self.send(Destination::Engine { from }, bytes);
    }

    fn next_event(&mut self) -> Instant {
        let now = self.now;
        let flight = self.in_flight.peek().map(|f| f.0.due);
        let hosts = self.clients.iter_mut().map(|c| c.host.next_timeout(now));
        let hosts = hosts.flatten().min();
        let server = self.server.next_timeout(now);
        let next = [flight, hosts, server, Some(self.next_client_timers)];
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
        if self.next_client_timers <= self.now {
            self.next_client_timers = self.now + CLIENT_TIMER_INTERVAL;
            for i in 0..self.clients.len() {
                self.run_client_timers(i);
            }
        }
        let mut out = EngineOutput::default();
        let mut touched = BTreeSet::new();
        while self.in_flight.peek().is_some_and(|f| f.0.due <= self.now) {
            let Some(Reverse(flight)) = self.in_flight.pop() else {
                break;
            };
            let for_engine = matches!(
                flight.to,
                Destination::Engine { .. } | Destination::EngineFromLan
            );
            if self.paused && for_engine {
                self.delayed.push(flight);
                continue;
            }
            let InFlight { to, mut bytes, .. } = flight;
            match to {
                Destination::Engine { from } => {
                    let path = Path {
                        remote: from,
                        local: None,
                    };
                    let (len, now) = (bytes.len(), self.now);
                    let mark = self.ecn_marks.pop_front().unwrap_or_default();
                    let shard = self.random_shard();
                    self.shard(shard)
                        .datagrams(&path, mark, len, &bytes, now, &mut out);
                    touched.insert(shard);
                }
                Destination::EngineFromLan => {
                    let (vnet, packet) = bytes.split_first_chunk_mut().expect("on_tun wrote it");
                    let vnet = Header::decode(vnet, packet).expect("on_tun wrote it");
                    touched.extend(self.lan_packet(&vnet, packet, &mut out));
                }
                Destination::Client(i) => self.client_receives(i, &bytes),
                Destination::Server => self.server.receive(bytes),
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

    /// Sends what commands have left to send, as a shard does after them.
    pub fn flush(&mut self) {
        let mut out = EngineOutput::default();
        for i in 0..=self.other_shards.len() {
            let now = self.now;
            self.shard(i).flush(now, &mut out);
        }
        self.dispatch(out);
    }

    /// Runs the timers of the engines, as a shard does after it has received all packets.
    fn run_timers(&mut self) {
        let mut out = EngineOutput::default();
        for i in 0..=self.other_shards.len() {
            let now = self.now;
            if self.shard(i).next_timeout().is_some_and(|due| due <= now) {
                self.shard(i).handle_timeout(now, &mut out);
            }
        }
        self.dispatch(out);
    }

    /// Resumes the gateway's machine.
    pub fn resume(&mut self) {
        self.paused = false;
        for mut flight in std::mem::take(&mut self.delayed) {
            flight.due = self.now;
            self.in_flight.push(Reverse(flight));
        }
    }

    /// Passes a packet of the LAN to a random shard, and from there to its shard; returns the shards
    /// that handled it.
    fn lan_packet(
        &mut self,
        vnet: &Header,
        packet: &mut [u8],
        out: &mut EngineOutput,
    ) -> Vec<usize> {
        let (reader, now) = (self.random_shard(), self.now);
        let shards = match self.shard(reader).lan_packet(vnet, packet, now, out) {
            ShardTarget::Local => return vec![reader],
            ShardTarget::Remote(other) => vec![other.into()],
            ShardTarget::Broadcast => (0..=self.other_shards.len()).collect(),
        };
        for i in &shards {
            let messages = ShardMessage::FromLan {
                header: *vnet,
                bytes: packet.to_vec(),
            };
            self.shard(*i).deliver_message(messages, now, out);
        }
        shards
    }

    /// Returns a shard by its number.
    pub fn shard(&mut self, number: usize) -> &mut Engine {
        match number {
            0 => &mut self.engine,
            other => &mut self.other_shards[other - 1],
        }
    }

    /// Returns all shards.
    pub fn shards(&self) -> impl Iterator<Item = &Engine> {
        std::iter::once(&self.engine).chain(&self.other_shards)
    }

    /// Chooses a shard: the kernel may pass a datagram or packet to any of them.
    fn random_shard(&mut self) -> usize {
        self.rng.random_range(0..=self.other_shards.len())
    }

    /// Runs the stacks and sends their packets.
    fn poll_hosts(&mut self) {
        for i in 0..self.clients.len() {
            for packet in self.clients[i].host.poll(self.now) {
                self.client_sends(i, &packet);
            }
        }
        let packets = self.server.poll(self.now);
        for bytes in as_super_packets(&packets) {
            self.send(Destination::EngineFromLan, bytes);
        }
    }

    fn run_client_timers(&mut self, i: usize) {
        let mut buffer = [0; 256];
        if let TunnResult::WriteToNetwork(bytes) = self.clients[i].tunn.update_timers(&mut buffer) {
            let bytes = bytes.to_vec();
            let from = self.clients[i].address;
            self.send(Destination::Engine { from }, bytes);
        }
    }

    fn client_receives(&mut self, i: usize, datagram: &[u8]) {
        let response_to = datagram.get(8..).and_then(|rest| rest.first_chunk());
        if datagram.first() == Some(&RESPONSE) && response_to != self.clients[i].expected.as_ref() {
            return;
        }
        let mut buffer = vec![0; 65_536];
        let mut input = datagram;
        loop {
            let client = &mut self.clients[i];
            match client.tunn.decapsulate(None, input, &mut buffer) {
                TunnResult::WriteToNetwork(bytes) => {
                    let (from, bytes) = (client.address, bytes.to_vec());
                    self.send(Destination::Engine { from }, bytes);
                    input = &[];
                    continue;
                }
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    let is_blocked =
                        client.blocked_port.is_some() && port_of(packet) == client.blocked_port;
                    match client.raw || is_blocked {
                        true => client.received.push(packet.to_vec()),
                        false => client.host.receive(packet.to_vec()),
                    }
                }
                TunnResult::Done | TunnResult::Err(_) => {}
            }
            return;
        }
    }
}

/// WireGuard's message types.
pub(crate) const INITIATION: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;

/// Returns the destination port of a TCP segment.
fn port_of(packet: &[u8]) -> Option<u16> {
    let headers = Headers::parse(packet).ok()?;
    let tcp = TcpPacket::new_checked(&packet[headers.l4..]).ok()?;
    (headers.protocol == IpProtocol::Tcp).then(|| tcp.dst_port())
}

/// Returns the source address of a packet.
pub(crate) fn source(packet: &[u8]) -> IpAddr {
    Headers::parse(packet).expect("a whole packet").src
}
