//! The settings and the status of a peer, and the errors in adding one.

use super::failures::Failure;
use crate::ids::PeerId;
use crate::keys::PresharedKey;
use boringtun::x25519::PublicKey;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// The addresses of the datagrams from and to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The local address that the peer sent to, and that replies are sent from. `None` leaves the
    /// choice to the kernel.
    pub local: Option<IpAddr>,
}

/// The configuration of a peer.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// The name in logs and reports.
    pub name: String,
    /// The public key, which identifies the peer.
    pub public_key: PublicKey,
    /// The secret that both sides mix into handshakes.
    pub preshared_key: Option<PresharedKey>,
    /// The peer's inner addresses.
    pub allowed_ips: Vec<IpNet>,
    /// The address to send to until the peer has sent from another one.
    pub endpoint: Option<SocketAddr>,
    /// Seconds of silence after which an empty packet is sent; `None` for never.
    pub persistent_keepalive: Option<u16>,
}

/// Why a peer cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Another peer has this public key.
    #[error("peer {0:?} has the same public key")]
    DuplicateKey(String),
    /// The public key is the endpoint's own.
    #[error("the public key is this gateway's own")]
    OwnKey,
    /// A prefix belongs to another peer.
    #[error("allowed IP {net} belongs to peer {owner:?} already")]
    AllowedIpTaken {
        /// The prefix in question.
        net: IpNet,
        /// The name of the peer that has it.
        owner: String,
    },
    /// The maximum number of peers is reached.
    #[error("too many peers")]
    TooMany,
}

/// History of a peer from earlier runs of the endpoint; the fields are those of
/// [`PeerStatus`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerHistory {
    /// Bytes of authentic WireGuard messages received.
    pub rx: u64,
    /// Bytes of WireGuard messages sent.
    pub tx: u64,
    /// The time of the last completed handshake.
    pub last_handshake: Option<Instant>,
    /// The time of the last authentic message received.
    pub last_seen: Option<Instant>,
}

/// The state of a peer; the fields are those of `wg show`.
#[derive(Debug)]
pub struct PeerStatus<'a> {
    /// The index in the peer table.
    pub id: PeerId,
    /// The configured name.
    pub name: &'a str,
    /// The public key.
    pub public_key: PublicKey,
    /// The preshared key, if there is one.
    pub preshared_key: Option<&'a PresharedKey>,
    /// The peer's inner addresses.
    pub allowed_ips: &'a [IpNet],
    /// The addresses of the last authentic datagram, or the configured endpoint.
    pub path: Option<&'a Path>,
    /// Seconds between persistent keepalives.
    pub persistent_keepalive: Option<u16>,
    /// The time of the last completed handshake.
    pub last_handshake: Option<Instant>,
    /// The time of the last authentic message received, to within a second.
    pub last_seen: Option<Instant>,
    /// Bytes of authentic WireGuard messages received.
    pub rx: u64,
    /// Bytes of WireGuard messages sent.
    pub tx: u64,
    /// Whether there is a session.
    pub connected: bool,
    /// Packets that wait for a session.
    pub queued: usize,
    /// The last reason why the client could not connect, or does not work.
    pub last_failure: Option<Failure>,
}
