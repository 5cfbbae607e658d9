//! One peer: its settings, its counters, and the hot path of a packet to it and from it.
//!
//! Handshakes and timers are in `handshake.rs`. It never looks at other peers: AllowedIPs and
//! indices are the tunnel's.

use super::backlog::Backlog;
use super::failures::{Failure, FailureCause, Failures};
use super::settings::{Path, PeerSettings, PeerStatus};
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

/// How long boringtun may go without being told the time, while packets flow. It stamps events
/// with the time it was last told, and its shortest delay is 5 s.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// How long data may go without a message in return (WireGuard paper, section 6.1). boringtun
/// has this delay too, but overlooks data that came within [`FRESH`] of the last message sent.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long data waits for an answer before a handshake is begun (KEEPALIVE_TIMEOUT +
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
    /// The peer's high 24 bits of a receiver index.
    pub(super) index: u32,
    pub(super) path: Option<Path>,
    /// Made when it is first needed: it is nearly all of a peer's memory.
    pub(super) noise: Option<Box<Tunn>>,
    /// When boringtun must be told the time before its next use.
    pub(super) clock_stale_at: Instant,
    /// There is a session to send with.
    pub(super) ready: bool,
    /// The handshake that we began and that was not answered yet.
    pub(super) attempt: Option<Attempt>,
    /// The initiation of that handshake, until [`tick`](Self::tick) sends it.
    pub(super) initiation: Option<Box<[u8]>>,
    /// The session that we answered an initiation with, and that no data confirmed yet.
    pub(super) unconfirmed: Option<Unconfirmed>,
    /// When boringtun last made a session, confirmed or not, that it still may hold.
    pub(super) established: Option<Instant>,
    /// We began the handshake of that session, so we see to the next one.
    pub(super) initiator: bool,
    pub(super) last_handshake: Option<Instant>,
    /// When an authentic packet was last sent or received.
    pub(super) last_traffic: Instant,
    /// When boringtun was last told the time.
    pub(super) clock_synced_at: Instant,
    /// When an authentic message last came, as boringtun stamped it.
    pub(super) last_rx: Instant,
    /// Data came since the last message to the peer: it gets a keepalive at this time.
    pub(super) keepalive_deadline: Option<Instant>,
    /// Data went since the last message from the peer: it is asked for a new session at this time.
    pub(super) rekey_deadline: Option<Instant>,
    /// When something is due for this peer; kept by the schedule.
    pub(super) due_at: Option<Instant>,
    pub(super) backlog: Backlog,
    /// Signs of a wrong set-up; most peers have none.
    pub(super) symptoms: Option<Box<Symptoms>>,
    pub(super) rx: u64,
    pub(super) tx: u64,
}

/// A handshake of ours under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) started: Instant,
    pub(super) retry_at: Instant,
}

/// A handshake of the peer's that we answered.
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
            due_at: None,
            backlog: Backlog::default(),
            symptoms: None,
            rx: 0,
            tx: 0,
        }
    }

    /// Boringtun must be told the time before it is used.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        now >= self.clock_stale_at
    }

    /// Decrypts a data message. `dst` must hold the whole datagram.
    pub(super) fn open<'a>(&mut self, datagram: &[u8], dst: &'a mut [u8]) -> TunnResult<'a> {
        match &mut self.noise {
            Some(noise) => noise.decapsulate(None, datagram, dst),
            None => WireGuardError::NoCurrentSession.into(),
        }
    }

    /// Encrypts a packet into `dst` with the padding that `mtu` allows. `None` if `dst` is too
    /// small, or there is no session.
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

    /// A message was sent.
    pub(super) fn count_tx(&mut self, len: usize, now: Instant) {
        self.tx += len as u64;
        self.last_traffic = now;
        self.keepalive_deadline = None;
    }

    /// There was something in a message that was sent.
    pub(super) fn sent_data(&mut self, now: Instant) {
        if self.rekey_deadline.is_none() {
            self.rekey_deadline = Some(now + ANSWER_TIMEOUT);
        }
    }

    /// An authentic message came: the peer is where it came from.
    pub(super) fn heard(&mut self, path: &Path, failures: &mut Failures, now: Instant) {
        self.last_traffic = now;
        self.rekey_deadline = None;
        self.last_rx = self.clock_synced_at;
        if self.clock_stale_at > now + FRESH {
            self.clock_stale_at = now; // this was the answer that boringtun was left alone for
        }
        if self.path.as_ref() != Some(path) {
            self.roam(*path, failures, now);
        }
    }

    /// There was something in the message.
    pub(super) fn heard_data(&mut self, now: Instant) {
        if self.keepalive_deadline.is_none() {
            self.keepalive_deadline = Some(now + KEEPALIVE_TIMEOUT);
        }
    }

    /// Something is due before the schedule knows of it. While packets flow that is so every ten
    /// seconds at most: a time that has passed by then was not set anew for each of them.
    pub(super) fn is_due_earlier(&self) -> bool {
        let is_earlier =
            |at: Option<Instant>| at.is_some_and(|at| self.due_at.is_none_or(|due| at < due));
        is_earlier(self.keepalive_deadline) || is_earlier(self.rekey_deadline)
    }

    /// An answer did not come: the kernel chooses the address that is sent from, as with its own
    /// endpoints, until the peer is heard again. The way that the old one belongs to may have failed.
    pub(super) fn forget_source(&mut self) {
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

    /// Remembers a failure and lets it be reported.
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

    /// The address is one that the peer has all for itself: no longer prefix can be another's.
    pub(super) fn has_host(&self, address: IpAddr) -> bool {
        match self.allowed_ips.first() {
            Some(net) => net.prefix_len() == net.max_prefix_len() && net.addr() == address,
            None => false,
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
            rx: self.rx,
            tx: self.tx,
            connected: self.ready,
            queued: self.backlog.len(),
            last_failure: self.symptoms.as_ref().and_then(|symptoms| symptoms.last),
        }
    }
}
