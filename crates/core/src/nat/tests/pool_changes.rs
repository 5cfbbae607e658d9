//! LAN addresses that come and go: any sequence of changes, with peers and flows on three shards.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

const PEERS: u8 = 8;
/// The first address, and those that are shared, a single peer's, or no peer's.
const ADDRESSES: [Ipv4Addr; 6] = [
    LAN,
    Ipv4Addr::new(192, 168, 77, 3),
    Ipv4Addr::new(192, 168, 77, 4),
    Ipv4Addr::new(192, 168, 77, 5),
    Ipv4Addr::new(192, 168, 77, 50),
    Ipv4Addr::new(192, 168, 77, 51),
];

#[derive(Debug, Clone)]
enum Step {
    /// A packet from one of the two inner addresses of a peer.
    Send(u8, bool, u16, Protocol),
    /// The shared addresses besides the first one, by bit.
    Pool(u8),
    Own(u8, Option<usize>),
    RemovePeer(u8),
    /// Forwards a port of an address to a peer, or closes that forward.
    Forward(u8, usize, bool),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let port = prop_oneof![5000..5020u16, 700..704u16];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let send = (0..PEERS, any::<bool>(), port, protocol);
    let own = prop::option::of(0..ADDRESSES.len());
    prop::collection::vec(
        prop_oneof![
            8 => send.prop_map(|(peer, second, port, p)| Step::Send(peer, second, port, p)),
            2 => (0..8u8).prop_map(Step::Pool),
            2 => (0..PEERS, own).prop_map(|(peer, own)| Step::Own(peer, own)),
            1 => (0..PEERS).prop_map(Step::RemovePeer),
            1 => (0..PEERS, 0..ADDRESSES.len(), any::<bool>())
                .prop_map(|(peer, lan, open)| Step::Forward(peer, lan, open)),
            1 => (1..200u16).prop_map(Step::Wait),
        ],
        1..80,
    )
}

fn inner(peer: u8, second: bool) -> Ipv4Addr {
    Ipv4Addr::new(10, 8 + u8::from(second), 0, peer)
}

fn forward(peer: u8, lan: usize) -> Forward {
    Forward {
        protocol: Protocol::Udp,
        port: 9000 + u16::from(peer),
        to: at(inner(peer, false), 443),
        lan: Some(ADDRESSES[lan].into()),
    }
}

/// The shards, and what they should have.
struct Shards {
    nats: Vec<Nat>,
    now: Instant,
    pool: BTreeSet<Ipv4Addr>,
    owners: BTreeMap<Ipv4Addr, u8>,
    /// The client of each port block, by LAN address and first port.
    blocks: BTreeMap<(IpAddr, u16), (u16, IpAddr)>,
}

/// The identity of a flow.
type Ends = (Protocol, SocketAddr, SocketAddr, SocketAddr);

impl Shards {
    fn new() -> Self {
        let now = Instant::now();
        let nat = |shard| {
            let settings = Settings {
                shard,
                filtering: Filtering::EndpointIndependent,
                ..settings()
            };
            Nat::new(settings, 7, now)
        };
        Self {
            nats: ShardId::all(3).map(nat).collect(),
            now,
            pool: BTreeSet::new(),
            owners: BTreeMap::new(),
            blocks: BTreeMap::new(),
        }
    }

    /// Makes the same change in all shards, which must answer alike.
    fn all<T: PartialEq + std::fmt::Debug>(
        &mut self,
        change: impl Fn(&mut Nat, Instant) -> T,
    ) -> T {
        let now = self.now;
        let mut answers = self.nats.iter_mut().map(|nat| change(nat, now));
        let first = answers.next().unwrap();
        assert!(answers.all(|answer| answer == first));
        first
    }

    fn send(&mut self, peer: u8, mut bytes: Vec<u8>) {
        let nat = &mut self.nats[usize::from(peer % 3)];
        let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        let sender = PeerId(peer.into());
        let outcome = nat.outbound(&mut packet, sender, &OneAddressPeers, self.now);
        assert!(matches!(outcome, Outcome::Forward(Some(_))), "{outcome:?}");
        assert_checksums(&bytes);
    }

    fn is_in_use(&self, address: Ipv4Addr) -> bool {
        address == LAN || self.pool.contains(&address) || self.owners.contains_key(&address)
    }

