//! Effects of the server's responses on the client's direction.

use super::{bypass, events, hook, logons, sent, vc_at};
use vcgate_core::smb::{Event, Mode, Outcome, Reason, Verdict};
use vcgate_test_support::smb::link::SimulatedLink;
use vcgate_test_support::smb::messages::{Message, Signature, VC_AT, answer, framed, setup, zero};

#[test]
fn ms_cifs_3_3_5_43_a_real_signature_counts_once_a_user_was_accepted() {
    let signed = setup(12, 0, Signature::Mac);
    let unsigned = setup(12, 0, Signature::None);
    let placeholder = setup(12, 0, Signature::Placeholder);
    let unchained = {
        let mut bytes = answer::logged_on_without_tree();
        bytes[4 + 33] = 0xFF;
        bytes
    };
    let request = {
        let mut bytes = answer::logged_on(false);
        bytes[4 + 9] = 0;
        bytes
    };
    for (answers, message, expected) in [
        (vec![], &signed, 1),
        (vec![answer::challenge()], &signed, 1),
        (vec![answer::logon_failure()], &signed, 1),
        (vec![answer::logged_on(true)], &signed, 1),
        (vec![unchained], &signed, 1),
        (vec![request], &signed, 1),
        (vec![answer::logged_on(false)], &signed, 0),
        (vec![answer::logged_on_without_tree()], &signed, 0),
        (
            vec![answer::logged_on(true), answer::logged_on(false)],
            &signed,
            0,
        ),
        (vec![answer::logged_on(false)], &unsigned, 1),
        (vec![answer::logged_on(false)], &placeholder, 1),
    ] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let mut said = answer::negotiated(0x0F);
        said.extend(answers.concat());
        link.server_sends(&mut hook, &said);
        let received = sent(&mut link, &mut hook, message);
        assert_eq!(vc_at(&received, VC_AT), expected, "after {answers:02x?}");
        let logon = logons(&mut hook)[0];
        assert_eq!(logon.outcome == Outcome::Signed, expected == 0);
        assert_eq!(hook.counters().signed_untouched, u64::from(expected == 0));
        let negotiated = logon.negotiated.expect("the server said so");
        assert!(negotiated.extended_security && negotiated.signing_required);
    }
}

#[test]
fn server_segments_out_of_order_are_read() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let said = [
        answer::negotiated(7),
        answer::challenge(),
        answer::logged_on(false),
    ]
    .concat();
    let (a, b, c) = (said.len() - 40, said.len() - 20, said.len());
    link.server_sends_parts(&mut hook, &said, &[b..c, a..b, a..c, 0..a, 0..c]);
    let signed = setup(12, 0, Signature::Mac);
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &signed), VC_AT), 0);
    assert_eq!(hook.waiting(), 0);
}

#[test]
fn a_server_that_cannot_be_followed_may_verify_signatures() {
    let signed = setup(12, 0, Signature::Mac);
    for said in [framed(b"no SMB at all".to_vec()), vec![0; 300_000]] {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let gap = usize::from(said[0] == 0 && said[3] == 0);
        link.server_sends_parts(&mut hook, &said, std::slice::from_ref(&(gap..said.len())));
        let received = sent(&mut link, &mut hook, &[signed.clone(), zero()].concat());
        assert_eq!(vc_at(&received, VC_AT), 0);
        assert_eq!(vc_at(&received, signed.len() + VC_AT), 1);
    }
}

#[test]
fn a_server_that_answers_in_smb2_ends_the_reading() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let negotiate = Message::Negotiate.bytes();
    let stream = [negotiate.clone(), zero()].concat();
    assert_eq!(
        link.send(&mut hook, &stream, 0..negotiate.len(), 0),
        Verdict::Pass
    );
    link.server_sends(&mut hook, &answer::smb2());
    assert_eq!(sent(&mut link, &mut hook, &stream), stream);
    assert_eq!(bypass(&hook, &link), Some(Reason::Smb2));
    assert_eq!(hook.counters().bypassed(Reason::Smb2), 1);
    assert!(matches!(
        events(&mut hook)[..],
        [Event::Bypass {
            reason: Reason::Smb2,
            ..
        }]
    ));
    // Once SMB1 is agreed on, 0xFE may be data (READ_RAW).
    let mut link = SimulatedLink::open(&mut hook, 1, 0);
    let said = [answer::negotiated(3), answer::smb2()].concat();
    link.server_sends(&mut hook, &said);
    assert_eq!(bypass(&hook, &link), None);
}

#[test]
fn a_flow_that_signs_is_reported_once() {
    let mut hook = hook(Mode::Assign);
    for slot in 0..2 {
        let mut link = SimulatedLink::open(&mut hook, slot, 0);
        link.server_sends(&mut hook, &answer::logged_on(false));
        let signed = setup(12, 0, Signature::Mac);
        sent(&mut link, &mut hook, &signed.repeat(3));
    }
    let events = events(&mut hook);
    let reported = |event: &&Event| matches!(event, Event::Signed { .. });
    assert_eq!(events.iter().filter(reported).count(), 2);
    assert!(
        reported(&&events[0]) && reported(&&events[4]),
        "before the logons"
    );
    assert_eq!(hook.counters().signed_untouched, 6);
}
