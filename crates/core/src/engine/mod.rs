//! The pipeline, without any I/O: datagrams, LAN packets, commands and `now` go in; datagrams,
//! LAN packets and the next timeout come out.
//!
//! Client → LAN (`to_lan.rs`), for each datagram:
//!   1. tunnel: decrypt, who is it, may this source be theirs
//!   2. outer ECN mark, IP header, addresses
//!   3. gather: consecutive segments of a flow become one super-packet
//!
//! and for each super-packet:
//!   4. policy: what this client may reach, and whether it goes there as it is (`way.rs`)
//!   5. nat: inner address → LAN address
//!   6. smb: the flow's VcNumber
//!   7. [`Output::lan_packet`]
//!
//! LAN → client (`to_client.rs`), for each super-packet:
//!   1. nat: LAN address → inner address
//!   2. smb: the server's side
//!   3. tunnel: whose address is it
//!
//! and for each segment cut from it:
//!   4. tunnel: encrypt straight into the tail of the GSO buffer
//!   5. [`Output::datagrams`] when the buffer is full or the batch ends
//!
//! While somebody captures, a tap (`tapped.rs`) copies super-packets before 4 and after 6, and on
//! the way back before 1 and after 3.
//!
//! One engine is one shard; what is for another one it hands on (`mates.rs`). It reads no clock
//! and no socket, takes no lock, starts no thread.

mod counters;
mod drop_counters;
mod gro;
mod gso;
mod inject;
mod local_stack;
mod output;
mod policy;
mod remote_endpoint;
mod route;
mod shards;
mod smb_stage;
mod snapshot;
mod tap;
mod tapped;
mod to_client;
mod to_lan;

pub use counters::Counters;
pub use drop_counters::PeerDropCounters;
pub use gro::{GroQueue, GroResult};
pub use gso::GsoBatch;
pub use local_stack::MAX_ADDRESSES;
pub use output::{Output, ShardMessage};
pub use policy::{Destination, GlobalPolicy, OnDeny, Rule};
pub use shards::ShardTarget;
pub use snapshot::{Key, Snapshot};
pub use tap::{CaptureBuffer, Direction, End, Filter, Frame, Note, PacketMetadata, Side};

use crate::ids::{PeerId, Shard};
use crate::nat::{self, BlockEvent, Forward, ForwardError, Nat};
use crate::smb::{self, Hook};
use crate::tunnel::{Failure, PeerError, PeerSettings, Transmit, Tunnel};
use boringtun::x25519::StaticSecret;
use drop_counters::PeerDropTable;
use ipnet::IpNet;
use local_stack::LocalStack;
use policy::Policy;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shards::Pieces;
use std::net::IpAddr;
use std::time::Instant;
use tap::Tap;

/// What an engine is made from.
pub struct Settings {
    /// The endpoint's private key.
    pub private_key: StaticSecret,
    /// The gateway's own tunnel addresses.
    pub addresses: Vec<IpNet>,
    /// The inner MTU, in bytes.
    pub mtu: u16,
    /// What kinds of super-packets the LAN side takes.
    pub merge: Merge,
    /// As many datagrams may leave in one send.
    pub max_segments: usize,
    /// Which of several engines this is.
    pub shard: Shard,
    /// The NAT's part.
    pub nat: nat::Settings,
    /// What holds for all clients.
    pub common: GlobalPolicy,
    /// The SMB hook's part.
    pub smb: smb::Settings,
    /// For port choice and indices: must be unpredictable outside of tests.
    pub seed: u64,
}

/// What the LAN side's device takes as super-packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams.
    pub udp: bool,
}

/// One shard's data plane.
pub struct Engine {
    gather: GroQueue,
    rooms: DataPlane,
}

/// The rooms that a packet goes through, apart from the buffers that it lies in.
struct DataPlane {
    shard: Shard,
    pieces: Pieces,
    tunnel: Tunnel,
    policy: Policy,
    shares: PeerDropTable,
    nat: Nat,
    hook: Hook,
    gateway: LocalStack,
    batch: GsoBatch,
    merge: Merge,
    counters: Counters,
    /// There only while somebody captures.
    tap: Option<Box<Tap>>,
}

