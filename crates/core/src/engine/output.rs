//! Where the engine's packets go. The shell implements it with system calls, the simulated
//! network with queues.

use crate::ids::PeerId;
use crate::tunnel::{Ecn, Path};
use std::io::IoSlice;
use vcgate_wire::virtio_net::Header;

/// Takes what the engine sends, at once and in order.
pub trait Output {
    /// Datagrams of `segment` bytes each (the last may be shorter), back to back, for one client.
    /// `ecn` is the mark in their outer IP headers.
    fn datagrams(&mut self, path: &Path, ecn: Ecn, segment: usize, bytes: &[u8]);

    /// One packet or super-packet for the LAN, in pieces.
    fn lan_packet(&mut self, header: &Header, pieces: &[IoSlice<'_>]);

    /// Something for another shard, by its number.
    fn to_shard(&mut self, shard: u8, mail: ShardMessage);
}

/// What one shard hands to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardMessage {
    /// A datagram for one of its peers; an initiation has been through the gate.
    Datagram {
        /// Where it came from, and to which of our addresses.
        path: Path,
        /// The ECN bits of the outer header.
        ecn: Ecn,
        /// Whose initiation it is, if it is one.
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
