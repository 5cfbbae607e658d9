//! The device as the UAPI sees it: its state, changes to it, and the errors of that protocol.
//!
//! Values only: the text is `text.rs`'s, what a change does is the endpoint's.

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
    /// Who it is.
    pub public_key: PublicKey,
    /// The symmetric key mixed into handshakes.
    pub preshared_key: Option<PresharedKey>,
    /// Where it was last heard, or was configured to be.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was completed.
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

/// A `set=1` request: what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceChange {
    /// The device's own key.
    pub private_key: Option<KeyChange<PrivateKey>>,
    /// The UDP port; 0 asks for any.
    pub listen_port: Option<u16>,
    /// The mark of outgoing datagrams; 0 is none.
    pub fwmark: Option<u32>,
    /// All present peers go before `peers` are applied.
    pub replace_peers: bool,
    /// Peer by peer, in the order of the request. One key may come more than once.
    pub peers: Vec<PeerSection>,
}

/// One peer's part of a `set=1` request: what is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSection {
    /// Whom it is about. A peer that is not there is made, unless `remove` or `update_only`.
    pub public_key: PublicKey,
    /// The peer goes; the rest of the section does not matter then.
    pub remove: bool,
    /// Nothing happens if the peer is not there.
    pub update_only: bool,
    /// The symmetric key mixed into handshakes.
    pub preshared_key: Option<KeyChange<PresharedKey>>,
    /// Where to send.
    pub endpoint: Option<SocketAddr>,
    /// Keepalive interval in seconds; 0 is off.
    pub persistent_keepalive: Option<u16>,
    /// The present addresses go before `allowed_ips` are applied.
    pub replace_allowed_ips: bool,
    /// Addresses that come or go, in this order. One that comes is taken from whoever had it.
    pub allowed_ips: Vec<AllowedIp>,
}

/// A key is set, or taken away (the UAPI writes that as a key of zeros).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange<K> {
    /// From now on this one.
    Set(K),
    /// From now on none.
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

/// A UAPI request that was not carried out. `wg` sees the number only; the log has the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UapiError {
    /// What `wg` is told.
    pub errno: Errno,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl UapiError {
    /// An error of this kind.
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
    /// A key that is unknown, or a value that is none of its key's.
    Invalid,
    /// Not the protocol at all.
    Protocol,
    /// The port is somebody else's.
    AddressInUse,
    /// Understood, but not possible on a running endpoint.
    NotSupported,
    /// The endpoint failed at it.
    Io,
}

impl Errno {
    /// The number as it goes over the wire: negative, as the reference implementation sends it.
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
