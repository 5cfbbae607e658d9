//! Flows across a restart of the endpoint.

use super::{bypass, given, hook, sent, vc_at};
use proptest::prelude::*;
use vcgate_core::smb::{Hook, Mode, Reason, Segment, Settings, TcpTimestamps, VcNumber, Verdict};
use vcgate_test_support::smb::link::{SimulatedLink, flow, segment};
use vcgate_test_support::smb::messages::{Message, Signature, VC_AT, answer, framed, setup, zero};
use vcgate_test_support::smb::oracle::{Circumstances, rewrite};
use vcgate_wire::tcp::SeqNumber;

/// Returns another hook with the flow, restored from JSON.
fn restart(old: &Hook, link: &SimulatedLink) -> Hook {
    let kept = old.keep(link.id).expect("a flow");
    let written = serde_json::to_string(&kept).unwrap();
    let mut new = hook(Mode::Assign);
    new.restore(link.id, &serde_json::from_str(&written).unwrap(), None);
    assert_eq!(new.keep(link.id), Some(kept));
    new
}

#[test]
fn a_later_session_setup_gets_the_flow_s_number() {
    let mut before = hook(Mode::Assign);
    given(&mut before, 1, 0);
    let mut link = SimulatedLink::open(&mut before, 0, u32::MAX - 60);
    let stream = [zero(), zero()].concat();
    let half = zero().len();
    sent(&mut link, &mut before, &stream[..half]);

    let mut after = restart(&before, &link);
    assert_eq!(given(&mut after, 5, 2), 1, "the number is still given away");
    // Retransmissions of unacknowledged bytes are the same.
    assert_eq!(link.send(&mut after, &stream, 0..half, 0), Verdict::Pass);
    let received = sent(&mut link, &mut after, &stream);
    assert_eq!(vc_at(&received, half + VC_AT), 2);
    assert_eq!(bypass(&after, &link), None);
    after.close(link.id);
    assert_eq!(given(&mut after, 6, 0), 2);
}

#[test]
fn after_a_restart_signed_session_setups_pass_unchanged() {
    let mut before = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut before, 0, 0);
    let stream = [zero(), setup(12, 0, Signature::Mac)].concat();
    sent(&mut link, &mut before, &stream[..zero().len()]);
    let mut after = restart(&before, &link);
    let received = sent(&mut link, &mut after, &stream);
    assert_eq!(vc_at(&received, zero().len() + VC_AT), 0);
    assert_eq!(after.counters().signed_untouched, 1);
}

/// A probe without them may be dropped (RFC 7323 section 3.2), and the connection be taken for dead.
#[test]
fn rfc7323_3_2_the_timestamps_are_those_that_the_server_sent_last() {
    let mut before = hook(Mode::Assign);
    let link = SimulatedLink::open(&mut before, 0, 0);
    let timestamps = Some(TcpTimestamps { value: 7, echo: 9 });
    let said = Segment {
        timestamps,
        ..link.server_segment(0)
    };
    link.server(&mut before, &said, &mut []);
    let after = restart(&before, &link);
    assert_eq!(after.reply_template(link.id).timestamps, timestamps);
}

#[test]
fn a_handshake_under_way_is_finished() {
    let mut before = hook(Mode::Assign);
    let mut link = SimulatedLink::new(flow(0), vcgate_test_support::smb::link::ends(0), 7);
    link.syn(&mut before);
    let mut after = restart(&before, &link);
    link.syn_ack(&mut after);
    let received = sent(&mut link, &mut after, &zero());
    assert_eq!(vc_at(&received, VC_AT), 1);
}

#[test]
fn one_that_speaks_smb2_is_still_not_read() {
    let mut before = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut before, 0, 0);
    sent(
        &mut link,
        &mut before,
        &framed(b"\xFESMB\x40\0\0\0".to_vec()),
    );
    link.ack(&mut before, 0);
    link.server_sends(&mut before, &answer::smb2());
    let after = restart(&before, &link);
    assert_eq!(bypass(&after, &link), Some(Reason::Smb2));
    assert!(!after.reads(link.id));
}

