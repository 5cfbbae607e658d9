//! The server's direction of a connection: the protocol, the moment from which signatures may be
//! verified, and the raw writes that are accepted.
//!
//! It never delays or changes a byte. A server that cannot be tracked is assumed to verify
//! signatures: a signed session setup then passes unchanged, as it would without the hook, while
//! rewriting it could end the connection. If only the reorder budget is exhausted, nothing is
//! assumed: other flows may have used it, and must not make a VcNumber 0 pass.

use super::raw::{RawReads, RawWrites};
use super::signing::LogonRequests;
use crate::tcp_stream::position::Position;
use crate::tcp_stream::reorder::{Holder, MemoryBudget, ReorderBuffer};
use crate::tcp_stream::scan::{Beginning, Found, Scanner};
use vcgate_wire::packet::Payload;
use vcgate_wire::smb1::{self, Negotiated, command, status};
use vcgate_wire::tcp::SeqNumber;

/// Maximum number of out-of-order bytes that are buffered.
const MAX_BUFFERED: usize = 256 << 10;

/// The server's side of a connection.
#[derive(Debug)]
pub(super) struct Server {
    /// `None` if the server's direction is not tracked, or no longer.
    scanner: Option<Scanner>,
    early: ReorderBuffer,
    negotiated: Option<Negotiated>,
    max_number_vcs: Option<u16>,
    verifies: bool,
    logons: LogonRequests,
    /// The request whose response is being read.
    logon_is_anonymous: bool,
    answered_unseen: bool,
    has_accepted: bool,
    raw_reads: RawReads,
    /// The end of the client's stream that it has acknowledged.
    acknowledged: Position,
}

/// Whether the server has answered in SMB2.
pub(super) struct Upgraded;

impl Server {
    /// Creates a server whose SYN had this sequence number.
    pub(super) fn new(isn: SeqNumber, holder: Holder) -> Self {
        Self {
            scanner: Some(Scanner::new(Position::after_syn(isn), stops)),
            early: ReorderBuffer::held_by(holder, MAX_BUFFERED),
            negotiated: None,
            max_number_vcs: None,
            verifies: false,
            logons: LogonRequests::default(),
            logon_is_anonymous: false,
            answered_unseen: false,
            has_accepted: false,
            raw_reads: RawReads::default(),
            acknowledged: Position::default(),
        }
    }

    /// Creates a server that cannot be tracked.
    pub(super) fn lost() -> Self {
        Self {
            scanner: None,
            early: ReorderBuffer::new(MAX_BUFFERED),
            negotiated: None,
            max_number_vcs: None,
            verifies: true,
            logons: LogonRequests::default(),
            logon_is_anonymous: false,
            answered_unseen: false,
            has_accepted: false,
            raw_reads: RawReads::default(),
            acknowledged: Position::default(),
        }
    }

    /// Returns the contents of its NEGOTIATE response, if that was seen.
    pub(super) fn negotiated(&self) -> Option<Negotiated> {
        self.negotiated
    }

    /// Returns the number of virtual circuits that it allows a client. Windows announces 1 and does
    /// not enforce it (MS-SMB appendix A). Numbers begin with 0.
    pub(super) fn max_number_vcs(&self) -> Option<u16> {
        self.max_number_vcs.filter(|max| *max >= 2)
    }

    /// Whether it may verify signatures from now on: it has accepted a user who is neither a guest
    /// nor anonymous, and with that user a key (MS-CIFS section 3.3.5.43), or it cannot be tracked;
    /// unless its NEGOTIATE response excludes signing.
    pub(super) fn verifies(&self) -> bool {
        self.verifies
    }

    /// Notes that the server may have a key.
    fn got_key(&mut self) {
        let signs = |said: Negotiated| said.signing_enabled || said.signing_required;
        self.verifies |= self.negotiated.is_none_or(signs);
    }

    /// Notes a session setup of the client.
    pub(super) fn logon(&mut self, mid: u16, is_anonymous: bool) {
        if self.scanner.is_some() {
            self.logons.request(mid, is_anonymous);
        }
    }

    /// Whether its clients may send lengths of 24 bits and encrypted messages, which the UNIX
    /// extensions allow after a logon.
    pub(super) fn allows_extensions(&self) -> bool {
        self.has_accepted && self.negotiated.is_some_and(|said| said.unix_extensions)
    }

    /// Whether all session setups that it received are known to have been read: it is tracked, and
    /// each of its responses belongs to a request.
    pub(super) fn shows_all_logons(&self) -> bool {
        self.scanner.is_some() && !self.answered_unseen
    }

