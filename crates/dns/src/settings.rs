//! The settings of the server, which can be replaced while it runs.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use vcgate_core::netmap::NetMap;

/// The settings of a [`Server`](crate::Server).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The servers that are asked. Without any, only names that are known here have an answer.
    pub servers: Vec<SocketAddr>,
    /// The search domains of clients.
    pub search: Vec<String>,
    /// Addresses of names. A name of one label is also known under each search domain.
    pub records: Vec<(String, Vec<IpAddr>)>,
    /// The clients, which have names `NAME.peers.SEARCH`.
    pub peers: Vec<Peer>,
    /// The networks of the tunnel: the reverse zone is never forwarded.
    pub tunnel: Vec<IpNet>,
    /// Whether a client may look up names and addresses of other clients.
    pub reveal_peers: bool,
    /// The prefixes of the LAN that clients know by others. Addresses of the LAN are mapped in answers,
    /// and those of clients in reverse names.
    pub netmap: NetMap,
    /// The lookup of NetBIOS names; `None` switches it off.
    pub netbios: Option<Netbios>,
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, of any characters.
    pub name: String,
    /// Its prefixes. Those of full length are its addresses.
    pub prefixes: Vec<IpNet>,
}

/// The lookup of NetBIOS names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netbios {
    /// The interface on which broadcasts leave.
    pub interface: String,
    /// The networks of that interface. Only hosts of these networks may answer a broadcast, with
    /// addresses of these networks.
    pub networks: Vec<IpNet>,
    /// The WINS servers to ask instead of the LAN.
    pub wins: Vec<Ipv4Addr>,
}
