//! The NAT's tests: a gateway with packets built and checked by smoltcp.
//!
//! RFC 4787, 5382, 5508 and 6888 cover only IPv4. Their requirements are tested for both families
//! ([`family::AddressFamily`]); to IPv6 they apply by analogy.

mod behaviour;
mod checksums;
mod clients;
mod family;
mod fit;
mod forward;
mod fragmentation;
mod fragments;
mod icmp;
mod ipv6;
mod lifetimes;
mod limits;
mod mapping;
mod oracle;
mod peers;
mod pool;
mod pool_changes;
mod ports;
mod properties;
mod routed;
mod scale;
mod snapshot;
mod tcp;
mod v4;
mod v6;

use super::*;
use crate::ids::ShardId;
use family::{AddressFamily, V4, V6, both_families};
use smoltcp::wire::{
    Icmpv4Packet, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vcgate_wire::checksum::Checksum;
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::Packet;

pub(super) const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
pub(super) const ALICE: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 11);
pub(super) const BOB: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 12);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 99);

pub(super) const LAN6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 2);
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, 0, 1);
pub(super) const ALICE6: Ipv6Addr = Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, 0, 0x11);
pub(super) const BOB6: Ipv6Addr = Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, 0, 0x12);
pub(super) const SERVER6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 0x10);
pub(super) const OTHER6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 0x99);

pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;
pub(super) const FIN: u8 = 0x01;
pub(super) const RST: u8 = 0x04;

pub(super) fn settings() -> Settings {
    Settings {
        address: LAN,
        pool: Vec::new(),
        address6: Some(LAN6),
        gateway: GATEWAY,
        gateway6: Some(GATEWAY6),
        filtering: Filtering::AddressDependent,
        on_unsolicited: OnUnsolicited::Reject,
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        mtu: 1420,
        blocks: 0..BLOCK_COUNT,
        shard: ShardId::ALONE,
    }
}

pub(super) fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// Peers with one inner address each; the peer's id is the end of the address.
pub(super) struct OneAddressPeers;

impl Peers for OneAddressPeers {
    fn of(&self, client: IpAddr) -> Option<PeerId> {
        let [high, low] = match client {
            IpAddr::V4(address) => [2, 3].map(|n| u32::from(address.octets()[n])),
            IpAddr::V6(address) => [6, 7].map(|n| u32::from(address.segments()[n])),
        };
        Some(PeerId(high << 8 | low))
    }
}

/// Returns the peer that the tunnel would authenticate as a packet's sender.
pub(super) fn sender_of(packet: &Packet<'_>) -> PeerId {
    OneAddressPeers.of(packet.headers.src).unwrap()
}

/// A NAT and its clock. `F` is the address family of the test, if there is only one.
pub(super) struct World<F = ()> {
    pub nat: Nat,
    pub now: Instant,
    family: PhantomData<F>,
}

impl<F> World<F> {
    pub(super) fn new(settings: Settings) -> Self {
        let now = Instant::now();
        Self {
            nat: Nat::new(settings, 42, now),
            now,
            family: PhantomData,
        }
    }

    /// Advances the clock and handles all timeouts on the way.
    pub(super) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.nat.next_timeout().filter(|t| *t <= end) {
            self.now = self.now.max(next);
            self.nat.handle_timeout(self.now);
        }
        self.now = end;
    }

    pub(super) fn outbound(&mut self, bytes: &mut [u8]) -> Outcome {
        let mut packet = Packet::parse(bytes, Checksum::Complete).unwrap();
        let sender = sender_of(&packet);
        self.nat
            .outbound(&mut packet, sender, &OneAddressPeers, self.now)
    }

    pub(super) fn inbound(&mut self, bytes: &mut [u8]) -> Outcome {
        let mut packet = Packet::parse(bytes, Checksum::Complete).unwrap();
        self.nat.inbound(&mut packet, &OneAddressPeers, self.now)
    }

    /// Removes the peer of this client.
    pub(super) fn remove_peer_of(&mut self, client: IpAddr) {
        let peer = OneAddressPeers.of(client).unwrap();
        self.nat.remove_peer(peer, self.now);
    }

    /// Sends a packet that must pass; returns the LAN port from which it leaves.
    pub(super) fn send(&mut self, mut bytes: Vec<u8>) -> u16 {
        let outcome = self.outbound(&mut bytes);
        assert!(matches!(outcome, Outcome::Forward(Some(_))), "{outcome:?}");
        assert_checksums(&bytes);
        let (src, _) = ends(&bytes);
        assert_eq!(Some(src.ip()), self.nat.lan.first(src.ip()));
        src.port()
    }

    /// Sends a packet from the LAN; returns the destination if it passes.
    pub(super) fn receive(&mut self, mut bytes: Vec<u8>) -> Option<SocketAddr> {
        match self.inbound(&mut bytes) {
            Outcome::Forward(_) => {
                assert_checksums(&bytes);
                Some(ends(&bytes).1)
            }
            _ => None,
        }
    }

    pub(super) fn flow_of(&self, inside: SocketAddr) -> Option<Flow> {
        self.nat.flows(self.now).find(|f| f.inside == inside)
    }
}

