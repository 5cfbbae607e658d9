//! The NAT: many inner addresses share one LAN address per family (RFC 4787, 5382, 5508, 6888).
//!
//! IPv6 is translated in the same way as IPv4, with ports, not prefix by prefix (RFC 6296): the LAN
//! sees one address for all clients and needs no route to them. The RFCs above cover only IPv4; their
//! requirements are met for both families.
//!
//! Decisions where the RFCs leave a choice or contradict each other:
//! - A refused flow is answered with "administratively prohibited" (RFC 5508 REQ-8), not "host
//!   unreachable" (RFC 6888 REQ-11): the host may be reachable by another flow.
//! - No two endpoints share a port, whatever their destinations (RFC 4787 REQ-3, RFC 5382 REQ-7),
//!   although RFC 7857 section 3 allows it: otherwise the mapping would depend on the destination.
//! - Filtering is address-dependent unless configured otherwise (RFC 4787 REQ-8, RFC 6888 REQ-7).
//! - There are no application-level gateways (RFC 4787 REQ-10, RFC 5382 REQ-6).
//! - There is no port control protocol (RFC 6888 REQ-9): the operator configures forwards.
//!
//! The NAT knows addresses, ports and headers, nothing of SMB or WireGuard. It takes packets and the
//! time and returns the outcome of each packet; it never reads a clock or sends anything.
//!
//! ```text
//! outbound     packets of clients ─┐ both call
//! inbound      packets of the LAN ─┤ ├ l4          reads ports, TCP segments, ICMP quotes
//! routed       without translation ┘ ├ fragments   tracks and reassembles datagrams
//!                                    ├ session     opens, refreshes and closes sessions
//!                                    ├ rewrite     writes headers and checksums
//!                                    ├ icmp_error  builds ICMP errors
//!                                    ├ unsolicited answers packets of no session
//!                                    └ held_syns   unsolicited SYNs that wait
//! conclude     counts the outcome and answers a refusal, the last step of each packet
//! table        mappings and sessions ── tcp, expiry
//! clients      blocks, sessions and limits ── lan_ports ── ports ── group, block
//! lan_addresses  the addresses, and the one of each peer ── address_changes
//! forward      ports that lead permanently to a client
//! snapshot     state that survives a restart
//! outcome, endpoint, settings: the types that the others share
//! ```
//!
//! The host's kernel decrements the TTL of every packet that it forwards; hairpinned packets do not
//! pass it and are decremented here. A client's packet that expires at the gateway is answered here
//! too, because the kernel limits its ICMP errors to one per second for all clients.

mod address_changes;
mod block;
mod clients;
mod conclude;
mod endpoint;
mod expiry;
mod forward;
mod fragments;
mod group;
mod held_syns;
mod icmp_error;
mod inbound;
mod journal;
mod l4;
mod lan_addresses;
mod lan_ports;
mod moved_ports;
mod outbound;
mod outcome;
mod ports;
mod rewrite;
mod routed;
mod session;
mod settings;
mod snapshot;
mod table;
mod tcp;
mod unsolicited;

#[cfg(test)]
mod tests;

pub use block::BLOCK_SIZE;
pub use clients::{BlockEvent, Peers};
pub use endpoint::Protocol;
pub use forward::{Forward, ForwardError};
pub use fragments::Reassembly;
pub use inbound::ShardLookup;
pub use lan_addresses::{LanAddressError, LanAddressUsage};
pub use lan_ports::PORT_HOLD_TIME;
pub use moved_ports::MovedPorts;
pub use outcome::{Counters, DeferredPacket, FlowRef, HairpinFlows, Outcome, Reason, SeveredFlow};
pub(crate) use ports::owner_of_port;
pub use ports::{BLOCK_COUNT, max_ports_per_peer, max_shards};
pub use routed::Egress;
pub use settings::{AdjustableSettings, Filtering, Limits, OnUnsolicited, Settings, Timeouts};
pub use snapshot::RestoreError;
pub(crate) use snapshot::{BlockRecord, MappingRecord, QuarantineRecord, SessionRecord, Snapshot};
pub use table::TrafficCounters;
pub use tcp::{Sequence, TcpState};

