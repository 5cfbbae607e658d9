//! The packets that the engine itself dropped, by reason and by peer.

use crate::ids::PeerId;
use crate::tunnel::DropReason;

/// The number of packets or datagrams that were dropped; the NAT and the hook have counters of their
/// own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that the tunnel dropped, by [`DropReason`].
    tunnel: [u64; DropReason::ALL.len()],
    /// Packets whose inner IP header is invalid.
    pub malformed: u64,
    /// Packets with an inner address that no router forwards: multicast, loopback, unspecified; and
    /// packets of a LAN host whose address clients know as another host's.
    pub address: u64,
    /// TCP segments to a file server with a wrong checksum.
    pub damaged: u64,
    /// Packets that no rule of the client allows.
    pub denied: u64,
    /// Packets above the rate limit of their peer.
    pub rate_limited: u64,
    /// Packets of the LAN whose inner address belongs to no peer.
    pub no_peer: u64,
    /// Packets for a peer whose endpoint is not known.
    pub no_endpoint: u64,
    /// Packets for a peer that are too long for a datagram when sealed.
    pub too_long: u64,
    /// Packets of the host with an invalid virtio header.
    pub offload: u64,
}

impl Counters {
    /// Returns the number of datagrams that the tunnel dropped for this reason.
    pub fn tunnel(&self, reason: DropReason) -> u64 {
        self.tunnel[reason as usize]
    }

    pub(super) fn dropped_by_tunnel(&mut self, reason: DropReason) {
        self.tunnel[reason as usize] += 1;
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_an_index_and_a_unique_name() {
        let mut names = std::collections::HashSet::new();
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert!(names.insert(reason.name()));
        }
    }
}
