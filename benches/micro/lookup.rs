//! The NAT's translation of one packet, with few and with many mappings in its table, and their
//! expiry.

use crate::Work;
use crate::packets::{CLIENT, GATEWAY, LAN, MTU, SERVER, udp};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};
use vcgate_core::ids::{PeerId, ShardId};
use vcgate_core::nat::{self, Nat, Outcome, Peers};
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;

/// Mappings of each client, which fill a port block.
const PER_CLIENT: usize = 64;
/// Distance from one mapping to the next, so that no cache predicts it.
const STRIDE: usize = 7919;

/// Translation of a client's packet.
pub(crate) struct Out(Table);

/// Translation of a packet to a client.
pub(crate) struct In(Table);

/// A lookup in which each client is a peer.
struct Clients;

impl Peers for Clients {
    fn of(&self, client: IpAddr) -> Option<PeerId> {
        match client {
            IpAddr::V4(client) => Some(PeerId(u32::from(client) - u32::from(CLIENT))),
            IpAddr::V6(_) => None,
        }
    }
}

/// One call after all mappings have timed out: it ends [`BATCH`](Expire::BATCH) of them.
pub(crate) struct Expire {
    table: Table,
    mappings: usize,
    expiry: Instant,
    /// Mappings that ended in earlier tables.
    ended: usize,
}

struct Table {
    nat: Nat,
    now: Instant,
    /// A packet for each mapping.
    packets: Vec<Vec<u8>>,
    at: usize,
    forwarded: usize,
}

impl Out {
    pub(crate) fn new(mappings: usize) -> Self {
        let (table, _) = Table::filled(mappings);
        Self(table)
    }
}

impl In {
    pub(crate) fn new(mappings: usize) -> Self {
        let (mut table, outside) = Table::filled(mappings);
        let server = SocketAddrV4::new(SERVER, 53);
        table.packets = outside.iter().map(|to| udp(server, *to)).collect();
        Self(table)
    }
}

impl Expire {
    /// The number of mappings that one call ends.
    const BATCH: usize = 256;

    pub(crate) fn new(mappings: usize) -> Self {
        let (table, _) = Table::filled(mappings);
        Self {
            mappings,
            expiry: table.now + Duration::from_secs(3600),
            table,
            ended: 0,
        }
    }

    fn left(&self) -> usize {
        self.table.nat.flows(self.expiry).count()
    }
}

impl Work for Expire {
    fn input(&mut self) -> Vec<u8> {
        while self.table.nat.poll_closed().is_some() {}
        if self.left() < Self::BATCH {
            let ended = self.ended + self.mappings - self.left();
            *self = Self::new(self.mappings);
            self.ended = ended;
        }
        Vec::new()
    }

    fn run(&mut self, _: &mut [u8]) {
        self.table.nat.handle_timeout(self.expiry);
    }

    fn check(&self, runs: usize) {
        let ended = self.ended + self.mappings - self.left();
        assert_eq!(ended, runs * Self::BATCH);
    }
}

impl Work for Out {
    fn input(&mut self) -> Vec<u8> {
        self.0.next()
    }

    fn run(&mut self, bytes: &mut [u8]) {
        let Table { nat, now, .. } = &mut self.0;
        if let Ok(mut packet) = Packet::parse(bytes, Checksum::Complete) {
            let sender = sender_of(&packet);
            let outcome = nat.outbound(&mut packet, sender, &Clients, *now);
            self.0.count(&outcome);
        }
    }

    fn check(&self, runs: usize) {
        assert_eq!(self.0.forwarded, runs);
    }
}

impl Work for In {
    fn input(&mut self) -> Vec<u8> {
        self.0.next()
    }

    fn run(&mut self, bytes: &mut [u8]) {
        let Table { nat, now, .. } = &mut self.0;
        if let Ok(mut packet) = Packet::parse(bytes, Checksum::Complete) {
            let outcome = nat.inbound(&mut packet, &Clients, *now);
            self.0.count(&outcome);
        }
    }

    fn check(&self, runs: usize) {
        assert_eq!(self.0.forwarded, runs);
    }
}

impl Table {
    /// Makes a NAT with this number of mappings; returns the end of each that the LAN sees.
    fn filled(mappings: usize) -> (Self, Vec<SocketAddrV4>) {
        let now = Instant::now();
        let settings = nat::Settings {
            limits: nat::Limits {
                new_sessions: u32::MAX,
                ..nat::Limits::default()
            },
            ..settings()
        };
        let mut nat = Nat::new(settings, 1, now);
        let server = SocketAddrV4::new(SERVER, 53);
        let packets: Vec<_> = (0..mappings).map(|n| udp(inside(n), server)).collect();
        let outside = packets.iter().map(|packet| {
            let mut bytes = packet.clone();
            let mut packet = Packet::parse(&mut bytes, Checksum::Complete).expect("our own");
            let sender = sender_of(&packet);
            let outcome = nat.outbound(&mut packet, sender, &Clients, now);
            assert!(matches!(outcome, Outcome::Forward(Some(_))));
            let (port, _) = packet.ports().expect("a UDP packet");
            SocketAddrV4::new(LAN, port)
        });
        let outside = outside.collect();
        let table = Self {
            nat,
            now,
            packets,
            at: 0,
            forwarded: 0,
        };
        (table, outside)
    }

    fn next(&mut self) -> Vec<u8> {
        self.at = (self.at + STRIDE) % self.packets.len();
        self.packets[self.at].clone()
    }

    fn count(&mut self, outcome: &Outcome) {
        if matches!(outcome, Outcome::Forward(Some(_))) {
            self.forwarded += 1;
        }
    }
}

/// Returns the settings of a NAT that owns all ports.
pub(crate) fn settings() -> nat::Settings {
    nat::Settings {
        address: LAN,
        pool: Vec::new(),
        address6: None,
        gateway: GATEWAY,
        gateway6: None,
        filtering: nat::Filtering::default(),
        on_unsolicited: nat::OnUnsolicited::default(),
        timeouts: nat::Timeouts::default(),
        limits: nat::Limits::default(),
        mtu: MTU,
        blocks: 0..nat::BLOCK_COUNT,
        shard: ShardId::ALONE,
    }
}

/// Returns the peer that the tunnel would authenticate as a packet's sender.
fn sender_of(packet: &Packet<'_>) -> PeerId {
    Clients.of(packet.headers.src).expect("an IPv4 packet")
}

/// Returns the client's end of mapping `n`.
fn inside(n: usize) -> SocketAddrV4 {
    let client = Ipv4Addr::from(u32::from(CLIENT) + (n / PER_CLIENT) as u32);
    SocketAddrV4::new(client, 20_000 + (n % PER_CLIENT) as u16)
}
