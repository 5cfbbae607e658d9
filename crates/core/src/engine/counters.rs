//! The packets that the engine itself dropped, by reason.

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
