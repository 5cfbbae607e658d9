//! The packets that each client was refused, to find out why something does not work.

use crate::ids::PeerId;

/// The number of packets that one client was refused; a super-packet counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerDropCounters {
    /// Packets that no rule allows.
    pub denied: u64,
    /// Packets over one of the client's limits (RFC 6888 REQ-4), or for which no port was left.
    pub limited: u64,
}

/// The counters of all peers, by peer id.
#[derive(Debug, Default)]
pub(super) struct PeerDropTable(Vec<PeerDropCounters>);

impl PeerDropTable {
    /// Returns a peer's counters, to increment them.
    pub(super) fn entry(&mut self, peer: PeerId) -> &mut PeerDropCounters {
        let at = peer.0 as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, PeerDropCounters::default());
        }
        &mut self.0[at]
    }

    /// Sets a peer's counters to 0.
    pub(super) fn reset(&mut self, peer: PeerId) {
        if let Some(counters) = self.0.get_mut(peer.0 as usize) {
            *counters = PeerDropCounters::default();
        }
    }

    /// Returns a peer's counters, zeros if it was refused nothing.
    pub(super) fn get(&self, peer: PeerId) -> PeerDropCounters {
        self.0.get(peer.0 as usize).copied().unwrap_or_default()
    }
}
