//! Flows and modes in which the hook does not read or change: bypass, observe, off.

use super::{bypass, events, given, hook, logons, sent, vc_at};
use vcgate_core::smb::{
    Action, Event, Hook, Mode, Numbers, Outcome, Reason, Settings, Unreadable, VcNumber, Verdict,
};
use vcgate_test_support::smb::link::{SimulatedLink, ends, flow, segment};
use vcgate_test_support::smb::messages::{Signature, VC_AT, answer, framed, setup, zero};
use vcgate_wire::tcp::SeqNumber;

#[test]
fn a_stream_that_is_not_understood_passes_unread() {
    for (bytes, reason) in [
        (framed(b"\xFFE\0\0\0\0\0\0".to_vec()), Reason::Encrypted),
        (framed(b"GET / HTTP".to_vec()), Reason::Protocol),
        (
            vec![0, 2, 0, 9, 0xFF, b'S', b'M', b'B', 0x2F],
            Reason::Framing,
        ),
    ] {
        let mut hook = hook(Mode::Assign);
        let first = zero();
        let stream = [first.clone(), bytes, zero()].concat();
        let mut link = SimulatedLink::open(&mut hook, 0, 0);
        let received = sent(&mut link, &mut hook, &stream);
        assert_eq!(vc_at(&received, VC_AT), 1);
        assert_eq!(received[first.len()..], stream[first.len()..]);
        assert_eq!(bypass(&hook, &link), Some(reason));
        assert_eq!(hook.counters().bypassed(reason), 1);
        // Retransmissions of earlier changes are the same until they are acknowledged; then the
        // flow has no state but its reason.
        assert_eq!(
            link.send(&mut hook, &stream, 0..first.len(), 0),
            Verdict::Pass
        );
        link.ack(&mut hook, 0);
        let report = hook.flow(link.id).map(|f| (f.number, f.held));
        assert_eq!(report, Some((VcNumber::new(1), 0)));
    }
}

/// A client may send SMB2 to a server that only speaks SMB1 and ignores it.
#[test]
fn smb2_is_bypassed_when_the_server_speaks_it_and_smb1_before_that_is_rewritten() {
    let smb2 = framed(b"\xFESMB\x40\0\0\0".to_vec());
    let stream = [smb2.clone(), zero(), smb2.clone()].concat();
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let received = sent(&mut link, &mut hook, &stream);
    assert_eq!(vc_at(&received, smb2.len() + VC_AT), 1);
    assert_eq!(bypass(&hook, &link), None);
    link.ack(&mut hook, 0);
    link.server_sends(&mut hook, &answer::smb2());
    assert_eq!(bypass(&hook, &link), Some(Reason::Smb2));
    let mut link = SimulatedLink::open(&mut hook, 1, 0);
    link.server_sends(&mut hook, &answer::negotiated(7));
    let received = sent(&mut link, &mut hook, &stream);
    assert_eq!(vc_at(&received, smb2.len() + VC_AT), 2);
    assert_eq!(bypass(&hook, &link), None);
}

#[test]
fn a_stream_that_is_unreadable_is_reset_where_the_settings_say_so() {
    let unreadable = [
        (framed(b"GET / HTTP".to_vec()), Reason::Protocol),
        (framed(b"\xFFE\0\0\0\0\0\0".to_vec()), Reason::Encrypted),
        (
            vec![0, 2, 0, 9, 0xFF, b'S', b'M', b'B', 0x2F],
            Reason::Framing,
        ),
    ];
    for (bytes, reason) in unreadable {
        for (answer, unreadable, passes) in [
            (answer::negotiated(7), Unreadable::Reset, false),
            (answer::challenge(), Unreadable::Reset, false),
            (answer::logon_failure(), Unreadable::Reset, false),
            (answer::logged_on(true), Unreadable::Reset, false),
            (answer::logged_on(false), Unreadable::Reset, false),
            (answer::negotiated(7), Unreadable::Pass, true),
        ] {
            let mut hook = Hook::new(Settings {
                unreadable,
                ..Settings::default()
            });
            let mut link = SimulatedLink::open(&mut hook, 0, 0);
            let mut stream = zero();
            sent(&mut link, &mut hook, &stream);
            link.ack(&mut hook, 0);
            link.server_sends(&mut hook, &answer);
            let before = stream.len();
            stream.extend([&bytes[..], &zero()].concat());
            let verdict = link.send(&mut hook, &stream, before..stream.len(), 0);
            let actions: Vec<_> =
                std::iter::from_fn(|| hook.poll_action(link.now, |_| true)).collect();
            let counted = hook.counters().unreadable_reset;
            let named = events(&mut hook).into_iter().any(|event| match event {
                Event::Unreadable { reason: named, .. } => named == reason,
                _ => false,
            });
            if passes {
                assert_eq!((verdict, counted, named), (Verdict::Pass, 0, false));
                assert_eq!(bypass(&hook, &link), Some(reason));
                assert_eq!(actions, []);
            } else {
                assert_eq!((verdict, counted, named), (Verdict::Drop, 1, true));
                assert_eq!(actions, [Action::Reset(link.id)]);
                assert_eq!(hook.counters().bypassed(reason), 0);
                // Nothing more of it reaches the server.
                let again = link.send(&mut hook, &stream, before..stream.len(), 0);
                assert_eq!(again, Verdict::Drop);
            }
        }
    }
}

