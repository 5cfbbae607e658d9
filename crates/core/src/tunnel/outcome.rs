//! What becomes of a datagram, and of a packet.

use super::Ecn;
use super::settings::Path;
use crate::ids::PeerId;
use boringtun::noise::errors::WireGuardError;

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A packet from this peer, whose source address is the peer's.
    Packet {
        /// Who sent it.
        peer: PeerId,
        /// The packet, without padding.
        packet: &'a mut [u8],
    },
    /// A message between the endpoints; an answer may be in [`super::Tunnel::poll_transmit`].
    Nothing,
    /// It is for a peer of this other shard, which is to have it.
    OtherShard {
        /// The shard's number.
        shard: u8,
        /// Whose initiation it is, which has been admitted; `None` for any other message.
        initiator: Option<PeerId>,
    },
    /// It was not for us, or not in order.
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
    /// A handshake with a public key that no peer has.
    UnknownPeer,
    /// A handshake that was not made for our public key.
    Mac,
    /// Under load: the sender got a cookie instead of an answer.
    CookieSent,
    /// Under load: too many handshakes from one source.
    RateLimited,
    /// It came before, or is older than the window.
    Replay,
    /// It cannot be decrypted.
    NotAuthentic,
    /// The inner source address is not the peer's.
    SourceNotAllowed,
    /// What was inside is no IP packet.
    InnerMalformed,
}

impl DropReason {
    /// All of them, each at the place of its own number.
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

    /// Its name in reports.
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

/// What became of a packet for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// So many bytes of `dst` are a datagram now; send it along [`super::Tunnel::path`].
    Written(usize),
    /// There is no session: the packet waits for the handshake that was begun.
    Queued,
    /// It is not known where the peer is; nothing was kept.
    NoEndpoint,
    /// There is no such peer (any more).
    NoPeer,
    /// `dst` must have [`super::Tunnel::sealed_len`] bytes.
    BufferTooSmall,
}

/// A datagram to send that no caller holds a buffer for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to, and from which address of ours.
    pub path: Path,
    /// What to send.
    pub bytes: Vec<u8>,
    /// The congestion mark of the outer packet.
    pub ecn: Ecn,
}
