//! A network of clients and a file server, and what a capture on it sees: IP packets with times.

use std::net::{IpAddr, SocketAddr};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

const MILLISECOND: u64 = 1_000_000;

/// The packets that were sent, in order.
#[derive(Debug, Clone)]
pub(super) struct Network {
    /// The time in nanoseconds after 1970, and the IP packet.
    pub packets: Vec<(u64, Vec<u8>)>,
    now: u64,
}

impl Network {
    pub(super) fn new() -> Self {
        Self {
            packets: Vec::new(),
            now: 1_700_000_000_000_000_000,
        }
    }

    pub(super) fn wait(&mut self, milliseconds: u64) {
        self.now += milliseconds * MILLISECOND;
    }

    /// Sends a segment; every packet takes a millisecond.
    pub(super) fn send(
        &mut self,
        ends: (SocketAddr, SocketAddr),
        seq: u32,
        ack: u32,
        flags: u8,
        payload: &[u8],
    ) {
        self.wait(1);
        self.packets
            .push((self.now, packet(ends, seq, ack, flags, payload)));
    }
}

/// A TCP connection, with the next sequence numbers of both sides.
#[derive(Debug, Clone)]
pub(super) struct TestConnection {
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub seqs: (u32, u32),
}

impl TestConnection {
    /// A connection that was opened before anybody looked.
    pub(super) fn old(client: &str, server: &str) -> Self {
        let client: SocketAddr = client.parse().unwrap();
        // As unlike one another as random numbers are.
        let mix = |seq: u32, byte: u8| (seq ^ u32::from(byte)).wrapping_mul(0x9E37_79B1);
        let seq = client.to_string().bytes().fold(0, mix);
        Self {
            client,
            server: server.parse().unwrap(),
            seqs: (seq, seq.wrapping_mul(7)),
        }
    }

    /// The same connection on the other side of a NAT.
    pub(super) fn translated(&self, client: &str) -> Self {
        Self {
            client: client.parse().unwrap(),
            ..self.clone()
        }
    }

    pub(super) fn open(net: &mut Network, client: &str, server: &str) -> Self {
        let mut connection = Self::old(client, server);
        connection.shake_hands(net);
        connection
    }

    pub(super) fn shake_hands(&mut self, net: &mut Network) {
        self.of_client(net, SYN, &[]);
        self.of_server(net, SYN | ACK, &[]);
        self.of_client(net, ACK, &[]);
    }

    pub(super) fn ask(&mut self, net: &mut Network, payload: &[u8]) {
        self.of_client(net, ACK, payload);
    }

    pub(super) fn answer(&mut self, net: &mut Network, payload: &[u8]) {
        self.of_server(net, ACK, payload);
    }

    pub(super) fn of_client(&mut self, net: &mut Network, flags: u8, payload: &[u8]) {
        let ends = (self.client, self.server);
        net.send(ends, self.seqs.0, self.seqs.1, flags, payload);
        self.seqs.0 = after(self.seqs.0, flags, payload);
    }

    pub(super) fn of_server(&mut self, net: &mut Network, flags: u8, payload: &[u8]) {
        let ends = (self.server, self.client);
        net.send(ends, self.seqs.1, self.seqs.0, flags, payload);
        self.seqs.1 = after(self.seqs.1, flags, payload);
    }
}

fn after(seq: u32, flags: u8, payload: &[u8]) -> u32 {
    let control = u32::from(flags & (SYN | FIN) != 0);
    seq.wrapping_add(payload.len() as u32 + control)
}

/// An IPv4 or IPv6 packet with a TCP segment, without checksums.
pub(super) fn packet(
    (src, dst): (SocketAddr, SocketAddr),
    seq: u32,
    ack: u32,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    tcp.extend(seq.to_be_bytes());
    tcp.extend(if flags & ACK != 0 { ack } else { 0 }.to_be_bytes());
    tcp.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    tcp.extend(payload);
    let mut packet = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = vec![0x45, 0];
            ip.extend((20 + tcp.len() as u16).to_be_bytes());
            ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            ip.extend(src.octets());
            ip.extend(dst.octets());
            ip
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend((tcp.len() as u16).to_be_bytes());
            ip.extend([6, 64]);
            ip.extend(src.octets());
            ip.extend(dst.octets());
            ip
        }
        _ => panic!("one address of each kind"),
    };
    packet.extend(tcp);
    packet
}
