//! From a frame of whatever link to the IP packet in it.
//!
//! The link types are those of the tcpdump group's registry; the numbers are in the capture file.

/// An IP packet, or as much of it as was captured.
///
/// `None` is a frame that carries something else, or a link that is not known here.
pub fn ip_packet(link: i32, frame: &[u8]) -> Option<&[u8]> {
    match link {
        ETHERNET => ether_type(frame, 12),
        LINUX_SLL => ether_type(frame, 14),
        LINUX_SLL2 => match frame {
            [a, b, ..] => by_ether_type([*a, *b], frame.get(20..)?),
            _ => None,
        },
        // Four bytes say IPv4 or IPv6 in a way that depends on the system; so does the packet.
        NULL | LOOP => frame.get(4..),
        RAW | RAW_BSD | RAW_OPENBSD | IPV4 | IPV6 => Some(frame),
        PPP | PPP_HDLC => ppp(frame),
        _ => None,
    }
}

/// What a person calls the link; `None` if it is not known here.
pub fn name(link: i32) -> Option<&'static str> {
    Some(match link {
        ETHERNET => "Ethernet",
        LINUX_SLL | LINUX_SLL2 => "Linux cooked",
        NULL | LOOP => "loopback",
        RAW | RAW_BSD | RAW_OPENBSD | IPV4 | IPV6 => "raw IP",
        PPP | PPP_HDLC => "PPP",
        _ => return None,
    })
}

const NULL: i32 = 0;
const ETHERNET: i32 = 1;
const PPP: i32 = 9;
const RAW_BSD: i32 = 12;
const RAW_OPENBSD: i32 = 14;
const PPP_HDLC: i32 = 50;
const RAW: i32 = 101;
const LOOP: i32 = 108;
const LINUX_SLL: i32 = 113;
const IPV4: i32 = 228;
const IPV6: i32 = 229;
const LINUX_SLL2: i32 = 276;

/// What follows the type field at `at`.
fn ether_type(frame: &[u8], at: usize) -> Option<&[u8]> {
    match frame.get(at..)? {
        [a, b, rest @ ..] => by_ether_type([*a, *b], rest),
        _ => None,
    }
}

fn by_ether_type(kind: [u8; 2], rest: &[u8]) -> Option<&[u8]> {
    const V4: u16 = 0x0800;
    const V6: u16 = 0x86DD;
    const VLAN: u16 = 0x8100;
    const QINQ: u16 = 0x88A8;
    const QINQ_OLD: u16 = 0x9100;
    const PPPOE: u16 = 0x8864;
    match u16::from_be_bytes(kind) {
        V4 | V6 => Some(rest),
        // Each tag takes four bytes from the rest, so this ends.
        VLAN | QINQ | QINQ_OLD => ether_type(rest, 2),
        PPPOE => ppp(rest.get(6..)?),
        _ => None,
    }
}

/// RFC 1661 section 2, and RFC 1662 section 3.1 for the two bytes that may be in front.
fn ppp(frame: &[u8]) -> Option<&[u8]> {
    match frame.strip_prefix(&[0xFF, 0x03]).unwrap_or(frame) {
        [0x00, 0x21 | 0x57, packet @ ..] | [0x21 | 0x57, packet @ ..] => Some(packet),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_packet_behind_each_link() {
        let frame = |header: &[u8]| [header, b"packet"].concat();
        let mac = [2; 12];
        let ether = |rest: &[u8]| frame(&[&mac, rest].concat());
        let sll2 = [&[0x86, 0xDD][..], &[0; 18]].concat();
        for (link, bytes) in [
            (1, ether(&[0x08, 0])),
            (1, ether(&[0x86, 0xDD])),
            (1, ether(&[0x81, 0, 0, 7, 0x08, 0])),
            (1, ether(&[0x88, 0xA8, 0, 7, 0x81, 0, 0, 8, 0x08, 0])),
            (1, ether(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 8, 0, 0x21])),
            (113, frame(&[&[0; 14][..], &[0x08, 0]].concat())),
            (276, frame(&sll2)),
            (0, frame(&[2, 0, 0, 0])),
            (108, frame(&[0, 0, 0, 2])),
            (9, frame(&[0xFF, 3, 0, 0x21])),
            (50, frame(&[0, 0x57])),
            (101, frame(&[])),
            (12, frame(&[])),
            (14, frame(&[])),
            (228, frame(&[])),
            (229, frame(&[])),
        ] {
            assert_eq!(ip_packet(link, &bytes), Some(&b"packet"[..]), "{link}");
            assert!(name(link).is_some());
        }
    }

    #[test]
    fn what_is_no_ip_is_nothing() {
        let arp = [&[2; 12][..], &[0x08, 0x06], &[0; 28]].concat();
        assert_eq!(ip_packet(1, &arp), None);
        assert_eq!(ip_packet(9, &[0xFF, 3, 0xC0, 0x21, 1]), None);
        assert_eq!((ip_packet(147, &arp), name(147)), (None, None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(link in prop::sample::select(vec![0, 1, 9, 50, 101, 108, 113, 276, 7]),
                          bytes in prop::collection::vec(any::<u8>(), 0..40), kind: u16) {
            let _ = ip_packet(link, &bytes);
            let _ = by_ether_type(kind.to_be_bytes(), &bytes);
        }
    }
}
