//! Unwraps mirrored, tunnelled and overlay traffic that is not encrypted, and recognizes packets of
//! VPNs by their protocol.

use super::link::{self, Content};
use super::unread::Reason;

/// Returns the packet in a UDP datagram of a known encapsulation. `len` is its length on the
/// wire, of which `udp` is the part that was captured.
pub(super) fn udp(udp: &[u8], len: usize) -> Option<Content<'_>> {
    const HEADER: usize = 8;
    const VXLAN: [u16; 2] = [4789, 8472];
    const GENEVE: u16 = 6081;
    const TZSP: u16 = 37_008;
    const IPSEC: u16 = 4500;
    let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    let ports = [port(0)?, port(2)?];
    let payload = udp.get(HEADER..)?;
    let len = len.checked_sub(HEADER)?;
    match ports {
        [_, to] if VXLAN.contains(&to) => Some(vxlan(payload)),
        [_, GENEVE] => Some(geneve(payload)),
        [_, TZSP] => Some(tzsp(payload)),
        _ if ports.contains(&IPSEC) && is_esp(payload) => {
            Some(Content::Unread(Reason::Vpn("IPsec")))
        }
        _ if is_wireguard(payload, len) => Some(Content::Unread(Reason::Vpn("WireGuard"))),
        _ => None,
    }
}

/// RFC 3948 section 2.2: the SPI of ESP is not zero, then comes its sequence number. A NAT keepalive
/// is one byte, and IKE begins with zeros.
fn is_esp(payload: &[u8]) -> bool {
    payload.len() >= 8 && !payload.starts_with(&[0; 4])
}

/// The four messages of WireGuard have known lengths (its paper, section 5.4).
fn is_wireguard(payload: &[u8], len: usize) -> bool {
    match payload {
        [1, 0, 0, 0, ..] => len == 148,
        [2, 0, 0, 0, ..] => len == 92,
        [3, 0, 0, 0, ..] => len == 64,
        [4, 0, 0, 0, ..] => len >= 32 && len.is_multiple_of(16),
        _ => false,
    }
}

/// RFC 7348 section 5.
fn vxlan(payload: &[u8]) -> Content<'_> {
    match payload {
        [flags, _, _, _, _, _, _, _, frame @ ..] if flags & 0x08 != 0 => link::ethernet(frame),
        _ => Content::Unread(Reason::Encapsulation("VXLAN")),
    }
}

/// RFC 8926 section 3.4.
fn geneve(payload: &[u8]) -> Content<'_> {
    let ([first, _, a, b, ..], Some(options)) = (payload, payload.first().map(|b| b & 0x3F)) else {
        return Content::Unread(Reason::Encapsulation("Geneve"));
    };
    let rest = payload.get(8 + 4 * usize::from(options)..);
    match (first >> 6, [*a, *b]) {
        (0, TRANSPARENT_ETHERNET) => rest.map_or(Content::Unread(Reason::Cut), link::ethernet),
        (0, kind) => link::by_ether_type(kind, rest),
        _ => Content::Unread(Reason::Encapsulation("Geneve")),
    }
}

/// TaZmen Sniffer Protocol, version 1: four bytes, then tags until one that ends them.
fn tzsp(payload: &[u8]) -> Content<'_> {
    const UNREAD: Content<'_> = Content::Unread(Reason::Encapsulation("TZSP"));
    let [1, 0, 0, 1, tags @ ..] = payload else {
        return UNREAD;
    };
    let mut tags = tags;
    loop {
        tags = match tags {
            [0, rest @ ..] => rest,
            [1, frame @ ..] => return link::ethernet(frame),
            [_, len, rest @ ..] => match rest.get(usize::from(*len)..) {
                Some(rest) => rest,
                None => return UNREAD,
            },
            _ => return UNREAD,
        };
    }
}

const TRANSPARENT_ETHERNET: [u8; 2] = [0x65, 0x58];

/// Returns the packet in GRE (RFC 2784, RFC 2890; RFC 2637 for PPTP; ERSPAN by draft-foschiano-erspan).
pub(super) fn gre(packet: &[u8]) -> Content<'_> {
    const CHECKSUM: u8 = 0x80;
    const ROUTING: u8 = 0x40;
    const KEY: u8 = 0x20;
    const SEQUENCE: u8 = 0x10;
    const ACKNOWLEDGEMENT: u8 = 0x80;
    const PPP: [u8; 2] = [0x88, 0x0B];
    const ERSPAN_2: [u8; 2] = [0x88, 0xBE];
    const ERSPAN_3: [u8; 2] = [0x22, 0xEB];
    let [flags, version, kind @ ..] = packet else {
        return Content::Unread(Reason::Cut);
    };
    let Some(kind) = kind.first_chunk::<2>() else {
        return Content::Unread(Reason::Cut);
    };
    let is_enhanced = version & 0x07 == 1;
    let with = |bits: u8, bit: u8| 4 * usize::from(bits & bit != 0);
    let header = 4
        + with(*flags, CHECKSUM)
        + with(*flags, KEY)
        + with(*flags, SEQUENCE)
        + match is_enhanced {
            true => with(*version, ACKNOWLEDGEMENT),
            false => 0,
        };
    let Some(rest) = packet.get(header..) else {
        return Content::Unread(Reason::Cut);
    };
    if flags & ROUTING != 0 || version & 0x07 > 1 {
        return Content::Unread(Reason::Encapsulation("GRE"));
    }
    match *kind {
        PPP => link::ppp(Some(rest)),
        TRANSPARENT_ETHERNET => link::ethernet(rest),
        // Without a sequence number it is ERSPAN's first type, which has no header of its own.
        ERSPAN_2 if flags & SEQUENCE == 0 => link::ethernet(rest),
        ERSPAN_2 => erspan(rest, 8),
        ERSPAN_3 => {
            let has_trailer = rest.get(11).is_some_and(|byte| byte & 1 == 1);
            erspan(rest, 12 + 8 * usize::from(has_trailer))
        }
        kind @ ([0x08, 0x00] | [0x86, 0xDD] | [0x88, 0x47 | 0x48]) => {
            link::by_ether_type(kind, Some(rest))
        }
        kind => Content::Unread(Reason::Gre(u16::from_be_bytes(kind))),
    }
}

