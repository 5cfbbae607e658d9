//! Runs the engine between two clients and a LAN, with packets from both sides and arbitrary
//! datagrams. All packets enter with correct checksums, so all must leave with correct ones.

use super::input::Input;
use super::packets::{assert_well_formed, fix_checksums, packet};
use crate::journal::JournalOracle;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use vcgate_core::engine::{
    Destination, Engine, GlobalPolicy, Merge, Output, Rule, Settings, ShardMessage,
};
use vcgate_core::ids::ShardId;
use vcgate_core::journal::{Replayed, encode, replay};
use vcgate_core::nat;
use vcgate_core::tunnel::{Ecn, Path, PeerSettings};
use vcgate_wire::virtio_net::Header;

const CLIENTS: usize = 2;
const MTU: u16 = 1420;
/// Maximum number of steps per input.
const MAX_STEPS: usize = 200;
/// Maximum simulated time: shorter than the life of a session (REJECT_AFTER_TIME).
const MAX_TIME: Duration = Duration::from_secs(100);

/// An IPv4 and an IPv6 address.
type AddressPair = [IpAddr; 2];

fn host_addresses(last: u8, v4: [u8; 3], v6: u16) -> AddressPair {
    let [a, b, c] = v4;
    [
        Ipv4Addr::new(a, b, c, last).into(),
        Ipv6Addr::new(0xFD00, v6, 0, 0, 0, 0, 0, last.into()).into(),
    ]
}

fn gateway() -> AddressPair {
    host_addresses(1, [10, 8, 0], 8)
}

fn lan() -> AddressPair {
    host_addresses(2, [192, 168, 77], 0x77)
}

fn host(n: u8) -> AddressPair {
    host_addresses(10 + n % 2, [192, 168, 77], 0x77)
}

fn inner(client: usize) -> AddressPair {
    host_addresses(11 + client as u8, [10, 8, 0], 8)
}

fn secret(n: usize) -> StaticSecret {
    StaticSecret::from([1 + n as u8; 32])
}

fn outer(client: usize) -> SocketAddr {
    SocketAddr::new([203, 0, 113, 10].into(), 40_000 + client as u16)
}

fn path(remote: SocketAddr) -> Path {
    Path {
        remote,
        local: None,
    }
}

/// Runs the engine as the input decides.
pub fn engine(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let mut world = World::new(flags);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.check_journal();
    }
    world.deliver_all();
    world.check_journal();
}

/// Restores an engine from the input as a journal, and as the body of a frame, since no fuzzer would
/// find its checksum; sends a packet of each client through it.
pub fn journal(bytes: &[u8]) {
    let _ = replay(bytes);
    let mut framed = encode::head().to_vec();
    encode::append_body(&mut framed, bytes);
    let Ok(Replayed { mut state, .. }) = replay(&framed) else {
        return;
    };
    let mut world = World::new(0);
    let now = world.now;
    let restored = world.engine.restore(&state, Duration::from_secs(1), now);
    if restored.is_ok() {
        world.journal = JournalOracle::begin([&mut world.engine].into_iter(), now);
        for client in 0..CLIENTS {
            for family in 0..2 {
                let mut plain = Input::new(&[2, 0, 0, 0, 0]);
                let packet = packet(&mut plain, inner(client)[family], host(0)[family]);
                world.client_sends(client, &packet);
            }
        }
        world.deliver_all();
        world.check_journal();
    }
    let mut snapshot = encode::head().to_vec();
    state.append_to(&mut snapshot);
    let again = replay(&snapshot).expect("a snapshot of a state is valid");
    assert_eq!(again.state.describe(), state.describe());
}

/// Sends arbitrary datagrams to the tunnel.
pub fn tunnel(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut world = World::new(0);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.datagram(&mut input);
    }
    world.deliver_all();
    // The sessions of the clients must survive.
    let mut plain = Input::new(&[2, 0, 0, 0, 0]);
    let request = packet(&mut plain, inner(0)[0], host(0)[0]);
    let before = world.out.to_lan;
    world.client_sends(0, &request);
    world.deliver_all();
    assert_eq!(
        world.out.to_lan,
        before + 1,
        "the session of a client is lost"
    );
}

