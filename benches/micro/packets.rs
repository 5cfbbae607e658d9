//! The packets and streams of the cases.

use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket, TcpSeqNumber, UdpPacket};
use std::net::{Ipv4Addr, SocketAddrV4};
use vcgate_wire::ip::Headers;
use vcgate_wire::virtio_net::{Gso, Header};

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 11);
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
pub(crate) const MTU: u16 = 1420;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// The length of an IPv4 and a TCP header without options, in bytes.
pub(crate) const HEADERS: usize = 40;
/// The payload of a segment of the MTU, in bytes.
pub(crate) const SEGMENT: usize = MTU as usize - HEADERS;

/// Makes a TCP packet with valid checksums.
pub(crate) fn tcp(
    from: SocketAddrV4,
    to: SocketAddrV4,
    (seq, ack): (u32, u32),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = ip(from, to, IpProtocol::Tcp, 20 + payload.len());
    let mut tcp = TcpPacket::new_unchecked(&mut bytes[20..]);
    tcp.set_src_port(from.port());
    tcp.set_dst_port(to.port());
    tcp.set_seq_number(TcpSeqNumber(seq as i32));
    tcp.set_ack_number(TcpSeqNumber(ack as i32));
    tcp.set_header_len(20);
    tcp.set_syn(flags & SYN != 0);
    tcp.set_ack(flags & ACK != 0);
    tcp.set_window_len(0xFFFF);
    tcp.payload_mut().copy_from_slice(payload);
    tcp.fill_checksum(&(*from.ip()).into(), &(*to.ip()).into());
    bytes
}

/// Makes a UDP packet with valid checksums.
pub(crate) fn udp(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut bytes = ip(from, to, IpProtocol::Udp, 8);
    let mut udp = UdpPacket::new_unchecked(&mut bytes[20..]);
    udp.set_src_port(from.port());
    udp.set_dst_port(to.port());
    udp.set_len(8);
    udp.fill_checksum(&(*from.ip()).into(), &(*to.ip()).into());
    bytes
}

fn ip(from: SocketAddrV4, to: SocketAddrV4, protocol: IpProtocol, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; 20 + len];
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(20 + len as u16);
    ip.set_dont_frag(true);
    ip.set_hop_limit(64);
    ip.set_next_header(protocol);
    ip.set_src_addr(*from.ip());
    ip.set_dst_addr(*to.ip());
    ip.fill_checksum();
    bytes
}

/// Gives a TCP packet that is longer than a segment a partial checksum, and returns the virtio
/// header that a TUN device puts before it.
pub(crate) fn offloaded(packet: &mut [u8]) -> Header {
    if packet.len() <= MTU.into() {
        return Header::default();
    }
    let headers = Headers::parse(packet).expect("a packet of ours");
    let sum = headers.pseudo_header(packet.len() - 20);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    Header {
        needs_csum: true,
        gso: Gso::TcpV4,
        header_len: HEADERS as u16,
        gso_size: SEGMENT as u16,
        csum_start: 20,
        csum_offset: 16,
        ..Header::default()
    }
}

/// The sender of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// One message, repeated without end, to be taken in parts of any length.
pub(crate) struct Stream {
    message: Vec<u8>,
    at: usize,
}

impl Stream {
    /// Makes a stream that the hook does not read.
    pub(crate) fn plain() -> Self {
        Self::of(vec![0x55; 4096])
    }

    /// Makes a copy over SMB1, 60 KB at a time: WRITE_ANDX requests to the server, or READ_ANDX
    /// responses from it (MS-CIFS sections 2.2.4.43 and 2.2.4.42).
    pub(crate) fn smb1(from: Side) -> Self {
        let (command, flags, words) = match from {
            Side::Client => (0x2F, 0x18, 14),
            Side::Server => (0x2E, 0x98, 12),
        };
        let mut smb = header(b"\xFFSMB", command, 32);
        smb[9] = flags;
        smb.extend([words, 0xFF]);
        smb.resize(32 + 1 + 2 * usize::from(words) + 2 + 61_440, 0);
        Self::of(framed(smb))
    }

    /// Makes a copy over SMB2, 60 KB at a time: WRITE requests, or READ responses (MS-SMB2 sections
    /// 2.2.21 and 2.2.20).
    pub(crate) fn smb2(from: Side) -> Self {
        let (command, body) = match from {
            Side::Client => (9, 48),
            Side::Server => (8, 16),
        };
        let mut smb = header(b"\xFESMB", 64, 64);
        smb[12] = command;
        smb.resize(64 + body + 61_440, 0);
        Self::of(framed(smb))
    }

    fn of(message: Vec<u8>) -> Self {
        Self { message, at: 0 }
    }

    /// Whether the stream is SMB2, which the hook does not read.
    pub(crate) fn is_smb2(&self) -> bool {
        self.message[4] == 0xFE
    }

    /// Returns the next bytes.
    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        let bytes = self.message.iter().cycle().skip(self.at).take(len).copied();
        let bytes = bytes.collect();
        self.at = (self.at + len) % self.message.len();
        bytes
    }
}

/// Makes a NEGOTIATE and a SESSION_SETUP_ANDX with extended security and VcNumber 0, as Windows sends
/// them (MS-CIFS section 2.2.4.52, MS-SMB section 2.2.4.6.1).
pub(crate) fn logon() -> Vec<u8> {
    let mut negotiate = header(b"\xFFSMB", 0x72, 32);
    negotiate.extend(b"\0\x0C\0\x02NT LM 0.12\0");
    let mut setup = header(b"\xFFSMB", 0x73, 32);
    setup.extend([12, 0xFF, 0, 0, 0, 0x04, 0x11, 10, 0, 0, 0]);
    setup.resize(setup.len() + 16 + 60, 0);
    [framed(negotiate), framed(setup)].concat()
}

/// Returns the VcNumber of a [`logon`].
pub(crate) fn vc_number(logon: &[u8]) -> u16 {
    let at = logon.len() - 76 - 2;
    u16::from_le_bytes([logon[at], logon[at + 1]])
}

fn header(protocol: &[u8; 4], command: u8, len: usize) -> Vec<u8> {
    let mut bytes = protocol.to_vec();
    bytes.push(command);
    bytes.resize(len, 0);
    bytes
}

/// Adds the transport header of a message (MS-CIFS section 2.1, RFC 1002 section 4.3.1).
fn framed(message: Vec<u8>) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], &message].concat()
}
