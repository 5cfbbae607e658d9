//! The configuration: the TOML model, its validation, and what clients are given.
//!
//! [`load()`] turns a file into a [`Config`] in which nothing is left to check, or into
//! [`Problems`] with file, line and remedy, all of them at once. The commands that change a
//! configuration are here too: [`add_peer`], [`remove_peer`], [`first_run()`], [`import()`].
//!
//! Never touches the network: what is known only there is passed in as [`HostNetwork`].

mod address;
mod check;
mod client;
mod client_files;
mod difference;
mod document;
mod edit;
mod exclusion;
mod files;
mod first_run;
mod forward;
mod hook;
mod import;
mod lan_fit;
mod load;
mod problem;
pub mod reach;
mod syntax;
mod value;
mod wg_quick;

#[cfg(test)]
mod tests;

pub use address::HostNetwork;
pub use client::{Client, MissingInfo, client};
pub use difference::{Change, difference};
pub use edit::{
    Added, AddedForward, NewPeer, Removed, add_forward, add_peer, remove_forwards, remove_peer,
};
pub use first_run::{FILE_NAME, FirstRun, Settings, first_run};
pub use forward::{Forward, Port, Transport, target};
pub use import::{Imported, import};
pub use lan_fit::HostLan;
pub use load::{DEFAULT_NAME, DEFAULT_PORT, Loaded, load, parse};
pub use problem::{Diagnostic, Problem, Problems};
pub use value::{endpoint_argument, prefix, span, tunnel_argument};
pub use vcgate_core::engine::OnDeny;
pub use vcgate_core::nat::{Filtering, OnUnsolicited};

use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcgate_core::nat;

/// A whole configuration, valid as far as can be seen without the network.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// `[interface]`: the tunnel's side.
    pub interface: Interface,
    /// `[lan]`: the LAN's side.
    pub lan: Lan,
    /// `[smb]`: the VcNumber hook.
    pub smb: Smb,
    /// `[nat]`: the translation between them.
    pub nat: Nat,
    /// `[offload]`: which of the kernel's offloads are used.
    pub offload: Offload,
    /// `[[peer]]`: the clients, in the order of the file.
    pub peers: Vec<Peer>,
    /// `[[forward]]`: ports of the LAN address that lead to clients.
    pub forwards: Vec<Forward>,
}

impl Config {
    /// The peer of this name.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    /// The peer whose inner address this is: the one with the longest prefix around it.
    pub fn owner(&self, address: IpAddr) -> Option<&Peer> {
        let nets = self.peers.iter().flat_map(|peer| {
            let around = peer.allowed_ips.iter().filter(|net| net.contains(&address));
            around.map(move |net| (net.prefix_len(), peer))
        });
        let longest = nets.max_by_key(|(length, _)| *length);
        longest.map(|(_, peer)| peer)
    }

    /// The folder that relative paths are relative to.
    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// The tunnel's side of the endpoint.
#[derive(Debug, Clone)]
pub struct Interface {
    /// The TUN device's name.
    pub name: String,
    /// The endpoint's own key.
    pub private_key: PrivateKey,
    /// The file that holds it.
    pub private_key_file: PathBuf,
    /// The UDP port clients write to.
    pub listen_port: u16,
    /// The endpoint's addresses in the tunnel, each with the network it lies in.
    pub address: Vec<IpNet>,
    /// The largest inner packet, in bytes.
    pub mtu: u16,
    /// What client configurations name as their endpoint, if it is not the LAN address.
    pub endpoint: Option<Endpoint>,
    /// Whether clients reach one another's inner addresses. They are routed, not translated, and
    /// a client's `reach`, if it has one, must name the other as well.
    pub client_to_client: bool,
    /// The reaction to a client's packet that its rules deny.
    pub on_deny: OnDeny,
    /// The threads of the data plane; `None` is one for each core, as far as each leaves a client
    /// the ports that it may have.
    pub shards: Option<u8>,
}

/// Where clients find the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// The UDP port there.
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
    /// The LAN interface; without one, that of the default route.
    pub interface: Option<String>,
    /// The address that clients appear as.
    pub address: LanAddress,
    /// The IPv6 address that clients appear as; without one, IPv6 is not translated.
    pub address6: Option<LanAddress<Ipv6Addr>>,
    /// What clients may reach; empty means the LAN interface's own network.
    pub networks: Vec<IpNet>,
}

/// The address that clients appear as on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanAddress<A = Ipv4Addr> {
    /// That of the host, by masquerading.
    Auto,
    /// An address of their own, which nobody else has.
    Fixed(A),
}

