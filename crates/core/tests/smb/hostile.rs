//! A client that sends what the hook reads and the server does not: no VcNumber 0 reaches the
//! server's stream that way.

use super::{hook, vc_at};
use std::ops::Range;
use vcgate_core::smb::{HeldPacket, Hook, Mode, Segment, Verdict};
use vcgate_test_support::smb::link::{SimulatedLink, ends, flow, segment};
use vcgate_test_support::smb::messages::{Message, VC_AT, framed, zero};
use vcgate_test_support::smb::oracle::{Circumstances, rewrite};
use vcgate_wire::tcp::SeqNumber;

/// A server's side of a connection that takes what it gets as the test says.
struct Server {
    link: SimulatedLink,
    stream: Vec<Option<u8>>,
    /// Of two copies of a byte it takes the later one, as some stacks do.
    last_wins: bool,
}

impl Server {
    fn open(hook: &mut Hook, last_wins: bool) -> Self {
        Self {
            link: SimulatedLink::open(hook, 0, u32::MAX - 100),
            stream: Vec::new(),
            last_wins,
        }
    }

    /// Returns the received bytes before the first gap.
    fn received(&self) -> Vec<u8> {
        self.stream.iter().map_while(|byte| *byte).collect()
    }

    /// The VcNumbers of the session setups that it reads.
    fn numbers(&self) -> Vec<u16> {
        rewrite(&self.received(), &Circumstances::default()).requested
    }

    /// The client sends a segment; whether the server gets it.
    fn sends(&mut self, hook: &mut Hook, segment: Segment, bytes: &[u8], arrives: bool) -> Verdict {
        let mut bytes = bytes.to_vec();
        let verdict = self.link.client(hook, &segment, &mut bytes);
        match verdict {
            Verdict::Pass if arrives => self.gets(segment.seq, &bytes),
            Verdict::Pass | Verdict::Drop => {}
            Verdict::Hold => {
                let len = bytes.len();
                let packet = [&segment.seq.0.to_be_bytes()[..], &bytes].concat();
                let packet = HeldPacket {
                    payload_len: len,
                    segment_len: len,
                    bytes: packet,
                };
                hook.hold(self.link.id, &segment, packet, self.link.now);
            }
        }
        while let Some(packet) = hook.release(self.link.id) {
            let (seq, bytes) = packet.split_first_chunk().unwrap();
            let seq = SeqNumber(u32::from_be_bytes(*seq));
            let mut bytes = bytes.to_vec();
            let released = self.said_at(seq);
            if self.link.client(hook, &released, &mut bytes) == Verdict::Pass && arrives {
                self.gets(seq, &bytes);
            }
        }
        verdict
    }

    /// The client sends this at an offset of its stream.
    fn says(&mut self, hook: &mut Hook, at: usize, bytes: &[u8], arrives: bool) -> Verdict {
        let segment = self.said_at(self.link.seq(at));
        self.sends(hook, segment, bytes, arrives)
    }

    fn said_at(&self, seq: SeqNumber) -> Segment {
        segment(seq, Some(self.link.server_segment(0).seq))
    }

    fn gets(&mut self, seq: SeqNumber, bytes: &[u8]) {
        let start = self.link.offset(seq);
        let acked = self.link.acknowledged();
        for (at, byte) in (start..).zip(bytes) {
            if at < acked || at > 1 << 20 {
                continue;
            }
            if self.stream.len() <= at {
                self.stream.resize(at + 1, None);
            }
            let place = &mut self.stream[at];
            if self.last_wins || place.is_none() {
                *place = Some(*byte);
            }
        }
    }

    /// It acknowledges all that it has.
    fn acknowledges(&mut self, hook: &mut Hook) {
        let next = self.received().len();
        self.link.ack_to(hook, next);
    }
}

/// A message in whose data a session setup with VcNumber 0 begins at the same place of the stream.
fn harmless() -> Vec<u8> {
    Message::Write { len: 200 }.bytes()
}

/// Segments that never reach the server's stream: their hop limit ends before it, their timestamps
/// are old (RFC 7323 section 5.3), their acknowledgement is too old (RFC 5961 section 5.2).
#[test]
fn a_segment_that_is_lost_after_it_was_read_decides_what_its_copies_hold() {
    for last_wins in [true, false] {
        for first in [
            harmless(),
            framed(b"no SMB at all, nor what could be".to_vec()),
            framed(b"\xFESMB and what follows".to_vec()),
            Message::KeepAlive.bytes().repeat(9),
            zero()[..VC_AT + 1].to_vec(),
        ] {
            let mut hook = hook(Mode::Assign);
            let mut server = Server::open(&mut hook, last_wins);
            let verdict = server.says(&mut hook, 0, &first, false);
            assert_eq!(verdict, Verdict::Pass);
            let _ = server.says(&mut hook, 0, &zero(), true);
            server.acknowledges(&mut hook);
            assert!(!server.numbers().contains(&0), "{first:02x?}");
        }
    }
}

