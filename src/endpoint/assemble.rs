//! From the configuration's words to the rooms' settings.

use super::EndpointError;
use crate::config::{self, Config, reach};
use crate::engine::{self, Engine, Merge, Rule};
use crate::host::{self, Setup};
use crate::io::tun::{Offload, Tun};
use crate::io::udp::Udp;
use crate::tunnel::{PeerSettings, Shard};
use crate::{nat, smb};
use ipnet::IpNet;
use smoltcp::wire::IpProtocol;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Instant;

/// What is fixed while the endpoint runs.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub interface: String,
    pub address: Vec<IpNet>,
    pub lan_interface: String,
    pub lan_address: Ipv4Addr,
    pub lan_is_auto: bool,
    /// What a client without rules of its own may reach.
    pub networks: Vec<IpNet>,
    pub hook: smb::Mode,
    pub offload: Offload,
    pub gso: bool,
    pub gro: bool,
    pub listen_port: u16,
    pub started: Instant,
}

impl Facts {
    pub(super) fn new(config: &Config, setup: &Setup, tun: &Tun, udp: &Udp) -> Self {
        let networks = match config.lan.networks.is_empty() {
            false => config.lan.networks.clone(),
            true => setup
                .lan_networks()
                .iter()
                .map(|net| (*net).into())
                .collect(),
        };
        Self {
            interface: config.interface.name.clone(),
            address: config.interface.address.clone(),
            lan_interface: setup.lan_interface().to_owned(),
            lan_address: setup.address(),
            lan_is_auto: config.lan.address == config::LanAddress::Auto,
            networks,
            hook: hook_mode(config.smb.hook),
            offload: tun.offloads(),
            gso: udp.gso(),
            gro: udp.gro(),
            listen_port: udp.port(),
            started: Instant::now(),
        }
    }

    /// The rules of a peer; without its own, all of the LAN.
    pub(super) fn rules(&self, own: Option<&[reach::Rule]>) -> Vec<Rule> {
        match own {
            Some(rules) => rules.iter().flat_map(rules_of).collect(),
            None => self.networks.iter().copied().map(Rule::network).collect(),
        }
    }
}

/// What the host is to be set up for.
pub(super) fn host_plan(config: &Config) -> host::Plan {
    host::Plan {
        tun: config.interface.name.clone(),
        mtu: config.interface.mtu,
        lan_interface: config.lan.interface.clone(),
        lan_address: match config.lan.address {
            config::LanAddress::Auto => host::LanAddress::Auto,
            config::LanAddress::Fixed(address) => host::LanAddress::Given(address),
        },
        run_directory: PathBuf::from(crate::control::socket::DIRECTORY),
    }
}

/// The engine with all peers of the configuration.
pub(super) fn engine(
    config: &Config,
    facts: &Facts,
    now: Instant,
) -> Result<Engine, EndpointError> {
    let gateway = config
        .interface
        .address
        .iter()
        .find_map(|net| match net.addr() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(io::Error::from)?;
    let mut engine = Engine::new(
        engine::Settings {
            private_key: config.interface.private_key.secret().clone(),
            addresses: config.interface.address.clone(),
            mtu: config.interface.mtu,
            merge: Merge {
                tcp: facts.offload >= Offload::Tcp,
                udp: facts.offload >= Offload::TcpAndUdp,
            },
            max_segments: crate::io::udp::SEGMENTS,
            shard: Shard::default(),
            nat: nat::Settings {
                address: facts.lan_address,
                // Without an IPv4 address in the tunnel, errors come from the LAN address.
                gateway: gateway.unwrap_or(facts.lan_address),
                filtering: match config.nat.filtering {
                    config::Filtering::EndpointIndependent => nat::Filtering::EndpointIndependent,
                    config::Filtering::AddressDependent => nat::Filtering::AddressDependent,
                },
                unsolicited: nat::Unsolicited::default(),
                timeouts: timeouts(&config.nat.timeouts),
                limits: limits(&config.nat.limits),
                mtu: config.interface.mtu,
                blocks: 0..nat::BLOCKS,
            },
            smb: smb::Settings {
                mode: facts.hook,
                ports: config.smb.ports.clone(),
                numbers: smb::Numbers::ALL,
            },
            seed: u64::from_ne_bytes(seed),
        },
        now,
    );
    for peer in &config.peers {
        let settings = PeerSettings {
            name: peer.name.clone(),
            public_key: peer.public_key.into(),
            preshared_key: peer.preshared_key.clone(),
            allowed_ips: peer.allowed_ips.clone(),
            endpoint: None,
            persistent_keepalive: peer.persistent_keepalive.map(u16::from),
        };
        let rules = facts.rules(peer.reach.as_deref());
        let added = engine.add_peer(settings, rules, now);
        added.map_err(|source| EndpointError::Peer {
            name: peer.name.clone(),
            source,
        })?;
    }
    Ok(engine)
}

fn hook_mode(hook: config::Hook) -> smb::Mode {
    match hook {
        config::Hook::Assign => smb::Mode::Assign,
        config::Hook::Observe => smb::Mode::Observe,
        config::Hook::Off => smb::Mode::Off,
    }
}

fn timeouts(t: &config::Timeouts) -> nat::Timeouts {
    nat::Timeouts {
        udp: t.udp,
        echo: t.icmp,
        tcp_opening: t.tcp_transitory,
        tcp_established: t.tcp_established,
        tcp_closing: t.tcp_transitory,
    }
}

fn limits(l: &config::Limits) -> nat::Limits {
    nat::Limits {
        blocks: l.ports.div_ceil(nat::BLOCK),
        sessions: l.sessions,
        new_sessions: l.new_flows_per_second,
        ..nat::Limits::default()
    }
}

/// A rule with ports and no protocol means TCP and UDP; ICMP is that of both families.
fn rules_of(rule: &reach::Rule) -> Vec<Rule> {
    let protocols: &[Option<IpProtocol>] = match (rule.protocol, &rule.ports) {
        (Some(reach::Protocol::Tcp), _) => &[Some(IpProtocol::Tcp)],
        (Some(reach::Protocol::Udp), _) => &[Some(IpProtocol::Udp)],
        (Some(reach::Protocol::Icmp), _) => &[Some(IpProtocol::Icmp), Some(IpProtocol::Icmpv6)],
        (None, Some(_)) => &[Some(IpProtocol::Tcp), Some(IpProtocol::Udp)],
        (None, None) => &[None],
    };
    let (net, ports) = (rule.net, &rule.ports);
    protocols
        .iter()
        .map(|&protocol| Rule {
            net,
            protocol,
            ports: ports.clone(),
        })
        .collect()
}
