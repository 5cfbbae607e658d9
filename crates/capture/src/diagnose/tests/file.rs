//! Capture files, written out byte by byte.

use super::network::Network;
use std::net::IpAddr;

/// A link's number and the bytes before an IP packet.
pub(super) type Link = (u32, fn(packet: &[u8]) -> Vec<u8>);

pub(super) const ETHERNET: Link = (1, |p| [&[2; 12][..], ether_type(p)].concat());
pub(super) const RAW: Link = (101, |_| vec![]);

/// All links and encapsulations that this program reads.
pub(super) const LINKS: [Link; 26] = [
    ETHERNET,
    (1, |p| {
        [&[2; 12][..], &[0x81, 0, 0, 7], ether_type(p)].concat()
    }),
    (1, |p| {
        let tags = [0x88, 0xA8, 0, 7, 0x81, 0, 0, 8];
        [&[2; 12][..], &tags, ether_type(p)].concat()
    }),
    (1, |_| {
        [&[2; 12][..], &[0x88, 0x47, 0, 0, 0x10, 64, 0, 0, 0x21, 64]].concat()
    }),
    (113, |p| {
        let header = [0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0];
        [&header[..], ether_type(p)].concat()
    }),
    (276, |p| {
        let rest = [0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0];
        [ether_type(p), &rest].concat()
    }),
    (0, |p| vec![if is_v6(p) { 30 } else { 2 }, 0, 0, 0]),
    (108, |p| vec![0, 0, 0, if is_v6(p) { 30 } else { 2 }]),
    (9, |p| vec![0xFF, 3, 0, if is_v6(p) { 0x57 } else { 0x21 }]),
    (50, |p| vec![0xFF, 3, 0, if is_v6(p) { 0x57 } else { 0x21 }]),
    RAW,
    (12, |_| vec![]),
    (14, |_| vec![]),
    (228, |_| vec![]),
    (229, |_| vec![]),
    (104, |p| [&[0x0F, 0], ether_type(p)].concat()),
    (109, |p| {
        [&[if is_v6(p) { 24 } else { 2 }][..], &[0; 11]].concat()
    }),
    (117, |p| {
        let family = if is_v6(p) { 24 } else { 2 };
        [&[61, family, 0, 0][..], &[0; 60]].concat()
    }),
    (219, |_| vec![0, 0, 0x21, 64]),
    (239, |p| {
        let family = if is_v6(p) { 10 } else { 2 };
        let len = (4 + p.len() as u16).to_le_bytes();
        [&[family, 0, 0, 5][..], &len, &[9, 0]].concat()
    }),
    // VXLAN
    (101, |p| {
        in_udp(
            4789,
            &[&[8, 0, 0, 0, 0, 0, 7, 0], &ethernet(p)[..]].concat(),
            p,
        )
    }),
    // GRE, with IP and with Ethernet
    (101, |p| in_ip(47, &[&[0, 0], ether_type(p)].concat(), p)),
    (101, |p| {
        in_ip(47, &[&[0, 0, 0x65, 0x58], &ethernet(p)[..]].concat(), p)
    }),
    // ERSPAN, its second and third type
    (101, |p| {
        let header = [0x10, 0, 0x88, 0xBE, 0, 0, 0, 1, 0x10, 7, 0, 1, 0, 0, 0, 0];
        in_ip(47, &[&header, &ethernet(p)[..]].concat(), p)
    }),
    (101, |p| {
        let header = [
            0x10, 0, 0x22, 0xEB, 0, 0, 0, 1, 0x20, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        in_ip(47, &[&header, &ethernet(p)[..]].concat(), p)
    }),
    // IP in IP
    (101, |p| in_ip(if is_v6(p) { 41 } else { 4 }, &[], p)),
];

fn is_v6(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6
}

fn ethernet(packet: &[u8]) -> Vec<u8> {
    (ETHERNET.1)(packet)
}

/// An IPv4 header, then `header`, which precedes the packet.
fn in_ip(protocol: u8, header: &[u8], packet: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend((20 + header.len() as u16 + packet.len() as u16).to_be_bytes());
    ip.extend([
        0, 0, 0x40, 0, 64, protocol, 0, 0, 172, 16, 0, 1, 172, 16, 0, 2,
    ]);
    ip.extend(header);
    ip
}

fn in_udp(port: u16, header: &[u8], packet: &[u8]) -> Vec<u8> {
    let mut udp = [0xC0, 0, 0, 0, 0, 0, 0, 0];
    udp[2..4].copy_from_slice(&port.to_be_bytes());
    let len = 8 + header.len() as u16 + packet.len() as u16;
    udp[4..6].copy_from_slice(&len.to_be_bytes());
    in_ip(17, &[&udp, header].concat(), packet)
}

/// How numbers are written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    fn two(self, n: u16) -> [u8; 2] {
        match self {
            Self::Little => n.to_le_bytes(),
            Self::Big => n.to_be_bytes(),
        }
    }

    fn four(self, n: u32) -> [u8; 4] {
        match self {
            Self::Little => n.to_le_bytes(),
            Self::Big => n.to_be_bytes(),
        }
    }
}

