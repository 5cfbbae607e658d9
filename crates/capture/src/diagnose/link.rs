//! From a captured frame of any link type to the IP packet in it.
//!
//! The link types are those of the tcpdump group's registry; the number is in the capture file.

use super::unread::Reason;

/// The content of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// An IP packet, possibly truncated.
    Ip(&'a [u8]),
    /// Something of no interest, such as ARP.
    Other,
    /// A frame that is not understood.
    Unread(Reason),
}

/// The content of a frame on this link.
pub(super) fn content(link: i32, frame: &[u8]) -> Content<'_> {
    match link {
        ETHERNET => ethernet(frame),
        LINUX_SLL => ether_type(frame, 14),
        LINUX_SLL2 => match frame {
            [a, b, ..] => by_ether_type([*a, *b], frame.get(20..)),
            _ => Content::Unread(Reason::Cut),
        },
        // Four bytes identify IPv4 or IPv6, depending on the system; the packet does too.
        NULL | LOOP => ip(frame.get(4..)),
        RAW | RAW_BSD | RAW_OPENBSD | IPV4 | IPV6 => ip(Some(frame)),
        PPP_ETHER => ppp(frame.get(6..)),
        PPP | PPP_HDLC => ppp(Some(frame)),
        PPP_WITH_DIR => ppp(frame.get(1..)),
        C_HDLC => ether_type(frame, 2),
        ENC => ip(frame.get(12..)),
        PFLOG => pflog(frame),
        NFLOG => nflog(frame),
        MPLS => mpls(frame),
        _ => Content::Unread(Reason::Link(link)),
    }
}

/// Returns the name of a supported link type.
pub(super) fn name(link: i32) -> Option<&'static str> {
    Some(match link {
        ETHERNET => "Ethernet",
        LINUX_SLL | LINUX_SLL2 => "Linux cooked",
        NULL | LOOP => "loopback",
        RAW | RAW_BSD | RAW_OPENBSD | IPV4 | IPV6 => "raw IP",
        PPP | PPP_HDLC | PPP_WITH_DIR => "PPP",
        PPP_ETHER => "PPPoE",
        C_HDLC => "Cisco HDLC",
        ENC => "OpenBSD enc",
        PFLOG => "pflog",
        NFLOG => "nflog",
        MPLS => "MPLS",
        _ => return None,
    })
}

const NULL: i32 = 0;
const ETHERNET: i32 = 1;
const PPP: i32 = 9;
const RAW_BSD: i32 = 12;
const RAW_OPENBSD: i32 = 14;
const PPP_HDLC: i32 = 50;
const PPP_ETHER: i32 = 51;
const RAW: i32 = 101;
const C_HDLC: i32 = 104;
const LOOP: i32 = 108;
const ENC: i32 = 109;
const LINUX_SLL: i32 = 113;
const PFLOG: i32 = 117;
const PPP_WITH_DIR: i32 = 204;
const MPLS: i32 = 219;
const IPV4: i32 = 228;
const IPV6: i32 = 229;
const NFLOG: i32 = 239;
const LINUX_SLL2: i32 = 276;

fn ip(packet: Option<&[u8]>) -> Content<'_> {
    packet.map_or(Content::Unread(Reason::Cut), Content::Ip)
}

/// The content of an Ethernet frame.
pub(super) fn ethernet(frame: &[u8]) -> Content<'_> {
    ether_type(frame, 12)
}

/// The content after the type field at `at`.
fn ether_type(frame: &[u8], at: usize) -> Content<'_> {
    match frame.get(at..) {
        Some([a, b, rest @ ..]) => by_ether_type([*a, *b], Some(rest)),
        _ => Content::Unread(Reason::Cut),
    }
}

