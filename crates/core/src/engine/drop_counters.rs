//! What each client was refused, for those who ask why something does not work.

use crate::ids::PeerId;

/// What one client was refused, in packets; a super-packet counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerDropCounters {
    /// No rule allows it.
    pub denied: u64,
    /// It was over one of the client's limits (RFC 6888 REQ-4), or no port was left.
    pub limited: u64,
}

/// By peer id.
#[derive(Debug, Default)]
pub(super) struct PeerDropTable(Vec<PeerDropCounters>);

impl PeerDropTable {
    /// A client's own, to count.
    pub(super) fn of(&mut self, peer: PeerId) -> &mut PeerDropCounters {
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

    pub(super) fn get(&self, peer: PeerId) -> PeerDropCounters {
        self.0.get(peer.0 as usize).copied().unwrap_or_default()
    }
}
