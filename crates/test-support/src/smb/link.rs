//! A client, the hook and a server, which exchange real IP packets in any order and segmentation.
//!
//! Every packet that reaches the server must have a correct checksum, and all copies of a byte must
//! be equal, except acknowledged bytes of a flow that is bypassed or whose first rewrites were
//! evicted.

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, TcpPacket};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;
use vcgate_core::ids::{FlowId, PeerId};
use vcgate_core::smb::{Ends, HeldPacket, Hook, Segment, Verdict};
use vcgate_wire::checksum::Checksum;
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::{Packet, Payload};
use vcgate_wire::tcp::SeqNumber;

const LAN: Ipv4Address = Ipv4Address::new(192, 0, 2, 1);
const SERVER: Ipv4Address = Ipv4Address::new(198, 51, 100, 10);
const HEADERS: usize = 40;
/// Maximum number of session setups per flow whose retransmissions are rewritten.
const MAX_PATCHES: u64 = 256;

/// Returns the ends of the flow in a slot.
pub fn ends(slot: u32) -> Ends {
    Ends {
        client: ([10, 8, 0, slot as u8], 40_000).into(),
        lan: LAN.into(),
        server: (SERVER, 445).into(),
    }
}

pub fn flow(slot: u32) -> FlowId {
    FlowId {
        slot,
        generation: 0,
    }
}

/// Maps each inner address to a separate peer.
pub fn peer_of(client: IpAddr) -> Option<PeerId> {
    match client {
        IpAddr::V4(client) => Some(PeerId(client.to_bits())),
        IpAddr::V6(_) => None,
    }
}

/// One flow, and the part of the client's stream that its server has received.
pub struct SimulatedLink {
    pub id: FlowId,
    pub ends: Ends,
    /// The time at which segments pass the hook.
    pub now: Instant,
    /// Both ends permit SACK.
    pub selective: bool,
    isn: SeqNumber,
    server_isn: SeqNumber,
    /// Number of bytes that the server has sent.
    server_len: usize,
    /// The received bytes, by offset in the client's stream.
    arrived: Vec<Option<u8>>,
    /// Number of bytes received without a gap.
    contiguous: usize,
    /// Number of bytes that the server has acknowledged.
    acked: usize,
}

impl SimulatedLink {
    /// Opens a flow and completes its handshake.
    pub fn open(hook: &mut Hook, slot: u32, isn: u32) -> Self {
        Self::between(hook, flow(slot), ends(slot), isn)
    }

    /// Opens a flow between any ends and completes its handshake.
    pub fn between(hook: &mut Hook, id: FlowId, ends: Ends, isn: u32) -> Self {
        let mut link = Self::new(id, ends, isn);
        link.syn(hook);
        link.syn_ack(hook);
        link
    }

    /// Makes a flow that the hook has not seen yet.
    pub fn new(id: FlowId, ends: Ends, isn: u32) -> Self {
        Self {
            id,
            ends,
            now: Instant::now(),
            selective: false,
            isn: SeqNumber(isn),
            server_isn: SeqNumber(0xFFFF_FF00),
            server_len: 0,
            arrived: Vec::new(),
            contiguous: 0,
            acked: 0,
        }
    }

    pub fn syn(&mut self, hook: &mut Hook) {
        let segment = Segment {
            syn: true,
            sack_permitted: self.selective,
            ..segment(self.isn, None)
        };
        assert_eq!(self.client(hook, &segment, &mut []), Verdict::Pass);
    }

    pub fn syn_ack(&mut self, hook: &mut Hook) {
        let segment = Segment {
            syn: true,
            sack_permitted: self.selective,
            ..segment(self.server_isn, Some(self.isn.plus(1)))
        };
        self.server(hook, &segment, &mut []);
    }

    /// Passes a segment of the client to the hook.
    pub fn client(&self, hook: &mut Hook, segment: &Segment, payload: &mut [u8]) -> Verdict {
        let payload = &mut Payload::new(payload);
        hook.client(self.id, &self.ends, segment, payload, peer_of, self.now)
    }

