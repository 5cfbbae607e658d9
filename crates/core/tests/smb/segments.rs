//! Sequence numbers: parts, gaps, retransmissions, handshakes.

use super::{bypass, given, hook, sent, vc_at};
use vcgate_core::smb::{Mode, Reason, Segment, VcNumber, Verdict};
use vcgate_test_support::smb::link::{SimulatedLink, ends, flow, segment};
use vcgate_test_support::smb::messages::{Message, VC_AT, zero};
use vcgate_wire::tcp::SeqNumber;

#[test]
fn the_number_may_lie_in_two_segments_and_be_sent_again_in_others() {
    let mut hook = hook(Mode::Assign);
    for slot in 0..0x101 {
        given(&mut hook, slot, 0);
    }
    // 0x0102: both bytes are changed.
    let stream = zero();
    let mut link = SimulatedLink::open(&mut hook, 999, u32::MAX - 20);
    for part in [
        0..VC_AT + 1,
        0..VC_AT + 1,
        VC_AT..VC_AT + 1,
        VC_AT + 1..stream.len(),
    ] {
        assert_eq!(link.send(&mut hook, &stream, part, 3), Verdict::Pass);
    }
    for part in [VC_AT + 1..VC_AT + 2, VC_AT..VC_AT + 2, 0..stream.len()] {
        assert_eq!(link.send(&mut hook, &stream, part, VC_AT), Verdict::Pass);
    }
    assert_eq!(vc_at(&link.received(), VC_AT), 0x0102);
    // The client need not have heard of the server's acknowledgements.
    for unacknowledged in [stream.len() - VC_AT - 1, 0] {
        link.ack(&mut hook, unacknowledged);
        let mut again = stream.clone();
        let old = link.data(SeqNumber(u32::MAX - 19));
        assert_eq!(link.client(&mut hook, &old, &mut again), Verdict::Pass);
        assert_eq!(vc_at(&again, VC_AT), 0x0102);
    }
    assert_eq!(hook.counters().session_setups, 0x102);
}

/// Of a block whose words end early, more is read than its follow-on leaves it.
#[test]
fn a_follow_on_may_begin_in_the_parsed_bytes_of_the_previous_block() {
    let mut stream = zero();
    stream.splice(36..36, [2, 0x73, 0, 37, 0]);
    stream[3] += 5;
    for cut in 1..stream.len() {
        let mut hook = hook(Mode::Assign);
        let mut link = SimulatedLink::open(&mut hook, 0, u32::MAX - 40);
        for part in [0..cut, cut..stream.len()] {
            assert_eq!(link.send(&mut hook, &stream, part, 0), Verdict::Pass);
            link.ack(&mut hook, 0);
        }
        assert_eq!(vc_at(&link.received(), 5 + VC_AT), 1, "cut at {cut}");
        assert_eq!(bypass(&hook, &link), None);
    }
}

#[test]
fn segments_inside_a_message_pass_early_and_possible_headers_wait() {
    let mut hook = hook(Mode::Assign);
    let write = Message::Write { len: 5000 }.bytes();
    let stream = [write.clone(), zero()].concat();
    let end = stream.len();
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    assert_eq!(link.send(&mut hook, &stream, 0..100, 0), Verdict::Pass);
    assert_eq!(
        link.send(&mut hook, &stream, 3000..write.len(), 0),
        Verdict::Pass
    );
    assert_eq!(
        link.send(&mut hook, &stream, write.len() + 10..end, 0),
        Verdict::Hold
    );
    assert_eq!(hook.flow(link.id).map(|f| f.held), Some(1));
    assert_eq!(link.send(&mut hook, &stream, 100..3000, 0), Verdict::Pass);
    assert_eq!(link.next(), write.len());
    // The gap is filled: the buffered segments pass too.
    let gap = write.len()..write.len() + 10;
    assert_eq!(link.send(&mut hook, &stream, gap, 0), Verdict::Pass);
    assert_eq!(link.next(), end);
    assert_eq!(vc_at(&link.received(), write.len() + VC_AT), 1);
    assert_eq!((hook.counters().held, hook.counters().held_dropped), (1, 0));
}

#[test]
fn segments_that_do_not_fit_the_buffer_are_dropped_and_counted() {
    let mut hook = hook(Mode::Assign);
    let stream = vec![0; 400_000];
    let mut link = SimulatedLink::open(&mut hook, 0, 0);
    for at in 1..9 {
        let part = at * 40_000..(at + 1) * 40_000;
        assert_eq!(link.send(&mut hook, &stream, part, 0), Verdict::Hold);
    }
    assert_eq!((hook.counters().held, hook.counters().held_dropped), (6, 2));
    let waiting = hook.waiting();
    hook.close(link.id);
    assert_eq!(waiting - hook.waiting(), 6 * 40_040);
}

