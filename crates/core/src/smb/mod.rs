//! The SMB hook: gives each translated flow to a file server its own VcNumber.
//!
//! A Windows server that receives VcNumber 0 in an SMB_COM_SESSION_SETUP_ANDX assumes that the client
//! has restarted, and closes all other connections from the same address (MS-CIFS section
//! 2.2.4.53.1; KB 301673). Behind one address that disconnects every other user. So the hook follows
//! each client's stream from message to message and overwrites the two bytes, wherever segments
//! begin and end.
//!
//! It never changes a length, and never looks at NAT's tables: it gets flow ids and bytes. Streams
//! that it does not understand pass unread or are reset ([`Unreadable`]).
//! It drops segments that no server accepts and, where too many are buffered, out-of-order ones,
//! which TCP retransmits. It resets connections that a crashed client has left ([`Stale`]).
//!
//! ```text
//! flow ─ connection ─┬─ tcp_stream  positions, reordering, and the messages of both directions
//!                    ├─ patches     changed bytes, for retransmissions
//!                    ├─ transcript  parsed bytes, against copies with other contents
//!                    ├─ reply       acknowledgements in the server's name
//!                    ├─ raw         messages that are bare file data
//!                    ├─ logon       decides on each session setup's number
//!                    ├─ signing     logons that give the server a signing key
//!                    └─ server      the server's direction: protocol and accepted logons
//! identity           addresses, number and probe state of a flow
//! numbers            assigned VcNumbers of each LAN address and server
//! unread             session setups on unread flows
//! search             session setups after a restart that lost the position in the stream
//! stale              connections that a crashed client has left
//! disconnect         likely causes of disconnections
//! report             actions, events and counters
//! snapshot           flows across a restart of the endpoint
//! ```

mod connection;
mod disconnect;
mod flow;
mod identity;
mod logon;
mod numbers;
mod patches;
mod raw;
mod reply;
mod report;
mod search;
mod server;
mod signing;
mod snapshot;
mod stale;
mod transcript;
mod unread;

pub use disconnect::DisconnectCorrelator;
pub use numbers::{Numbers, VcNumber};
pub use reply::{Blocks, TcpReplyTemplate};
pub use report::{
    Action, Cause, Change, Closing, Counters, Event, FlowReport, Logon, Outcome, Reason,
    StaleOutcome, Unchanged,
};
pub use snapshot::SmbFlowSnapshot;
pub use vcgate_wire::tcp::TcpTimestamps;

use crate::ids::{FlowId, PeerId};
use crate::tcp_stream::reorder::MemoryBudget;
use flow::Flow;
use numbers::Groups;
use report::Events;
use serde::{Deserialize, Serialize};
use stale::Checks;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use vcgate_wire::packet::Payload;
use vcgate_wire::tcp::SeqNumber;

/// Maximum number of out-of-order bytes in all flows of a shard.
const MAX_BUFFERED: usize = 16 << 20;
/// Maximum number of them in the flows of one peer: four times the capacity of a flow.
const MAX_PEER_SHARE: usize = 1 << 20;

/// The mode of the hook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Assigns each flow a number and writes it into its session setups.
    #[default]
    Assign,
    /// Counts and reports, and changes and delays nothing.
    Observe,
    /// Reads nothing.
    Off,
}

impl Mode {
    /// Returns the name, as in JSON and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Assign => "assign",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}

/// Handling of a client's other flows to a server when it reconnects there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stale {
    /// Resets those that the client's stack no longer knows.
    Probe,
    /// Resets all at once, as a server does that receives VcNumber 0.
    Reset,
    /// Leaves them alone.
    Keep,
}

/// Fate of a connection whose stream cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unreadable {
    /// It passes unread.
    Pass,
    /// It is reset.
    Reset,
}

/// The settings of the hook: `[smb]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The mode (`hook`).
    pub mode: Mode,
    /// The TCP ports of file servers: by default 445, and 139 for SMB over NetBIOS (RFC 1001 section
    /// 16).
    pub ports: Vec<u16>,
    /// Handling of a client's old flows when it reconnects.
    pub stale: Stale,
    /// Fate of unreadable connections, in [`Mode::Assign`].
    pub unreadable: Unreadable,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            ports: vec![445, 139],
            stale: Stale::Probe,
            unreadable: Unreadable::Reset,
        }
    }
}

/// The addresses of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// The client's inner address.
    pub client: SocketAddr,
    /// The address that the server sees in its place.
    pub lan: IpAddr,
    /// The server's address.
    pub server: SocketAddr,
}

