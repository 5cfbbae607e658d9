//! Reconnections of a client: its older flows are probed, and those of other clients never.

use super::{events, sent};
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use vcgate_core::ids::FlowId;
use vcgate_core::smb::{Action, Ends, Event, Hook, Mode, Segment, Settings, Stale, StaleOutcome};
use vcgate_test_support::smb::link::{SimulatedLink, segment};
use vcgate_test_support::smb::messages::{Signature, setup, zero};
use vcgate_wire::tcp::SeqNumber;

fn hook(mode: Mode, stale: Stale) -> Hook {
    Hook::new(Settings {
        mode,
        stale,
        ..Settings::default()
    })
}

/// A new connection of a client to a server, in a slot that is the client's port too.
fn open(hook: &mut Hook, client: u8, server: u8, slot: u32) -> SimulatedLink {
    let id = FlowId {
        slot,
        generation: 0,
    };
    SimulatedLink::between(hook, id, ends(client, server, slot), 7)
}

/// One flow in three is to the other port.
fn ends(client: u8, server: u8, slot: u32) -> Ends {
    let port = if slot.is_multiple_of(3) { 139 } else { 445 };
    Ends {
        client: ([10, 8, 0, client], slot as u16).into(),
        lan: [192, 0, 2, 1].into(),
        server: ([198, 51, 100, server], port).into(),
    }
}

fn logs_on(hook: &mut Hook, link: &mut SimulatedLink) {
    sent(link, hook, &zero());
}

fn actions(hook: &mut Hook, now: Instant) -> Vec<Action> {
    std::iter::from_fn(|| hook.poll_action(now, |_| true)).collect()
}

fn outcomes(hook: &mut Hook) -> Vec<(u32, StaleOutcome)> {
    let stale = |event| match event {
        Event::Stale { flow, fate, .. } => Some((flow.slot, fate)),
        _ => None,
    };
    events(hook).into_iter().filter_map(stale).collect()
}

/// The client's stack answers on a flow, as far as the hook can know.
fn says(hook: &mut Hook, link: &SimulatedLink, segment: Segment) {
    let _ = link.client(hook, &segment, &mut []);
}

fn ack() -> Segment {
    segment(SeqNumber(100), Some(SeqNumber(200)))
}

fn rst() -> Segment {
    Segment {
        rst: true,
        ..segment(SeqNumber(100), None)
    }
}

/// Client 1 with two connections to server 1, neighbours, and its logon on a third: the slots
/// are 1, 2 and 9.
fn reconnected(hook: &mut Hook) -> (SimulatedLink, SimulatedLink) {
    let old = open(hook, 1, 1, 1);
    let mut live = open(hook, 1, 1, 2);
    sent(&mut live, hook, &setup(12, 3, Signature::None));
    for (client, server, slot) in [(2, 1, 3), (1, 2, 4), (2, 2, 5)] {
        open(hook, client, server, slot);
    }
    assert_eq!(actions(hook, Instant::now()), []);
    let mut new = open(hook, 1, 1, 9);
    logs_on(hook, &mut new);
    (old, live)
}

#[test]
fn a_connection_whose_client_answers_is_kept_and_others_are_reset() {
    let mut hook = hook(Mode::Assign, Stale::Probe);
    let (old, live) = reconnected(&mut hook);
    let start = Instant::now();
    let probe = Action::Probe;
    assert_eq!(actions(&mut hook, start), [probe(old.id), probe(live.id)]);
    says(&mut hook, &live, ack());
    assert_eq!(
        outcomes(&mut hook),
        [
            (1, StaleOutcome::Probed),
            (2, StaleOutcome::Probed),
            (2, StaleOutcome::Alive)
        ]
    );
    // Three more probes, and after 0.8 seconds the answer is taken as given.
    for n in 1..=4 {
        let due = hook.next_timeout().unwrap();
        assert_eq!(due, start + Duration::from_millis(200 * n));
        hook.handle_timeout(due - Duration::from_millis(1));
        assert_eq!(actions(&mut hook, due), []);
        hook.handle_timeout(due);
        let expected = match n {
            4 => Action::Reset(old.id),
            _ => Action::Probe(old.id),
        };
        assert_eq!(actions(&mut hook, due), [expected]);
    }
    assert_eq!(hook.next_timeout(), None);
    assert_eq!(outcomes(&mut hook), [(1, StaleOutcome::Silent)]);
    let counters = hook.counters();
    assert_eq!(
        (
            counters.stale_probed,
            counters.stale_alive,
            counters.stale_reset
        ),
        (2, 1, 1)
    );
}