/// The content that an EtherType announces.
pub(super) fn by_ether_type(kind: [u8; 2], rest: Option<&[u8]>) -> Content<'_> {
    const V4: u16 = 0x0800;
    const ARP: u16 = 0x0806;
    const V6: u16 = 0x86DD;
    const VLAN: u16 = 0x8100;
    const QINQ: u16 = 0x88A8;
    const QINQ_OLD: u16 = 0x9100;
    const PPPOE_DISCOVERY: u16 = 0x8863;
    const PPPOE: u16 = 0x8864;
    const MPLS: u16 = 0x8847;
    const MPLS_MULTICAST: u16 = 0x8848;
    const SLOW: u16 = 0x8809;
    const EAPOL: u16 = 0x888E;
    const LLDP: u16 = 0x88CC;
    const LOOPBACK: u16 = 0x9000;
    let Some(rest) = rest else {
        return Content::Unread(Reason::Cut);
    };
    match u16::from_be_bytes(kind) {
        V4 | V6 => Content::Ip(rest),
        // Each tag consumes four bytes, so the loop ends.
        VLAN | QINQ | QINQ_OLD => ether_type(rest, 2),
        PPPOE => ppp(rest.get(6..)),
        MPLS | MPLS_MULTICAST => mpls(rest),
        // Below 0x0600 it is the length of an IEEE 802.3 frame, which carries no IP.
        ..0x0600 | ARP | PPPOE_DISCOVERY | SLOW | EAPOL | LLDP | LOOPBACK => Content::Other,
        other => Content::Unread(Reason::EtherType(other)),
    }
}

/// RFC 1661 section 2, and RFC 1662 section 3.1 for the two bytes that may come first.
pub(super) fn ppp(frame: Option<&[u8]>) -> Content<'_> {
    let Some(frame) = frame else {
        return Content::Unread(Reason::Cut);
    };
    match frame.strip_prefix(&[0xFF, 0x03]).unwrap_or(frame) {
        [0x00, 0x21 | 0x57, packet @ ..] | [0x21 | 0x57, packet @ ..] => Content::Ip(packet),
        // RFC 1962 compresses and RFC 1968 encrypts whole packets.
        [0x00, 0xFB | 0xFD | 0x53 | 0x55, ..] | [0xFB | 0xFD | 0x53 | 0x55, ..] => {
            Content::Unread(Reason::Vpn("PPP, compressed or encrypted"))
        }
        // Link and network control.
        [0x80..=0xFF, _, ..] => Content::Other,
        _ => Content::Unread(Reason::Encapsulation("PPP")),
    }
}

/// RFC 3032 section 2.1: labels of four bytes, the last of which has its bottom bit set.
fn mpls(mut rest: &[u8]) -> Content<'_> {
    while let [_, _, bottom, _, after @ ..] = rest {
        rest = after;
        if bottom & 1 == 1 {
            return match rest.first().map(|byte| byte >> 4) {
                Some(4 | 6) => Content::Ip(rest),
                Some(_) => Content::Unread(Reason::Mpls),
                None => Content::Unread(Reason::Cut),
            };
        }
    }
    Content::Unread(Reason::Cut)
}

/// OpenBSD's and FreeBSD's firewall log: the first byte is the length of a header that is padded
/// to four bytes.
fn pflog(frame: &[u8]) -> Content<'_> {
    let header = frame
        .first()
        .map(|len| usize::from(*len).next_multiple_of(4));
    ip(header.and_then(|header| frame.get(header..)))
}

