//! A client, the hook and a server, with real IP packets between them and as bad a network as
//! the test wants. What the test does not check, this does: every packet that reaches the server
//! has a right checksum, and every copy of a byte is the same, but what the server has acknowledged
//! on a flow that is read no more, or that has so many session setups that the first were evicted.

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, TcpPacket, TcpSeqNumber};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;
use vcgate_core::ids::{FlowId, PeerId};
use vcgate_core::smb::{Ends, Hook, Segment, Verdict};
use vcgate_wire::checksum::Checksum;
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::{Packet, Payload};

const LAN: Ipv4Address = Ipv4Address::new(192, 0, 2, 1);
const SERVER: Ipv4Address = Ipv4Address::new(198, 51, 100, 10);
const HEADERS: usize = 40;
/// As many session setups of a flow are rewritten in late copies, too.
const MAX_PATCHES: u64 = 256;

/// The ends of the flow in slot `slot`.
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

/// Each inner address has a peer of its own.
pub fn peer_of(client: IpAddr) -> Option<PeerId> {
    match client {
        IpAddr::V4(client) => Some(PeerId(client.to_bits())),
        IpAddr::V6(_) => None,
    }
}

/// One flow and what its server has got of the client's stream.
pub struct SimulatedLink {
    pub id: FlowId,
    pub ends: Ends,
    /// When what is sent comes by.
    pub now: Instant,
    /// Both ends permit SACK.
    pub selective: bool,
    isn: u32,
    server_isn: u32,
    /// What the server sent so far, in bytes.
    said: usize,
    /// What arrived, by offset in the client's stream.
    arrived: Vec<Option<u8>>,
    /// How much of it without a gap.
    got: usize,
    /// Up to here the hook has seen the server's acknowledgement.
    acked: usize,
}

impl SimulatedLink {
    /// A flow after its handshake.
    pub fn open(hook: &mut Hook, slot: u32, isn: u32) -> Self {
        Self::between(hook, flow(slot), ends(slot), isn)
    }

    /// The same between any ends.
    pub fn between(hook: &mut Hook, id: FlowId, ends: Ends, isn: u32) -> Self {
        let mut line = Self::new(id, ends, isn);
        line.syn(hook);
        line.syn_ack(hook);
        line
    }

    /// A flow of which the hook has seen nothing.
    pub fn new(id: FlowId, ends: Ends, isn: u32) -> Self {
        Self {
            id,
            ends,
            now: Instant::now(),
            selective: false,
            isn,
            server_isn: 0xFFFF_FF00,
            said: 0,
            arrived: Vec::new(),
            got: 0,
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
            ..segment(self.server_isn, Some(self.isn.wrapping_add(1)))
        };
        self.server(hook, &segment, &mut []);
    }

    /// Any segment from the client.
    pub fn client(&self, hook: &mut Hook, segment: &Segment, payload: &mut [u8]) -> Verdict {
        let payload = &mut Payload::new(payload);
        hook.client(self.id, &self.ends, segment, payload, peer_of, self.now)
    }

    /// Any segment from the server.
    pub fn server(&self, hook: &mut Hook, segment: &Segment, payload: &mut [u8]) {
        hook.server(self.id, segment, &Payload::new(payload), self.now);
    }

