//! Peers, AllowedIPs, receiver indices, limiter and timers, on boringtun.
//!
//! It turns datagrams into packets of a known peer ([`Tunnel::receive`]) and packets into
//! datagrams ([`Tunnel::seal`]). What it has to say on its own account (handshakes, cookies,
//! keepalives, packets that had to wait for a session) is fetched with
//! [`Tunnel::poll_transmit`]. Of several shards each knows all peers, their keys and prefixes, but
//! has sessions only with its own: what is for another one is handed back
//! ([`Received::OtherShard`]). It knows nothing of NAT or SMB, and has no socket and no clock;
//! only boringtun reads one, for its own delays.

mod allowed_ips;
mod backlog;
mod change;
mod failures;
mod handshake;
mod handshake_limiter;
mod indices;
mod outcome;
mod peer;
mod settings;
mod symptoms;
#[cfg(test)]
mod tests;
mod timer_queue;

pub use crate::ids::Shard;
pub use failures::{Failure, FailureCause};
pub use outcome::{DropReason, Received, Sealed, Transmit};
pub use settings::{Path, PeerError, PeerSettings, PeerStatus};
pub use vcgate_wire::ecn::Ecn;

use crate::ids::PeerId;
use allowed_ips::AllowedIps;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use failures::Failures;
use handshake::Context;
use handshake_limiter::{COOKIE_REPLY_LEN, HandshakeLimiter};
use hashbrown::HashMap;
use indices::Indices;
use peer::Peer;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use timer_queue::TimerQueue;

/// What a data message adds to the (padded) packet in it, in bytes.
pub const OVERHEAD: usize = 32;
/// A session takes no message with a counter from here on (WireGuard paper, section 6.1).
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// The most peers at a time: as many as one shard of [`Shard::MAX`] has receiver indices for.
const MOST_PEERS: usize = 1 << 17;

/// All peers of one private key.
pub struct Tunnel {
    shard: Shard,
    identity: Identity,
    gate: HandshakeLimiter,
    mtu: usize,
    /// By [`PeerId`], which is never given twice: a peer that was removed leaves 8 bytes behind here,
    /// and a few words with its rules and counters in the engine.
    peers: Vec<Option<Box<Peer>>>,
    by_key: HashMap<[u8; 32], PeerId>,
    indices: Indices,
    allowed: AllowedIps,
    schedule: TimerQueue,
    outbox: VecDeque<Transmit>,
    failures: Failures,
    rng: StdRng,
    /// A packet of at most the MTU with its padding.
    scratch: Vec<u8>,
}

/// Who we are.
struct Identity {
    private: StaticSecret,
    public: PublicKey,
    /// Every message was admitted by the gate before it comes to a peer, so the limiter that
    /// boringtun asks again has no limit.
    unlimited: Arc<RateLimiter>,
}

impl Identity {
    fn new(private: StaticSecret) -> Self {
        let public = PublicKey::from(&private);
        let unlimited = Arc::new(RateLimiter::new(&public, u64::MAX));
        Self {
            private,
            public,
            unlimited,
        }
    }
}

impl Tunnel {
    /// A tunnel without peers. `mtu` is that of the inner packets; `seed` makes the receiver
    /// indices and should be random.
    pub fn new(private_key: StaticSecret, mtu: u16, shard: Shard, seed: u64, now: Instant) -> Self {
        let identity = Identity::new(private_key);
        Self {
            shard,
            gate: HandshakeLimiter::new(&identity.public, now),
            identity,
            mtu: mtu.into(),
            peers: Vec::new(),
            by_key: HashMap::new(),
            indices: Indices::new(shard),
            allowed: AllowedIps::default(),
            schedule: TimerQueue::default(),
            outbox: VecDeque::new(),
            failures: Failures::default(),
            rng: StdRng::seed_from_u64(seed),
            scratch: vec![0; mtu.into()],
        }
    }

