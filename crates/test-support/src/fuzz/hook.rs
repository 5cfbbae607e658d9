//! The hook against an oracle that has the whole stream. The input says what client and server
//! send, how it is cut, in what order it comes and how often, and what is acknowledged; who ends
//! the connection or begins another one; and how much time passes.

use super::action_oracle::{ActionOracle, PLAYED};
use super::input::Input;
use super::raw::Raw;
use super::said;
use crate::smb::link::{SimulatedLink, ends, flow, segment};
use crate::smb::messages::{Signature, setup};
use crate::smb::oracle::{Circumstances, Learnt, listen, rewrite};
use std::collections::BTreeSet;
use std::time::Duration;
use vcgate_core::smb::{Hook, Mode, Reason, Segment, Settings, Stale, Unreadable, Verdict};

/// A client that says no more than that, in bytes.
const LONGEST: usize = 40_000;
/// What a server says before the hook has learnt enough.
const LONGEST_ANSWER: usize = 8192;
/// Fewer segments of the server's than would be too many out of order.
const MOST_ANSWERS: usize = 100;

/// Plays the input.
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
    let company = ActionOracle::new(mode, stale);
    let selective = settings & 8 != 0;
    let mut connection = Connection::open(&mut hook, selective, company, taken, input.u32());
    while !input.is_empty() {
        connection.step(&mut hook, &mut input);
        connection.audit(&mut hook);
    }
    connection.finish(&mut hook);
    connection.end(&mut hook);
    assert_eq!(hook.waiting(), 0, "nothing waits for a flow that is over");
}

/// Another client's flow; returns the number that it has.
fn logged_on(hook: &mut Hook, slot: u8) -> u16 {
    let stream = setup(12, slot.into(), Signature::None);
    let mut line = SimulatedLink::open(hook, slot.into(), 0);
    let verdict = line.send(hook, &stream, 0..stream.len(), 0);
    assert_eq!(verdict, Verdict::Pass);
    slot.into()
}

/// A connection, what both sides have said, and what the oracle has to know of it.
struct Connection {
    company: ActionOracle,
    line: SimulatedLink,
    isn: u32,
    stream: Vec<u8>,
    /// Up to here the client has sent its stream, whether or not it arrived.
    sent: usize,
    /// Which of it came by.
    come: Vec<bool>,
    answer: Vec<u8>,
    /// The server's bytes that came by.
    heard: Vec<Option<u8>>,
    answers: usize,
    learnt: Learnt,
    /// The server's words are lost to the hook.
    is_lost: bool,
    raw: Raw,
    met: Circumstances,
    /// From here on the server has acknowledged what did not come by: what comes by later is
    /// nothing to it, and goes through as it is.
    missed_from: Option<usize>,
    /// Session setups that were counted before.
    counted: u64,
}

impl Connection {
    fn open(
        hook: &mut Hook,
        selective: bool,
        company: ActionOracle,
        taken: BTreeSet<u16>,
        isn: u32,
    ) -> Self {
        let mut line = SimulatedLink::new(flow(PLAYED), ends(PLAYED), isn);
        line.now = company.now;
        line.selective = selective;
        line.syn(hook);
        line.syn_ack(hook);
        Self {
            company,
            line,
            isn,
            stream: Vec::new(),
            sent: 0,
            come: Vec::new(),
            answer: Vec::new(),
            heard: Vec::new(),
            answers: 0,
            learnt: Learnt::Nothing,
            is_lost: false,
            raw: Raw::default(),
            met: Circumstances {
                taken,
                number: hook.flow(flow(PLAYED)).and_then(|flow| flow.number),
                ..Circumstances::default()
            },
            missed_from: None,
            counted: hook.counters().session_setups,
        }
    }