/// A pcap file with nanoseconds or microseconds, and at most `snapshot` bytes of each frame.
pub(super) fn pcap(
    net: &Network,
    link: Link,
    order: Order,
    nanoseconds: bool,
    snapshot: usize,
) -> Vec<u8> {
    let magic = if nanoseconds {
        0xA1B2_3C4D
    } else {
        0xA1B2_C3D4
    };
    let mut file = order.four(magic).to_vec();
    file.extend([order.two(2), order.two(4)].concat());
    for number in [0, 0, snapshot as u32, link.0] {
        file.extend(order.four(number));
    }
    for (time, packet) in &net.packets {
        let frame = frame(link, packet);
        let captured = frame.len().min(snapshot);
        let unit = if nanoseconds { 1 } else { 1000 };
        for number in [
            time / 1_000_000_000,
            time % 1_000_000_000 / unit,
            captured as u64,
            frame.len() as u64,
        ] {
            file.extend(order.four(number as u32));
        }
        file.extend(&frame[..captured]);
    }
    file
}

/// The plainest pcap file.
pub(super) fn plain(net: &Network) -> Vec<u8> {
    pcap(net, ETHERNET, Order::Little, false, 262_144)
}

/// A pcapng file with two interfaces: microseconds, and 2^-30 s with an offset of an hour.
pub(super) fn pcapng(net: &Network, links: [Link; 2], order: Order) -> Vec<u8> {
    let mut file = block(order, 0x0A0D_0D0A, &{
        let mut body = order.four(0x1A2B_3C4D).to_vec();
        body.extend([order.two(1), order.two(0)].concat());
        body.extend([0xFF; 8]);
        body
    });
    for (index, (link, _)) in links.iter().enumerate() {
        let mut body = [order.two(*link as u16), order.two(0)].concat();
        body.extend(order.four(262_144));
        if index == 1 {
            body.extend([order.two(9), order.two(1)].concat());
            body.extend([0x80 | 30, 0, 0, 0]);
            body.extend([order.two(14), order.two(8)].concat());
            let hour = match order {
                Order::Little => 3600i64.to_le_bytes(),
                Order::Big => 3600i64.to_be_bytes(),
            };
            body.extend(hour);
            body.extend([0; 4]);
        }
        file.extend(block(order, 1, &body));
    }
    for (number, (time, packet)) in net.packets.iter().enumerate() {
        let index = number % 2;
        let ticks = match index {
            0 => time / 1000,
            // Rounded up: it is read by rounding down.
            _ => (u128::from(time - 3_600_000_000_000) << 30).div_ceil(1_000_000_000) as u64,
        };
        let frame = frame(links[index], packet);
        let mut body = Vec::new();
        for field in [
            index as u32,
            (ticks >> 32) as u32,
            ticks as u32,
            frame.len() as u32,
            frame.len() as u32,
        ] {
            body.extend(order.four(field));
        }
        body.extend(&frame);
        file.extend(block(order, 6, &body));
        // Blocks about something else are stepped over.
        file.extend(block(order, 5, &[0; 12]));
    }
    file
}

pub(super) fn gzip(file: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut packed = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(file, flate2::Compression::fast());
    encoder.read_to_end(&mut packed).unwrap();
    packed
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padding = body.len().next_multiple_of(4) - body.len();
    let length = order.four((12 + body.len() + padding) as u32);
    let mut block = [order.four(kind), length].concat();
    block.extend(body);
    block.extend(vec![0; padding]);
    block.extend(length);
    block
}

fn frame(link: Link, packet: &[u8]) -> Vec<u8> {
    [(link.1)(packet), packet.to_vec()].concat()
}

fn ether_type(packet: &[u8]) -> &'static [u8] {
    if is_v6(packet) {
        &[0x86, 0xDD]
    } else {
        &[0x08, 0x00]
    }
}

/// Whether a link can carry this kind of address.
pub(super) fn carries(link: Link, address: IpAddr) -> bool {
    match link.0 {
        228 => address.is_ipv4(),
        229 => address.is_ipv6(),
        _ => true,
    }
}