    /// Takes a datagram that came along `path`. `dst` must have at least its length.
    pub fn receive<'a>(
        &mut self,
        path: &Path,
        datagram: &[u8],
        dst: &'a mut [u8],
        now: Instant,
    ) -> Received<'a> {
        let result = match Tunn::parse_incoming_packet(datagram) {
            Ok(Packet::PacketData(data)) => {
                return self.receive_data(path, data.receiver_idx, datagram, dst, now);
            }
            Ok(Packet::PacketCookieReply(reply)) => match self.elsewhere(reply.receiver_idx) {
                Some(shard) => return elsewhere(shard),
                None => self.receive_handshake(path, reply.receiver_idx, datagram, now),
            },
            Ok(Packet::HandshakeResponse(response)) => {
                match self.elsewhere(response.receiver_idx) {
                    Some(shard) => return elsewhere(shard),
                    None => self.admit(path, datagram, now).and_then(|()| {
                        self.receive_handshake(path, response.receiver_idx, datagram, now)
                    }),
                }
            }
            Ok(Packet::HandshakeInit(_)) => {
                let admitted = self.admit(path, datagram, now);
                match admitted.and_then(|()| self.find_initiator(path, datagram, now)) {
                    Ok(peer) if !self.shard.owns(peer.0) => {
                        return Received::OtherShard {
                            shard: self.shard_of(peer),
                            initiator: Some(peer),
                        };
                    }
                    found => found.and_then(|peer| self.initiated(peer, path, datagram, now)),
                }
            }
            Err(_) => Err(DropReason::Malformed),
        };
        result.map_or_else(Received::Dropped, |()| Received::Nothing)
    }

    /// Takes a datagram that came along `path` to another shard, which found it to be for this
    /// one ([`Received::OtherShard`]). It is handed on no further.
    pub fn receive_from_shard<'a>(
        &mut self,
        path: &Path,
        datagram: &[u8],
        initiator: Option<PeerId>,
        dst: &'a mut [u8],
        now: Instant,
    ) -> Received<'a> {
        if let Some(peer) = initiator {
            let result = self.initiated(peer, path, datagram, now);
            return result.map_or_else(Received::Dropped, |()| Received::Nothing);
        }
        match self.receive(path, datagram, dst, now) {
            Received::OtherShard { .. } => Received::Dropped(DropReason::UnknownIndex),
            received => received,
        }
    }

    /// The shard whose a peer is.
    pub fn shard_of(&self, peer: PeerId) -> u8 {
        self.shard.owner(peer.0)
    }

    /// The peer that packets to `destination` go to.
    pub fn route(&self, destination: IpAddr) -> Option<PeerId> {
        self.allowed.lookup(destination)
    }

    /// Makes a datagram for a peer of a packet, padded as the kernel pads. The congestion mark of
    /// the outer packet ([`Ecn::outer`]) is the caller's to set.
    pub fn seal(&mut self, id: PeerId, packet: &[u8], dst: &mut [u8], now: Instant) -> Sealed {
        if self.peer(id).is_some_and(|peer| peer.is_stale(now)) {
            self.with_peer(id, now, Peer::before_send);
        }
        let Some(peer) = slot_mut(&mut self.peers, id) else {
            return Sealed::NoPeer;
        };
        if peer.path.is_none() {
            return Sealed::NoEndpoint;
        }
        if !peer.ready {
            self.with_peer(id, now, |peer, ctx| peer.enqueue(packet, ctx));
            return Sealed::Queued;
        }
        match peer.seal(packet, self.mtu, &mut self.scratch, dst) {
            Some(len) => {
                peer.count_tx(len, now);
                peer.sent_data(now);
                if peer.is_due_earlier() {
                    self.with_peer(id, now, |_, _| {});
                }
                Sealed::Written(len)
            }
            None => Sealed::BufferTooSmall,
        }
    }

    /// The length of the datagram that [`Tunnel::seal`] makes of a packet of `len` bytes.
    pub fn sealed_len(&self, len: usize) -> usize {
        padded(len, self.mtu) + OVERHEAD
    }

    /// Where datagrams to a peer go, once it is known.
    pub fn path(&self, peer: PeerId) -> Option<&Path> {
        self.peer(peer)?.path.as_ref()
    }

    /// The next datagram that the tunnel itself has to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// Returns the next reason why a client cannot connect that is due to be reported.
    pub fn poll_failure(&mut self) -> Option<Failure> {
        self.failures.poll()
    }

    /// Does everything that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.schedule.due(now) {
            self.with_peer(id, now, Peer::tick);
        }
    }

    /// When [`Tunnel::handle_timeout`] has something to do next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// The public key of whoever sent an initiation; the sender proved nothing yet.
    pub fn initiator(&self, datagram: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(init)) = Tunn::parse_incoming_packet(datagram) else {
            return None;
        };
        let Identity {
            private, public, ..
        } = &self.identity;
        let half = parse_handshake_anon(private, public, &init).ok()?;
        Some(half.peer_static_public.into())
    }

    /// The endpoint's private key.
    pub fn private_key(&self) -> &StaticSecret {
        &self.identity.private
    }

    /// The endpoint's public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.identity.public
    }

    /// What people call a peer.
    pub fn name(&self, peer: PeerId) -> Option<&str> {
        Some(self.peer(peer)?.status().name)
    }

    /// All peers, in the order in which they were added; of those of other shards only what is
    /// configured is known.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus<'_>> {
        self.peers.iter().flatten().map(|peer| peer.status())
    }

    /// The peers of this shard.
    pub fn own_peers(&self) -> impl Iterator<Item = PeerStatus<'_>> {
        self.peers().filter(|peer| self.shard.owns(peer.id.0))
    }

    fn receive_data<'a>(
        &mut self,
        path: &Path,
        receiver: u32,
        datagram: &[u8],
        dst: &'a mut [u8],
        now: Instant,
    ) -> Received<'a> {
        let Some(id) = self.indices.peer(receiver) else {
            return match self.elsewhere(receiver) {
                Some(shard) => elsewhere(shard),
                None => Received::Dropped(DropReason::UnknownIndex),
            };
        };
        if counter(datagram) >= REJECT_AFTER_MESSAGES {
            return Received::Dropped(DropReason::Replay);
        }
        if dst.len() < datagram.len() {
            return Received::Dropped(DropReason::BufferTooSmall);
        }
        if self.peer(id).is_some_and(|peer| peer.is_stale(now)) {
            self.with_peer(id, now, Peer::prepare);
        }
        let Some(peer) = slot_mut(&mut self.peers, id) else {
            return Received::Dropped(DropReason::UnknownIndex);
        };
        let result = peer.open(datagram, dst);
        let (packet, source) = match result {
            TunnResult::WriteToTunnelV4(packet, source) => (packet, Some(IpAddr::V4(source))),
            TunnResult::WriteToTunnelV6(packet, source) => (packet, Some(IpAddr::V6(source))),
            TunnResult::Done => (Default::default(), None), // a keepalive
            // Only found after decryption: the outside was parsed before.
            TunnResult::Err(WireGuardError::InvalidPacket) => {
                peer.heard(path, &mut self.failures, now);
                return Received::Dropped(DropReason::InnerMalformed);
            }
            TunnResult::Err(error) => return Received::Dropped(error.into()),
            TunnResult::WriteToNetwork(_) => return Received::Nothing,
        };
        peer.heard(path, &mut self.failures, now);
        let allowed = source.is_none_or(|source| {
            peer.heard_data(now);
            peer.has_host(source) || self.allowed.lookup(source) == Some(id)
        });
        if allowed {
            peer.rx += datagram.len() as u64;
        }
        if peer.needs_slow_path(receiver, now) {
            self.with_peer(id, now, |peer, ctx| peer.received_with(receiver, ctx));
        }
        match source {
            None => Received::Nothing,
            Some(_) if allowed => Received::Packet { peer: id, packet },
            Some(source) => {
                self.with_peer(id, now, |peer, ctx| peer.source_refused(source, path, ctx));
                Received::Dropped(DropReason::SourceNotAllowed)
            }
        }
    }

    /// The other shard, if there is one, that a receiver index names.
    fn elsewhere(&self, receiver: u32) -> Option<u8> {
        let shard = self.indices.shard(receiver);
        (shard != self.shard.number() && shard < self.shard.of()).then_some(shard)
    }

    /// Whose initiation it is.
    fn find_initiator(
        &mut self,
        path: &Path,
        datagram: &[u8],
        now: Instant,
    ) -> Result<PeerId, DropReason> {
        let Some(key) = self.initiator(datagram) else {
            self.stranger_failed(FailureCause::NotAuthentic, path, now);
            return Err(DropReason::NotAuthentic);
        };
        let found = self.by_key.get(key.as_bytes()).copied();
        found.ok_or_else(|| {
            self.stranger_failed(FailureCause::UnknownKey(key), path, now);
            DropReason::UnknownPeer
        })
    }

    /// Notes the failure of a sender that is not known to be a peer.
    fn stranger_failed(&mut self, cause: FailureCause, path: &Path, now: Instant) {
        self.failures.note(Failure {
            cause,
            source: path.remote,
            peer: None,
            at: now,
        });
    }

    fn initiated(
        &mut self,
        peer: PeerId,
        path: &Path,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        self.with_peer(peer, now, |peer, ctx| peer.handshake(path, datagram, ctx))
            .unwrap_or(Err(DropReason::UnknownPeer))
    }

    fn receive_handshake(
        &mut self,
        path: &Path,
        receiver: u32,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let id = self.indices.peer(receiver);
        id.and_then(|id| self.with_peer(id, now, |peer, ctx| peer.handshake(path, datagram, ctx)))
            .unwrap_or(Err(DropReason::UnknownIndex))
    }

    fn admit(&mut self, path: &Path, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let mut cookie = [0; COOKIE_REPLY_LEN];
        let source = path.remote.ip();
        let verdict = self.gate.admit(source, datagram, &mut cookie, now);
        if verdict == Err(DropReason::CookieSent) {
            self.outbox.push_back(Transmit {
                path: *path,
                bytes: cookie.to_vec(),
                ecn: Ecn::NotCapable,
            });
        }
        if verdict == Err(DropReason::Mac) {
            self.stranger_failed(FailureCause::WrongServerKey, path, now);
        }
        verdict
    }

    fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)?.as_deref()
    }

    /// Does something with a peer that is not on the hot path, and sees to its timers. Nothing
    /// with another shard's.
    fn with_peer<R>(
        &mut self,
        id: PeerId,
        now: Instant,
        f: impl FnOnce(&mut Peer, &mut Context) -> R,
    ) -> Option<R> {
        if !self.shard.owns(id.0) {
            return None;
        }
        let peer = slot_mut(&mut self.peers, id)?;
        let result = f(
            peer,
            &mut Context {
                identity: &self.identity,
                outbox: &mut self.outbox,
                failures: &mut self.failures,
                rng: &mut self.rng,
                scratch: &mut self.scratch,
                mtu: self.mtu,
                now,
            },
        );
        let due = peer.due(now);
        self.schedule.set(id, &mut peer.due_at, due);
        Some(result)
    }
}

fn elsewhere<'a>(shard: u8) -> Received<'a> {
    let initiator = None;
    Received::OtherShard { shard, initiator }
}

fn slot_mut(peers: &mut [Option<Box<Peer>>], id: PeerId) -> Option<&mut Peer> {
    peers.get_mut(id.0 as usize)?.as_deref_mut()
}

/// The length of a packet with its padding to 16 bytes, which never goes beyond the MTU.
fn padded(len: usize, mtu: usize) -> usize {
    if len >= mtu {
        return len;
    }
    len.next_multiple_of(16).min(mtu)
}

/// The counter of a data message.
fn counter(message: &[u8]) -> u64 {
    let counter = message.get(8..).and_then(|rest| rest.first_chunk());
    counter.map_or(u64::MAX, |counter| u64::from_le_bytes(*counter))
}
