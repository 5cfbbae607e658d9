//! Adds, changes and removes peers in the file, in their own files, and in the running endpoint.

use super::live::{self, ApplyResult};
use super::{OperationError, host_network};
use crate::config::{
    self, Added, Assignment, Changed, ClientProfile, NewPeer, Peer, PeerState, Problems, Refreshed,
    Removed,
};
use crate::control::client::{Client, ClientError};
use crate::keys::PublicKey;
use crate::time::Timestamp;
use ipnet::IpNet;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use utoipa::ToSchema;

/// Adds a peer. One that the endpoint refuses does not stay in the file.
///
/// # Errors
/// If the peer is invalid, a file cannot be written, or the endpoint refuses it.
pub fn add(
    path: &Path,
    new: &NewPeer,
    endpoint: Option<&Client>,
) -> Result<(Added, ApplyResult), OperationError> {
    let host = host_network::of(&config::load(path)?.config);
    let added = config::add_peer(path, new, &host)?;
    let live = live::change(endpoint, |endpoint| endpoint.peer_add((&added.peer).into()));
    if let ApplyResult::Refused(error) = live {
        config::remove_peer(path, &added.peer.name)?;
        return Err(error.into());
    }
    Ok((added, live))
}

/// Sets keys of a peer's section. What the endpoint refuses does not stay in the file.
///
/// # Errors
/// If there is no such peer, a value is invalid, or the endpoint refuses it.
pub fn set(
    path: &Path,
    name: &str,
    assignments: &[Assignment],
    endpoint: Option<&Client>,
) -> Result<(Changed, ApplyResult), OperationError> {
    let host = host_network::of(&config::load(path)?.config);
    let changed = config::set_peer(path, name, assignments, &host)?;
    let live = apply(endpoint, &changed);
    if let ApplyResult::Refused(error) = live {
        changed.undo(path)?;
        return Err(error.into());
    }
    Ok((changed, live))
}

/// Gives a peer and its files another name.
///
/// # Errors
/// If there is no such peer, or the name is taken.
pub fn rename(
    path: &Path,
    name: &str,
    to: &str,
    endpoint: Option<&Client>,
) -> Result<(Changed, ApplyResult), OperationError> {
    let host = host_network::of(&config::load(path)?.config);
    let changed = config::rename_peer(path, name, to, &host)?;
    let live = apply(endpoint, &changed);
    Ok((changed, live))
}

/// Gives a peer new keys; with `public_key`, the client has made its own.
///
/// # Errors
/// If there is no such peer, or a file cannot be written.
pub fn rekey(
    path: &Path,
    name: &str,
    public_key: Option<PublicKey>,
    endpoint: Option<&Client>,
) -> Result<(Changed, ApplyResult), OperationError> {
    let host = host_network::of(&config::load(path)?.config);
    let changed = config::rekey_peer(path, name, public_key, &host)?;
    let live = apply(endpoint, &changed);
    Ok((changed, live))
}

/// Removes a peer, and the files that were made for it.
///
/// # Errors
/// If there is no such peer, a forward leads to it, or the file cannot be written.
pub fn remove(
    path: &Path,
    name: &str,
    endpoint: Option<&Client>,
) -> Result<(Removed, ApplyResult), OperationError> {
    let removed = config::remove_peer(path, name)?;
    let key = removed.peer.public_key;
    let live = live::change(endpoint, |endpoint| remove_key(endpoint, key));
    Ok((removed, live))
}

/// Replaces the files of clients that differ with the present configuration, unless they were edited.
///
/// # Errors
/// If the configuration is invalid, or a file cannot be written.
pub fn refresh_clients(path: &Path) -> Result<Refreshed, Problems> {
    let config = config::load(path)?.config;
    config::refresh_clients(&config, &host_network::of(&config))
}

/// Removes a peer from the endpoint, unless it is missing there. A peer that `wg` has added has
/// another name there.
fn remove_key(endpoint: &Client, key: PublicKey) -> Result<(), ClientError> {
    let status = endpoint.status()?;
    let inactive = status.inactive.iter().map(|peer| peer.public_key);
    let mut keys = { status.peers.iter().map(|peer| peer.public_key) }.chain(inactive);
    match keys.any(|present| present == key) {
        true => endpoint.peer_remove(&key.to_string()),
        false => Ok(()),
    }
}

fn apply(endpoint: Option<&Client>, changed: &Changed) -> ApplyResult {
    live::change(endpoint, |endpoint| {
        endpoint.peer_set(changed.before.public_key, (&changed.peer).into())
    })
}

/// A peer that was added, as JSON.
#[derive(Debug, Serialize, ToSchema)]
pub struct AddedPeer {
    /// Its name.
    pub peer: String,
    /// Its public key.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// Its inner addresses.
    #[schema(value_type = Vec<String>)]
    pub allowed_ips: Vec<IpNet>,
    /// The file to hand to the client.
    #[schema(value_type = String)]
    pub client_file: PathBuf,
    /// The files that were made.
    #[schema(value_type = Vec<String>)]
    pub created: Vec<PathBuf>,
    /// The interface of the running endpoint that has applied it, if one runs.
    pub interface: Option<String>,
}