    /// The client sends a part of its stream, in packets whose bytes lie in one or two pieces.
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
                hook.hold(self.id, &self.data(seq), (len, len), packet, self.now);
            }
            Verdict::Drop => {}
        }
        self.release(hook);
        verdict
    }

    /// The client sends a part of its stream, which passes the hook and is lost after it.
    pub fn lose(&mut self, hook: &mut Hook, stream: &[u8], part: Range<usize>) {
        let packet = packet(self.seq(part.start), &stream[part]);
        assert_eq!(self.pass(hook, packet, 0).0, Verdict::Pass);
    }

    /// As the engine does after every segment of a flow.
    pub fn release(&mut self, hook: &mut Hook) {
        while let Some(packet) = hook.release(self.id) {
            let (verdict, packet) = self.pass(hook, packet, 0);
            assert_eq!(verdict, Verdict::Pass, "a released packet has to pass");
            self.deliver(hook, &packet);
        }
    }

    /// How much of the client's stream the server has acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acked
    }

    /// The next byte that the server waits for.
    pub fn next(&self) -> usize {
        self.got
    }

    /// Behind the last byte that the server has got.
    pub fn reached(&self) -> usize {
        self.arrived.len()
    }

    /// What the server has got without a gap.
    pub fn received(&self) -> Vec<u8> {
        self.arrived
            .iter()
            .take(self.got)
            .flatten()
            .copied()
            .collect()
    }

    /// The server acknowledges all but the last `behind` bytes.
    pub fn ack(&mut self, hook: &mut Hook, behind: usize) {
        self.ack_to(hook, self.next().saturating_sub(behind));
    }

    /// The server acknowledges all before `offset`, or so it says.
    pub fn ack_to(&mut self, hook: &mut Hook, offset: usize) {
        self.acked = self.acked.max(offset);
        self.server(hook, &self.saying(self.said), &mut []);
        self.release(hook);
    }

    /// The server says something, in parts that arrive in the order given.
    pub fn say(&mut self, hook: &mut Hook, bytes: &[u8], parts: &[Range<usize>]) {
        for part in parts {
            self.say_at(hook, self.said + part.start, &bytes[part.clone()]);
        }
        self.said += bytes.len();
    }

    /// The server sends this part of its stream, whatever it sent before.
    pub fn say_at(&mut self, hook: &mut Hook, at: usize, bytes: &[u8]) {
        self.server(hook, &self.saying(at), &mut bytes.to_vec());
        self.release(hook);
    }

    /// A segment of the server's, with this place in its stream.
    pub fn saying(&self, at: usize) -> Segment {
        segment(self.server_seq(at), Some(self.seq(self.acked)))
    }

    /// The server says something, in one segment.
    pub fn say_all(&mut self, hook: &mut Hook, bytes: &[u8]) {
        self.say(hook, bytes, std::slice::from_ref(&(0..bytes.len())));
    }

    fn pass(&self, hook: &mut Hook, bytes: Vec<u8>, cut: usize) -> (Verdict, Vec<u8>) {
        let (mut buffer, pieces) = in_pieces(&bytes, cut);
        let headers = Headers::parse(&bytes).expect("our own packet");
        let seq = TcpPacket::new_unchecked(&bytes[20..]).seq_number().0 as u32;
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
        let is_kept = hook
            .flow(self.id)
            .is_some_and(|flow| flow.bypass.is_none() && flow.session_setups <= MAX_PATCHES);
        let tcp = TcpPacket::new_checked(&packet[20..]).expect("our own packet");
        assert!(tcp.verify_checksum(&LAN.into(), &SERVER.into()));
        let seq = tcp.seq_number().0 as u32;
        let start = self.offset(seq);
        let end = start + tcp.payload().len();
        if self.arrived.len() < end {
            self.arrived.resize(end, None);
        }
        for (at, byte) in (start..).zip(tcp.payload()) {
            let old = *self.arrived[at].get_or_insert(*byte);
            assert!(
                old == *byte || (at < self.acked && !is_kept),
                "byte {at} of the stream was {old} and is {byte}"
            );
        }
        while let Some(Some(_)) = self.arrived.get(self.got) {
            self.got += 1;
        }
    }

    /// Where in the client's stream a sequence number is.
    pub fn offset(&self, seq: u32) -> usize {
        seq.wrapping_sub(self.seq(0)) as usize
    }

    /// The sequence number of a byte of the client's stream.
    pub fn seq(&self, offset: usize) -> u32 {
        self.isn.wrapping_add(1).wrapping_add(offset as u32)
    }

    /// The server has acknowledged all before this.
    pub fn next_to_acknowledge(&self) -> usize {
        self.acked
    }

    /// A segment of the client's with data.
    pub fn data(&self, seq: u32) -> Segment {
        segment(seq, Some(self.server_seq(self.said)))
    }

    fn server_seq(&self, offset: usize) -> u32 {
        self.server_isn.wrapping_add(1).wrapping_add(offset as u32)
    }
}

pub fn segment(seq: u32, ack: Option<u32>) -> Segment {
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

/// The same bytes with a gap in the buffer after `cut` bytes of payload, if there are more.
fn in_pieces(bytes: &[u8], cut: usize) -> (Vec<u8>, Vec<Range<usize>>) {
    const GAP: usize = 7;
    let first = (HEADERS + cut).min(bytes.len());
    let buffer = [&bytes[..first], &[0xEE; GAP], &bytes[first..]].concat();
    (buffer, vec![0..first, first + GAP..bytes.len() + GAP])
}

fn packet(seq: u32, payload: &[u8]) -> Vec<u8> {
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
    tcp.set_seq_number(TcpSeqNumber(seq as i32));
    tcp.set_ack(true);
    tcp.payload_mut().copy_from_slice(payload);
    tcp.fill_checksum(&IpAddress::from(LAN), &IpAddress::from(SERVER));
    bytes
}
