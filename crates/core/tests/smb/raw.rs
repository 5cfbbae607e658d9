//! Raw transfers: bare file data where a message could be.

use super::properties::{Step, parts, play, steps};
use super::{bypass, hook, logons, sent, vc_at};
use proptest::prelude::*;
use proptest::sample::Index;
use vcgate_core::smb::{Hook, Mode, Outcome, Reason, Verdict};
use vcgate_test_support::smb::link::SimulatedLink;
use vcgate_test_support::smb::messages::{
    Message, SAMPLE_ZERO, Signature, VC_AT, answer, framed, setup, write_raw, zero,
};

const USE_STANDARD: u32 = 0x00FB_0002;
const DISK_FULL: u32 = 0xC000_007F;

/// 200 bytes of a file that look like a session setup with VcNumber 0.
fn lookalike() -> Vec<u8> {
    let mut data = SAMPLE_ZERO[4..].to_vec();
    data.resize(200, 0x55);
    data
}

/// A client that has logged on and sent a WRITE_RAW, and its stream so far.
fn requested(hook: &mut Hook, mid: u16) -> (SimulatedLink, Vec<u8>) {
    let mut link = SimulatedLink::open(hook, 0, 0);
    let stream = [zero(), write_raw(200, mid, false)].concat();
    sent(&mut link, hook, &stream);
    link.ack(hook, 0);
    (link, stream)
}

#[test]
fn ms_cifs_2_2_4_25_raw_data_is_not_changed_and_a_later_logon_is() {
    for data in [
        lookalike(),
        write_raw(9, 1, true),
        b"no SMB".to_vec(),
        vec![],
    ] {
        let mut hook = hook(Mode::Assign);
        let (mut link, mut stream) = requested(&mut hook, 7);
        link.server_sends(&mut hook, &answer::write_raw(7));
        let at = stream.len();
        stream.extend([Message::KeepAlive.bytes(), framed(data)].concat());
        let end = stream.len();
        stream.extend(zero());
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(received[at..end], stream[at..end]);
        assert_eq!(vc_at(&received, end + VC_AT), 1);
        assert_eq!(bypass(&hook, &link), None);
        assert_eq!(hook.counters().session_setups, 2);
        assert_eq!(hook.counters().unread_setups, 0);
    }
}

#[test]
fn ms_cifs_3_3_5_26_after_a_refusal_there_is_no_raw_data() {
    for refusal in [
        answer::write_complete(USE_STANDARD, 7),
        // An error in the interim response itself.
        {
            let mut bytes = answer::write_raw(7);
            bytes[9..13].copy_from_slice(&USE_STANDARD.to_le_bytes());
            bytes
        },
    ] {
        let mut hook = hook(Mode::Assign);
        let (mut link, mut stream) = requested(&mut hook, 7);
        link.server_sends(&mut hook, &refusal);
        let at = stream.len();
        stream.extend(zero());
        assert_eq!(vc_at(&sent(&mut link, &mut hook, &stream), at + VC_AT), 1);
    }
}

#[test]
fn an_answer_to_another_request_is_none() {
    for other in [answer::write_complete(DISK_FULL, 8), answer::written(), {
        let mut request = answer::write_complete(DISK_FULL, 7);
        request[13] = 0;
        request
    }] {
        let mut hook = hook(Mode::Assign);
        let (mut link, mut stream) = requested(&mut hook, 7);
        link.server_sends(&mut hook, &other);
        stream.extend(framed(lookalike()));
        assert_eq!(
            sent(&mut link, &mut hook, &stream)[zero().len()..],
            stream[zero().len()..]
        );
    }
}

/// The final response of a request that was not answered before the next one was sent.
#[test]
fn the_end_of_one_raw_write_does_not_refuse_the_next() {
    let mut hook = hook(Mode::Assign);
    let (mut link, mut stream) = requested(&mut hook, 7);
    link.server_sends(&mut hook, &answer::write_raw(7));
    stream.extend(framed(lookalike()));
    stream.extend(write_raw(200, 7, false));
    sent(&mut link, &mut hook, &stream);
    link.ack(&mut hook, 0);
    link.server_sends(&mut hook, &answer::write_complete(DISK_FULL, 7));
    stream.extend(framed(lookalike()));
    let received = sent(&mut link, &mut hook, &stream);
    assert_eq!(received[zero().len()..], stream[zero().len()..]);
}

