//! Numbers of session setups, and messages that count as one.

use super::{bypass, given, hook, logons, sent, vc_at};
use vcgate_core::ids::FlowId;
use vcgate_core::smb::{Mode, Outcome, Reason, Segment, VcNumber, Verdict};
use vcgate_test_support::smb::link::{SimulatedLink, ends, flow, segment};
use vcgate_test_support::smb::messages::{
    Message, SAMPLE_ZERO, Signature, VC_AT, answer, framed, setup, zero,
};
use vcgate_wire::tcp::SeqNumber;

#[test]
fn each_flow_of_a_group_gets_the_smallest_free_number() {
    let mut hook = hook(Mode::Assign);
    assert_eq!(
        (0..4).map(|s| given(&mut hook, s, 0)).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    hook.close(flow(1));
    assert_eq!(given(&mut hook, 9, 0), 2);
    assert_eq!(hook.flow(flow(9)).and_then(|f| f.number), VcNumber::new(2));
    assert_eq!(hook.flow(flow(1)), None);
    // The same slot, the next flow: the old one has ended, though `close` was not called.
    let next = FlowId {
        slot: 9,
        generation: 1,
    };
    let syn = Segment {
        syn: true,
        ..segment(SeqNumber(0), None)
    };
    assert_eq!(
        SimulatedLink::new(next, ends(9), 0).client(&mut hook, &syn, &mut []),
        Verdict::Pass
    );
    assert_eq!(given(&mut hook, 10, 0), 2);
    // Calls for a flow that has ended have no effect.
    hook.close(flow(9));
    assert!(hook.flow(next).is_some());
}

#[test]
fn other_servers_and_other_addresses_are_other_groups() {
    let mut hook = hook(Mode::Assign);
    assert_eq!(given(&mut hook, 0, 0), 1);
    let mut link = SimulatedLink::open(&mut hook, 1, 0);
    link.ends.server.set_ip([198, 51, 100, 11].into());
    hook.close(link.id);
    link.syn(&mut hook);
    link.syn_ack(&mut hook);
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &zero()), VC_AT), 1);
    let mut link = SimulatedLink::open(&mut hook, 2, 0);
    link.ends.lan = [192, 0, 2, 99].into();
    hook.close(link.id);
    link.syn(&mut hook);
    link.syn_ack(&mut hook);
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &zero()), VC_AT), 1);
    assert_eq!(given(&mut hook, 3, 0), 2);
}

#[test]
fn a_clients_own_number_stays_if_it_is_free() {
    let mut hook = hook(Mode::Assign);
    assert_eq!(given(&mut hook, 0, 7), 7);
    assert_eq!(given(&mut hook, 1, 7), 1);
    assert_eq!(given(&mut hook, 2, 0), 2);
    // The second byte may come later, so it has no say.
    assert_eq!(given(&mut hook, 3, 0x0105), 5);
    let outcomes: Vec<_> = logons(&mut hook)
        .iter()
        .map(|l| (l.asked, l.given, l.outcome))
        .collect();
    assert_eq!(
        outcomes,
        [
            (7, 7, Outcome::Preserved),
            (7, 1, Outcome::Rewritten),
            (0, 2, Outcome::Rewritten),
            (0x0105, 5, Outcome::Rewritten)
        ]
    );
}

#[test]
fn all_session_setups_of_a_flow_carry_one_number() {
    let mut hook = hook(Mode::Assign);
    let _other = given(&mut hook, 1, 0);
    let stream = [
        zero(),
        setup(13, 5, Signature::None),
        setup(10, 0, Signature::Placeholder),
    ];
    let received = sent(
        &mut SimulatedLink::open(&mut hook, 0, 0),
        &mut hook,
        &stream.concat(),
    );
    let mut at = 0;
    for message in stream {
        assert_eq!(vc_at(&received, at + VC_AT), 2);
        at += message.len();
    }
    let logons = logons(&mut hook);
    assert_eq!(
        logons.iter().map(|l| l.words).collect::<Vec<_>>(),
        [12, 12, 13, 10]
    );
}

#[test]
fn cut_session_setups_stay_as_they_are() {
    let mut hook = hook(Mode::Assign);
    let mut stream = Vec::new();
    // Up to the one whose message ends between the two bytes of its number.
    for len in 0..=VC_AT + 1 - 4 {
        stream.extend(Message::Short { len }.bytes());
    }
    let end = stream.len();
    // The shortest that is whole as far as its number.
    stream.extend(Message::Short { len: VC_AT + 2 - 4 }.bytes());
    for (slot, size) in [(0, stream.len()), (1, 1)] {
        let mut link = SimulatedLink::open(&mut hook, slot, 0);
        for from in (0..stream.len()).step_by(size) {
            let verdict = link.send(&mut hook, &stream, from..from + size, 0);
            assert_eq!(verdict, Verdict::Pass);
        }
        let received = link.received();
        assert_eq!(received[..end], stream[..end]);
        assert_eq!(vc_at(&received, end + VC_AT), slot as u16 + 1);
        assert_eq!(bypass(&hook, &link), None);
    }
}

#[test]
fn a_session_setup_chained_to_a_logoff_is_found() {
    let mut hook = hook(Mode::Assign);
    let stream = Message::LogoffThenSessionSetup { vc: 0, gap: 3 }.bytes();
    let received = sent(
        &mut SimulatedLink::open(&mut hook, 0, 0),
        &mut hook,
        &stream,
    );
    assert_eq!(vc_at(&received, 4 + 39 + 3 + 9), 1);
}

