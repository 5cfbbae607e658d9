//! One durable change.
//!
//! Flows are identified by their ends, not by ids of a process, so that the records of several shards
//! can be applied in any interleaving. Each record states a value, never a difference: applying it
//! twice changes nothing.

use crate::nat::{Endpoint, Protocol, Tcp, TrafficCounters};
use crate::smb::SmbFlowSnapshot;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// A durable change of the flows of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record(pub(crate) Change);

impl Record {
    /// Returns the record that ends the journal of a stopped run, whose state is exact.
    pub fn end() -> Self {
        Self(Change::End)
    }
}

/// The ends that identify a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct FlowKey {
    pub protocol: Protocol,
    /// The client's own endpoint.
    pub inside: Endpoint,
    /// The endpoint on the LAN; the port of an ICMP query is 0.
    pub remote: Endpoint,
}

/// The kinds of changes. The order of the variants is part of the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// A peer by its number in this journal, which may be that of an earlier peer.
    Peer {
        id: u32,
        key: [u8; 32],
        endpoint: Option<SocketAddr>,
    },
    /// The peer of an inner address that begins to have flows.
    Owner { client: IpAddr, peer: u32 },
    /// A flow that begins, and its mapping: the LAN address and port that represent the client's
    /// endpoint.
    Opened {
        flow: FlowKey,
        outside: Endpoint,
        /// Whether the port is forwarded to the endpoint.
        forwarded: bool,
    },
    /// A TCP connection that reached another stage.
    Tcp { flow: FlowKey, tcp: Tcp },
    /// Time in milliseconds since the last refresh, and traffic. Only snapshots contain it.
    Usage {
        flow: FlowKey,
        idle: u64,
        sent: TrafficCounters,
        received: TrafficCounters,
    },
    /// A flow that ended; `port` is that of its mapping, so that a late record does not end the next
    /// flow between the same ends.
    Closed { flow: FlowKey, port: u16 },
    /// A port block that a client got or returned, by its first endpoint on the LAN.
    Block {
        client: IpAddr,
        first: Endpoint,
        last_port: u16,
        given: bool,
    },
    /// A UDP port in quarantine for another `left` milliseconds, and the client of its block.
    PortHeld {
        client: IpAddr,
        outside: Endpoint,
        left: u64,
    },
    /// The SMB hook's state of a flow.
    Smb(Box<SmbFlowSnapshot>),
    /// The run has stopped: the state is exact, and no packet followed.
    End,
}
