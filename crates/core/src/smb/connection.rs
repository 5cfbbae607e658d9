//! One TCP connection to a file server: it finds the messages, decides on each session setup, and
//! remembers the changes. It never sends a packet.

use super::identity::FlowIdentity;
use super::numbers::VcNumber;
use super::patches::{Full, PatchSnapshot, Patches};
use super::raw::{Answer, RawWrites};
use super::reply::DupAckGenerator;
use super::report::Reason;
use super::server::{Server, Upgraded};
use super::transcript::{KeptRun, Transcript};
use super::{Mode, Segment, Shared, Verdict};
use crate::tcp_stream::position::Position;
use crate::tcp_stream::reorder::{Holder, MemoryBudget, ReorderBuffer};
use crate::tcp_stream::scan::{Found, Scanner, UnsupportedStream};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use vcgate_wire::packet::Payload;
use vcgate_wire::smb1::{self, command};
use vcgate_wire::tcp::SeqNumber;

/// Maximum number of out-of-order bytes of a client that are buffered.
const MAX_BUFFERED: usize = 256 << 10;

/// The initial sequence numbers of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InitialSeqs {
    pub client: SeqNumber,
    pub server: SeqNumber,
}

/// Both sides of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub isns: InitialSeqs,
    pub patches: Patches,
    /// Used in [`Mode::Assign`] only.
    pub transcript: Transcript,
    /// The client's out-of-order segments: packets in [`Mode::Assign`], copies of payloads in
    /// [`Mode::Observe`].
    pub early: ReorderBuffer,
    pub duplicates: DupAckGenerator,
    pub server: Server,
    /// The time by which missing bytes must arrive.
    pub waiting: Option<Waiting>,
    pub raw_writes: RawWrites,
    scanner: Scanner,
    /// The server's next sequence number; `None` if its SYN was not seen.
    server_next: Option<SeqNumber>,
    /// A session setup of which only the first byte of the number has arrived.
    pub setup: Option<Setup>,
    /// Whether the client has sent VcNumber 0.
    pub has_reconnected: bool,
    /// Set if the connection was imported after a crash.
    resumed: Option<Resumed>,
}

/// The import of a connection from a journal that may end before the last bytes that have passed.
#[derive(Debug, Clone, Copy)]
struct Resumed {
    /// Bytes before this position may have passed already.
    at: Position,
    /// Whether the client has continued there, so that the hook has missed nothing.
    is_confirmed: bool,
}

/// A connection between two messages, or one that is no longer read. All positions are sequence
/// numbers of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConnectionSnapshot {
    isns: InitialSeqs,
    selective: bool,
    has_reconnected: bool,
    /// The beginning of the next message.
    need: SeqNumber,
    /// The ends of the forwarded and of the acknowledged bytes.
    passed: SeqNumber,
    acknowledged: SeqNumber,
    patches: Vec<PatchSnapshot>,
    #[serde(default)]
    transcript: Vec<KeptRun>,
}

impl ConnectionSnapshot {
    /// Returns the parts of which the journal has each change.
    pub(super) fn durable(&self) -> Self {
        let (passed, acknowledged) = (self.need, self.need);
        Self {
            passed,
            acknowledged,
            ..self.clone()
        }
    }

    /// Whether no data has passed.
    pub(super) fn is_untouched(&self) -> bool {
        let start = self.isns.client.plus(1);
        [self.need, self.passed, self.acknowledged] == [start; 3] && self.patches.is_empty()
    }
}

/// The first missing bytes in the client's and the server's direction.
type Gaps = (Option<Position>, Option<Position>);

/// The time by which one of the gaps must be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub due: Instant,
    gaps: Gaps,
}

/// The reason for which a connection cannot be followed any further.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It passes unread from now on.
    Bypass(Reason),
    /// It must be reset: a retransmitted session setup could not be rewritten.
    Abort,
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Bypass(reason)
    }
}

impl From<Full> for Stop {
    fn from(Full: Full) -> Self {
        Self::Abort
    }
}

/// A session setup, up to the first byte of its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub words: u8,
    pub signed: bool,
    pub decision: Decision,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Decision {
    Number(VcNumber),
    Signed,
    Observe,
    Unread(Reason),
}

