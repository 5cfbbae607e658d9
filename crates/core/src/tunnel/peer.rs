//! One peer: its settings, its counters, and the hot path of packets from and to it.
//!
//! Handshakes and timers are in `handshake.rs`. It never looks at other peers: AllowedIPs and
//! indices belong to the tunnel.

use super::backlog::Backlog;
use super::failures::{Failure, FailureCause, Failures};
use super::settings::{Path, PeerHistory, PeerSettings, PeerStatus};
use super::symptoms::Symptoms;
use super::{OVERHEAD, padded};
use crate::ids::PeerId;
use crate::keys::PresharedKey;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::PublicKey;
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Maximum age of boringtun's clock while packets flow. boringtun stamps events with the time of
/// its last update, and its shortest timeout is 5 s.
pub(super) const CLOCK_SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Time after received data until a keepalive, if nothing is sent (WireGuard paper, section 6.1).
/// boringtun has this timeout too, but overlooks data received within [`CLOCK_SYNC_INTERVAL`]
/// after the last message sent.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after sent data until a new handshake, if nothing is received (KEEPALIVE_TIMEOUT +
/// REKEY_TIMEOUT).
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A peer and its session.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) name: String,
    pub(super) public_key: PublicKey,
    pub(super) preshared_key: Option<PresharedKey>,
    pub(super) allowed_ips: Vec<IpNet>,
    pub(super) persistent_keepalive: Option<u16>,
    /// The high 24 bits of the peer's receiver indices.
    pub(super) index: u32,
    pub(super) path: Option<Path>,
    /// Whether the endpoint has changed since the tunnel noted it.
    pub(super) has_moved: bool,
    /// Created on first use: it is nearly all of a peer's memory.
    pub(super) noise: Option<Box<Tunn>>,
    /// The time from which boringtun's clock must be updated before use.
    pub(super) clock_stale_at: Instant,
    /// Whether there is a session to send with.
    pub(super) ready: bool,
    /// The handshake that this side started and that has no response yet.
    pub(super) attempt: Option<Attempt>,
    /// The initiation of that handshake, until [`tick`](Self::tick) sends it.
    pub(super) initiation: Option<Box<[u8]>>,
    /// The session of the last response sent, until data confirms it.
    pub(super) unconfirmed: Option<Unconfirmed>,
    /// The creation time of boringtun's newest session, confirmed or not.
    pub(super) established: Option<Instant>,
    /// Whether this side started the handshake of that session, and so starts the next one.
    pub(super) initiator: bool,
    pub(super) last_handshake: Option<Instant>,
    /// The time of the last authentic packet sent or received.
    pub(super) last_traffic: Instant,
    /// The last update of boringtun's clock.
    pub(super) clock_synced_at: Instant,
    /// The time of the last authentic message received, as boringtun stamped it.
    pub(super) last_rx: Instant,
    /// The time of the keepalive that answers received data, if nothing is sent before.
    pub(super) keepalive_deadline: Option<Instant>,
    /// The time of the handshake that follows sent data, if nothing is received before.
    pub(super) rekey_deadline: Option<Instant>,
    /// The peer's timeout in the timer queue, which sets it.
    pub(super) scheduled_at: Option<Instant>,
    pub(super) backlog: Backlog,
    /// Signs of a misconfiguration; most peers have none.
    pub(super) symptoms: Option<Box<Symptoms>>,
    /// Totals of earlier runs, which `rx` and `tx` contain.
    pub(super) history: Option<Box<PeerHistory>>,
    pub(super) rx: u64,
    pub(super) tx: u64,
}

/// A handshake in progress that this side started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) started: Instant,
    pub(super) retry_at: Instant,
}

/// A handshake of the peer that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unconfirmed {
    pub(super) receiver: u32,
    pub(super) since: Instant,
}

impl Peer {
    pub(super) fn new(id: PeerId, index: u32, settings: PeerSettings, now: Instant) -> Self {
        Self {
            id,
            name: settings.name,
            public_key: settings.public_key,
            preshared_key: settings.preshared_key,
            allowed_ips: Vec::new(),
            persistent_keepalive: settings.persistent_keepalive,
            index,
            path: settings.endpoint.map(|remote| Path {
                remote,
                local: None,
            }),
            has_moved: false,
            noise: None,
            clock_stale_at: now,
            ready: false,
            attempt: None,
            initiation: None,
            unconfirmed: None,
            established: None,
            initiator: false,
            last_handshake: None,
            last_traffic: now,
            clock_synced_at: now,
            last_rx: now,
            keepalive_deadline: None,
            rekey_deadline: None,
            scheduled_at: None,
            backlog: Backlog::default(),
            symptoms: None,
            history: None,
            rx: 0,
            tx: 0,
        }
    }

    /// Returns whether boringtun's clock must be updated before use.
    pub(super) fn is_clock_stale(&self, now: Instant) -> bool {
        now >= self.clock_stale_at
    }

