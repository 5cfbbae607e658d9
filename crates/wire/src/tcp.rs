//! TCP beyond the fixed header that smoltcp's `TcpPacket` reads: sequence numbers that wrap, and
//! the options MSS, SACK permitted and timestamps.
//!
//! Rewrites keep the checksum in step and return early where the header is not what they expect;
//! nothing here follows a connection.

use super::checksum::{Checksum, Delta};
use super::packet::Packet;
use serde::{Deserialize, Serialize};
use smoltcp::wire::{TCP_HEADER_LEN, TcpOption, TcpPacket, TcpSeqNumber};
use std::net::IpAddr;

/// Flags in byte 13 of the header (RFC 9293 section 3.1, RFC 3168 section 6.1).
pub mod flag {
    /// The sender has no more data.
    pub const FIN: u8 = 0x01;
    /// The receiver should deliver the data without delay.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The sender echoes a congestion mark.
    pub const ECE: u8 = 0x40;
    /// The sender reduced its congestion window.
    pub const CWR: u8 = 0x80;
}

/// A sequence number: compared modulo 2^32 (RFC 9293 section 3.4).
///
/// Unlike smoltcp's, it is unsigned and no operation panics, so that it can hold what a peer sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// Returns the number `bytes` later, where a SYN and a FIN count as one byte each.
    #[inline]
    pub fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Returns the number before this one: the SYN's, if this is the first byte's.
    #[inline]
    pub fn previous(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// Returns the signed distance from `other` to this number, in bytes.
    #[inline]
    pub fn distance_from(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// Returns the number of bytes from `other` to this number, if this is not the earlier one.
    #[inline]
    pub fn bytes_since(self, other: Self) -> u64 {
        self.0.wrapping_sub(other.0).into()
    }

    /// Returns whether this number comes after `other`.
    #[inline]
    pub fn is_after(self, other: Self) -> bool {
        self.distance_from(other) > 0
    }
}

impl From<TcpSeqNumber> for SeqNumber {
    fn from(TcpSeqNumber(number): TcpSeqNumber) -> Self {
        Self(number as u32)
    }
}

impl From<SeqNumber> for TcpSeqNumber {
    fn from(SeqNumber(number): SeqNumber) -> Self {
        Self(number as i32)
    }
}

/// The timestamps of a segment (RFC 7323 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpTimestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the latest TSval that the sender received.
    pub echo: u32,
}

/// Returns whether one TSval comes before another (RFC 7323 section 5.2).
#[inline]
pub fn is_older(value: u32, than: u32) -> bool {
    SeqNumber(value).distance_from(SeqNumber(than)) < 0
}

/// The options of a header, as far as vcgate uses them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// SACK permitted (RFC 2018 section 2).
    pub sack_permitted: bool,
    /// Timestamps (RFC 7323 section 3.2).
    pub timestamps: Option<TcpTimestamps>,
}

impl TcpOptions {
    /// Reads the bytes between the fixed header and the data, up to the first malformed option.
    #[inline]
    pub fn parse(options: &[u8]) -> Self {
        // The layout that nearly all stacks use after the handshake (RFC 7323 appendix A).
        if let [1, 1, 8, 10, v0, v1, v2, v3, e0, e1, e2, e3] = options {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            let echo = u32::from_be_bytes([*e0, *e1, *e2, *e3]);
            let timestamps = Some(TcpTimestamps { value, echo });
            return Self {
                timestamps,
                ..Self::default()
            };
        }
        Self::parse_each(options)
    }

    fn parse_each(mut options: &[u8]) -> Self {
        let mut found = Self::default();
        while let Ok((rest, option)) = TcpOption::parse(options) {
            match option {
                TcpOption::TimeStamp { tsval, tsecr } => {
                    let (value, echo) = (tsval, tsecr);
                    found.timestamps = Some(TcpTimestamps { value, echo });
                }
                TcpOption::SackPermitted => found.sack_permitted = true,
                TcpOption::EndOfList => break,
                _ => {}
            }
            options = rest;
        }
        found
    }
}

