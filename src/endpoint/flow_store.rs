//! Flows that survive a restart or an upgrade: the journal of the last run is read and restored into
//! the engines of this one.
//!
//! The journal is optional: if it cannot be used, the cause is logged and the endpoint starts without
//! flows.

use super::EndpointError;
use super::active_config::ActiveConfig;
use super::assemble::{self, RuntimeInfo};
use super::flow_file::read;
use crate::config::Peer;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tracing::{info, warn};
use vcgate_core::engine::{Engine, Key};
use vcgate_core::ids::ShardId;
use vcgate_core::journal::{State, Timestamp};

/// Reads the flows of the last run, if there are any.
pub(super) fn load(path: &Path) -> Option<State> {
    match read(path) {
        Ok(None) => None,
        Ok(Some(read)) => {
            if read.torn > 0 {
                info!(
                    bytes = read.torn,
                    "cut off the last record of the flow journal: the process was killed while it \
                     was written"
                );
            }
            Some(read.state)
        }
        Err(error) => {
            warn!(
                "cannot read the flows in {}: {error}; they are lost",
                path.display()
            );
            None
        }
    }
}

/// Creates an engine for each shard, with the stored flows if they fit.
pub(super) fn engines(
    active: &ActiveConfig,
    info: &RuntimeInfo,
    stored: Option<State>,
) -> Result<Vec<Engine>, EndpointError> {
    let now = Instant::now();
    let shards = assemble::shards(&active.config);
    let with = |peers: &[Option<&Peer>]| -> Result<Vec<_>, _> {
        ShardId::all(shards)
            .map(|shard| assemble::engine(active, info, peers, shard, now))
            .collect()
    };
    let own = active.config.peers.iter().filter_map(|p| p.lan_address);
    let own: HashSet<_> = own.map(IpAddr::V4).collect();
    let owners = match &stored {
        Some(state) => peers_by_shard(state, shards, &own),
        None => Vec::new(),
    };
    let peers = assign_peers(&active.active_peers(SystemTime::now()), &owners);
    let mut engines = with(&peers)?;
    let Some(stored) = stored else {
        return Ok(engines);
    };
    let by_turns = peers.iter().zip((0..shards).cycle());
    let shard_of: HashMap<Key, u8> = by_turns
        .filter_map(|(peer, shard)| Some((*peer.as_ref()?.public_key.as_bytes(), shard)))
        .collect();
    let moved = Arc::new(stored.moved_ports(shards, |key| shard_of.get(key).copied()));
    for engine in &mut engines {
        engine.move_ports(Arc::clone(&moved));
    }
    match restore(&mut engines, &stored, now) {
        Ok(flows) => info!(flows, "restored the flows of the last run"),
        Err(error) => {
            warn!("cannot restore the flows of the last run: {error}; they are lost");
            engines = with(&peers)?;
        }
    }
    Ok(engines)
}

/// Returns the peers in the order of their ids, which assigns them to shards by turns. Each shard
/// gets the peers that it had before and then new ones; `None` leaves out an id.
fn assign_peers<'a>(peers: &[&'a Peer], owners: &[HashSet<Key>]) -> Vec<Option<&'a Peer>> {
    let mut own = vec![VecDeque::new(); owners.len().max(1)];
    let mut new = VecDeque::new();
    for &peer in peers {
        let key = *peer.public_key.as_bytes();
        match owners.iter().position(|keys| keys.contains(&key)) {
            Some(owner) => own[owner].push_back(peer),
            None => new.push_back(peer),
        }
    }
    let mut assigned = Vec::new();
    let mut left = peers.len();
    for shard in (0..own.len()).cycle() {
        if left == 0 {
            break;
        }
        let next = own[shard].pop_front().or_else(|| new.pop_front());
        left -= usize::from(next.is_some());
        assigned.push(next);
    }
    assigned
}

/// Returns the peers with flows by the shard that owns most of their ports. The ports of an address
/// that only one peer uses follow that peer.
fn peers_by_shard(state: &State, shards: u8, own: &HashSet<IpAddr>) -> Vec<HashSet<Key>> {
    let mut ports: HashMap<&Key, Vec<usize>> = HashMap::new();
    for (key, shard) in state.port_owners(shards, |lan| !own.contains(&lan)) {
        let count = ports.entry(key).or_insert_with(|| vec![0; shards.into()]);
        count[usize::from(shard)] += 1;
    }
    let mut peers = vec![HashSet::new(); shards.into()];
    for (key, counts) in ports {
        let most = (0..counts.len()).max_by_key(|shard| (counts[*shard], usize::MAX - shard));
        if let Some(shard) = most {
            peers[shard].insert(*key);
        }
    }
    peers
}

/// Restores each engine's flows. Returns their number.
fn restore(engines: &mut [Engine], state: &State, now: Instant) -> Result<usize, String> {
    // If the clock was set back, the age is unknown and counts as 0.
    let age = Timestamp::from(SystemTime::now()).since(state.last());
    for engine in &mut *engines {
        let restored = engine.restore(state, age, now);
        restored.map_err(|error| error.to_string())?;
    }
    Ok(engines.iter().map(|e| e.nat().flow_count()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_keeps_its_shard() {
        let peer = |number| Peer {
            name: format!("peer{number}"),
            public_key: [number; 32].into(),
            preshared_key: None,
            preshared_key_file: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
            reach: None,
            rates: Default::default(),
            lan_address: None,
            lifecycle: Default::default(),
            dns: true,
            client: Default::default(),
        };
        let assigned = |peers: &[u8], owners: &[&[u8]]| {
            let peers: Vec<_> = peers.iter().copied().map(peer).collect();
            let keys = |keys: &&[u8]| keys.iter().map(|number| [*number; 32]).collect();
            let owners: Vec<_> = owners.iter().map(keys).collect();
            let assigned = assign_peers(&peers.iter().collect::<Vec<_>>(), &owners);
            let number = |peer: Option<&Peer>| peer.map_or(0, |peer| peer.public_key.as_bytes()[0]);
            assigned.into_iter().map(number).collect::<Vec<_>>()
        };
        assert_eq!(assigned(&[1, 2, 3], &[]), [1, 2, 3]);
        assert_eq!(assigned(&[1, 2, 3, 4], &[&[1, 3], &[2, 4]]), [1, 2, 3, 4]);
        // The first peer was removed; a new one is the first in the file.
        assert_eq!(assigned(&[2, 3, 4], &[&[1, 3], &[2, 4]]), [3, 2, 0, 4]);
        assert_eq!(assigned(&[9, 2, 3, 4], &[&[1, 3], &[2, 4]]), [3, 2, 9, 4]);
        assert_eq!(assigned(&[5, 6], &[&[], &[], &[5, 6]]), [0, 0, 5, 0, 0, 6]);
        assert!(assigned(&[], &[&[1], &[2]]).is_empty());
    }
}
