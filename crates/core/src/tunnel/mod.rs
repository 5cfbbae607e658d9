//! WireGuard tunnels: peers, AllowedIPs, receiver indices, the handshake limiter and timers, on
//! boringtun.
//!
//! ```text
//! receive            a datagram: admission, decryption, source check
//! peer               one peer: encryption, decryption, counters
//! handshake          one peer: handshakes, timers, keepalives
//! handshake_limiter  MAC, cookie and rate before any key exchange
//! change             changes of peers and keys while packets flow
//! allowed_ips        inner address → peer
//! indices            receiver index → peer and shard
//! peer_ids           allocation of peer ids
//! timer_queue        the peers by their next timeout
//! resume             handshakes after a restart
//! backlog            packets that wait for a session
//! failures, symptoms reasons why clients cannot connect, for the log
//! ```
//!
//! Each shard knows the keys and prefixes of all peers, but has sessions with its own peers only:
//! a message for another shard is returned as [`Received::OtherShard`]. The tunnel never looks at
//! NAT or SMB, and has no socket and no clock; only boringtun reads one, for its own timeouts.

mod allowed_ips;
mod backlog;
mod change;
mod failures;
mod handshake;
mod handshake_limiter;
mod indices;
mod outcome;
mod peer;
mod peer_ids;
mod receive;
mod resume;
mod settings;
mod symptoms;
#[cfg(test)]
mod tests;
mod timer_queue;

pub use crate::ids::ShardId;
pub use failures::{Failure, FailureCause};
pub use handshake::REJECT_AFTER_TIME;
pub use outcome::{DropReason, Received, Sealed, Transmit};
pub use settings::{Path, PeerError, PeerHistory, PeerSettings, PeerStatus};
pub use vcgate_wire::ecn::Ecn;

use crate::ids::PeerId;
use allowed_ips::AllowedIps;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::{PublicKey, StaticSecret};
use failures::Failures;
use handshake::Context;
use handshake_limiter::HandshakeLimiter;
use hashbrown::HashMap;
use indices::Indices;
use peer::Peer;
use peer_ids::PeerIds;
use rand::SeedableRng;
use rand::rngs::StdRng;
use resume::Resuming;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use timer_queue::TimerQueue;

/// The bytes that a data message adds to its (padded) packet.
pub const OVERHEAD: usize = 32;

/// Maximum number of peers: one of [`ShardId::MAX`] shards has receiver indices for this many.
const MAX_PEERS: usize = 1 << 17;