    fn step(&mut self, step: &Step) {
        let before = self.flows();
        // The flows that the step may end.
        let mut ends: Box<dyn Fn(&Ends) -> bool> = Box::new(|_| false);
        match *step {
            Step::Send(peer, second, port, protocol) => {
                let from = at(inner(peer, second), port);
                self.send(
                    peer,
                    match protocol {
                        Protocol::Tcp => tcp(from, at(SERVER, 445), (SYN, 1, 0), &[], b""),
                        _ => udp(from, at(SERVER, 53), b"x"),
                    },
                );
            }
            Step::Pool(bits) => {
                let wanted = (0..3).filter(|n| bits & 1 << n != 0);
                let wanted: BTreeSet<_> = wanted.map(|n| ADDRESSES[n + 1]).collect();
                let is_free = wanted
                    .iter()
                    .all(|address| !self.owners.contains_key(address));
                let list: Vec<_> = wanted.iter().copied().collect();
                let set = self.all(|nat, now| nat.set_pool(&list, now));
                assert_eq!(set.is_ok(), is_free, "{set:?}");
                if is_free {
                    let gone: BTreeSet<_> = self.pool.difference(&wanted).copied().collect();
                    self.pool = wanted;
                    ends = Box::new(move |(_, _, lan, _)| gone.iter().any(|a| lan.ip() == *a));
                }
            }
            Step::Own(peer, own) => {
                let own = own.map(|n| ADDRESSES[n]);
                let has = { self.owners.iter() }.find_map(|(a, p)| (*p == peer).then_some(*a));
                let is_free = own == has || own.is_none_or(|address| !self.is_in_use(address));
                let id = PeerId(peer.into());
                let set = self.all(|nat, now| nat.set_lan_address(id, own, now));
                assert_eq!(set.is_ok(), is_free, "{set:?}");
                if is_free && own != has {
                    self.owners.retain(|_, owner| *owner != peer);
                    self.owners.extend(own.map(|address| (address, peer)));
                    ends = Box::new(move |(_, client, ..)| is_of(client, peer));
                }
            }
            Step::RemovePeer(peer) => {
                self.all(|nat, now| nat.remove_peer(PeerId(peer.into()), now));
                self.owners.retain(|_, owner| *owner != peer);
                ends = Box::new(move |(_, client, ..)| is_of(client, peer));
            }
            Step::Forward(peer, lan, open) => {
                let (forward, now) = (forward(peer, lan), self.now);
                let mut nats = self.nats.iter_mut();
                let is_open = open && nats.all(|nat| nat.add_forward(forward, now).is_ok());
                for nat in self.nats.iter_mut().filter(|_| !is_open) {
                    nat.remove_forward(forward, now);
                }
                ends = Box::new(move |(_, client, ..)| *client == forward.to);
            }
            Step::Wait(seconds) => {
                self.now += Duration::from_secs(seconds.into());
                for nat in &mut self.nats {
                    while nat.next_timeout().is_some_and(|due| due <= self.now) {
                        nat.handle_timeout(self.now);
                    }
                }
                ends = Box::new(|_| true);
            }
        }
        let after = self.flows();
        for flow in before.difference(&after) {
            assert!(ends(flow), "{step:?} ended {flow:?}");
        }
        self.check(&after);
    }

    fn flows(&self) -> HashSet<Ends> {
        let flows = self.nats.iter().flat_map(|nat| nat.flows(self.now));
        let ends = |f: Flow| {
            (
                f.protocol,
                f.inside,
                SocketAddr::new(f.lan, f.port),
                f.remote,
            )
        };
        flows.map(ends).collect()
    }

    /// Checks what must hold at any time.
    fn check(&mut self, flows: &HashSet<Ends>) {
        let forwards: Vec<_> = self.nats[0].forwards().collect();
        for forward in &forwards {
            let lan = forward.lan.unwrap_or(LAN.into());
            assert!(ADDRESSES.iter().any(|a| lan == *a && self.is_in_use(*a)));
        }
        let is_forwarded = |lan: &SocketAddr| {
            let at_port = forwards.iter().filter(|f| f.port == lan.port());
            at_port
                .map(|f| f.lan.unwrap_or(LAN.into()))
                .any(|address| address == lan.ip())
        };
        self.read_blocks();
        let mut ports = HashMap::new();
        let mut pairs = BTreeMap::new();
        for (protocol, client, lan, _) in flows {
            let IpAddr::V4(address) = lan.ip() else {
                panic!("{lan} is not IPv4");
            };
            assert!(self.is_in_use(address), "{address} is no LAN address");
            let other = *ports.entry((protocol, lan)).or_insert(client);
            assert_eq!(other, client, "two clients have {lan}");
            if is_forwarded(lan) {
                continue;
            }
            let peer = OneAddressPeers.of(client.ip()).unwrap().0 as u8;
            assert_eq!(
                *pairs.entry(peer).or_insert(address),
                address,
                "peer {peer}"
            );
            match self.owners.iter().find(|(_, owner)| **owner == peer) {
                Some((own, _)) => assert_eq!(address, *own),
                None => assert!(!self.owners.contains_key(&address)),
            }
            let (first, (last, owner)) = self
                .blocks
                .range(..=(lan.ip(), lan.port()))
                .next_back()
                .unwrap();
            assert!(
                first.0 == lan.ip() && lan.port() <= *last,
                "{lan} is in no block"
            );
            assert_eq!(*owner, client.ip());
        }
    }

