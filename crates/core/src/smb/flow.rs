//! One translated flow: its identity and its current connection. It decides on each segment, and
//! never builds a packet.

use super::connection::{Connection, InitialSeqs, Stop};
use super::identity::{FlowIdentity, ProbeState, RoundTrip};
use super::report::{Change, Closing, Event, FlowReport, Reason};
use super::search::Search;
use super::{Action, Ends, HeldPacket, Mode, Segment, Shared, Verdict, unread};
use crate::ids::{FlowId, PeerId};
use std::time::{Duration, Instant};
use vcgate_wire::packet::Payload;
use vcgate_wire::tcp::{SeqNumber, TcpTimestamps, is_older};

/// Maximum time that segments wait for missing bytes, which TCP retransmits after seconds (RFC 6298
/// section 2).
const HOLD_TIMEOUT: Duration = Duration::from_secs(30);

/// A SYN of a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientSyn {
    pub seq: SeqNumber,
    pub sack_permitted: bool,
}

/// The state of a flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub owner: FlowIdentity,
    /// The client's last SYN.
    pub(super) opening: Option<ClientSyn>,
    /// Present from the server's SYN until nothing of the connection can matter.
    pub(super) connection: Option<Box<Connection>>,
    pub(super) bypass: Option<Reason>,
    /// Whether the hook has reset the connection: no more of the client's data passes.
    pub(super) aborted: bool,
    /// Whether the connection was restored, so that its beginning may have been seen.
    pub(super) is_restored: bool,
    /// Whether its next data starts a probe of the same client's other flows to the server.
    pub(super) probes_others: bool,
    /// Present once a restored connection is searched.
    pub(super) search: Option<Box<Search>>,
}

impl Flow {
    pub(super) fn new(id: FlowId, ends: Ends, peer: Option<PeerId>, shared: &mut Shared) -> Self {
        let mut owner = FlowIdentity::new(id, ends, peer);
        shared.checks.add(&owner);
        owner.note_change(shared);
        shared.changes += 1;
        Self {
            owner,
            opening: None,
            connection: None,
            bypass: None,
            aborted: false,
            is_restored: false,
            probes_others: false,
            search: None,
        }
    }

    pub(super) fn id(&self) -> FlowId {
        self.owner.id
    }

    /// Reads and rewrites a segment from the client.
    pub(super) fn client(
        &mut self,
        segment: &Segment,
        payload: &mut Payload<'_>,
        now: Instant,
        shared: &mut Shared,
    ) -> Verdict {
        if !segment.syn {
            self.owner.round_trip.answered(now);
        }
        let verdict = self.inspect(segment, payload, shared);
        if verdict == Verdict::Pass
            && let Some(TcpTimestamps { value, .. }) = segment.timestamps
            && (segment.syn || self.owner.clock.is_none_or(|old| !is_older(value, old)))
        {
            self.owner.clock = Some(value);
        }
        verdict
    }

