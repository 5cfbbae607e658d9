//! Handshakes after a restart of the endpoint, with the clients that may still use a session of the
//! last run.

use super::{DataPlane, Engine};
use crate::ids::PeerId;
use crate::tunnel::REJECT_AFTER_TIME;
use std::collections::HashMap;
use std::time::{Duration, Instant};

impl Engine {
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
