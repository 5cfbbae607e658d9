//! Shares of the reorder budget: no peer takes another's, and no segment waits for ever.

use super::{hook, sent, vc_at};
use std::time::Duration;
use vcgate_core::smb::{Hook, Mode, Verdict};
use vcgate_test_support::smb::link::{SimulatedLink, ends, flow};
use vcgate_test_support::smb::messages::{Signature, VC_AT, answer, setup, zero};

/// More than a peer's share, in bytes.
const MUCH: usize = 2 << 20;

/// A peer with several flows that leave out their first byte; how many bytes of them wait.
fn floods(hook: &mut Hook, peer: u32) -> usize {
    let before = hook.waiting();
    let stream = vec![0; 60_000];
    for n in 0..(MUCH / stream.len()) as u32 {
        let mut link = SimulatedLink::between(hook, flow(100 * peer + n), ends(peer), 7);
        let part = 1..stream.len();
        let verdict = link.send(hook, &stream, part, 0);
        assert_eq!(verdict, Verdict::Hold);
    }
    hook.waiting() - before
}

#[test]
fn a_peer_that_fills_its_share_leaves_the_others_theirs() {
    let mut hook = hook(Mode::Assign);
    let held = floods(&mut hook, 1);
    assert!((900_000..=1 << 20).contains(&held), "{held}");
    let stream = [zero(), zero()].concat();
    let mut link = SimulatedLink::open(&mut hook, 2, 0);
    let dropped = hook.counters().held_dropped;
    let late = link.send(&mut hook, &stream, 70..stream.len(), 0);
    assert_eq!(late, Verdict::Hold);
    assert_eq!(hook.counters().held_dropped, dropped);
    assert_eq!(link.send(&mut hook, &stream, 0..70, 0), Verdict::Pass);
    assert_eq!(link.next(), stream.len());
}

/// Otherwise a peer that fills the budget would make a signed 0 of another peer pass.
#[test]
fn a_full_store_does_not_mean_that_a_server_verifies_signatures() {
    let mut hook = hook(Mode::Assign);
    for peer in 1..=20 {
        floods(&mut hook, peer);
    }
    // The rest of the budget, except the last bytes.
    let stream = vec![0; 200_000];
    for (peer, size) in [(21, 1000), (22, 1)] {
        let mut link = SimulatedLink::open(&mut hook, peer, 0);
        let dropped = hook.counters().held_dropped;
        for n in 1..100 {
            let part = n * size..(n + 1) * size;
            assert_eq!(link.send(&mut hook, &stream, part, 0), Verdict::Hold);
        }
        assert_ne!(hook.counters().held_dropped, dropped);
    }
    let mut link = SimulatedLink::open(&mut hook, 30, 0);
    let said = answer::negotiated(7);
    link.server_sends_parts(&mut hook, &said, &[9..said.len(), 0..9]);
    let signed = setup(12, 0, Signature::Mac);
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &signed), VC_AT), 1);
}

#[test]
fn segments_whose_gap_stays_are_dropped_and_retransmitted() {
    let mut hook = hook(Mode::Assign);
    let stream = [zero(), zero()].concat();
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    assert_eq!(
        link.send(&mut hook, &stream, 70..stream.len(), 0),
        Verdict::Hold
    );
    let due = hook.next_timeout().expect("a time");
    assert!(due <= link.now + Duration::from_secs(60));
    hook.handle_timeout(due - Duration::from_millis(1));
    assert_ne!(hook.waiting(), 0);
    hook.handle_timeout(due);
    assert_eq!((hook.waiting(), hook.next_timeout()), (0, None));
    assert_eq!(link.send(&mut hook, &stream, 0..70, 0), Verdict::Pass);
    assert_eq!(link.next(), 70);
    assert_eq!(
        link.send(&mut hook, &stream, 70..stream.len(), 0),
        Verdict::Pass
    );
    assert_eq!(vc_at(&link.received(), zero().len() + VC_AT), 1);
}

#[test]
fn server_segments_whose_gap_stays_are_dropped() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let said = answer::negotiated(7);
    link.server_sends_at(&mut hook, 9, &said[9..]);
    assert_ne!(hook.waiting(), 0);
    let due = hook.next_timeout().expect("a time");
    hook.handle_timeout(due);
    assert_eq!((hook.waiting(), hook.next_timeout()), (0, None));
    let signed = setup(12, 0, Signature::Mac);
    assert_eq!(vc_at(&sent(&mut link, &mut hook, &signed), VC_AT), 1);
}

/// As long as gaps are filled, nothing is dropped, however long it takes.
#[test]
fn a_flow_whose_gaps_are_filled_gets_more_time() {
    let mut hook = hook(Mode::Assign);
    let stream = zero().repeat(10);
    let len = zero().len();
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    let later = 9 * len + 1..stream.len();
    assert_eq!(link.send(&mut hook, &stream, later, 0), Verdict::Hold);
    for n in 0..9 {
        let due = hook.next_timeout().expect("a time");
        let part = n * len..(n + 1) * len;
        assert_eq!(link.send(&mut hook, &stream, part, 0), Verdict::Pass);
        link.now = due;
        hook.handle_timeout(due);
    }
    assert_ne!(hook.waiting(), 0);
}
