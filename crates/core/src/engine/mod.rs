//! The data plane of one shard, without I/O: datagrams, LAN packets, commands and `now` go in;
//! datagrams, LAN packets, events and the next timeout come out.
//!
//! A packet runs through these files from top to bottom; each calls only files below it:
//!
//! ```text
//! mod              entry points, peers and settings
//! client → LAN                                   LAN → client
//! ingress_tunnel   decrypt, source check,
//!   gro            merge into super-packets
//! edge_stage       rate limits, client's → LAN's destination
//! route            the client's rules (policy)
//! nat_stage        inner → LAN address
//! inject           what NAT and SMB hook leave to send
//!                                                ingress_lan   LAN → inner address, rules
//! smb_stage        VcNumber                      smb_stage     the server's side
//!                                                edge_stage    rate limits, LAN's → client's source
//! shards           which shard owns it
//! egress           Output::lan_packet            egress        split, encrypt into the
//!                                                  gso         GSO batch, Output::datagrams
//! ```
//!
//! Beside it: `gateway` and `local_stack` answer at the gateway's own addresses, `capture` copies
//! super-packets before and after translation while a capture runs, `journal` carries the flows over
//! a restart and starts handshakes after it, and `resets` ends connections that cannot continue.
//!
//! One engine is one shard and passes packets of other shards on. It reads no clock and no socket,
//! takes no lock, starts no thread.

mod capture;
mod counters;
mod edge_stage;
mod egress;
mod gateway;
mod gro;
mod gso;
mod ingress_lan;
mod ingress_tunnel;
mod inject;
mod journal;
mod local_stack;
mod nat_stage;
mod output;
mod policy;
mod remote_endpoint;
mod resets;
mod route;
mod shaper;
mod shards;
mod smb_stage;

pub use capture::{CaptureBuffer, Direction, End, Filter, Frame, Note, PacketMetadata, Side};
pub use counters::{Counters, PeerDropCounters};
pub use gro::{GroQueue, GroResult};
pub use gso::GsoBatch;
pub use journal::Key;
pub use local_stack::MAX_ADDRESSES;
pub use output::{Output, ShardMessage};
pub use policy::{Destination, GlobalPolicy, OnDeny, Rule};
pub use resets::ServerConnection;
pub use shaper::Rates;
pub use shards::ShardTarget;

use crate::ids::{PeerId, ShardId};
use crate::nat::{self, BlockEvent, Forward, ForwardError, LanAddressError, Nat};
use crate::netmap::NetMap;
use crate::smb::{self, Hook, Numbers};
use crate::tunnel::{Ecn, Failure, Path, PeerError, PeerSettings, Tunnel};
use boringtun::x25519::StaticSecret;
use capture::Tap;
use counters::PeerDropTable;
use ipnet::IpNet;
use local_stack::LocalStack;
use output::Context;
use policy::Policy;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use resets::Resets;
use shaper::Shaper;
use shards::FirstFragments;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Instant;
use vcgate_wire::ip::Headers;
use vcgate_wire::virtio_net::Header;

/// The settings of an engine.
pub struct Settings {
    /// The endpoint's private key.
    pub private_key: StaticSecret,
    /// The gateway's own tunnel addresses, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpNet>,
    /// The inner MTU, in bytes.
    pub mtu: u16,
    /// The kinds of super-packets that the LAN side takes.
    pub merge: Merge,
    /// Maximum number of datagrams in one send.
    pub max_segments: usize,
    /// The shard that this engine is.
    pub shard: ShardId,
    /// The NAT's settings.
    pub nat: nat::Settings,
    /// The rules for all clients.
    pub policy: GlobalPolicy,
    /// The SMB hook's settings.
    pub smb: smb::Settings,
    /// The seed of port numbers and receiver indices: unpredictable outside of tests.
    pub seed: u64,
}

/// The kinds of super-packets that the LAN side's device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams.
    pub udp: bool,
}

