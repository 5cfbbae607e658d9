//! Parsing of IPv4 and IPv6 headers up to the L4 header.
//!
//! Nothing here reads L4 headers except the ports.

use super::checksum::Delta;
use smoltcp::wire::{IpProtocol, checksum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of an IPv4 header without options, in bytes.
pub const IPV4_HEADER_LEN: usize = 20;
/// Length of an IPv6 header without extensions, in bytes.
pub const IPV6_HEADER_LEN: usize = 40;

/// The reason why an IP header is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The version is neither 4 nor 6.
    #[error("not IPv4 or IPv6")]
    Version,
    /// The header length is below the minimum, or the header is longer than the packet.
    #[error("bad IP header length")]
    HeaderLength,
    /// The total length is shorter than the header or longer than the received bytes.
    #[error("bad IP total length")]
    TotalLength,
    /// Loose or strict source routing (RFC 7126 sections 4.3 and 4.4: drop).
    #[error("source-route option")]
    SourceRoute,
    /// An IPv6 extension header is truncated or repeated, or there are too many.
    #[error("bad IPv6 extension header")]
    Extension,
}

/// The position of a fragment in its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// The identification that all fragments of a datagram share (16 bits in IPv4).
    pub id: u32,
    /// Offset of the payload of this fragment in the datagram, in bytes.
    pub offset: u16,
    /// Start of that payload, in bytes from the start of the IP header. In the first fragment of
    /// an IPv6 packet, extension headers may precede the L4 header there.
    pub payload_start: usize,
    /// More fragments follow.
    pub more: bool,
}

impl Fragment {
    /// Returns whether the datagram has other fragments. An IPv6 atomic fragment (RFC 6946) has
    /// none.
    pub fn has_others(&self) -> bool {
        self.offset != 0 || self.more
    }
}

/// A parsed and validated IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// The source address.
    pub src: IpAddr,
    /// The destination address.
    pub dst: IpAddr,
    /// The L4 protocol.
    pub protocol: IpProtocol,
    /// Start of the L4 header, in bytes from the start of the IP header.
    pub l4: usize,
    /// Length of the whole packet according to its IP header, in bytes.
    pub len: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The DF bit of IPv4; always true for IPv6.
    pub dont_fragment: bool,
    /// Set on every fragment of a fragmented datagram.
    pub fragment: Option<Fragment>,
}

