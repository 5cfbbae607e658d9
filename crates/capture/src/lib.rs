//! Packets that `vcgate capture` carries from the running endpoint to a file: those on both sides
//! of the translation, each with a comment. [`stream`] is the format on the control socket,
//! [`pcapng`] the format of the file. [`diagnose`] reads capture files.

pub mod diagnose;
pub mod pcapng;
pub mod stream;

use serde::{Deserialize, Serialize};
use vcgate_core::engine::{Direction, Side};

/// A captured packet or super-packet, from its IP header on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where it was captured.
    pub side: Side,
    /// Its direction.
    pub direction: Direction,
    /// The time of the capture, in nanoseconds of Unix time.
    pub unix_nanos: u64,
    /// Its peer, its flow, and the changes that were made to it.
    pub comment: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Counts of packets by side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets of the tunnel.
    pub tunnel: u64,
    /// Packets of the LAN.
    pub lan: u64,
}

impl Counts {
    /// Returns the count of a side.
    pub fn of(&mut self, side: Side) -> &mut u64 {
        match side {
            Side::Tunnel => &mut self.tunnel,
            Side::Lan => &mut self.lan,
        }
    }

    /// Returns the sum of both sides.
    pub fn sum(self) -> u64 {
        self.tunnel + self.lan
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.tunnel += more.tunnel;
        self.lan += more.lan;
    }
}

#[cfg(test)]
mod tests;
