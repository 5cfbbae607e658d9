//! Two tunnels and a network between them, with latency, loss, an eavesdropper and virtual time.

use crate::ids::PeerId;
use crate::tunnel::{
    DropReason, Path, PeerSettings, PeerStatus, Received, Sealed, ShardId, Tunnel,
};
use boringtun::x25519::{PublicKey, StaticSecret};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub(super) const GATEWAY: usize = 0;
pub(super) const CLIENT: usize = 1;
pub(super) const MTU: u16 = 1420;
pub(super) const LATENCY: Duration = Duration::from_millis(20);

pub(super) fn secret(n: u8) -> StaticSecret {
    StaticSecret::from([n; 32])
}

pub(super) fn public(n: u8) -> PublicKey {
    PublicKey::from(&secret(n))
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn path(text: &str) -> Path {
    Path {
        remote: address(text),
        local: Some([192, 0, 2, 1].into()),
    }
}

/// Returns the settings of a peer whose private key is `secret(n)`.
pub(super) fn peer(n: u8, allowed_ips: &[&str]) -> PeerSettings {
    PeerSettings {
        name: format!("peer {n}"),
        public_key: public(n),
        preshared_key: None,
        allowed_ips: allowed_ips.iter().map(|net| net.parse().unwrap()).collect(),
        endpoint: None,
        persistent_keepalive: None,
    }
}

/// Returns an IPv4 packet of at least 24 bytes that contains a number.
pub(super) fn packet(src: [u8; 4], dst: [u8; 4], number: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![0xA5; len.max(24)];
    packet[..2].copy_from_slice(&[0x45, 0]);
    packet[2..4].copy_from_slice(&(len.max(24) as u16).to_be_bytes());
    packet[12..16].copy_from_slice(&src);
    packet[16..20].copy_from_slice(&dst);
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

pub(super) fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

/// A datagram in transit.
#[derive(Debug, Clone)]
pub(super) struct Datagram {
    pub from: usize,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// The source address that the sender requested; `None` left the choice to its kernel.
    pub local: Option<IpAddr>,
    pub bytes: Vec<u8>,
}

pub(super) struct Node {
    pub tunnel: Tunnel,
    pub address: SocketAddr,
    pub other: PeerId,
    /// The numbers of the received packets.
    pub inbox: Vec<u32>,
    pub drops: Vec<DropReason>,
}

impl Node {
    pub(super) fn status(&self) -> PeerStatus<'_> {
        self.tunnel.peers().find(|p| p.id == self.other).unwrap()
    }
}

/// A gateway with the address 10.8.0.1 and a client with 10.8.0.2; the client knows the gateway's
/// endpoint.
pub(super) struct Net {
    pub now: Instant,
    pub nodes: [Node; 2],
    /// Returns whether a datagram is lost.
    pub lose: Box<dyn FnMut(&Datagram) -> bool>,
    /// All datagrams that were sent, lost or not.
    pub heard: Vec<Datagram>,
    /// The number of timeouts of each node.
    pub ticks: [usize; 2],
    /// The gateway's machine has stopped: its timers do not run, and datagrams wait in its socket.
    pub paused: bool,
    /// The client accepts a response to its newest initiation only, and none after it has answered an
    /// initiation of the gateway, as the kernel's WireGuard and wireguard-go do. boringtun accepts
    /// more.
    pub strict: bool,
    /// The sender index of the initiation to which a strict client accepts a response.
    expected: Option<[u8; 4]>,
    socket: Vec<Datagram>,
    on_the_wire: VecDeque<(Instant, Datagram)>,
    next_number: u32,
}

impl Net {
    pub(super) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// Creates a network; `change` may change the settings of the client in the gateway and of the
    /// gateway in the client.
    pub(super) fn with(change: impl Fn(usize, &mut PeerSettings)) -> Self {
        let now = Instant::now();
        let node = |me: usize| {
            let (mine, theirs, nets) = match me {
                GATEWAY => (1, 2, ["10.8.0.2/32"]),
                _ => (2, 1, ["0.0.0.0/0"]),
            };
            let mut tunnel = Tunnel::new(secret(mine), MTU, ShardId::default(), me as u64, now);
            let mut settings = peer(theirs, &nets);
            if me == CLIENT {
                settings.endpoint = Some(address("192.0.2.1:51820"));
            }
            change(me, &mut settings);
            let other = tunnel.add_peer(settings, now).unwrap();
            let address = match me {
                GATEWAY => address("192.0.2.1:51820"),
                _ => address("198.51.100.7:40000"),
            };
            Node {
                tunnel,
                address,
                other,
                inbox: Vec::new(),
                drops: Vec::new(),
            }
        };
        let mut net = Self {
            now,
            nodes: [node(GATEWAY), node(CLIENT)],
            lose: Box::new(|_| false),
            heard: Vec::new(),
            ticks: [0; 2],
            paused: false,
            strict: false,
            expected: None,
            socket: Vec::new(),
            on_the_wire: VecDeque::new(),
            next_number: 0,
        };
        net.collect();
        net
    }

    /// Creates a network whose client has connected.
    pub(super) fn connected() -> Self {
        let mut net = Self::new();
        net.send(CLIENT);
        net.run(LATENCY * 4);
        assert_eq!(net.nodes[GATEWAY].inbox, [0]);
        net.heard.clear();
        net.ticks = [0; 2];
        net
    }

    /// Sends a packet with the next number.
    pub(super) fn send(&mut self, from: usize) -> Sealed {
        self.send_len(from, 100)
    }

    pub(super) fn send_len(&mut self, from: usize, len: usize) -> Sealed {
        let (src, dst) = match from {
            GATEWAY => ([10, 8, 0, 1], [10, 8, 0, 2]),
            _ => ([10, 8, 0, 2], [10, 8, 0, 1]),
        };
        let packet = packet(src, dst, self.next_number, len);
        self.next_number += 1;
        self.send_packet(from, &packet)
    }

    pub(super) fn send_packet(&mut self, from: usize, packet: &[u8]) -> Sealed {
        let node = &mut self.nodes[from];
        let mut dst = vec![0; node.tunnel.sealed_len(packet.len())];
        let sealed = node.tunnel.seal(node.other, packet, &mut dst, self.now);
        // Earlier datagrams of the tunnel itself are sent first.
        self.collect();
        if let Sealed::Written(len) = sealed {
            assert_eq!(len, dst.len());
            let node = &self.nodes[from];
            let path = *node.tunnel.path(node.other).unwrap();
            self.put(from, path, dst);
        }
        sealed
    }

    /// Puts a datagram on the wire as if `from` had sent it.
    pub(super) fn put(&mut self, from: usize, path: Path, bytes: Vec<u8>) {
        let source = self.nodes[from].address;
        let datagram = Datagram {
            from,
            source,
            destination: path.remote,
            local: path.local,
            bytes,
        };
        self.heard.push(datagram.clone());
        if from == CLIENT {
            match datagram.bytes[0] {
                1 => self.expected = datagram.bytes[4..].first_chunk().copied(),
                2 => self.expected = None,
                _ => {}
            }
        }
        if !(self.lose)(&datagram) {
            self.on_the_wire.push_back((self.now + LATENCY, datagram));
        }
    }

    /// Advances the time.
    pub(super) fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        self.collect();
        loop {
            let awake = &self.nodes[usize::from(self.paused)..];
            let timeouts = awake.iter().filter_map(|n| n.tunnel.next_timeout());
            let arrival = self.on_the_wire.front().map(|(at, _)| *at);
            let next = timeouts.chain(arrival).min().unwrap_or(until);
            self.set_time(next.clamp(self.now, until));
            let asleep = usize::from(self.paused);
            for (node, ticks) in self.nodes.iter_mut().zip(&mut self.ticks).skip(asleep) {
                let due = node.tunnel.next_timeout().is_some_and(|at| at <= self.now);
                *ticks += usize::from(due);
                node.tunnel.handle_timeout(self.now);
                assert!(node.tunnel.next_timeout().is_none_or(|at| at > self.now));
            }
            while let Some((_, datagram)) = self.on_the_wire.pop_front_if(|(at, _)| *at <= self.now)
            {
                self.deliver(datagram);
            }
            self.collect();
            if next >= until {
                return;
            }
        }
    }

    /// Resumes the gateway's machine: it reads its socket, then its timers run.
    #[cfg(feature = "virtual-time")]
    pub(super) fn resume(&mut self) {
        self.paused = false;
        for datagram in std::mem::take(&mut self.socket) {
            self.deliver(datagram);
        }
        self.collect();
    }

    pub(super) fn deliver(&mut self, datagram: Datagram) {
        let to = 1 - datagram.from;
        if self.nodes[to].address != datagram.destination {
            return;
        }
        if self.paused && to == GATEWAY {
            return self.socket.push(datagram);
        }
        let response_to = datagram.bytes.get(8..).and_then(|rest| rest.first_chunk());
        if self.strict
            && to == CLIENT
            && datagram.bytes[0] == 2
            && response_to != self.expected.as_ref()
        {
            return self.nodes[to].drops.push(DropReason::UnknownIndex);
        }
        let node = &mut self.nodes[to];
        let path = Path {
            remote: datagram.source,
            local: Some(node.address.ip()),
        };
        let mut dst = vec![0; datagram.bytes.len().max(148)];
        match node
            .tunnel
            .receive(&path, &datagram.bytes, &mut dst, self.now)
        {
            Received::Packet { peer, packet } => {
                assert_eq!(peer, node.other);
                node.inbox.push(number(packet));
            }
            Received::Nothing => {}
            Received::OtherShard { shard, .. } => panic!("there is no shard {shard}"),
            Received::Dropped(reason) => node.drops.push(reason),
        }
    }

    /// Returns the number of messages of a type that a node sent.
    pub(super) fn count(&self, from: usize, kind: u8) -> usize {
        let of = |d: &&Datagram| d.from == from && d.bytes[0] == kind;
        self.heard.iter().filter(of).count()
    }

    fn collect(&mut self) {
        for from in [GATEWAY, CLIENT] {
            while let Some(t) = self.nodes[from].tunnel.poll_transmit() {
                self.put(from, t.path, t.bytes);
            }
        }
    }

    fn set_time(&mut self, now: Instant) {
        #[cfg(feature = "virtual-time")]
        mock_instant::MockClock::advance(now - self.now);
        self.now = now;
    }
}