impl Headers {
    /// Parses the header of a whole packet.
    ///
    /// # Errors
    /// If the header is malformed, or `packet` is shorter than its total length.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let headers = Self::parse_quote(packet)?;
        if headers.len > packet.len() || headers.len < headers.l4 {
            return Err(Malformed::TotalLength);
        }
        Ok(headers)
    }

    /// Parses the header of a packet that may be truncated, such as the quote in an ICMP error
    /// (RFC 792: header and 8 bytes).
    ///
    /// # Errors
    /// If the header is malformed or truncated.
    pub fn parse_quote(packet: &[u8]) -> Result<Self, Malformed> {
        match packet.first().map(|b| b >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            _ => Err(Malformed::Version),
        }
    }

    fn parse_v4(p: &[u8]) -> Result<Self, Malformed> {
        if p.len() < IPV4_HEADER_LEN {
            return Err(Malformed::HeaderLength);
        }
        let l4 = usize::from(p[0] & 0x0F) * 4;
        if l4 < IPV4_HEADER_LEN || l4 > p.len() {
            return Err(Malformed::HeaderLength);
        }
        if l4 > IPV4_HEADER_LEN && has_source_route(&p[IPV4_HEADER_LEN..l4]) {
            return Err(Malformed::SourceRoute);
        }
        let flags = u16::from_be_bytes([p[6], p[7]]);
        let (offset, more) = ((flags & 0x1FFF) * 8, flags & 0x2000 != 0);
        Ok(Self {
            src: Ipv4Addr::new(p[12], p[13], p[14], p[15]).into(),
            dst: Ipv4Addr::new(p[16], p[17], p[18], p[19]).into(),
            protocol: p[9].into(),
            l4,
            len: u16::from_be_bytes([p[2], p[3]]).into(),
            ttl: p[8],
            dont_fragment: flags & 0x4000 != 0,
            fragment: (offset != 0 || more).then_some(Fragment {
                id: u16::from_be_bytes([p[4], p[5]]).into(),
                offset,
                payload_start: l4,
                more,
            }),
        })
    }

    fn parse_v6(p: &[u8]) -> Result<Self, Malformed> {
        if p.len() < IPV6_HEADER_LEN {
            return Err(Malformed::HeaderLength);
        }
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&p[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        let (protocol, l4, fragment) = skip_extensions(p)?;
        Ok(Self {
            src: address(8),
            dst: address(24),
            protocol,
            l4,
            len: IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([p[4], p[5]])),
            ttl: p[7],
            dont_fragment: true,
            fragment,
        })
    }

    /// Returns the number of bytes after the IP header and its options or extensions.
    pub fn l4_len(&self) -> usize {
        self.len - self.l4
    }

    /// Returns the source and destination ports of a TCP or UDP packet if `l4` contains them.
    pub fn ports(&self, l4: &[u8]) -> Option<(u16, u16)> {
        let known = matches!(self.protocol, IpProtocol::Tcp | IpProtocol::Udp);
        match l4 {
            [a, b, c, d, ..] if known && self.has_l4() => {
                Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
            }
            _ => None,
        }
    }

    /// Returns the ones' complement sum, not complemented, over the pseudo-header of a packet with
    /// `l4_len` bytes after the IP header (RFC 9293 section 3.1, RFC 8200 section 8.1).
    pub fn pseudo_header(&self, l4_len: usize) -> u16 {
        let addresses = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                [checksum::data(&src.octets()), checksum::data(&dst.octets())]
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                [checksum::data(&src.octets()), checksum::data(&dst.octets())]
            }
            _ => [0, 0], // one header has one family
        };
        checksum::combine(&[
            addresses[0],
            addresses[1],
            u8::from(self.protocol).into(),
            l4_len as u16,
            (l4_len >> 16) as u16,
        ])
    }

    /// Writes `len` into the length field of the header at the beginning of `packet`, and updates
    /// IPv4's header checksum (RFC 1624).
    ///
    /// # Panics
    /// If `packet` is shorter than an IP header.
    pub fn write_len(&self, packet: &mut [u8]) {
        match self.src {
            IpAddr::V4(_) => {
                let old = u16::from_be_bytes([packet[2], packet[3]]);
                let new = self.len as u16;
                packet[2..4].copy_from_slice(&new.to_be_bytes());
                let sum = u16::from_be_bytes([packet[10], packet[11]]);
                let sum = Delta::default().word(old, new).apply(sum);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            IpAddr::V6(_) => {
                let len = (self.len - IPV6_HEADER_LEN) as u16;
                packet[4..6].copy_from_slice(&len.to_be_bytes());
            }
        }
    }

    /// Returns whether the packet contains the L4 header: it is not a fragment, or the first one.
    pub fn has_l4(&self) -> bool {
        self.fragment.is_none_or(|f| f.offset == 0)
    }
}

/// Returns whether a router may forward packets with this address: false for multicast, loopback,
/// broadcast, link-local and unspecified addresses (RFC 1812 section 5.3.7, RFC 3927 section 7,
/// RFC 4291 section 2.7).
pub fn is_forwardable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            !(a.is_multicast()
                || a.is_loopback()
                || a.is_broadcast()
                || a.is_link_local()
                || a.octets()[0] == 0)
        }
        IpAddr::V6(a) => {
            !(a.is_multicast()
                || a.is_loopback()
                || a.is_unspecified()
                || a.is_unicast_link_local())
        }
    }
}

fn has_source_route(options: &[u8]) -> bool {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let mut rest = options;
    loop {
        match rest {
            [] | [END, ..] => return false,
            [NOP, tail @ ..] => rest = tail,
            [LOOSE | STRICT, ..] => return true,
            [_, len, ..] if usize::from(*len) >= 2 && usize::from(*len) <= rest.len() => {
                rest = &rest[usize::from(*len)..];
            }
            _ => return false,
        }
    }
}

