//! The interface between the control plane and the running endpoint, and its types.
//!
//! It holds no state: the endpoint answers over its shards, a fake in tests from memory.

use super::reload::Reload;
use super::report::{Flow, LinkReport, SmbReport, Status};
use super::timeline::Timeline;
use super::uapi::device::{DeviceChange, DeviceState, UapiError};
use crate::config::{self, ClientProfile, Forward, Lifecycle, reach};
use crate::keys::{PresharedKey, PublicKey};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Duration;
use vcgate_capture as capture;
use vcgate_core::engine::{Filter, Rates};

/// A running endpoint. All methods are called from one thread and may interleave at their awaits.
#[allow(async_fn_in_trait)] // the control plane is one thread, so the futures need not be `Send`
pub trait Endpoint {
    /// Returns a summary of the endpoint.
    async fn status(&self) -> Status;

    /// Returns all translated flows.
    async fn flows(&self) -> Vec<Flow>;

    /// Returns the counters and flows of the SMB hook.
    async fn smb(&self) -> SmbReport;

    /// Returns the events on flows to file servers, from this number on.
    async fn timeline(&self, from: u64) -> Timeline;

    /// Starts a capture. There is one capture at a time.
    async fn capture_start(&self, filter: Filter) -> Result<(), Refusal>;

    /// Returns the packets that were captured since the last call.
    async fn capture_take(&self) -> Captured;

    /// Ends the capture, and returns the packets that were captured since the last call.
    async fn capture_stop(&self) -> Captured;

    /// Returns the device as `wg` shows it.
    async fn uapi_get(&self) -> DeviceState;

    /// Applies a `set` of the UAPI: the device's own values first, then `replace_peers`, then peer
    /// by peer. A section whose key is the device's own is skipped, as in other implementations
    /// of WireGuard. A change that is refused has no effect.
    async fn uapi_set(&self, change: DeviceChange) -> Result<(), UapiError>;

    /// Reads the configuration file again and applies the changes that are possible at runtime. A
    /// file with errors changes nothing.
    async fn reload(&self) -> Reload;

    /// Sets the level of the log, if one is given; returns the level in force.
    async fn log_level(&self, level: Option<String>) -> Result<String, Refusal>;

    /// Adds a peer at runtime.
    async fn peer_add(&self, peer: PeerChange) -> Result<(), Refusal>;

    /// Changes a peer at runtime; `before` is its public key until now.
    async fn peer_set(&self, before: PublicKey, peer: PeerChange) -> Result<(), Refusal>;

    /// Makes a link by which a peer's file can be fetched once.
    async fn peer_link(&self, peer: &str, valid: Duration) -> Result<LinkReport, Refusal>;

    /// Adds a forward at runtime.
    async fn forward_add(&self, forward: Forward) -> Result<(), Refusal>;

    /// Removes a forward at runtime, and ends its connections.
    async fn forward_remove(&self, forward: Forward) -> Result<(), Refusal>;

    /// Removes a peer at runtime. `peer` is its name or its public key in base64.
    async fn peer_remove(&self, peer: &str) -> Result<(), Refusal>;
}

/// A peer to add, with the fields and the meaning of `[[peer]]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerChange {
    /// The name that reports and logs use.
    pub name: String,
    /// The peer's identity.
    pub public_key: PublicKey,
    /// The symmetric key mixed into handshakes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<PresharedKey>,
    /// The inner addresses that are the peer's.
    #[serde(default)]
    pub allowed_ips: Vec<IpNet>,
    /// Keepalive interval in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<NonZeroU16>,
    /// Destinations that the peer may reach: `None` is all of the LAN, an empty list is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Vec<reach::Rule>>,
    /// The limits of its traffic.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rates: Rates,
    /// The IPv4 address on the LAN that only this peer uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lan_address: Option<Ipv4Addr>,
    /// Whether it may connect, and what is noted about it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lifecycle: Lifecycle,
    /// Whether its configuration names the endpoint's DNS server.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub dns: bool,
    /// Values of its configuration.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client: ClientProfile,
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<&config::Peer> for PeerChange {
    fn from(peer: &config::Peer) -> Self {
        let peer = peer.clone();
        Self {
            name: peer.name,
            public_key: peer.public_key,
            preshared_key: peer.preshared_key,
            allowed_ips: peer.allowed_ips,
            persistent_keepalive: peer.persistent_keepalive,
            reach: peer.reach,
            rates: peer.rates,
            lan_address: peer.lan_address,
            lifecycle: peer.lifecycle,
            dns: peer.dns,
            client: peer.client,
        }
    }
}

impl From<PeerChange> for config::Peer {
    fn from(peer: PeerChange) -> Self {
        Self {
            name: peer.name,
            public_key: peer.public_key,
            preshared_key: peer.preshared_key,
            preshared_key_file: None,
            allowed_ips: peer.allowed_ips,
            persistent_keepalive: peer.persistent_keepalive,
            reach: peer.reach,
            rates: peer.rates,
            lan_address: peer.lan_address,
            lifecycle: peer.lifecycle,
            dns: peer.dns,
            client: peer.client,
        }
    }
}

/// The packets that were captured since the last call.
#[derive(Debug, Default)]
pub struct Captured {
    /// The packets, oldest first.
    pub packets: Vec<capture::Packet>,
    /// Packets that were dropped since the buffer was full.
    pub dropped: capture::Counts,
}

/// A request that the endpoint did not carry out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The cause.
    pub message: String,
    /// The remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}
