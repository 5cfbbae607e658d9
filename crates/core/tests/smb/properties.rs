//! The hook against an oracle that has the whole stream, through any network.

use super::hook;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;
use vcgate_core::smb::{
    Action, HeldPacket, Hook, Mode, Reason, Segment, Settings, Stale, Unreadable, Verdict,
};
use vcgate_test_support::smb::link::{SimulatedLink, ends, flow, segment};
use vcgate_test_support::smb::messages::{Message, SAMPLE_ZERO, Signature, answer, setup, zero};
use vcgate_test_support::smb::oracle::{Circumstances, rewrite};
use vcgate_wire::tcp::SeqNumber;

pub(super) fn message() -> impl Strategy<Value = Vec<u8>> {
    let signature = prop_oneof![
        Just(Signature::None),
        Just(Signature::Placeholder),
        Just(Signature::Mac)
    ];
    let vc = prop_oneof![4 => Just(0), 3 => 1u16..6, 1 => any::<u16>()];
    let setup = (
        prop_oneof![Just(10), Just(12), Just(13), Just(11)],
        vc.clone(),
        signature,
    )
        .prop_map(|(words, vc, signature)| Message::SessionSetup {
            words,
            vc,
            signature,
        });
    let chain = (vc, 0u8..20).prop_map(|(vc, gap)| Message::LogoffThenSessionSetup { vc, gap });
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(SAMPLE_ZERO[4..].to_vec())
    ];
    prop_oneof![
        6 => setup.prop_map(|m| m.bytes()),
        3 => chain.prop_map(|m| m.bytes()),
        3 => (0usize..400).prop_map(|len| Message::Write { len }.bytes()),
        1 => Just(Message::Write { len: 66_000 }.bytes()),
        1 => Just(Message::Negotiate.bytes()),
        2 => Just(Message::TreeConnect.bytes()),
        1 => data.prop_map(|data| Message::WriteRaw { data }.bytes()),
        1 => (0usize..400).prop_map(|len| Message::WriteMpx { len }.bytes()),
        1 => Just(Message::SessionRequest.bytes()),
        2 => Just(Message::KeepAlive.bytes()),
        1 => (0usize..57).prop_map(|len| Message::Short { len }.bytes()),
        1 => damaged(),
    ]
}

/// A session setup or a chain with some bytes changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop_oneof![
        Just(setup(12, 0, Signature::None)),
        Just(Message::LogoffThenSessionSetup { vc: 0, gap: 2 }.bytes())
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    (whole, changes).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// A step of the client's network.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Any part of the stream arrives, near the place that the server waits for.
    Segment { from: isize, len: usize, cut: usize },
    /// The server acknowledges.
    Ack { unacknowledged: usize },
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![3 => 1usize..8, 3 => 1usize..120, 1 => 1usize..60_000];
    let segment = (-120isize..240, len, 0usize..150).prop_map(|(from, len, cut)| Step::Segment {
        from,
        len,
        cut,
    });
    let step = prop_oneof![6 => segment, 1 => (0usize..80).prop_map(|unacknowledged| Step::Ack { unacknowledged })];
    prop::collection::vec(step, 0..60)
}

/// Lets the network do its steps, then the client's retransmissions fill what is missing.
pub(super) fn play(
    link: &mut SimulatedLink,
    hook: &mut Hook,
    stream: &[u8],
    until: usize,
    steps: &[Step],
    sizes: &[usize],
) {
    for step in steps {
        match *step {
            Step::Segment { from, len, cut } => {
                let start = link.next().saturating_add_signed(from).min(until);
                let end = (start + len).min(until);
                let waited_for = start <= link.next();
                let verdict = link.send(hook, stream, start..end, cut);
                assert!(
                    verdict == Verdict::Pass || !waited_for,
                    "what the server waits for must pass"
                );
            }
            Step::Ack { unacknowledged } => link.ack(hook, unacknowledged),
        }
    }
    for size in sizes.iter().cycle() {
        let start = link.next();
        if start >= until {
            break;
        }
        let end = (start + size).min(until);
        assert_eq!(link.send(hook, stream, start..end, 0), Verdict::Pass);
    }
}