#[test]
fn a_client_far_away_is_given_the_time_that_its_answers_take() {
    let mut hook = hook(Mode::Assign, Stale::Probe);
    let old = open(&mut hook, 1, 1, 1);
    let mut new = open(&mut hook, 1, 1, 2);
    new.now += Duration::from_millis(1200);
    logs_on(&mut hook, &mut new);
    let start = new.now;
    let mut now = start;
    let mut done = actions(&mut hook, now);
    while let Some(due) = hook.next_timeout() {
        now = due;
        hook.handle_timeout(now);
        done.extend(actions(&mut hook, now));
    }
    let probe = Action::Probe(old.id);
    assert_eq!(done, [probe, probe, probe, probe, Action::Reset(old.id)]);
    assert_eq!(now - start, Duration::from_millis(3600));
}

#[test]
fn a_connection_that_the_client_refuses_is_reset_at_once() {
    let mut hook = hook(Mode::Assign, Stale::Probe);
    let (old, _) = reconnected(&mut hook);
    let now = Instant::now();
    actions(&mut hook, now);
    says(&mut hook, &old, rst());
    assert_eq!(actions(&mut hook, now), [Action::Reset(old.id)]);
    assert_eq!(
        outcomes(&mut hook).last(),
        Some(&(1, StaleOutcome::Unknown))
    );
}

#[test]
fn a_challenge_is_answered_with_the_number_that_it_names() {
    let mut hook = hook(Mode::Assign, Stale::Reset);
    let (old, live) = reconnected(&mut hook);
    let now = Instant::now();
    assert_eq!(
        actions(&mut hook, now),
        [Action::Reset(old.id), Action::Reset(live.id)]
    );
    assert_eq!(
        outcomes(&mut hook),
        [(1, StaleOutcome::Reset), (2, StaleOutcome::Reset)],
        "and nobody is asked"
    );
    let server = |hook: &mut Hook, segment| old.server(hook, &segment, &mut []);
    server(&mut hook, segment(SeqNumber(500), Some(SeqNumber(4711))));
    assert_eq!(
        actions(&mut hook, now),
        [Action::ResetServer(old.id, SeqNumber(4711))]
    );
    server(&mut hook, rst());
    assert_eq!(actions(&mut hook, now), []);
}

#[test]
fn keep_does_nothing_and_observe_reports_what_it_would_do() {
    let now = Instant::now();
    let mut keep = hook(Mode::Assign, Stale::Keep);
    reconnected(&mut keep);
    assert_eq!(actions(&mut keep, now), []);
    assert_eq!(outcomes(&mut keep), []);
    for stale in [Stale::Probe, Stale::Reset] {
        let mut hook = hook(Mode::Observe, stale);
        reconnected(&mut hook);
        assert_eq!(actions(&mut hook, now), []);
        let would = StaleOutcome::Observed(stale);
        assert_eq!(outcomes(&mut hook), [(1, would), (2, would)]);
        assert_eq!(hook.next_timeout(), None);
    }
}

#[test]
fn only_the_first_zero_of_a_connection_counts() {
    let mut hook = hook(Mode::Assign, Stale::Reset);
    let mut first = open(&mut hook, 1, 1, 1);
    let stream = [zero(), zero(), zero()].concat();
    sent(&mut first, &mut hook, &stream[..zero().len()]);
    open(&mut hook, 1, 1, 2);
    sent(&mut first, &mut hook, &stream);
    assert_eq!(actions(&mut hook, Instant::now()), []);
}