/// Walks hop-by-hop, routing, destination and fragment headers (RFC 8200 section 4).
fn skip_extensions(p: &[u8]) -> Result<(IpProtocol, usize, Option<Fragment>), Malformed> {
    /// Maximum number of extension headers; legitimate packets have fewer.
    const MAX_EXTENSIONS: usize = 8;
    let mut next = IpProtocol::from(p[6]);
    let mut at = IPV6_HEADER_LEN;
    let mut fragment = None;
    for _ in 0..MAX_EXTENSIONS {
        let len = match next {
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts => {
                8 + usize::from(*p.get(at + 1).ok_or(Malformed::Extension)?) * 8
            }
            IpProtocol::Ipv6Route => {
                let segments_left = *p.get(at + 3).ok_or(Malformed::Extension)?;
                if segments_left != 0 {
                    return Err(Malformed::SourceRoute);
                }
                8 + usize::from(p[at + 1]) * 8
            }
            // A packet has at most one (RFC 8200 section 4.1).
            IpProtocol::Ipv6Frag if fragment.is_some() => return Err(Malformed::Extension),
            IpProtocol::Ipv6Frag => {
                let f = p.get(at..at + 8).ok_or(Malformed::Extension)?;
                let flags = u16::from_be_bytes([f[2], f[3]]);
                fragment = Some(Fragment {
                    id: u32::from_be_bytes([f[4], f[5], f[6], f[7]]),
                    offset: flags & 0xFFF8,
                    payload_start: at + 8,
                    more: flags & 1 != 0,
                });
                8
            }
            _ => return Ok((next, at, fragment)),
        };
        next = IpProtocol::from(*p.get(at).ok_or(Malformed::Extension)?);
        at += len;
        if at > p.len() {
            return Err(Malformed::Extension);
        }
        if fragment.is_some_and(|f| f.offset != 0) {
            return Ok((next, at, fragment));
        }
    }
    Err(Malformed::Extension)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UDP4: [u8; 28] = [
        0x45, 0, 0, 28, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 10, 8, 0, 11, 192, 168, 77, 10, 0x30,
        0x39, 0, 53, 0, 8, 0, 0,
    ];

    #[test]
    fn an_ipv4_header_is_parsed() {
        let h = Headers::parse(&UDP4).unwrap();
        assert_eq!(h.src, IpAddr::from([10, 8, 0, 11]));
        assert_eq!(h.dst, IpAddr::from([192, 168, 77, 10]));
        assert_eq!(
            (h.protocol, h.l4, h.len, h.ttl),
            (IpProtocol::Udp, 20, 28, 64)
        );
        assert!(h.dont_fragment && h.fragment.is_none() && h.has_l4());
    }

    #[test]
    fn malformed_headers_are_rejected_by_version_header_length_and_total_length() {
        let mut p = UDP4;
        p[0] = 0x55;
        assert_eq!(Headers::parse(&p), Err(Malformed::Version));
        p[0] = 0x44;
        assert_eq!(Headers::parse(&p), Err(Malformed::HeaderLength));
        p[0] = 0x45;
        p[3] = 29;
        assert_eq!(Headers::parse(&p), Err(Malformed::TotalLength));
        p[3] = 19;
        assert_eq!(Headers::parse(&p), Err(Malformed::TotalLength));
    }

    #[test]
    fn source_routes_are_rejected() {
        let mut p = [0u8; 24];
        p[..20].copy_from_slice(&UDP4[..20]);
        (p[0], p[3], p[20], p[21], p[22]) = (0x46, 24, 131, 3, 4);
        assert_eq!(Headers::parse(&p), Err(Malformed::SourceRoute));
        p[20] = 1;
        assert!(Headers::parse(&p).is_ok());
    }

    #[test]
    fn rfc8200_extension_headers_are_walked_and_a_second_fragment_header_is_not() {
        let packet = |next: u8, rest: &[u8]| {
            let mut p = vec![0x60, 0, 0, 0, 0, rest.len() as u8, next, 64];
            p.extend([0xFD; 32]);
            p.extend(rest);
            p
        };
        let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
        let fragment = |next, offset| [next, 0, 0, offset, 1, 2, 3, 4];
        let p = packet(
            0,
            &[options(44), fragment(60, 1), options(17), [0; 8]].concat(),
        );
        let h = Headers::parse(&p).unwrap();
        assert_eq!((h.protocol, h.l4, h.has_l4()), (IpProtocol::Udp, 64, true));
        let expected = Fragment {
            id: 0x0102_0304,
            offset: 0,
            payload_start: 56,
            more: true,
        };
        assert_eq!(h.fragment, Some(expected));
        // A later fragment contains no L4 header.
        let p = packet(44, &[fragment(60, 8), [0xFF; 8]].concat());
        let h = Headers::parse(&p).unwrap();
        assert_eq!((h.l4, h.has_l4()), (48, false));
        let p = packet(44, &[fragment(44, 1), fragment(17, 1), [0; 8]].concat());
        assert_eq!(Headers::parse(&p), Err(Malformed::Extension));
        let used_up = [17, 0, 2, 0, 0, 0, 0, 0];
        let p = packet(43, &[used_up, [0; 8]].concat());
        assert_eq!(Headers::parse(&p).unwrap().l4, 48);
        let p = packet(43, &[[17, 0, 2, 1, 0, 0, 0, 0], [0; 8]].concat());
        assert_eq!(Headers::parse(&p), Err(Malformed::SourceRoute));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..128), version in 0u8..8) {
            let mut bytes = bytes;
            if let Some(b) = bytes.first_mut() { *b = *b & 0x0F | version << 4; }
            if let Ok(h) = Headers::parse(&bytes) {
                prop_assert!(h.l4 <= h.len && h.len <= bytes.len());
            }
            let _ = Headers::parse_quote(&bytes);
        }
    }
}