    fn step(&mut self, hook: &mut Hook, input: &mut Input<'_>) {
        let step = input.u8();
        let more = usize::from(step >> 4);
        let next = self.line.next();
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
            9 if more >= 8 => self.happen(more, hook, input),
            9 => self.line.ack(hook, input.u8().into()),
            10 => self.acknowledge_too_much(hook, input.u16().into()),
            11 => self.answer(step >> 4, input),
            12 => {
                let from = usize::from(input.u16());
                self.say(hook, from, usize::from(input.u8()) + 1);
            }
            13 => {
                let from = self.heard.iter().position(Option::is_none);
                let from = from.unwrap_or(self.heard.len());
                let len = if more == 0 { usize::MAX } else { more };
                self.say(hook, from, len);
            }
            14 => self.reopen(hook, more & 1 == 1, input.u32()),
            _ => self.send(hook, usize::from(input.u16()), more * 16 + 1, more),
        }
    }

    /// What is no data: none of it may change what becomes of the data.
    fn happen(&mut self, what: usize, hook: &mut Hook, input: &mut Input<'_>) {
        match what {
            8 => {
                let fin = Segment {
                    fin: true,
                    ..segment(self.line.seq(self.stream.len()), None)
                };
                self.says(hook, &fin, &[]);
            }
            9 => {
                let rst = Segment {
                    rst: true,
                    ..segment(input.u32(), None)
                };
                let len = input.u8();
                self.says(hook, &rst, input.bytes(len.into()));
            }
            // A SYN that the server does not answer with one.
            10 => {
                let syn = Segment {
                    syn: true,
                    ..segment(input.u32(), None)
                };
                let len = input.u8();
                let mut text = input.bytes(len.into()).to_vec();
                let expected = match (self.company.mode, text.is_empty()) {
                    (Mode::Assign, false) => Verdict::Drop,
                    _ => Verdict::Pass,
                };
                assert_eq!(self.line.client(hook, &syn, &mut text), expected);
            }
            11 => {
                let fin = Segment {
                    fin: true,
                    ..self.line.saying(self.answer.len())
                };
                self.line.server(hook, &fin, &mut []);
            }
            12 => {
                let rst = Segment {
                    rst: true,
                    ..segment(input.u32(), Some(input.u32()))
                };
                let len = input.u8();
                let mut text = input.bytes(len.into()).to_vec();
                self.line.server(hook, &rst, &mut text);
            }
            13 => {
                let before = hook.counters().session_setups;
                let number = self.company.log_on(hook, input.u32());
                self.met.taken.extend(number);
                self.counted += hook.counters().session_setups - before;
            }
            14 => {
                let time = Duration::from_millis(50) * u32::from(input.u8());
                self.company.wait(hook, time);
                self.line.now = self.company.now;
            }
            _ => {
                let ack = segment(self.line.seq(self.stream.len()), Some(input.u32()));
                self.says(hook, &ack, &[]);
            }
        }
    }

    /// A segment of the client's that has no part of its stream.
    fn says(&self, hook: &mut Hook, segment: &Segment, text: &[u8]) {
        let mut bytes = text.to_vec();
        let verdict = self.line.client(hook, segment, &mut bytes);
        assert_eq!((verdict, &bytes[..]), (Verdict::Pass, text));
    }

    /// The client has something to say.
    fn write(&mut self, kind: u8, more: u8, input: &mut Input<'_>) {
        let bytes = said::by_client(kind, more, input);
        if self.stream.len() + bytes.len() <= LONGEST {
            self.stream.extend(bytes);
        }
    }

    /// The server has something to say.
    fn answer(&mut self, kind: u8, input: &mut Input<'_>) {
        let bytes = said::by_server(kind, input);
        if self.answer.len() + bytes.len() <= LONGEST_ANSWER {
            self.answer.extend(bytes);
            self.heard.resize(self.answer.len(), None);
        }
    }

    /// A part of the client's stream comes by.
    fn send(&mut self, hook: &mut Hook, from: usize, len: usize, cut: usize) {
        let from = from.min(self.stream.len());
        let end = from.saturating_add(len).min(self.stream.len());
        if from == end {
            return;
        }
        let waited_for = from <= self.line.next();
        self.sent = self.sent.max(end);
        self.come.resize(self.sent, false);
        self.come[from..end].fill(true);
        let verdict = self.line.send(hook, &self.stream, from..end, cut);
        let may_wait = self.company.mode == Mode::Assign && !waited_for;
        let aborted = hook.counters().aborted > 0;
        assert!(
            verdict == Verdict::Pass || may_wait || aborted,
            "what the server waits for must pass"
        );
    }

    /// A part of the server's stream comes by.
    fn say(&mut self, hook: &mut Hook, from: usize, len: usize) {
        let from = from.min(self.answer.len());
        let end = from.saturating_add(len).min(self.answer.len());
        if from == end || self.answers == MOST_ANSWERS {
            return;
        }
        self.answers += 1;
        let bytes = &self.answer[from..end];
        for (heard, byte) in self.heard[from..end].iter_mut().zip(bytes) {
            *heard = Some(*byte);
        }
        let reached = self.line.reached();
        let next = self.line.next();
        let is_heard = !self.is_lost && self.bypass(hook).is_none();
        if is_heard {
            let requests = rewrite(&self.stream[..next], &self.met).raw_requests;
            self.raw.requested(&requests);
            self.raw.say(self.line.acknowledged(), from);
        }
        self.line.say_at(hook, from, &self.answer[from..end]);
        if !is_heard {
            return;
        }
        let said = listen(&self.heard, self.raw.reads());
        let answers = self.raw.heard(&said, self.line.acknowledged());
        for (request, accepted) in answers {
            self.met.raw_answers.insert(request, (next, accepted));
        }
        self.is_lost = said.is_lost;
        if self.learnt == Learnt::Nothing {
            match said.learnt {
                Learnt::Nothing => {}
                Learnt::Verifies => self.met.verifies_from = reached,
                Learnt::Upgraded => self.met.bypassed_from = reached,
            }
        }
        self.learnt = said.learnt;
        let upgraded = self.learnt == Learnt::Upgraded;
        assert_eq!(self.bypass(hook) == Some(Reason::Smb2), upgraded);
    }

    /// The server says that it has what did not come by.
    fn acknowledge_too_much(&mut self, hook: &mut Hook, beyond: usize) {
        let reached = self.line.reached();
        let was_bypassed = self.bypass(hook).is_some();
        self.line.ack_to(hook, reached + beyond);
        if !was_bypassed && self.bypass(hook) == Some(Reason::Missed) {
            self.missed_from = Some(reached);
        }
    }

    /// The client begins another connection with the same ports, which for the NAT is the same
    /// flow or another one.
    fn reopen(&mut self, hook: &mut Hook, close: bool, isn: u32) {
        self.finish(hook);
        if close {
            hook.close(self.line.id);
        }
        let isn = if isn == self.isn { !isn } else { isn };
        let taken = std::mem::take(&mut self.met.taken);
        *self = Self::open(hook, self.line.selective, self.company, taken, isn);
    }

    fn audit(&mut self, hook: &mut Hook) {
        self.company.audit(hook, &self.line, &self.come);
    }

    /// The flow is over.
    fn end(mut self, hook: &mut Hook) {
        hook.close(self.line.id);
        self.company.end(hook, &self.line, &self.come);
    }

    /// The client sends what has not arrived, until all has; then the server must have got what
    /// the oracle says.
    fn finish(&mut self, hook: &mut Hook) {
        while self.line.next() < self.stream.len() && hook.counters().aborted == 0 {
            self.send(hook, self.line.next(), usize::MAX, 0);
        }
        self.audit(hook);
        let bypass = self.bypass(hook);
        if hook.counters().aborted > 0 || self.raw.is_too_much() {
            return;
        }
        let mut expected = rewrite(&self.stream, &self.met);
        // When the server shows that it reads a length in another way, the stream does not tell.
        if expected.is_ambiguous && bypass == Some(Reason::Framing) {
            return;
        }
        let untouched_from = match self.company.mode {
            Mode::Assign => self.missed_from.unwrap_or(self.stream.len()),
            Mode::Observe | Mode::Off => 0,
        };
        expected.bytes[untouched_from..].copy_from_slice(&self.stream[untouched_from..]);
        let received = self.line.received();
        let differs = (0..received.len()).find(|at| received[*at] != expected.bytes[*at]);
        assert_eq!(
            differs, None,
            "the first byte that is not what the oracle says"
        );
        if !matches!(
            bypass,
            Some(Reason::Smb2 | Reason::Missed | Reason::Disorder)
        ) {
            let counted = hook.counters().session_setups - self.counted;
            assert_eq!(counted, expected.asked.len() as u64);
            assert_eq!(bypass.is_some(), expected.foreign_at.is_some());
        }
    }

    fn bypass(&self, hook: &Hook) -> Option<Reason> {
        hook.flow(self.line.id).and_then(|flow| flow.bypass)
    }
}