/// Returns the largest segment that fits into a packet of `mtu` bytes without options (RFC 6691):
/// 20 bytes of TCP header, and 20 bytes of IPv4 header or 40 bytes of IPv6 header.
pub fn max_segment_size(mtu: u16, family: IpAddr) -> u16 {
    let ip = match family {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    mtu.saturating_sub(ip + TCP_HEADER_LEN as u16)
}

/// Lowers the MSS option in a TCP header to `max`; returns the difference for the checksum.
///
/// A SYN without the option needs none: its sender accepts 536 bytes (RFC 9293 section 3.7.1).
pub fn clamp_mss(header: &mut [u8], max: u16) -> Delta {
    let Some(at) = find_mss(header) else {
        return Delta::default();
    };
    let Some([high, low]) = header.get_mut(at..at + 2) else {
        return Delta::default();
    };
    if u16::from_be_bytes([*high, *low]) <= max {
        return Delta::default();
    }
    let [new_high, new_low] = max.to_be_bytes();
    let odd = at % 2 == 1;
    Delta::default()
        .byte(odd, std::mem::replace(high, new_high), new_high)
        .byte(!odd, std::mem::replace(low, new_low), new_low)
}

/// Returns the offset of the MSS value from the start of the header.
fn find_mss(header: &[u8]) -> Option<usize> {
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

/// Raises the TSval of a packet to `clock` if it is older.
///
/// A receiver drops a segment whose TSval is older than the last one (RFC 7323 section 5.3).
pub fn raise_timestamp(packet: &mut Packet<'_>, clock: u32) {
    let complete = packet.checksum == Checksum::Complete;
    let l4 = packet.l4_mut();
    let Ok(tcp) = TcpPacket::new_checked(&*l4) else {
        return;
    };
    let Some(at) = find_timestamps(tcp.options()) else {
        return;
    };
    let mut sum = tcp.checksum();
    // The value follows the kind and the length of the option.
    let start = TCP_HEADER_LEN + at + 2;
    let Some(field) = l4.get_mut(start..).and_then(|l4| l4.first_chunk_mut()) else {
        return;
    };
    let (old, new) = (*field, clock.to_be_bytes());
    if !is_older(u32::from_be_bytes(old), clock) {
        return;
    }
    *field = new;
    for (i, (old, new)) in old.into_iter().zip(new).enumerate() {
        sum = Delta::default()
            .byte((start + i) % 2 == 1, old, new)
            .apply(sum);
    }
    if complete {
        TcpPacket::new_unchecked(l4).set_checksum(sum);
    }
}

/// Returns the offset of the timestamps option among the options.
fn find_timestamps(options: &[u8]) -> Option<usize> {
    let mut rest = options;
    while let Ok((next, option)) = TcpOption::parse(rest) {
        match option {
            TcpOption::TimeStamp { .. } => return Some(options.len() - rest.len()),
            TcpOption::EndOfList => return None,
            _ => rest = next,
        }
    }
    None
}

/// Clears the URG flag and the urgent pointer, so that urgent data stays in the stream.
///
/// Many stacks take the last urgent byte out of the stream (RFC 6093 section 2) and would read
/// other bytes than an observer of the segments.
pub fn clear_urgent(packet: &mut Packet<'_>) {
    let complete = packet.checksum == Checksum::Complete;
    let Ok(mut tcp) = TcpPacket::new_checked(packet.l4_mut()) else {
        return;
    };
    if !tcp.urg() {
        return;
    }
    let flags = |tcp: &TcpPacket<&mut [u8]>| {
        let l4 = tcp.as_ref();
        u16::from_be_bytes([l4[12], l4[13]])
    };
    let before = (flags(&tcp), tcp.urgent_at());
    tcp.set_urg(false);
    tcp.set_urgent_at(0);
    if complete {
        let delta = Delta::default().word(before.0, flags(&tcp));
        let sum = delta.word(before.1, 0).apply(tcp.checksum());
        tcp.set_checksum(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Address, Ipv4Packet};
    use std::net::{Ipv4Addr, Ipv6Addr};

    const SRC: Ipv4Address = Ipv4Address::new(192, 0, 2, 1);
    const DST: Ipv4Address = Ipv4Address::new(192, 0, 2, 2);

    /// A TCP segment over IPv4 with 3 bytes of data, options of at most 12 bytes and a correct
    /// checksum.
    fn segment(options: &[u8], urgent: Option<u16>) -> Vec<u8> {
        let mut bytes = vec![0; 20 + 20 + 12 + 3];
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_total_len(55);
        ip.set_next_header(IpProtocol::Tcp);
        ip.set_src_addr(SRC);
        ip.set_dst_addr(DST);
        ip.payload_mut()[20..20 + options.len()].copy_from_slice(options);
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        tcp.set_header_len(32);
        tcp.set_urg(urgent.is_some());
        tcp.set_urgent_at(urgent.unwrap_or_default());
        tcp.fill_checksum(&IpAddress::from(SRC), &IpAddress::from(DST));
        bytes
    }

    fn verified(packet: &[u8]) -> TcpPacket<&[u8]> {
        let tcp = TcpPacket::new_checked(&packet[20..]).unwrap();
        assert!(tcp.verify_checksum(&IpAddress::from(SRC), &IpAddress::from(DST)));
        tcp
    }

    #[test]
    fn rfc9293_3_4_sequence_numbers_compare_modulo_2_32() {
        let (before, after) = (SeqNumber(u32::MAX), SeqNumber(3));
        assert!(after.is_after(before) && !before.is_after(after));
        assert!(!after.is_after(after));
        assert_eq!(after.distance_from(before), 4);
        assert_eq!(before.distance_from(after), -4);
        assert_eq!((before.plus(4), SeqNumber(0).previous()), (after, before));
        assert_eq!(SeqNumber::from(TcpSeqNumber::from(before)), before);
    }

    /// RFC 7323 section 5.3: with its old value the server would drop the packet.
    #[test]
    fn an_old_tsval_is_raised_and_a_newer_one_stays() {
        for before in [&[1, 1, 8, 10][..], &[1, 8, 10], &[8, 10]] {
            let options = [before, &u32::MAX.to_be_bytes(), &[0, 0, 0, 9]].concat();
            let mut bytes = segment(&options, None);
            let mut raised_to = |clock| {
                let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
                raise_timestamp(&mut packet, clock);
                TcpOptions::parse(verified(packet.front()).options()).timestamps
            };
            let timestamps = |value| Some(TcpTimestamps { value, echo: 9 });
            assert_eq!(raised_to(u32::MAX - 5), timestamps(u32::MAX));
            assert_eq!(raised_to(0x0102_0304), timestamps(0x0102_0304));
        }
    }

    #[test]
    fn urgent_data_becomes_ordinary_data() {
        let mut bytes = segment(&[], Some(2));
        let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        clear_urgent(&mut packet);
        assert_eq!(bytes, segment(&[], None));
        verified(&bytes);
    }

    #[test]
    fn rfc7323_3_2_timestamps_are_found_at_any_offset() {
        let option = [8, 10, 0x80, 0, 0, 1, 0, 0, 0, 2];
        let timestamps = Some(TcpTimestamps {
            value: 0x8000_0001,
            echo: 2,
        });
        let after = |before: &[u8]| TcpOptions::parse(&[before, &option].concat()).timestamps;
        assert_eq!(after(&[1, 1]), timestamps);
        assert_eq!(after(&[2, 4, 5, 0xB4, 4, 2]), timestamps);
        // After the end of the list, after an invalid length, truncated.
        assert_eq!(after(&[0]), None);
        assert_eq!(after(&[2, 0]), None);
        assert_eq!(TcpOptions::parse(&option[..9]).timestamps, None);
        assert_eq!(TcpOptions::parse(&[]), TcpOptions::default());
    }

    #[test]
    fn rfc2018_2_sack_permitted_is_found() {
        // The SYN of Linux, and of Windows without timestamps.
        let linux = [
            2, 4, 5, 0xB4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let windows = [2, 4, 5, 0xB4, 1, 3, 3, 8, 1, 1, 4, 2];
        assert!(TcpOptions::parse(&linux).sack_permitted);
        assert!(TcpOptions::parse(&linux).timestamps.is_some());
        assert!(TcpOptions::parse(&windows).sack_permitted);
        assert!(!TcpOptions::parse(&windows[..8]).sack_permitted);
    }

    #[test]
    fn mss_leaves_space_for_the_headers_of_each_family() {
        assert_eq!(max_segment_size(1420, Ipv4Addr::LOCALHOST.into()), 1380);
        assert_eq!(max_segment_size(1420, Ipv6Addr::LOCALHOST.into()), 1360);
        assert_eq!(max_segment_size(10, Ipv4Addr::LOCALHOST.into()), 0);
    }
}