/// The fields of a TCP header that the hook uses. They are as in the header: the first byte of
/// payload of a SYN is at `seq` + 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The sequence number.
    pub seq: SeqNumber,
    /// The acknowledgement number, if the ACK flag is set.
    pub ack: Option<SeqNumber>,
    /// The SYN flag.
    pub syn: bool,
    /// The RST flag.
    pub rst: bool,
    /// The FIN flag.
    pub fin: bool,
    /// The unscaled window.
    pub window: u16,
    /// In a SYN, the SACK-permitted option (RFC 2018 section 2).
    pub sack_permitted: bool,
    /// The timestamps option, if present.
    pub timestamps: Option<TcpTimestamps>,
}

/// A translated packet to buffer.
#[derive(Debug)]
pub struct HeldPacket {
    /// The whole packet, in the caller's format.
    pub bytes: Vec<u8>,
    /// Length of its payload in bytes.
    pub payload_len: usize,
    /// Length of the payload of each segment in it, in bytes; the last may be shorter.
    pub segment_len: usize,
}

/// The decision on a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It may be sent; then [`Hook::release`] may have more.
    Pass,
    /// It must be given to [`Hook::hold`]: it may have a message header, and earlier bytes are
    /// missing.
    Hold,
    /// It must not be sent.
    Drop,
}

/// State of all flows together.
#[derive(Debug)]
struct Shared {
    mode: Mode,
    unreadable: Unreadable,
    groups: Groups,
    counters: Counters,
    events: Events,
    actions: VecDeque<Action>,
    budget: MemoryBudget,
    /// Flows with buffered segments, by the deadline of the missing bytes.
    waiting: BTreeSet<(Instant, FlowId)>,
    /// Flows with durable changes, for the journal; `None` if no journal is kept.
    changed: Option<Vec<FlowId>>,
    checks: Checks,
    /// The number of flows that were added and of connections that have ended.
    changes: u64,
}

impl Shared {
    /// Whether connections are reset that cannot be read.
    fn resets_unreadable(&self) -> bool {
        self.mode == Mode::Assign && self.unreadable == Unreadable::Reset
    }
}

/// The hook of one shard.
#[derive(Debug)]
pub struct Hook {
    ports: Vec<u16>,
    /// Indexed by the slots of flow ids.
    flows: Vec<Option<Box<Flow>>>,
    shared: Shared,
}

impl Hook {
    /// Creates a hook without flows, which may assign all numbers.
    pub fn new(settings: Settings) -> Self {
        Self::with_numbers(settings, Numbers::ALL)
    }

    /// Creates a hook without flows, which may assign `numbers`.
    pub fn with_numbers(settings: Settings, numbers: Numbers) -> Self {
        Self {
            ports: match settings.mode {
                Mode::Off => Vec::new(),
                Mode::Assign | Mode::Observe => settings.ports,
            },
            flows: Vec::new(),
            shared: Shared {
                mode: settings.mode,
                unreadable: settings.unreadable,
                groups: Groups::new(numbers),
                counters: Counters::default(),
                events: Events::default(),
                actions: VecDeque::new(),
                budget: MemoryBudget::in_shares(MAX_BUFFERED, MAX_PEER_SHARE),
                waiting: BTreeSet::new(),
                changed: None,
                checks: Checks::new(settings.stale),
                changes: 0,
            },
        }
    }

    /// Returns the number of out-of-order bytes that are buffered in all flows.
    pub fn waiting(&self) -> usize {
        MAX_BUFFERED - self.shared.budget.left()
    }

    /// Whether the hook reads TCP flows to this port of a server.
    pub fn watches(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// Whether it may change segments.
    pub fn rewrites(&self) -> bool {
        self.shared.mode == Mode::Assign
    }

    /// Whether a flow's segments other than SYN, FIN and RST matter. In flows that use SMB2 not even
    /// their checksums do.
    pub fn reads(&self, flow: FlowId) -> bool {
        let found = self.flows.get(flow.slot as usize).and_then(Option::as_ref);
        found.is_none_or(|found| found.id() != flow || found.reads())
    }

    /// Decides on a segment from a client and rewrites its payload. The caller has verified the TCP
    /// checksum, since a damaged copy would mislead the parser, and applies the payload's delta to a
    /// complete checksum. `peer_of` returns the peer of a client's address.
    pub fn client(
        &mut self,
        flow: FlowId,
        ends: &Ends,
        segment: &Segment,
        payload: &mut Payload<'_>,
        peer_of: impl FnOnce(IpAddr) -> Option<PeerId>,
        now: Instant,
    ) -> Verdict {
        let (place, shared) = self.place(flow);
        if place.as_ref().is_some_and(|old| old.id() != flow)
            && let Some(old) = place.take()
        {
            old.end(shared);
        }
        place
            .get_or_insert_with(|| {
                let peer = peer_of(ends.client.ip());
                Box::new(Flow::new(flow, *ends, peer, shared))
            })
            .client(segment, payload, now, shared)
    }

    /// Returns the changes that [`client`](Self::client) has just made in a segment with `len` bytes
    /// of payload. It must be called before any other method.
    pub fn changes(
        &self,
        flow: FlowId,
        segment: &Segment,
        len: usize,
    ) -> impl Iterator<Item = Change> + '_ {
        let found = self.flows.get(flow.slot as usize).and_then(Option::as_ref);
        let found = found.filter(|found| found.id() == flow);
        let seq = segment.seq;
        found
            .into_iter()
            .flat_map(move |found| found.changes(seq, len))
    }

