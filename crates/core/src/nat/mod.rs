//! The NAT: many inner addresses, one LAN address (RFC 4787, 5382, 5508, 6888), and one for IPv6.
//!
//! IPv6 is translated as IPv4 is, ports and all, not prefix by prefix (RFC 6296): the LAN has one
//! address for all clients, and needs no route to them. The RFCs above speak of IPv4 only; their
//! requirements are kept for both.
//!
//! Where the RFCs leave a choice, or contradict one another:
//! - A refused flow gets "administratively prohibited" (RFC 5508 REQ-8), not "host unreachable"
//!   (RFC 6888 REQ-11): the host may well be reached by another flow.
//! - No two endpoints share a port, whatever their destinations (RFC 4787 REQ-3, RFC 5382 REQ-7),
//!   although RFC 7857 section 3 would allow it: else the mapping depends on the destination.
//! - Filtering is address-dependent, unless configured otherwise (RFC 4787 REQ-8, RFC 6888 REQ-7).
//! - There are no application-level gateways (RFC 4787 REQ-10, RFC 5382 REQ-6).
//! - Clients ask for no ports by a protocol (RFC 6888 REQ-9): forwards are the operator's.
//!
//! It knows addresses, ports and headers; nothing of SMB or WireGuard. It takes packets and the
//! time, and gives back what became of the packets; it reads no clock and sends nothing.
//!
//! ```text
//! translate   the way of a packet, in both directions
//! ├ l4        what is read: ports, TCP numbers, ICMP kinds
//! ├ session   opened, kept alive, over
//! ├ table     mappings and sessions ── tcp, expiry
//! ├ limits    what a peer may have ── holders, ports ── block
//! ├ rewrite   what is written, and the checksums ── mss
//! ├ icmp      errors about flows, errors of our own
//! ├ forward   ports that lead to a client for good
//! ├ routed    what crosses the gateway as it is
//! ├ share     which shard a packet of the LAN is for
//! ├ fragments datagrams in pieces ── cut
//! ├ fit       what is too big for the tunnel
//! ├ unsolicited  SYNs that wait for the client's own
//! └ verdict   what becomes of a packet
//! snapshot    all of it to disk and back
//! ```
//!
//! The host's kernel, through which every packet goes, lowers the TTL; only what turns here
//! (hairpin) never sees it, and is lowered here. A client's packet whose last hop this is gets its
//! answer here too: the kernel has one ICMP error a second for all of them.

mod block;
mod counters;
mod cut;
mod endpoint;
mod expiry;
mod fit;
mod forward;
mod fragments;
mod icmp;
mod identification;
mod l4;
mod limits;
mod peer_usage;
mod ports;
mod rewrite;
mod routed;
mod session;
mod settings;
mod shard_lookup;
mod snapshot;
mod table;
mod tcp;
mod translate;
mod unsolicited;
mod verdict;

#[cfg(test)]
mod tests;

pub use block::BLOCK_SIZE;
pub use counters::{Counters, Reason};
pub use endpoint::Protocol;
pub use forward::{Forward, ForwardError};
pub use fragments::Reassembly;
pub use limits::BlockEvent;
pub use peer_usage::Peers;
pub use ports::{BLOCK_COUNT, PORT_HOLD_TIME, max_blocks_per_peer, max_shards};
pub use routed::Egress;
pub use settings::{AdjustableSettings, Filtering, Limits, OnUnsolicited, Settings, Timeouts};
pub use shard_lookup::ShardLookup;
pub use snapshot::{RestoreError, Snapshot};
pub use table::TrafficCounters;
pub use tcp::{Sequence, TcpState};

use crate::ids::{FlowId, PeerId};
use crate::token_bucket::TokenBucket;
use endpoint::{Family, Outside, Side};
use forward::Forwards;
use fragments::Fragments;
use identification::Identifications;
use limits::{Client, Clients};
use ports::Ports;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};
use table::{Session, Table};
use unsolicited::Unsolicited as Waiting;
use vcgate_wire::packet::Packet;
use verdict::To;

