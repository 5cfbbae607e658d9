//! Who had which ports of the LAN address, and when (RFC 6888 REQ-12 to 14): a file of JSON lines.
//!
//! One line when ports are given and one when they are returned; never a destination. [`Writer`]
//! writes them, [`ask`] reads them, whether the endpoint runs or not.

mod query;
mod writer;

pub use query::{Answer, Holder, ask};
pub use writer::Writer;

pub use super::time::Timestamp;

use crate::config::Transport;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    time: Timestamp,
    event: Event,
    /// Since when, where that is not `time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    ports: Option<Ports>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    /// The endpoint began: nobody has any ports.
    Started,
    /// A client has these ports from now on.
    Given,
    /// It has had them for a while: the first lines of a new file say so.
    Held,
    /// It has them no longer.
    Returned,
    /// The endpoint ended: nobody has any ports.
    Stopped,
}

/// Ports, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The peer's name.
    pub peer: String,
    /// The client's inner address.
    pub client: IpAddr,
    /// What the LAN sees.
    pub lan_address: IpAddr,
    /// The first port.
    pub first_port: u16,
    /// The last port.
    pub last_port: u16,
    /// Only this protocol's, as forwards are; else those of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Transport>,
}

impl Ports {
    /// What tells them from other ports.
    fn key(&self) -> Key {
        Key {
            ipv6: self.client.is_ipv6(),
            first_port: self.first_port,
            last_port: self.last_port,
            protocol: self.protocol,
        }
    }
}

/// Which ports: a port may be forwarded in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Of the LAN's IPv6 address.
    pub ipv6: bool,
    /// The first port.
    pub first_port: u16,
    /// The last port.
    pub last_port: u16,
    /// Only this protocol's.
    pub protocol: Option<Transport>,
}

/// The name of a file that was put aside: the larger the number, the older it is.
fn aside(file: &Path, number: u16) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