/// One shard's data plane.
///
/// ```
/// use boringtun::x25519::{PublicKey, StaticSecret};
/// use std::{io::IoSlice, net::Ipv4Addr, time::Instant};
/// use vcgate_core::engine::{Engine, GlobalPolicy, Merge, Output, Rule, Settings, ShardMessage};
/// use vcgate_core::tunnel::{Ecn, Path, PeerSettings};
/// use vcgate_core::{ids::ShardId, nat, smb};
/// use vcgate_wire::virtio_net::Header;
///
/// /// Counts the datagrams that the engine sends.
/// struct Sent(usize);
///
/// impl Output for Sent {
///     fn datagrams(&mut self, _: &Path, _: Ecn, segment: usize, bytes: &[u8]) {
///         self.0 += bytes.chunks(segment).count();
///     }
///     fn lan_packet(&mut self, _: &Header, _: &[IoSlice<'_>]) {}
///     fn to_shard(&mut self, _: u8, _: ShardMessage) {}
/// }
///
/// let now = Instant::now();
/// let settings = Settings {
///     private_key: StaticSecret::from([1; 32]),
///     addresses: vec!["10.8.0.1/24".parse()?],
///     mtu: 1420,
///     merge: Merge { tcp: true, udp: true },
///     max_segments: 64,
///     shard: ShardId::ALONE,
///     nat: nat::Settings {
///         address: Ipv4Addr::new(192, 168, 77, 2),
///         pool: Vec::new(),
///         address6: None,
///         gateway: Ipv4Addr::new(10, 8, 0, 1),
///         gateway6: None,
///         filtering: nat::Filtering::default(),
///         on_unsolicited: nat::OnUnsolicited::default(),
///         timeouts: nat::Timeouts::default(),
///         limits: nat::Limits::default(),
///         mtu: 1420,
///         blocks: 0..nat::BLOCK_COUNT,
///         shard: ShardId::ALONE,
///     },
///     policy: GlobalPolicy::default(),
///     smb: smb::Settings::default(),
///     seed: 1,
/// };
/// let mut engine = Engine::new(settings, now);
/// let client = PeerSettings {
///     name: "client".into(),
///     public_key: PublicKey::from(&StaticSecret::from([2; 32])),
///     preshared_key: None,
///     allowed_ips: vec!["10.8.0.11/32".parse()?],
///     endpoint: Some("203.0.113.10:40000".parse()?),
///     persistent_keepalive: Some(25),
/// };
/// let rules = vec![Rule::network("192.168.77.0/24".parse()?)];
/// engine.add_peer(client, rules, now)?;
///
/// // The persistent keepalive makes the engine initiate a handshake.
/// let mut out = Sent(0);
/// engine.handle_timeout(engine.next_timeout().unwrap(), &mut out);
/// assert_eq!(out.0, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine {
    gro: GroQueue,
    plane: DataPlane,
}

/// The state of all stages after the GRO queue, whose arena holds the packets that they rewrite.
struct DataPlane {
    shard: ShardId,
    first_fragments: FirstFragments,
    tunnel: Tunnel,
    policy: Policy,
    peer_drops: PeerDropTable,
    shaper: Shaper,
    /// Whether packets pass `edge_stage`.
    has_edge: bool,
    nat: Nat,
    hook: Hook,
    local_stack: LocalStack,
    gso: GsoBatch,
    merge: Merge,
    counters: Counters,
    /// Packets of our own to the LAN address, which come in again as packets of the LAN.
    looped_back: VecDeque<Vec<u8>>,
    resets: Resets,
    /// `None` unless a capture runs.
    tap: Option<Box<Tap>>,
}