    /// Decrypts a data message. `dst` must hold the whole datagram.
    pub(super) fn open<'a>(&mut self, datagram: &[u8], dst: &'a mut [u8]) -> TunnResult<'a> {
        match &mut self.noise {
            Some(noise) => noise.decapsulate(None, datagram, dst),
            None => WireGuardError::NoCurrentSession.into(),
        }
    }

    /// Encrypts a packet into `dst` with the padding that `mtu` allows. Returns the length of the
    /// message, or `None` if `dst` is too small or there is no session.
    pub(super) fn seal(
        &mut self,
        packet: &[u8],
        mtu: usize,
        scratch: &mut [u8],
        dst: &mut [u8],
    ) -> Option<usize> {
        let noise = self.noise.as_mut().filter(|_| self.ready)?;
        let len = padded(packet.len(), mtu);
        if dst.len() < len + OVERHEAD {
            return None;
        }
        let plain = if len == packet.len() {
            packet
        } else {
            let plain = scratch.get_mut(..len)?;
            let (front, padding) = plain.split_at_mut(packet.len());
            front.copy_from_slice(packet);
            padding.fill(0);
            plain
        };
        match noise.encapsulate(plain, dst) {
            TunnResult::WriteToNetwork(message) => Some(message.len()),
            _ => None,
        }
    }

    /// Notes that a message of `len` bytes was sent.
    pub(super) fn note_sent(&mut self, len: usize, now: Instant) {
        self.tx += len as u64;
        self.last_traffic = now;
        self.keepalive_deadline = None;
    }

    /// Notes that a message with data was sent.
    pub(super) fn note_data_sent(&mut self, now: Instant) {
        if self.rekey_deadline.is_none() {
            self.rekey_deadline = Some(now + ANSWER_TIMEOUT);
        }
    }

    /// Notes that an authentic message was received, from the peer's present address.
    /// Returns whether that is another one than before.
    pub(super) fn note_received(
        &mut self,
        path: &Path,
        failures: &mut Failures,
        now: Instant,
    ) -> bool {
        self.last_traffic = now;
        self.rekey_deadline = None;
        self.last_rx = self.clock_synced_at;
        if self.clock_stale_at > now + CLOCK_SYNC_INTERVAL {
            self.clock_stale_at = now; // the answer for which the clock update was delayed
        }
        let has_moved = self.path.as_ref() != Some(path);
        if has_moved {
            self.roam(*path, failures, now);
        }
        has_moved
    }

    /// Notes that a message with data was received.
    pub(super) fn note_data_received(&mut self, now: Instant) {
        if self.keepalive_deadline.is_none() {
            self.keepalive_deadline = Some(now + KEEPALIVE_TIMEOUT);
        }
    }

    /// Returns whether a deadline is before the scheduled timeout. While packets flow this occurs
    /// at most every ten seconds, because a packet does not move a deadline that is set.
    pub(super) fn has_earlier_deadline(&self) -> bool {
        let is_earlier =
            |at: Option<Instant>| at.is_some_and(|at| self.scheduled_at.is_none_or(|due| at < due));
        is_earlier(self.keepalive_deadline) || is_earlier(self.rekey_deadline)
    }

    /// Leaves the choice of the source address to the kernel, as for its own endpoints, until the
    /// next message from the peer. Called when an answer is missing: the route of the old address
    /// may have failed.
    pub(super) fn clear_source(&mut self) {
        if let Some(path) = &mut self.path {
            path.local = None;
        }
    }

    #[cold]
    fn roam(&mut self, to: Path, failures: &mut Failures, now: Instant) {
        match self.path.replace(to) {
            Some(from) if from.remote != to.remote => {
                tracing::debug!(peer = %self.name, from = %from.remote, to = %to.remote, "peer roamed");
                let symptoms = self.symptoms.get_or_insert_default();
                if symptoms.moved(from.remote, to.remote, now) {
                    let cause = FailureCause::SharedKey(from.remote);
                    self.note_failure(cause, &to, failures, now);
                }
            }
            Some(_) => {}
            None => tracing::debug!(peer = %self.name, at = %to.remote, "peer found"),
        }
    }

    /// Records a failure and queues it for the log.
    #[cold]
    pub(super) fn note_failure(
        &mut self,
        cause: FailureCause,
        path: &Path,
        failures: &mut Failures,
        now: Instant,
    ) {
        let failure = Failure {
            cause,
            source: path.remote,
            peer: Some(self.id),
            at: now,
        };
        self.symptoms.get_or_insert_default().last = Some(failure);
        failures.note(failure);
    }

    /// Returns whether the peer's first prefix is this address alone, so that no other peer can
    /// have a longer one.
    pub(super) fn has_host(&self, address: IpAddr) -> bool {
        match self.allowed_ips.first() {
            Some(net) => net.prefix_len() == net.max_prefix_len() && net.addr() == address,
            None => false,
        }
    }

    /// Continues the totals of earlier runs.
    pub(super) fn restore_history(&mut self, history: PeerHistory) {
        self.rx += history.rx;
        self.tx += history.tx;
        self.last_handshake = self.last_handshake.or(history.last_handshake);
        self.history = Some(Box::new(history));
    }

    /// Returns the time of the last authentic message received.
    fn last_seen(&self) -> Option<Instant> {
        let history = self.history.as_deref().copied().unwrap_or_default();
        match self.rx > history.rx {
            true => Some(self.last_rx),
            false => history.last_seen,
        }
    }

    pub(super) fn status(&self) -> PeerStatus<'_> {
        PeerStatus {
            id: self.id,
            name: &self.name,
            public_key: self.public_key,
            preshared_key: self.preshared_key.as_ref(),
            allowed_ips: &self.allowed_ips,
            path: self.path.as_ref(),
            persistent_keepalive: self.persistent_keepalive,
            last_handshake: self.last_handshake,
            last_seen: self.last_seen(),
            rx: self.rx,
            tx: self.tx,
            connected: self.ready,
            queued: self.backlog.len(),
            last_failure: self.symptoms.as_ref().and_then(|symptoms| symptoms.last),
        }
    }
}