impl<A: Copy> LanAddress<A> {
    /// That which is their own.
    pub(crate) fn fixed(&self) -> Option<A> {
        match self {
            Self::Auto => None,
            Self::Fixed(address) => Some(*address),
        }
    }
}

/// Which of the kernel's offloads are used, where it has them. All by default; less is slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// What the TUN device does.
    pub tun: TunOffload,
    /// Send many datagrams with one call (UDP_SEGMENT).
    pub gso: bool,
    /// Receive many datagrams with one call (UDP_GRO).
    pub gro: bool,
}

/// What the TUN device does; each level includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunOffload {
    /// Single packets with complete checksums.
    None,
    /// TCP super-packets.
    Tcp,
    /// UDP super-packets too.
    TcpAndUdp,
}

/// The VcNumber hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smb {
    /// What it does.
    pub hook: Hook,
    /// The servers' TCP ports it looks at.
    pub ports: Vec<u16>,
    /// What becomes of a client's old connections when it begins anew.
    pub stale: Stale,
    /// Fate of a connection that is not understood before its first accepted logon.
    pub unreadable: Unreadable,
}

/// What the VcNumber hook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Gives each flow a VcNumber of its own.
    Assign,
    /// Counts and reports, changes nothing.
    Observe,
    /// Nothing.
    Off,
}

/// What becomes of a client's old connections to a server when it begins anew there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Those that do not answer are reset.
    Probe,
    /// All are reset at once.
    Reset,
    /// Nothing.
    Keep,
}

/// Fate of a connection that is not understood before its first accepted logon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It passes unread.
    Pass,
    /// It is reset.
    Reset,
}

/// The translation's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// Who may answer through a mapping.
    pub filtering: Filtering,
    /// The reaction to packets from the LAN to a port without a mapping.
    pub on_unsolicited: OnUnsolicited,
    /// Whether what the LAN sends keeps a UDP mapping alive, too (RFC 4787 REQ-6).
    pub udp_inbound_refresh: bool,
    /// `[nat.timeouts]`: how long an idle mapping lives.
    pub timeouts: Timeouts,
    /// `[nat.limits]`: how much of it one peer may have.
    pub limits: Limits,
    /// Destinations that see a client's own address, and may write to it (RFC 6888 REQ-6).
    pub no_nat: Vec<IpNet>,
    /// `log_file`, `log_megabytes`, `log_files`: who had which ports; `None` is no log.
    pub log: Option<PortLog>,
}

/// Where it is written down who had which ports of the LAN address, and when (RFC 6888 REQ-12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortLog {
    /// The file.
    pub file: PathBuf,
    /// It is put aside when it is as large as this, in bytes.
    pub size: u64,
    /// So many files that were put aside are kept.
    pub keep: u16,
}

/// How long an idle mapping lives.
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

/// How much one peer may have (RFC 6888 REQ-4, REQ-5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// LAN ports at a time of TCP, of UDP, and ICMP ids: so many of each.
    pub ports: u16,
    /// Sessions at a time.
    pub sessions: u32,
    /// New flows a second, and as many again in one burst.
    pub new_flows_per_second: u32,
    /// Datagrams under way in fragments.
    pub fragments: u16,
}

impl Limits {
    /// The ports as the NAT gives them out.
    pub(crate) fn blocks(&self) -> u16 {
        self.ports.div_ceil(nat::BLOCK_SIZE)
    }
}

/// The NAT's own.
impl Default for Limits {
    fn default() -> Self {
        let nat = nat::Limits::default();
        Self {
            ports: nat.blocks * nat::BLOCK_SIZE,
            sessions: nat.sessions,
            new_flows_per_second: nat.new_sessions,
            fragments: nat.fragments,
        }
    }
}

/// A client, or a site behind one.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What the operator calls it.
    pub name: String,
    /// Who it is.
    pub public_key: PublicKey,
    /// The secret shared with it beside the keys.
    pub preshared_key: Option<PresharedKey>,
    /// The file that holds it.
    pub preshared_key_file: Option<PathBuf>,
    /// The inner addresses it may use.
    pub allowed_ips: Vec<IpNet>,
    /// How often the endpoint sends something to it, in seconds.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// What it may reach; `None` is all of the LAN networks, an empty list is nothing.
    pub reach: Option<Vec<reach::Rule>>,
}

/// One address as a prefix of its full length.
fn host_prefix(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