impl Connection {
    /// Creates a connection; `selective` if both ends support SACK.
    pub(super) fn new(isns: InitialSeqs, selective: bool, holder: Holder) -> Self {
        let start = Position::after_syn(isns.client);
        Self {
            isns,
            patches: Patches::default(),
            transcript: Transcript::default(),
            early: ReorderBuffer::held_by(holder, MAX_BUFFERED),
            duplicates: DupAckGenerator::new(start, selective),
            server: Server::new(isns.server, holder),
            waiting: None,
            raw_writes: RawWrites::default(),
            scanner: Scanner::new(start, stops),
            server_next: Some(isns.server.plus(1)),
            setup: None,
            has_reconnected: false,
            resumed: None,
        }
    }

    /// Exports the connection; one that is read only between two messages.
    pub(super) fn keep(&self, is_read: bool) -> Option<ConnectionSnapshot> {
        let (passed, acknowledged) = self.duplicates.reached();
        (!is_read || self.is_between()).then(|| ConnectionSnapshot {
            isns: self.isns,
            selective: self.duplicates.selective,
            has_reconnected: self.has_reconnected,
            need: self.need().seq(),
            passed: passed.seq(),
            acknowledged: acknowledged.seq(),
            patches: self.patches.keep(self.need()),
            transcript: self.transcript.keep(),
        })
    }

    /// Whether the position of the next message is all that a later hook needs. It does not follow the
    /// server.
    fn is_between(&self) -> bool {
        self.scanner.is_between() && !self.raw_writes.is_expected() && !self.scanner.is_ambiguous()
    }

    /// Exports a connection while packets flow, and whether it can be read on after a crash: between
    /// two messages. Otherwise these are the patches that the server has not acknowledged, if any.
    pub(super) fn keep_running(&self, is_read: bool) -> (Option<ConnectionSnapshot>, bool) {
        let snapshot = |need: Position, passed: Position, acknowledged: Position, patches| {
            ConnectionSnapshot {
                isns: self.isns,
                selective: self.duplicates.selective,
                has_reconnected: self.has_reconnected,
                need: need.seq(),
                passed: passed.seq(),
                acknowledged: acknowledged.seq(),
                patches,
                transcript: Vec::new(),
            }
        };
        let open = self.patches.keep_unacknowledged();
        if is_read && self.is_between() {
            let (passed, acknowledged) = self.duplicates.reached();
            let patches = open.map_or_else(Vec::new, |(_, patches)| patches);
            let kept = snapshot(self.need(), passed, acknowledged, patches);
            return (Some(kept), true);
        }
        let kept = open.and_then(|(end, patches)| {
            let first = end.near(patches.first()?.at());
            Some(snapshot(end, end, first, patches))
        });
        (kept, false)
    }

    /// Imports a connection.
    pub(super) fn restore(kept: &ConnectionSnapshot, holder: Holder) -> Self {
        if kept.is_untouched() {
            return Self::new(kept.isns, kept.selective, holder);
        }
        let need = Position::at(kept.need);
        let acknowledged = need.near(kept.acknowledged);
        let mut duplicates = DupAckGenerator::new(acknowledged, kept.selective);
        duplicates.passed(need.near(kept.passed));
        let mut patches = Patches::restore(&kept.patches, need);
        patches.acknowledge(acknowledged.min(need));
        Self {
            isns: kept.isns,
            patches,
            transcript: Transcript::restore(&kept.transcript, need),
            early: ReorderBuffer::held_by(holder, MAX_BUFFERED),
            duplicates,
            server: Server::lost(),
            waiting: None,
            raw_writes: RawWrites::default(),
            scanner: Scanner::new(need, stops),
            server_next: None,
            setup: None,
            has_reconnected: kept.has_reconnected,
            resumed: None,
        }
    }

    /// Imports a connection from the journal of a process that was killed.
    pub(super) fn resume(kept: &ConnectionSnapshot, holder: Holder) -> Self {
        let mut connection = Self::restore(kept, holder);
        // Bytes of the server may have passed that the journal does not contain.
        connection.server = Server::lost();
        connection.server_next = None;
        connection.resumed = Some(Resumed {
            at: connection.need(),
            is_confirmed: false,
        });
        connection
    }

    /// Whether a segment of the client shows that bytes have passed which the hook has not read.
    pub(super) fn has_missed(&self, segment: &Segment) -> bool {
        let is_unconfirmed = self.resumed.is_some_and(|resumed| !resumed.is_confirmed);
        is_unconfirmed && self.to_stream_offset(segment.seq) > self.need()
    }

    /// Whether a segment may contain bytes that passed before the crash, of which other copies than the
    /// first may come.
    pub(super) fn is_from_before(&self, segment: &Segment) -> bool {
        let start = self.to_stream_offset(segment.seq);
        self.resumed.is_some_and(|resumed| start < resumed.at)
    }