/// All peers of one private key.
///
/// ```
/// use std::time::Instant;
/// use vcgate_core::keys::PrivateKey;
/// use vcgate_core::tunnel::{Path, PeerSettings, Received, Sealed, ShardId, Tunnel};
///
/// let now = Instant::now();
/// let addresses = ["192.0.2.1:51820".parse()?, "198.51.100.7:40000".parse()?];
/// let [gateway_key, client_key] = [PrivateKey::generate()?, PrivateKey::generate()?];
/// let tunnel = |own: &PrivateKey, other: &PrivateKey, allowed_ips: &str, endpoint| {
///     let mut tunnel = Tunnel::new(own.secret().clone(), 1420, ShardId::ALONE, 7, now);
///     let settings = PeerSettings {
///         name: "other".into(),
///         public_key: other.public_key().into(),
///         preshared_key: None,
///         allowed_ips: vec![allowed_ips.parse().unwrap()],
///         endpoint,
///         persistent_keepalive: None,
///     };
///     let peer = tunnel.add_peer(settings, now).unwrap();
///     (tunnel, peer)
/// };
/// let (mut gateway, _) = tunnel(&gateway_key, &client_key, "10.8.0.2/32", None);
/// let (mut client, peer) = tunnel(&client_key, &gateway_key, "0.0.0.0/0", Some(addresses[0]));
/// let [to_gateway, to_client] = addresses.map(|remote| Path { remote, local: None });
///
/// // A packet waits for the handshake, and is sent with its completion.
/// let mut packet = [0; 20];
/// (packet[0], packet[3]) = (0x45, 20);
/// packet[12..16].copy_from_slice(&[10, 8, 0, 2]);
/// let mut buffer = [0; 2048];
/// assert_eq!(client.seal(peer, &packet, &mut buffer, now), Sealed::Queued);
/// client.handle_timeout(now);
/// let initiation = client.poll_transmit().unwrap();
/// gateway.receive(&to_client, &initiation.bytes, &mut buffer, now);
/// let response = gateway.poll_transmit().unwrap();
/// client.receive(&to_gateway, &response.bytes, &mut buffer, now);
/// let data = client.poll_transmit().unwrap();
/// let Received::Packet { packet: received, .. } =
///     gateway.receive(&to_client, &data.bytes, &mut buffer, now)
/// else {
///     panic!("no packet");
/// };
/// assert_eq!(received, packet);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Tunnel {
    shard: ShardId,
    identity: Identity,
    handshake_limiter: HandshakeLimiter,
    mtu: usize,
    /// By [`PeerId`].
    peers: Vec<Option<Box<Peer>>>,
    ids: PeerIds,
    by_key: HashMap<[u8; 32], PeerId>,
    indices: Indices,
    allowed_ips: AllowedIps,
    timers: TimerQueue,
    resuming: Resuming,
    outbox: VecDeque<Transmit>,
    failures: Failures,
    /// Peers with another endpoint, for the journal; `None` if no journal is kept.
    moved: Option<Vec<PeerId>>,
    rng: StdRng,
    /// Memory for a packet of at most the MTU with its padding.
    scratch: Vec<u8>,
}

/// The endpoint's key pair.
struct Identity {
    private: StaticSecret,
    public: PublicKey,
    /// The limiter that boringtun asks. It has no limit: the handshake limiter has admitted every
    /// message before.
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
    /// Creates a tunnel without peers. `mtu` is that of the inner packets, in bytes; `seed`
    /// determines the receiver indices and should be random.
    pub fn new(
        private_key: StaticSecret,
        mtu: u16,
        shard: ShardId,
        seed: u64,
        now: Instant,
    ) -> Self {
        let identity = Identity::new(private_key);
        Self {
            shard,
            handshake_limiter: HandshakeLimiter::new(&identity.public, now),
            identity,
            mtu: mtu.into(),
            peers: Vec::new(),
            ids: PeerIds::default(),
            by_key: HashMap::new(),
            indices: Indices::new(shard),
            allowed_ips: AllowedIps::default(),
            timers: TimerQueue::default(),
            resuming: Resuming::default(),
            outbox: VecDeque::new(),
            failures: Failures::default(),
            moved: None,
            rng: StdRng::seed_from_u64(seed),
            scratch: vec![0; mtu.into()],
        }
    }

    /// Returns the number of the shard that owns a peer.
    pub fn shard_of(&self, peer: PeerId) -> u8 {
        self.shard.owner(peer.0)
    }

    /// Returns the peer that receives packets to `destination`.
    pub fn route(&self, destination: IpAddr) -> Option<PeerId> {
        self.allowed_ips.lookup(destination)
    }

