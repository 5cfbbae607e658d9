//! Likely causes of the connections that a server closes.

use super::{hook, sent};
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};
use vcgate_core::smb::{
    Cause, Closing, DisconnectCorrelator, Event, Hook, Mode, Reason, Segment, Unchanged, Verdict,
};
use vcgate_test_support::smb::link::{SimulatedLink, ends, flow, segment};
use vcgate_test_support::smb::messages::{Signature, answer, setup, zero};
use vcgate_wire::tcp::SeqNumber;

const MOMENT: Duration = Duration::from_millis(5);

/// The server ends a connection.
fn drops(hook: &mut Hook, link: &SimulatedLink, rst: bool) {
    let segment = Segment {
        rst,
        fin: !rst,
        ..segment(SeqNumber(500), Some(SeqNumber(1)))
    };
    link.server(hook, &segment, &mut []);
}

/// A hook and a correlator of its events.
struct Watched {
    hook: Hook,
    causes: DisconnectCorrelator,
}

impl Watched {
    fn new(mode: Mode) -> Self {
        Self {
            hook: hook(mode),
            causes: DisconnectCorrelator::default(),
        }
    }
}

impl Deref for Watched {
    type Target = Hook;

    fn deref(&self) -> &Hook {
        &self.hook
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut Hook {
        &mut self.hook
    }
}

/// A victim by its slot, with the likely cause.
type Victim = (u32, Closing, Option<Cause>);

/// The victims and the verdicts.
fn reported(watched: &mut Watched, now: Instant) -> (Vec<Victim>, Vec<Cause>) {
    let (mut closed, mut verdicts) = (Vec::new(), Vec::new());
    while let Some(mut event) = watched.hook.poll_event() {
        watched.causes.note(&mut event, now);
        if let Event::Closed {
            flow, how, cause, ..
        } = event
        {
            closed.push((flow.slot, how, cause));
        }
        if let Some(Event::MassDisconnect(cause)) = watched.causes.verdict() {
            verdicts.push(cause);
        }
    }
    (closed, verdicts)
}

/// Three connections of three clients, and the logon of a fourth one that goes unchanged.
fn after_a_logon(mode: Mode, why: Unchanged, now: Instant) -> (Watched, [SimulatedLink; 3], Cause) {
    let mut hook = Watched::new(mode);
    let links = [1, 2, 3].map(|slot| SimulatedLink::open(&mut hook, slot, 0));
    let mut culprit = SimulatedLink::open(&mut hook, 9, 0);
    let stream = match why {
        Unchanged::Observed => zero().repeat(2),
        Unchanged::Signed => {
            culprit.server_sends(&mut hook, &answer::logged_on(false));
            setup(12, 0, Signature::Mac).repeat(2)
        }
        Unchanged::Unread(_) => b"\0\0\0\x09GET / HTTP".to_vec(),
    };
    sent(&mut culprit, &mut hook, &stream);
    assert_eq!(reported(&mut hook, now), (vec![], vec![]));
    (hook, links, Cause { ends: ends(9), why })
}

#[test]
fn a_mass_disconnect_after_an_unchanged_logon_is_reported_once() {
    for (mode, why) in [
        (Mode::Observe, Unchanged::Observed),
        (Mode::Assign, Unchanged::Signed),
        (Mode::Assign, Unchanged::Unread(Reason::Protocol)),
    ] {
        let now = Instant::now();
        let (mut hook, [a, b, c], cause) = after_a_logon(mode, why, now);
        drops(&mut hook, &a, false);
        let one = vec![(1, Closing::Fin, Some(cause))];
        assert_eq!(reported(&mut hook, now + MOMENT), (one, vec![]));
        drops(&mut hook, &b, true);
        drops(&mut hook, &c, true);
        let rst = |slot| (slot, Closing::Rst, Some(cause));
        let both = vec![rst(2), rst(3)];
        assert_eq!(reported(&mut hook, now + MOMENT), (both, vec![cause]));
    }
}

#[test]
fn a_rewritten_logon_and_one_of_long_ago_are_no_cause() {
    let now = Instant::now();
    let late = now + Duration::from_millis(1001);
    let (mut observed, [a, b, _], _) = after_a_logon(Mode::Observe, Unchanged::Observed, now);
    drops(&mut observed, &a, true);
    drops(&mut observed, &b, true);
    let alone = vec![(1, Closing::Rst, None), (2, Closing::Rst, None)];
    assert_eq!(reported(&mut observed, late), (alone.clone(), vec![]));

    let mut hook = Watched::new(Mode::Assign);
    let links = [1, 2].map(|slot| SimulatedLink::open(&mut hook, slot, 0));
    let mut other = SimulatedLink::open(&mut hook, 9, 0);
    sent(&mut other, &mut hook, &zero());
    links.iter().for_each(|link| drops(&mut hook, link, true));
    assert_eq!(reported(&mut hook, now), (alone, vec![]));
}

#[test]
fn a_client_is_not_its_own_victim() {
    let now = Instant::now();
    let (mut hook, _, _) = after_a_logon(Mode::Observe, Unchanged::Observed, now);
    let own = SimulatedLink::between(&mut hook, flow(10), ends(9), 0);
    drops(&mut hook, &own, true);
    assert_eq!(
        reported(&mut hook, now),
        (vec![(10, Closing::Rst, None)], vec![])
    );
}

#[test]
fn connections_that_the_client_closed_are_not_reported_and_none_is_reported_twice() {
    let now = Instant::now();
    let mut hook = Watched::new(Mode::Assign);
    let link = SimulatedLink::open(&mut hook, 1, 0);
    let fin = Segment {
        fin: true,
        ..segment(SeqNumber(1), Some(SeqNumber(500)))
    };
    let _ = link.client(&mut hook, &fin, &mut []);
    drops(&mut hook, &link, false);
    assert_eq!(reported(&mut hook, now), (vec![], vec![]));
    let link = SimulatedLink::open(&mut hook, 2, 0);
    drops(&mut hook, &link, false);
    drops(&mut hook, &link, true);
    assert_eq!(
        reported(&mut hook, now),
        (vec![(2, Closing::Fin, None)], vec![])
    );
}

#[test]
fn a_logon_that_was_seen_is_a_likelier_cause_than_a_possible_one() {
    let now = Instant::now();
    let (mut hook, [a, ..], cause) = after_a_logon(Mode::Observe, Unchanged::Observed, now);
    let mut unread = SimulatedLink::open(&mut hook, 8, 0);
    sent(&mut unread, &mut hook, b"GET / HTTP");
    drops(&mut hook, &a, true);
    let expected = vec![(1, Closing::Rst, Some(cause))];
    assert_eq!(reported(&mut hook, now), (expected, vec![]));
}

#[test]
fn each_of_two_logons_on_one_connection_is_reported() {
    let now = Instant::now();
    let later = now + Duration::from_secs(3600);
    let mut hook = Watched::new(Mode::Assign);
    let mut culprit = SimulatedLink::open(&mut hook, 9, 0);
    culprit.server_sends(&mut hook, &answer::logged_on(false));
    let cause = Cause {
        ends: ends(9),
        why: Unchanged::Signed,
    };
    for (at, slots) in [(now, [1, 2, 3]), (later, [4, 5, 6])] {
        let links = slots.map(|slot| SimulatedLink::open(&mut hook, slot, 0));
        let stream = [culprit.received(), setup(12, 0, Signature::Mac)].concat();
        sent(&mut culprit, &mut hook, &stream);
        assert_eq!(reported(&mut hook, at), (vec![], vec![]));
        links.iter().for_each(|link| drops(&mut hook, link, true));
        let victims = slots.map(|slot| (slot, Closing::Rst, Some(cause)));
        let expected = (victims.to_vec(), vec![cause]);
        assert_eq!(reported(&mut hook, at + MOMENT), expected);
    }
}

#[test]
fn one_victim_now_and_one_later_are_not_several_at_once() {
    let now = Instant::now();
    let later = now + Duration::from_secs(3600);
    let (mut hook, [a, b, _], cause) = after_a_logon(Mode::Observe, Unchanged::Observed, now);
    drops(&mut hook, &a, true);
    let one = |slot| (vec![(slot, Closing::Rst, Some(cause))], vec![]);
    assert_eq!(reported(&mut hook, now + MOMENT), one(1));
    let mut again = SimulatedLink::open(&mut hook, 9, 77);
    sent(&mut again, &mut hook, &zero());
    assert_eq!(reported(&mut hook, later), (vec![], vec![]));
    drops(&mut hook, &b, true);
    assert_eq!(reported(&mut hook, later + MOMENT), one(2));
}

#[test]
fn of_two_logons_the_later_one_is_the_likely_cause() {
    let now = Instant::now();
    let (mut hook, [a, ..], first) = after_a_logon(Mode::Observe, Unchanged::Observed, now);
    for slot in [8, 9] {
        sent(
            &mut SimulatedLink::open(&mut hook, slot, 77),
            &mut hook,
            &zero(),
        );
        reported(&mut hook, now + MOMENT);
    }
    drops(&mut hook, &a, true);
    let expected = vec![(1, Closing::Rst, Some(first))];
    assert_eq!(reported(&mut hook, now + MOMENT), (expected, vec![]));
}

#[test]
fn a_logon_on_a_connection_that_is_not_read_is_a_cause_whenever_it_comes() {
    let now = Instant::now();
    let later = now + Duration::from_secs(3600);
    let mut hook = Watched::new(Mode::Assign);
    let [a, b] = [1, 2].map(|slot| SimulatedLink::open(&mut hook, slot, 0));
    let unread = SimulatedLink::new(flow(9), ends(9), 0);
    let client = |hook: &mut Watched, seq| {
        let verdict = unread.client(hook, &segment(seq, None), &mut zero());
        assert_eq!(verdict, Verdict::Pass);
    };
    client(&mut hook, SeqNumber(1000));
    assert_eq!(reported(&mut hook, now), (vec![], vec![]));
    client(&mut hook, SeqNumber(5000));
    assert_eq!(reported(&mut hook, later), (vec![], vec![]));
    assert_eq!(hook.counters().unread_setups, 2);
    drops(&mut hook, &a, true);
    drops(&mut hook, &b, true);
    let cause = Cause {
        ends: ends(9),
        why: Unchanged::Unread(Reason::MidStream),
    };
    let victims = [1, 2].map(|slot| (slot, Closing::Rst, Some(cause)));
    let expected = (victims.to_vec(), vec![cause]);
    assert_eq!(reported(&mut hook, later + MOMENT), expected);
}

#[test]
fn on_an_unread_connection_only_certain_session_setups_are_reported() {
    let setup = zero();
    let with = |at: usize, byte: u8| {
        let mut other = setup.clone();
        other[at] = byte;
        other
    };
    let mut hook = Watched::new(Mode::Assign);
    let unread = SimulatedLink::new(flow(9), ends(9), 0);
    let segments = [
        with(0, 0x85),  // a keep-alive
        with(4, 0xFE),  // SMB2
        with(8, 0x2F),  // a WRITE_ANDX
        with(13, 0x98), // a response
        setup[1..].to_vec(),
        setup[..46].to_vec(), // not whole
        setup.clone(),
    ];
    for (seq, mut bytes) in (1u32..).map(|n| n * 1000).zip(segments) {
        assert_eq!(hook.counters().unread_setups, 0);
        let _ = unread.client(&mut hook, &segment(SeqNumber(seq), None), &mut bytes);
    }
    assert_eq!(hook.counters().unread_setups, 1);
}

#[test]
fn a_rewritten_session_setup_that_is_sent_again_is_no_cause() {
    let mut hook = Watched::new(Mode::Assign);
    let mut link = SimulatedLink::open(&mut hook, 9, 0);
    let stream = [zero(), b"\0\0\0\x09GET / HTTP".to_vec()].concat();
    sent(&mut link, &mut hook, &stream);
    assert_eq!(hook.flow(link.id).unwrap().bypass, Some(Reason::Protocol));
    let again = 0..zero().len();
    assert_eq!(link.send(&mut hook, &stream, again, 0), Verdict::Pass);
    assert_eq!(hook.counters().unread_setups, 0);
}
