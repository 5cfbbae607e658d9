//! The flows of an engine as plain data, so that connections survive a restart: the state of the NAT
//! and of the SMB hook.
//!
//! WireGuard sessions are never in it: a client makes a new one when the old one gets no answer. The
//! clients' endpoints are, so that vcgate can initiate it too.

use super::Engine;
use crate::ids::{FlowId, PeerId};
use crate::nat::{self, Protocol, RestoreError};
use crate::smb::{Ends, SmbFlowSnapshot};
use crate::tunnel::Tunnel;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// The flows of an engine and the owners of their addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    nat: nat::Snapshot,
    /// The peers that own the clients' addresses.
    owners: HashMap<IpAddr, Key>,
    /// The shard's peers and their endpoints.
    #[serde(rename = "places")]
    endpoints: Vec<(Key, Option<SocketAddr>)>,
    smb: Vec<SmbFlowSnapshot>,
}

/// A peer's public key.
pub type Key = [u8; 32];

impl Snapshot {
    /// Iterates over the peers of its shard.
    pub fn peers(&self) -> impl Iterator<Item = &Key> {
        self.endpoints.iter().map(|(key, _)| key)
    }
}

impl Engine {
    /// Takes a snapshot of the flows.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let (nat, hook) = (&self.plane.nat, &self.plane.hook);
        let owner = owners(&self.plane.tunnel);
        let clients = nat.flows(now).map(|flow| flow.inside.ip());
        let endpoints = self.plane.tunnel.own_peers();
        Snapshot {
            nat: nat.snapshot(now),
            owners: clients
                .filter_map(|client| Some((client, owner(client)?)))
                .collect(),
            endpoints: endpoints
                .map(|peer| {
                    let remote = peer.path.map(|path| path.remote);
                    (*peer.public_key.as_bytes(), remote)
                })
                .collect(),
            smb: nat
                .flows(now)
                .filter_map(|flow| hook.keep(flow.id))
                .collect(),
        }
    }

    /// Restores the flows of a snapshot that was taken `age` ago. The engine must have all its peers
    /// and forwards, and no flows yet. Flows of addresses that no longer belong to the same peer of
    /// this shard are left out.
    ///
    /// # Errors
    ///
    /// If the snapshot does not fit the NAT's settings. The engine must not be used then.
    pub fn restore(
        &mut self,
        snapshot: Snapshot,
        age: Duration,
        now: Instant,
    ) -> Result<(), RestoreError> {
        let plane = &mut self.plane;
        let (before, owner) = (&snapshot.owners, owners(&plane.tunnel));
        let ours = move |client| owner(client).is_some_and(|key| before.get(&client) == Some(&key));
        plane
            .nat
            .restore(snapshot.nat, &plane.tunnel, ours, age, now)?;
        for (key, remote) in snapshot.endpoints {
            if let Some(remote) = remote
                && let Some(peer) = plane.tunnel.find(&key.into())
                && plane.tunnel.path(peer).is_none()
            {
                plane.tunnel.set_endpoint(peer, remote, now);
            }
        }
        let flows = plane.nat.flows(now);
        let flows: HashMap<(SocketAddr, SocketAddr), FlowId> = flows
            .filter(|flow| flow.protocol == Protocol::Tcp)
            .map(|flow| ((flow.inside, flow.remote), flow.id))
            .collect();
        for kept in &snapshot.smb {
            let ends = kept.ends();
            if let Some(flow) = flows.get(&(ends.client, ends.server)) {
                let peer = plane.tunnel.route(ends.client.ip());
                plane.hook.restore(*flow, kept, peer);
            }
        }
        for ((client, server), flow) in flows {
            if let Some(lan) = plane.nat.lan(client.ip()) {
                let ends = Ends {
                    client,
                    lan,
                    server,
                };
                let peer = plane.tunnel.route(client.ip());
                plane.hook.restore_unread(flow, ends, peer);
            }
        }
        Ok(())
    }
}

/// Returns a lookup of the peer of this shard that owns an address.
fn owners(tunnel: &Tunnel) -> impl Fn(IpAddr) -> Option<Key> {
    let own = tunnel.own_peers();
    let keys: HashMap<PeerId, Key> = own.map(|p| (p.id, *p.public_key.as_bytes())).collect();
    move |client| keys.get(&tunnel.route(client)?).copied()
}