    /// Follows the port blocks, of which each belongs to one client at a time.
    fn read_blocks(&mut self) {
        for nat in &mut self.nats {
            while let Some(event) = nat.poll_block() {
                let key = (event.lan, event.first_port);
                let value = (event.last_port, event.client);
                let other = match event.given {
                    true => self.blocks.insert(key, value),
                    false => self.blocks.remove(&key).filter(|block| *block != value),
                };
                assert_eq!(other, None, "{event:?}");
            }
        }
    }
}

fn is_of(client: &SocketAddr, peer: u8) -> bool {
    OneAddressPeers.of(client.ip()) == Some(PeerId(peer.into()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn rfc4787_req2_and_req3_hold_whatever_addresses_come_and_go(steps in steps()) {
        let mut shards = Shards::new();
        for step in &steps {
            shards.step(step);
        }
    }
}

fn tcp_flow(shards: &mut Shards, peer: u8) {
    shards.step(&Step::Send(peer, false, 5000, Protocol::Tcp));
}

#[test]
fn the_flows_of_an_address_that_is_removed_are_severed_and_all_others_continue() {
    let mut shards = Shards::new();
    shards.step(&Step::Pool(0b111));
    (0..PEERS).for_each(|peer| tcp_flow(&mut shards, peer));
    let before = shards.flows();
    for nat in &shards.nats {
        let usage = nat.lan_usage();
        assert_eq!(usage.len(), 5, "four of IPv4 and one of IPv6");
        for LanAddressUsage {
            address,
            clients,
            ports,
        } in usage
        {
            let flows = nat.flows(shards.now).filter(|flow| flow.lan == address);
            let count = flows.count() as u32;
            assert_eq!((clients, ports), (count, count * u32::from(BLOCK_SIZE)));
        }
    }
    let gone = |(_, _, lan, _): &&Ends| lan.ip() == ADDRESSES[2];
    let count = before.iter().filter(gone).count();
    assert!(count > 0 && count < before.len());
    shards.step(&Step::Pool(0b101));
    let severed = shards.nats.iter_mut();
    let severed = severed.flat_map(|nat| std::iter::from_fn(|| nat.poll_severed()));
    let severed: Vec<_> = severed.map(|flow| flow.lan.ip()).collect();
    assert_eq!(severed, vec![IpAddr::from(ADDRESSES[2]); count]);
    assert_eq!(shards.flows().len(), before.len() - count);
    // The peers with flows keep their addresses, and others use the new one.
    shards.step(&Step::Pool(0b111));
    (0..PEERS).for_each(|peer| tcp_flow(&mut shards, peer));
    assert!(
        shards
            .flows()
            .is_superset(&before.into_iter().filter(|f| !gone(&f)).collect())
    );
    (9..12).for_each(|peer| tcp_flow(&mut shards, peer));
    assert_eq!(shards.flows().iter().filter(gone).count(), 3);
}

#[test]
fn an_address_of_a_peer_can_become_another_one_s_or_shared() {
    let mut shards = Shards::new();
    for (peer, others) in [(1, 2), (2, 1), (5, 0)] {
        shards.step(&Step::Own(peer, Some(1)));
        tcp_flow(&mut shards, peer);
        tcp_flow(&mut shards, others);
        let at_own = |(_, _, lan, _): &&Ends| lan.ip() == ADDRESSES[1];
        assert_eq!(shards.flows().iter().filter(at_own).count(), 1);
        shards.step(&Step::Own(peer, None));
    }
    shards.step(&Step::Pool(0b001));
    (0..PEERS).for_each(|peer| tcp_flow(&mut shards, peer));
    let lans: BTreeSet<_> = shards
        .flows()
        .iter()
        .map(|(_, _, lan, _)| lan.ip())
        .collect();
    assert_eq!(lans, [LAN, ADDRESSES[1]].map(IpAddr::from).into());
    shards.step(&Step::Own(3, Some(1)));
    assert_eq!(
        shards.owners.len(),
        0,
        "an address that clients share is refused"
    );
}

#[test]
fn ipv6_flows_continue_when_the_own_ipv4_address_changes() {
    let mut w = World::<()>::new(settings());
    let peer = OneAddressPeers.of(ALICE6.into()).unwrap();
    let mut bytes = udp(at(ALICE6, 5000), at(SERVER6, 53), b"x");
    assert!(matches!(w.outbound(&mut bytes), Outcome::Forward(Some(_))));
    let set = w.nat.set_lan_address(peer, Some(ADDRESSES[4]), w.now);
    set.unwrap();
    assert_eq!(w.nat.flows(w.now).count(), 1);
    w.nat.set_lan_address(peer, None, w.now).unwrap();
    assert_eq!(w.nat.flows(w.now).count(), 1);
}