    /// Whether it was imported, in which case the beginning of the server's direction is unknown.
    pub(super) fn is_restored(&self) -> bool {
        self.server_next.is_none()
    }

    /// Converts a sequence number of the client to a position in its stream.
    pub(super) fn to_stream_offset(&self, seq: SeqNumber) -> Position {
        self.scanner.need().near(seq)
    }

    /// Returns the position of the next byte to read. All bytes before it may pass.
    pub(super) fn need(&self) -> Position {
        self.scanner.need()
    }

    /// Whether the server may accept a segment with data: it must have an acknowledgement number,
    /// and none that the server has not sent yet (RFC 9293 section 3.10.7.4).
    pub(super) fn is_valid(&self, segment: &Segment) -> bool {
        segment.ack.is_some_and(|ack| {
            let beyond = |next| ack.is_after(next);
            !self.server_next.is_some_and(beyond)
        })
    }

    /// Notes the end of a segment of the server. `len` counts its FIN.
    pub(super) fn server_sent(&mut self, segment: &Segment, len: usize) {
        let end = segment.seq.plus(len as u32);
        if let Some(next) = &mut self.server_next
            && end.is_after(*next)
        {
            *next = end;
        }
    }

    /// Reads the new bytes of a client's segment and decides whether it may pass.
    pub(super) fn client(
        &mut self,
        segment: &Segment,
        payload: &Payload<'_>,
        owner: &mut FlowIdentity,
        shared: &mut Shared,
    ) -> Result<Verdict, Stop> {
        let start = self.to_stream_offset(segment.seq);
        if start.plus(payload.len()) <= self.need() {
            return Ok(Verdict::Pass);
        }
        if self.transcript.is_full() {
            shared.counters.held_dropped += 1;
            return Ok(Verdict::Drop);
        }
        if start <= self.need() {
            self.read(start, payload, owner, shared)?;
            if shared.mode == Mode::Observe {
                self.read_copies(owner, shared)?;
            }
            self.check_lengths()?;
            return Ok(Verdict::Pass);
        }
        if shared.mode == Mode::Assign {
            return Ok(Verdict::Hold);
        }
        if self.early.copy(start, payload, &mut shared.budget) {
            Ok(Verdict::Pass)
        } else {
            Err(Reason::Disorder.into())
        }
    }

    /// Notes an acknowledgement of the server.
    pub(super) fn acknowledged(&mut self, ack: SeqNumber) -> Result<(), Reason> {
        let ack = self.to_stream_offset(ack);
        self.duplicates.acknowledged(ack);
        // A FIN takes one number.
        if ack > self.need().plus(1) {
            self.patches.acknowledge(ack);
            self.transcript.acknowledge(ack);
            return Err(Reason::Missed);
        }
        // The FIN's number is not that of a byte.
        let ack = ack.min(self.need());
        if self.resumed.is_some_and(|r| r.is_confirmed && r.at <= ack) {
            self.resumed = None;
        }
        self.patches.acknowledge(ack);
        self.transcript.acknowledge(ack);
        Ok(())
    }

    /// Reads a segment of the server.
    pub(super) fn answer(
        &mut self,
        segment: &Segment,
        payload: &Payload<'_>,
        budget: &mut MemoryBudget,
    ) -> Result<(), Reason> {
        let acknowledged = segment.ack.map(|ack| self.to_stream_offset(ack));
        self.server
            .read(
                segment.seq,
                acknowledged,
                payload,
                &mut self.raw_writes,
                budget,
            )
            .map_err(|Upgraded| Reason::Smb2)?;
        self.check_lengths()
    }

    /// Detects a server that reads a length in another way than the hook: it answers session
    /// setups that the hook has not seen.
    fn check_lengths(&self) -> Result<(), Reason> {
        match self.scanner.is_ambiguous() && !self.server.shows_all_logons() {
            true => Err(Reason::Framing),
            false => Ok(()),
        }
    }

    /// Whether the client has sent a length of 24 bits that the server has not allowed.
    pub(super) fn has_unexpected_length(&self) -> bool {
        self.scanner.is_ambiguous() && !self.server.allows_extensions()
    }

    /// Whether the server has allowed encrypted messages.
    pub(super) fn may_be_encrypted(&self) -> bool {
        self.server.allows_extensions()
    }