struct World {
    engine: Engine,
    journal: JournalOracle,
    clients: Vec<Tunn>,
    now: Instant,
    started: Instant,
    out: Sent,
}

impl World {
    fn new(flags: u8) -> Self {
        let now = Instant::now();
        let policy = GlobalPolicy {
            client_to_client: flags & 1 != 0,
            ..GlobalPolicy::default()
        };
        let mut engine = Engine::new(settings(policy, flags), now);
        let server = PublicKey::from(&secret(0));
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let allowed = inner(client).map(ipnet::IpNet::from);
            let peer = PeerSettings {
                name: format!("client{client}"),
                public_key: PublicKey::from(&secret(client + 1)),
                preshared_key: None,
                allowed_ips: allowed.to_vec(),
                endpoint: None,
                persistent_keepalive: None,
            };
            let rules = vec![Rule::all(Destination::Anywhere)];
            engine.add_peer(peer, rules, now).expect("a valid peer");
            let index = client as u32;
            clients.push(Tunn::new(
                secret(client + 1),
                server,
                None,
                None,
                index,
                None,
            ));
        }
        let journal = JournalOracle::begin([&mut engine].into_iter(), now);
        let mut world = Self {
            engine,
            journal,
            clients,
            now,
            started: now,
            out: Sent::default(),
        };
        for client in 0..CLIENTS {
            let mut buffer = [0; 2048];
            let TunnResult::WriteToNetwork(first) =
                world.clients[client].format_handshake_initiation(&mut buffer, false)
            else {
                unreachable!("a new client starts a handshake");
            };
            world.receive(outer(client), first);
            world.deliver_all();
        }
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let family = usize::from(input.u8() % 2);
        let client = usize::from(input.u8()) % CLIENTS;
        match input.u8() % 8 {
            0..=2 => {
                let dst = match input.u8() % 8 {
                    0 => lan(),
                    1 => gateway(),
                    2 => inner(1 - client),
                    n => host(n),
                };
                let packet = packet(input, inner(client)[family], dst[family]);
                self.client_sends(client, &packet);
            }
            3..=5 => {
                let (from, to) = (host(input.u8()), lan());
                let mut packet = packet(input, from[family], to[family]);
                self.aim(input, &mut packet);
                self.lan_sends(packet);
            }
            6 => self.datagram(input),
            _ => {
                let pause = Duration::from_millis(input.u16().into());
                self.now = (self.now + pause).min(self.started + MAX_TIME);
                while self
                    .engine
                    .next_timeout()
                    .is_some_and(|due| due <= self.now)
                {
                    self.engine.handle_timeout(self.now, &mut self.out);
                }
            }
        }
        self.deliver_all();
    }

    /// Readdresses a packet from the LAN to the port of a flow, if there is one; few packets would
    /// match otherwise.
    fn aim(&self, input: &mut Input<'_>, packet: &mut [u8]) {
        let flows: Vec<_> = self.engine.nat().flows(self.now).take(16).collect();
        let Some(flow) = flows.get(usize::from(input.u8() % 16)) else {
            return;
        };
        let l4 = match packet[0] >> 4 {
            4 => usize::from(packet[0] & 15) * 4,
            _ => 40,
        };
        if let Some(ports) = packet.get_mut(l4..l4 + 4) {
            ports[..2].copy_from_slice(&flow.remote.port().to_be_bytes());
            ports[2..].copy_from_slice(&flow.port.to_be_bytes());
        }
        fix_checksums(packet);
    }

    /// Sends a datagram of the input, with or without a valid message type.
    fn datagram(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        let len = usize::from(input.u8());
        let mut datagram = input.bytes(len).to_vec();
        if let [a, b, c, d, ..] = &mut datagram[..]
            && kind & 1 == 0
        {
            (*a, *b, *c, *d) = (1 + kind / 2 % 4, 0, 0, 0);
        }
        let from = match kind & 8 {
            0 => SocketAddr::new([198, 51, 100, 1].into(), 1),
            _ => outer(0),
        };
        self.receive(from, &datagram);
    }

    fn client_sends(&mut self, client: usize, packet: &[u8]) {
        let mut buffer = vec![0; packet.len() + 256];
        if let TunnResult::WriteToNetwork(datagram) =
            self.clients[client].encapsulate(packet, &mut buffer)
        {
            self.receive(outer(client), datagram);
        }
    }

    fn lan_sends(&mut self, mut packet: Vec<u8>) {
        let header = Header::default();
        self.engine
            .lan_packet(&header, &mut packet, self.now, &mut self.out);
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let (path, len) = (path(from), datagram.len());
        self.engine.datagrams(
            &path,
            Ecn::NotCapable,
            len,
            datagram,
            self.now,
            &mut self.out,
        );
    }

    /// Compares the engine with the journal of its changes.
    fn check_journal(&mut self) {
        self.journal.take(&mut self.engine, self.now);
        self.journal.check([&self.engine].into_iter(), self.now);
    }

    /// Delivers datagrams to the clients until none are left.
    fn deliver_all(&mut self) {
        loop {
            self.engine.flush(self.now, &mut self.out);
            let sent = std::mem::take(&mut self.out.datagrams);
            if sent.is_empty() {
                return;
            }
            for (to, datagram) in sent {
                let client = (0..CLIENTS).find(|client| outer(*client) == to);
                let Some(client) = client else {
                    continue; // a cookie reply to an unknown sender
                };
                self.client_receives(client, &datagram);
            }
        }
    }

    fn client_receives(&mut self, client: usize, datagram: &[u8]) {
        let mut buffer = vec![0; datagram.len().max(256)];
        match self.clients[client].decapsulate(None, datagram, &mut buffer) {
            TunnResult::WriteToNetwork(answer) => {
                let answer = answer.to_vec();
                self.receive(outer(client), &answer);
            }
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                let headers = assert_well_formed(packet);
                assert!(
                    inner(client).contains(&headers.dst),
                    "a packet of another peer"
                );
                assert!(packet.len() <= usize::from(MTU));
            }
            TunnResult::Done | TunnResult::Err(_) => {}
        }
    }
}