/// A chain with a session setup and the beginning of the next message, cut at any two places, in
/// any order.
#[test]
fn every_cut_in_every_order() {
    let mut stream = Message::LogoffThenSessionSetup { vc: 0, gap: 0 }.bytes();
    stream.extend(&SAMPLE_ZERO[..9]);
    let end = stream.len();
    let expected = rewrite(&stream, &Circumstances::default()).bytes;
    for (a, b) in (1..end).flat_map(|a| (a + 1..end).map(move |b| (a, b))) {
        let parts = [0..a, a..b, b..end];
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut hook = hook(Mode::Assign);
            let mut link = SimulatedLink::open(&mut hook, 0, u32::MAX - 50);
            for part in order {
                let _ = link.send(&mut hook, &stream, parts[part].clone(), 1);
            }
            assert!(
                link.received() == expected,
                "{parts:?} in the order {order:?}"
            );
        }
    }
}

/// Parts of the server's bytes in any order, all of them at least once.
pub(super) fn parts(
    len: usize,
    cuts: &[prop::sample::Index],
    disorder: &[prop::sample::Index],
) -> Vec<Range<usize>> {
    let mut at: Vec<_> = cuts
        .iter()
        .map(|cut| cut.index(len))
        .chain([0, len])
        .collect();
    at.sort_unstable();
    let mut parts: Vec<_> = at.windows(2).map(|w| w[0]..w[1]).collect();
    for (n, other) in disorder.iter().enumerate() {
        let (n, other) = (n % parts.len(), other.index(parts.len()));
        parts.swap(n, other);
        parts.push(parts[n].clone());
    }
    parts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn the_server_gets_what_the_oracle_says(
        first in prop::collection::vec(message(), 0..6),
        second in prop::collection::vec(message(), 0..6),
        (steps_a, steps_b) in (steps(), steps()),
        sizes in prop::collection::vec(prop_oneof![1usize..30, 30usize..3000, 3000usize..60_000], 1..6),
        isn in prop_oneof![any::<u32>(), (u32::MAX - 500)..=u32::MAX],
        others in 0u32..4,
        guest: bool,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        disorder in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut hook = hook(Mode::Assign);
        let mut taken = BTreeSet::new();
        for slot in 1..=others {
            let zero = setup(12, 0, Signature::None);
            let verdict = SimulatedLink::open(&mut hook, slot, 0).send(&mut hook, &zero, 0..zero.len(), 0);
            prop_assert_eq!(verdict, Verdict::Pass);
            taken.insert(slot as u16);
        }
        let before = hook.counters().session_setups;

        let mut link = SimulatedLink::open(&mut hook, 0, isn);
        let mut stream = first.concat();
        let pause = stream.len();
        stream.extend(second.concat());
        play(&mut link, &mut hook, &stream, pause, &steps_a, &sizes);
        let said = [answer::negotiated(7), answer::challenge(), answer::logged_on(guest)].concat();
        link.server_sends_parts(&mut hook, &said, &parts(said.len(), &cuts, &disorder));
        play(&mut link, &mut hook, &stream, stream.len(), &steps_b, &sizes);

        let verifies_from = if guest { usize::MAX } else { pause };
        let met = Circumstances { taken, verifies_from, ..Circumstances::default() };
        let expected = rewrite(&stream, &met);
        let bypass = hook.flow(link.id).and_then(|f| f.bypass);
        // The server answers more logons than there are.
        prop_assume!(!expected.is_ambiguous || bypass != Some(Reason::Framing));
        prop_assert!(link.received() == expected.bytes);
        let seen = hook.counters().session_setups - before;
        prop_assert_eq!(seen, expected.requested.len() as u64);
        prop_assert_eq!(bypass.is_some(), expected.unsupported_at.is_some());
        link.release(&mut hook);
        hook.close(link.id);
        prop_assert_eq!(hook.waiting(), 0);
    }

    #[test]
    fn observing_sees_what_the_oracle_sees_and_changes_nothing(
        messages in prop::collection::vec(message(), 0..8),
        steps in steps(),
        sizes in prop::collection::vec(1usize..3000, 1..4),
        isn: u32,
    ) {
        let mut hook = hook(Mode::Observe);
        let mut link = SimulatedLink::open(&mut hook, 0, isn);
        let stream = messages.concat();
        play(&mut link, &mut hook, &stream, stream.len(), &steps, &sizes);
        prop_assert!(link.received() == stream);
        let asked = rewrite(&stream, &Circumstances::default()).requested;
        prop_assert_eq!(hook.counters().session_setups, asked.len() as u64);
        prop_assert_eq!(hook.counters().zeros, asked.iter().filter(|n| **n == 0).count() as u64);
    }
}

