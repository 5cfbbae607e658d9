//! Compares the hook with an oracle that has the whole stream.
//!
//! The input decides what client and server send, how it is segmented, reordered, repeated and
//! acknowledged, which side closes or reopens the connection, and how much time passes.

use super::action_oracle::{ActionOracle, PLAYED};
use super::input::Input;
use super::payloads;
use super::raw::RawTransfers;
use crate::smb::link::{SimulatedLink, ends, flow, segment};
use crate::smb::messages::{Signature, setup};
use crate::smb::oracle::{Circumstances, ServerFinding, read_server_stream, rewrite};
use std::collections::BTreeSet;
use std::time::Duration;
use vcgate_core::smb::{Hook, Mode, Reason, Segment, Settings, Stale, Unreadable, Verdict};
use vcgate_wire::tcp::SeqNumber;

/// Maximum length of the client's stream in bytes.
const MAX_STREAM_LEN: usize = 40_000;
/// Maximum length of the server's stream in bytes: the hook stops reading it later.
const MAX_RESPONSES_LEN: usize = 8192;
/// Maximum number of segments from the server; more could exceed the limit on disorder.
const MAX_RESPONSE_SEGMENTS: usize = 100;

/// Runs the hook on the input.
pub fn hook(input: &[u8]) {
    let mut input = Input::new(input);
    let settings = input.u8();
    let mode = match settings & 1 {
        0 => Mode::Assign,
        _ => Mode::Observe,
    };
    let stale = match settings >> 4 & 3 {
        0 => Stale::Probe,
        1 => Stale::Reset,
        _ => Stale::Keep,
    };
    let mut hook = Hook::new(Settings {
        mode,
        stale,
        unreadable: Unreadable::Pass,
        ..Settings::default()
    });
    let taken = (1..=settings >> 1 & 3)
        .map(|slot| logged_on(&mut hook, slot))
        .collect();
    let taken = match mode {
        Mode::Assign => taken,
        Mode::Observe | Mode::Off => BTreeSet::new(),
    };
    let actions = ActionOracle::new(mode, stale);
    let selective = settings & 8 != 0;
    let mut connection = Connection::open(&mut hook, selective, actions, taken, input.u32());
    while !input.is_empty() {
        connection.step(&mut hook, &mut input);
        connection.audit(&mut hook);
    }
    connection.finish(&mut hook);
    connection.end(&mut hook);
    assert_eq!(hook.waiting(), 0, "a closed flow holds no segments");
}

/// Opens a flow of another client; returns its number.
fn logged_on(hook: &mut Hook, slot: u8) -> u16 {
    let stream = setup(12, slot.into(), Signature::None);
    let mut link = SimulatedLink::open(hook, slot.into(), 0);
    let verdict = link.send(hook, &stream, 0..stream.len(), 0);
    assert_eq!(verdict, Verdict::Pass);
    slot.into()
}

/// A connection, the streams of both sides, and the input of the oracle.
struct Connection {
    actions: ActionOracle,
    link: SimulatedLink,
    isn: u32,
    stream: Vec<u8>,
    /// Number of bytes that the client has sent, whether or not they arrived.
    sent: usize,
    /// The bytes of the client that the hook has seen.
    seen: Vec<bool>,
    answer: Vec<u8>,
    /// The bytes of the server that the hook has seen.
    observed: Vec<Option<u8>>,
    answers: usize,
    finding: ServerFinding,
    /// The hook cannot parse the server's stream any more.
    is_lost: bool,
    raw: RawTransfers,
    circumstances: Circumstances,
    /// The server has acknowledged bytes from here on that the hook did not see. They pass
    /// unchanged if they arrive later.
    skipped_from: Option<usize>,
    /// Number of session setups before this connection.
    counted: u64,
}

