//! The configuration: the TOML model, its validation, and the configurations of clients.
//!
//! [`load()`] reads a file into a valid [`Config`], or returns all [`Problems`] with file, line and
//! remedy. [`add_peer`], [`remove_peer`], [`first_run()`] and [`import()`] change or make a
//! configuration.
//!
//! It never uses the network: callers look up addresses and pass them in as [`HostNetwork`].

mod address;
mod admin;
mod check;
mod client;
mod client_files;
mod client_routes;
mod difference;
mod dns;
mod document;
mod edit;
mod exclusion;
mod files;
mod first_run;
mod forward;
mod hook;
mod import;
mod lan_fit;
mod lifecycle;
mod load;
mod pool;
mod problem;
mod profile;
pub mod reach;
mod syntax;
mod value;
mod wg_quick;

#[cfg(test)]
mod tests;

pub use address::HostNetwork;
pub use admin::{Admin, AdminToken, AdminUrl, Metrics, ReverseProxy, TlsFiles};
pub use client::{Client, MissingInfo, client};
pub use client_files::without_checksum;
pub use difference::{Change, KeyChange, difference};
pub use dns::{DEFAULT_SEARCH, Dns};
pub use edit::{
    Added, AddedForward, Assignment, Changed, NewPeer, Refreshed, Removed, add_forward, add_peer,
    refresh_clients, rekey_peer, remove_forwards, remove_peer, rename_peer, set_peer,
};
pub use first_run::{FILE_NAME, FirstRun, Settings, first_run};
pub use forward::{Forward, Port, Transport, target};
pub use import::{Imported, import};
pub use lan_fit::HostLan;
pub use lifecycle::{Lifecycle, PeerState};
pub use load::{DEFAULT_NAME, Loaded, load, parse};
pub use pool::FurtherAddress;
pub use problem::{Diagnostic, Problem, Problems};
pub use profile::{ClientProfile, DnsEntry};
pub use value::{DEFAULT_PORT, DomainName, endpoint_argument, prefix, span, tunnel_argument};
pub use vcgate_core::engine::OnDeny;
pub use vcgate_core::nat::{Filtering, OnUnsolicited};

use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcgate_core::engine::Rates;
use vcgate_core::netmap::NetMap;
use vcgate_core::{nat, smb};
use vcgate_io::tun;

/// A configuration that is valid as far as can be checked without the network.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// `[interface]`: the tunnel's side.
    pub interface: Interface,
    /// `[lan]`: the LAN's side.
    pub lan: Lan,
    /// `[smb]`: the VcNumber hook.
    pub smb: smb::Settings,
    /// `[nat]`: the translation between them.
    pub nat: Nat,
    /// `[dns]`: the names that clients can look up.
    pub dns: Dns,
    /// `[admin]`: the page and API for administrators, if it listens.
    pub admin: Option<Admin>,
    /// `[metrics]`: the listener for monitoring systems, if there is one.
    pub metrics: Option<Metrics>,
    /// `[offload]`: which of the kernel's offloads are used.
    pub offload: Offload,
    /// `[client]`: the values of client files whose peer has no others.
    pub client: ClientProfile,
    /// `[audit]`: the log of changes and connections, if there is one.
    pub audit: Option<LogFile>,
    /// `[[peer]]`: the clients, in the order of the file.
    pub peers: Vec<Peer>,
    /// `[[forward]]`: ports of the LAN address that lead to clients.
    pub forwards: Vec<Forward>,
}

impl Config {
    /// Returns the peer of this name.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    /// Returns the peer of an inner address: the one with the longest matching prefix.
    pub fn owner(&self, address: IpAddr) -> Option<&Peer> {
        let nets = self.peers.iter().flat_map(|peer| {
            let around = peer.allowed_ips.iter().filter(|net| net.contains(&address));
            around.map(move |net| (net.prefix_len(), peer))
        });
        let longest = nets.max_by_key(|(length, _)| *length);
        longest.map(|(_, peer)| peer)
    }

    /// Gives forwards to a peer with an address of its own that address, if they name none.
    fn assign_lan_addresses(&mut self) {
        let own = |forward: &Forward| {
            let owner = self.owner(forward.to.ip()).filter(|_| forward.to.is_ipv4());
            owner.and_then(|peer| peer.lan_address)
        };
        let own: Vec<_> = self.forwards.iter().map(own).collect();
        for (forward, own) in self.forwards.iter_mut().zip(own) {
            forward.lan_address = forward.lan_address.or(own);
        }
    }

    /// Returns the folder to which relative paths are relative.
    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// The tunnel's side of the endpoint.
#[derive(Debug, Clone)]
pub struct Interface {
    /// The TUN device's name.
    pub name: String,
    /// The endpoint's private key.
    pub private_key: PrivateKey,
    /// The file of the key.
    pub private_key_file: PathBuf,
    /// The UDP port on which clients connect.
    pub listen_port: u16,
    /// The endpoint's addresses in the tunnel, with their prefix lengths.
    pub address: Vec<IpNet>,
    /// Maximum size of an inner packet in bytes.
    pub mtu: u16,
    /// The endpoint in the configurations of clients; `None` is the host's LAN address.
    pub endpoint: Option<Endpoint>,
    /// Whether clients reach one another's inner addresses. These packets are routed, not translated,
    /// and a client's `reach`, if it has one, must allow the other client.
    pub client_to_client: bool,
    /// Services of this machine at its tunnel addresses that every client without its own `reach` may
    /// use.
    pub services: Vec<reach::Rule>,
    /// The reaction to a client's packet that its rules deny.
    pub on_deny: OnDeny,
    /// The number of threads of the data plane; `None` is one for each core, but no more than leave a
    /// client its maximum number of ports.
    pub shards: Option<u8>,
}

/// The address that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => write!(f, "[{address}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The LAN's side of the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lan {
    /// The LAN interface; `None` is that of the default route.
    pub interface: Option<String>,
    /// The IPv4 address that clients share on the LAN, or the first one of a pool.
    pub address: LanAddress,
    /// The further IPv4 addresses of the pool, each shared by a part of the clients.
    pub pool: Vec<Ipv4Addr>,
    /// The IPv6 address that clients share on the LAN; without one, IPv6 is not translated.
    pub address6: Option<LanAddress<Ipv6Addr>>,
    /// The networks that clients may reach; empty means those of the LAN interface.
    pub networks: Vec<IpNet>,
    /// The networks that clients know by other addresses.
    pub netmap: NetMap,
}