impl Engine {
    /// An engine without peers.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let Settings {
            private_key,
            addresses,
            mtu,
            merge,
            max_segments,
            shard,
            nat,
            common,
            smb,
            seed,
        } = settings;
        // No room's numbers tell another one's.
        let mut seeds = StdRng::seed_from_u64(seed);
        Self {
            gather: GroQueue::new(),
            rooms: DataPlane {
                shard,
                pieces: Pieces::default(),
                tunnel: Tunnel::new(private_key, mtu, shard, seeds.random(), now),
                policy: Policy::new(common),
                shares: PeerDropTable::default(),
                nat: Nat::new(nat, seeds.random(), now),
                hook: Hook::new(smb),
                gateway: LocalStack::new(&addresses, mtu, seeds.random(), now),
                batch: GsoBatch::new(max_segments),
                merge,
                counters: Counters::default(),
                tap: None,
            },
        }
    }

    /// The end of a batch of reads: what waited to be merged or sent together leaves.
    pub fn flush(&mut self, now: Instant, out: &mut impl Output) {
        self.flush_runs(now, out);
        self.rooms.transmit(out);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut impl Output) {
        self.rooms.tunnel.handle_timeout(now);
        self.rooms.nat.handle_timeout(now);
        self.rooms.hook.handle_timeout(now);
        self.rooms.drain_events(now, out);
        self.rooms.transmit(out);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let DataPlane {
            tunnel, nat, hook, ..
        } = &self.rooms;
        let all = [
            tunnel.next_timeout(),
            nat.next_timeout(),
            hook.next_timeout(),
        ];
        all.into_iter().flatten().min()
    }

    /// Adds a peer that may reach what `rules` say.
    pub fn add_peer(
        &mut self,
        peer: PeerSettings,
        rules: Vec<Rule>,
        now: Instant,
    ) -> Result<PeerId, PeerError> {
        let takes = !peer.allowed_ips.is_empty();
        let id = self.rooms.tunnel.add_peer(peer, now)?;
        self.rooms.policy.set(id, rules);
        // The id may have been another peer's.
        self.rooms.shares.reset(id);
        if takes {
            // Maybe out of another one's wider prefix.
            self.rooms.drop_reassigned(now);
        }
        Ok(id)
    }

    /// The next peer's number is nobody's: the one behind it belongs to another shard.
    pub fn skip_peer(&mut self) {
        self.rooms.tunnel.skip_peer();
    }

    /// Removes a peer and ends its flows.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        self.rooms.nat.remove_peer(peer, now);
        self.rooms.policy.set(peer, Vec::new());
        self.rooms.tunnel.remove_peer(peer);
    }

    /// Changes a peer. Its session stays, unless the preshared key is another one.
    pub fn change_peer(&mut self, id: PeerId, peer: PeerSettings, rules: Vec<Rule>, now: Instant) {
        self.rooms.policy.set(id, rules);
        self.rooms.tunnel.change_peer(id, peer, now);
    }

    /// Makes changes to peers; then the flows of each address end that is no longer the same
    /// peer's.
    pub fn change_peers<T>(&mut self, now: Instant, change: impl FnOnce(&mut Self) -> T) -> T {
        let result = change(self);
        self.rooms.drop_reassigned(now);
        self.rooms.tunnel.release_removed_ids();
        result
    }

    /// Replaces a peer's rules.
    pub fn set_rules(&mut self, peer: PeerId, rules: Vec<Rule>) {
        self.rooms.policy.set(peer, rules);
    }

    /// Replaces what holds for all clients.
    pub fn set_global_policy(&mut self, common: GlobalPolicy) {
        self.rooms.policy.common = common;
    }

    /// Replaces the NAT's settings that no flow depends on.
    pub fn set_nat(&mut self, adjustable: nat::AdjustableSettings) {
        self.rooms.nat.update_settings(adjustable);
    }

    /// Forwards a port of the LAN address to a client.
    pub fn add_forward(&mut self, forward: Forward, now: Instant) -> Result<(), ForwardError> {
        self.rooms.nat.add_forward(forward, now)
    }

    /// Forwards a port no longer; whether it was so before.
    pub fn remove_forward(&mut self, forward: Forward, now: Instant) -> bool {
        self.rooms.nat.remove_forward(forward, now)
    }

    /// Which of several engines it is.
    pub fn shard(&self) -> Shard {
        self.rooms.shard
    }

    /// The tunnel, to change what concerns it alone: keys, endpoints, keepalives, and AllowedIPs
    /// within [`change_peers`](Self::change_peers).
    pub fn tunnel_mut(&mut self) -> &mut Tunnel {
        &mut self.rooms.tunnel
    }

    /// The peers.
    pub fn tunnel(&self) -> &Tunnel {
        &self.rooms.tunnel
    }

    /// The translated flows.
    pub fn nat(&self) -> &Nat {
        &self.rooms.nat
    }

    /// The SMB hook.
    pub fn hook(&self) -> &Hook {
        &self.rooms.hook
    }

    /// What the SMB hook reports, oldest first; to be fetched after each batch.
    pub fn poll_event(&mut self) -> Option<smb::Event> {
        self.rooms.hook.poll_event()
    }

    /// Returns the next reason why a client cannot connect, to be fetched after each batch.
    pub fn poll_failure(&mut self) -> Option<Failure> {
        self.rooms.tunnel.poll_failure()
    }

    /// A port block that was given to a client or returned, oldest first.
    pub fn poll_block(&mut self) -> Option<BlockEvent> {
        self.rooms.nat.poll_block()
    }

    /// What a client was refused.
    pub fn drop_counters(&self, peer: PeerId) -> PeerDropCounters {
        self.rooms.shares.get(peer)
    }

    /// What was dropped on the way between the rooms.
    pub fn counters(&self) -> &Counters {
        &self.rooms.counters
    }
}

impl nat::Peers for Tunnel {
    fn of(&self, client: IpAddr) -> Option<PeerId> {
        self.route(client)
    }
}

impl DataPlane {
    /// Ends the flows of addresses that became another peer's.
    fn drop_reassigned(&mut self, now: Instant) {
        self.nat.drop_reassigned(&self.tunnel, now);
    }

    /// Sends what the tunnel has to say by itself, then what the batch holds.
    fn transmit(&mut self, out: &mut impl Output) {
        self.flush_tunnel(out);
        self.batch.flush(out);
    }

    /// Sends what the tunnel has to say by itself.
    fn flush_tunnel(&mut self, out: &mut impl Output) {
        while let Some(Transmit { path, bytes, ecn }) = self.tunnel.poll_transmit() {
            out.datagrams(&path, ecn, bytes.len(), &bytes);
        }
    }
}
