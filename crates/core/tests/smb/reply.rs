//! Acknowledgements of buffered segments, and segments that are not buffered.

use super::{hook, sent};
use std::time::Instant;
use vcgate_core::smb::{Action, Blocks, Hook, Mode, Segment, Verdict};
use vcgate_test_support::smb::link::{SimulatedLink, flow, segment};
use vcgate_test_support::smb::messages::{Message, answer, zero};
use vcgate_wire::tcp::SeqNumber;

fn reported(hook: &mut Hook) -> Vec<Action> {
    std::iter::from_fn(|| hook.poll_action(Instant::now(), |_| true)).collect()
}

/// Without SACK in the handshake, no blocks.
fn bare() -> Action {
    Action::Acknowledge(flow(0), Blocks::default())
}

#[test]
fn rfc5681_3_2_each_held_segment_is_acknowledged_once_the_server_has_the_others() {
    let mut hook = hook(Mode::Assign);
    let stream = [zero(), Message::Write { len: 500 }.bytes()].concat();
    let mut link = SimulatedLink::open(&mut hook, 0, u32::MAX - 50);
    let first = zero().len();
    assert_eq!(link.send(&mut hook, &stream, 0..first, 0), Verdict::Pass);
    let held = |at: usize| first + at..first + at + 100;
    for at in [20, 120] {
        assert_eq!(link.send(&mut hook, &stream, held(at), 0), Verdict::Hold);
    }
    assert_eq!(reported(&mut hook), []);
    link.ack(&mut hook, 1);
    assert_eq!(reported(&mut hook), []);
    link.ack(&mut hook, 0);
    assert_eq!(reported(&mut hook), [bare(), bare()]);
    assert_eq!(link.send(&mut hook, &stream, held(220), 0), Verdict::Hold);
    assert_eq!(reported(&mut hook), [bare()]);
    // Nothing is held any more.
    let rest = first..stream.len();
    assert_eq!(link.send(&mut hook, &stream, rest, 0), Verdict::Pass);
    link.ack(&mut hook, 0);
    assert_eq!(reported(&mut hook), []);
}

#[test]
fn a_flow_that_passes_unread_is_not_acknowledged() {
    let mut hook = hook(Mode::Assign);
    let stream = [b"GET / HTTP".to_vec(), vec![0; 300]].concat();
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    link.ack(&mut hook, 0);
    assert_eq!(link.send(&mut hook, &stream, 100..200, 0), Verdict::Hold);
    assert_eq!(reported(&mut hook).len(), 1);
    assert_eq!(link.send(&mut hook, &stream, 0..100, 0), Verdict::Pass);
    assert_eq!(link.send(&mut hook, &stream, 250..300, 0), Verdict::Pass);
    link.ack(&mut hook, 0);
    assert_eq!(reported(&mut hook), []);
}

#[test]
fn rfc9293_3_5_2_the_data_of_a_rst_is_not_part_of_the_stream() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    sent(&mut link, &mut hook, &zero());
    let rst = |seq| Segment {
        rst: true,
        ..segment(seq, None)
    };
    let mut text = *b"no more";
    // Beyond what was sent, where data would have to wait.
    let verdict = link.client(&mut hook, &rst(SeqNumber(5000)), &mut text);
    assert_eq!(verdict, Verdict::Pass);
    link.server(&mut hook, &rst(SeqNumber(0xFFFF_FF01)), &mut text);
    assert_eq!(hook.waiting(), 0);
}

#[test]
fn an_unread_flow_needs_no_inspection_once_it_is_acknowledged() {
    let mut hook = hook(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    assert!(hook.reads(link.id) && hook.reads(flow(7)));
    sent(&mut link, &mut hook, &zero());
    link.server_sends(&mut hook, &answer::smb2());
    assert!(hook.reads(link.id));
    link.ack(&mut hook, 0);
    assert!(!hook.reads(link.id));
}
