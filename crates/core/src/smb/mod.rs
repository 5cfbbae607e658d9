//! The SMB hook: each translated flow to a file server gets a VcNumber of its own.
//!
//! A Windows server that is told VcNumber 0 in an SMB_COM_SESSION_SETUP_ANDX takes it that the
//! client has restarted, and ends every other connection from the same address (MS-CIFS section
//! 2.2.4.53.1; KB 301673). Behind one address that is everybody. So the hook follows each client's
//! stream from message to message and writes another number over the two bytes, wherever segments
//! begin and end.
//!
//! It gets a flow id and bytes; it knows nothing of how NAT keeps its flows. It changes no length,
//! and what it does not understand it lets through. What it drops are segments that have to wait for
//! the bytes before them, where too many wait (TCP sends them again); what it ends are connections
//! that a client has left behind, with resets to both ends ([`Stale`]).
//!
//! ```text
//! flow ─ connection ─┬─ scan      where the next message header is (both directions)
//!                    ├─ patches   what was changed, for when it is sent again
//!                    ├─ transcript what was read, for when other bytes are sent in its place
//!                    ├─ early     what came before the bytes that it follows
//!                    ├─ duplicates  what the client is told of it
//!                    ├─ raw       which messages are bare file data
//!                    └─ server    which protocol; may signatures be verified yet
//! owner              whose a flow is, and what it has for good
//! numbers            which VcNumber is free for this LAN address at this server
//! unread             session setups on flows that are not read
//! cause              why a server dropped somebody
//! stale              what a client that begins anew has left open there
//! round_trip         how long its answer may take
//! voice              how the server speaks, for segments in its name
//! action             what is to be sent
//! kept               a flow from one run of the endpoint to the next
//! ```

mod action;
mod connection;
mod disconnect;
mod dup_ack;
mod flow;
mod identity;
mod numbers;
mod patches;
mod raw;
mod reply_template;
mod report;
mod round_trip;
mod server;
mod signing;
mod snapshot;
mod stale;
mod transcript;
mod unread;

pub use action::Action;
pub use disconnect::{Cause, DisconnectCorrelator, Unchanged};
pub use dup_ack::Blocks;
pub use numbers::Numbers;
pub use reply_template::TcpReplyTemplate;
pub use report::{
    Change, Closing, Counters, Event, FlowReport, Logon, Outcome, Reason, StaleOutcome,
};
pub use snapshot::SmbFlowSnapshot;
pub use stale::Stale;
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

/// How much that came out of order may wait in all flows of a shard together, in bytes.
const MAX_BUFFERED: usize = 16 << 20;
/// How much of it may be one peer's, in bytes: four flows' worth.
const MAX_SHARE: usize = 1 << 20;

/// What the hook is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Give each flow a number and write it into its session setups.
    Assign,
    /// Count and report; change and delay nothing.
    Observe,
    /// Nothing.
    Off,
}

/// Fate of a connection whose stream cannot be read before its first accepted logon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It passes unread.
    Pass,
    /// It is reset.
    Reset,
}

/// How the hook is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What to do.
    pub mode: Mode,
    /// The TCP ports of file servers.
    pub ports: Vec<u16>,
    /// The numbers that this shard may give away.
    pub numbers: Numbers,
    /// What becomes of a client's old flows when it begins anew.
    pub stale: Stale,
    /// Fate of unreadable connections, in [`Mode::Assign`].
    pub unreadable: Unreadable,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Assign,
            ports: vec![445, 139],
            numbers: Numbers::ALL,
            stale: Stale::Probe,
            unreadable: Unreadable::Reset,
        }
    }
}

/// The addresses of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// The client's own, behind the NAT.
    pub client: SocketAddr,
    /// The one that the server sees in its place.
    pub lan: IpAddr,
    /// The server's.
    pub server: SocketAddr,
}

/// What the hook has to know of a TCP header. The fields are as in the header: a SYN's first
/// byte of payload is one above `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement number, if the ACK flag is set.
    pub ack: Option<u32>,
    /// The SYN flag.
    pub syn: bool,
    /// The RST flag.
    pub rst: bool,
    /// The FIN flag.
    pub fin: bool,
    /// The window, as it stands in the header.
    pub window: u16,
    /// In a SYN, the SACK-permitted option (RFC 2018 section 2).
    pub sack_permitted: bool,
    /// The timestamps option, if there is one.
    pub timestamps: Option<TcpTimestamps>,
}

/// What to do with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Send it, then see whether [`Hook::release`] has more.
    Pass,
    /// Give it to [`Hook::hold`]: it may hold a message header, and bytes before it are missing.
    Hold,
    /// Do not send it: no byte of it may reach the server.
    Drop,
}

/// What all flows have in common.
#[derive(Debug)]
struct Shared {
    mode: Mode,
    unreadable: Unreadable,
    groups: Groups,
    counters: Counters,
    events: Events,
    actions: VecDeque<Action>,
    budget: MemoryBudget,
    /// Flows with bytes that wait, by when those before them must have come.
    waiting: BTreeSet<(Instant, FlowId)>,
    checks: Checks,
}