    /// Notes a READ_RAW of the client that ends at `end`.
    pub(super) fn raw_read(&mut self, end: Position) {
        if self.scanner.is_some() {
            self.raw_reads.request(end);
        }
    }

    /// Reads a segment of the server, in any order.
    pub(super) fn read(
        &mut self,
        seq: SeqNumber,
        acknowledged: Option<Position>,
        payload: &Payload<'_>,
        raw_writes: &mut RawWrites,
        budget: &mut MemoryBudget,
    ) -> Result<(), Upgraded> {
        let Some(scanner) = &self.scanner else {
            return Ok(());
        };
        let start = scanner.need().near(seq);
        if let Some(acknowledged) = acknowledged {
            self.acknowledged = self.acknowledged.max(acknowledged);
            self.raw_reads.sent(acknowledged, start);
        }
        if start > scanner.need() {
            let has_space = self.early.has_space(payload.len());
            match self.early.copy(start, payload, budget) {
                true => {}
                false if has_space => self.stop(budget),
                false => self.lose(budget),
            }
            return Ok(());
        }
        self.scan(start, payload, raw_writes, budget)?;
        while let Some(need) = self.scanner.as_ref().map(Scanner::need)
            && let Some((start, mut bytes)) = self.early.take(need, budget)
        {
            self.scan(start, &Payload::new(&mut bytes), raw_writes, budget)?;
        }
        Ok(())
    }

    /// Returns the position of the first missing byte, if later ones are buffered.
    pub(super) fn waits_at(&self) -> Option<Position> {
        let scanner = self.scanner.as_ref().filter(|_| !self.early.is_empty());
        scanner.map(Scanner::need)
    }

    /// Stops tracking the server.
    pub(super) fn stop(&mut self, budget: &mut MemoryBudget) {
        self.scanner = None;
        self.early.clear(budget);
    }

    fn scan(
        &mut self,
        start: Position,
        payload: &Payload<'_>,
        raw_writes: &mut RawWrites,
        budget: &mut MemoryBudget,
    ) -> Result<(), Upgraded> {
        while let Some(scanner) = &mut self.scanner
            && start.plus(payload.len()) > scanner.need()
            && let Some(found) = scanner.next(start, payload, |at| self.raw_reads.begin(at))
        {
            match found {
                Found::Block(beginning) => self.learn(&beginning, raw_writes),
                Found::Smb2 if self.negotiated.is_none() && !self.verifies => {
                    return Err(Upgraded);
                }
                Found::Smb2 | Found::UnsupportedStream(_) => self.lose(budget),
                Found::BadChain => {}
            }
        }
        Ok(())
    }

    fn learn(&mut self, beginning: &Beginning, raw_writes: &mut RawWrites) {
        let (header, block) = (&beginning.header, beginning.block());
        if !header.is_response() || beginning.raw {
            return;
        }
        match beginning.command {
            command::NEGOTIATE => {
                self.negotiated = block.negotiated();
                self.max_number_vcs = block.max_number_vcs();
            }
            answer @ (command::WRITE_RAW | command::WRITE_COMPLETE) => {
                raw_writes.respond(answer, header.status(), header.mid(), self.acknowledged);
            }
            command::SESSION_SETUP_ANDX => {
                // An error of a command that is chained to the session setup is not an error of the
                // session setup.
                let accepted = match header.status() {
                    status::SUCCESS => true,
                    status::MORE_PROCESSING_REQUIRED => false,
                    _ => beginning.chained,
                };
                // The block is seen twice, and an error has only a WordCount.
                let Some(is_guest) = block.is_guest() else {
                    let request = self.logons.take(header.mid());
                    self.logon_is_anonymous = request == Some(true);
                    self.answered_unseen |= request.is_none();
                    return;
                };
                self.has_accepted |= accepted;
                if accepted && !is_guest && !self.logon_is_anonymous {
                    self.got_key();
                }
            }
            _ => {}
        }
    }

    fn lose(&mut self, budget: &mut MemoryBudget) {
        self.got_key();
        self.stop(budget);
    }
}

/// See [`crate::tcp_stream::scan::ParsePoints`].
fn stops(command: u8) -> &'static [usize] {
    match command {
        command::NEGOTIATE => &[smb1::NEGOTIATE_RESPONSE_LEN],
        command::SESSION_SETUP_ANDX => &[smb1::WORD_COUNT_LEN, smb1::SESSION_SETUP_RESPONSE_LEN],
        command::WRITE_RAW | command::WRITE_COMPLETE => &[smb1::WORD_COUNT_LEN],
        other if command::is_andx(other) => &[smb1::ANDX_LEN],
        _ => &[],
    }
}