#[test]
fn a_chain_that_turns_back_ends_its_message_and_nothing_else() {
    let mut hook = hook(Mode::Assign);
    let mut stream = Message::LogoffThenSessionSetup { vc: 0, gap: 0 }.bytes();
    stream[4 + 35] = 32;
    let bad = stream.len();
    stream.extend(zero());
    let received = sent(
        &mut SimulatedLink::open(&mut hook, 0, 0),
        &mut hook,
        &stream,
    );
    assert_eq!(received[..bad], stream[..bad]);
    assert_eq!(vc_at(&received, bad + VC_AT), 1);
    assert_eq!(hook.counters().bad_chains, 1);
}

#[test]
fn port_139_begins_with_a_session_request() {
    let mut hook = hook(Mode::Assign);
    let request = Message::SessionRequest.bytes();
    let stream = [request.clone(), Message::KeepAlive.bytes(), zero()].concat();
    let received = sent(
        &mut SimulatedLink::open(&mut hook, 0, 0),
        &mut hook,
        &stream,
    );
    assert_eq!(vc_at(&received, request.len() + 4 + VC_AT), 1);
}

#[test]
fn data_of_a_raw_write_is_not_a_message() {
    let bare = framed(b"no SMB at all".to_vec());
    let raw = |data: &[u8]| {
        Message::WriteRaw {
            data: data.to_vec(),
        }
        .bytes()
    };
    // Only the one message after a raw write may be bare, however short it is.
    for raw in [raw(b"no SMB at all"), raw(b"no"), raw(&SAMPLE_ZERO[4..])] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let stream = [raw.clone(), zero(), bare.clone(), zero()].concat();
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(vc_at(&received, raw.len() + VC_AT), 1);
        assert_eq!(bypass(&hook, &link), Some(Reason::Protocol));
        let mut link = SimulatedLink::open(&mut hook, 1, 0);
        sent(&mut link, &mut hook, &[raw, bare.clone()].concat());
        assert_eq!(bypass(&hook, &link), Some(Reason::Protocol));
    }
}

#[test]
fn short_logons_one_after_another_keep_numbers_small() {
    let mut hook = hook(Mode::Assign);
    let live = given(&mut hook, 0, 0);
    for n in 1..=300 {
        let number = given(&mut hook, n, 0);
        assert!(number != live && number <= 18, "{number} after {n}");
        hook.connection_over(flow(n));
    }
    // The flows end minutes later, and take no number from those that have it by now.
    let others: Vec<u16> = (301..320).map(|n| given(&mut hook, n, 0)).collect();
    (1..=300).for_each(|n| hook.close(flow(n)));
    let next = given(&mut hook, 400, 0);
    assert!(!others.contains(&next) && next != live);
}

#[test]
fn a_connection_that_the_server_continues_keeps_its_number() {
    let mut hook = hook(Mode::Assign);
    let half = zero().len();
    let stream = [zero(), zero()].concat();
    let _live = given(&mut hook, 7, 0);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    sent(&mut link, &mut hook, &stream[..half]);
    // A RST that the server does not get; then others log on.
    hook.connection_over(link.id);
    let others: Vec<u16> = (20..25).map(|n| given(&mut hook, n, 0)).collect();
    assert!(!others.contains(&2));
    link.server_sends(&mut hook, &answer::challenge());
    hook.connection_over(flow(20));
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &stream), half + VC_AT), 2);
    assert_eq!(hook.flow(link.id).and_then(|f| f.number), VcNumber::new(2));
}

/// Retransmissions after the end are the same.
#[test]
fn a_late_copy_has_the_number_that_the_server_got() {
    let mut hook = hook(Mode::Assign);
    let _live = given(&mut hook, 7, 0);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    sent(&mut link, &mut hook, &zero());
    hook.connection_over(link.id);
    assert_eq!(hook.flow(link.id).and_then(|f| f.number), None);
    let mut again = zero();
    let segment = link.data(link.seq(0));
    assert_eq!(link.client(&mut hook, &segment, &mut again), Verdict::Pass);
    assert_eq!(vc_at(&again, VC_AT), 2);
}

#[test]
fn ms_cifs_2_2_4_52_2_numbers_stay_below_what_the_server_allows() {
    for (max, expected) in [
        (0, [7, 1, 2, 3]),
        (1, [7, 1, 2, 3]),
        (2, [1, 1, 1, 1]),
        (3, [1, 2, 2, 2]),
        (8, [7, 1, 2, 3]),
    ] {
        let mut hook = hook(Mode::Assign);
        let asked = [7, 0, 0, 0];
        let numbers: Vec<u16> = (0..4)
            .map(|slot| {
                let mut link = SimulatedLink::open(&mut hook, slot, 0);
                let mut said = answer::negotiated(3);
                // After the headers, from WordCount on.
                said[4 + 32 + 6] = max;
                link.server_sends(&mut hook, &said);
                let logon = setup(12, asked[slot as usize], Signature::None);
                vc_at(&sent(&mut link, &mut hook, &logon), VC_AT)
            })
            .collect();
        assert_eq!(numbers, expected, "of {max}");
    }
}
