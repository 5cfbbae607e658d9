//! Translates the configuration into the settings of the engine, the host and the sockets.

use super::active_config::ActiveConfig;
use super::error::EndpointError;
use super::port_log::LanAddresses;
use super::server_connections;
use crate::config::reach::Hosts;
use crate::config::{self, Config};
use crate::confine::Needs;
use crate::control;
use crate::host::{self, Setup};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Instant;
use vcgate_core::engine::{self, Engine, GlobalPolicy, Merge};
use vcgate_core::ids::ShardId;
use vcgate_core::tunnel::PeerSettings;
use vcgate_core::{nat, smb};
use vcgate_io::tun::{Offload, Tun};
use vcgate_io::udp::{self, Udp};

/// The properties of the endpoint that do not change while it runs.
#[derive(Debug, Clone)]
pub(super) struct RuntimeInfo {
    /// The configuration file.
    pub file: PathBuf,
    pub interface: String,
    pub address: Vec<IpNet>,
    pub lan_interface: String,
    pub lan_address: Ipv4Addr,
    /// Set if IPv6 is translated.
    pub lan_address6: Option<Ipv6Addr>,
    /// The address that clients have on the LAN.
    pub external_address: Ipv4Addr,
    /// The IPv6 address that clients have on the LAN, where IPv6 is translated.
    pub external_address6: Option<Ipv6Addr>,
    pub lan_is_auto: bool,
    /// Whether the endpoint can announce LAN addresses while it runs.
    pub announces: bool,
    pub hook: smb::Mode,
    pub offload: Offload,
    pub gro: bool,
    pub wanted: config::Offload,
    pub listen_port: u16,
    pub started: Instant,
}

impl RuntimeInfo {
    pub(super) fn new(config: &Config, setup: &Setup, tun: &Tun, sockets: &[Udp]) -> Self {
        Self {
            file: config.path.clone(),
            interface: config.interface.name.clone(),
            address: config.interface.address.clone(),
            lan_interface: setup.lan_interface().to_owned(),
            lan_address: setup.address(),
            lan_address6: setup.address6(),
            external_address: setup.external_address(),
            external_address6: setup.external_address6(),
            lan_is_auto: config.lan.address == config::LanAddress::Auto,
            announces: setup.answers(),
            hook: config.smb.mode,
            offload: tun.offloads(),
            gro: sockets.iter().all(Udp::gro),
            wanted: config.offload,
            listen_port: sockets.first().map_or(0, Udp::port),
            started: Instant::now(),
        }
    }

    /// Returns the first LAN addresses, and how hosts on the LAN see them.
    pub(super) fn addresses(&self) -> LanAddresses {
        LanAddresses {
            ipv4: (self.lan_address, self.external_address),
            ipv6: self.lan_address6.zip(self.external_address6),
        }
    }
}

/// Returns the policy for all clients.
pub(super) fn global_policy(active: &ActiveConfig) -> GlobalPolicy {
    let config = &active.config;
    GlobalPolicy {
        client_to_client: config.interface.client_to_client,
        on_deny: config.interface.on_deny,
        no_nat: config.nat.no_nat.clone(),
        broadcasts: active.broadcasts.clone(),
        netmap: config.lan.netmap.clone(),
    }
}

/// Returns the settings of the NAT that can change while it runs.
pub(super) fn adjustable_nat(config: &Config) -> nat::AdjustableSettings {
    nat::AdjustableSettings {
        filtering: config.nat.filtering,
        on_unsolicited: config.nat.on_unsolicited,
        timeouts: timeouts(&config.nat),
        limits: limits(&config.nat.limits),
    }
}

/// Returns the tunnel's settings for a peer.
pub(super) fn peer_settings(peer: &config::Peer) -> PeerSettings {
    PeerSettings {
        name: peer.name.clone(),
        public_key: peer.public_key.into(),
        preshared_key: peer.preshared_key.clone(),
        allowed_ips: peer.allowed_ips.clone(),
        endpoint: None,
        persistent_keepalive: peer.persistent_keepalive.map(u16::from),
    }
}

