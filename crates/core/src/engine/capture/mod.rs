//! Copies of packets for `vcgate capture`, on both sides of the translation, each with its
//! metadata.
//!
//! A capture never waits and never changes a packet: a packet for which the buffer has no space is
//! counted. Without a capture there is no tap, and each point of the pipeline is one
//! comparison.

mod buffer;
mod metadata;
mod points;
mod tap;

pub use buffer::{CaptureBuffer, Frame};
pub use metadata::{Direction, End, Note, PacketMetadata};
pub(super) use tap::Tap;

use serde::{Deserialize, Serialize};

/// A side of the translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The client's: a packet as the client sent it, or will receive it.
    Tunnel,
    /// The LAN's: a packet as it goes to the LAN, or came from there.
    Lan,
}

/// The packets to capture; the default is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The name of the only peer to capture.
    #[serde(default)]
    pub peer: Option<String>,
    /// The only side to capture.
    #[serde(default)]
    pub side: Option<Side>,
}

#[cfg(test)]
mod tests;