    fn inspect(
        &mut self,
        segment: &Segment,
        payload: &mut Payload<'_>,
        shared: &mut Shared,
    ) -> Verdict {
        if self.owner.watch != ProbeState::Not {
            self.owner.client_said(segment, shared);
        }
        if segment.fin || segment.rst {
            self.owner.open = false;
            self.owner.note_change(shared);
        }
        if segment.syn {
            // A server may accept or ignore data in a SYN (RFC 7413). A client without an answer
            // retransmits the SYN without data.
            if !payload.is_empty() && shared.mode == Mode::Assign {
                shared.counters.invalid_dropped += 1;
                return Verdict::Drop;
            }
            self.opening = Some(ClientSyn {
                seq: segment.seq,
                sack_permitted: segment.sack_permitted,
            });
            self.owner.note_change(shared);
            return Verdict::Pass;
        }
        // The data of a RST is not part of the stream (RFC 9293 section 3.5.2).
        if segment.rst {
            return Verdict::Pass;
        }
        if payload.is_empty() {
            return Verdict::Pass;
        }
        if self.aborted {
            return Verdict::Drop;
        }
        if std::mem::take(&mut self.probes_others) {
            shared.checks.on_continuation(&self.owner);
        }
        if self.bypass.is_none() && self.connection.is_none() {
            if self.may_not_pass(Reason::MidStream, shared) {
                return self.refuse_unknown(segment, shared);
            }
            self.owner.open = true;
            self.give_up(Reason::MidStream, shared);
        }
        if self.bypass.is_none()
            && self
                .connection
                .as_ref()
                .is_some_and(|c| c.has_missed(segment))
        {
            self.give_up(Reason::Missed, shared);
            self.drop_finished();
        }
        let Some(connection) = &mut self.connection else {
            if self.finds_zero(segment, payload, shared) {
                return self.refuse_unknown(segment, shared);
            }
            if let Some(reason) = self.bypass
                && reason != Reason::Smb2
            {
                unread::look(reason, payload, &self.owner, shared);
            }
            return Verdict::Pass;
        };
        if shared.mode == Mode::Assign {
            if self.bypass.is_none() && !connection.is_valid(segment) {
                shared.counters.invalid_dropped += 1;
                return Verdict::Drop;
            }
            let start = connection.to_stream_offset(segment.seq);
            connection.transcript.apply(start, payload);
        }
        if self.bypass.is_none() {
            match connection.client(segment, payload, &mut self.owner, shared) {
                Ok(Verdict::Pass)
                    if connection.has_unexpected_length()
                        && self.may_not_pass(Reason::Framing, shared) =>
                {
                    self.refuse(Reason::Framing, shared);
                    return Verdict::Drop;
                }
                Ok(Verdict::Pass) => {}
                Ok(other) => return other,
                Err(Stop::Bypass(reason)) if self.may_not_pass(reason, shared) => {
                    self.refuse(reason, shared);
                    return Verdict::Drop;
                }
                Err(Stop::Bypass(reason)) => self.give_up(reason, shared),
                Err(Stop::Abort) => {
                    self.abort(shared);
                    return Verdict::Drop;
                }
            }
        }
        if let Some(connection) = &mut self.connection {
            let start = connection.to_stream_offset(segment.seq);
            connection.duplicates.passed(start.plus(payload.len()));
            connection.patches.apply(start, payload);
        }
        if self.finds_zero(segment, payload, shared) {
            return self.refuse_unknown(segment, shared);
        }
        self.drop_finished();
        Verdict::Pass
    }

    /// Whether a segment, after its changes, has a session setup with VcNumber 0 that the hook could
    /// not read, since a restart has lost the positions of messages.
    fn finds_zero(&mut self, segment: &Segment, payload: &Payload<'_>, shared: &Shared) -> bool {
        if !self.is_restored || !shared.resets_unreadable() {
            return false;
        }
        let is_searched = match self.bypass {
            Some(Reason::Smb2 | Reason::Encrypted) => false,
            Some(_) => true,
            None => {
                let connection = self.connection.as_ref();
                connection.is_some_and(|c| c.is_from_before(segment))
            }
        };
        is_searched && {
            let search = self.search.get_or_insert_default();
            search.finds(segment.seq, payload)
        }
    }

    /// Whether the contents of segments may matter.
    pub(super) fn reads(&self) -> bool {
        self.bypass != Some(Reason::Smb2)
            || self.connection.is_some()
            || self.owner.watch != ProbeState::Not
    }