impl AddedPeer {
    /// Describes the result of [`add`].
    pub fn of(added: &Added, live: &ApplyResult) -> Self {
        Self {
            peer: added.peer.name.clone(),
            public_key: added.peer.public_key,
            allowed_ips: added.peer.allowed_ips.clone(),
            client_file: added.client.path.clone(),
            created: added.created.clone(),
            interface: live.interface().map(str::to_owned),
        }
    }
}

/// A peer that was changed, as JSON.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedPeer {
    /// Its name now.
    pub peer: String,
    /// Its public key now.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// The keys of the section that differ.
    pub changed: Vec<&'static str>,
    /// The file to hand to the client.
    #[schema(value_type = String)]
    pub client_file: PathBuf,
    /// Files that were made or replaced.
    #[schema(value_type = Vec<String>)]
    pub written: Vec<PathBuf>,
    /// Files that were deleted.
    #[schema(value_type = Vec<String>)]
    pub deleted: Vec<PathBuf>,
    /// The interface of the running endpoint that has applied it, if one runs.
    pub interface: Option<String>,
}

impl ChangedPeer {
    /// Describes the result of [`set`], [`rename`] or [`rekey`].
    pub fn of(changed: &Changed, live: &ApplyResult) -> Self {
        Self {
            peer: changed.peer.name.clone(),
            public_key: changed.peer.public_key,
            changed: changed.keys.clone(),
            client_file: changed.client.path.clone(),
            written: changed.written.clone(),
            deleted: changed.deleted.clone(),
            interface: live.interface().map(str::to_owned),
        }
    }
}

/// A peer that was removed, as JSON.
#[derive(Debug, Serialize, ToSchema)]
pub struct RemovedPeer {
    /// Its name.
    pub peer: String,
    /// Its public key.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// Files that were deleted.
    #[schema(value_type = Vec<String>)]
    pub deleted: Vec<PathBuf>,
    /// The interface of the running endpoint that has applied it, if one runs.
    pub interface: Option<String>,
}

impl RemovedPeer {
    /// Describes the result of [`remove`].
    pub fn of(removed: &Removed, live: &ApplyResult) -> Self {
        Self {
            peer: removed.peer.name.clone(),
            public_key: removed.peer.public_key,
            deleted: removed.deleted.clone(),
            interface: live.interface().map(str::to_owned),
        }
    }
}

/// A peer of the configuration, as JSON.
#[derive(Debug, Serialize, ToSchema)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its public key.
    #[schema(value_type = String)]
    pub public_key: PublicKey,
    /// Its inner addresses.
    #[schema(value_type = Vec<String>)]
    pub allowed_ips: Vec<IpNet>,
    /// Whether it has one; the key itself is secret.
    pub preshared_key: bool,
    /// The interval of keepalives to it.
    pub persistent_keepalive_seconds: Option<u16>,
    /// `None` if the client may reach all LAN networks; with the rules of its groups.
    pub reach: Option<Vec<String>>,
    /// Whether it may connect.
    pub state: PeerState,
    /// The time from which it can no longer connect.
    #[schema(value_type = Option<String>)]
    pub expires: Option<Timestamp>,
    /// A text about it.
    pub note: Option<String>,
    /// The names of its groups.
    pub groups: Vec<String>,
    /// The limit of its traffic to the LAN.
    pub rate_up_bits_per_second: Option<u64>,
    /// The limit of its traffic from the LAN.
    pub rate_down_bits_per_second: Option<u64>,
    /// Values of its file that differ from those of `[client]`.
    #[schema(value_type = Object)]
    pub client: ClientProfile,
}

impl Row {
    /// Returns the state, with the time until which it is valid.
    pub fn describe_state(&self) -> String {
        match (self.state, self.expires) {
            (PeerState::Enabled, Some(expires)) => format!("until {expires}"),
            (PeerState::Expired, Some(expires)) => format!("expired {expires}"),
            (state, _) => state.name().to_owned(),
        }
    }
}

/// Describes peers, in the order of the file.
pub fn rows(peers: Vec<Peer>) -> Vec<Row> {
    let now = SystemTime::now();
    let peers = peers.into_iter();
    peers.map(|peer| row(peer, now)).collect()
}

fn row(peer: Peer, now: SystemTime) -> Row {
    let reach = peer.reach.as_ref();
    Row {
        reach: reach.map(|rules| rules.iter().map(ToString::to_string).collect()),
        name: peer.name,
        public_key: peer.public_key,
        allowed_ips: peer.allowed_ips,
        preshared_key: peer.preshared_key.is_some(),
        persistent_keepalive_seconds: peer.persistent_keepalive.map(u16::from),
        state: peer.lifecycle.state(now),
        expires: peer.lifecycle.expires,
        note: peer.lifecycle.note,
        groups: peer.lifecycle.groups,
        rate_up_bits_per_second: peer.rates.up,
        rate_down_bits_per_second: peer.rates.down,
        client: peer.client,
    }
}