/// Returns the plan of the host's set-up.
pub(super) fn host_plan(config: &Config) -> host::Plan {
    host::Plan {
        tun: config.interface.name.clone(),
        mtu: config.interface.mtu,
        tunnel_addresses: config.interface.address.iter().map(IpNet::addr).collect(),
        lan_interface: config.lan.interface.clone(),
        lan_address: config.lan.address,
        lan_address6: config.lan.address6,
        further_addresses: config.further_addresses(),
        destinations: destinations(config),
        forwards: config.forwards.clone(),
        run_directory: PathBuf::from(control::socket::DIRECTORY),
    }
}

/// Returns the files and rights that the control plane needs while it runs.
/// `packet_sockets` is set if it announces LAN addresses.
pub(super) fn needs(config: &Config, packet_sockets: bool) -> Needs {
    let peers = config.peers.iter();
    let keys = peers.filter_map(|peer| peer.preshared_key_file.as_ref());
    let files = keys.chain([&config.path, &config.interface.private_key_file]);
    // A reload reads what the files are then: the links that lead to them may change as well.
    let folders = files.flat_map(|file| {
        let real = std::fs::canonicalize(file).ok();
        let paths = [Some(file.clone()), real].into_iter().flatten();
        paths.filter_map(|path| path.parent().map(Path::to_owned))
    });
    let folders: BTreeSet<PathBuf> = folders.collect();
    Needs {
        read: folders.into_iter().collect(),
        write: vec![
            control::socket::DIRECTORY.into(),
            control::uapi::DIRECTORY.into(),
            server_connections::directory(),
        ],
        packet_sockets,
    }
}

/// Returns the subject of the check of the host's firewalls.
pub(super) fn doctor_subject(config: &Config, lan_interface: &str) -> crate::doctor::Subject {
    crate::doctor::Subject {
        tun: config.interface.name.clone(),
        listen_port: config.interface.listen_port,
        lan_interface: Some(lan_interface.to_owned()),
        lan_address: config.lan.address,
        further_addresses: config.further_addresses(),
        lan_address6: config.lan.address6,
        lan_problems: Vec::new(),
        peers_with_everything: Vec::new(),
        dns: config.dns_addresses(),
    }
}

/// Returns the destinations of clients besides the networks of the LAN interface: the networks of
/// the configuration and of the rules of peers.
pub(super) fn destinations(config: &Config) -> Vec<IpNet> {
    let everything = || [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let rules = config
        .peers
        .iter()
        .flat_map(|peer| peer.reach.iter().flatten());
    let of_rules = rules.flat_map(|rule| match rule.hosts {
        Hosts::Net(net) => config.lan.netmap.lan_networks(net),
        Hosts::All => everything().to_vec(),
        Hosts::Gateway => Vec::new(),
    });
    of_rules
        .chain(config.lan.networks.iter().copied())
        .collect()
}

/// Returns the endpoint's IPv4 address in the tunnel.
fn gateway(config: &Config) -> Option<Ipv4Addr> {
    let addresses = config.interface.address.iter();
    addresses
        .map(IpNet::addr)
        .find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
}

/// Returns the endpoint's IPv6 address in the tunnel.
fn gateway6(config: &Config) -> Option<Ipv6Addr> {
    let addresses = config.interface.address.iter();
    addresses
        .map(IpNet::addr)
        .find_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        })
}

/// Returns the settings of the sockets on a port.
pub(super) fn udp_settings(offload: config::Offload, port: u16) -> udp::Settings {
    udp::Settings {
        gso: offload.gso,
        gro: offload.gro,
        ..udp::Settings::on_port(port)
    }
}

/// Returns the number of shards.
pub(super) fn shards(config: &Config) -> u8 {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let shards = config.interface.shards;
    shards.unwrap_or_else(|| shards_for(cores(), &config.nat.limits))
}

/// Returns one shard per core, but no more than leave each client its ports.
fn shards_for(cores: usize, limits: &config::Limits) -> u8 {
    let max = nat::max_shards(limits.ports);
    u8::try_from(cores).map_or(max, |cores| cores.min(max))
}

