//! What the engine dropped on the way between the rooms, by reason. Packets, not bytes.

use crate::tunnel::DropReason;

/// What was dropped, as packets or datagrams; NAT and the hook count for themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that the tunnel dropped, by [`DropReason`].
    tunnel: [u64; DropReason::ALL.len()],
    /// An inner IP header that does not parse.
    pub malformed: u64,
    /// An inner address that no router forwards: multicast, loopback, unspecified.
    pub address: u64,
    /// A TCP segment to a file server whose checksum is wrong.
    pub damaged: u64,
    /// A destination that the client's rules do not name.
    pub denied: u64,
    /// A packet from the LAN whose inner address belongs to no peer.
    pub no_peer: u64,
    /// A packet from the LAN for a peer whose endpoint is not known.
    pub no_endpoint: u64,
    /// A packet for a peer that is too long for a datagram, sealed.
    pub too_long: u64,
    /// A packet of the host that asks for what cannot be done (a bad virtio header).
    pub offload: u64,
}

impl Counters {
    /// Datagrams that the tunnel dropped for this reason.
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
    fn every_reason_has_its_place_and_a_name_of_its_own() {
        let mut names = std::collections::HashSet::new();
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert!(names.insert(reason.name()));
        }
    }
}
