//! The engine's part in the flow journal: it collects the durable changes of tunnel, NAT and SMB hook,
//! restores the flows of a journal, and starts handshakes with the clients that may still use a session
//! of the last run.
//!
//! WireGuard sessions are never in it: a new handshake avoids nonce reuse. The clients' endpoints are,
//! so that vcgate can initiate it too.

use super::{DataPlane, Engine};
use crate::ids::{FlowId, PeerId};
use crate::journal::{Change, Record, State};
use crate::nat::{MovedPorts, Protocol, RestoreError};
use crate::smb::{Ends, SmbFlowSnapshot};
use crate::tunnel::{REJECT_AFTER_TIME, Tunnel};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A peer's public key.
pub type Key = [u8; 32];

impl Engine {
    /// Starts to collect the durable changes of flows. What exists already is not among them; see
    /// [`snapshot`](Self::journal_snapshot).
    pub fn collect_changes(&mut self) {
        let plane = &mut self.plane;
        plane.tunnel.collect_moved();
        plane.nat.collect_changes();
        plane.hook.collect_changes();
    }

    /// Returns whether there are changes to append. Call it after each batch.
    pub fn has_changes(&self) -> bool {
        let plane = &self.plane;
        plane.nat.has_changes() || plane.hook.has_changes() || plane.tunnel.has_moved()
    }

    /// Appends the changes since the last call, in order. The caller can use a buffer again, so that a
    /// new flow allocates no memory.
    pub fn append_changes(&mut self, records: &mut Vec<Record>) {
        let plane = &mut self.plane;
        if plane.tunnel.has_moved() {
            // Peers come before the addresses that they own.
            let moved = plane.tunnel.take_moved().into_iter();
            records.extend(moved.filter_map(|id| peer_record(&plane.tunnel, id)));
        }
        plane.nat.append_changes(records);
        if plane.hook.has_changes() {
            let smb = plane.hook.take_changes();
            records.extend(smb.map(|smb| Record(Change::Smb(Box::new(smb)))));
        }
    }

    /// Returns the records of everything, for a journal that begins or continues while packets flow.
    pub fn journal_snapshot(&self, now: Instant) -> Vec<Record> {
        let hook = &self.plane.hook;
        self.records(now, |flow| hook.keep_running(flow))
    }

    /// Returns the records of everything after the last packet, for the end of a journal.
    pub fn final_snapshot(&self, now: Instant) -> Vec<Record> {
        let hook = &self.plane.hook;
        self.records(now, |flow| hook.keep(flow))
    }

    fn records(
        &self,
        now: Instant,
        smb: impl Fn(FlowId) -> Option<SmbFlowSnapshot>,
    ) -> Vec<Record> {
        let DataPlane { tunnel, nat, .. } = &self.plane;
        let own = tunnel.own_peers().map(|peer| peer.id);
        let mut records: Vec<Record> = own.filter_map(|id| peer_record(tunnel, id)).collect();
        nat.report_all(now, &mut |record| records.push(record));
        let smb = nat.flows(now).filter_map(|flow| smb(flow.id));
        records.extend(smb.map(|smb| Record(Change::Smb(Box::new(smb)))));
        records
    }

    /// Moves port blocks to other shards than their numbers say. The engine must have no flows yet; all
    /// shards must get the same.
    pub fn move_ports(&mut self, moved: Arc<MovedPorts>) {
        self.plane.nat.move_ports(moved);
    }

    /// Restores the flows of a journal that ended `age` ago. The engine must have all its peers and
    /// forwards, and no flows yet. Flows of addresses that no longer belong to the same peer of this
    /// shard are left out.
    ///
    /// # Errors
    ///
    /// If the flows do not fit the NAT's settings or each other. The engine must not be used then.
    pub fn restore(
        &mut self,
        state: &State,
        age: Duration,
        now: Instant,
    ) -> Result<(), RestoreError> {
        let plane = &mut self.plane;
        let owner = owners(&plane.tunnel);
        let ours = move |client| owner(client).is_some_and(|key| state.owner(client) == Some(&key));
        let snapshot = state.nat_snapshot(&ours);
        plane.nat.restore(snapshot, &plane.tunnel, ours, age, now)?;
        for (key, remote) in state.peers() {
            if let Some(remote) = remote
                && let Some(peer) = plane.tunnel.find(&(*key).into())
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
        for kept in state.smb_flows() {
            let ends = kept.ends();
            if let Some(flow) = flows.get(&(ends.client, ends.server)) {
                let peer = plane.tunnel.route(ends.client.ip());
                match state.is_exact() {
                    true => plane.hook.restore(*flow, kept, peer),
                    false => plane.hook.resume(*flow, kept, peer),
                }
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

    /// Starts handshakes with the peers whose address is known and that may still use a session of
    /// the last run: those with flows, the most recently used first, then those that were active
    /// within the maximum age of a session. Call it once, after the flows, endpoints and totals of
    /// the last run are restored.
    pub fn resume_sessions(&mut self, now: Instant) {
        let DataPlane { tunnel, nat, .. } = &mut self.plane;
        let mut idle: HashMap<PeerId, Duration> = HashMap::new();
        for flow in nat.flows(now) {
            if let Some(peer) = tunnel.route(flow.inside.ip()) {
                let least = idle.entry(peer).or_insert(flow.idle);
                *least = flow.idle.min(*least);
            }
        }
        let is_recent = |seen: Instant| now.saturating_duration_since(seen) < REJECT_AFTER_TIME;
        let known = tunnel.own_peers().filter(|peer| peer.path.is_some());
        let mut peers: Vec<_> = known
            .filter_map(|peer| match idle.get(&peer.id) {
                Some(idle) => Some((Some(*idle), peer.id)),
                None => { peer.last_seen.filter(|seen| is_recent(*seen)) }.map(|_| (None, peer.id)),
            })
            .collect();
        // Peers without flows come last.
        peers.sort_unstable_by_key(|(idle, id)| (idle.is_none(), *idle, *id));
        tunnel.resume(peers.into_iter().map(|(_, id)| id), now);
    }
}

/// Returns a lookup of the peer of this shard that owns an address.
fn owners(tunnel: &Tunnel) -> impl Fn(IpAddr) -> Option<Key> {
    let own = tunnel.own_peers();
    let keys: HashMap<PeerId, Key> = own.map(|p| (p.id, *p.public_key.as_bytes())).collect();
    move |client| keys.get(&tunnel.route(client)?).copied()
}

fn peer_record(tunnel: &Tunnel, id: PeerId) -> Option<Record> {
    let peer = tunnel.status(id)?;
    Some(Record(Change::Peer {
        id: id.0,
        key: *peer.public_key.as_bytes(),
        endpoint: peer.path.map(|path| path.remote),
    }))
}