/// It does not change file data, and it does not let a logon pass unseen.
#[test]
fn a_possible_logon_in_the_place_of_raw_data_is_reported() {
    for is_late in [true, false] {
        let mut hook = hook(Mode::Assign);
        let (mut link, mut stream) = requested(&mut hook, 7);
        let at = stream.len();
        stream.extend(zero());
        if is_late {
            // The answer comes between two parts of the message.
            let verdict = link.send(&mut hook, &stream, at..at + 20, 0);
            assert_eq!(verdict, Verdict::Pass);
            link.server_sends(&mut hook, &answer::write_complete(USE_STANDARD, 7));
        }
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(vc_at(&received, at + VC_AT), u16::from(is_late));
        let last = logons(&mut hook).pop().expect("it is reported");
        match is_late {
            true => assert_eq!(last.outcome, Outcome::Rewritten),
            false => assert_eq!(last.outcome, Outcome::Unread(Reason::RawData)),
        }
        assert_eq!(hook.counters().unread_setups, u64::from(!is_late));
    }
}

/// Data follows such a message only if it is a request.
#[test]
fn a_raw_request_in_the_place_of_raw_data_ends_the_reading() {
    for second in [write_raw(200, 8, false), Message::ReadRaw.bytes()] {
        let mut hook = hook(Mode::Assign);
        let (mut link, mut stream) = requested(&mut hook, 7);
        stream.extend([second, framed(lookalike()), zero()].concat());
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(received[zero().len()..], stream[zero().len()..]);
        assert_eq!(bypass(&hook, &link), Some(Reason::RawData));
    }
}

#[test]
fn ms_cifs_2_2_4_22_raw_data_of_the_server_says_nothing() {
    for data in [
        answer::logged_on(false)[4..].to_vec(),
        answer::smb2()[4..].to_vec(),
        b"no SMB".to_vec(),
        vec![],
    ] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let mut stream = Message::ReadRaw.bytes();
        sent(&mut link, &mut hook, &stream);
        link.ack(&mut hook, 0);
        link.server_sends(&mut hook, &framed(data));
        let at = stream.len();
        stream.extend(setup(12, 0, Signature::Mac));
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(vc_at(&received, at + VC_AT), 1, "no logon was accepted");
        // The next message is none of it.
        link.server_sends(&mut hook, &answer::logged_on(false));
        let at = stream.len();
        stream.extend(setup(12, 0, Signature::Mac));
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(vc_at(&received, at + VC_AT), 0);
    }
}

/// An exchange between client and server according to the protocol.
#[derive(Debug, Clone)]
enum Exchange {
    LogOn(u8),
    LogOffAndOn(u8),
    Write(usize),
    WriteMpx(usize),
    Refused { mid: u16 },
    WriteRaw(RawWrite),
    ReadRaw(Vec<u8>),
}

#[derive(Debug, Clone)]
struct RawWrite {
    mid: u16,
    data: Vec<u8>,
    through: bool,
    fails: bool,
    /// The client does not wait for the interim response.
    at_once: bool,
}

/// The client's bytes, those that the server must receive, and its answer.
type Hairpin = (Vec<u8>, Vec<u8>, Vec<u8>);

