//! The gateway's own tunnel addresses: a small smoltcp stack answers there, so that clients can
//! ping the gateway and its closed ports refuse connections.
//!
//! It has no open ports and never sees translated traffic.

use ipnet::IpNet;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::net::IpAddr;
use std::time::Instant;

/// Maximum number of gateway addresses.
pub const MAX_ADDRESSES: usize = smoltcp::config::IFACE_MAX_ADDR_COUNT;

/// The gateway's addresses and the stack that answers there.
pub(super) struct LocalStack {
    addresses: Vec<IpAddr>,
    /// Boxed, since it contains buffers for the longest packet.
    interface: Box<Interface>,
    sockets: SocketSet<'static>,
    device: OnePacketDevice,
    started: Instant,
}

impl LocalStack {
    /// Makes a stack for `addresses` on a link with this MTU, in bytes.
    pub(super) fn new(addresses: &[IpNet], mtu: u16, seed: u64, now: Instant) -> Self {
        let mut device = OnePacketDevice {
            mtu: mtu.into(),
            received: None,
            sent: Vec::new(),
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, SmolInstant::ZERO);
        interface.update_ip_addrs(|list| {
            for net in addresses {
                // The configuration has at most `MAX_ADDRESSES`.
                let _ = list.push(IpCidr::new(net.addr().into(), net.prefix_len()));
            }
        });
        // Clients may have addresses outside the gateway's prefix: all of them are on the link.
        for net in addresses {
            match net.addr() {
                IpAddr::V4(a) => drop(interface.routes_mut().add_default_ipv4_route(a)),
                IpAddr::V6(a) => drop(interface.routes_mut().add_default_ipv6_route(a)),
            }
        }
        Self {
            addresses: addresses.iter().map(IpNet::addr).collect(),
            interface: Box::new(interface),
            sockets: SocketSet::new(Vec::new()),
            device,
            started: now,
        }
    }

    /// Whether an address is one of the gateway's own.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Handles one packet of a client and returns the answers, each an IP packet.
    pub(super) fn handle(&mut self, packet: &[u8], now: Instant) -> Vec<Vec<u8>> {
        self.device.received = Some(packet.to_vec());
        let now = now.saturating_duration_since(self.started);
        let now = SmolInstant::from_micros(now.as_micros().min(i64::MAX as u128) as i64);
        // A long answer leaves in fragments, a few for each call.
        loop {
            let before = self.device.sent.len();
            self.interface
                .poll(now, &mut self.device, &mut self.sockets);
            if self.device.sent.len() == before {
                break;
            }
        }
        self.device.received = None;
        std::mem::take(&mut self.device.sent)
    }
}

impl std::fmt::Debug for LocalStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalStack")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// A device that receives one packet and collects the answers.
struct OnePacketDevice {
    mtu: usize,
    received: Option<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl Device for OnePacketDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.take()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = ChecksumCapabilities::default();
        debug_assert!(matches!(capabilities.checksum.ipv4, Checksum::Both));
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::{
        Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, Ipv6Packet, checksum,
    };
    use std::net::{Ipv4Addr, Ipv6Addr};
    use vcgate_wire::ip::Headers;

    fn stack(now: Instant) -> LocalStack {
        let addresses = ["10.8.0.1/24", "fd00:8::1/64"].map(|net| net.parse().unwrap());
        LocalStack::new(&addresses, 1420, 1, now)
    }

    /// An IPv4 packet from 10.9.0.7, a client outside the gateway's prefix.
    fn packet(protocol: u8, l4: &[u8]) -> Vec<u8> {
        let mut p = vec![
            0x45,
            0,
            0,
            (20 + l4.len()) as u8,
            0,
            1,
            0x40,
            0,
            64,
            protocol,
            0,
            0,
        ];
        p.extend([10, 9, 0, 7, 10, 8, 0, 1]);
        let sum = !checksum::data(&p);
        p[10..12].copy_from_slice(&sum.to_be_bytes());
        p.extend(l4);
        p
    }

