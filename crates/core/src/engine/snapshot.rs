//! The flows of an engine as plain data, so that a restart cuts nobody off: the NAT's state and the
//! SMB hook's.
//!
//! Sessions of the tunnel are not kept: a client makes a new one when the old one gets no answer,
//! and where it was is kept, so that the endpoint can begin it too.

use super::Engine;
use crate::ids::{FlowId, PeerId};
use crate::nat::{self, Protocol, RestoreError};
use crate::smb::SmbFlowSnapshot;
use crate::tunnel::Tunnel;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// All that an engine must know so that its flows go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    nat: nat::Snapshot,
    /// Whose the clients' addresses are.
    owners: HashMap<IpAddr, Key>,
    /// The shard's peers, and where they are.
    places: Vec<(Key, Option<SocketAddr>)>,
    smb: Vec<SmbFlowSnapshot>,
}

/// A peer's public key.
pub type Key = [u8; 32];

impl Snapshot {
    /// The peers of its shard.
    pub fn peers(&self) -> impl Iterator<Item = &Key> {
        self.places.iter().map(|(key, _)| key)
    }
}

impl Engine {
    /// The flows as they are now.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let (nat, hook) = (&self.plane.nat, &self.plane.hook);
        let owner = owners(&self.plane.tunnel);
        let clients = nat.flows(now).map(|flow| flow.inside.ip());
        let places = self.plane.tunnel.own_peers();
        Snapshot {
            nat: nat.snapshot(now),
            owners: clients
                .filter_map(|client| Some((client, owner(client)?)))
                .collect(),
            places: places
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

    /// Goes on with the flows of another engine, as they were `age` ago. This one must have no flows
    /// yet, and all its peers and forwards: flows of addresses that have no peer of this shard (any
    /// more), or another one, are left out. After an error it is not to be used.
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
        for (key, remote) in snapshot.places {
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
        Ok(())
    }
}

/// Says whose an address is, if it is that of a peer of this shard.
fn owners(tunnel: &Tunnel) -> impl Fn(IpAddr) -> Option<Key> {
    let own = tunnel.own_peers();
    let keys: HashMap<PeerId, Key> = own.map(|p| (p.id, *p.public_key.as_bytes())).collect();
    move |client| keys.get(&tunnel.route(client)?).copied()
}