#[test]
fn bytes_that_reached_the_server_elsewhere_end_the_wait() {
    let mut hook = hook(Mode::Assign);
    let stream = [zero(), zero()].concat();
    let mut link = SimulatedLink::open(&mut hook, 0, 100);
    assert_eq!(link.send(&mut hook, &stream, 10..40, 0), Verdict::Hold);
    let ack = segment(SeqNumber(0xFFFF_FF01), Some(SeqNumber(101 + 10)));
    link.server(&mut hook, &ack, &mut []);
    link.release(&mut hook);
    assert_eq!(bypass(&hook, &link), Some(Reason::Missed));
    assert!(link.send(&mut hook, &stream, 0..10, 0) == Verdict::Pass);
    assert_eq!(link.received(), stream[..40]);
}

#[test]
fn the_acknowledgement_of_a_fin_and_a_resets_are_not_beyond_the_stream() {
    let mut hook = hook(Mode::Assign);
    let stream = zero();
    let mut link = SimulatedLink::open(&mut hook, 0, 100);
    sent(&mut link, &mut hook, &stream);
    let fin = segment(
        SeqNumber(0xFFFF_FF01),
        Some(SeqNumber(101 + stream.len() as u32 + 1)),
    );
    link.server(&mut hook, &fin, &mut []);
    let reset = Segment {
        rst: true,
        ..segment(SeqNumber(0xFFFF_FF01), Some(SeqNumber(5000)))
    };
    link.server(&mut hook, &reset, &mut []);
    assert_eq!(bypass(&hook, &link), None);
}

#[test]
fn rfc9293_the_servers_syn_says_which_of_the_clients_counts() {
    let mut hook = hook(Mode::Assign);
    let stream = [zero(), zero()].concat();
    let half = zero().len();
    let mut link = SimulatedLink::open(&mut hook, 0, 500);
    // Both SYNs again: the connection continues.
    assert_eq!(link.send(&mut hook, &stream, 0..half, 0), Verdict::Pass);
    link.syn(&mut hook);
    link.syn_ack(&mut hook);
    assert_eq!(link.send(&mut hook, &stream, 0..10, 0), Verdict::Pass);
    // A SYN that the server does not take up changes nothing.
    let stray = Segment {
        syn: true,
        ..segment(SeqNumber(0x8000_0000), None)
    };
    assert_eq!(link.client(&mut hook, &stray, &mut []), Verdict::Pass);
    link.ack(&mut hook, 0);
    assert_eq!(
        link.send(&mut hook, &stream, half..2 * half, 0),
        Verdict::Pass
    );
    assert_eq!(vc_at(&link.received(), half + VC_AT), 1);
    let old = Segment {
        syn: true,
        ..segment(SeqNumber(0xFFFF_FF00), Some(SeqNumber(501)))
    };
    link.server(&mut hook, &old, &mut []);
    assert_eq!(link.send(&mut hook, &stream, 0..2 * half, 0), Verdict::Pass);
    // A SYN that it accepts opens a new connection with the same number; the segments buffered in
    // the old one are dropped.
    let early = zero().repeat(3);
    assert_eq!(
        link.send(&mut hook, &early, 2 * half + 1..3 * half, 0),
        Verdict::Hold
    );
    let mut again = SimulatedLink::open(&mut hook, 0, 0x9000_0000);
    assert_eq!(vc_at(&sent(&mut again, &mut hook, &zero()), VC_AT), 1);
    assert_eq!(
        hook.flow(again.id).map(|f| (f.number, f.session_setups)),
        Some((VcNumber::new(1), 3))
    );
    hook.close(again.id);
    assert_eq!(hook.waiting(), 0);
}

/// The server still has a connection that the client has forgotten, and answers the client's SYN for
/// that one; the SYN may come again before the RST.
#[test]
fn rfc9293_3_5_1_a_half_open_connection_gives_way_to_the_next() {
    for is_known in [true, false] {
        for resets in [&[0][..], &[1], &[0, 1]] {
            let mut hook = hook(Mode::Assign);
            let half = zero().len() / 2;
            let mut old = SimulatedLink::new(flow(0), ends(0), 500);
            if is_known {
                old = SimulatedLink::open(&mut hook, 0, 500);
                let _ = old.send(&mut hook, &zero(), 0..half, 0);
            }
            let mut new = SimulatedLink::new(flow(0), ends(0), 0x9000_0000);
            for attempt in 0..=*resets.last().unwrap() {
                new.syn(&mut hook);
                old.ack_to(&mut hook, half);
                if resets.contains(&attempt) {
                    let reset = Segment {
                        rst: true,
                        ..segment(old.seq(half), None)
                    };
                    assert_eq!(old.client(&mut hook, &reset, &mut []), Verdict::Pass);
                }
            }
            new.syn(&mut hook);
            new.syn_ack(&mut hook);
            assert_eq!(vc_at(&sent(&mut new, &mut hook, &zero()), VC_AT), 1);
            assert_eq!(bypass(&hook, &new), None);
        }
    }
}
