//! The MSS option of a SYN, lowered to what the tunnel carries in one packet.

use smoltcp::wire::TCP_HEADER_LEN;
use std::net::IpAddr;
use vcgate_wire::checksum::Delta;

/// What a segment may carry in a packet of `mtu` bytes, without options (RFC 6691): 20 bytes of
/// TCP header, and 20 of IPv4's or 40 of IPv6's.
pub(super) fn most(mtu: u16, family: IpAddr) -> u16 {
    let ip = match family {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    mtu.saturating_sub(ip + TCP_HEADER_LEN as u16)
}

/// Lowers the MSS option in a TCP header to `most`; returns what that does to its checksum.
///
/// Where there is no option there is none to lower: such an end takes 536 bytes (RFC 9293
/// section 3.7.1).
pub(super) fn clamp(header: &mut [u8], most: u16) -> Delta {
    let Some(at) = find(header) else {
        return Delta::default();
    };
    let Some([high, low]) = header.get_mut(at..at + 2) else {
        return Delta::default();
    };
    if u16::from_be_bytes([*high, *low]) <= most {
        return Delta::default();
    }
    let [new_high, new_low] = most.to_be_bytes();
    let odd = at % 2 == 1;
    Delta::default()
        .byte(odd, std::mem::replace(high, new_high), new_high)
        .byte(!odd, std::mem::replace(low, new_low), new_low)
}

/// Where the MSS lies.
fn find(header: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const MSS: u8 = 2;
    let mut at = TCP_HEADER_LEN;
    loop {
        match header.get(at..)? {
            [] | [END, ..] => return None,
            [NOP, ..] => at += 1,
            [MSS, 4, _, _, ..] => return Some(at + 2),
            [_, len, ..] if *len >= 2 => at += usize::from(*len),
            _ => return None,
        }
    }
}
