//! The virtio_net header before each packet on a TUN device, which describes checksum and
//! segmentation offload (virtio 1.2 section 5.1.6, in the legacy form of 10 bytes that TUN uses).
//!
//! A header whose offsets lie outside its packet is not decoded.

use super::checksum::Checksum;

/// Length of the header in bytes.
pub const LEN: usize = 10;

mod flag {
    pub(super) const NEEDS_CSUM: u8 = 1;
    pub(super) const DATA_VALID: u8 = 2;
}

mod field {
    use std::ops::Range;

    pub(super) const FLAGS: usize = 0;
    pub(super) const GSO_TYPE: usize = 1;
    pub(super) const HEADER_LEN: Range<usize> = 2..4;
    pub(super) const GSO_SIZE: Range<usize> = 4..6;
    pub(super) const CSUM_START: Range<usize> = 6..8;
    pub(super) const CSUM_OFFSET: Range<usize> = 8..10;
    const _: () = assert!(CSUM_OFFSET.end == super::LEN);
}

/// The segmentation of a super-packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Gso {
    /// A single packet.
    #[default]
    None = 0,
    /// TCP segments over IPv4.
    TcpV4 = 1,
    /// TCP segments over IPv6.
    TcpV6 = 4,
    /// UDP datagrams over IPv4 or IPv6 (Linux 6.2).
    UdpL4 = 5,
}

/// Set in the GSO type if the first segment carries CWR (RFC 3168 section 6.1.2).
const ECN: u8 = 0x80;

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The L4 checksum field holds only the pseudo-header sum; the sender of the packet completes it.
    pub needs_csum: bool,
    /// The L4 checksum was verified.
    pub data_valid: bool,
    /// The segmentation of the packet.
    pub gso: Gso,
    /// CWR is set and belongs to the first segment only.
    pub ecn: bool,
    /// Length of the headers in bytes. This is only a hint.
    pub header_len: u16,
    /// Payload of each segment in bytes; the last one may be shorter.
    pub gso_size: u16,
    /// Start of the checksummed data, in bytes from the start of the packet.
    pub csum_start: u16,
    /// Position of the checksum field, in bytes from `csum_start`.
    pub csum_offset: u16,
}

/// The reason why a header is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A segmentation that was not enabled on the device.
    #[error("unknown GSO type {0}")]
    GsoType(u8),
    /// A super-packet whose segments have no payload, or whose checksum offload is off.
    #[error("GSO without segment size or checksum offload")]
    Gso,
    /// The checksum field or the header lies outside the packet.
    #[error("offsets outside the packet")]
    Offset,
}

impl Header {
    /// Returns the kind of L4 checksum that a packet with this header has.
    pub fn checksum(&self) -> Checksum {
        match self.needs_csum {
            true => Checksum::Partial,
            false => Checksum::Complete,
        }
    }

    /// Decodes the header of `packet`.
    ///
    /// # Errors
    /// If the GSO type is unknown, or the header does not fit the packet.
    pub fn decode(bytes: &[u8; LEN], packet: &[u8]) -> Result<Self, Malformed> {
        let word =
            |at: std::ops::Range<usize>| u16::from_ne_bytes([bytes[at.start], bytes[at.start + 1]]);
        let gso_type = bytes[field::GSO_TYPE];
        let header = Self {
            needs_csum: bytes[field::FLAGS] & flag::NEEDS_CSUM != 0,
            data_valid: bytes[field::FLAGS] & flag::DATA_VALID != 0,
            gso: match gso_type & !ECN {
                0 => Gso::None,
                1 => Gso::TcpV4,
                4 => Gso::TcpV6,
                5 => Gso::UdpL4,
                other => return Err(Malformed::GsoType(other)),
            },
            ecn: gso_type & ECN != 0,
            header_len: word(field::HEADER_LEN),
            gso_size: word(field::GSO_SIZE),
            csum_start: word(field::CSUM_START),
            csum_offset: word(field::CSUM_OFFSET),
        };
        header.check(packet.len())?;
        Ok(header)
    }

    /// Encodes the header in native byte order, as TUN expects it.
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[field::FLAGS] = (if self.needs_csum { flag::NEEDS_CSUM } else { 0 })
            | (if self.data_valid { flag::DATA_VALID } else { 0 });
        bytes[field::GSO_TYPE] = self.gso as u8 | if self.ecn { ECN } else { 0 };
        for (at, word) in [
            (field::HEADER_LEN, self.header_len),
            (field::GSO_SIZE, self.gso_size),
            (field::CSUM_START, self.csum_start),
            (field::CSUM_OFFSET, self.csum_offset),
        ] {
            bytes[at].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn check(&self, packet: usize) -> Result<(), Malformed> {
        let field_end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
        if self.needs_csum && field_end > packet {
            return Err(Malformed::Offset);
        }
        if self.gso == Gso::None {
            return Ok(());
        }
        if self.gso_size == 0 || !self.needs_csum {
            return Err(Malformed::Gso);
        }
        if usize::from(self.header_len) > packet {
            return Err(Malformed::Offset);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header that Linux writes before a TCP super-packet of 1,448-byte segments.
    fn tcp() -> Header {
        Header {
            needs_csum: true,
            gso: Gso::TcpV4,
            header_len: 52,
            gso_size: 1448,
            csum_start: 20,
            csum_offset: 16,
            ..Header::default()
        }
    }

    #[test]
    fn each_field_is_encoded_at_its_offset() {
        let mut expected = vec![1, 0x81];
        for word in [52u16, 1448, 20, 16] {
            expected.extend(word.to_ne_bytes());
        }
        assert_eq!(Header { ecn: true, ..tcp() }.encode(), *expected);
        let valid = Header {
            data_valid: true,
            ..Header::default()
        };
        assert_eq!(valid.encode(), [2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_header_that_does_not_fit_its_packet_is_rejected() {
        let packet = [0; 100];
        let decode = |header: Header, len: usize| Header::decode(&header.encode(), &packet[..len]);
        assert_eq!(decode(tcp(), 100), Ok(tcp()));
        assert_eq!(decode(tcp(), 51), Err(Malformed::Offset));
        assert_eq!(
            decode(
                Header {
                    csum_start: 83,
                    ..tcp()
                },
                100
            ),
            Err(Malformed::Offset)
        );
        assert!(
            decode(
                Header {
                    csum_start: 82,
                    ..tcp()
                },
                100
            )
            .is_ok()
        );
        assert_eq!(
            decode(
                Header {
                    gso_size: 0,
                    ..tcp()
                },
                100
            ),
            Err(Malformed::Gso)
        );
        assert_eq!(
            decode(
                Header {
                    needs_csum: false,
                    ..tcp()
                },
                100
            ),
            Err(Malformed::Gso)
        );
        let mut unknown = tcp().encode();
        unknown[1] = 3;
        assert_eq!(
            Header::decode(&unknown, &packet),
            Err(Malformed::GsoType(3))
        );
    }

    proptest! {
        #[test]
        fn a_decoded_header_fits_its_packet_and_encodes_to_itself(bytes: [u8; LEN], len in 0usize..2000) {
            if let Ok(header) = Header::decode(&bytes, &vec![0; len]) {
                prop_assert!(!header.needs_csum
                    || usize::from(header.csum_start) + usize::from(header.csum_offset) + 2 <= len);
                prop_assert_eq!(Header::decode(&header.encode(), &vec![0; len]), Ok(header));
            }
        }
    }
}
