//! Tests in a simulated network (feature `virtual-time`): whole sessions through one or more shards,
//! with loss, reordering and duplication, in virtual time. Hours pass in seconds, and every run is
//! reproducible.

mod addresses;
mod capture;
mod congestion;
mod crowd;
mod crowd_rows;
mod device;
mod exceptions;
mod forwarded;
mod gateway;
mod host;
mod hostile;
mod ip;
mod loss;
mod moves;
mod netmap;
mod network;
mod rates;
mod raw;
mod resets;
mod restart;
mod rules;
mod scale;
mod shards;
mod smb;
mod smb_raw;
mod stale;
mod transfer;
mod tunnel;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use network::{Family, GATEWAY, GATEWAY6, LAN, LAN6, MTU, Network, inner, inner6, secret};
use std::net::Ipv4Addr;
use std::time::Instant;
use vcgate_core::engine::{Destination, Engine, GlobalPolicy, Merge, Rule, Settings};
use vcgate_core::ids::ShardId;
use vcgate_core::nat;
use vcgate_core::smb::Mode;
use vcgate_core::tunnel::PeerSettings;

/// Makes an IPv4 network of clients around one engine.
pub fn network(clients: usize, hook: Mode, seed: u64) -> Network {
    network_of(Family::V4, clients, hook, seed)
}

/// Makes a network of clients around one engine that translates both families.
pub fn network_of(family: Family, clients: usize, hook: Mode, seed: u64) -> Network {
    let rules = vec![lan_rules(); clients];
    let limits = nat::Limits::default();
    let engines = engines(1, GlobalPolicy::default(), limits, &rules, hook, seed);
    Network::new(engines, family, clients, seed)
}

/// Makes a network of clients that may reach each other, around several shards.
pub fn network_of_shards(
    shards: u8,
    family: Family,
    clients: usize,
    hook: Mode,
    seed: u64,
) -> Network {
    let policy = GlobalPolicy {
        client_to_client: true,
        ..GlobalPolicy::default()
    };
    let rules = vec![vec![Rule::all(Destination::Anywhere)]; clients];
    let engines = engines(shards, policy, nat::Limits::default(), &rules, hook, seed);
    Network::new(engines, family, clients, seed)
}

/// Makes a network around one engine with a policy, limits and rules for each client.
pub fn ruled_network(
    family: Family,
    policy: GlobalPolicy,
    limits: nat::Limits,
    rules: &[Vec<Rule>],
    hook: Mode,
    seed: u64,
) -> Network {
    let engines = engines(1, policy, limits, rules, hook, seed);
    Network::new(engines, family, rules.len(), seed)
}

/// Makes a network around several shards with rules for each client.
pub fn ruled_network_of_shards(shards: u8, rules: &[Vec<Rule>]) -> Network {
    let (policy, limits) = (GlobalPolicy::default(), nat::Limits::default());
    let engines = engines(shards, policy, limits, rules, Mode::Assign, 1);
    Network::new(engines, Family::V4, rules.len(), 1)
}

/// The shards of a [`crowded_network`] and the ports of its LAN address.
#[derive(Debug)]
pub struct Place {
    /// The number of shards.
    pub shards: u8,
    /// In groups of 64 ports.
    pub blocks: std::ops::Range<u16>,
    /// The senders that reach a mapped port.
    pub filtering: nat::Filtering,
}

/// Makes a network of clients that may reach the LAN and what lies behind it, with few ports.
pub fn crowded_network(
    place: Place,
    family: Family,
    clients: usize,
    policy: GlobalPolicy,
    limits: nat::Limits,
) -> Network {
    let now = Instant::now();
    let rules = vec![vec![Rule::all(Destination::Anywhere)]; clients];
    let one = |shard| {
        let mut settings = settings(shard, policy.clone(), limits.clone(), Mode::Assign, 1);
        (settings.nat.blocks, settings.nat.filtering) = (place.blocks.clone(), place.filtering);
        engine(settings, &rules, now)
    };
    let engines = ShardId::all(place.shards).map(one).collect();
    Network::new((engines, now), family, clients, 1)
}

