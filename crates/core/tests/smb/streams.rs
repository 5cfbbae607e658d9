//! Hard streams, one by one, against the oracle that has the whole stream.

use super::hook;
use std::collections::BTreeSet;
use std::ops::Range;
use vcgate_core::smb::{Mode, Verdict};
use vcgate_test_support::smb::link::SimulatedLink;
use vcgate_test_support::smb::messages::{Message, Signature, setup};
use vcgate_test_support::smb::oracle::{Circumstances, rewrite};

/// TCP's payload in a tunnel with an MTU of 1420.
const MSS: usize = 1368;
/// Payload of the largest super-packet.
const SUPER: usize = 65_495;

/// A session setup with a security blob of `len` bytes.
fn with_blob(words: u8, len: usize) -> Vec<u8> {
    let mut bytes = setup(words, 0, Signature::None);
    bytes.extend((0..len).map(|i| i as u8));
    let len = bytes.len() as u32 - 4;
    bytes[..4].copy_from_slice(&len.to_be_bytes());
    bytes
}

fn chain(gap: u8) -> Vec<u8> {
    Message::LogoffThenSessionSetup { vc: 0, gap }.bytes()
}

/// The parts of a stream that lie between multiples of `size`.
fn cut(stream: &[u8], size: usize) -> Vec<Range<usize>> {
    (0..stream.len())
        .step_by(size)
        .map(|from| from..(from + size).min(stream.len()))
        .collect()
}

/// Sends the parts in this order over a flow of its own; the hook's
/// output must be the oracle's, with `logons` session setups.
fn arrives_as_the_oracle_says(stream: &[u8], parts: &[Range<usize>], logons: usize) {
    let mut hook = hook(Mode::Assign);
    let other = setup(12, 0, Signature::None);
    super::sent(&mut SimulatedLink::open(&mut hook, 1, 0), &mut hook, &other);
    let mut link = SimulatedLink::open(&mut hook, 0, u32::MAX - 20);
    for part in parts {
        let waited_for = part.start <= link.next();
        let verdict = link.send(&mut hook, stream, part.clone(), 0);
        assert!(verdict == Verdict::Pass || !waited_for);
    }
    let met = Circumstances {
        taken: BTreeSet::from([1]),
        ..Circumstances::default()
    };
    let expected = rewrite(stream, &met);
    assert!(link.received() == expected.bytes, "{parts:?}");
    assert_eq!(expected.requested.len(), logons);
    assert_eq!(hook.counters().session_setups, 1 + logons as u64);
}

#[test]
fn session_setups_cut_at_every_byte() {
    for words in [10, 12, 13] {
        let stream = [with_blob(words, 40), chain(3), with_blob(words, 0)].concat();
        for at in 1..stream.len() {
            let halves = [0..at, at..stream.len()];
            arrives_as_the_oracle_says(&stream, &halves, 3);
            arrives_as_the_oracle_says(&stream, &[halves[1].clone(), 0..stream.len()], 3);
        }
        arrives_as_the_oracle_says(&stream, &cut(&stream, 1), 3);
    }
}

/// A Kerberos ticket with the groups of its user has up to 48,000 bytes (MaxTokenSize).
#[test]
fn blobs_of_the_size_of_kerberos_tickets_over_several_segments() {
    for len in [1_500, 12_000, 48_000] {
        let negotiate = Message::Negotiate.bytes();
        let stream = [negotiate, with_blob(12, len), with_blob(12, len)].concat();
        let segments = cut(&stream, MSS);
        arrives_as_the_oracle_says(&stream, &segments, 2);
        let mut backwards = segments.clone();
        backwards.reverse();
        arrives_as_the_oracle_says(&stream, &backwards, 2);
        // Every second one is lost, and sent again in segments with other boundaries.
        let mut lossy: Vec<_> = segments.into_iter().step_by(2).collect();
        lossy.extend(cut(&stream, MSS / 2 + 1));
        arrives_as_the_oracle_says(&stream, &lossy, 2);
    }
}

#[test]
fn a_logoff_and_the_next_session_setup_in_one_message_again_and_again() {
    let chains: Vec<_> = (0..20).map(chain).collect();
    let stream = [setup(12, 0, Signature::None), chains.concat()].concat();
    for size in 1..=stream.len() {
        arrives_as_the_oracle_says(&stream, &cut(&stream, size), 21);
    }
}

#[test]
fn many_messages_in_one_segment() {
    let messages = [
        Message::Negotiate.bytes(),
        setup(12, 0, Signature::None),
        Message::KeepAlive.bytes(),
        setup(13, 5, Signature::Placeholder),
        Message::TreeConnect.bytes(),
        chain(0),
        Message::Write { len: 300 }.bytes(),
        setup(10, 0, Signature::None),
    ];
    let stream = messages.concat();
    let whole = 0..stream.len();
    arrives_as_the_oracle_says(&stream, &[whole.clone(), whole], 4);
}

#[test]
fn pipelined_writes_of_64_kb_to_several_megabytes() {
    let write = Message::Write { len: 64 << 10 }.bytes();
    for writes in [1, 16, 64] {
        let stream = [
            with_blob(12, 2_000),
            write.repeat(writes),
            chain(1),
            write.clone(),
        ]
        .concat();
        for size in [MSS, SUPER] {
            let mut parts = cut(&stream, size);
            // Of each four, the third comes last.
            for four in parts.chunks_exact_mut(4) {
                four.swap(2, 3);
            }
            arrives_as_the_oracle_says(&stream, &parts, 2);
        }
    }
}