/// The first copy of a byte counts, whichever of two the server would take.
#[test]
fn rfc9293_3_10_7_4_overlapping_copies_that_differ_are_one_stream() {
    let stream = [Message::Negotiate.bytes(), zero()].concat();
    let at = Message::Negotiate.bytes().len();
    for last_wins in [true, false] {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut hook = hook(Mode::Assign);
            let mut server = Server::open(&mut hook, last_wins);
            let parts: [(usize, &[u8]); 3] = [
                (0, &stream[..at + 2]),
                (at, &harmless()),
                (at, &stream[at..]),
            ];
            for part in order {
                let (at, bytes) = parts[part];
                let _ = server.says(&mut hook, at, bytes, true);
            }
            assert!(!server.numbers().contains(&0), "{order:?}");
        }
    }
}

#[test]
fn rfc9293_3_10_7_4_a_segment_without_an_acknowledgement_is_dropped_unread() {
    let mut hook = hook(Mode::Assign);
    let mut server = Server::open(&mut hook, false);
    let bare = segment(server.link.seq(0), None);
    let verdict = server.sends(&mut hook, bare, &harmless(), false);
    assert_eq!(verdict, Verdict::Drop);
    assert_eq!(server.says(&mut hook, 0, &zero(), true), Verdict::Pass);
    assert_eq!(server.numbers(), [1]);
    assert_eq!(hook.counters().invalid_dropped, 1);
}

#[test]
fn rfc9293_3_10_7_4_an_acknowledgement_of_what_was_not_sent_is_dropped_unread() {
    let mut hook = hook(Mode::Assign);
    let mut server = Server::open(&mut hook, false);
    let said = b"\0\0\0\0";
    server.link.server_sends(&mut hook, said);
    let next = server.link.server_segment(said.len()).seq;
    let beyond = segment(server.link.seq(0), Some(next.plus(1)));
    let verdict = server.sends(&mut hook, beyond, &harmless(), false);
    assert_eq!(verdict, Verdict::Drop);
    let last = segment(server.link.seq(0), Some(next));
    let verdict = server.sends(&mut hook, last, &zero(), true);
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(server.numbers(), [1]);
}

/// A server keeps the data of a SYN, or drops it (RFC 9293 section 3.10.7.2): none is sent.
#[test]
fn rfc7413_a_syn_with_data_is_dropped_and_one_without_it_passes() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::new(flow(0), ends(0), 7);
    let syn = Segment {
        syn: true,
        ..segment(SeqNumber(7), None)
    };
    assert_eq!(link.client(&mut hook, &syn, &mut zero()), Verdict::Drop);
    link.syn(&mut hook);
    link.syn_ack(&mut hook);
    // In the midst of a connection, too.
    assert_eq!(link.client(&mut hook, &syn, &mut zero()), Verdict::Drop);
    assert_eq!(link.send(&mut hook, &zero(), 0..9, 0), Verdict::Pass);
}

/// The server answers the first of two SYNs; the second one is lost on its way to it, or dropped by it.
#[test]
fn rfc9293_3_10_7_4_the_servers_syn_counts_though_the_client_sent_another() {
    for is_known in [false, true] {
        let mut hook = hook(Mode::Assign);
        if is_known {
            let mut old = SimulatedLink::open(&mut hook, 0, 500);
            let _ = old.send(&mut hook, &zero(), 0..zero().len(), 0);
        }
        let mut link = SimulatedLink::new(flow(0), ends(0), 0x9000_0000);
        link.syn(&mut hook);
        let stray = Segment {
            syn: true,
            ..segment(SeqNumber(0x1234_5678), None)
        };
        assert_eq!(link.client(&mut hook, &stray, &mut []), Verdict::Pass);
        link.syn_ack(&mut hook);
        let _ = link.send(&mut hook, &zero(), 0..zero().len(), 0);
        assert_eq!(vc_at(&link.received(), VC_AT), 1);
    }
}

/// A client that sends messages without end beyond the server's window is not remembered without
/// end.
#[test]
fn the_transcript_is_bounded_and_segments_beyond_it_are_dropped() {
    let mut hook = hook(Mode::Assign);
    let mut server = Server::open(&mut hook, false);
    let some = Message::KeepAlive.bytes().repeat(500);
    let parts = |n: usize| -> Range<usize> { n * some.len()..(n + 1) * some.len() };
    let dropped = (0..100)
        .find(|n| server.says(&mut hook, parts(*n).start, &some, true) == Verdict::Drop)
        .expect("a bound");
    server.acknowledges(&mut hook);
    let at = parts(dropped).start;
    assert_eq!(server.says(&mut hook, at, &some, true), Verdict::Pass);
}
