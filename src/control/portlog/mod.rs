//! The port log: a file of JSON lines that records which client had which ports of the LAN address,
//! and when (RFC 6888 REQ-12 to 14).
//!
//! There is one line when ports are assigned and one when they are returned, and never a
//! destination. [`Writer`] writes the file; [`query()`] reads it, whether the endpoint runs or not.

mod query;
mod writer;

pub use query::{Holder, QueryResult, query};
pub use writer::Writer;

pub use super::time::Timestamp;

use super::line_file::rotated;
use crate::config::Transport;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    time: Timestamp,
    event: Event,
    /// The time since which the client has the ports, if it is not `time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    ports: Option<Ports>,
}

/// The kinds of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    /// The endpoint started: no client has ports.
    Started,
    /// The ports were assigned to a client.
    Given,
    /// The client already had the ports: written at the beginning of a new file.
    Held,
    /// The client returned the ports.
    Returned,
    /// The endpoint stopped: no client has ports.
    Stopped,
}

/// Ports of the LAN address, and the client that has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The peer's name.
    pub peer: String,
    /// The client's inner address.
    pub client: IpAddr,
    /// The address on the LAN.
    pub lan_address: IpAddr,
    /// The first port.
    pub first_port: u16,
    /// The last port.
    pub last_port: u16,
    /// The protocol, for forwards; `None` is all protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Transport>,
}

impl Ports {
    /// Returns the identity of the ports, without the client.
    fn key(&self) -> Key {
        Key {
            lan_address: self.lan_address,
            first_port: self.first_port,
            last_port: self.last_port,
            protocol: self.protocol,
        }
    }
}

/// The identity of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The address on the LAN.
    pub lan_address: IpAddr,
    /// The first port.
    pub first_port: u16,
    /// The last port.
    pub last_port: u16,
    /// The protocol; `None` is all protocols.
    pub protocol: Option<Transport>,
}

#[cfg(test)]
mod tests;
