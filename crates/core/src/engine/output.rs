//! The engine's output. The shell implements it with system calls, the simulated network with
//! queues.

use crate::ids::PeerId;
use crate::tunnel::{Ecn, Path};
use std::io::IoSlice;
use std::time::Instant;
use vcgate_wire::virtio_net::Header;

/// Takes the datagrams and packets that the engine sends, at once and in order.
pub trait Output {
    /// Sends datagrams of `segment` bytes each (the last may be shorter), back to back, to one
    /// client. `ecn` is the mark in their outer IP headers.
    fn datagrams(&mut self, path: &Path, ecn: Ecn, segment: usize, bytes: &[u8]);

    /// Sends one packet or super-packet to the LAN, in pieces.
    fn lan_packet(&mut self, header: &Header, pieces: &[IoSlice<'_>]);

    /// Passes a message to the shard of this number.
    fn to_shard(&mut self, shard: u8, message: ShardMessage);
}

/// A message from one shard to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardMessage {
    /// A datagram for one of its peers; an initiation has passed the handshake limiter.
    Datagram {
        /// The sender of the datagram, and the address of ours that it came to.
        path: Path,
        /// The ECN bits of the outer header.
        ecn: Ecn,
        /// The sender, if the datagram is an initiation.
        initiator: Option<PeerId>,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// A packet or super-packet for the LAN address.
    FromLan {
        /// Its virtio header.
        header: Header,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// A packet or super-packet for one of its clients, by the client's own address.
    ToClient {
        /// Its virtio header.
        header: Header,
        /// The packet.
        bytes: Vec<u8>,
    },
}

/// The time of a batch and the output of its packets, which every stage gets.
pub(super) struct Context<'o, O> {
    pub(super) now: Instant,
    pub(super) out: &'o mut O,
}

impl<'o, O: Output> Context<'o, O> {
    pub(super) fn new(now: Instant, out: &'o mut O) -> Self {
        Self { now, out }
    }
}
