//! How much work a packet is, so that those whom a shard serves get like shares of its rounds: as
//! much as its bytes, but a small one is more than they say. It says nothing of whose turn it is.

use vcgate_wire::virtio_net::{Gso, Header};

/// A super-packet, or a burst of datagrams: what comes with one read is at most so much, in bytes.
pub(super) const MOST: usize = 64 << 10;
/// A single packet is at least so much.
pub(super) const LEAST: usize = 4 << 10;
/// What is done in one round for the clients, for the LAN, and for the mates, each: 16 super-packets,
/// or 256 small packets.
pub(super) const ROUND: usize = 16 * MOST;

/// The weight of so many packets that came as one, or lie in so much memory.
pub(super) fn of(bytes: usize, packets: usize) -> usize {
    bytes.max(packets.max(1).saturating_mul(LEAST).min(MOST))
}

/// Of how many packets a super-packet of this length is.
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
    fn small_packets_are_more_than_their_bytes_but_together_no_more_than_a_super_packet() {
        assert_eq!([0, 60, 1420].map(|bytes| of(bytes, 1)), [LEAST; 3]);
        assert_eq!(of(9000, 1), 9000);
        assert_eq!(of(2 * 60, 2), 2 * LEAST);
        assert_eq!(of(64 * 60, 64), MOST);
        assert_eq!(of(MOST, 45), MOST);
        assert_eq!(of(65_535, usize::MAX), MOST);
    }

    #[test]
    fn a_super_packet_is_as_many_as_it_is_to_be_cut_into() {
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