/// Makes a network of one client with another inner MTU.
pub fn network_of_mtu(mtu: u16, seed: u64) -> Network {
    let (policy, limits, now) = (
        GlobalPolicy::default(),
        nat::Limits::default(),
        Instant::now(),
    );
    let mut settings = settings(ShardId::default(), policy, limits, Mode::Assign, seed);
    (settings.mtu, settings.nat.mtu) = (mtu, mtu);
    let engine = engine(settings, &[lan_rules()], now);
    Network::new((vec![engine], now), Family::V4, 1, seed)
}

/// Permits the whole LAN in both families.
pub fn lan_rules() -> Vec<Rule> {
    let lan = ["192.168.77.0/24", "fd00:77::/64"].map(|net| Rule::network(net.parse().unwrap()));
    lan.to_vec()
}

/// Makes an engine without a network, with one peer for each set of rules and these LAN addresses
/// besides the first one.
pub fn engine_of(rules: &[Vec<Rule>], pool: Vec<Ipv4Addr>) -> (Engine, Instant) {
    let (policy, limits, now) = (
        GlobalPolicy::default(),
        nat::Limits::default(),
        Instant::now(),
    );
    let mut settings = settings(ShardId::default(), policy, limits, Mode::Assign, 1);
    settings.nat.pool = pool;
    (engine(settings, rules, now), now)
}

fn engines(
    shards: u8,
    policy: GlobalPolicy,
    limits: nat::Limits,
    rules: &[Vec<Rule>],
    hook: Mode,
    seed: u64,
) -> (Vec<Engine>, Instant) {
    let now = Instant::now();
    let all = ShardId::all(shards);
    let engine = |shard| {
        let settings = settings(shard, policy.clone(), limits.clone(), hook, seed);
        engine(settings, rules, now)
    };
    (all.map(engine).collect(), now)
}

fn settings(
    shard: ShardId,
    policy: GlobalPolicy,
    limits: nat::Limits,
    hook: Mode,
    seed: u64,
) -> Settings {
    Settings {
        private_key: secret(0),
        addresses: vec![
            IpNet::V4(Ipv4Net::new(GATEWAY, 24).unwrap()),
            IpNet::V6(Ipv6Net::new(GATEWAY6, 64).unwrap()),
        ],
        mtu: MTU,
        merge: Merge {
            tcp: true,
            udp: true,
        },
        max_segments: 64,
        shard,
        nat: nat::Settings {
            address: LAN,
            gateway: GATEWAY,
            pool: Vec::new(),
            address6: Some(LAN6),
            gateway6: Some(GATEWAY6),
            filtering: nat::Filtering::default(),
            on_unsolicited: nat::OnUnsolicited::default(),
            timeouts: nat::Timeouts::default(),
            limits,
            mtu: MTU,
            blocks: 0..nat::BLOCK_COUNT,
            shard,
        },
        policy,
        smb: vcgate_core::smb::Settings {
            mode: hook,
            ..Default::default()
        },
        seed: seed + u64::from(shard.number()),
    }
}

fn engine(settings: Settings, rules: &[Vec<Rule>], now: Instant) -> Engine {
    let mut engine = Engine::new(settings, now);
    for (i, rules) in rules.iter().enumerate() {
        let peer = PeerSettings {
            name: format!("client{i}"),
            public_key: (&secret(i + 1)).into(),
            preshared_key: None,
            allowed_ips: vec![
                IpNet::V4(inner(i).into()),
                IpNet::V6(inner6(i).into()),
                site(i),
            ],
            endpoint: None,
            persistent_keepalive: None,
        };
        engine.add_peer(peer, rules.clone(), now).unwrap();
    }
    engine
}

/// Returns the network behind a client.
pub fn site(client: usize) -> IpNet {
    let (high, low) = (20 + client / 256, client % 256);
    format!("10.{high}.{low}.0/24").parse().unwrap()
}