impl Connection {
    fn open(
        hook: &mut Hook,
        selective: bool,
        actions: ActionOracle,
        taken: BTreeSet<u16>,
        isn: u32,
    ) -> Self {
        let mut link = SimulatedLink::new(flow(PLAYED), ends(PLAYED), isn);
        link.now = actions.now;
        link.selective = selective;
        link.syn(hook);
        link.syn_ack(hook);
        Self {
            actions,
            link,
            isn,
            stream: Vec::new(),
            sent: 0,
            seen: Vec::new(),
            answer: Vec::new(),
            observed: Vec::new(),
            answers: 0,
            finding: ServerFinding::Nothing,
            is_lost: false,
            raw: RawTransfers::default(),
            circumstances: Circumstances {
                taken,
                number: hook
                    .flow(flow(PLAYED))
                    .and_then(|flow| Some(flow.number?.get())),
                ..Circumstances::default()
            },
            skipped_from: None,
            counted: hook.counters().session_setups,
        }
    }

    fn step(&mut self, hook: &mut Hook, input: &mut Input<'_>) {
        let step = input.u8();
        let more = usize::from(step >> 4);
        let next = self.link.next();
        match step & 0xF {
            0..=3 => self.write(step & 3, step >> 4, input),
            4 => {
                let at = self.stream.len().wrapping_sub(1 + usize::from(input.u8()));
                let byte = input.u8();
                if at >= self.sent
                    && let Some(place) = self.stream.get_mut(at)
                {
                    *place = byte;
                }
            }
            5 => {
                let from = isize::from(i8::from_le_bytes(input.array()));
                let len = usize::from(input.u8()) + 1;
                self.send(hook, next.saturating_add_signed(from), len, more);
            }
            6 => {
                let from = isize::from(i16::from_le_bytes(input.array()));
                let len = usize::from(input.u16()) + 1;
                self.send(hook, next.saturating_add_signed(from), len, more);
            }
            7 => self.send(hook, next, more + 1, 0),
            8 => self.send(hook, next, usize::MAX, more),
            9 if more >= 8 => self.control_event(more, hook, input),
            9 => self.link.ack(hook, input.u8().into()),
            10 => self.acknowledge_too_much(hook, input.u16().into()),
            11 => self.answer(step >> 4, input),
            12 => {
                let from = usize::from(input.u16());
                self.server_sends(hook, from, usize::from(input.u8()) + 1);
            }
            13 => {
                let from = self.observed.iter().position(Option::is_none);
                let from = from.unwrap_or(self.observed.len());
                let len = if more == 0 { usize::MAX } else { more };
                self.server_sends(hook, from, len);
            }
            14 => self.reopen(hook, more & 1 == 1, input.u32()),
            _ => self.send(hook, usize::from(input.u16()), more * 16 + 1, more),
        }
    }

    /// An event other than data, which must not change how data is rewritten.
    fn control_event(&mut self, what: usize, hook: &mut Hook, input: &mut Input<'_>) {
        match what {
            8 => {
                let fin = Segment {
                    fin: true,
                    ..segment(self.link.seq(self.stream.len()), None)
                };
                self.client_sends(hook, &fin, &[]);
            }
            9 => {
                let rst = Segment {
                    rst: true,
                    ..segment(SeqNumber(input.u32()), None)
                };
                let len = input.u8();
                self.client_sends(hook, &rst, input.bytes(len.into()));
            }
            // A SYN that the server does not answer with a SYN.
            10 => {
                let syn = Segment {
                    syn: true,
                    ..segment(SeqNumber(input.u32()), None)
                };
                let len = input.u8();
                let mut payload = input.bytes(len.into()).to_vec();
                let expected = match (self.actions.mode, payload.is_empty()) {
                    (Mode::Assign, false) => Verdict::Drop,
                    _ => Verdict::Pass,
                };
                assert_eq!(self.link.client(hook, &syn, &mut payload), expected);
            }
            11 => {
                let fin = Segment {
                    fin: true,
                    ..self.link.server_segment(self.answer.len())
                };
                self.link.server(hook, &fin, &mut []);
            }
            12 => {
                let rst = Segment {
                    rst: true,
                    ..segment(SeqNumber(input.u32()), Some(SeqNumber(input.u32())))
                };
                let len = input.u8();
                let mut payload = input.bytes(len.into()).to_vec();
                self.link.server(hook, &rst, &mut payload);
            }
            13 => {
                let before = hook.counters().session_setups;
                let number = self.actions.log_on(hook, input.u32());
                self.circumstances.taken.extend(number);
                self.counted += hook.counters().session_setups - before;
            }
            14 => {
                let time = Duration::from_millis(50) * u32::from(input.u8());
                if self.has_gap() {
                    return;
                }
                self.actions.wait(hook, time);
                self.link.now = self.actions.now;
            }
            _ => {
                let ack = segment(
                    self.link.seq(self.stream.len()),
                    Some(SeqNumber(input.u32())),
                );
                self.client_sends(hook, &ack, &[]);
            }
        }
    }

