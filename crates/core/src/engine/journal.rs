//! The engine's part in the flow journal: it collects the durable changes of tunnel, NAT and SMB hook.

use super::Engine;
use crate::ids::PeerId;
use crate::journal::{Change, Record};
use crate::tunnel::Tunnel;
use std::time::Instant;

impl Engine {
    /// Starts to collect the durable changes of flows. What exists already is not among them; see
    /// [`snapshot`](Self::journal_snapshot).
    pub fn collect_changes(&mut self) {
        let plane = &mut self.plane;
        plane.tunnel.collect_moved();
        plane.nat.collect_changes();
        plane.hook.collect_changes();
    }

    /// Returns whether there are changes to take. Call it after each batch.
    pub fn has_changes(&self) -> bool {
        let plane = &self.plane;
        plane.nat.has_changes() || plane.hook.has_changes() || plane.tunnel.has_moved()
    }

    /// Takes the changes since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Record> {
        let plane = &mut self.plane;
        let moved = plane.tunnel.take_moved();
        let mut records = match moved.is_empty() {
            true => plane.nat.take_changes(),
            // Peers come before the addresses that they own.
            false => {
                let peers = moved.into_iter();
                let peers = peers.filter_map(|id| peer_record(&plane.tunnel, id));
                peers.chain(plane.nat.take_changes()).collect()
            }
        };
        let smb = plane.hook.take_changes();
        records.extend(smb.map(|smb| Record(Change::Smb(Box::new(smb)))));
        records
    }

    /// Returns the records of everything, for a journal that begins or continues while packets flow.
    pub fn journal_snapshot(&self, now: Instant) -> Vec<Record> {
        let plane = &self.plane;
        let own = plane.tunnel.own_peers().map(|peer| peer.id);
        let mut records: Vec<Record> = own
            .filter_map(|id| peer_record(&plane.tunnel, id))
            .collect();
        plane
            .nat
            .report_all(now, &mut |record| records.push(record));
        let flows = plane.nat.flows(now);
        let smb = flows.filter_map(|flow| plane.hook.keep_running(flow.id));
        records.extend(smb.map(|smb| Record(Change::Smb(Box::new(smb)))));
        records
    }
}

fn peer_record(tunnel: &Tunnel, id: PeerId) -> Option<Record> {
    let peer = tunnel.status(id)?;
    Some(Record(Change::Peer {
        id: id.0,
        key: *peer.public_key.as_bytes(),
        endpoint: peer.path.map(|path| path.remote),
    }))
}