impl Exchange {
    fn turns(&self) -> Vec<Hairpin> {
        let same = |bytes: Vec<u8>, answer| (bytes.clone(), bytes, answer);
        let logon = |bytes: Vec<u8>, block: usize| {
            let mut given = bytes.clone();
            given[block + 9] = 1;
            vec![(bytes, given, answer::logged_on(true))]
        };
        match self {
            Self::LogOn(words) => logon(setup(*words, 0, Signature::Mac), 36),
            Self::LogOffAndOn(gap) => {
                let bytes = Message::LogoffThenSessionSetup { vc: 0, gap: *gap }.bytes();
                logon(bytes, 4 + 39 + usize::from(*gap))
            }
            Self::Write(len) => vec![same(
                Message::Write { len: *len }.bytes(),
                answer::written(),
            )],
            Self::WriteMpx(len) => vec![same(
                Message::WriteMpx { len: *len }.bytes(),
                answer::write_mpx_refused(),
            )],
            Self::Refused { mid } => {
                let refusal = answer::write_complete(USE_STANDARD, *mid);
                vec![same(write_raw(200, *mid, true), refusal)]
            }
            Self::WriteRaw(write) => {
                let RawWrite { mid, data, .. } = write;
                let request = write_raw(data.len(), *mid, write.through);
                let status = if write.fails { DISK_FULL } else { 0 };
                let last = match write.through || write.fails {
                    true => answer::write_complete(status, *mid),
                    false => vec![],
                };
                match write.at_once {
                    true => vec![same(
                        [request, framed(data.clone())].concat(),
                        [answer::write_raw(*mid), last].concat(),
                    )],
                    false => vec![
                        same(request, answer::write_raw(*mid)),
                        same(framed(data.clone()), last),
                    ],
                }
            }
            Self::ReadRaw(data) => vec![same(Message::ReadRaw.bytes(), framed(data.clone()))],
        }
    }
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let file = prop_oneof![
        2 => Just(lookalike()),
        1 => Just(Message::LogoffThenSessionSetup { vc: 0, gap: 3 }.bytes()[4..].to_vec()),
        1 => Just(write_raw(10, 3, true)[4..].to_vec()),
        1 => Just(answer::logged_on(false)[4..].to_vec()),
        1 => Just(answer::write_complete(USE_STANDARD, 1)[4..].to_vec()),
        1 => Just(answer::smb2()[4..].to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..90),
        1 => Just(lookalike().repeat(200)),
        1 => Just(vec![]),
    ];
    let raw = (
        0u16..2,
        file.clone(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(mid, data, through, fails, at_once)| {
            // Whether it is one more request cannot be known before the answer.
            let at_once = at_once && data.get(4) != Some(&0x1D);
            Exchange::WriteRaw(RawWrite {
                mid,
                data,
                through,
                fails,
                at_once,
            })
        });
    prop_oneof![
        3 => prop_oneof![Just(10u8), Just(12), Just(13)].prop_map(Exchange::LogOn),
        1 => (0u8..20).prop_map(Exchange::LogOffAndOn),
        1 => (0usize..400).prop_map(Exchange::Write),
        1 => (0usize..400).prop_map(Exchange::WriteMpx),
        // Another one than that of a raw write whose final response may come.
        2 => (2u16..4).prop_map(|mid| Exchange::Refused { mid }),
        6 => raw,
        3 => file.prop_map(Exchange::ReadRaw),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_hook_changes_bytes_of_session_setups_only(
        exchanges in prop::collection::vec((exchange(), steps()), 1..8),
        sizes in prop::collection::vec(prop_oneof![1usize..30, 30usize..3000], 1..6),
        cuts in prop::collection::vec(any::<Index>(), 0..4),
        disorder in prop::collection::vec(any::<Index>(), 0..4),
        isn in prop_oneof![any::<u32>(), (u32::MAX - 500)..=u32::MAX],
    ) {
        let mut hook = super::hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, isn);
        link.server_sends(&mut hook, &answer::negotiated(7));
        let (mut stream, mut expected, mut setups) = (Vec::new(), Vec::new(), 0);
        for (exchange, steps) in &exchanges {
            setups += u64::from(matches!(exchange, Exchange::LogOn(_) | Exchange::LogOffAndOn(_)));
            for (client, given, said) in exchange.turns() {
                stream.extend(client);
                expected.extend(given);
                let steps: &[Step] = steps;
                play(&mut link, &mut hook, &stream, stream.len(), steps, &sizes);
                link.ack(&mut hook, 0);
                if !said.is_empty() {
                    link.server_sends_parts(&mut hook, &said, &parts(said.len(), &cuts, &disorder));
                }
            }
        }
        prop_assert!(link.received() == expected);
        prop_assert_eq!(bypass(&hook, &link), None);
        prop_assert_eq!(hook.counters().session_setups, setups);
    }
}
