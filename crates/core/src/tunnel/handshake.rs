//! The slow path of a peer: handshakes, timers, keepalives and the messages of the tunnel itself.
//!
//! boringtun has the state machine; this file drives it. boringtun stamps every event with the
//! time of its last clock update, so its clock is updated before a peer is used after a pause:
//! otherwise a new session would have expired already. boringtun also reports an idle peer as an
//! error, which is ignored here.
//!
//! Only [`Peer::tick`], which runs after the socket has been read, sends an initiation; it is
//! dropped if an initiation of the peer is answered first. After a silence both sides want a
//! session. If both initiations are sent, a standard peer drops its own in favour of ours, and
//! boringtun drops ours in favour of the second one that the peer sent meanwhile: no handshake is
//! completed until one side retries 5 s later.
//!
//! Two differences of boringtun from the kernel remain: when it gives up a handshake after 90 s it
//! also drops a session that would have lasted longer, and its replay window is 1,024 messages
//! instead of 8,000.

use super::Ecn;
use super::failures::Failures;
use super::peer::{ANSWER_TIMEOUT, Attempt, CLOCK_SYNC_INTERVAL, Peer, Unconfirmed};
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
/// Age of a session at which its initiator starts the next one when it sends.
const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age of a session at which its initiator starts the next one when it receives
/// (REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT).
const REKEY_AFTER_TIME_RECEIVING: Duration = Duration::from_secs(165);
/// Maximum age of a session.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Age of the last session at which all secrets are erased.
const ERASE_AFTER_TIME: Duration = Duration::from_secs(540);
/// Maximum duration of a handshake with its retries.
const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Time until an unanswered initiation is repeated.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The jitter added to that, in milliseconds. Its minimum covers the difference between the
/// caller's clock and boringtun's, which is read later.
const REKEY_JITTER_MS: std::ops::Range<u64> = 10..333;
/// Time without a message from which a peer counts as silent, well below [`ANSWER_TIMEOUT`].
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Minimum time between two timeouts of a peer.
const MIN_TICK_INTERVAL: Duration = Duration::from_millis(100);

/// The longest message that boringtun itself sends (an initiation), in bytes.
const MAX_CONTROL_LEN: usize = 148;
/// The first byte of an initiation.
pub(super) const INITIATION: u8 = 1;
/// The first byte of a response.
pub(super) const RESPONSE: u8 = 2;