#[test]
fn in_the_middle_of_a_message_the_flow_keeps_its_number_and_is_read_no_more() {
    let mut before = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut before, 0, 0);
    let stream = [zero(), zero()].concat();
    let half = zero().len();
    sent(&mut link, &mut before, &stream[..half + 1]);
    let mut after = restart(&before, &link);
    let received = sent(&mut link, &mut after, &stream);
    assert_eq!(vc_at(&received, half + VC_AT), 0);
    assert_eq!(bypass(&after, &link), Some(Reason::MidStream));
    assert_eq!(after.flow(link.id).unwrap().number, VcNumber::new(1));
}

/// After the restart the server is not read, so a hidden logon would go unnoticed.
#[test]
fn after_a_length_that_servers_read_in_different_ways_the_flow_is_read_no_more() {
    let mut before = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut before, 0, 0);
    let mut stream = zero();
    stream[1] = 2;
    sent(&mut link, &mut before, &stream);
    let mut after = restart(&before, &link);
    stream.extend(zero());
    sent(&mut link, &mut after, &stream);
    assert_eq!(bypass(&after, &link), Some(Reason::MidStream));
}

#[test]
fn any_numbers_in_a_snapshot_are_accepted() {
    let before = {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        sent(&mut link, &mut hook, &zero());
        serde_json::to_value(hook.keep(link.id)).unwrap()
    };
    for number in [0, 1, 1 << 31, u32::MAX] {
        let mut kept = before.clone();
        let connection = &mut kept["connection"];
        for place in ["need", "passed", "acknowledged"] {
            connection[place] = number.into();
        }
        connection["patches"][0]["at"] = (!number).into();
        let mut after = hook(Mode::Assign);
        after.restore(flow(0), &serde_json::from_value(kept).unwrap(), None);
        let link = SimulatedLink::new(flow(0), vcgate_test_support::smb::link::ends(0), 0);
        for seq in [0, number, !number] {
            let ack = segment(SeqNumber(9), Some(SeqNumber(seq)));
            link.server(&mut after, &ack, &mut []);
            let data = Segment {
                ..segment(SeqNumber(seq), None)
            };
            let _ = link.client(&mut after, &data, &mut zero());
        }
        assert!(after.keep(flow(0)).is_some());
    }
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => (0u16..4).prop_map(|vc| setup(12, vc, Signature::None)),
        2 => (0u8..9).prop_map(|gap| Message::LogoffThenSessionSetup { vc: 0, gap }.bytes()),
        2 => (0usize..3000).prop_map(|len| Message::Write { len }.bytes()),
        1 => Just(Message::KeepAlive.bytes()),
        1 => Just(Message::TreeConnect.bytes()),
    ]
}

proptest! {
    /// Between two messages a restart makes no difference.
    #[test]
    fn the_server_gets_what_the_oracle_says_over_a_restart(
        first in prop::collection::vec(message(), 1..6),
        second in prop::collection::vec(message(), 0..6),
        size in 1usize..2000,
        unacknowledged in 0usize..500,
        isn: u32,
    ) {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, isn);
        let pause = first.concat().len();
        let stream = [first.concat(), second.concat()].concat();
        send_all(&mut link, &mut hook, &stream[..pause], 0, size);
        link.ack(&mut hook, unacknowledged);

        let mut hook = restart(&hook, &link);
        let from = pause.saturating_sub(unacknowledged);
        send_all(&mut link, &mut hook, &stream, from, size);
        let expected = rewrite(&stream, &Circumstances { verifies_from: pause, ..Circumstances::default() });
        prop_assert!(link.received() == expected.bytes);
        prop_assert_eq!(bypass(&hook, &link), None);
    }
}

fn send_all(link: &mut SimulatedLink, hook: &mut Hook, stream: &[u8], from: usize, size: usize) {
    for start in (from..stream.len()).step_by(size) {
        let part = start..stream.len().min(start + size);
        assert_eq!(link.send(hook, stream, part, 0), Verdict::Pass);
    }
}