    /// Stops reading the server's direction.
    pub(super) fn stop_server(&mut self, budget: &mut MemoryBudget) {
        self.server.stop(budget);
    }

    /// Returns the first missing bytes of both directions, if later ones are buffered.
    fn gaps(&self) -> Gaps {
        let client = (!self.early.is_empty()).then(|| self.need());
        (client, self.server.waits_at())
    }

    /// Sets a deadline for missing bytes, if there are any and have none yet, and returns it.
    pub(super) fn wait(&mut self, due: Instant) -> Option<Instant> {
        if self.waiting.is_some() {
            return None;
        }
        let gaps = self.gaps();
        if gaps == (None, None) {
            return None;
        }
        self.waiting = Some(Waiting { due, gaps });
        Some(due)
    }

    /// Drops segments that still wait for the same bytes at the deadline. TCP retransmits those of
    /// the client; the server's direction is no longer read.
    pub(super) fn expire(&mut self, budget: &mut MemoryBudget) {
        let Some(Waiting { gaps, .. }) = self.waiting.take() else {
            return;
        };
        let (client, server) = self.gaps();
        if client.is_some() && client == gaps.0 {
            self.early.clear(budget);
            self.duplicates.dropped();
        }
        if server.is_some() && server == gaps.1 {
            self.server.stop(budget);
        }
    }

    /// Returns all buffered bytes to the budget.
    pub(super) fn clear(&mut self, budget: &mut MemoryBudget) {
        self.early.clear(budget);
        self.server.stop(budget);
    }

    fn read_copies(&mut self, owner: &mut FlowIdentity, shared: &mut Shared) -> Result<(), Stop> {
        while let Some((start, mut bytes)) = self.early.take(self.need(), &mut shared.budget) {
            self.read(start, &Payload::new(&mut bytes), owner, shared)?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        start: Position,
        payload: &Payload<'_>,
        owner: &mut FlowIdentity,
        shared: &mut Shared,
    ) -> Result<(), Stop> {
        let is_changed = shared.mode == Mode::Assign;
        // The position of the next message is in the journal.
        owner.note_change(shared);
        if let Some(resumed) = &mut self.resumed {
            resumed.is_confirmed = true;
        }
        loop {
            let record = |at, bytes: &[u8]| {
                if is_changed {
                    self.transcript.record(at, bytes);
                }
            };
            let raw = |_| self.raw_writes.begin();
            let found = self.scanner.next_recorded(start, payload, raw, record);
            let Some(found) = found else {
                return Ok(());
            };
            match found {
                Found::Block(b) if b.raw && self.raw_writes.answer() == Answer::Accepted => {}
                Found::Block(b) if b.command == command::SESSION_SETUP_ANDX => {
                    match b.block().vc_number() {
                        None => {
                            self.note_logon(&b, start, payload);
                            self.decide(&b, owner, shared)?;
                        }
                        Some(asked) => self.report_logon(asked, owner, shared),
                    }
                }
                Found::Block(b) if !matches!(b.command, command::READ_RAW | command::WRITE_RAW) => {
                }
                // Raw data may follow only if this message is not raw data itself.
                Found::Block(b) if b.raw && self.raw_writes.answer() == Answer::Unknown => {
                    return Err(Stop::Bypass(Reason::RawData));
                }
                Found::Block(b) if b.command == command::READ_RAW => self.server.raw_read(b.end),
                Found::Block(b) => self.raw_writes.request(b.header.mid(), b.end),
                Found::BadChain => shared.counters.bad_chains += 1,
                // The server decides on the protocol. Until then, SMB1 may follow.
                Found::Smb2 => {}
                Found::UnsupportedStream(foreign) => {
                    return Err(Stop::Bypass(match foreign {
                        UnsupportedStream::Framing => Reason::Framing,
                        UnsupportedStream::Protocol => Reason::Protocol,
                        UnsupportedStream::Encrypted => Reason::Encrypted,
                    }));
                }
            }
        }
    }
}

/// The client's [`ParsePoints`](crate::tcp_stream::scan::ParsePoints). A session setup is reported
/// at the first byte of its number, and again at the second.
fn stops(command: u8) -> &'static [usize] {
    match command {
        command::SESSION_SETUP_ANDX => &[smb1::VC_NUMBER.start + 1, smb1::VC_NUMBER.end],
        command::READ_RAW | command::WRITE_RAW => &[smb1::WORD_COUNT_LEN],
        other if command::is_andx(other) => &[smb1::ANDX_LEN],
        _ => &[],
    }
}
