//! What the control plane asks of the running endpoint, and the types that cross that line.
//!
//! It holds no state: the endpoint itself answers, here over its shards, in tests from memory.

use super::key::SecretKey;
use super::report::{Flow, SmbReport, Status};
use super::timeline::Timeline;
use super::uapi::device::{DeviceChange, DeviceState, UapiError};
use crate::config::Forward;
use crate::keys::PublicKey;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

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

    /// The device as `wg` shows it.
    async fn uapi_get(&self) -> DeviceState;

    /// Changes the device as `wg` asked: the device's own values first, then
    /// `replace_peers`, then peer by peer. A section whose key is the device's own is skipped,
    /// as in every WireGuard. What was refused is left as it was.
    async fn uapi_set(&self, change: DeviceChange) -> Result<(), UapiError>;

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
    pub preshared_key: Option<SecretKey>,
    /// The inner addresses that are the peer's.
    #[serde(default)]
    pub allowed_ips: Vec<IpNet>,
    /// Where to send before the peer has spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Keepalive interval in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
    /// What it may reach, as the configuration writes it; nothing listed means all of the LAN.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<String>,
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