/// Creates one shard's engine with all peers, in the order of their ids; `None` leaves out an id.
pub(super) fn engine(
    active: &ActiveConfig,
    info: &RuntimeInfo,
    peers: &[Option<&config::Peer>],
    shard: ShardId,
    now: Instant,
) -> Result<Engine, EndpointError> {
    let config = &active.config;
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(io::Error::from)?;
    let nat::AdjustableSettings {
        filtering,
        on_unsolicited,
        timeouts,
        limits,
    } = adjustable_nat(config);
    let mut engine = Engine::new(
        engine::Settings {
            private_key: config.interface.private_key.secret().clone(),
            addresses: config.interface.address.clone(),
            mtu: config.interface.mtu,
            merge: Merge {
                tcp: info.offload >= Offload::Tcp,
                udp: info.offload >= Offload::TcpAndUdp,
            },
            max_segments: vcgate_io::udp::MAX_SEGMENTS,
            shard,
            nat: nat::Settings {
                address: info.lan_address,
                pool: config.lan.pool.clone(),
                address6: info.lan_address6,
                gateway6: gateway6(config),
                // Without an IPv4 address in the tunnel, errors come from the LAN address.
                gateway: gateway(config).unwrap_or(info.lan_address),
                filtering,
                on_unsolicited,
                timeouts,
                limits,
                mtu: config.interface.mtu,
                blocks: 0..nat::BLOCK_COUNT,
                shard,
            },
            policy: global_policy(active),
            smb: config.smb.clone(),
            seed: u64::from_ne_bytes(seed),
        },
        now,
    );
    for peer in peers {
        let Some(peer) = peer else {
            engine.skip_peer();
            continue;
        };
        let rules = active.rules(peer.reach.as_deref());
        let added = engine.add_peer(peer_settings(peer), rules, now);
        let id = added.map_err(|source| EndpointError::Peer {
            name: peer.name.clone(),
            source,
        })?;
        engine.set_rates(id, peer.rates, now);
        engine
            .set_lan_address(id, peer.lan_address, now)
            .map_err(|source| EndpointError::LanAddress {
                name: peer.name.clone(),
                source,
            })?;
    }
    for forward in &config.forwards {
        engine
            .add_forward(nat_forward(forward), now)
            .map_err(|source| EndpointError::Forward {
                port: forward.port(),
                source,
            })?;
    }
    Ok(engine)
}

/// Returns the NAT's settings for a forward.
pub(super) fn nat_forward(forward: &config::Forward) -> nat::Forward {
    nat::Forward {
        protocol: match forward.proto {
            config::Transport::Tcp => nat::Protocol::Tcp,
            config::Transport::Udp => nat::Protocol::Udp,
        },
        port: forward.lan_port,
        to: forward.to,
        lan: forward.lan_address.map(IpAddr::V4),
    }
}

fn timeouts(nat: &config::Nat) -> nat::Timeouts {
    let t = &nat.timeouts;
    nat::Timeouts {
        udp: t.udp,
        udp_inbound_refresh: nat.udp_inbound_refresh,
        dns: nat::Timeouts::default().dns.min(t.udp),
        echo: t.icmp,
        tcp_opening: t.tcp_transitory,
        tcp_established: t.tcp_established,
        tcp_closing: t.tcp_transitory,
    }
}

fn limits(l: &config::Limits) -> nat::Limits {
    nat::Limits {
        ports: l.ports,
        sessions: l.sessions,
        new_sessions: l.new_flows_per_second,
        fragments: l.fragments,
        ..nat::Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_shards_leaves_each_client_its_ports() {
        let of = |cores, ports| {
            let limits = config::Limits {
                ports,
                ..config::Limits::default()
            };
            shards_for(cores, &limits)
        };
        for (cores, ports, shards) in [
            (1, 2048, 1),
            (8, 2048, 8),
            (64, 2048, 9),
            (1000, 64, 64),
            (4, 64512, 1),
        ] {
            assert_eq!(of(cores, ports), shards, "{cores} {ports}");
        }
    }
}