    /// Reads a segment from a server, which always passes unchanged. Afterwards
    /// [`release`](Self::release) may have packets of the flow.
    pub fn server(&mut self, flow: FlowId, segment: &Segment, payload: &Payload<'_>, now: Instant) {
        if let Some((flow, shared)) = self.find(flow) {
            flow.server(segment, payload, now, shared);
        }
    }

    /// Buffers a packet for which [`client`](Self::client) returned [`Verdict::Hold`]. If it does not
    /// fit, it is dropped, and TCP retransmits it.
    pub fn hold(&mut self, flow: FlowId, segment: &Segment, packet: HeldPacket, now: Instant) {
        let held = self
            .find(flow)
            .is_some_and(|(flow, shared)| flow.hold(segment, packet, now, shared));
        let counters = &mut self.shared.counters;
        match held {
            true => counters.held += 1,
            false => counters.held_dropped += 1,
        }
    }

    /// Returns the next buffered packet of a flow that may pass. The caller gives it to
    /// [`client`](Self::client) again and sends it.
    pub fn release(&mut self, flow: FlowId) -> Option<Vec<u8>> {
        let (flow, shared) = self.find(flow)?;
        flow.release(shared)
    }

    /// Notes that both ends have closed a flow's connection, so that its number can be reassigned
    /// soon. Retransmissions are rewritten until the flow ends.
    pub fn connection_over(&mut self, flow: FlowId) {
        if let Some((flow, shared)) = self.find(flow) {
            flow.owner.connection_over(shared);
        }
    }

    /// Ends a flow and frees its number.
    pub fn close(&mut self, flow: FlowId) {
        if self.find(flow).is_some()
            && let Some(flow) = self.flows[flow.slot as usize].take()
        {
            flow.end(&mut self.shared);
        }
    }

    /// Returns the next event. The caller fetches all events after each batch, and gives them to
    /// [`DisconnectCorrelator`].
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop()
    }

    /// Returns the counters.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Returns the state of a flow.
    pub fn flow(&self, flow: FlowId) -> Option<FlowReport> {
        let found = self.flows.get(flow.slot as usize)?.as_ref()?;
        (found.id() == flow).then(|| found.report())
    }

    /// Iterates over all flows and their ends.
    pub fn flows(&self) -> impl Iterator<Item = (FlowId, &Ends)> {
        let flows = self.flows.iter().flatten();
        flows.map(|flow| (flow.id(), &flow.owner.ends))
    }

    /// Returns the number of times that a flow was added, or that its connection has ended.
    pub fn connection_changes(&self) -> u64 {
        self.shared.changes
    }

    /// Returns the newest TSval of a flow's client that was forwarded to the server. A released
    /// packet with an older one gets this one: the segment that filled the gap was sent later, and
    /// the server would drop the packet as an old duplicate (RFC 7323 section 5.3).
    pub fn clock(&self, flow: FlowId) -> Option<u32> {
        let found = self.flows.get(flow.slot as usize)?.as_ref()?;
        (found.id() == flow).then_some(found.owner.clock)?
    }

    /// Returns the template for segments in the server's name.
    pub fn reply_template(&self, flow: FlowId) -> TcpReplyTemplate {
        let found = self.flows.get(flow.slot as usize).and_then(Option::as_ref);
        let found = found.filter(|found| found.id() == flow);
        found.map_or(TcpReplyTemplate::default(), |found| {
            found.owner.reply_template
        })
    }

    fn place(&mut self, flow: FlowId) -> (&mut Option<Box<Flow>>, &mut Shared) {
        let Self { flows, shared, .. } = self;
        let slot = flow.slot as usize;
        if slot >= flows.len() {
            flows.resize_with(slot + 1, || None);
        }
        (&mut flows[slot], shared)
    }

    fn find(&mut self, flow: FlowId) -> Option<(&mut Flow, &mut Shared)> {
        let found = self.flows.get_mut(flow.slot as usize)?.as_mut()?;
        (found.id() == flow).then_some((found, &mut self.shared))
    }
}
