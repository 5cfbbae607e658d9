//! Any segments of a hostile client, against a receiver that decides on each by the RFCs: no
//! session setup with VcNumber 0 enters the server's stream, and no byte is changed but those of
//! VcNumbers.

use super::properties::message;
use super::receiver::{Receiver, vc_number_offsets};
use super::{bypass, vc_at};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use vcgate_core::ids::FlowId;
use vcgate_core::smb::{HeldPacket, Hook, Reason, Segment, Settings, TcpTimestamps, Verdict};
use vcgate_test_support::smb::link::{SimulatedLink, segment};
use vcgate_test_support::smb::messages::{Message, SAMPLE_ZERO, answer, framed, write_raw, zero};
use vcgate_test_support::smb::oracle::{Circumstances, rewrite};
use vcgate_wire::tcp::SeqNumber;

/// Other contents of a stream, none of which may make a server read a 0.
fn crafted() -> impl Strategy<Value = Vec<u8>> {
    let with = |bits, mut message: Vec<u8>| {
        message[1] = bits;
        message
    };
    prop_oneof![
        4 => Just(zero()),
        1 => Just([write_raw(200, 7, false), zero()].concat()),
        1 => Just([framed(b"\xFESMB\x40\0\0\0".to_vec()), zero()].concat()),
        1 => Just(framed(b"\xFFE\0\0\0\0\0\0".to_vec())),
        1 => Just(framed(b"no SMB at all".to_vec())),
        1 => Just(vec![0, 2, 0, 0]),
        2 => (57usize..100).prop_map(in_the_data_of_a_long_write),
        1 => Just(vec![0x86, 2, 0, 3, 1, 2, 3]),
        1 => any::<u8>().prop_map(move |bits| with(bits, zero())),
        1 => any::<u8>().prop_map(move |bits| with(bits, Message::Write { len: 90 }.bytes())),
        // The words of a session setup end before its number.
        1 => (0u8..6).prop_map(|words| {
            let mut short = zero();
            short[36] = words;
            short
        }),
        // A chain that leads to its own number.
        1 => (0u8..50).prop_map(|at| {
            let mut chain = zero();
            chain[37..41].copy_from_slice(&[0x73, 0, at, 0]);
            chain
        }),
    ]
}

/// A SMB_COM_WRITE_ANDX whose fields confirm a length of 24 bits (MS-SMB section 2.2.4.3.1), of which
/// `len` is in the lower 17, and a logon after those.
fn in_the_data_of_a_long_write(len: usize) -> Vec<u8> {
    let mut write = SAMPLE_ZERO[4..36].to_vec();
    write[4] = 0x2F;
    write.extend([14, 0xFF]);
    write.resize(len, 0);
    write[51..57].copy_from_slice(&[2, 0, len as u8, 0, 0, 0]);
    let mut stream = framed(write);
    stream[1] = 2;
    stream.extend(zero());
    stream
}

/// The streams from which a client takes the bytes of its segments.
fn streams() -> impl Strategy<Value = [Vec<u8>; 2]> {
    let messages = || prop::collection::vec(prop_oneof![message(), crafted()], 1..5);
    // One that is long enough to be cut.
    let short = |messages: Vec<Vec<u8>>| {
        let mut bytes = messages.concat();
        bytes.truncate(3000);
        bytes
    };
    let other = prop_oneof![
        3 => Just(None),
        2 => messages().prop_map(Some),
    ];
    (messages(), other).prop_map(move |(first, second)| {
        let second = second.unwrap_or_else(|| first.clone());
        [short(first), short(second)]
    })
}

#[derive(Debug, Clone)]
struct Sent {
    /// The first byte, from the one that the server expects.
    at: isize,
    len: usize,
    stream: usize,
    syn: bool,
    rst: bool,
    fin: bool,
    /// The acknowledgement, from the server's next number.
    ack: Option<i32>,
    /// The timestamp, from that of the client's clock.
    time: Option<i32>,
    /// Whether its hop limit is enough for the way to the server.
    arrives: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Send(Sent),
    /// The server's acknowledgement, which it may delay.
    Acknowledge,
    Answer(Vec<u8>),
    /// The NAT believes that the connection has ended.
    Over,
    /// The NAT forgets the connection.
    Forget,
    Wait(u64),
}