/// The parts of the tunnel that the slow path of a peer uses.
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
    /// Runs the peer's timers and sends a queued initiation.
    pub(super) fn tick(&mut self, ctx: &mut Context) {
        self.prepare(ctx);
        if let Some(initiation) = self.initiation.take() {
            self.transmit(initiation.into_vec(), Ecn::NotCapable, ctx);
        }
    }

    /// Runs the peer's timers, but sends no initiation.
    pub(super) fn prepare(&mut self, ctx: &mut Context) {
        let now = ctx.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.rekey_deadline) {
            self.clear_source();
        }
        if self.attempt.is_some() || self.is_clock_stale(ctx.now) {
            self.sync_clock(ctx);
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
        if due(self.keepalive_deadline) || due(self.next_keepalive()) {
            self.keepalive(ctx);
        }
    }

    /// Runs [`prepare`](Self::prepare) before data is sent. After a silence, the next clock update
    /// waits for as long as an answer may take: boringtun measures the time without an answer from
    /// the last message received, however long ago that was, and would start a needless handshake.
    pub(super) fn before_send(&mut self, ctx: &mut Context) {
        self.prepare(ctx);
        self.rekey_if_older(REKEY_AFTER_TIME, ctx);
        if let Some(established) = self.established
            && self.is_silent(ctx.now)
        {
            self.clock_stale_at = (ctx.now + ANSWER_TIMEOUT).min(established + REJECT_AFTER_TIME);
        }
    }

    /// Returns the time of the next [`tick`](Self::tick): WireGuard's own timeouts only.
    pub(super) fn next_timeout(&self, now: Instant) -> Option<Instant> {
        if self.initiation.is_some() {
            return Some(now);
        }
        let all = [
            self.attempt.map(|attempt| attempt.retry_at),
            self.next_backlog_attempt(now),
            self.rekey_deadline,
            self.keepalive_deadline,
            self.next_keepalive(),
            self.session_end(),
        ];
        let earliest = all.into_iter().flatten().min()?;
        Some(earliest.max(now + MIN_TICK_INTERVAL))
    }

    /// Returns the time to start a handshake for waiting packets, if none is in progress: a session
    /// of the peer may still be confirmed before.
    fn next_backlog_attempt(&self, now: Instant) -> Option<Instant> {
        let waiting = !self.backlog.is_empty() && self.attempt.is_none();
        waiting.then(|| self.unconfirmed.map_or(now, |u| u.since + REKEY_TIMEOUT))
    }

    /// Returns the time at which the session ends or, after that, at which all secrets are erased.
    fn session_end(&self) -> Option<Instant> {
        let established = self.established?;
        Some(match self.ready {
            // boringtun's clock is read later than the caller's.
            true => established + REJECT_AFTER_TIME + CLOCK_SYNC_INTERVAL,
            false => established + ERASE_AFTER_TIME,
        })
    }

    /// Processes a handshake message or a cookie reply for this peer.
    pub(super) fn handshake(
        &mut self,
        path: &Path,
        datagram: &[u8],
        ctx: &mut Context,
    ) -> Result<(), DropReason> {
        self.sync_clock(ctx);
        let mut answer = [0; MAX_CONTROL_LEN];
        let source = Some(path.remote.ip());
        let noise = self.noise(ctx.identity);
        match noise.decapsulate(source, datagram, &mut answer) {
            TunnResult::WriteToNetwork(message) => {
                self.rx += datagram.len() as u64;
                self.has_moved |= self.note_received(path, ctx.failures, ctx.now);
                self.attempt = None;
                self.initiation = None;
                self.established = Some(ctx.now);
                self.initiator = message.first() != Some(&RESPONSE);
                if !self.initiator {
                    self.initiation_accepted(datagram, path, ctx);
                    self.send_response(message, ctx);
                } else {
                    self.on_session_confirmed(ctx.now);
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

    /// Returns whether [`on_session_used`](Self::on_session_used) must be called.
    pub(super) fn needs_slow_path(&self, receiver: u32, now: Instant) -> bool {
        !self.ready
            || self.unconfirmed.is_some_and(|u| u.receiver == receiver)
            || self.has_earlier_deadline()
            || self.needs_rekey(REKEY_AFTER_TIME_RECEIVING, now)
    }

    /// Handles a received message of a session that may be new, or near its end.
    pub(super) fn on_session_used(&mut self, receiver: u32, ctx: &mut Context) {
        if self.unconfirmed.is_some_and(|u| u.receiver == receiver) {
            self.unconfirmed = None;
            self.on_session_confirmed(ctx.now);
        }
        // This session works, whatever else is in progress.
        self.ready = true;
        self.check_session();
        self.flush(ctx);
        self.rekey_if_older(REKEY_AFTER_TIME_RECEIVING, ctx);
    }

    /// Queues a packet until there is a session, and starts a handshake.
    pub(super) fn enqueue(&mut self, packet: &[u8], ctx: &mut Context) {
        self.backlog.push(packet);
        self.initiate(ctx);
    }

    /// Sends an empty packet, or starts a handshake if there is no session. It also renews an old
    /// session, which boringtun does for data only.
    pub(super) fn keepalive(&mut self, ctx: &mut Context) {
        self.last_traffic = ctx.now;
        self.keepalive_deadline = None;
        if let Some(message) = self.seal_to_vec(&[], ctx) {
            self.send_control(&message, ctx);
        }
        if !self.ready {
            self.initiate(ctx);
        }
        self.rekey_if_older(REKEY_AFTER_TIME, ctx);
    }

    /// Starts a handshake if this side must renew the session and it has reached `age`.
    fn rekey_if_older(&mut self, age: Duration, ctx: &mut Context) {
        if self.needs_rekey(age, ctx.now) {
            self.initiate(ctx);
        }
    }

    /// Returns whether this side must renew the session, it has reached `age`, and no handshake is
    /// in progress.
    fn needs_rekey(&self, age: Duration, now: Instant) -> bool {
        self.initiator
            && self.attempt.is_none()
            && self.established.is_some_and(|at| at + age <= now)
    }

    /// Drops session and handshake after a change of a secret. If the peer was connected, a
    /// handshake starts at once.
    pub(super) fn restart(&mut self, ctx: &mut Context) {
        let connected = self.ready;
        self.erase();
        if connected {
            self.initiate(ctx);
        }
    }

    /// Erases all secrets and what was derived from them.
    pub(super) fn erase(&mut self) {
        if self.ready {
            self.log_disconnect("its keys changed");
        }
        self.noise = None;
        self.reset_session();
    }

    fn reset_session(&mut self) {
        self.attempt = None;
        self.initiation = None;
        self.unconfirmed = None;
        self.established = None;
        self.keepalive_deadline = None;
        self.rekey_deadline = None;
        self.ready = false;
    }

    /// Updates boringtun's clock, and queues the initiation that it may return. Its keepalives are
    /// not sent: they are due whenever a packet arrives after a pause.
    fn sync_clock(&mut self, ctx: &mut Context) {
        let silent = self.is_silent(ctx.now);
        self.clock_synced_at = ctx.now;
        self.clock_stale_at = ctx.now
            + if silent {
                Duration::ZERO
            } else {
                CLOCK_SYNC_INTERVAL
            };
        let Some(noise) = &mut self.noise else {
            return;
        };
        let mut message = [0; MAX_CONTROL_LEN];
        match noise.update_timers(&mut message) {
            TunnResult::WriteToNetwork(message @ [INITIATION, ..]) => {
                self.queue_initiation(message, ctx)
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => self.on_expired(ctx),
            _ => {}
        }
        self.check_session();
    }

    /// Starts a handshake unless either side has started one; [`tick`](Self::tick) sends it.
    pub(super) fn initiate(&mut self, ctx: &mut Context) {
        let answered = |u: Unconfirmed| ctx.now.saturating_duration_since(u.since) < REKEY_TIMEOUT;
        if self.path.is_none() || self.attempt.is_some() || self.unconfirmed.is_some_and(answered) {
            return;
        }
        let mut message = [0; MAX_CONTROL_LEN];
        let noise = self.noise(ctx.identity);
        if let TunnResult::WriteToNetwork(message) =
            noise.format_handshake_initiation(&mut message, false)
        {
            self.queue_initiation(message, ctx);
        }
    }

    /// Queues an initiation: the first of a handshake, or a retry.
    fn queue_initiation(&mut self, message: &[u8], ctx: &mut Context) {
        if self.attempt.is_some() {
            self.clear_source();
        }
        let jitter = Duration::from_millis(ctx.rng.random_range(REKEY_JITTER_MS));
        let started = self.attempt.map_or(ctx.now, |attempt| attempt.started);
        let retry_at = ctx.now + REKEY_TIMEOUT + jitter;
        self.attempt = Some(Attempt { started, retry_at });
        self.initiation = Some(message.into());
    }

    /// Sends the response to an initiation.
    fn send_response(&mut self, response: &[u8], ctx: &mut Context) {
        let receiver = response.get(4..).and_then(|rest| rest.first_chunk());
        self.unconfirmed = receiver.map(|receiver| Unconfirmed {
            receiver: u32::from_le_bytes(*receiver),
            since: ctx.now,
        });
        self.send_control(response, ctx);
    }

    /// Confirms a new session to the peer with the waiting packets, or else with a keepalive.
    fn confirm_session(&mut self, keepalive: &[u8], ctx: &mut Context) {
        if self.backlog.is_empty() {
            self.send_control(keepalive, ctx);
        } else {
            self.flush(ctx);
        }
    }

    fn on_session_confirmed(&mut self, now: Instant) {
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

    /// Logs that the peer has no session any more.
    pub(super) fn log_disconnect(&self, why: &str) {
        let source = self.path.map(|path| path.remote.to_string());
        let source = source.unwrap_or_default();
        tracing::info!(peer = %self.name, source, "peer disconnected: {why}");
    }

    /// Handles boringtun's end of a handshake without an answer, or of a session after a long
    /// silence.
    fn on_expired(&mut self, ctx: &mut Context) {
        let attempt = self.attempt;
        if self.ready {
            self.log_disconnect("no answer to a handshake");
        }
        self.reset_session();
        let Some(attempt) = attempt else {
            return;
        };
        let age = ctx.now.saturating_duration_since(attempt.started);
        if age < REKEY_ATTEMPT_TIME - REKEY_TIMEOUT {
            // boringtun counts the silence from the last session, even during a handshake.
            self.initiate(ctx);
            return;
        }
        tracing::debug!(peer = %self.name, "no answer to the handshake");
        self.backlog.clear();
    }

    /// Returns whether the peer is silent and no handshake is in progress.
    fn is_silent(&self, now: Instant) -> bool {
        self.attempt.is_none() && now.saturating_duration_since(self.last_rx) > SILENCE_TIMEOUT
    }

    /// Checks whether there still is a session to send with. boringtun keeps eight sessions by
    /// number, so an unconfirmed one may replace an expired one: it must not be used to send.
    fn check_session(&mut self) {
        let noise = self.noise.as_ref();
        let there = noise.is_some_and(|noise| noise.time_since_last_handshake().is_some());
        let ready = there && (self.ready || self.unconfirmed.is_none());
        if self.ready && !ready {
            self.log_disconnect("its session expired");
        }
        self.ready = ready;
    }

    /// Sends the waiting packets.
    fn flush(&mut self, ctx: &mut Context) {
        while self.ready
            && let Some(packet) = self.backlog.pop()
        {
            if let Some(message) = self.seal_to_vec(&packet, ctx) {
                self.note_data_sent(ctx.now);
                self.transmit(message, Ecn::of(&packet).outer(), ctx);
            }
        }
    }

    /// Sends a packet if there is a session.
    pub(super) fn send_if_connected(&mut self, packet: &[u8], ctx: &mut Context) {
        if self.is_clock_stale(ctx.now) {
            self.before_send(ctx);
        }
        if let Some(message) = self.seal_to_vec(packet, ctx) {
            self.note_data_sent(ctx.now);
            self.transmit(message, Ecn::of(packet).outer(), ctx);
        }
    }

    fn seal_to_vec(&mut self, packet: &[u8], ctx: &mut Context) -> Option<Vec<u8>> {
        let mut message = vec![0; padded(packet.len(), ctx.mtu) + OVERHEAD];
        let len = self.seal(packet, ctx.mtu, ctx.scratch, &mut message)?;
        message.truncate(len);
        Some(message)
    }

    /// Sends a response or a keepalive.
    fn send_control(&mut self, message: &[u8], ctx: &mut Context) {
        self.transmit(message.to_vec(), Ecn::NotCapable, ctx);
    }

    fn transmit(&mut self, bytes: Vec<u8>, ecn: Ecn, ctx: &mut Context) {
        let Some(path) = self.path else {
            return;
        };
        self.note_sent(bytes.len(), ctx.now);
        ctx.outbox.push_back(Transmit { path, bytes, ecn });
    }

    fn next_keepalive(&self) -> Option<Instant> {
        let interval = Duration::from_secs(self.persistent_keepalive?.into());
        self.path.map(|_| self.last_traffic + interval)
    }

    fn noise(&mut self, identity: &Identity) -> &mut Tunn {
        self.noise.get_or_insert_with(|| {
            Box::new(Tunn::new(
                identity.private.clone(),
                self.public_key,
                self.preshared_key.as_ref().map(|key| *key.as_bytes()),
                None, // persistent keepalives are sent here, because they can change
                self.index,
                Some(Arc::clone(&identity.unlimited)),
            ))
        })
    }
}