#[test]
fn a_closed_connection_is_left_alone() {
    let mut hook = hook(Mode::Assign, Stale::Reset);
    let (_, live) = reconnected(&mut hook);
    let now = Instant::now();
    let is_open = |flow| flow == live.id;
    assert_eq!(hook.poll_action(now, is_open), Some(Action::Reset(live.id)));
    assert_eq!(hook.poll_action(now, is_open), None);
}

/// The restart loses the probes of the last logon, and with them the file of the client.
#[test]
fn a_restart_probes_again_when_the_client_continues() {
    for policy in [Stale::Probe, Stale::Reset, Stale::Keep] {
        let mut before = hook(Mode::Assign, policy);
        let old = open(&mut before, 1, 1, 1);
        let mut live = open(&mut before, 1, 1, 2);
        sent(&mut live, &mut before, &setup(12, 3, Signature::None));
        let mut after = hook(Mode::Assign, policy);
        for link in [&old, &live] {
            after.restore(link.id, &before.keep(link.id).unwrap(), None);
        }
        let now = Instant::now();
        assert_eq!(
            actions(&mut after, now),
            [],
            "the client may not be there yet"
        );
        let setup = setup(12, 3, Signature::None);
        for expected in [&[Action::Probe(old.id)][..], &[]] {
            let expected = if policy == Stale::Probe {
                expected
            } else {
                &[]
            };
            let stream = [&setup[..], &setup[..]].concat();
            let _ = live.send(&mut after, &stream, setup.len()..stream.len(), 0);
            assert_eq!(actions(&mut after, now), expected, "{policy:?}");
        }
    }
}

#[test]
fn a_flow_that_ends_before_its_answer_is_forgotten() {
    let mut hook = hook(Mode::Assign, Stale::Probe);
    let (old, live) = reconnected(&mut hook);
    let now = Instant::now();
    actions(&mut hook, now);
    hook.close(old.id);
    hook.close(live.id);
    hook.handle_timeout(now + Duration::from_secs(1));
    assert_eq!(actions(&mut hook, now), []);
    assert_eq!(hook.next_timeout(), None);
}

#[test]
fn one_logon_looks_at_a_bounded_number_of_flows() {
    let mut hook = hook(Mode::Assign, Stale::Probe);
    for slot in 0..1000 {
        open(&mut hook, 1, 1, slot);
    }
    let mut new = open(&mut hook, 1, 1, 1000);
    logs_on(&mut hook, &mut new);
    assert_eq!(actions(&mut hook, Instant::now()).len(), 64);
}

#[derive(Debug, Clone)]
enum Step {
    /// A new flow replaces the one in this slot.
    Open {
        slot: u32,
        client: u8,
        server: u8,
    },
    LogOn {
        slot: u32,
    },
    Ack {
        slot: u32,
    },
    Rst {
        slot: u32,
    },
    Server {
        slot: u32,
    },
    Close {
        slot: u32,
    },
    Wait {
        millis: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0u32..24;
    prop_oneof![
        6 => (slot(), 1u8..6, 1u8..3).prop_map(|(slot, client, server)| Step::Open { slot, client, server }),
        6 => slot().prop_map(|slot| Step::LogOn { slot }),
        3 => slot().prop_map(|slot| Step::Ack { slot }),
        1 => slot().prop_map(|slot| Step::Rst { slot }),
        1 => slot().prop_map(|slot| Step::Server { slot }),
        1 => slot().prop_map(|slot| Step::Close { slot }),
        4 => (0u64..600).prop_map(|millis| Step::Wait { millis }),
    ]
}

/// A plain model of a flow.
struct Seen {
    link: SimulatedLink,
    since: Instant,
    /// Time that the client's first answer took.
    answered: Option<Duration>,
    logged_on: bool,
    /// The same client logged on at the same server on another flow, at this time, and this flow
    /// has not answered since. So long it may be silent.
    suspect: Option<(Instant, Duration)>,
    refused: bool,
    reset: bool,
    challenged: bool,
}

impl Seen {
    fn answers(&mut self, now: Instant) {
        self.link.now = now;
        self.answered.get_or_insert(now - self.since);
    }