use crate::ids::{FlowId, PeerId};
use crate::journal::Record;
use crate::token_bucket::TokenBucket;
use clients::Clients;
use conclude::Context;
pub(crate) use endpoint::Endpoint;
use endpoint::{SessionId, Side};
use forward::Forwards;
use fragments::{Fragments, Identifications};
use held_syns::HeldSyns;
use lan_addresses::LanAddresses;
use lan_ports::LanPorts;
use outbound::HairpinShard;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use table::{Session, Table};
pub(crate) use tcp::Tcp;
use vcgate_wire::packet::Packet;

/// Maximum number of sessions, and of quarantined ports, that one call of [`Nat::handle_timeout`]
/// ends.
const MAX_EXPIRED_PER_CALL: usize = 256;

/// One shard's NAT.
///
/// # Examples
/// ```
/// use std::net::{IpAddr, Ipv4Addr};
/// use std::time::Instant;
/// use vcgate_core::ids::{PeerId, ShardId};
/// use vcgate_core::nat::{
///     BLOCK_COUNT, Filtering, Limits, Nat, OnUnsolicited, Outcome, Peers, Settings, Timeouts,
/// };
/// use vcgate_wire::checksum::Checksum;
/// use vcgate_wire::packet::Packet;
///
/// struct OnePeer;
///
/// impl Peers for OnePeer {
///     fn of(&self, _client: IpAddr) -> Option<PeerId> {
///         Some(PeerId(0))
///     }
/// }
///
/// let settings = Settings {
///     address: Ipv4Addr::new(192, 168, 77, 2),
///     pool: Vec::new(),
///     address6: None,
///     gateway: Ipv4Addr::new(10, 8, 0, 1),
///     gateway6: None,
///     filtering: Filtering::default(),
///     on_unsolicited: OnUnsolicited::default(),
///     timeouts: Timeouts::default(),
///     limits: Limits::default(),
///     mtu: 1420,
///     blocks: 0..BLOCK_COUNT,
///     shard: ShardId::ALONE,
/// };
/// let now = Instant::now();
/// let mut nat = Nat::new(settings, rand::random(), now);
///
/// // An empty UDP datagram from 10.8.0.11 port 5000 to 192.168.77.10 port 53.
/// let mut bytes = [
///     0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 8, 0, 11, 192, 168, 77, 10, // IPv4
///     0x13, 0x88, 0, 53, 0, 8, 0, 0, // UDP
/// ];
/// let mut packet = Packet::parse(&mut bytes, Checksum::Complete)?;
/// let outcome = nat.outbound(&mut packet, PeerId(0), &OnePeer, now);
/// assert!(matches!(outcome, Outcome::Forward(Some(_))));
/// assert_eq!(packet.headers.src, Ipv4Addr::new(192, 168, 77, 2));
/// # Ok::<(), vcgate_wire::ip::Malformed>(())
/// ```
#[derive(Debug)]
pub struct Nat {
    settings: Settings,
    table: Table,
    lan: LanAddresses,
    ports: LanPorts,
    clients: Clients,
    forwards: Forwards,
    held_syns: HeldSyns,
    fragments: Fragments,
    identifications: Identifications,
    closed: VecDeque<FlowId>,
    ended: VecDeque<FlowId>,
    severed: VecDeque<SeveredFlow>,
    deferred: VecDeque<DeferredPacket>,
    /// Blocks that a restart has moved to other shards, if there are any.
    moved_ports: Option<Arc<MovedPorts>>,
    /// Durable changes for the journal; `None` if no journal is kept.
    changes: Option<Vec<Record>>,
    /// Limits the NAT's own ICMP errors to all peers, and to the LAN about packets for all peers.
    errors: [TokenBucket; 2],
    /// Limits ICMP errors to the LAN about packets for no peer.
    unsolicited_errors: TokenBucket,
    resets: TokenBucket,
    counters: Counters,
}

/// A flow, as reports and metrics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The id of the flow.
    pub id: FlowId,
    /// The protocol of the flow.
    pub protocol: Protocol,
    /// The client's own endpoint.
    pub inside: SocketAddr,
    /// The LAN address that represents the client.
    pub lan: IpAddr,
    /// The port of the LAN address that represents the client's endpoint.
    pub port: u16,
    /// The remote endpoint; the port of an ICMP query is 0.
    pub remote: SocketAddr,
    /// The state of a TCP connection.
    pub state: Option<TcpState>,
    /// The time since the packet that last refreshed the flow.
    pub idle: Duration,
    /// The traffic from the client.
    pub sent: TrafficCounters,
    /// The traffic to the client.
    pub received: TrafficCounters,
}

