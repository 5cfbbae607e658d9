//! ECN marks across a tunnel (RFC 6040), as Linux propagates them.

use super::checksum::Delta;

/// The ECN field of an IP header (RFC 3168 section 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ecn {
    /// The sender does not understand ECN.
    #[default]
    NotCapable = 0b00,
    /// ECN-capable, ECT(1).
    Capable1 = 0b01,
    /// ECN-capable, ECT(0).
    Capable0 = 0b10,
    /// Congestion experienced (CE).
    Congested = 0b11,
}

impl Ecn {
    /// Reads the low two bits of a TOS or traffic class byte.
    #[inline]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotCapable,
            0b01 => Self::Capable1,
            0b10 => Self::Capable0,
            _ => Self::Congested,
        }
    }

    /// Reads the mark of an IP packet; returns `NotCapable` for anything else.
    #[inline]
    pub fn of(packet: &[u8]) -> Self {
        match packet {
            [v, tos, ..] if v >> 4 == 4 => Self::from_bits(*tos),
            [v, class, ..] if v >> 4 == 6 => Self::from_bits(class >> 4),
            _ => Self::NotCapable,
        }
    }

    /// Returns the mark of the outer packet for an inner packet with this mark: the same, except
    /// that congestion before the tunnel is not signalled twice.
    #[must_use]
    #[inline]
    pub fn outer(self) -> Self {
        match self {
            Self::Congested => Self::Capable0,
            other => other,
        }
    }

    /// Applies the outer packet's mark to the inner packet (RFC 6040 section 4.2). A packet whose
    /// sender does not understand ECN is left unchanged.
    pub fn apply_to(self, packet: &mut [u8]) {
        let new = match (Self::of(packet), self) {
            (Self::Capable0 | Self::Capable1, Self::Congested) => Self::Congested,
            (Self::Capable0, Self::Capable1) => Self::Capable1,
            _ => return,
        };
        match packet {
            [v, tos, _, _, _, _, _, _, _, _, c0, c1, ..] if *v >> 4 == 4 => {
                let old = u16::from_be_bytes([*v, *tos]);
                *tos = *tos & !0b11 | new as u8;
                let delta = Delta::default().word(old, u16::from_be_bytes([*v, *tos]));
                [*c0, *c1] = delta.apply(u16::from_be_bytes([*c0, *c1])).to_be_bytes();
            }
            [v, class, ..] if *v >> 4 == 6 => *class = *class & !0x30 | (new as u8) << 4,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

    fn v4(ecn: Ecn) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
        packet.set_version(4);
        packet.set_header_len(20);
        packet.set_total_len(20);
        packet.set_dscp(0x2E);
        packet.set_ecn(ecn as u8);
        packet.set_hop_limit(64);
        packet.set_src_addr([10, 8, 0, 2].into());
        packet.fill_checksum();
        bytes
    }

    fn v6(ecn: Ecn) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        let mut packet = Ipv6Packet::new_unchecked(&mut bytes);
        packet.set_version(6);
        packet.set_traffic_class(0xB8 | ecn as u8);
        packet.set_flow_label(0xF_1234);
        bytes
    }

    /// RFC 6040 section 4.2, figure 4: the inner mark, and the result for each outer mark.
    const REQ_RFC6040_4_2: [(u8, [u8; 4]); 4] = [
        (0b00, [0b00, 0b00, 0b00, 0b00]),
        (0b01, [0b01, 0b01, 0b01, 0b11]),
        (0b10, [0b10, 0b01, 0b10, 0b11]),
        (0b11, [0b11, 0b11, 0b11, 0b11]),
    ];

    #[test]
    fn rfc6040_4_2_req_the_inner_mark_after_the_tunnel() {
        for (inner, row) in REQ_RFC6040_4_2 {
            for (outer, expected) in (0u8..).zip(row) {
                let (inner, outer) = (Ecn::from_bits(inner), Ecn::from_bits(outer));
                let mut packet = v4(inner);
                outer.apply_to(&mut packet);
                assert_eq!(
                    packet,
                    v4(Ecn::from_bits(expected)),
                    "{inner:?} in {outer:?}"
                );
                let mut packet = v6(inner);
                outer.apply_to(&mut packet);
                assert_eq!(
                    packet,
                    v6(Ecn::from_bits(expected)),
                    "{inner:?} in {outer:?}"
                );
            }
        }
    }

    #[test]
    fn the_outer_mark_follows_the_inner_but_never_says_congested() {
        for ecn in [Ecn::NotCapable, Ecn::Capable0, Ecn::Capable1] {
            assert_eq!(ecn.outer(), ecn);
        }
        assert_eq!(Ecn::Congested.outer(), Ecn::Capable0);
    }

    #[test]
    fn bytes_that_are_not_an_ip_packet_are_left_unchanged() {
        for mut bytes in [
            vec![],
            vec![0x45],
            vec![0x45, 2],
            vec![0x60, 0],
            vec![0xFF; 60],
        ] {
            let before = bytes.clone();
            Ecn::Congested.apply_to(&mut bytes);
            assert_eq!(bytes, before);
        }
    }
}