/// Linux's firewall log: four bytes, then attributes of which one is the packet. Their numbers are
/// in the byte order of the machine that captured.
fn nflog(frame: &[u8]) -> Content<'_> {
    const HEADER: usize = 4;
    const PAYLOAD: u16 = 9;
    let find = |number: fn([u8; 2]) -> u16| {
        let mut rest = frame.get(HEADER..)?;
        while let [a, b, c, d, ..] = rest {
            let (len, kind) = (usize::from(number([*a, *b])), number([*c, *d]));
            if kind == PAYLOAD {
                // A frame that was cut has less.
                return (len >= HEADER).then(|| &rest[HEADER..len.min(rest.len())]);
            }
            if len < HEADER {
                return None;
            }
            rest = rest.get(len.next_multiple_of(4)..)?;
        }
        None
    };
    match find(u16::from_le_bytes).or_else(|| find(u16::from_be_bytes)) {
        Some(packet) => Content::Ip(packet),
        None => Content::Unread(Reason::Encapsulation("nflog")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_packet_on_each_link() {
        let frame = |header: &[u8]| [header, b"Epacket"].concat();
        let mac = [2; 12];
        let ether = |rest: &[u8]| frame(&[&mac, rest].concat());
        let sll2 = [&[0x86, 0xDD][..], &[0; 18]].concat();
        let nflog =
            |prefix: &[u8], len: [u8; 4]| frame(&[&[2, 0, 0, 5][..], prefix, &len].concat());
        for (link, bytes) in [
            (1, ether(&[0x08, 0])),
            (1, ether(&[0x86, 0xDD])),
            (1, ether(&[0x81, 0, 0, 7, 0x08, 0])),
            (1, ether(&[0x88, 0xA8, 0, 7, 0x81, 0, 0, 8, 0x08, 0])),
            (1, ether(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 8, 0, 0x21])),
            (1, ether(&[0x88, 0x47, 0, 0, 0x10, 64, 0, 0, 0x21, 64])),
            (113, frame(&[&[0; 14][..], &[0x08, 0]].concat())),
            (276, frame(&sll2)),
            (0, frame(&[2, 0, 0, 0])),
            (108, frame(&[0, 0, 0, 2])),
            (9, frame(&[0xFF, 3, 0, 0x21])),
            (50, frame(&[0, 0x57])),
            (51, frame(&[0x11, 0, 0, 1, 0, 8, 0, 0x21])),
            (204, frame(&[1, 0xFF, 3, 0, 0x21])),
            (104, frame(&[0x0F, 0, 0x08, 0])),
            (109, frame(&[2; 12])),
            (117, frame(&[&[61][..], &[2; 63]].concat())),
            (117, frame(&[&[100][..], &[2; 99]].concat())),
            (219, frame(&[0, 0, 0x21, 64])),
            (239, nflog(&[6, 0, 10, 0, b'x', 0, 0, 0], [11, 0, 9, 0])),
            (239, nflog(&[0, 6, 0, 10, b'x', 0, 0, 0], [0, 11, 0, 9])),
            (101, frame(&[])),
            (12, frame(&[])),
            (14, frame(&[])),
            (228, frame(&[])),
            (229, frame(&[])),
        ] {
            assert_eq!(content(link, &bytes), Content::Ip(b"Epacket"), "{link}");
            assert!(name(link).is_some());
        }
    }

    #[test]
    fn names_what_it_does_not_read() {
        let arp = [&[2; 12][..], &[0x08, 0x06], &[0; 28]].concat();
        assert_eq!(content(1, &arp), Content::Other);
        assert_eq!(content(9, &[0xFF, 3, 0xC0, 0x21, 1]), Content::Other);
        for (link, bytes, reason) in [
            (
                147,
                &arp[..],
                "link type 147 (private use) is not supported",
            ),
            (
                127,
                &arp,
                "link type 127 (Wi-Fi with radiotap header) is not supported",
            ),
            (9999, &arp, "link type 9999 is not supported"),
            (1, &arp[..13], "captured without the end of the TCP header"),
            (
                219,
                &[0, 0, 1, 64, 0, 0],
                "MPLS with something other than IP in it",
            ),
            (
                9,
                &[0, 0xFD, 1],
                "packet of a VPN: PPP, compressed or encrypted",
            ),
            (239, &[0; 20], "this form of nflog is not supported"),
        ] {
            let Content::Unread(found) = content(link, bytes) else {
                panic!("{link}");
            };
            assert_eq!(found.to_string(), reason);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(link in 0..300i32, bytes in prop::collection::vec(any::<u8>(), 0..80),
                          kind: u16) {
            let _ = content(link, &bytes);
            let _ = by_ether_type(kind.to_be_bytes(), Some(&bytes));
        }
    }
}