impl Nat {
    /// Returns a NAT without flows. `seed` must be random: port choice depends on it (RFC 6056).
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        // Separate seeds: identifications are visible on the wire and must not reveal future ports.
        let mut seeds = StdRng::seed_from_u64(seed);
        let ports = LanPorts::new(&settings, seeds.random());
        let lan = LanAddresses::new(&settings);
        Self {
            table: Table::new(),
            lan,
            ports,
            clients: Clients::default(),
            forwards: Forwards::default(),
            held_syns: HeldSyns::default(),
            fragments: Fragments::default(),
            identifications: Identifications::new(settings.shard, seeds.random()),
            closed: VecDeque::new(),
            ended: VecDeque::new(),
            severed: VecDeque::new(),
            deferred: VecDeque::new(),
            moved_ports: None,
            changes: None,
            errors: [TokenBucket::full(now); 2],
            unsolicited_errors: TokenBucket::full(now),
            resets: TokenBucket::full(now),
            counters: Counters::default(),
            settings,
        }
    }

    /// Translates a client's packet, whose source the tunnel has authenticated as `sender`'s.
    pub fn outbound(
        &mut self,
        packet: &mut Packet<'_>,
        sender: PeerId,
        peers: &dyn Peers,
        now: Instant,
    ) -> Outcome {
        let cx = Context::of_client(sender, peers, now);
        self.outbound_via(HairpinShard::Local, packet, &cx)
    }

    /// Translates a client's packet for a port of the LAN address that another shard owns. It is
    /// forwarded as if to the LAN; the other shard translates it as a packet of the LAN.
    pub fn outbound_cross_shard(
        &mut self,
        packet: &mut Packet<'_>,
        sender: PeerId,
        peers: &dyn Peers,
        now: Instant,
    ) -> Outcome {
        let cx = Context::of_client(sender, peers, now);
        self.outbound_via(HairpinShard::Other, packet, &cx)
    }

    fn outbound_via(
        &mut self,
        shard: HairpinShard,
        packet: &mut Packet<'_>,
        cx: &Context<'_>,
    ) -> Outcome {
        let verdict = self.translate_out(packet, shard, cx);
        self.conclude(verdict, Side::Inside, packet, cx)
    }

    /// Translates a packet of the LAN.
    pub fn inbound(&mut self, packet: &mut Packet<'_>, peers: &dyn Peers, now: Instant) -> Outcome {
        let cx = Context::of_lan(peers, now);
        let verdict = self.translate_in(packet, &cx);
        self.conclude(verdict, Side::Lan, packet, &cx)
    }

    /// Returns whether the protocol of a packet is translated.
    pub fn translates(&self, packet: &Packet<'_>) -> bool {
        l4::is_known(&packet.headers)
    }

    /// Returns the first LAN address of the family of `like`.
    pub fn lan(&self, like: IpAddr) -> Option<IpAddr> {
        self.lan.first(like)
    }

    /// Returns whether this is a LAN address of vcgate.
    pub fn is_lan(&self, address: IpAddr) -> bool {
        self.lan.contains(address)
    }

    /// Ends expired sessions, quarantines, datagrams and held SYNs.
    ///
    /// A call ends a bounded number of them, so [`next_timeout`](Self::next_timeout) may still be in
    /// the past afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        let since = self.settings.timeouts.expired_since(now);
        for _ in 0..MAX_EXPIRED_PER_CALL {
            let Some(session) = self.table.expiry.expired(&self.table.sessions, &since) else {
                break;
            };
            self.close(session, now);
        }
        for _ in 0..MAX_EXPIRED_PER_CALL {
            let Some(released) = self.ports.end_quarantine(now) else {
                break;
            };
            if let Some(released) = released {
                self.clients.on_block_released(released);
            }
        }
        self.fragments.expire(now);
        while let Some(error) = self.held_syns.pop_due(now) {
            if self.may_send_lan_error(now) {
                self.deferred.push_back(DeferredPacket::ToLan(error));
            }
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) must be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        [
            self.table
                .expiry
                .next(&self.table.sessions, &self.settings.timeouts),
            self.ports.next_quarantine_end(),
            self.held_syns.next(),
            self.fragments.next(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Returns a flow that was closed and not polled yet.
    pub fn poll_closed(&mut self) -> Option<FlowId> {
        self.closed.pop_front()
    }

    /// Returns a TCP flow whose connection ended, by both FINs or a RST, and that was not polled yet.
    /// The flow itself remains for late segments.
    pub fn poll_ended(&mut self) -> Option<FlowId> {
        self.ended.pop_front()
    }

    /// Returns the next connection whose flow was closed while its ends still use it. The caller
    /// resets both ends, because no segment of theirs is translated any more.
    pub fn poll_severed(&mut self) -> Option<SeveredFlow> {
        self.severed.pop_front()
    }

    /// Returns the next assignment or return of a port block (RFC 6888 REQ-14).
    pub fn poll_block(&mut self) -> Option<BlockEvent> {
        let event = self.clients.events.pop_front()?;
        self.report_block(&event);
        Some(event)
    }

    /// Returns the next packet that leaves later than the packet that caused it.
    pub fn poll_deferred(&mut self) -> Option<DeferredPacket> {
        self.deferred.pop_front()
    }

    /// Records that both ends of a TCP flow were sent a RST, each in the name of the other end.
    pub fn mark_reset(&mut self, id: FlowId, now: Instant) {
        if self.sequence(id).is_none() {
            return;
        }
        let session = SessionId(id.slot);
        let tcp = &mut self.table.sessions[session.index()].tcp;
        tcp.reset();
        let class = tcp.class();
        self.table.refresh(session, class, now);
        self.report_tcp(session);
        self.ended.push_back(id);
    }

    /// Applies changed settings; flows continue.
    pub fn update_settings(&mut self, adjustable: AdjustableSettings) {
        let AdjustableSettings {
            filtering,
            on_unsolicited,
            timeouts,
            limits,
        } = adjustable;
        self.settings.filtering = filtering;
        self.settings.on_unsolicited = on_unsolicited;
        self.settings.timeouts = timeouts;
        self.settings.limits = limits;
    }

    /// Closes the flows of inner addresses that now belong to another peer, or to none.
    pub fn drop_reassigned(&mut self, peers: &dyn Peers, now: Instant) {
        self.fragments.drop_reassigned(peers);
        self.remove_clients(|client| peers.of(client.address) != Some(client.peer), now);
    }

    /// Returns the number of flows.
    pub fn flow_count(&self) -> usize {
        self.table.sessions.len()
    }

    /// Iterates over all flows.
    pub fn flows(&self, now: Instant) -> impl Iterator<Item = Flow> + '_ {
        let sessions = self.table.sessions.iter();
        sessions
            .map(move |(slot, session)| self.describe(SessionId::from_index(slot), session, now))
    }

    /// Iterates over the flows in these slots, of which there are [`slot_count`](Self::slot_count). A
    /// flow keeps its slot as long as it exists.
    pub fn flows_in(&self, slots: Range<usize>, now: Instant) -> impl Iterator<Item = Flow> + '_ {
        let flow = move |slot: usize| {
            let session = self.table.sessions.get(slot)?;
            Some(self.describe(SessionId::from_index(slot), session, now))
        };
        slots.filter_map(flow)
    }

    /// Returns the number of slots for flows.
    pub fn slot_count(&self) -> usize {
        self.table.sessions.capacity()
    }

    /// Iterates over the inner addresses that have port blocks or flows, with their number of flows.
    pub fn clients(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        let clients = self.clients.iter();
        clients.map(|(_, client)| (client.address, client.sessions))
    }

    /// Returns a flow, unless it was closed.
    pub fn flow(&self, id: FlowId, now: Instant) -> Option<Flow> {
        let session = self.table.by_flow(id)?;
        Some(self.describe(SessionId(id.slot), session, now))
    }

    /// Returns the current sequence numbers of a TCP flow.
    pub fn sequence(&self, id: FlowId) -> Option<Sequence> {
        let session = self.table.by_flow(id)?;
        let mapping = &self.table.mappings[session.mapping.index()];
        (mapping.outside.protocol == Protocol::Tcp).then(|| session.tcp.sequence())
    }

    /// Returns the number of packets per outcome.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn describe(&self, id: SessionId, session: &Session, now: Instant) -> Flow {
        let mapping = &self.table.mappings[session.mapping.index()];
        let protocol = mapping.outside.protocol;
        Flow {
            id: self.table.flow_id(id),
            protocol,
            inside: mapping.inside.0.into(),
            lan: self.lan.address(mapping.outside.lan),
            port: mapping.outside.port,
            remote: session.remote.0.into(),
            state: (protocol == Protocol::Tcp).then(|| session.tcp.state()),
            idle: now.saturating_duration_since(session.timer.since),
            sent: session.sent,
            received: session.received,
        }
    }
}
