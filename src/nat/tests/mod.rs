//! The NAT's tests: a gateway with packets built and checked by smoltcp.

mod fragments;
mod icmp;
mod mapping;
mod oracle;
mod properties;
mod snapshot;
mod tcp;

use super::*;
use crate::wire::checksum::Checksum;
use crate::wire::packet::Packet;
use smoltcp::wire::{Icmpv4Packet, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};
use std::net::{Ipv4Addr, SocketAddrV4};

pub const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
pub const ALICE: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 11);
pub const BOB: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 12);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 99);

pub const MINUTE: Duration = Duration::from_secs(60);

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const FIN: u8 = 0x01;
pub const RST: u8 = 0x04;

pub fn settings() -> Settings {
    Settings {
        address: LAN,
        gateway: GATEWAY,
        filtering: Filtering::AddressDependent,
        unsolicited: Unsolicited::Answer,
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        mtu: 1420,
        blocks: 0..BLOCKS,
    }
}

pub fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

/// A NAT and its clock.
pub struct World {
    pub nat: Nat,
    pub now: Instant,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        let now = Instant::now();
        Self {
            nat: Nat::new(settings, 42, now),
            now,
        }
    }

    /// Lets time pass, with all that is due on the way.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.nat.next_timeout().filter(|t| *t <= end) {
            self.now = self.now.max(next);
            self.nat.handle_timeout(self.now);
        }
        self.now = end;
    }

    pub fn out(&mut self, bytes: &mut [u8]) -> Outcome {
        let mut packet = Packet::parse(bytes, Checksum::Complete).unwrap();
        self.nat.outbound(&mut packet, self.now)
    }

    pub fn inn(&mut self, bytes: &mut [u8]) -> Outcome {
        let mut packet = Packet::parse(bytes, Checksum::Complete).unwrap();
        self.nat.inbound(&mut packet, self.now)
    }

    /// Sends out; returns the LAN port in whose name it left.
    pub fn leaves(&mut self, mut bytes: Vec<u8>) -> u16 {
        let outcome = self.out(&mut bytes);
        assert!(matches!(outcome, Outcome::Forward(Some(_))), "{outcome:?}");
        assert_right(&bytes);
        let (src, _) = ends(&bytes);
        assert_eq!(*src.ip(), LAN);
        src.port()
    }

    /// Sends in; returns where it arrived, if it did.
    pub fn arrives(&mut self, mut bytes: Vec<u8>) -> Option<SocketAddrV4> {
        match self.inn(&mut bytes) {
            Outcome::Forward(_) => {
                assert_right(&bytes);
                Some(ends(&bytes).1)
            }
            _ => None,
        }
    }

    pub fn flow_of(&self, inside: SocketAddrV4) -> Option<Flow> {
        self.nat.flows(self.now).find(|f| f.inside == inside.into())
    }
}

pub fn ip(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpProtocol, l4: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20 + l4.len()];
    bytes[20..].copy_from_slice(l4);
    let len = bytes.len() as u16;
    let mut p = Ipv4Packet::new_unchecked(&mut bytes[..]);
    p.set_version(4);
    p.set_header_len(20);
    p.set_total_len(len);
    p.set_ident(0x1234);
    p.set_dont_frag(true);
    p.set_hop_limit(64);
    p.set_next_header(protocol);
    p.set_src_addr(src);
    p.set_dst_addr(dst);
    p.fill_checksum();
    bytes
}

pub fn udp(src: SocketAddrV4, dst: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut l4 = vec![0; 8 + payload.len()];
    l4[8..].copy_from_slice(payload);
    let len = l4.len() as u16;
    let mut p = UdpPacket::new_unchecked(&mut l4[..]);
    p.set_src_port(src.port());
    p.set_dst_port(dst.port());
    p.set_len(len);
    p.fill_checksum(&(*src.ip()).into(), &(*dst.ip()).into());
    ip(*src.ip(), *dst.ip(), IpProtocol::Udp, &l4)
}

/// A TCP segment: flags, sequence and acknowledgement numbers, options (a multiple of 4), payload.
pub fn tcp(
    src: SocketAddrV4,
    dst: SocketAddrV4,
    (flags, seq, ack): (u8, u32, u32),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut l4 = vec![0; header];
    l4[0..2].copy_from_slice(&src.port().to_be_bytes());
    l4[2..4].copy_from_slice(&dst.port().to_be_bytes());
    l4[4..8].copy_from_slice(&seq.to_be_bytes());
    l4[8..12].copy_from_slice(&ack.to_be_bytes());
    l4[12] = (header as u8 / 4) << 4;
    l4[13] = flags;
    l4[20..].copy_from_slice(options);
    l4.extend_from_slice(payload);
    TcpPacket::new_unchecked(&mut l4[..]).fill_checksum(&(*src.ip()).into(), &(*dst.ip()).into());
    ip(*src.ip(), *dst.ip(), IpProtocol::Tcp, &l4)
}

/// An ICMP message of a type and code, with the rest of its header, and a body.
pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: (u8, u8), rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut l4 = vec![kind.0, kind.1, 0, 0];
    l4.extend(rest);
    l4.extend(body);
    Icmpv4Packet::new_unchecked(&mut l4[..]).fill_checksum();
    ip(src, dst, IpProtocol::Icmp, &l4)
}

pub fn ping(src: Ipv4Addr, dst: Ipv4Addr, reply: bool, id: u16) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    icmp(
        src,
        dst,
        (if reply { 0 } else { 8 }, 0),
        [a, b, 0, 1],
        b"abcdefgh",
    )
}

/// Source and destination; an echo's identifier is at both.
pub fn ends(bytes: &[u8]) -> (SocketAddrV4, SocketAddrV4) {
    let p = Ipv4Packet::new_unchecked(bytes);
    let l4 = &bytes[usize::from(p.header_len())..];
    let word = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    let (src, dst) = match p.next_header() {
        IpProtocol::Icmp => (word(4), word(4)),
        _ => (word(0), word(2)),
    };
    (at(p.src_addr(), src), at(p.dst_addr(), dst))
}

/// All checksums of a packet, computed anew, are right.
pub fn assert_right(bytes: &[u8]) {
    let p = Ipv4Packet::new_checked(bytes).unwrap();
    assert!(p.verify_checksum(), "IP checksum");
    let (src, dst) = (p.src_addr().into(), p.dst_addr().into());
    match p.next_header() {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(p.payload()).unwrap();
            assert!(tcp.verify_checksum(&src, &dst), "TCP checksum");
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(p.payload()).unwrap();
            assert!(udp.verify_checksum(&src, &dst), "UDP checksum");
        }
        IpProtocol::Icmp => {
            let icmp = Icmpv4Packet::new_checked(p.payload()).unwrap();
            assert!(icmp.verify_checksum(), "ICMP checksum");
        }
        other => panic!("{other}"),
    }
}