    /// An echo request with the identifier 0x1234 and four bytes of data.
    fn echo() -> Vec<u8> {
        let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, 1, 2, 3, 4];
        let sum = !checksum::data(&echo);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        echo
    }

    #[test]
    fn answers_at_each_of_its_addresses() {
        let now = Instant::now();
        let own = |n: u8| Ipv4Addr::new(10, 8 + n, 0, 1);
        let addresses: Vec<_> = (0..MAX_ADDRESSES as u8)
            .map(|n| format!("{}/24", own(n)).parse().unwrap())
            .collect();
        let mut stack = LocalStack::new(&addresses, 1420, 1, now);
        for n in 0..addresses.len() as u8 {
            let mut ping = packet(1, &echo());
            ping[16..20].copy_from_slice(&own(n).octets());
            ping[10..12].fill(0);
            let sum = !checksum::data(&ping[..20]);
            ping[10..12].copy_from_slice(&sum.to_be_bytes());
            let answers = stack.handle(&ping, now);
            let from: Vec<_> = answers
                .iter()
                .map(|a| Headers::parse(a).unwrap().src)
                .collect();
            assert_eq!(from, [IpAddr::from(own(n))]);
        }
    }

    #[test]
    fn answers_a_ping() {
        let now = Instant::now();
        let answers = stack(now).handle(&packet(1, &echo()), now);
        assert_eq!(answers.len(), 1);
        let headers = Headers::parse(&answers[0]).unwrap();
        assert_eq!(headers.dst, IpAddr::from([10, 9, 0, 7]));
        let reply = Icmpv4Packet::new_checked(&answers[0][headers.l4..]).unwrap();
        assert_eq!(reply.msg_type(), Icmpv4Message::EchoReply);
        assert_eq!(
            (reply.echo_ident(), reply.data()),
            (0x1234, &[1, 2, 3, 4][..])
        );
    }

    #[test]
    fn answers_a_ping_over_ipv6_and_sends_nothing_else() {
        let now = Instant::now();
        let client = Ipv6Addr::new(0xFD00, 9, 0, 0, 0, 0, 0, 7);
        let own = Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, 0, 1);
        let mut bytes = vec![0; 52];
        let mut echo = Icmpv6Packet::new_unchecked(&mut bytes[40..]);
        echo.set_msg_type(Icmpv6Message::EchoRequest);
        echo.set_echo_ident(0x1234);
        echo.fill_checksum(&client, &own);
        let mut ip = Ipv6Packet::new_unchecked(&mut bytes[..]);
        ip.set_version(6);
        ip.set_payload_len(12);
        ip.set_next_header(58.into());
        ip.set_hop_limit(64);
        ip.set_src_addr(client);
        ip.set_dst_addr(own);
        let answers = stack(now).handle(&bytes, now);
        assert_eq!(answers.len(), 1, "no neighbour discovery");
        let headers = Headers::parse(&answers[0]).unwrap();
        assert_eq!((headers.src, headers.dst), (own.into(), client.into()));
        let reply = Icmpv6Packet::new_checked(&answers[0][headers.l4..]).unwrap();
        assert_eq!(reply.msg_type(), Icmpv6Message::EchoReply);
        assert!(reply.verify_checksum(&own, &client));
        assert_eq!(reply.echo_ident(), 0x1234);
    }

    #[test]
    fn refuses_a_tcp_connection_with_rst() {
        let now = Instant::now();
        let mut syn = vec![
            0x30, 0x39, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0,
        ];
        let pseudo = [10, 9, 0, 7, 10, 8, 0, 1, 0, 6, 0, 20];
        let sum = !checksum::combine(&[checksum::data(&pseudo), checksum::data(&syn)]);
        syn[16..18].copy_from_slice(&sum.to_be_bytes());
        let answers = stack(now).handle(&packet(6, &syn), now);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0][33] & 0x04, 0x04, "RST");
    }

    #[test]
    fn answers_a_closed_udp_port_with_port_unreachable() {
        let now = Instant::now();
        // Without the optional checksum.
        let udp = [0x30, 0x39, 0, 53, 0, 9, 0, 0, 1];
        let answers = stack(now).handle(&packet(17, &udp), now);
        assert_eq!(answers.len(), 1);
        // RFC 1122 section 3.2.2.1: destination unreachable (3), port (3).
        assert_eq!(answers[0][20..22], [3, 3]);
    }

    /// A fragment of an IP payload.
    fn fragment(whole: &[u8], place: std::ops::Range<usize>, more: bool) -> Vec<u8> {
        let mut p = packet(1, &[]);
        let payload = &whole[place.clone()];
        p[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        let offset = (place.start / 8) as u16 | u16::from(more) << 13;
        p[6..8].copy_from_slice(&offset.to_be_bytes());
        p[10..12].fill(0);
        let sum = !checksum::data(&p);
        p[10..12].copy_from_slice(&sum.to_be_bytes());
        p.extend(payload);
        p
    }

    #[test]
    fn answers_a_fragmented_ping_in_fragments() {
        let now = Instant::now();
        for len in [2000, 5000, 65_507] {
            let mut stack = stack(now);
            let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
            echo.extend((0..len).map(|i| (i % 251) as u8));
            let sum = !checksum::data(&echo);
            echo[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut answers = Vec::new();
            for start in (0..echo.len()).step_by(1400) {
                let end = (start + 1400).min(echo.len());
                let part = fragment(&echo, start..end, end < echo.len());
                answers.extend(stack.handle(&part, now));
            }
            let mut whole = Vec::new();
            for answer in &answers {
                assert!(answer.len() <= 1420);
                let headers = Headers::parse(answer).unwrap();
                assert_eq!(headers.fragment.unwrap().offset as usize, whole.len());
                whole.extend(&answer[20..]);
            }
            assert_eq!((whole[0], &whole[8..]), (0, &echo[8..]), "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_fragments_panic(
            fragments in prop::collection::vec((0usize..8190, 0usize..1400, any::<bool>()), 0..20)
        ) {
            let now = Instant::now();
            let (mut stack, whole) = (stack(now), vec![8; 67_000]);
            for (offset, len, more) in fragments {
                stack.handle(&fragment(&whole, offset * 8..offset * 8 + len, more), now);
            }
        }
    }

    #[test]
    fn owns_its_addresses_only() {
        let stack = stack(Instant::now());
        assert!(stack.owns([10, 8, 0, 1].into()));
        assert!(!stack.owns([10, 8, 0, 2].into()));
    }
}