    /// Returns the changes in a segment of the client.
    pub(super) fn changes(&self, seq: SeqNumber, len: usize) -> impl Iterator<Item = Change> + '_ {
        let connection = self.connection.iter();
        connection.flat_map(move |c| c.patches.changes(c.to_stream_offset(seq), len))
    }

    /// Reads a segment from the server.
    pub(super) fn server(
        &mut self,
        segment: &Segment,
        payload: &Payload<'_>,
        now: Instant,
        shared: &mut Shared,
    ) {
        self.owner.reply_template.observe(segment);
        if self.owner.watch != ProbeState::Not {
            self.owner.server_said(segment, shared);
        }
        if (segment.fin || segment.rst) && self.owner.open {
            self.closed(segment, shared);
        }
        if segment.syn {
            self.accepted(segment, now, shared);
            return;
        }
        // Neither the acknowledgement of a RST nor its data need be valid (RFC 9293 section 3.5.2).
        if segment.rst {
            return;
        }
        let Some(connection) = &mut self.connection else {
            return;
        };
        if !payload.is_empty() {
            self.owner.connection_lives(shared);
        }
        connection.server_sent(segment, payload.len() + usize::from(segment.fin));
        let mut result = Ok(());
        if let Some(ack) = segment.ack {
            let unacknowledged = connection.patches.unacknowledged();
            result = connection.acknowledged(ack);
            if connection.patches.unacknowledged() != unacknowledged {
                self.owner.note_change(shared);
            }
        }
        if result.is_ok() && !payload.is_empty() {
            let is_raw_next = connection.raw_writes.is_expected();
            result = connection.answer(segment, payload, &mut shared.budget);
            if connection.raw_writes.is_expected() != is_raw_next {
                self.owner.note_change(shared);
            }
        }
        match result {
            Ok(()) => {}
            Err(reason) if self.may_not_pass(reason, shared) => self.refuse(reason, shared),
            Err(reason) => self.give_up(reason, shared),
        }
        self.wait(now, shared);
        self.acknowledge(shared);
        self.drop_finished();
    }

    /// Starts a timer for missing bytes.
    fn wait(&mut self, now: Instant, shared: &mut Shared) {
        if let Some(connection) = &mut self.connection
            && let Some(due) = connection.wait(now + HOLD_TIMEOUT)
        {
            shared.waiting.insert((due, self.owner.id));
        }
    }

    /// Handles a timer for missing bytes.
    pub(super) fn expire(&mut self, due: Instant, now: Instant, shared: &mut Shared) {
        if let Some(connection) = &mut self.connection
            && connection.waiting.is_some_and(|waiting| waiting.due == due)
        {
            connection.expire(&mut shared.budget);
            self.wait(now, shared);
            self.drop_finished();
        }
    }

    /// Buffers a packet; false if it does not fit.
    pub(super) fn hold(
        &mut self,
        segment: &Segment,
        packet: HeldPacket,
        now: Instant,
        shared: &mut Shared,
    ) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let at = connection.to_stream_offset(segment.seq);
        let held = connection.early.keep(at, packet.bytes, &mut shared.budget);
        if held {
            let (len, size) = (packet.payload_len, packet.segment_len);
            connection.duplicates.held(at, len, size);
            self.wait(now, shared);
            self.acknowledge(shared);
        }
        held
    }

    /// Returns a buffered packet that may pass now.
    pub(super) fn release(&mut self, shared: &mut Shared) -> Option<Vec<u8>> {
        let connection = self.connection.as_mut()?;
        if connection.early.is_empty() || shared.mode != Mode::Assign {
            return None;
        }
        let packet = match self.bypass {
            Some(_) => connection.early.take_any(&mut shared.budget),
            None => {
                let need = connection.need();
                connection.early.take(need, &mut shared.budget)
            }
        };
        packet.map(|(_, packet)| packet)
    }

    /// Acknowledges buffered packets to the client.
    fn acknowledge(&mut self, shared: &mut Shared) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if self.bypass.is_some() || self.owner.reply_template.window.is_none() {
            return;
        }
        let need = connection.need();
        while let Some(blocks) = connection.duplicates.next(need) {
            let action = Action::Acknowledge(self.owner.id, blocks);
            shared.actions.push_back(action);
        }
    }

    /// Ends the flow.
    pub(super) fn end(mut self, shared: &mut Shared) {
        shared.checks.remove(&self.owner);
        shared.changes += 1;
        self.owner.free_number(shared);
        if let Some(connection) = &mut self.connection {
            connection.clear(&mut shared.budget);
        }
    }

    pub(super) fn report(&self) -> FlowReport {
        FlowReport {
            ends: self.owner.ends,
            number: self.owner.own_number(),
            bypass: self.bypass,
            session_setups: self.owner.session_setups,
            zeros: self.owner.zeros,
            held: self.connection.as_ref().map_or(0, |c| c.early.len()),
        }
    }

    /// Opens the connection that the server's SYN accepts. Its acknowledgement identifies the
    /// client's SYN, which need not be the last one: that may have been lost. A server does not
    /// answer an old or forged SYN on a live connection with a SYN (RFC 5961 section 4).
    fn accepted(&mut self, segment: &Segment, now: Instant, shared: &mut Shared) {
        let (Some(last), Some(ack)) = (self.opening, segment.ack) else {
            return;
        };
        let isns = InitialSeqs {
            client: ack.previous(),
            server: segment.seq,
        };
        let selective = isns.client == last.seq && last.sack_permitted && segment.sack_permitted;
        let known = self.connection.as_ref().map(|c| c.isns);
        let is_pending = known.is_none_or(|known| known.client != last.seq);
        if known == Some(isns) || (isns.client != last.seq && !is_pending) {
            return;
        }
        if let Some(old) = &mut self.connection {
            old.clear(&mut shared.budget);
        }
        self.opening = Some(ClientSyn {
            seq: isns.client,
            sack_permitted: selective,
        });
        self.owner.connection_lives(shared);
        self.connection = Some(Box::new(Connection::new(
            isns,
            selective,
            self.owner.holder,
        )));
        self.owner.open = true;
        self.owner.round_trip = RoundTrip::Since(now);
        self.owner.watch = ProbeState::Not;
        self.bypass = None;
        self.aborted = false;
        self.is_restored = false;
        self.search = None;
        self.owner.note_change(shared);
    }

    /// Reports that the server has closed the connection before the client did.
    fn closed(&mut self, segment: &Segment, shared: &mut Shared) {
        self.owner.open = false;
        self.owner.note_change(shared);
        let event = Event::Closed {
            flow: self.owner.id,
            ends: self.owner.ends,
            how: match segment.rst {
                true => Closing::Rst,
                false => Closing::Fin,
            },
            cause: None,
        };
        shared.events.push(event, &mut shared.counters);
    }

    /// Resets a connection with more session setups than could be rewritten in retransmissions.
    fn abort(&mut self, shared: &mut Shared) {
        shared.counters.aborted += 1;
        let (flow, ends) = (self.owner.id, self.owner.ends);
        let event = Event::Aborted { flow, ends };
        shared.events.push(event, &mut shared.counters);
        self.reset(shared);
    }

    /// Whether the settings forbid that the stream passes unread. No client sends such a stream by
    /// itself, except one of the UNIX extensions, which encrypt after a logon. A connection whose
    /// beginning was not seen is one that the NAT has forgotten, and a client can arrange that: it
    /// sends a RST that the server does not accept (RFC 5961 section 3.2), or nothing for long
    /// enough.
    ///
    /// A logon proves nothing, since servers accept anonymous ones.
    fn may_not_pass(&self, reason: Reason, shared: &Shared) -> bool {
        shared.resets_unreadable()
            && !self.is_restored
            && match reason {
                Reason::MidStream | Reason::Framing | Reason::Protocol | Reason::RawData => true,
                Reason::Encrypted => {
                    let connection = self.connection.as_ref();
                    !connection.is_some_and(|c| c.may_be_encrypted())
                }
                Reason::Smb2 | Reason::Missed | Reason::Disorder => false,
            }
    }

    /// Resets a connection of which the NAT may not know the sequence numbers either.
    fn refuse_unknown(&mut self, segment: &Segment, shared: &mut Shared) -> Verdict {
        self.refuse(Reason::MidStream, shared);
        let reset = Action::ResetServer(self.owner.id, segment.seq);
        shared.actions.push_back(reset);
        Verdict::Drop
    }

    /// Resets a connection whose stream may not pass unread.
    fn refuse(&mut self, reason: Reason, shared: &mut Shared) {
        shared.counters.unreadable_reset += 1;
        let event = Event::Unreadable {
            flow: self.owner.id,
            ends: self.owner.ends,
            reason,
        };
        shared.events.push(event, &mut shared.counters);
        self.reset(shared);
    }

    /// Resets the connection at both ends. Its patches are no longer needed, since no data passes.
    fn reset(&mut self, shared: &mut Shared) {
        self.aborted = true;
        if let Some(mut connection) = self.connection.take() {
            connection.clear(&mut shared.budget);
        }
        self.owner.reset_both_ends(shared);
    }

    fn give_up(&mut self, reason: Reason, shared: &mut Shared) {
        if self.bypass.is_some() {
            return;
        }
        self.bypass = Some(reason);
        self.owner.note_change(shared);
        shared.counters.count_bypass(reason);
        let event = Event::Bypass {
            flow: self.owner.id,
            ends: self.owner.ends,
            reason,
        };
        shared.events.push(event, &mut shared.counters);
        if let Some(connection) = &mut self.connection {
            connection.stop_server(&mut shared.budget);
            if shared.mode != Mode::Assign {
                connection.early.clear(&mut shared.budget);
            }
        }
    }

    /// Drops the state of an unread connection whose changes are all acknowledged.
    fn drop_finished(&mut self) {
        if self.bypass.is_some()
            && let Some(connection) = &self.connection
            && connection.patches.are_acknowledged()
            && connection.transcript.is_empty()
            && connection.early.is_empty()
        {
            self.connection = None;
        }
    }
}
