//! What the control plane asks of the running endpoint, and the types that cross that line.
//!
//! It holds no state: the endpoint itself answers, here over its shards, in tests from memory.

use super::reload::Reload;
use super::report::{Flow, SmbReport, Status};
use super::timeline::Timeline;
use super::uapi::device::{DeviceChange, DeviceState, UapiError};
use crate::config::{self, Forward, reach};
use crate::keys::{PresharedKey, PublicKey};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use vcgate_capture as capture;
use vcgate_core::engine::Filter;

/// A running endpoint. All methods are called from one thread and may interleave at their awaits.
#[allow(async_fn_in_trait)] // the control plane is one thread: nobody needs these futures `Send`
pub trait Endpoint {
    /// The whole at a glance.
    async fn status(&self) -> Status;

    /// All translated flows.
    async fn flows(&self) -> Vec<Flow>;

    /// What the SMB hook did and sees.
    async fn smb(&self) -> SmbReport;

    /// What happened on the flows to file servers, from this number on.
    async fn timeline(&self, from: u64) -> Timeline;

    /// Starts to capture; there is one capture at a time.
    async fn capture_start(&self, filter: Filter) -> Result<(), Refusal>;

    /// What was captured since the last call.
    async fn capture_take(&self) -> Captured;

    /// Ends the capture; what was captured since the last call.
    async fn capture_stop(&self) -> Captured;

    /// The device as `wg` shows it.
    async fn uapi_get(&self) -> DeviceState;

    /// Changes the device as `wg` asked: the device's own values first, then
    /// `replace_peers`, then peer by peer. A section whose key is the device's own is skipped,
    /// as in every WireGuard. What was refused is left as it was.
    async fn uapi_set(&self, change: DeviceChange) -> Result<(), UapiError>;

    /// Reads the configuration file again and takes over what can change while it runs. A file
    /// that is not in order changes nothing.
    async fn reload(&self) -> Reload;

    /// Sets the level of the log, if one is given; returns the level in force.
    async fn log_level(&self, level: Option<String>) -> Result<String, Refusal>;

    /// Takes in a new peer, live.
    async fn peer_add(&self, peer: PeerChange) -> Result<(), Refusal>;

    /// Forwards a port of the LAN address, live.
    async fn forward_add(&self, forward: Forward) -> Result<(), Refusal>;

    /// Forwards a port no longer; its connections end.
    async fn forward_remove(&self, forward: Forward) -> Result<(), Refusal>;

    /// Lets a peer go, live. `peer` is its name or its public key in base64.
    async fn peer_remove(&self, peer: &str) -> Result<(), Refusal>;
}

/// A peer to add, with the fields and the meaning of `[[peer]]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerChange {
    /// The name that reports and logs use.
    pub name: String,
    /// Who it is.
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
    /// What it may reach: left out, all of the LAN; an empty list, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Vec<reach::Rule>>,
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
        }
    }
}

/// What was captured since the last time that somebody asked.
#[derive(Debug, Default)]
pub struct Captured {
    /// Oldest first.
    pub packets: Vec<capture::Packet>,
    /// What found no room.
    pub dropped: capture::Counts,
}

/// A request that the endpoint did not carry out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What the caller can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}