    /// Three times what the handshake took, and 0.8 seconds at least.
    fn probe_timeout(&self) -> Duration {
        let round_trip = self.answered.unwrap_or_default();
        (3 * round_trip).clamp(Duration::from_millis(800), Duration::from_secs(10))
    }
}

proptest! {
    /// Many clients at two servers: a flow is probed only after a logon of its own client at its
    /// own server, and reset only if the client then refused it or was silent for a second, or
    /// for longer if its answers take longer.
    #[test]
    fn only_the_clients_own_flows_to_that_server_are_ever_touched(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut hook = hook(Mode::Assign, Stale::Probe);
        let mut now = Instant::now();
        let mut flows: HashMap<u32, Seen> = HashMap::new();
        let mut generation = 0;
        for step in steps {
            match step {
                Step::Open { slot, client, server } => {
                    generation += 1;
                    let id = FlowId { slot, generation };
                    let mut link = SimulatedLink::new(id, ends(client, server, slot), 7);
                    link.now = now;
                    link.syn(&mut hook);
                    link.syn_ack(&mut hook);
                    flows.insert(slot, Seen {
                        link, since: now, answered: None, logged_on: false, suspect: None,
                        refused: false, reset: false, challenged: false,
                    });
                }
                Step::LogOn { slot } => {
                    let Some(flow) = flows.get_mut(&slot).filter(|f| !f.logged_on) else { continue };
                    flow.logged_on = true;
                    flow.answers(now);
                    flow.suspect = None;
                    let (id, of, timeout) = (flow.link.id, pair(flow), flow.probe_timeout());
                    logs_on(&mut hook, &mut flow.link);
                    for other in flows.values_mut().filter(|f| pair(f) == of && f.link.id != id && !f.reset) {
                        other.suspect.get_or_insert((now, timeout));
                    }
                }
                Step::Ack { slot } => {
                    let Some(flow) = flows.get_mut(&slot) else { continue };
                    flow.answers(now);
                    says(&mut hook, &flow.link, ack());
                    flow.suspect = None;
                }
                Step::Rst { slot } => {
                    let Some(flow) = flows.get_mut(&slot) else { continue };
                    flow.answers(now);
                    says(&mut hook, &flow.link, rst());
                    flow.refused = flow.suspect.is_some();
                }
                Step::Server { slot } => {
                    let Some(flow) = flows.get_mut(&slot) else { continue };
                    flow.link.server(&mut hook, &segment(SeqNumber(500), Some(SeqNumber(0))), &mut []);
                    flow.challenged = flow.reset;
                }
                Step::Close { slot } => {
                    if let Some(flow) = flows.remove(&slot) {
                        hook.close(flow.link.id);
                    }
                }
                Step::Wait { millis } => {
                    now += Duration::from_millis(millis);
                    hook.handle_timeout(now);
                }
            }
            while let Some(action) = hook.poll_action(now, |_| true) {
                let id = action.flow();
                let flow = flows.get_mut(&id.slot).filter(|f| f.link.id == id);
                prop_assert!(flow.is_some(), "{action:?} on a flow that is over");
                let flow = flow.unwrap();
                match action {
                    Action::Probe(_) => prop_assert!(flow.suspect.is_some() && !flow.reset),
                    Action::Reset(_) => {
                        prop_assert!(flow.suspect.is_some() && !flow.reset);
                        let (at, timeout) = flow.suspect.unwrap();
                        prop_assert!(flow.refused || now - at >= timeout);
                        flow.reset = true;
                    }
                    Action::ResetServer(..) => prop_assert!(flow.reset && flow.challenged),
                    Action::Acknowledge(..) => prop_assert!(false, "nothing is held"),
                }
            }
        }
        // A client that stays silent is reset.
        for _ in 0..4 {
            now += Duration::from_secs(10);
            hook.handle_timeout(now);
            while let Some(action) = hook.poll_action(now, |_| true) {
                if let Action::Reset(id) = action {
                    flows.get_mut(&id.slot).unwrap().reset = true;
                }
            }
        }
        prop_assert!(flows.values().all(|f| f.reset || f.suspect.is_none()));
    }
}

fn pair(flow: &Seen) -> (std::net::IpAddr, std::net::IpAddr) {
    (flow.link.ends.client.ip(), flow.link.ends.server.ip())
}