/// Opens a connection with a hook in the default settings, and lets the server send these answers.
fn default_settings(answers: &[Vec<u8>]) -> (Hook, SimulatedLink) {
    let mut hook = Hook::new(Settings::default());
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    link.server_sends(&mut hook, &answers[0]);
    sent(&mut link, &mut hook, &zero());
    link.ack(&mut hook, 0);
    link.server_sends(&mut hook, &answers[1..].concat());
    (hook, link)
}

#[test]
fn encryption_passes_after_a_logon_where_the_server_has_the_unix_extensions() {
    let encrypted = framed(b"\xFFE\0\0\0\0\0\0".to_vec());
    let (unix, others) = (answer::negotiated_unix(), answer::negotiated(7));
    for (negotiated, logon, passes) in [
        (&unix, answer::logged_on(false), true),
        (&unix, answer::challenge(), false),
        (&others, answer::logged_on(false), false),
    ] {
        let (mut hook, mut link) = default_settings(&[negotiated.clone(), logon]);
        let stream = [zero(), encrypted.clone()].concat();
        let verdict = link.send(&mut hook, &stream, zero().len()..stream.len(), 0);
        assert_eq!(verdict == Verdict::Pass, passes);
        assert_eq!(bypass(&hook, &link) == Some(Reason::Encrypted), passes);
    }
}

#[test]
fn other_flows_that_are_not_read_are_never_reset() {
    let mut hook = Hook::new(Settings {
        unreadable: Unreadable::Reset,
        ..Settings::default()
    });
    let link = SimulatedLink::new(flow(3), ends(3), 0);
    hook.restore_unread(link.id, link.ends, None);
    let mut other = setup(12, 5, Signature::None);
    let verdict = link.client(&mut hook, &segment(SeqNumber(1000), None), &mut other);
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(bypass(&hook, &link), Some(Reason::MidStream));
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    sent(&mut link, &mut hook, &framed(b"\xFESMB\x40\0\0\0".to_vec()));
    let mut link = SimulatedLink::open(&mut hook, 1, 0);
    sent(&mut link, &mut hook, &zero());
    link.ack_to(&mut hook, 1000);
    assert_eq!(hook.counters().unreadable_reset, 0);
    let mut observing = Hook::new(Settings {
        mode: Mode::Observe,
        unreadable: Unreadable::Reset,
        ..Settings::default()
    });
    let mut link = SimulatedLink::open(&mut observing, 0, 0);
    sent(&mut link, &mut observing, &framed(b"GET / HTTP".to_vec()));
    assert_eq!(bypass(&observing, &link), Some(Reason::Protocol));
}

#[test]
fn a_flow_whose_beginning_was_not_seen_is_reset() {
    let mut hook = Hook::new(Settings::default());
    let link = SimulatedLink::new(flow(3), ends(3), 0);
    let acknowledgement = segment(SeqNumber(1000), Some(SeqNumber(1)));
    let verdict = link.client(&mut hook, &acknowledgement, &mut []);
    assert_eq!(verdict, Verdict::Pass);
    for seq in [1000, 1_000_000].map(SeqNumber) {
        let verdict = link.client(&mut hook, &segment(seq, Some(SeqNumber(1))), &mut zero());
        assert_eq!(verdict, Verdict::Drop);
    }
    let actions: Vec<_> = std::iter::from_fn(|| hook.poll_action(link.now, |_| true)).collect();
    let resets = [
        Action::Reset(link.id),
        Action::ResetServer(link.id, SeqNumber(1000)),
    ];
    assert_eq!(actions, resets);
    let is_named = |event: &Event| matches!(event, Event::Unreadable { .. });
    assert_eq!(events(&mut hook).iter().filter(|e| is_named(e)).count(), 1);
    assert_eq!(hook.counters().unreadable_reset, 1);
    // The next connection between the same ends is read.
    let mut link = SimulatedLink::open(&mut hook, 3, 0);
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &zero()), VC_AT), 1);
}