/// The hook of one shard.
#[derive(Debug)]
pub struct Hook {
    ports: Vec<u16>,
    /// By the slots of their ids.
    flows: Vec<Option<Box<Flow>>>,
    shared: Shared,
}

impl Hook {
    /// A hook without flows.
    pub fn new(settings: Settings) -> Self {
        Self {
            ports: match settings.mode {
                Mode::Off => Vec::new(),
                Mode::Assign | Mode::Observe => settings.ports,
            },
            flows: Vec::new(),
            shared: Shared {
                mode: settings.mode,
                unreadable: settings.unreadable,
                groups: Groups::new(settings.numbers),
                counters: Counters::default(),
                events: Events::default(),
                actions: VecDeque::new(),
                budget: MemoryBudget::in_shares(MAX_BUFFERED, MAX_SHARE),
                waiting: BTreeSet::new(),
                checks: Checks::new(settings.stale),
            },
        }
    }

    /// How many bytes that came out of order wait, in all flows together.
    pub fn waiting(&self) -> usize {
        MAX_BUFFERED - self.shared.budget.left()
    }

    /// Whether TCP flows to this port of a server are the hook's business.
    pub fn watches(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// Whether it changes segments; else it only looks at them.
    pub fn rewrites(&self) -> bool {
        self.shared.mode == Mode::Assign
    }

    /// Whether the segments of a flow matter that neither begin nor end a connection. Of one that
    /// speaks SMB2 not even their checksums do.
    pub fn reads(&self, flow: FlowId) -> bool {
        let found = self.flows.get(flow.slot as usize).and_then(Option::as_ref);
        found.is_none_or(|found| found.id() != flow || found.reads())
    }

    /// Judges a segment from a client and rewrites what has to be in its payload. The caller has
    /// verified the TCP checksum (a damaged copy would lead the reading astray) and carries the
    /// payload's delta into it if it is complete. `peer_of` says whose a client's address is.
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

    /// What [`client`](Self::client) has just changed in a segment with `len` bytes of payload: to
    /// be asked before anything else.
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

    /// Learns from a segment from a server; it always passes, as it is. Afterwards
    /// [`release`](Self::release) may have packets of the flow.
    pub fn server(&mut self, flow: FlowId, segment: &Segment, payload: &Payload<'_>, now: Instant) {
        if let Some((flow, shared)) = self.find(flow) {
            flow.server(segment, payload, now, shared);
        }
    }

    /// Keeps a whole translated packet of which [`client`](Self::client) said that it has to
    /// wait; what the bytes look like is the caller's affair. It has `len` bytes of payload, in
    /// segments of `size` bytes. Without room for it, it is dropped: TCP sends it again.
    pub fn hold(
        &mut self,
        flow: FlowId,
        segment: &Segment,
        (len, size): (usize, usize),
        packet: Vec<u8>,
        now: Instant,
    ) {
        let held = self
            .find(flow)
            .is_some_and(|(flow, shared)| flow.hold(segment, (len, size), packet, now, shared));
        let counters = &mut self.shared.counters;
        match held {
            true => counters.held += 1,
            false => counters.held_dropped += 1,
        }
    }

    /// The next packet of a flow that need not wait any longer. The caller passes it through
    /// [`client`](Self::client) again and sends it.
    pub fn release(&mut self, flow: FlowId) -> Option<Vec<u8>> {
        let (flow, shared) = self.find(flow)?;
        flow.release(shared)
    }

    /// The flow's connection has ended at both ends: its number is free again soon. What of it is
    /// sent again is rewritten until the flow is over.
    pub fn connection_over(&mut self, flow: FlowId) {
        if let Some((flow, shared)) = self.find(flow) {
            flow.owner.connection_over(shared);
        }
    }

    /// The flow is over: its number is free again.
    pub fn close(&mut self, flow: FlowId) {
        if self.find(flow).is_some()
            && let Some(flow) = self.flows[flow.slot as usize].take()
        {
            flow.end(&mut self.shared);
        }
    }

    /// The oldest event that was not fetched; to be fetched after each batch, and then shown to
    /// [`DisconnectCorrelator`].
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// How a flow stands.
    pub fn flow(&self, flow: FlowId) -> Option<FlowReport> {
        let found = self.flows.get(flow.slot as usize)?.as_ref()?;
        (found.id() == flow).then(|| found.report())
    }

    /// The newest TSval of a flow's client that went on to the server. What is released gets it if
    /// its own is older: the server would take it for an old duplicate (RFC 7323 section 5.3),
    /// though what filled the gap before it was sent later.
    pub fn clock(&self, flow: FlowId) -> Option<u32> {
        let found = self.flows.get(flow.slot as usize)?.as_ref()?;
        (found.id() == flow).then_some(found.owner.clock)?
    }

    /// How the server speaks on a flow, for a segment in its name.
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
