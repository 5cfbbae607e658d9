//! The results of receiving a datagram and of sealing a packet.

use super::Ecn;
use super::settings::Path;
use crate::ids::PeerId;
use boringtun::noise::errors::WireGuardError;

/// The result of receiving a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A packet from this peer, whose source address is the peer's.
    Packet {
        /// The sender.
        peer: PeerId,
        /// The packet, without padding.
        packet: &'a mut [u8],
    },
    /// A handshake message or a keepalive; [`super::Tunnel::poll_transmit`] may have an answer.
    Nothing,
    /// A message for a peer of another shard, to which the caller forwards it.
    OtherShard {
        /// The shard's number.
        shard: u8,
        /// The sender of an initiation, which has been admitted; `None` for any other message.
        initiator: Option<PeerId>,
    },
    /// The datagram is dropped.
    Dropped(DropReason),
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Not a WireGuard message.
    Malformed,
    /// `dst` cannot hold the packet.
    BufferTooSmall,
    /// No peer, or no session, has this receiver index.
    UnknownIndex,
    /// A handshake with the public key of no peer.
    UnknownPeer,
    /// A handshake message for another public key than the endpoint's.
    Mac,
    /// Under load: the reply is a cookie.
    CookieSent,
    /// Under load: the source sent too many handshake messages.
    RateLimited,
    /// The message was received before, or is older than the replay window.
    Replay,
    /// The message cannot be decrypted.
    NotAuthentic,
    /// The inner source address does not belong to the peer.
    SourceNotAllowed,
    /// The content is not an IP packet.
    InnerMalformed,
}

impl DropReason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::BufferTooSmall,
        Self::UnknownIndex,
        Self::UnknownPeer,
        Self::Mac,
        Self::CookieSent,
        Self::RateLimited,
        Self::Replay,
        Self::NotAuthentic,
        Self::SourceNotAllowed,
        Self::InnerMalformed,
    ];

    /// Returns the name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BufferTooSmall => "buffer_too_small",
            Self::UnknownIndex => "unknown_index",
            Self::UnknownPeer => "unknown_peer",
            Self::Mac => "mac",
            Self::CookieSent => "cookie_sent",
            Self::RateLimited => "rate_limited",
            Self::Replay => "replay",
            Self::NotAuthentic => "not_authentic",
            Self::SourceNotAllowed => "source_not_allowed",
            Self::InnerMalformed => "inner_malformed",
        }
    }
}

impl From<WireGuardError> for DropReason {
    fn from(error: WireGuardError) -> Self {
        use WireGuardError as E;
        match error {
            E::WrongIndex | E::NoCurrentSession | E::UnexpectedPacket => Self::UnknownIndex,
            E::InvalidCounter | E::DuplicateCounter | E::WrongTai64nTimestamp => Self::Replay,
            E::InvalidMac => Self::Mac,
            E::WrongKey => Self::UnknownPeer,
            E::InvalidAeadTag | E::InvalidTai64nTimestamp => Self::NotAuthentic,
            _ => Self::Malformed,
        }
    }
}

/// The result of sealing a packet for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// The length of the datagram in `dst`, to be sent on [`super::Tunnel::path`].
    Written(usize),
    /// There is no session: the packet waits for a handshake, which has been started.
    Queued,
    /// The address of the peer is unknown; the packet is dropped.
    NoEndpoint,
    /// There is no such peer (any more); the packet is dropped.
    NoPeer,
    /// `dst` is shorter than [`super::Tunnel::sealed_len`].
    BufferTooSmall,
}

/// A datagram of the tunnel itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The destination and the source address.
    pub path: Path,
    /// The datagram.
    pub bytes: Vec<u8>,
    /// The congestion mark of the outer packet.
    pub ecn: Ecn,
}
