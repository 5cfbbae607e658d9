//! The names of ends: which of several address–port pairs a value is, said by its type.
//!
//! Keys and records hold both address families; nothing here knows which ones are translated.

use serde::{Deserialize, Serialize};
use smoltcp::wire::IpProtocol;
use std::net::{IpAddr, SocketAddr};

/// A protocol with ports of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP queries, which are echo and timestamp: their identifier is their port (RFC 5508
    /// section 3.1).
    Echo,
}

impl Protocol {
    /// How many there are.
    pub(super) const COUNT: usize = 3;
    /// All of them, each at the place of its own number.
    pub(super) const ALL: [Self; Self::COUNT] = [Self::Tcp, Self::Udp, Self::Echo];
}

impl TryFrom<IpProtocol> for Protocol {
    type Error = IpProtocol;

    /// That of a packet with ports.
    fn try_from(protocol: IpProtocol) -> Result<Self, IpProtocol> {
        match protocol {
            IpProtocol::Tcp => Ok(Self::Tcp),
            IpProtocol::Udp => Ok(Self::Udp),
            other => Err(other),
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// How many there are.
    pub(super) const COUNT: usize = 2;

    /// That of an address.
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// From which side of the NAT a packet comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// From a client, through the tunnel.
    Inside,
    /// From the LAN.
    Lan,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Inside => Self::Lan,
            Self::Lan => Self::Inside,
        }
    }
}

/// An address and a port, in 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(a: SocketAddr) -> Self {
        Self {
            ip: a.ip(),
            port: a.port(),
        }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(e: Endpoint) -> Self {
        Self::new(e.ip, e.port)
    }
}

/// A client's own end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Inside(pub Endpoint);

/// The far end of a flow, on the LAN; an ICMP query's port is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Remote(pub Endpoint);

/// The end that the LAN sees in a client's place: a port of the LAN address of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Outside {
    pub family: Family,
    pub protocol: Protocol,
    pub port: u16,
}
