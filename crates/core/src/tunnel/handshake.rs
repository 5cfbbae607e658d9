//! The cold side of a peer: handshakes, timers, keepalives and what is sent on its own account.
//!
//! boringtun has the state machine; this drives it. boringtun stamps every event with the time it
//! was last told, so it is told the time before a peer is used after a pause: a session would
//! else be born expired. What it takes for an error, a peer that is idle, is none here.
//!
//! An initiation of ours is sent by [`Peer::tick`] alone, which runs when the socket has been read,
//! and is dropped when one of the peer's is answered first. After a silence both sides want a
//! session. If both initiations are sent, a standard peer forgets its own for ours, and boringtun
//! forgets ours for the second of those that the peer sent meanwhile: no handshake is completed until
//! one of them tries again 5 s later.
//!
//! Two of its ways differ from the kernel's and are not mended here: when it gives up a handshake
//! after 90 s it also drops a session that would have lasted some more, and its replay window is
//! 1,024 messages, not 8,000.

use super::Ecn;
use super::failures::Failures;
use super::peer::{ANSWER_TIMEOUT, Attempt, FRESH, Peer, Unconfirmed};
use super::settings::Path;
use super::{DropReason, Identity, OVERHEAD, Transmit, padded};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

// WireGuard paper, section 6.1.
/// Whoever began a session begins the next one when it is this old.
const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// And at this age when something comes (REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT).
const REKEY_AFTER_TIME_RECEIVING: Duration = Duration::from_secs(165);
/// A session older than this is not used any more.
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// All secrets are erased when no new session was made for so long.
const ERASE_AFTER_TIME: Duration = Duration::from_secs(540);
/// How long a handshake is tried.
const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long one initiation waits for its answer.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The jitter added to that, in milliseconds. The least of it is for the caller's clock and
/// boringtun's, which are read one after the other.
const REKEY_JITTER_MS: std::ops::Range<u64> = 10..333;
/// Well before [`ANSWER_TIMEOUT`], a peer counts as silent.
const SILENT: Duration = Duration::from_secs(10);

/// The least time between two looks at a peer.
const LEAST_STEP: Duration = Duration::from_millis(100);

/// The longest message that boringtun sends on its own account (an initiation).
const MESSAGE: usize = 148;
/// The first byte of an initiation.
pub(super) const INITIATION: u8 = 1;
/// The first byte of a response.
pub(super) const RESPONSE: u8 = 2;

/// What the cold side of a peer works with.
pub(super) struct Context<'a> {
    pub(super) identity: &'a Identity,
    pub(super) outbox: &'a mut VecDeque<Transmit>,
    pub(super) failures: &'a mut Failures,
    pub(super) rng: &'a mut StdRng,
    pub(super) scratch: &'a mut [u8],
    pub(super) mtu: usize,
    pub(super) now: Instant,
}

impl Peer {
    /// Does what is due.
    pub(super) fn tick(&mut self, ctx: &mut Context) {
        self.prepare(ctx);
        if let Some(initiation) = self.initiation.take() {
            self.transmit(initiation.into_vec(), Ecn::NotCapable, ctx);
        }
    }

