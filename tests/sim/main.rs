//! The simulated network (feature `virtual-time`): whole sessions through one engine, with loss,
//! reorder and duplication, in virtual time. Hours pass in seconds, and every run repeats.

mod exceptions;
mod host;
mod ip;
mod network;
mod raw;
mod rules;
mod scale;
mod smb;
mod stale;
mod transfer;
mod tunnel;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use network::{Family, GATEWAY, GATEWAY6, LAN, LAN6, MTU, Network, inner, inner6, secret};
use std::time::Instant;
use vcgate::engine::{Common, Engine, Merge, Rule, Settings};
use vcgate::nat;
use vcgate::smb::Mode;
use vcgate::tunnel::{PeerSettings, Shard};

/// A network of some clients around one engine, all hosts of which speak IPv4.
pub fn network(clients: usize, hook: Mode, seed: u64) -> Network {
    network_of(Family::V4, clients, hook, seed)
}

/// A network of some clients around one engine that translates both families.
pub fn network_of(family: Family, clients: usize, hook: Mode, seed: u64) -> Network {
    let rules = vec![lan_rules(); clients];
    let limits = nat::Limits::default();
    let engine = engine(Common::default(), limits, &rules, hook, seed);
    Network::new(engine, family, clients, seed)
}

/// The same with rules for all and rules for each client.
pub fn ruled_network(
    family: Family,
    common: Common,
    limits: nat::Limits,
    rules: &[Vec<Rule>],
    hook: Mode,
    seed: u64,
) -> Network {
    let engine = engine(common, limits, rules, hook, seed);
    Network::new(engine, family, rules.len(), seed)
}

/// All of the LAN, in both families.
pub fn lan_rules() -> Vec<Rule> {
    let lan = ["192.168.77.0/24", "fd00:77::/64"].map(|net| Rule::network(net.parse().unwrap()));
    lan.to_vec()
}

/// An engine by itself, with a peer for each of the rules.
pub fn engine_of(rules: &[Vec<Rule>]) -> (Engine, Instant) {
    let limits = nat::Limits::default();
    engine(Common::default(), limits, rules, Mode::Assign, 1)
}

fn engine(
    common: Common,
    limits: nat::Limits,
    rules: &[Vec<Rule>],
    hook: Mode,
    seed: u64,
) -> (Engine, Instant) {
    let now = Instant::now();
    let settings = Settings {
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
        shard: Shard::default(),
        nat: nat::Settings {
            address: LAN,
            gateway: GATEWAY,
            address6: Some(LAN6),
            gateway6: Some(GATEWAY6),
            filtering: nat::Filtering::default(),
            unsolicited: nat::Unsolicited::default(),
            timeouts: nat::Timeouts::default(),
            limits,
            mtu: MTU,
            blocks: 0..nat::BLOCKS,
        },
        common,
        smb: vcgate::smb::Settings {
            mode: hook,
            ..Default::default()
        },
        seed,
    };
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
    (engine, now)
}

/// The network behind a client.
pub fn site(client: usize) -> IpNet {
    let (high, low) = (20 + client / 256, client % 256);
    format!("10.{high}.{low}.0/24").parse().unwrap()
}