#[test]
fn a_flow_picked_up_in_mid_stream_passes_unread_where_the_settings_say_so() {
    let mut hook = hook(Mode::Assign);
    let mut stream = zero();
    let link = SimulatedLink::new(flow(3), ends(3), 0);
    for seq in [1000, 1_000_000] {
        let verdict = link.client(&mut hook, &segment(SeqNumber(seq), None), &mut stream);
        assert_eq!(verdict, Verdict::Pass);
    }
    assert_eq!(stream, zero());
    assert_eq!(hook.counters().bypassed(Reason::MidStream), 1);
}

#[test]
fn without_a_free_number_flows_share_one_and_never_get_0() {
    let mut hook = Hook::with_numbers(Settings::default(), Numbers::share(0, u16::MAX));
    assert_eq!(given(&mut hook, 0, 0), 1);
    assert_eq!(given(&mut hook, 1, 0), u16::MAX);
    assert_eq!(given(&mut hook, 2, 7), u16::MAX);
    assert_eq!(hook.counters().shared_numbers, 2);
    // A flow that shares a number does not free it.
    hook.close(flow(1));
    assert_eq!(given(&mut hook, 3, 0), u16::MAX);
    hook.close(flow(0));
    assert_eq!(given(&mut hook, 4, 0), 1);
}

#[test]
fn a_new_connection_ends_an_old_bypass() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    sent(&mut link, &mut hook, b"\0\0\0\x09GET / HTTP");
    assert_eq!(bypass(&hook, &link), Some(Reason::Protocol));
    let mut link = SimulatedLink::open(&mut hook, 0, 77);
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &zero()), VC_AT), 1);
}

#[test]
fn observe_counts_and_changes_nothing() {
    let mut hook = hook(Mode::Observe);
    let one = setup(13, 1, Signature::None);
    let stream = [zero(), one.clone(), zero()].concat();
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    // In any order, and nothing waits.
    for part in [150..stream.len(), 20..100, 100..150, 0..30] {
        assert_eq!(link.send(&mut hook, &stream, part, 0), Verdict::Pass);
    }
    assert_eq!(link.received(), stream);
    let seen: Vec<_> = logons(&mut hook)
        .iter()
        .map(|l| (l.asked, l.given, l.outcome))
        .collect();
    let observed = |n| (n, n, Outcome::Observed);
    assert_eq!(seen, [observed(0), observed(1), observed(0)]);
    let counters = *hook.counters();
    assert_eq!((counters.session_setups, counters.zeros), (3, 2));
    assert_eq!(
        (counters.rewritten, counters.preserved, counters.held),
        (0, 0, 0)
    );
    assert_eq!(
        hook.flow(link.id).map(|f| (f.number, f.zeros)),
        Some((None, 2))
    );
    assert_eq!(hook.waiting(), 0);
}

#[test]
fn observe_gives_up_on_what_it_cannot_keep() {
    let mut hook = hook(Mode::Observe);
    let stream = vec![0; 400_000];
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    for at in 1..9 {
        let part = at * 40_000..(at + 1) * 40_000;
        assert_eq!(link.send(&mut hook, &stream, part, 0), Verdict::Pass);
    }
    assert_eq!(bypass(&hook, &link), Some(Reason::Disorder));
    assert_eq!(hook.waiting(), 0);
}

#[test]
fn off_watches_nothing() {
    let ports = |mode| [445, 139, 80].map(|port| hook(mode).watches(port));
    assert_eq!(ports(Mode::Assign), [true, true, false]);
    assert_eq!(ports(Mode::Observe), [true, true, false]);
    assert_eq!(ports(Mode::Off), [false, false, false]);
}

#[test]
fn events_that_are_not_fetched_are_dropped_and_counted() {
    let mut hook = hook(Mode::Observe);
    sent(
        &mut SimulatedLink::open(&mut hook, 0, 0),
        &mut hook,
        &zero().repeat(1030),
    );
    assert_eq!(events(&mut hook).len(), 1024);
    assert_eq!(
        (
            hook.counters().session_setups,
            hook.counters().events_dropped
        ),
        (1030, 6)
    );
}
