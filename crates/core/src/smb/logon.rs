//! Decides on the number of each session setup and reports it. It never follows the stream: the
//! connection calls it where a number begins and where it ends.

use super::connection::{Connection, Decision, Setup, Stop};
use super::identity::FlowIdentity;
use super::raw::Answer;
use super::report::{Event, Logon, Outcome, Reason};
use super::{Mode, Shared, signing};
use crate::tcp_stream::position::Position;
use crate::tcp_stream::scan::Beginning;
use vcgate_wire::packet::Payload;
use vcgate_wire::smb1::{self, command};

impl Connection {
    /// Notes a session setup, to be matched with the server's response. Bytes of later segments are
    /// not waited for.
    pub(super) fn note_logon(
        &mut self,
        beginning: &Beginning,
        start: Position,
        payload: &Payload<'_>,
    ) {
        let mut block = [0; signing::EXCERPT];
        let is_first = beginning.header.command() == command::SESSION_SETUP_ANDX;
        let is_anonymous = is_first && start <= beginning.at && {
            let len = beginning.end.since(beginning.at).min(block.len());
            let read = payload.read(beginning.at.since(start), &mut block[..len]);
            signing::is_anonymous(&beginning.header, &block[..read])
        };
        self.server.logon(beginning.header.mid(), is_anonymous);
    }

    /// Decides on a session setup's number. Its first byte has arrived, its second perhaps not, and
    /// the first must not wait: so a number above 255 counts as its low byte, whatever the
    /// segmentation.
    pub(super) fn decide(
        &mut self,
        beginning: &Beginning,
        owner: &mut FlowIdentity,
        shared: &mut Shared,
    ) -> Result<(), Stop> {
        self.setup = None;
        if beginning.at.plus(smb1::VC_NUMBER.end) > beginning.end {
            return Ok(());
        }
        let block = beginning.block();
        let (Some(words), Some(low)) = (block.word_count(), block.vc_number_low()) else {
            return Ok(());
        };
        let decision = if beginning.raw && self.raw_writes.answer() == Answer::Unknown {
            Decision::Unread(Reason::RawData)
        } else if words < smb1::MIN_VC_NUMBER_WORDS {
            // Its number is part of the bytes that follow its words.
            Decision::Unread(Reason::Protocol)
        } else if shared.mode == Mode::Observe {
            Decision::Observe
        } else if beginning.header.is_signed() && self.server.verifies() {
            Decision::Signed
        } else {
            let limit = self.server.max_number_vcs();
            let number = owner.number(low.into(), limit, shared);
            let at = beginning.at.plus(smb1::VC_NUMBER.start);
            self.patches.add(at, low, number)?;
            owner.note_change(shared);
            Decision::Number(number)
        };
        if let Decision::Unread(reason) = decision
            && shared.resets_unreadable()
            && !self.is_restored()
        {
            return Err(Stop::Bypass(reason));
        }
        self.setup = Some(Setup {
            words,
            signed: beginning.header.is_signed(),
            decision,
        });
        Ok(())
    }

    /// Reports a session setup, once both bytes of its number have arrived.
    pub(super) fn report_logon(
        &mut self,
        asked: u16,
        owner: &mut FlowIdentity,
        shared: &mut Shared,
    ) {
        let Some(Setup {
            words,
            signed,
            decision,
        }) = self.setup.take()
        else {
            return;
        };
        if let Decision::Number(_) = decision {
            self.patches.sent(asked);
            owner.note_change(shared);
        }
        let (given, outcome) = match decision {
            Decision::Number(number) if number.get() == asked => (asked, Outcome::Preserved),
            Decision::Number(number) => (number.get(), Outcome::Rewritten),
            Decision::Signed => (asked, Outcome::Signed),
            Decision::Observe => (asked, Outcome::Observed),
            Decision::Unread(reason) => (asked, Outcome::Unread(reason)),
        };
        let counters = &mut shared.counters;
        match outcome {
            Outcome::Preserved => counters.preserved += 1,
            Outcome::Rewritten => counters.rewritten += 1,
            Outcome::Signed => {
                counters.signed_untouched += 1;
                if !owner.reported_signed {
                    owner.reported_signed = true;
                    let (flow, ends) = (owner.id, owner.ends);
                    shared.events.push(Event::Signed { flow, ends }, counters);
                }
            }
            Outcome::Observed => {}
            Outcome::Unread(_) => counters.unread_setups += 1,
        }
        if !matches!(outcome, Outcome::Unread(_)) {
            if asked == 0 && !self.has_reconnected {
                self.has_reconnected = true;
                shared.checks.on_reconnect(owner);
            }
            let zero = u64::from(asked == 0);
            counters.session_setups += 1;
            counters.zeros += zero;
            owner.session_setups += 1;
            owner.zeros += zero;
        }
        let logon = Logon {
            flow: owner.id,
            ends: owner.ends,
            asked,
            given,
            outcome,
            words,
            signed,
            negotiated: self.server.negotiated(),
        };
        shared.events.push(Event::Logon(logon), counters);
    }
}