impl Engine {
    /// Makes an engine without peers.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let Settings {
            private_key,
            addresses,
            mtu,
            merge,
            max_segments,
            shard,
            nat,
            policy,
            smb,
            seed,
        } = settings;
        // Each module has its own generator, so that none's numbers reveal another's.
        let mut seeds = StdRng::seed_from_u64(seed);
        let mut engine = Self {
            gro: GroQueue::new(),
            plane: DataPlane {
                shard,
                first_fragments: FirstFragments::default(),
                tunnel: Tunnel::new(private_key, mtu, shard, seeds.random(), now),
                policy: Policy::new(policy),
                peer_drops: PeerDropTable::default(),
                shaper: Shaper::default(),
                has_edge: false,
                nat: Nat::new(nat, seeds.random(), now),
                hook: Hook::with_numbers(
                    smb,
                    Numbers::share(shard.number().into(), shard.of().into()),
                ),
                local_stack: LocalStack::new(&addresses, mtu, seeds.random(), now),
                gso: GsoBatch::new(max_segments),
                merge,
                counters: Counters::default(),
                looped_back: VecDeque::new(),
                resets: Resets::new(),
                tap: None,
            },
        };
        engine.plane.update_edge();
        engine
    }

    /// Takes datagrams of `stride` bytes each (the last may be shorter), back to back, that came
    /// over one path with one outer ECN field.
    pub fn datagrams(
        &mut self,
        path: &Path,
        outer_ecn: Ecn,
        stride: usize,
        bytes: &[u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        let cx = &mut Context::new(now, out);
        for datagram in bytes.chunks(stride.max(1)) {
            self.datagram(path, outer_ecn, datagram, Tunnel::receive, cx);
        }
    }

    /// Takes a packet or super-packet that the host routed to the LAN address, and returns the
    /// shard that owns it. The bytes are rewritten if that is this shard; else they are unchanged,
    /// to be passed on.
    pub fn lan_packet(
        &mut self,
        vnet: &Header,
        bytes: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) -> ShardTarget {
        let plane = &mut self.plane;
        let Some(packet) = plane.parse_lan_packet(vnet, bytes) else {
            return ShardTarget::Local;
        };
        if !plane.shard.is_alone() {
            match plane.shard_target(&packet) {
                ShardTarget::Local => {}
                other => return other,
            }
        }
        let cx = &mut Context::new(now, out);
        plane.lan_to_client(vnet, packet, cx);
        plane.drain_events(cx);
        ShardTarget::Local
    }

    /// Takes a message of another shard.
    pub fn deliver_message(&mut self, message: ShardMessage, now: Instant, out: &mut impl Output) {
        let cx = &mut Context::new(now, out);
        let plane = &mut self.plane;
        match message {
            ShardMessage::Datagram {
                path,
                ecn,
                initiator,
                bytes,
            } => {
                self.datagram(
                    &path,
                    ecn,
                    &bytes,
                    |tunnel, path, datagram, dst, now| {
                        tunnel.receive_from_shard(path, datagram, initiator, dst, now)
                    },
                    cx,
                );
            }
            ShardMessage::FromLan { header, mut bytes } => {
                if let Some(packet) = plane.parse_lan_packet(&header, &mut bytes) {
                    plane.lan_to_client(&header, packet, cx);
                    plane.drain_events(cx);
                }
            }
            ShardMessage::ToClient { header, mut bytes } => {
                let headers = Headers::parse(&bytes).ok();
                match headers.filter(|headers| plane.owns_client(headers.dst)) {
                    Some(headers) => plane.deliver(&header, &headers, &mut bytes, cx),
                    None => plane.counters.no_peer += 1,
                }
            }
        }
    }

    /// Ends a batch of reads: packets that waited to be merged or sent together leave.
    pub fn flush(&mut self, now: Instant, out: &mut impl Output) {
        let cx = &mut Context::new(now, out);
        self.flush_runs(cx);
        if !self.plane.resets.is_empty() {
            self.plane.send_resets(cx);
        }
        self.plane.transmit(out);
    }

    /// Handles all timeouts that are due.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut impl Output) {
        let plane = &mut self.plane;
        plane.release_shaped(&mut Context::new(now, out));
        plane.tunnel.handle_timeout(now);
        plane.nat.handle_timeout(now);
        plane.hook.handle_timeout(now);
        plane.drain_events(&mut Context::new(now, out));
        plane.transmit(out);
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) is due next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let DataPlane {
            tunnel, nat, hook, ..
        } = &self.plane;
        let all = [
            tunnel.next_timeout(),
            nat.next_timeout(),
            hook.next_timeout(),
            self.plane.shaper.next_timeout(),
        ];
        all.into_iter().flatten().min()
    }

    /// Adds a peer that may reach the destinations of `rules`.
    ///
    /// # Errors
    ///
    /// If the tunnel cannot take the peer; nothing has changed then.
    pub fn add_peer(
        &mut self,
        peer: PeerSettings,
        rules: Vec<Rule>,
        now: Instant,
    ) -> Result<PeerId, PeerError> {
        let has_prefixes = !peer.allowed_ips.is_empty();
        let id = self.plane.tunnel.add_peer(peer, now)?;
        self.plane.policy.set(id, rules);
        // The id may have been another peer's.
        self.plane.peer_drops.reset(id);
        if has_prefixes {
            // They may be part of another peer's wider prefix.
            self.plane.drop_reassigned(now);
        }
        Ok(id)
    }

    /// Skips a peer id, so that the next peer is one of another shard.
    pub fn skip_peer(&mut self) {
        self.plane.tunnel.skip_peer();
    }

    /// Removes a peer and ends its flows. Both ends of their TCP connections are sent a reset.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        self.plane.nat.remove_peer(peer, now);
        // While the peer can still be reached.
        self.plane.reset_severed(now);
        self.plane.policy.set(peer, Vec::new());
        self.plane.set_rates(peer, Rates::default(), now);
        self.plane.tunnel.remove_peer(peer);
    }

    /// Changes a peer. Its session survives, unless the preshared key changes.
    pub fn change_peer(&mut self, id: PeerId, peer: PeerSettings, rules: Vec<Rule>, now: Instant) {
        self.plane.policy.set(id, rules);
        self.plane.tunnel.change_peer(id, peer, now);
    }

    /// Runs `change`, then ends the flows of all addresses that it gave to another peer.
    pub fn change_peers<T>(&mut self, now: Instant, change: impl FnOnce(&mut Self) -> T) -> T {
        let result = change(self);
        self.plane.drop_reassigned(now);
        self.plane.tunnel.release_removed_ids();
        result
    }

    /// Replaces a peer's rules.
    pub fn set_rules(&mut self, peer: PeerId, rules: Vec<Rule>) {
        self.plane.policy.set(peer, rules);
    }

    /// Sets the rate limits of a peer; by default there are none.
    pub fn set_rates(&mut self, peer: PeerId, rates: Rates, now: Instant) {
        self.plane.set_rates(peer, rates, now);
    }

    /// Replaces the rules for all clients.
    pub fn set_global_policy(&mut self, policy: GlobalPolicy) {
        self.plane.policy.global = policy;
        self.plane.update_edge();
    }

    /// Returns the prefixes of the LAN that clients know under others.
    pub fn netmap(&self) -> &NetMap {
        &self.plane.policy.global.netmap
    }

    /// Replaces the NAT's settings on which no flow depends.
    pub fn set_nat(&mut self, adjustable: nat::AdjustableSettings) {
        self.plane.nat.update_settings(adjustable);
    }

    /// Gives a peer an IPv4 address on the LAN that no other peer uses, or takes it away. Its IPv4
    /// flows end if that is a change, and both ends of their TCP connections are sent a reset.
    ///
    /// # Errors
    /// If the address has another use; nothing has changed then.
    pub fn set_lan_address(
        &mut self,
        peer: PeerId,
        address: Option<Ipv4Addr>,
        now: Instant,
    ) -> Result<(), LanAddressError> {
        let set = self.plane.nat.set_lan_address(peer, address, now);
        self.plane.reset_severed(now);
        set
    }

    /// Replaces the LAN addresses that clients share, except for the first one, which always remains.
    /// Forwards and flows of addresses that are removed end, and both ends of TCP connections are sent
    /// a reset. All shards must have removed an address before it is used otherwise.
    ///
    /// # Errors
    /// If an address has another use; nothing has changed then.
    pub fn set_lan_pool(&mut self, pool: &[Ipv4Addr], now: Instant) -> Result<(), LanAddressError> {
        let set = self.plane.nat.set_pool(pool, now);
        self.plane.reset_severed(now);
        set
    }

    /// Forwards a port of a LAN address to a client.
    ///
    /// # Errors
    ///
    /// If the port or the client's end is taken.
    pub fn add_forward(&mut self, forward: Forward, now: Instant) -> Result<(), ForwardError> {
        let added = self.plane.nat.add_forward(forward, now);
        self.plane.reset_severed(now);
        added
    }

    /// Removes a forward and returns whether it existed.
    pub fn remove_forward(&mut self, forward: Forward, now: Instant) -> bool {
        let removed = self.plane.nat.remove_forward(forward, now);
        self.plane.reset_severed(now);
        removed
    }

    /// Returns the shard that this engine is.
    pub fn shard(&self) -> ShardId {
        self.plane.shard
    }

    /// Returns the tunnel, to change keys, endpoints and keepalives; AllowedIPs only within
    /// [`change_peers`](Self::change_peers).
    pub fn tunnel_mut(&mut self) -> &mut Tunnel {
        &mut self.plane.tunnel
    }

    /// Returns the tunnel with its peers.
    pub fn tunnel(&self) -> &Tunnel {
        &self.plane.tunnel
    }

    /// Returns the NAT with its flows.
    pub fn nat(&self) -> &Nat {
        &self.plane.nat
    }

    /// Returns the SMB hook.
    pub fn hook(&self) -> &Hook {
        &self.plane.hook
    }

    /// Takes the oldest event of the SMB hook; call it until `None` after each batch.
    pub fn poll_event(&mut self) -> Option<smb::Event> {
        self.plane.hook.poll_event()
    }

    /// Takes the oldest reason why a client cannot connect; call it until `None` after each batch.
    pub fn poll_failure(&mut self) -> Option<Failure> {
        self.plane.tunnel.poll_failure()
    }

    /// Takes the oldest event of a port block that was given to a client or returned.
    pub fn poll_block(&mut self) -> Option<BlockEvent> {
        self.plane.nat.poll_block()
    }

    /// Returns the number of packets that a peer was refused.
    pub fn drop_counters(&self, peer: PeerId) -> PeerDropCounters {
        self.plane.peer_drops.get(peer)
    }

    /// Returns the number of packets that the engine itself dropped.
    pub fn counters(&self) -> &Counters {
        &self.plane.counters
    }
}

impl DataPlane {
    /// Ends the flows of addresses that became another peer's.
    fn drop_reassigned(&mut self, now: Instant) {
        self.nat.drop_reassigned(&self.tunnel, now);
        self.reset_severed(now);
    }
}
