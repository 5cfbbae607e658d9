//! The device in the UAPI: its state, changes to it, and the errors of the protocol.
//!
//! These are types only: `text.rs` parses and writes them, the endpoint applies changes.

use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

/// The device in the UAPI's terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// The device's own key.
    pub private_key: Option<PrivateKey>,
    /// The UDP port.
    pub listen_port: u16,
    /// The mark of outgoing datagrams; 0 is none.
    pub fwmark: u32,
    /// All peers.
    pub peers: Vec<PeerState>,
}

/// One peer in the UAPI's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Its public key.
    pub public_key: PublicKey,
    /// The symmetric key mixed into handshakes.
    pub preshared_key: Option<PresharedKey>,
    /// The source of its last authenticated datagram, or the configured address.
    pub endpoint: Option<SocketAddr>,
    /// The time of the last completed handshake.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received from it, as UDP payload.
    pub rx_bytes: u64,
    /// Bytes sent to it, as UDP payload.
    pub tx_bytes: u64,
    /// Keepalive interval in seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// The inner addresses that are the peer's.
    pub allowed_ips: Vec<IpNet>,
}

/// A `set=1` request. `None` leaves a value unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceChange {
    /// The device's own key.
    pub private_key: Option<KeyChange<PrivateKey>>,
    /// The UDP port; 0 is any free port.
    pub listen_port: Option<u16>,
    /// The mark of outgoing datagrams; 0 is none.
    pub fwmark: Option<u32>,
    /// Remove all peers before `peers` are applied.
    pub replace_peers: bool,
    /// Peer by peer, in the order of the request. One key may come more than once.
    pub peers: Vec<PeerSection>,
}

/// One peer's part of a `set=1` request. `None` leaves a value unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSection {
    /// The peer. It is added if it does not exist, except with `remove` or `update_only`.
    pub public_key: PublicKey,
    /// Remove the peer, and ignore the rest of the section.
    pub remove: bool,
    /// Ignore the section if the peer does not exist.
    pub update_only: bool,
    /// The symmetric key mixed into handshakes.
    pub preshared_key: Option<KeyChange<PresharedKey>>,
    /// The peer's outer address and port.
    pub endpoint: Option<SocketAddr>,
    /// Keepalive interval in seconds; 0 is off.
    pub persistent_keepalive: Option<u16>,
    /// Remove all allowed IPs before `allowed_ips` are applied.
    pub replace_allowed_ips: bool,
    /// Prefixes to add or remove, in this order. A prefix that is added is removed from any other
    /// peer.
    pub allowed_ips: Vec<AllowedIp>,
}

/// A change of a key. The UAPI writes a key of zeros to clear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange<K> {
    /// Use this key.
    Set(K),
    /// Use no key.
    Clear,
}

/// One `allowed_ip` of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedIp {
    /// `allowed_ip=NET` or `allowed_ip=+NET`
    Add(IpNet),
    /// `allowed_ip=-NET`
    Remove(IpNet),
}

/// The error of a UAPI request. `wg` receives only the number; the log has the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UapiError {
    /// The number that `wg` receives.
    pub errno: Errno,
    /// The cause and the remedy.
    pub message: String,
}

impl UapiError {
    /// Makes an error of this kind.
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        Self {
            errno,
            message: message.into(),
        }
    }
}

impl fmt::Display for UapiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (errno {})", self.message, self.errno.code())
    }
}

impl std::error::Error for UapiError {}

/// The error numbers of the UAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// An unknown key, or a value that its key does not allow.
    Invalid,
    /// A violation of the protocol.
    Protocol,
    /// The port is in use by another socket.
    AddressInUse,
    /// A change that is impossible on a running endpoint.
    NotSupported,
    /// The endpoint failed to apply the change.
    Io,
}

impl Errno {
    /// Returns the number as it is sent: negative, as by the reference implementation.
    pub fn code(self) -> i32 {
        -match self {
            Self::Invalid => libc::EINVAL,
            Self::Protocol => libc::EPROTO,
            Self::AddressInUse => libc::EADDRINUSE,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::Io => libc::EIO,
        }
    }
}
