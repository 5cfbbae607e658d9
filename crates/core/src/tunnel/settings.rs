//! What a peer is told and asked: its settings, its status, and what may be wrong with them.

use super::failures::Failure;
use crate::ids::PeerId;
use crate::keys::PresharedKey;
use boringtun::x25519::PublicKey;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// Where a peer's datagrams come from, and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The address of ours that the peer wrote to: answers leave from it. `None` leaves the
    /// choice to the kernel.
    pub local: Option<IpAddr>,
}

/// A peer as it is configured.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// What people call it; for logs.
    pub name: String,
    /// Who it is.
    pub public_key: PublicKey,
    /// A secret of both sides' own, mixed into handshakes.
    pub preshared_key: Option<PresharedKey>,
    /// The inner addresses that are its.
    pub allowed_ips: Vec<IpNet>,
    /// Where to reach it before it was heard of.
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
    /// The public key is this gateway's own.
    #[error("the public key is this gateway's own")]
    OwnKey,
    /// A prefix can belong to one peer only.
    #[error("allowed IP {net} belongs to peer {owner:?} already")]
    AllowedIpTaken {
        /// The prefix in question.
        net: IpNet,
        /// The name of the peer that has it.
        owner: String,
    },
    /// There are as many as there can be.
    #[error("too many peers")]
    TooMany,
}

/// A peer as it is now; the fields are those of `wg show`.
#[derive(Debug)]
pub struct PeerStatus<'a> {
    /// Its place in the peer table.
    pub id: PeerId,
    /// What people call it.
    pub name: &'a str,
    /// Who it is.
    pub public_key: PublicKey,
    /// The preshared key, if there is one.
    pub preshared_key: Option<&'a PresharedKey>,
    /// The inner addresses that are its.
    pub allowed_ips: &'a [IpNet],
    /// Where it was last heard of, or is configured to be.
    pub path: Option<&'a Path>,
    /// Seconds between persistent keepalives.
    pub persistent_keepalive: Option<u16>,
    /// When the last handshake was completed.
    pub last_handshake: Option<Instant>,
    /// Bytes of WireGuard messages that came from it and were authentic.
    pub rx: u64,
    /// Bytes of WireGuard messages that were sent to it.
    pub tx: u64,
    /// A session is there, packets flow.
    pub connected: bool,
    /// How many packets wait for a session.
    pub queued: usize,
    /// The last reason why the client could not connect, or does not work.
    pub last_failure: Option<Failure>,
}