fn erspan(rest: &[u8], header: usize) -> Content<'_> {
    rest.get(header..)
        .map_or(Content::Unread(Reason::Cut), link::ethernet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ethernet() -> Vec<u8> {
        [&[2; 12][..], &[0x08, 0], b"Epacket"].concat()
    }

    fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
        let len = (8 + payload.len() as u16).to_be_bytes();
        [&[0xC0, 0], &port.to_be_bytes()[..], &len, &[0, 0], payload].concat()
    }

    fn in_udp(port: u16, payload: &[u8]) -> Option<String> {
        let datagram = datagram(port, payload);
        match udp(&datagram, datagram.len())? {
            Content::Ip(b"Epacket") => Some("packet".to_owned()),
            Content::Unread(reason) => Some(reason.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_what_udp_carries() {
        let vxlan = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &ethernet()].concat();
        let geneve = [&[1, 0, 0x65, 0x58, 0, 0, 7, 0, 9, 9, 9, 9][..], &ethernet()].concat();
        let geneve_ip = [&[0, 0, 0x08, 0, 0, 0, 7, 0][..], b"Epacket"].concat();
        let tzsp = [&[1, 0, 0, 1, 0, 0x0A, 1, 0xC0, 1][..], &ethernet()].concat();
        for (port, payload) in [
            (4789, vxlan.clone()),
            (8472, vxlan),
            (6081, geneve),
            (6081, geneve_ip),
            (37_008, tzsp),
        ] {
            assert_eq!(in_udp(port, &payload).as_deref(), Some("packet"), "{port}");
        }
        assert!(
            in_udp(4789, &[0; 30])
                .unwrap()
                .ends_with("VXLAN is not supported")
        );
    }

    #[test]
    fn names_vpns_and_takes_nothing_else_for_one() {
        let esp = [9; 8];
        assert_eq!(
            in_udp(4500, &esp).as_deref(),
            Some("packet of a VPN: IPsec")
        );
        let ike = [&[0; 4][..], &[9; 28]].concat();
        for payload in [&b""[..], &[0xFF], &[0; 3], &ike] {
            assert_eq!(in_udp(4500, payload), None, "{payload:?}");
        }
        let wireguard = |kind, len| {
            let mut message = vec![0; len];
            message[0] = kind;
            in_udp(51_820, &message)
        };
        let named = Some("packet of a VPN: WireGuard".to_owned());
        for (kind, len) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1440)] {
            assert_eq!(wireguard(kind, len), named);
        }
        for (kind, len) in [(1, 147), (4, 16), (4, 33), (5, 64), (0, 64)] {
            assert_eq!(wireguard(kind, len), None);
        }
    }

    #[test]
    fn reads_what_gre_carries() {
        let mpls = [&[0, 0, 1, 64][..], b"Epacket"].concat();
        for (header, payload) in [
            (&[0, 0, 0x08, 0][..], b"Epacket".to_vec()),
            (
                &[0xB0, 0, 0x86, 0xDD, 1, 1, 0, 0, 2, 2, 2, 2, 3, 3, 3, 3],
                b"Epacket".to_vec(),
            ),
            (&[0, 0, 0x65, 0x58], ethernet()),
            (&[0, 0, 0x88, 0x47], mpls),
            (&[0, 0, 0x88, 0xBE], ethernet()),
            (
                &[0x10, 0, 0x88, 0xBE, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9],
                ethernet(),
            ),
            (
                &[
                    0x10, 0, 0x22, 0xEB, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0,
                ],
                ethernet(),
            ),
            (
                &[
                    0x30, 0x81, 0x88, 0x0B, 0, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x21,
                ],
                b"Epacket".to_vec(),
            ),
        ] {
            let packet = [header, &payload].concat();
            assert_eq!(gre(&packet), Content::Ip(b"Epacket"), "{header:?}");
        }
        assert_eq!(
            gre(&[0, 0, 0x12, 0x34]),
            Content::Unread(Reason::Gre(0x1234))
        );
        assert_eq!(gre(&[0]), Content::Unread(Reason::Cut));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(port in prop::sample::select(vec![4789u16, 8472, 6081, 37_008, 4500, 1]),
                          bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = udp(&datagram(port, &bytes), 8 + bytes.len());
            let _ = udp(&bytes, bytes.len());
            let _ = gre(&bytes);
        }
    }
}