fn sent() -> impl Strategy<Value = Sent> {
    let at = prop_oneof![6 => Just(0isize), 3 => -60isize..60, 1 => -3000isize..3000];
    let len = prop_oneof![3 => 1usize..9, 3 => 1usize..100, 2 => Just(1500), 1 => Just(0)];
    let ack = prop_oneof![
        12 => Just(Some(0)),
        1 => Just(None),
        1 => (1i32..9).prop_map(Some),
        1 => (-5000i32..0).prop_map(Some),
    ];
    let time = prop_oneof![6 => Just(Some(0)), 1 => Just(Some(-1)), 1 => Just(None)];
    let flags = (
        prop::bool::weighted(0.03),
        prop::bool::weighted(0.03),
        prop::bool::weighted(0.05),
    );
    let arrives = prop::bool::weighted(0.8);
    (at, len, 0usize..2, flags, ack, time, arrives).prop_map(
        |(at, len, stream, (syn, rst, fin), ack, time, arrives)| Sent {
            at,
            len,
            stream,
            syn,
            rst,
            fin,
            ack,
            time,
            arrives,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let said = prop_oneof![
        2 => Just(answer::negotiated(7)),
        1 => Just(answer::negotiated(3)),
        1 => Just(answer::challenge()),
        1 => Just(answer::logged_on(true)),
        1 => Just(answer::logon_failure()),
        1 => Just(answer::write_complete(0x00FB_0002, 7)),
        1 => Just(answer::written()),
    ];
    prop_oneof![
        24 => sent().prop_map(Step::Send),
        4 => Just(Step::Acknowledge),
        3 => said.prop_map(Step::Answer),
        1 => Just(Step::Over),
        1 => Just(Step::Forget),
        1 => (0u64..40).prop_map(Step::Wait),
    ]
}

/// A hostile client, the hook and a server.
struct Attack {
    hook: Hook,
    link: SimulatedLink,
    receiver: Receiver,
    has_clock: bool,
    clock: u32,
    /// The bytes that the client has sent at each offset.
    sent: BTreeMap<usize, BTreeSet<u8>>,
}

impl Attack {
    fn start(isn: u32, last_wins: bool, has_clock: bool) -> Self {
        let mut hook = Hook::new(Settings::default());
        let link = SimulatedLink::open(&mut hook, 0, isn);
        let (start, own) = (link.seq(0), link.server_segment(0).seq);
        Self {
            hook,
            link,
            receiver: Receiver::new(start, own, last_wins),
            has_clock,
            clock: 1000,
            sent: BTreeMap::new(),
        }
    }

    fn play(&mut self, streams: &[Vec<u8>; 2], step: &Step) {
        match step {
            Step::Send(sent) => self.send(streams, sent),
            Step::Acknowledge => self.acknowledge(),
            Step::Answer(bytes) => {
                let answer = segment(self.receiver.own_next, Some(self.receiver.expects()));
                self.receiver.own_next = self.receiver.own_next.plus(bytes.len() as u32);
                self.link
                    .server(&mut self.hook, &answer, &mut bytes.clone());
                self.release(true);
            }
            Step::Over => self.hook.connection_over(self.link.id),
            Step::Forget => {
                self.hook.close(self.link.id);
                let FlowId { slot, generation } = self.link.id;
                let generation = generation + 1;
                self.link.id = FlowId { slot, generation };
            }
            Step::Wait(seconds) => {
                self.link.now += Duration::from_secs(*seconds);
                self.hook.handle_timeout(self.link.now);
            }
        }
        // Its resets may be lost, or be challenged.
        while self.hook.poll_action(self.link.now, |_| true).is_some() {}
    }

    fn send(&mut self, streams: &[Vec<u8>; 2], sent: &Sent) {
        let expects = self.receiver.expects();
        let next = self.link.offset(expects);
        let at = next.saturating_add_signed(sent.at);
        let stream = &streams[sent.stream];
        let from = at.min(stream.len());
        let bytes = &stream[from..(from + sent.len).min(stream.len())];
        let distance = |by: i32| self.receiver.own_next.plus(by as u32);
        self.clock += 1;
        let time = sent.time.filter(|_| self.has_clock);
        let sending = Segment {
            syn: sent.syn,
            rst: sent.rst,
            fin: sent.fin,
            timestamps: time.map(|by| TcpTimestamps {
                value: self.clock.wrapping_add_signed(by * 500),
                echo: 0,
            }),
            ..segment(self.link.seq(from), sent.ack.map(distance))
        };
        if !sent.syn && !sent.rst {
            for (at, byte) in (from..).zip(bytes) {
                self.sent.entry(at).or_default().insert(*byte);
            }
        }
        self.pass(sending, bytes.to_vec(), sent.arrives);
        self.release(sent.arrives);
    }

    /// Gives the hook a segment and, if it passes, the server.
    fn pass(&mut self, segment: Segment, mut bytes: Vec<u8>, arrives: bool) {
        match self.link.client(&mut self.hook, &segment, &mut bytes) {
            Verdict::Pass if arrives => self.receiver.take(&segment, &bytes),
            Verdict::Pass | Verdict::Drop => {}
            Verdict::Hold => {
                let held = serde_json::to_vec(&Held::new(segment, &bytes)).unwrap();
                let packet = HeldPacket {
                    payload_len: bytes.len(),
                    segment_len: bytes.len(),
                    bytes: held,
                };
                self.hook
                    .hold(self.link.id, &segment, packet, self.link.now);
            }
        }
    }

    /// Sends what the hook releases, as the engine does after every segment.
    fn release(&mut self, arrives: bool) {
        while let Some(held) = self.hook.release(self.link.id) {
            let held: Held = serde_json::from_slice(&held).unwrap();
            let clock = self.hook.clock(self.link.id);
            let (segment, bytes) = held.raised_to(clock);
            self.pass(segment, bytes, arrives);
        }
    }

    fn acknowledge(&mut self) {
        let ack = segment(self.receiver.own_next, Some(self.receiver.expects()));
        self.link.server(&mut self.hook, &ack, &mut []);
        self.release(true);
    }

    /// Checks the stream that the server has received.
    fn check(&self) -> Result<(), TestCaseError> {
        let stream = self.receiver.received();
        let offsets = vc_number_offsets(&stream);
        for at in &offsets {
            if at + 2 <= stream.len() {
                prop_assert!(vc_at(&stream, *at) != 0, "a 0 at {at} of {stream:02x?}");
            }
        }
        // A server that takes lengths of 24 bits reads the same.
        let long = rewrite(&stream, &Circumstances::default());
        prop_assert!(!long.requested.contains(&0), "a 0 in {stream:02x?}");
        for (at, byte) in stream.iter().enumerate() {
            let is_sent = self.sent.get(&at).is_some_and(|sent| sent.contains(byte));
            let is_number = offsets.iter().any(|from| (*from..from + 2).contains(&at));
            prop_assert!(is_sent || is_number, "byte {at} of {stream:02x?}");
        }
        let bypass = bypass(&self.hook, &self.link);
        prop_assert!(
            bypass.is_none() || bypass == Some(Reason::Missed),
            "{bypass:?}"
        );
        Ok(())
    }
}

/// A held segment.
#[derive(serde::Serialize, serde::Deserialize)]
struct Held {
    seq: u32,
    ack: Option<u32>,
    fin: bool,
    time: Option<u32>,
    bytes: Vec<u8>,
}

impl Held {
    fn new(segment: Segment, bytes: &[u8]) -> Self {
        Self {
            seq: segment.seq.0,
            ack: segment.ack.map(|ack| ack.0),
            fin: segment.fin,
            time: segment.timestamps.map(|stamps| stamps.value),
            bytes: bytes.to_vec(),
        }
    }

    /// Returns the segment and its payload; its timestamp is not older than that of the one that
    /// filled the gap.
    fn raised_to(self, clock: Option<u32>) -> (Segment, Vec<u8>) {
        let timestamps = self.time.map(|time| TcpTimestamps {
            value: clock.map_or(time, |clock| clock.max(time)),
            echo: 0,
        });
        let segment = Segment {
            fin: self.fin,
            timestamps,
            ..segment(SeqNumber(self.seq), self.ack.map(SeqNumber))
        };
        (segment, self.bytes)
    }
}

proptest! {
    #[test]
    fn rfc9293_no_segments_lead_to_a_0_in_what_the_server_accepts(
        streams in streams(),
        steps in prop::collection::vec(step(), 1..60),
        isn in prop_oneof![any::<u32>(), (u32::MAX - 500)..=u32::MAX],
        last_wins: bool,
        has_clock: bool,
    ) {
        let mut attack = Attack::start(isn, last_wins, has_clock);
        for step in &steps {
            attack.play(&streams, step);
            attack.check()?;
        }
    }
}
