//! The weight of a packet: the amount of work, in bytes, with a minimum for small packets. It lets
//! the sources of packets get equal shares of a shard's rounds; it does not choose their order.

use vcgate_wire::virtio_net::{Gso, Header};

/// Maximum weight of one read: a super-packet or a burst of datagrams.
pub(super) const MAX_WEIGHT: usize = 64 << 10;
/// Minimum weight of a single packet.
pub(super) const MIN_WEIGHT: usize = 4 << 10;
/// The weight processed in one round for clients, the LAN and other shards, each: 16 super-packets
/// or 256 small packets.
pub(super) const ROUND_BUDGET: usize = 16 * MAX_WEIGHT;

/// Returns the weight of packets that were read together, or occupy this much memory.
pub(super) fn of(bytes: usize, packets: usize) -> usize {
    bytes.max(packets.max(1).saturating_mul(MIN_WEIGHT).min(MAX_WEIGHT))
}

/// Returns the number of packets in a super-packet of this length.
pub(super) fn packets(header: &Header, bytes: usize) -> usize {
    match header.gso {
        Gso::None => 1,
        _ => bytes.div_ceil(usize::from(header.gso_size).max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_packets_weigh_more_than_their_bytes_but_together_at_most_a_super_packet() {
        assert_eq!([0, 60, 1420].map(|bytes| of(bytes, 1)), [MIN_WEIGHT; 3]);
        assert_eq!(of(9000, 1), 9000);
        assert_eq!(of(2 * 60, 2), 2 * MIN_WEIGHT);
        assert_eq!(of(64 * 60, 64), MAX_WEIGHT);
        assert_eq!(of(MAX_WEIGHT, 45), MAX_WEIGHT);
        assert_eq!(of(65_535, usize::MAX), MAX_WEIGHT);
    }

    #[test]
    fn a_super_packet_counts_as_its_segments() {
        let whole = Header {
            gso_size: 1000,
            ..Header::default()
        };
        let gso = Gso::TcpV4;
        assert_eq!(packets(&whole, 2500), 1);
        assert_eq!(packets(&Header { gso, ..whole }, 2500), 3);
        let gso_size = 0;
        assert_eq!(
            packets(
                &Header {
                    gso,
                    gso_size,
                    ..whole
                },
                7
            ),
            7
        );
    }
}