    /// Whether bytes are missing that the hook needs to read on. It waits for them 30 seconds and
    /// then forgets the later ones, which the oracle does not know. A client's are sent again
    /// where the hook has held them.
    fn has_gap(&self) -> bool {
        let missing = self.observed.iter().position(Option::is_none);
        let is_held = self.actions.mode == Mode::Assign;
        missing.is_some_and(|at| self.observed[at..].iter().any(Option::is_some))
            || (!is_held && self.link.next() < self.link.reached())
    }

    /// Sends a segment of the client that carries no part of its stream.
    fn client_sends(&self, hook: &mut Hook, segment: &Segment, payload: &[u8]) {
        let mut bytes = payload.to_vec();
        let verdict = self.link.client(hook, segment, &mut bytes);
        assert_eq!((verdict, &bytes[..]), (Verdict::Pass, payload));
    }

    /// Appends a message to the client's stream.
    fn write(&mut self, kind: u8, more: u8, input: &mut Input<'_>) {
        let bytes = payloads::by_client(kind, more, input);
        if self.stream.len() + bytes.len() <= MAX_STREAM_LEN {
            self.stream.extend(bytes);
        }
    }

    /// Appends a message to the server's stream.
    fn answer(&mut self, kind: u8, input: &mut Input<'_>) {
        let bytes = payloads::by_server(kind, input);
        if self.answer.len() + bytes.len() <= MAX_RESPONSES_LEN {
            self.answer.extend(bytes);
            self.observed.resize(self.answer.len(), None);
        }
    }

    /// Sends a part of the client's stream.
    fn send(&mut self, hook: &mut Hook, from: usize, len: usize, cut: usize) {
        let from = from.min(self.stream.len());
        let end = from.saturating_add(len).min(self.stream.len());
        if from == end {
            return;
        }
        let is_next = from <= self.link.next();
        self.sent = self.sent.max(end);
        self.seen.resize(self.sent, false);
        self.seen[from..end].fill(true);
        let verdict = self.link.send(hook, &self.stream, from..end, cut);
        let may_be_held = self.actions.mode == Mode::Assign && !is_next;
        let aborted = hook.counters().aborted > 0;
        assert!(
            verdict == Verdict::Pass || may_be_held || aborted,
            "the next segment for the server must pass"
        );
    }