/// Builds a packet of the family of its addresses; in IPv6, ICMP means ICMPv6.
pub(super) fn ip(
    src: impl Into<IpAddr>,
    dst: impl Into<IpAddr>,
    protocol: IpProtocol,
    l4: &[u8],
) -> Vec<u8> {
    match (src.into(), dst.into()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut bytes = [&[0; 20], l4].concat();
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
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut bytes = [&[0; 40], l4].concat();
            let mut p = Ipv6Packet::new_unchecked(&mut bytes[..]);
            p.set_version(6);
            p.set_payload_len(l4.len() as u16);
            p.set_hop_limit(64);
            p.set_next_header(match protocol {
                IpProtocol::Icmp => IpProtocol::Icmpv6,
                other => other,
            });
            p.set_src_addr(src);
            p.set_dst_addr(dst);
            bytes
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut l4 = vec![0; 8 + payload.len()];
    l4[8..].copy_from_slice(payload);
    let len = l4.len() as u16;
    let mut p = UdpPacket::new_unchecked(&mut l4[..]);
    p.set_src_port(src.port());
    p.set_dst_port(dst.port());
    p.set_len(len);
    p.fill_checksum(&src.ip().into(), &dst.ip().into());
    ip(src.ip(), dst.ip(), IpProtocol::Udp, &l4)
}

/// Builds a TCP segment with (flags, sequence number, acknowledgement number), options (a multiple of
/// 4 bytes) and a payload.
pub(super) fn tcp(
    src: SocketAddr,
    dst: SocketAddr,
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
    TcpPacket::new_unchecked(&mut l4[..]).fill_checksum(&src.ip().into(), &dst.ip().into());
    ip(src.ip(), dst.ip(), IpProtocol::Tcp, &l4)
}

/// Builds an ICMP message with (type, code), the rest of the header and a body.
pub(super) fn icmp(
    src: impl Into<IpAddr>,
    dst: impl Into<IpAddr>,
    kind: (u8, u8),
    rest: [u8; 4],
    body: &[u8],
) -> Vec<u8> {
    let (src, dst) = (src.into(), dst.into());
    let mut l4 = vec![kind.0, kind.1, 0, 0];
    l4.extend(rest);
    l4.extend(body);
    match (src, dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Icmpv6Packet::new_unchecked(&mut l4[..]).fill_checksum(&src, &dst);
        }
        _ => Icmpv4Packet::new_unchecked(&mut l4[..]).fill_checksum(),
    }
    ip(src, dst, IpProtocol::Icmp, &l4)
}

pub(super) fn ping(
    src: impl Into<IpAddr>,
    dst: impl Into<IpAddr>,
    reply: bool,
    id: u16,
) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    let (src, dst) = (src.into(), dst.into());
    let kind = match (src, reply) {
        (IpAddr::V4(_), false) => 8,
        (IpAddr::V4(_), true) => 0,
        (IpAddr::V6(_), false) => 128,
        (IpAddr::V6(_), true) => 129,
    };
    icmp(src, dst, (kind, 0), [a, b, 0, 1], b"abcdefgh")
}

/// Sets the TTL or hop limit of a packet.
pub(super) fn with_hops(mut bytes: Vec<u8>, hops: u8) -> Vec<u8> {
    match bytes[0] >> 4 {
        4 => {
            let mut p = Ipv4Packet::new_unchecked(&mut bytes[..]);
            p.set_hop_limit(hops);
            p.fill_checksum();
        }
        _ => Ipv6Packet::new_unchecked(&mut bytes[..]).set_hop_limit(hops),
    }
    bytes
}

/// Returns source and destination; the identifier of an echo is the port of both.
pub(super) fn ends(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let p = Headers::parse_quote(bytes).unwrap();
    let word = |i: usize| u16::from_be_bytes([bytes[p.l4 + i], bytes[p.l4 + i + 1]]);
    let (src, dst) = match p.protocol {
        IpProtocol::Icmp | IpProtocol::Icmpv6 => (word(4), word(4)),
        _ => (word(0), word(2)),
    };
    (at(p.src, src), at(p.dst, dst))
}

/// Asserts that all checksums of a packet are valid.
pub(super) fn assert_checksums(bytes: &[u8]) {
    let p = Headers::parse(bytes).unwrap();
    if p.src.is_ipv4() {
        let ip = Ipv4Packet::new_checked(bytes).unwrap();
        assert!(ip.verify_checksum(), "IP checksum");
    }
    let l4 = &bytes[p.l4..p.len];
    let (src, dst) = (p.src.into(), p.dst.into());
    match (p.protocol, p.src, p.dst) {
        (IpProtocol::Tcp, ..) => {
            let tcp = TcpPacket::new_checked(l4).unwrap();
            assert!(tcp.verify_checksum(&src, &dst), "TCP checksum");
        }
        (IpProtocol::Udp, ..) => {
            let udp = UdpPacket::new_checked(l4).unwrap();
            assert!(udp.verify_checksum(&src, &dst), "UDP checksum");
        }
        (IpProtocol::Icmp, ..) => {
            let icmp = Icmpv4Packet::new_checked(l4).unwrap();
            assert!(icmp.verify_checksum(), "ICMP checksum");
        }
        (IpProtocol::Icmpv6, IpAddr::V6(src), IpAddr::V6(dst)) => {
            let icmp = Icmpv6Packet::new_checked(l4).unwrap();
            assert!(icmp.verify_checksum(&src, &dst), "ICMPv6 checksum");
        }
        other => panic!("{other:?}"),
    }
}