    /// Passes a segment of the server to the hook.
    pub fn server(&self, hook: &mut Hook, segment: &Segment, payload: &mut [u8]) {
        hook.server(self.id, segment, &Payload::new(payload), self.now);
    }

    /// Sends a part of the client's stream in a packet that is stored in two pieces after `cut` bytes.
    pub fn send(
        &mut self,
        hook: &mut Hook,
        stream: &[u8],
        part: Range<usize>,
        cut: usize,
    ) -> Verdict {
        let seq = self.seq(part.start);
        let packet = packet(seq, &stream[part]);
        let (verdict, packet) = self.pass(hook, packet, cut);
        match verdict {
            Verdict::Pass => self.deliver(hook, &packet),
            Verdict::Hold => {
                let len = packet.len() - HEADERS;
                let packet = HeldPacket {
                    payload_len: len,
                    segment_len: len,
                    bytes: packet,
                };
                hook.hold(self.id, &self.data(seq), packet, self.now);
            }
            Verdict::Drop => {}
        }
        self.release(hook);
        verdict
    }

    /// Sends a part of the client's stream, which passes the hook and is then lost.
    pub fn lose(&mut self, hook: &mut Hook, stream: &[u8], part: Range<usize>) {
        let packet = packet(self.seq(part.start), &stream[part]);
        assert_eq!(self.pass(hook, packet, 0).0, Verdict::Pass);
    }

    /// Delivers the segments that the hook releases, as the engine does after every segment.
    pub fn release(&mut self, hook: &mut Hook) {
        while let Some(packet) = hook.release(self.id) {
            let (verdict, packet) = self.pass(hook, packet, 0);
            // It may be the one that has too many session setups.
            let is_reset = verdict == Verdict::Drop && hook.counters().aborted > 0;
            assert!(
                verdict == Verdict::Pass || is_reset,
                "a released packet passes"
            );
            if !is_reset {
                self.deliver(hook, &packet);
            }
        }
    }