/// Most sessions, and as many ports, that one call of [`Nat::handle_timeout`] ends.
const BATCH: usize = 256;

/// One shard's NAT.
#[derive(Debug)]
pub struct Nat {
    settings: Settings,
    table: Table,
    ports: Ports,
    clients: Clients,
    forwards: Forwards,
    waiting: Waiting,
    fragments: Fragments,
    /// For packets that may be, or are, fragmented (RFC 6864).
    next_id: Identifications,
    closed: VecDeque<FlowId>,
    ended: VecDeque<FlowId>,
    late: VecDeque<DeferredPacket>,
    /// For ICMP errors of our own, to all clients and to the LAN.
    errors: [TokenBucket; 2],
    counters: Counters,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Translated: on its way to the LAN, or to the client that `headers.dst` names. Without a
    /// flow for what belongs to none: ICMP errors, fragments behind the first, and what a filter
    /// lets in before the client ever answered.
    Forward(Option<FlowRef>),
    /// Translated at both ends: from one client, to the client that `headers.dst` names.
    Hairpin(Box<HairpinFlows>),
    /// Dropped, and answered with an ICMP error.
    Reply {
        /// The reason for the drop.
        reason: Reason,
        /// The error: a whole packet for the sender of the dropped one.
        error: Vec<u8>,
    },
    /// Kept or used up; what comes of it comes by [`Nat::poll_deferred`].
    Held,
    /// Dropped.
    Drop(Reason),
}

impl Outcome {
    /// Whether the packet was dropped at a limit of its sender, answered or not.
    pub fn is_limited(&self) -> bool {
        match self {
            Self::Reply { reason, .. } | Self::Drop(reason) => reason.is_limit(),
            Self::Forward(_) | Self::Hairpin(_) | Self::Held => false,
        }
    }
}

/// The flow of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRef {
    /// Which flow.
    pub id: FlowId,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its far end, on the LAN; an ICMP query's port is 0.
    pub remote: SocketAddr,
}

/// The flows of a packet from one client to another: that of its sender and that of its receiver.
/// There are none where nothing is translated, and for what belongs to none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HairpinFlows {
    /// Its far end is the port of the LAN address that the packet is for.
    pub from: Option<FlowRef>,
    /// Its far end is the port of the LAN address that the packet comes from.
    pub to: Option<FlowRef>,
}

/// A packet that leaves at another time than one came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeferredPacket {
    /// To the client that its destination names.
    ToClient(Vec<u8>),
    /// To the LAN.
    ToLan(Vec<u8>),
}

/// A flow, as a person or a metric wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Its name.
    pub id: FlowId,
    /// Its protocol.
    pub protocol: Protocol,
    /// The client's own end.
    pub inside: SocketAddr,
    /// The port of the LAN address of its family that stands for it.
    pub port: u16,
    /// The far end; an ICMP query's port is 0.
    pub remote: SocketAddr,
    /// For TCP.
    pub state: Option<TcpState>,
    /// Since the packet that last kept it alive.
    pub idle: Duration,
    /// From the client.
    pub sent: TrafficCounters,
    /// To the client.
    pub received: TrafficCounters,
}

