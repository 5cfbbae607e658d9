//! The simulated network (feature `virtual-time`): whole sessions through one engine, with loss,
//! reorder and duplication, in virtual time. Hours pass in seconds, and every run repeats.

mod host;
mod ip;
mod network;
mod smb;
mod transfer;
mod tunnel;

use ipnet::{IpNet, Ipv4Net};
use network::{GATEWAY, LAN, MTU, Network, inner, secret};
use std::time::Instant;
use vcgate::engine::{Engine, Merge, Rule, Settings};
use vcgate::nat;
use vcgate::smb::Mode;
use vcgate::tunnel::{PeerSettings, Shard};

/// A network of some clients around one engine.
pub fn network(clients: usize, hook: Mode, seed: u64) -> Network {
    let now = Instant::now();
    let settings = Settings {
        private_key: secret(0),
        addresses: vec![IpNet::V4(Ipv4Net::new(GATEWAY, 24).unwrap())],
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
            filtering: nat::Filtering::default(),
            unsolicited: nat::Unsolicited::default(),
            timeouts: nat::Timeouts::default(),
            limits: nat::Limits::default(),
            mtu: MTU,
            blocks: 0..nat::BLOCKS,
        },
        smb: vcgate::smb::Settings {
            mode: hook,
            ..Default::default()
        },
        seed,
    };
    let mut engine = Engine::new(settings, now);
    for i in 0..clients {
        let peer = PeerSettings {
            name: format!("client{i}"),
            public_key: (&secret(i + 1)).into(),
            preshared_key: None,
            allowed_ips: vec![IpNet::V4(inner(i).into())],
            endpoint: None,
            persistent_keepalive: None,
        };
        let lan = Rule::network("192.168.77.0/24".parse().unwrap());
        engine.add_peer(peer, vec![lan], now).unwrap();
    }
    Network::new(engine, clients, seed, now)
}