/// Anything that an engine could do to the hook.
#[derive(Debug, Clone)]
enum Call {
    LogOn(u32),
    Client(u32, Segment, Vec<u8>),
    Server(u32, Segment, Vec<u8>),
    Close(u32),
    Wait(u64),
}

fn call() -> impl Strategy<Value = Call> {
    let seq = || prop_oneof![8 => 0u32..200, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    let flags = || {
        (
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.05),
            prop::bool::weighted(0.05),
        )
    };
    let segment =
        (seq(), prop::option::of(seq()), flags()).prop_map(|(seq, ack, (syn, rst, fin))| Segment {
            seq: SeqNumber(seq),
            ack: ack.map(SeqNumber),
            syn,
            rst,
            fin,
            window: 512,
            sack_permitted: false,
            timestamps: None,
        });
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        prop::collection::vec(message(), 0..3).prop_map(|m| m.concat()),
        Just(answer::logged_on(false)),
        Just(answer::smb2()),
        Just(Vec::new()),
    ];
    let what = (0u8..20, 0u32..3, 0u64..1000, segment, bytes);
    what.prop_map(|(kind, slot, millis, segment, bytes)| match kind {
        0 if millis < 500 => Call::Close(slot),
        0 => Call::Wait(millis),
        1..3 => Call::LogOn(slot),
        3..10 => Call::Server(slot, segment, bytes),
        _ => Call::Client(slot, segment, bytes),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_bytes_in_no_order_panic_or_leak(
        calls in prop::collection::vec(call(), 0..80),
        mode in prop_oneof![Just(Mode::Assign), Just(Mode::Observe)],
        stale in prop_oneof![Just(Stale::Probe), Just(Stale::Reset), Just(Stale::Keep)],
        unreadable in prop_oneof![Just(Unreadable::Pass), Just(Unreadable::Reset)],
    ) {
        let mut hook = Hook::new(Settings { mode, stale, unreadable, ..Settings::default() });
        // The flows of one client's in slots 0 and 1, and one of another's.
        let mut links = [0, 0, 1].map(|client| SimulatedLink::new(flow(0), ends(client), 0));
        for (slot, link) in (0..).zip(&mut links) {
            link.id = flow(slot);
        }
        for call in calls {
            match call {
                Call::LogOn(slot) => {
                    let link = &mut links[slot as usize];
                    link.syn(&mut hook);
                    link.syn_ack(&mut hook);
                    let _ = link.client(&mut hook, &segment(SeqNumber(1), None), &mut zero());
                }
                Call::Client(slot, segment, bytes) => {
                    let mut payload = bytes.clone();
                    match links[slot as usize].client(&mut hook, &segment, &mut payload) {
                        Verdict::Pass => prop_assert!(mode == Mode::Assign || payload == bytes),
                        Verdict::Hold => {
                            prop_assert_eq!(mode, Mode::Assign);
                            let len = payload.len();
                            let packet = HeldPacket {
                                payload_len: len,
                                segment_len: len,
                                bytes,
                            };
                            hook.hold(flow(slot), &segment, packet, links[0].now);
                        }
                        Verdict::Drop => prop_assert_eq!(mode, Mode::Assign),
                    }
                    while hook.release(flow(slot)).is_some() {}
                }
                Call::Server(slot, segment, mut bytes) => {
                    links[slot as usize].server(&mut hook, &segment, &mut bytes);
                    while hook.release(flow(slot)).is_some() {}
                }
                Call::Close(slot) => hook.close(flow(slot)),
                Call::Wait(millis) => {
                    links.iter_mut().for_each(|link| link.now += Duration::from_millis(millis));
                    hook.handle_timeout(links[0].now);
                }
            }
            while let Some(action) = hook.poll_action(links[0].now, |_| true) {
                let own = action.flow() != flow(2)
                    || matches!(action, Action::Acknowledge(..))
                    || hook.counters().unreadable_reset > 0;
                prop_assert!(own && mode == Mode::Assign, "{:?}", action);
                prop_assert!(hook.flow(action.flow()).is_some());
            }
        }
        (0..3).for_each(|slot| hook.close(flow(slot)));
        prop_assert_eq!(hook.waiting(), 0);
    }
}
