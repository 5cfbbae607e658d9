//! Session setups that the server has not acknowledged: each copy of them is rewritten, however many
//! there are.

use super::{events, hook, vc_at};
use std::time::Instant;
use vcgate_core::smb::{Action, Event, Hook, Mode, Verdict};
use vcgate_test_support::smb::link::{SimulatedLink, segment};
use vcgate_test_support::smb::messages::{VC_AT, zero};
use vcgate_wire::tcp::SeqNumber;

/// The connection has sent 300 session setups, of which the first was lost.
fn flooded(hook: &mut Hook) -> (SimulatedLink, Vec<u8>) {
    let (len, stream) = (zero().len(), zero().repeat(300));
    let mut link = SimulatedLink::open(hook, 0, u32::MAX - 200);
    link.lose(hook, &stream, 0..len);
    for at in (len..stream.len()).step_by(len) {
        let _ = link.send(hook, &stream, at..at + len, 0);
    }
    (link, stream)
}

#[test]
fn with_too_many_of_them_the_connection_ends_and_no_zero_passes() {
    let mut hook = hook(Mode::Assign);
    let (mut link, stream) = flooded(&mut hook);
    for part in [0..zero().len(), 0..stream.len(), 18_000..18_001] {
        assert_eq!(link.send(&mut hook, &stream, part, 0), Verdict::Drop);
    }
    assert_eq!(link.next(), 0);
    let counters = hook.counters();
    assert_eq!((counters.rewritten, counters.aborted), (256, 1));
    assert!(matches!(
        events(&mut hook).last(),
        Some(Event::Aborted { .. })
    ));
    let action = hook.poll_action(Instant::now(), |_| true);
    assert_eq!(action, Some(Action::Reset(link.id)));
    assert_eq!(hook.waiting(), 0);
    // A server that did not take the reset is reset at its own number.
    link.ack(&mut hook, 0);
    let action = hook.poll_action(Instant::now(), |_| true);
    assert_eq!(action, Some(Action::ResetServer(link.id, link.seq(0))));
}

#[test]
fn the_next_connection_of_the_flow_is_read_again() {
    let mut hook = hook(Mode::Assign);
    flooded(&mut hook);
    let mut link = SimulatedLink::open(&mut hook, 0, 9);
    assert_eq!(
        link.send(&mut hook, &zero(), 0..zero().len(), 0),
        Verdict::Pass
    );
    assert_eq!(vc_at(&link.received(), VC_AT), 1);
}

#[test]
fn acknowledged_session_setups_do_not_end_the_connection() {
    let mut hook = hook(Mode::Assign);
    let (len, stream) = (zero().len(), zero().repeat(300));
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    for at in (0..stream.len()).step_by(len) {
        assert_eq!(
            link.send(&mut hook, &stream, at..at + len, 0),
            Verdict::Pass
        );
        link.ack(&mut hook, len);
    }
    let received = link.received();
    assert!((0..300).all(|n| vc_at(&received, n * len + VC_AT) == 1));
    let counters = hook.counters();
    assert_eq!((counters.rewritten, counters.aborted), (300, 0));
}

#[test]
fn an_ended_connection_stays_ended_after_a_restart() {
    let mut before = hook(Mode::Assign);
    let (link, _) = flooded(&mut before);
    let mut after = hook(Mode::Assign);
    after.restore(link.id, &before.keep(link.id).unwrap(), None);
    let data = segment(link.seq(0), Some(SeqNumber(0)));
    assert_eq!(link.client(&mut after, &data, &mut zero()), Verdict::Drop);
}