    /// Returns the number of bytes that the server has acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acked
    }

    /// Returns the offset of the next byte that the server expects.
    pub fn next(&self) -> usize {
        self.contiguous
    }

    /// Returns the end of the last byte that the server has received.
    pub fn reached(&self) -> usize {
        self.arrived.len()
    }

    /// Returns the bytes that the server has received without a gap.
    pub fn received(&self) -> Vec<u8> {
        self.arrived
            .iter()
            .take(self.contiguous)
            .flatten()
            .copied()
            .collect()
    }

    /// Acknowledges all but the last `missing` bytes.
    pub fn ack(&mut self, hook: &mut Hook, missing: usize) {
        self.ack_to(hook, self.next().saturating_sub(missing));
    }

    /// Acknowledges all bytes before `offset`, received or not.
    pub fn ack_to(&mut self, hook: &mut Hook, offset: usize) {
        self.acked = self.acked.max(offset);
        self.server(hook, &self.server_segment(self.server_len), &mut []);
        self.release(hook);
    }

    /// Sends bytes of the server in parts, in the given order.
    pub fn server_sends_parts(&mut self, hook: &mut Hook, bytes: &[u8], parts: &[Range<usize>]) {
        for part in parts {
            self.server_sends_at(hook, self.server_len + part.start, &bytes[part.clone()]);
        }
        self.server_len += bytes.len();
    }

    /// Sends bytes at an offset of the server's stream.
    pub fn server_sends_at(&mut self, hook: &mut Hook, at: usize, bytes: &[u8]) {
        self.server(hook, &self.server_segment(at), &mut bytes.to_vec());
        self.release(hook);
    }

    /// Makes a segment at an offset of the server's stream.
    pub fn server_segment(&self, at: usize) -> Segment {
        segment(self.server_seq(at), Some(self.seq(self.acked)))
    }

    /// Sends bytes of the server in one segment.
    pub fn server_sends(&mut self, hook: &mut Hook, bytes: &[u8]) {
        self.server_sends_parts(hook, bytes, std::slice::from_ref(&(0..bytes.len())));
    }

    fn pass(&self, hook: &mut Hook, bytes: Vec<u8>, cut: usize) -> (Verdict, Vec<u8>) {
        let (mut buffer, pieces) = in_pieces(&bytes, cut);
        let headers = Headers::parse(&bytes).expect("a packet from packet()");
        let seq = TcpPacket::new_unchecked(&bytes[20..]).seq_number().into();
        let mut packet = Packet::in_pieces(headers, Checksum::Complete, &mut buffer, &pieces);
        let mut payload = packet.payload(HEADERS - 20);
        let segment = self.data(seq);
        let verdict = hook.client(
            self.id,
            &self.ends,
            &segment,
            &mut payload,
            peer_of,
            self.now,
        );
        let delta = payload.delta();
        let mut tcp = TcpPacket::new_unchecked(packet.l4_mut());
        let checksum = delta.apply(tcp.checksum());
        tcp.set_checksum(checksum);
        (verdict, packet.to_vec())
    }

    fn deliver(&mut self, hook: &Hook, packet: &[u8]) {
        let is_rewritten = hook
            .flow(self.id)
            .is_some_and(|flow| flow.bypass.is_none() && flow.session_setups <= MAX_PATCHES);
        let tcp = TcpPacket::new_checked(&packet[20..]).expect("a packet from packet()");
        assert!(tcp.verify_checksum(&LAN.into(), &SERVER.into()));
        let start = self.offset(tcp.seq_number().into());
        let end = start + tcp.payload().len();
        if self.arrived.len() < end {
            self.arrived.resize(end, None);
        }
        for (at, byte) in (start..).zip(tcp.payload()) {
            let old = *self.arrived[at].get_or_insert(*byte);
            assert!(
                old == *byte || (at < self.acked && !is_rewritten),
                "byte {at} of the stream was {old} and is {byte}"
            );
        }
        while let Some(Some(_)) = self.arrived.get(self.contiguous) {
            self.contiguous += 1;
        }
    }

    /// Returns the offset of a sequence number in the client's stream.
    pub fn offset(&self, seq: SeqNumber) -> usize {
        seq.bytes_since(self.seq(0)) as usize
    }

    /// Returns the sequence number of an offset in the client's stream.
    pub fn seq(&self, offset: usize) -> SeqNumber {
        self.isn.plus(1).plus(offset as u32)
    }

    /// Makes a data segment of the client.
    pub fn data(&self, seq: SeqNumber) -> Segment {
        segment(seq, Some(self.server_seq(self.server_len)))
    }

    fn server_seq(&self, offset: usize) -> SeqNumber {
        self.server_isn.plus(1).plus(offset as u32)
    }
}

pub fn segment(seq: SeqNumber, ack: Option<SeqNumber>) -> Segment {
    Segment {
        seq,
        ack,
        syn: false,
        rst: false,
        fin: false,
        window: 512,
        sack_permitted: false,
        timestamps: None,
    }
}

/// Copies the bytes into a buffer with a gap after `cut` bytes of payload.
fn in_pieces(bytes: &[u8], cut: usize) -> (Vec<u8>, Vec<Range<usize>>) {
    const GAP: usize = 7;
    let first = (HEADERS + cut).min(bytes.len());
    let buffer = [&bytes[..first], &[0xEE; GAP], &bytes[first..]].concat();
    (buffer, vec![0..first, first + GAP..bytes.len() + GAP])
}

fn packet(seq: SeqNumber, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADERS + payload.len()];
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len((HEADERS + payload.len()) as u16);
    ip.set_next_header(IpProtocol::Tcp);
    ip.set_src_addr(LAN);
    ip.set_dst_addr(SERVER);
    let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
    tcp.set_header_len(20);
    tcp.set_seq_number(seq.into());
    tcp.set_ack(true);
    tcp.payload_mut().copy_from_slice(payload);
    tcp.fill_checksum(&IpAddress::from(LAN), &IpAddress::from(SERVER));
    bytes
}