impl Lan {
    /// Returns the prefixes by which clients know networks of the LAN.
    pub fn known_to_clients(&self, networks: &[IpNet]) -> Vec<IpNet> {
        let known = networks.iter();
        let known = known.flat_map(|net| self.netmap.client_networks(*net));
        known.collect()
    }
}

/// The address that clients share on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanAddress<A = Ipv4Addr> {
    /// The host's address, by masquerading.
    Auto,
    /// An address that no other host has.
    Fixed(A),
}

impl<A: Copy> LanAddress<A> {
    /// Returns the fixed address, if it is one.
    pub(crate) fn fixed(&self) -> Option<A> {
        match self {
            Self::Auto => None,
            Self::Fixed(address) => Some(*address),
        }
    }
}

/// The kernel's offloads to use, if it supports them. All by default; fewer are slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// The offload of the TUN device.
    pub tun: tun::Offload,
    /// Send many datagrams with one call (UDP_SEGMENT).
    pub gso: bool,
    /// Receive many datagrams with one call (UDP_GRO).
    pub gro: bool,
}

/// The translation's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// The hosts that may answer through a mapping.
    pub filtering: Filtering,
    /// The reaction to packets from the LAN to a port without a mapping.
    pub on_unsolicited: OnUnsolicited,
    /// Whether packets from the LAN keep a UDP mapping alive, too (RFC 4787 REQ-6).
    pub udp_inbound_refresh: bool,
    /// `[nat.timeouts]`: the lifetimes of idle mappings.
    pub timeouts: Timeouts,
    /// `[nat.limits]`: the limits of each peer.
    pub limits: Limits,
    /// Destinations to which clients use their own addresses, in both directions (RFC 6888 REQ-6).
    pub no_nat: Vec<IpNet>,
    /// The port log (`log_file`, `log_megabytes`, `log_files`), if there is one.
    pub log: Option<LogFile>,
}

/// A file of lines that is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The file.
    pub file: PathBuf,
    /// Maximum size in bytes, at which it is rotated.
    pub size: u64,
    /// Maximum number of rotated files.
    pub keep: u16,
}

/// The lifetimes of idle mappings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP (RFC 4787 REQ-5: at least 2 min, 5 min recommended).
    pub udp: Duration,
    /// TCP connections that both sides opened (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_established: Duration,
    /// TCP connections that are opening or closing (RFC 5382 REQ-5: at least 4 min).
    pub tcp_transitory: Duration,
    /// ICMP queries (RFC 5508 REQ-2: at least 60 s).
    pub icmp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(5 * 60),
            tcp_established: Duration::from_secs(2 * 3600 + 4 * 60),
            tcp_transitory: Duration::from_secs(4 * 60),
            icmp: Duration::from_secs(60),
        }
    }
}

/// The limits of each peer (RFC 6888 REQ-4, REQ-5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of LAN ports of TCP, of UDP, and of ICMP identifiers, each.
    pub ports: u16,
    /// Maximum number of sessions.
    pub sessions: u32,
    /// Maximum rate of new flows per second, and the size of a burst.
    pub new_flows_per_second: u32,
    /// Maximum number of fragmented datagrams in reassembly.
    pub fragments: u16,
}

/// The NAT's defaults.
impl Default for Limits {
    fn default() -> Self {
        let nat = nat::Limits::default();
        Self {
            ports: nat.ports,
            sessions: nat.sessions,
            new_flows_per_second: nat.new_sessions,
            fragments: nat.fragments,
        }
    }
}

/// A client, or a router of a site.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its public key.
    pub public_key: PublicKey,
    /// The preshared key.
    pub preshared_key: Option<PresharedKey>,
    /// The file of the preshared key.
    pub preshared_key_file: Option<PathBuf>,
    /// Its inner addresses.
    pub allowed_ips: Vec<IpNet>,
    /// The interval of keepalives to it, in seconds.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// Destinations that it may reach: `None` is all LAN networks, an empty list is nothing.
    /// With groups, those of the groups too.
    pub reach: Option<Vec<reach::Rule>>,
    /// The limits of its traffic.
    pub rates: Rates,
    /// An IPv4 address on the LAN that no other peer uses.
    pub lan_address: Option<Ipv4Addr>,
    /// Whether it may connect, and what is noted about it.
    pub lifecycle: Lifecycle,
    /// Whether its configuration names the endpoint's DNS server.
    pub dns: bool,
    /// Values of its configuration that differ from those of `[client]`.
    pub client: ClientProfile,
}

/// Converts an address to a prefix of full length.
fn host_prefix(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