fn settings(policy: GlobalPolicy, flags: u8) -> Settings {
    let [IpAddr::V4(address), IpAddr::V6(address6)] = lan() else {
        unreachable!("both families in order");
    };
    let [IpAddr::V4(gateway4), IpAddr::V6(gateway6)] = gateway() else {
        unreachable!("both families in order");
    };
    let shard = ShardId::default();
    Settings {
        private_key: secret(0),
        addresses: gateway().map(ipnet::IpNet::from).to_vec(),
        mtu: MTU,
        merge: Merge {
            tcp: false,
            udp: false,
        },
        max_segments: 64,
        shard,
        nat: nat::Settings {
            address,
            pool: Vec::new(),
            address6: Some(address6),
            gateway: gateway4,
            gateway6: Some(gateway6),
            filtering: match flags & 2 {
                0 => nat::Filtering::AddressDependent,
                _ => nat::Filtering::EndpointIndependent,
            },
            on_unsolicited: nat::OnUnsolicited::Reject,
            timeouts: nat::Timeouts::default(),
            limits: nat::Limits::default(),
            mtu: MTU,
            blocks: 0..nat::BLOCK_COUNT,
            shard,
        },
        policy,
        smb: vcgate_core::smb::Settings::default(),
        seed: 1,
    }
}

/// Datagrams to clients. Packets to the LAN are checked immediately.
#[derive(Default)]
struct Sent {
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    to_lan: usize,
}

impl Output for Sent {
    fn datagrams(&mut self, path: &Path, _: Ecn, segment: usize, bytes: &[u8]) {
        assert!(segment > 0 && !bytes.is_empty());
        let datagrams = bytes.chunks(segment).map(|d| (path.remote, d.to_vec()));
        self.datagrams.extend(datagrams);
    }

    fn lan_packet(&mut self, header: &Header, pieces: &[IoSlice<'_>]) {
        assert_eq!(*header, Header::default(), "merging is off");
        let packet: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let headers = assert_well_formed(&packet);
        assert!(lan().contains(&headers.src), "an untranslated address left");
        assert!(
            !lan().contains(&headers.dst),
            "a packet to the LAN address left"
        );
        self.to_lan += 1;
    }

    fn to_shard(&mut self, _: u8, _: ShardMessage) {
        unreachable!("there is one shard");
    }
}