impl Nat {
    /// A NAT without flows. `seed` must be random: port choice depends on it (RFC 6056).
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        // What is on the wire for all to see must not tell what ports come next.
        let mut seeds = StdRng::seed_from_u64(seed);
        let ports = Ports::new(settings.blocks.clone(), settings.shard, seeds.random());
        Self {
            table: Table::new(),
            ports,
            clients: Clients::default(),
            forwards: Forwards::default(),
            waiting: Waiting::default(),
            fragments: Fragments::default(),
            next_id: Identifications::new(settings.shard, seeds.random()),
            closed: VecDeque::new(),
            ended: VecDeque::new(),
            late: VecDeque::new(),
            errors: [TokenBucket::full(now); 2],
            counters: Counters::default(),
            settings,
        }
    }

    /// Translates a client's packet, whose source the tunnel has checked.
    pub fn outbound(
        &mut self,
        packet: &mut Packet<'_>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Outcome {
        let verdict = self.translate_out(packet, To::Here, peers, now);
        self.conclude(verdict, Side::Inside, packet, peers, now)
    }

    /// The same for a packet to a port of the LAN address that is another shard's: it leaves to
    /// be taken there as a packet of the LAN.
    pub fn outbound_cross_shard(
        &mut self,
        packet: &mut Packet<'_>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Outcome {
        let verdict = self.translate_out(packet, To::Shard, peers, now);
        self.conclude(verdict, Side::Inside, packet, peers, now)
    }

    /// Translates a packet of the LAN.
    pub fn inbound(&mut self, packet: &mut Packet<'_>, peers: &dyn Peers, now: Instant) -> Outcome {
        let verdict = self.translate_in(packet, peers, now);
        self.conclude(verdict, Side::Lan, packet, peers, now)
    }

    /// The ICMP error for a client's packet that its rules do not allow; `None` if it must not be
    /// answered, or too much was answered lately.
    pub fn prohibit(
        &mut self,
        packet: &Packet<'_>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Option<Vec<u8>> {
        self.refuse(icmp::Refusal::Prohibited, Side::Inside, packet, peers, now)
    }

    /// Whether a packet's protocol is translated at all.
    pub fn translates(&self, packet: &Packet<'_>) -> bool {
        l4::is_known(&packet.headers)
    }

    /// Ends what is due; a bounded number, so [`next_timeout`](Self::next_timeout) may still be
    /// in the past.
    pub fn handle_timeout(&mut self, now: Instant) {
        let over = self.settings.timeouts.over(now);
        for _ in 0..BATCH {
            let Some(session) = self.table.expiry.due(&self.table.sessions, &over) else {
                break;
            };
            self.close(session, now);
        }
        for _ in 0..BATCH {
            let Some(freed) = self.ports.end_quarantine(now) else {
                break;
            };
            freed.into_iter().for_each(|f| self.clients.freed(f));
        }
        self.fragments.expire(now);
        while let Some(answer) = self.waiting.due(now) {
            if self.may_send_lan_error(now) {
                self.late.push_back(DeferredPacket::ToLan(answer));
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        [
            self.table
                .expiry
                .next(&self.table.sessions, &self.settings.timeouts),
            self.ports.next_quarantine_end(),
            self.waiting.next(),
            self.fragments.next(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A flow that ended since the last call.
    pub fn poll_closed(&mut self) -> Option<FlowId> {
        self.closed.pop_front()
    }

    /// A TCP flow whose connection ended since the last call, at both ends or with a RST; the flow
    /// lives on for what comes late.
    pub fn poll_ended(&mut self) -> Option<FlowId> {
        self.ended.pop_front()
    }

    /// A port block that was given or returned since the last call (RFC 6888 REQ-14).
    pub fn poll_block(&mut self) -> Option<BlockEvent> {
        self.clients.events.pop_front()
    }

    /// A packet that leaves only now.
    pub fn poll_deferred(&mut self) -> Option<DeferredPacket> {
        self.late.pop_front()
    }

    /// A TCP flow's ends were told, in each other's name, that it is reset: it lives on as a
    /// connection that is over.
    pub fn mark_reset(&mut self, id: FlowId, now: Instant) {
        if self.sequence(id).is_none() {
            return;
        }
        let tcp = &mut self.table.sessions[id.slot as usize].tcp;
        tcp.reset();
        let class = tcp.class();
        self.table.refresh(id.slot, class, now);
        self.ended.push_back(id);
    }

    /// Goes on with other settings.
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

    /// A peer is no more: all its flows end, and its ports are nobody's.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        // Most of many peers have nothing.
        if self.clients.holders.has_clients(peer) {
            self.forget_clients(|client| client.peer == peer, now);
        }
    }

    /// Inner addresses changed hands: what they had as another peer's ends.
    pub fn drop_reassigned(&mut self, peers: &dyn Peers, now: Instant) {
        self.fragments.drop_reassigned(peers);
        self.forget_clients(|client| peers.of(client.address) != Some(client.peer), now);
    }

    /// All flows.
    pub fn flows(&self, now: Instant) -> impl Iterator<Item = Flow> + '_ {
        self.table
            .sessions
            .iter()
            .map(move |(slot, session)| self.describe(slot as u32, session, now))
    }

    /// The flows in these places of the table, of which there are [`slot_count`](Self::places). A flow
    /// keeps its place as long as it lives.
    pub fn flows_in(&self, places: Range<usize>, now: Instant) -> impl Iterator<Item = Flow> + '_ {
        let flow = move |slot: usize| {
            let session = self.table.sessions.get(slot)?;
            Some(self.describe(slot as u32, session, now))
        };
        places.filter_map(flow)
    }

    /// How many places for flows the table has.
    pub fn slot_count(&self) -> usize {
        self.table.sessions.capacity()
    }

    /// The clients that have anything, by their inner addresses, and how many flows each has.
    pub fn clients(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        let clients = self.clients.iter();
        clients.map(|(_, client)| (client.address, client.sessions))
    }

    /// One flow, if it still lives.
    pub fn flow(&self, id: FlowId, now: Instant) -> Option<Flow> {
        let session = self.table.by_flow(id)?;
        Some(self.describe(id.slot, session, now))
    }

    /// The sequence numbers at which a TCP flow stands.
    pub fn sequence(&self, id: FlowId) -> Option<Sequence> {
        let session = self.table.by_flow(id)?;
        let mapping = &self.table.mappings[session.mapping as usize];
        (mapping.outside.protocol == Protocol::Tcp).then(|| session.tcp.sequence())
    }

    /// What became of all packets so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn describe(&self, slot: u32, session: &Session, now: Instant) -> Flow {
        let mapping = &self.table.mappings[session.mapping as usize];
        let protocol = mapping.outside.protocol;
        Flow {
            id: self.table.flow_id(slot),
            protocol,
            inside: mapping.inside.0.into(),
            port: mapping.outside.port,
            remote: session.remote.0.into(),
            state: (protocol == Protocol::Tcp).then(|| session.tcp.state()),
            idle: now.saturating_duration_since(session.timer.since),
            sent: session.sent,
            received: session.received,
        }
    }

    fn forget_clients(&mut self, are_gone: impl Fn(&Client) -> bool, now: Instant) {
        let gone = self.clients.iter().filter(|(_, client)| are_gone(client));
        let gone = gone.map(|(index, client)| (index, client.address, client.blocks.clone()));
        for (client, address, blocks) in gone.collect::<Vec<_>>() {
            for forward in self.forwards.of(address) {
                self.close_mapping(forward.outside(), now);
            }
            for block in blocks {
                for outside in self.ports.in_use(Family::of(address), block) {
                    self.close_mapping(outside, now);
                }
            }
            self.clients.give_up(client, &mut self.ports);
        }
    }

    /// Ends all sessions of a port.
    fn close_mapping(&mut self, outside: Outside, now: Instant) {
        while let Some(mapping) = self.table.by_outside(outside) {
            let Some(session) = self.table.sessions_of(mapping).next() else {
                break;
            };
            self.close(session, now);
        }
    }

    /// Ends a session, and with it what only it kept alive.
    fn close(&mut self, session: u32, now: Instant) {
        self.closed.push_back(self.table.flow_id(session));
        let client = {
            let mapping = self.table.sessions[session as usize].mapping;
            self.table.mappings[mapping as usize].client
        };
        self.clients.leave(client);
        if let Some(outside) = self.table.close(session)
            && self.forwards.to(outside).is_none()
            && let Some(freed) = self.ports.give_back(outside, now)
        {
            self.clients.freed(freed);
        }
        self.clients.remove_if_idle(client);
    }
}