    /// Encrypts a packet into a datagram for a peer, padded as the kernel pads. The caller sets
    /// the congestion mark of the outer packet ([`Ecn::outer`]).
    pub fn seal(&mut self, id: PeerId, packet: &[u8], dst: &mut [u8], now: Instant) -> Sealed {
        if self.peer(id).is_some_and(|peer| peer.is_clock_stale(now)) {
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
                peer.note_sent(len, now);
                peer.note_data_sent(now);
                if peer.has_earlier_deadline() {
                    self.with_peer(id, now, |_, _| {});
                }
                Sealed::Written(len)
            }
            None => Sealed::BufferTooSmall,
        }
    }

    /// Queues a packet for a peer that has a session; without one, the packet is dropped.
    pub fn send_if_connected(&mut self, id: PeerId, packet: &[u8], now: Instant) {
        self.with_peer(id, now, |peer, ctx| peer.send_if_connected(packet, ctx));
    }

    /// Returns the length of the datagram that [`Tunnel::seal`] makes of a packet of `len` bytes.
    pub fn sealed_len(&self, len: usize) -> usize {
        padded(len, self.mtu) + OVERHEAD
    }

    /// Returns the path of datagrams to a peer, once it is known.
    pub fn path(&self, peer: PeerId) -> Option<&Path> {
        self.peer(peer)?.path.as_ref()
    }

    /// Returns the next datagram that the tunnel itself sends: handshakes, cookies, keepalives,
    /// and packets that waited for a session.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// Returns the next reason why a client cannot connect that is due to be reported.
    pub fn poll_failure(&mut self) -> Option<Failure> {
        self.failures.poll()
    }

    /// Runs the timers that are due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.resume_due(now);
        while let Some(id) = self.timers.due(now) {
            self.with_peer(id, now, Peer::tick);
        }
    }

    /// Returns the time of the next [`Tunnel::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        let all = [self.timers.next(), self.resuming.next()];
        all.into_iter().flatten().min()
    }

    /// Starts to collect the peers of this shard whose endpoints change; all of them are the first.
    pub(crate) fn collect_moved(&mut self) {
        let own = self.own_peers().map(|peer| peer.id);
        self.moved = Some(own.collect());
    }

    /// Returns whether there are peers to take.
    pub(crate) fn has_moved(&self) -> bool {
        self.moved.as_ref().is_some_and(|moved| !moved.is_empty())
    }

    /// Takes the peers with another endpoint.
    pub(crate) fn take_moved(&mut self) -> Vec<PeerId> {
        let moved = self.moved.as_mut();
        moved.map(std::mem::take).unwrap_or_default()
    }

    fn note_moved(&mut self, peer: PeerId) {
        if let Some(moved) = &mut self.moved {
            moved.push(peer);
        }
    }

    /// Returns the configuration and the state of a peer.
    pub(crate) fn status(&self, peer: PeerId) -> Option<PeerStatus<'_>> {
        Some(self.peer(peer)?.status())
    }

    /// Returns the endpoint's private key.
    pub fn private_key(&self) -> &StaticSecret {
        &self.identity.private
    }

    /// Returns the endpoint's public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.identity.public
    }

    /// Returns the configured name of a peer.
    pub fn name(&self, peer: PeerId) -> Option<&str> {
        Some(self.peer(peer)?.status().name)
    }

    /// Returns all peers by id; of those of other shards, only the configured values are valid.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus<'_>> {
        self.peers.iter().flatten().map(|peer| peer.status())
    }

    /// Returns the peers of this shard.
    pub fn own_peers(&self) -> impl Iterator<Item = PeerStatus<'_>> {
        self.peers().filter(|peer| self.shard.owns(peer.id.0))
    }

    fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)?.as_deref()
    }

    /// Runs `f` on a peer of this shard and reschedules the peer's timer. It is not used for each
    /// packet. Returns `None` if the peer does not exist or belongs to another shard.
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
        let due = peer.next_timeout(now);
        self.timers.set(id, &mut peer.scheduled_at, due);
        if std::mem::take(&mut peer.has_moved) {
            self.note_moved(id);
        }
        Some(result)
    }
}

fn slot_mut(peers: &mut [Option<Box<Peer>>], id: PeerId) -> Option<&mut Peer> {
    peers.get_mut(id.0 as usize)?.as_deref_mut()
}

/// Returns the length of a packet padded to a multiple of 16 bytes, but not beyond the MTU.
fn padded(len: usize, mtu: usize) -> usize {
    if len >= mtu {
        return len;
    }
    len.next_multiple_of(16).min(mtu)
}