    /// [`tick`](Self::tick) before the peer is used: no initiation is sent.
    pub(super) fn prepare(&mut self, ctx: &mut Context) {
        let now = ctx.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.rekey_deadline) {
            self.forget_source();
        }
        if self.attempt.is_some() || self.is_stale(ctx.now) {
            self.tell_time(ctx);
        }
        if self.ready {
            self.flush(ctx);
        } else if !self.backlog.is_empty() {
            self.initiate(ctx);
        }
        if due(self.rekey_deadline) {
            self.rekey_deadline = None;
            self.initiate(ctx);
        }
        if due(self.keepalive_deadline) || due(self.keepalive_at()) {
            self.keepalive(ctx);
        }
    }

    /// `prepare` before data is sent. After a silence boringtun is then left alone for as long as an
    /// answer may take: it measures the time without an answer from the last message that came,
    /// however long before the question that was, and would begin a needless handshake.
    pub(super) fn before_send(&mut self, ctx: &mut Context) {
        self.prepare(ctx);
        self.renew(REKEY_AFTER_TIME, ctx);
        if let Some(established) = self.established
            && self.is_silent(ctx.now)
        {
            self.clock_stale_at = (ctx.now + ANSWER_TIMEOUT).min(established + REJECT_AFTER_TIME);
        }
    }

    /// When `tick` must be called next, if nothing happens before: at WireGuard's own times, and
    /// at no others.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.initiation.is_some() {
            return Some(now);
        }
        let all = [
            self.attempt.map(|attempt| attempt.retry_at),
            self.waiting_until(now),
            self.rekey_deadline,
            self.keepalive_deadline,
            self.keepalive_at(),
            self.session_ends_at(),
        ];
        let earliest = all.into_iter().flatten().min()?;
        Some(earliest.max(now + LEAST_STEP))
    }

    /// Packets wait, and nobody asked for a session: the peer's own may still be confirmed.
    fn waiting_until(&self, now: Instant) -> Option<Instant> {
        let waiting = !self.backlog.is_empty() && self.attempt.is_none();
        waiting.then(|| self.unconfirmed.map_or(now, |u| u.since + REKEY_TIMEOUT))
    }

    /// When there is no session to send with any more, then when all secrets are erased.
    fn session_ends_at(&self) -> Option<Instant> {
        let established = self.established?;
        Some(match self.ready {
            // boringtun's clock is read later than the caller's.
            true => established + REJECT_AFTER_TIME + FRESH,
            false => established + ERASE_AFTER_TIME,
        })
    }

    /// Takes a handshake message, or a cookie reply, that names this peer.
    pub(super) fn handshake(
        &mut self,
        path: &Path,
        datagram: &[u8],
        ctx: &mut Context,
    ) -> Result<(), DropReason> {
        self.tell_time(ctx);
        let mut answer = [0; MESSAGE];
        let source = Some(path.remote.ip());
        let noise = self.noise(ctx.identity);
        match noise.decapsulate(source, datagram, &mut answer) {
            TunnResult::WriteToNetwork(message) => {
                self.rx += datagram.len() as u64;
                self.heard(path, ctx.failures, ctx.now);
                self.attempt = None;
                self.initiation = None;
                self.established = Some(ctx.now);
                self.initiator = message.first() != Some(&RESPONSE);
                if !self.initiator {
                    self.initiation_accepted(datagram, path, ctx);
                    self.answered(message, ctx);
                } else {
                    self.confirmed(ctx.now);
                    self.confirm_session(message, ctx);
                }
                Ok(())
            }
            TunnResult::Err(error) => {
                tracing::debug!(peer = %self.name, ?error, "handshake message refused");
                self.handshake_refused(datagram, &error, path, ctx);
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether [`received_with`](Self::received_with) has something to do.
    pub(super) fn needs_slow_path(&self, receiver: u32, now: Instant) -> bool {
        !self.ready
            || self.unconfirmed.is_some_and(|u| u.receiver == receiver)
            || self.is_due_earlier()
            || self.is_old(REKEY_AFTER_TIME_RECEIVING, now)
    }

    /// A message came with a session that may be new, or near its end.
    pub(super) fn received_with(&mut self, receiver: u32, ctx: &mut Context) {
        if self.unconfirmed.is_some_and(|u| u.receiver == receiver) {
            self.unconfirmed = None;
            self.confirmed(ctx.now);
        }
        // Whatever else is under way, this one works.
        self.ready = true;
        self.check_session();
        self.flush(ctx);
        self.renew(REKEY_AFTER_TIME_RECEIVING, ctx);
    }

    /// Keeps a packet until there is a session, and sees to it that there will be one.
    pub(super) fn enqueue(&mut self, packet: &[u8], ctx: &mut Context) {
        self.backlog.push(packet);
        self.initiate(ctx);
    }

    /// Sends an empty packet, or sees to it that there is a session to send one with. A
    /// keepalive keeps the session young, too: boringtun thinks of that for data only.
    pub(super) fn keepalive(&mut self, ctx: &mut Context) {
        self.last_traffic = ctx.now;
        self.keepalive_deadline = None;
        if let Some(message) = self.sealed(&[], ctx) {
            self.send_own(&message, ctx);
        }
        if !self.ready {
            self.initiate(ctx);
        }
        self.renew(REKEY_AFTER_TIME, ctx);
    }

    /// Begins the next session if that is ours to do, and this one has reached an age.
    fn renew(&mut self, age: Duration, ctx: &mut Context) {
        if self.is_old(age, ctx.now) {
            self.initiate(ctx);
        }
    }

    /// The session is ours to renew, has reached an age, and nothing was done about it.
    fn is_old(&self, age: Duration, now: Instant) -> bool {
        self.initiator
            && self.attempt.is_none()
            && self.established.is_some_and(|at| at + age <= now)
    }

    /// Forgets session and handshake, because a secret of theirs changed. A peer that was
    /// connected is asked for a new session at once.
    pub(super) fn restart(&mut self, ctx: &mut Context) {
        let connected = self.ready;
        self.forget();
        if connected {
            self.initiate(ctx);
        }
    }

    /// Forgets all secrets, and what was made of them.
    pub(super) fn forget(&mut self) {
        if self.ready {
            self.log_disconnect("its keys changed");
        }
        self.noise = None;
        self.forget_session();
    }

    fn forget_session(&mut self) {
        self.attempt = None;
        self.initiation = None;
        self.unconfirmed = None;
        self.established = None;
        self.keepalive_deadline = None;
        self.rekey_deadline = None;
        self.ready = false;
    }

    /// Tells boringtun the time, and keeps the initiation that it may want to send. Its keepalives
    /// are not sent: it finds them due whenever a packet comes after a pause.
    fn tell_time(&mut self, ctx: &mut Context) {
        let silent = self.is_silent(ctx.now);
        self.clock_synced_at = ctx.now;
        self.clock_stale_at = ctx.now + if silent { Duration::ZERO } else { FRESH };
        let Some(noise) = &mut self.noise else {
            return;
        };
        let mut message = [0; MESSAGE];
        match noise.update_timers(&mut message) {
            TunnResult::WriteToNetwork(message @ [INITIATION, ..]) => self.begin(message, ctx),
            TunnResult::Err(WireGuardError::ConnectionExpired) => self.expire(ctx),
            _ => {}
        }
        self.check_session();
    }

    /// Begins a handshake unless one is under way, from either side; [`tick`](Self::tick) sends it.
    fn initiate(&mut self, ctx: &mut Context) {
        let answered = |u: Unconfirmed| ctx.now.saturating_duration_since(u.since) < REKEY_TIMEOUT;
        if self.path.is_none() || self.attempt.is_some() || self.unconfirmed.is_some_and(answered) {
            return;
        }
        let mut message = [0; MESSAGE];
        let noise = self.noise(ctx.identity);
        if let TunnResult::WriteToNetwork(message) =
            noise.format_handshake_initiation(&mut message, false)
        {
            self.begin(message, ctx);
        }
    }

    /// An initiation of ours is ready: the first of a handshake, or the next try.
    fn begin(&mut self, message: &[u8], ctx: &mut Context) {
        if self.attempt.is_some() {
            self.forget_source();
        }
        let jitter = Duration::from_millis(ctx.rng.random_range(REKEY_JITTER_MS));
        let started = self.attempt.map_or(ctx.now, |attempt| attempt.started);
        let retry_at = ctx.now + REKEY_TIMEOUT + jitter;
        self.attempt = Some(Attempt { started, retry_at });
        self.initiation = Some(message.into());
    }

    /// An initiation was answered with this response.
    fn answered(&mut self, response: &[u8], ctx: &mut Context) {
        let receiver = response.get(4..).and_then(|rest| rest.first_chunk());
        self.unconfirmed = receiver.map(|receiver| Unconfirmed {
            receiver: u32::from_le_bytes(*receiver),
            since: ctx.now,
        });
        self.send_own(response, ctx);
    }

    /// The peer must hear something with the new session: packets that waited, else a keepalive.
    fn confirm_session(&mut self, keepalive: &[u8], ctx: &mut Context) {
        if self.backlog.is_empty() {
            self.send_own(keepalive, ctx);
        } else {
            self.flush(ctx);
        }
    }

    fn confirmed(&mut self, now: Instant) {
        if let Some(symptoms) = &mut self.symptoms {
            symptoms.confirmed();
        }
        if self.ready {
            tracing::debug!(peer = %self.name, "new session");
        } else {
            match self.path {
                Some(path) => {
                    tracing::info!(peer = %self.name, source = %path.remote, "peer connected");
                }
                None => tracing::info!(peer = %self.name, "peer connected"),
            }
        }
        self.ready = true;
        self.last_handshake = Some(now);
    }

    /// The peer had a session and has none any more.
    pub(super) fn log_disconnect(&self, why: &str) {
        let source = self.path.map(|path| path.remote.to_string());
        let source = source.unwrap_or_default();
        tracing::info!(peer = %self.name, source, "peer disconnected: {why}");
    }

    /// boringtun gave up a handshake, or erased all secrets after a long silence.
    fn expire(&mut self, ctx: &mut Context) {
        let attempt = self.attempt;
        if self.ready {
            self.log_disconnect("no answer to a handshake");
        }
        self.forget_session();
        let Some(attempt) = attempt else {
            return;
        };
        let age = ctx.now.saturating_duration_since(attempt.started);
        if age < REKEY_ATTEMPT_TIME - REKEY_TIMEOUT {
            // It counts the long silence from the last session, also in the midst of a handshake.
            self.initiate(ctx);
            return;
        }
        tracing::debug!(peer = %self.name, "no answer to the handshake");
        self.backlog.clear();
    }

    /// Nothing came for a while, and it is not known yet that nobody is there.
    fn is_silent(&self, now: Instant) -> bool {
        self.attempt.is_none() && now.saturating_duration_since(self.last_rx) > SILENT
    }

    /// boringtun keeps eight sessions by their numbers, so one that nothing has confirmed may take
    /// the place of one that has expired: that is none to send with.
    fn check_session(&mut self) {
        let noise = self.noise.as_ref();
        let there = noise.is_some_and(|noise| noise.time_since_last_handshake().is_some());
        let ready = there && (self.ready || self.unconfirmed.is_none());
        if self.ready && !ready {
            self.log_disconnect("its session expired");
        }
        self.ready = ready;
    }

    /// Sends what waited.
    fn flush(&mut self, ctx: &mut Context) {
        while self.ready
            && let Some(packet) = self.backlog.pop()
        {
            if let Some(message) = self.sealed(&packet, ctx) {
                self.sent_data(ctx.now);
                self.transmit(message, Ecn::of(&packet).outer(), ctx);
            }
        }
    }

    fn sealed(&mut self, packet: &[u8], ctx: &mut Context) -> Option<Vec<u8>> {
        let mut message = vec![0; padded(packet.len(), ctx.mtu) + OVERHEAD];
        let len = self.seal(packet, ctx.mtu, ctx.scratch, &mut message)?;
        message.truncate(len);
        Some(message)
    }

    /// Sends a response or a keepalive.
    fn send_own(&mut self, message: &[u8], ctx: &mut Context) {
        self.transmit(message.to_vec(), Ecn::NotCapable, ctx);
    }

    fn transmit(&mut self, bytes: Vec<u8>, ecn: Ecn, ctx: &mut Context) {
        let Some(path) = self.path else {
            return;
        };
        self.count_tx(bytes.len(), ctx.now);
        ctx.outbox.push_back(Transmit { path, bytes, ecn });
    }

    fn keepalive_at(&self) -> Option<Instant> {
        let interval = Duration::from_secs(self.persistent_keepalive?.into());
        self.path.map(|_| self.last_traffic + interval)
    }

    fn noise(&mut self, identity: &Identity) -> &mut Tunn {
        self.noise.get_or_insert_with(|| {
            Box::new(Tunn::new(
                identity.private.clone(),
                self.public_key,
                self.preshared_key.as_ref().map(|key| *key.as_bytes()),
                None, // persistent keepalives are ours, so that they can change
                self.index,
                Some(Arc::clone(&identity.unlimited)),
            ))
        })
    }
}