/// The hooks of a process that is killed and of the next one, with the default settings, and the flow's
/// state in the journal after `journaled` bytes of the stream, of which `passed` have passed.
fn killed(stream: &[u8], journaled: usize, passed: usize) -> (Hook, SimulatedLink) {
    let mut before = Hook::new(Settings::default());
    let mut link = SimulatedLink::open(&mut before, 0, u32::MAX - 60);
    assert_eq!(
        link.send(&mut before, stream, 0..journaled, 0),
        Verdict::Pass
    );
    let kept = before.keep_running(link.id).expect("a flow");
    assert_eq!(
        link.send(&mut before, stream, journaled..passed, 0),
        Verdict::Pass
    );
    let mut after = Hook::new(Settings::default());
    after.resume(link.id, &kept, None);
    (after, link)
}

#[test]
fn after_a_kill_a_connection_is_read_on_between_two_messages() {
    let stream = [zero(), zero(), zero()].concat();
    let len = zero().len();
    let (mut hook, mut link) = killed(&stream, len, len);
    // The second message gets the number, and so does what follows; retransmissions are the same.
    for range in [len..2 * len, 0..len, len..3 * len] {
        assert_eq!(link.send(&mut hook, &stream, range, 0), Verdict::Pass);
    }
    let received = link.received();
    for message in 0..3 {
        assert_eq!(vc_at(&received, message * len + VC_AT), 1);
    }
    assert_eq!(bypass(&hook, &link), None);
}

#[test]
fn after_a_kill_whose_last_message_is_not_in_the_journal_a_zero_resets_the_connection() {
    let other = setup(12, 5, Signature::None);
    let stream = [zero(), other.clone(), other.clone(), zero()].concat();
    let len = zero().len();
    let (mut hook, mut link) = killed(&stream, len, 2 * len);
    assert_eq!(
        link.send(&mut hook, &stream, 2 * len..3 * len, 0),
        Verdict::Pass
    );
    assert_eq!(bypass(&hook, &link), Some(Reason::Missed));
    // Cut within the number.
    let cut = 3 * len + VC_AT + 1;
    assert_eq!(
        link.send(&mut hook, &stream, 3 * len..cut, 0),
        Verdict::Pass
    );
    assert_eq!(
        link.send(&mut hook, &stream, cut..4 * len, 0),
        Verdict::Drop
    );
    assert_eq!(hook.counters().unreadable_reset, 1);
    assert_eq!(
        link.send(&mut hook, &stream, cut..4 * len, 0),
        Verdict::Drop
    );
}

#[test]
fn after_a_kill_an_acknowledgement_shows_that_a_message_was_missed() {
    let stream = [zero(), zero(), zero()].concat();
    let len = zero().len();
    let (mut hook, mut link) = killed(&stream, len, 2 * len);
    link.ack_to(&mut hook, 2 * len);
    assert_eq!(bypass(&hook, &link), Some(Reason::Missed));
    assert_eq!(
        link.send(&mut hook, &stream, 2 * len..3 * len, 0),
        Verdict::Drop
    );
}

/// A server that has not received the first copy would read this one.
#[test]
fn after_a_kill_another_copy_with_a_zero_resets_the_connection() {
    let negotiate = framed([&b"\xFFSMB\x72"[..], &[0; 60]].concat());
    let (mut hook, mut link) = killed(&negotiate, negotiate.len(), negotiate.len());
    let mut other = zero();
    other.resize(negotiate.len(), 0);
    let len = other.len();
    assert_eq!(link.send(&mut hook, &other, 0..len, 0), Verdict::Drop);
    assert_eq!(hook.counters().unreadable_reset, 1);
}

#[test]
fn within_a_message_a_zero_resets_the_connection() {
    let stream = [zero(), zero(), zero()].concat();
    let len = zero().len();
    let (mut hook, mut link) = killed(&stream, len + 1, 2 * len);
    let verdict = link.send(&mut hook, &stream, 2 * len..3 * len, 0);
    assert_eq!(verdict, Verdict::Drop);
}
