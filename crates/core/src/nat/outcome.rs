//! The outcomes of a packet: forwarded, answered, held or dropped, and the counters of each.

use super::endpoint::Protocol;
use super::icmp_error::Refusal;
use super::tcp::Sequence;
use crate::ids::{FlowId, PeerId};
use std::net::SocketAddr;

/// The outcome of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Translated: the packet goes to the LAN, or to the client that `headers.dst` names. It has no
    /// flow if it is an ICMP error or a fragment other than the first, or if the filter lets it in
    /// before the client ever sent to its source.
    Forward(Option<FlowRef>),
    /// Translated at both ends: the packet goes from one client to the client that `headers.dst`
    /// names.
    Hairpin(Box<HairpinFlows>),
    /// Dropped, and answered with an ICMP error.
    Reply {
        /// The reason for the drop.
        reason: Reason,
        /// The error: a whole packet for the sender of the dropped one.
        error: Vec<u8>,
    },
    /// Kept or consumed; packets that result from it come from
    /// [`Nat::poll_deferred`](super::Nat::poll_deferred).
    Held,
    /// Dropped.
    Drop(Reason),
}

impl Outcome {
    /// Returns whether the packet was dropped at a limit of its sender, answered or not.
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
    /// The id of the flow.
    pub id: FlowId,
    /// The protocol of the flow.
    pub protocol: Protocol,
    /// The remote endpoint, on the LAN; the port of an ICMP query is 0.
    pub remote: SocketAddr,
}

/// The flows of a packet from one client to another: the sender's and the receiver's.
///
/// Both are `None` if nothing is translated or the packet belongs to no flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HairpinFlows {
    /// The sender's flow; its remote endpoint is the port of the LAN address that the packet was
    /// sent to.
    pub from: Option<FlowRef>,
    /// The receiver's flow; its remote endpoint is the port of the LAN address that the packet comes
    /// from.
    pub to: Option<FlowRef>,
}

/// A TCP connection that its ends still use, while its flow was closed: the peer was removed, or the
/// address or the port became another one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeveredFlow {
    /// The peer that had the flow.
    pub peer: PeerId,
    /// The client's own endpoint.
    pub client: SocketAddr,
    /// The client's endpoint as the server sees it.
    pub lan: SocketAddr,
    /// The server's endpoint.
    pub server: SocketAddr,
    /// The numbers that the ends expect.
    pub sequence: Sequence,
}

/// A packet that leaves later than the packet that caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeferredPacket {
    /// A packet for the client that its destination names.
    ToClient(Vec<u8>),
    /// A packet for the LAN.
    ToLan(Vec<u8>),
}

/// The reason why a packet is not forwarded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    /// Dropped in silence.
    Drop(Reason),
    /// Dropped, with an ICMP error to the sender.
    Refuse(Reason, Refusal),
    /// Held.
    Held,
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Drop(reason)
    }
}

/// The outcome of a packet before it is counted and its sender is notified.
pub(super) type Verdict = Result<Outcome, Stop>;

/// The reason why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The address family is not translated.
    Family,
    /// The L4 protocol is not translated.
    Protocol,
    /// The L4 header is truncated or its length field is wrong.
    Truncated,
    /// UDP over IPv6 without a checksum (RFC 8200 section 8.1).
    NoChecksum,
    /// The checksum of an ICMP error, or of the IP header that it quotes, is wrong (RFC 5508
    /// REQ-3).
    BadChecksum,
    /// The ICMP type is not translated, or not from this side.
    IcmpType,
    /// The quote of an ICMP error is truncated, or matches no mapping.
    Quote,
    /// A packet of the LAN that is not for the LAN address.
    NotOurs,
    /// A packet of the LAN for a port that is not mapped, or for an inner address of no peer.
    NoMapping,
    /// A packet of the LAN for a mapped port, from an address that the client never sent to.
    Filtered,
    /// A TCP segment that belongs to no session and cannot open one.
    NoSession,
    /// No port is free, or the client has its maximum of port blocks.
    NoPort,
    /// The peer has its maximum number of sessions.
    Sessions,
    /// The peer exceeded its rate of new sessions.
    Rate,
    /// Larger than the tunnel's MTU, with DF set.
    TooBig,
    /// The TTL or hop limit expired here.
    Expired,
    /// A fragment so small or so placed that it could hide an L4 header (RFC 1858, RFC 3128), or
    /// beyond the maximum length of a datagram.
    BadFragment,
    /// A fragment that overlaps another one of its datagram (RFC 1858).
    OverlappingFragment,
    /// A fragment from a sender that has too many incomplete datagrams.
    FragmentFlood,
}

impl Reason {
    /// All reasons, each at the index of its discriminant.
    pub const ALL: [Self; 19] = [
        Self::Family,
        Self::Protocol,
        Self::Truncated,
        Self::NoChecksum,
        Self::BadChecksum,
        Self::IcmpType,
        Self::Quote,
        Self::NotOurs,
        Self::NoMapping,
        Self::Filtered,
        Self::NoSession,
        Self::NoPort,
        Self::Sessions,
        Self::Rate,
        Self::TooBig,
        Self::Expired,
        Self::BadFragment,
        Self::OverlappingFragment,
        Self::FragmentFlood,
    ];

    /// Returns whether the reason is a limit of the sender (RFC 6888 REQ-4, RFC 4787 REQ-14) or a
    /// lack of ports.
    pub fn is_limit(self) -> bool {
        matches!(
            self,
            Self::NoPort | Self::Sessions | Self::Rate | Self::FragmentFlood
        )
    }

    /// Returns the name of the reason, as in a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Family => "family",
            Self::Protocol => "protocol",
            Self::Truncated => "truncated",
            Self::NoChecksum => "no_checksum",
            Self::BadChecksum => "bad_checksum",
            Self::IcmpType => "icmp_type",
            Self::Quote => "quote",
            Self::NotOurs => "not_ours",
            Self::NoMapping => "no_mapping",
            Self::Filtered => "filtered",
            Self::NoSession => "no_session",
            Self::NoPort => "no_port",
            Self::Sessions => "sessions",
            Self::Rate => "rate",
            Self::TooBig => "too_big",
            Self::Expired => "expired",
            Self::BadFragment => "bad_fragment",
            Self::OverlappingFragment => "overlapping_fragment",
            Self::FragmentFlood => "fragment_flood",
        }
    }
}

/// The number of packets per outcome; a super-packet counts once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets translated on the way to the LAN.
    pub outbound: u64,
    /// Packets translated on the way to a client.
    pub inbound: u64,
    /// Packets from one client to another by way of the LAN address.
    pub hairpinned: u64,
    /// Packets answered with an ICMP error or a TCP reset.
    pub refused: u64,
    /// Packets held until a first fragment arrives or a client sends a SYN.
    pub held: u64,
    dropped: [u64; Reason::ALL.len()],
}

impl Counters {
    /// Returns the number of packets dropped for this reason, answered or not.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    pub(super) fn count_drop(&mut self, reason: Reason) {
        self.dropped[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_index_and_name() {
        let mut names = std::collections::HashSet::new();
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert!(names.insert(reason.name()));
        }
    }
}