    /// Sends a part of the server's stream.
    fn server_sends(&mut self, hook: &mut Hook, from: usize, len: usize) {
        let from = from.min(self.answer.len());
        let end = from.saturating_add(len).min(self.answer.len());
        if from == end || self.answers == MAX_RESPONSE_SEGMENTS {
            return;
        }
        self.answers += 1;
        let bytes = &self.answer[from..end];
        for (observed, byte) in self.observed[from..end].iter_mut().zip(bytes) {
            *observed = Some(*byte);
        }
        let reached = self.link.reached();
        let next = self.link.next();
        let is_aborted = hook.counters().aborted > 0;
        let is_observed = !self.is_lost && !is_aborted && self.bypass(hook).is_none();
        if is_observed {
            let requests = rewrite(&self.stream[..next], &self.circumstances).raw_requests;
            self.raw.add_requests(&requests);
            self.raw.on_server_data(self.link.acknowledged(), from);
        }
        self.link
            .server_sends_at(hook, from, &self.answer[from..end]);
        if !is_observed || self.raw.exceeds_limit() {
            return;
        }
        let view = read_server_stream(&self.observed, self.raw.reads());
        let answers = self.raw.on_responses(&view, self.link.acknowledged());
        for (request, accepted) in answers {
            self.circumstances
                .raw_answers
                .insert(request, (next, accepted));
        }
        self.is_lost = view.is_lost;
        if self.finding == ServerFinding::Nothing {
            match view.finding {
                ServerFinding::Nothing => {}
                ServerFinding::Verifies => self.circumstances.verifies_from = reached,
                ServerFinding::Upgraded => self.circumstances.bypassed_from = reached,
            }
        }
        self.finding = view.finding;
        let upgraded = self.finding == ServerFinding::Upgraded;
        assert_eq!(self.bypass(hook) == Some(Reason::Smb2), upgraded);
    }

    /// The server acknowledges bytes that the hook did not see.
    fn acknowledge_too_much(&mut self, hook: &mut Hook, beyond: usize) {
        let reached = self.link.reached();
        let was_bypassed = self.bypass(hook).is_some();
        self.link.ack_to(hook, reached + beyond);
        if !was_bypassed && self.bypass(hook) == Some(Reason::Missed) {
            self.skipped_from = Some(reached);
        }
    }

    /// Opens another connection between the same ports, in the same flow of the NAT or in a new
    /// one.
    fn reopen(&mut self, hook: &mut Hook, close: bool, isn: u32) {
        self.finish(hook);
        if close {
            hook.close(self.link.id);
        }
        let isn = if isn == self.isn { !isn } else { isn };
        let taken = std::mem::take(&mut self.circumstances.taken);
        *self = Self::open(hook, self.link.selective, self.actions, taken, isn);
    }

    fn audit(&mut self, hook: &mut Hook) {
        self.actions.audit(hook, &self.link, &self.seen);
    }

    /// Closes the flow.
    fn end(mut self, hook: &mut Hook) {
        hook.close(self.link.id);
        self.actions.end(hook, &self.link, &self.seen);
    }

    /// Retransmits until the whole stream has arrived, then compares it with the oracle's.
    fn finish(&mut self, hook: &mut Hook) {
        while self.link.next() < self.stream.len() && hook.counters().aborted == 0 {
            self.send(hook, self.link.next(), usize::MAX, 0);
        }
        self.audit(hook);
        let bypass = self.bypass(hook);
        if hook.counters().aborted > 0 || self.raw.exceeds_limit() {
            return;
        }
        let mut expected = rewrite(&self.stream, &self.circumstances);
        // The stream does not show how the server reads such a length.
        if expected.is_ambiguous && bypass == Some(Reason::Framing) {
            return;
        }
        let untouched_from = match self.actions.mode {
            Mode::Assign => self.skipped_from.unwrap_or(self.stream.len()),
            Mode::Observe | Mode::Off => 0,
        };
        expected.bytes[untouched_from..].copy_from_slice(&self.stream[untouched_from..]);
        let received = self.link.received();
        let differs = (0..received.len()).find(|at| received[*at] != expected.bytes[*at]);
        assert_eq!(differs, None, "first byte that differs from the oracle's");
        if !matches!(
            bypass,
            Some(Reason::Smb2 | Reason::Missed | Reason::Disorder)
        ) {
            let counted = hook.counters().session_setups - self.counted;
            assert_eq!(counted, expected.requested.len() as u64);
            assert_eq!(bypass.is_some(), expected.unsupported_at.is_some());
        }
    }

    fn bypass(&self, hook: &Hook) -> Option<Reason> {
        hook.flow(self.link.id).and_then(|flow| flow.bypass)
    }
}
