//! The NAT's vocabulary: protocols, families, sides, the ends of a flow, and the ids of records.
//!
//! Keys and records hold both address families; this module does not decide which are translated.

use serde::{Deserialize, Serialize};
use smoltcp::wire::IpProtocol;
use std::net::{IpAddr, SocketAddr};

/// A protocol with its own port space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP queries (echo and timestamp): the identifier is the port (RFC 5508 section 3.1).
    Echo,
}

impl Protocol {
    pub(super) const COUNT: usize = 3;
    /// All protocols, each at the index of its discriminant.
    pub(super) const ALL: [Self; Self::COUNT] = [Self::Tcp, Self::Udp, Self::Echo];
}

impl TryFrom<IpProtocol> for Protocol {
    type Error = IpProtocol;

    /// Converts TCP and UDP.
    ///
    /// # Errors
    /// The argument, if it is another protocol.
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
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const COUNT: usize = 2;

    /// Returns the family of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The side of the NAT from which a packet comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The clients, through the tunnel.
    Inside,
    /// The LAN.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "SocketAddr", into = "SocketAddr")]
pub(crate) struct Endpoint {
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

/// The client's own endpoint of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Inside(pub Endpoint);

/// The remote endpoint of a flow, on the LAN; the port of an ICMP query is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Remote(pub Endpoint);

/// The number of a LAN address of vcgate, which determines the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LanId(u16);

impl LanId {
    /// Returns the first address of a family.
    pub(super) fn first(family: Family) -> Self {
        Self(family as u16)
    }

    pub(super) fn from_index(index: usize) -> Self {
        Self(index as u16)
    }

    pub(super) fn index(self) -> usize {
        self.0.into()
    }
}

/// The endpoint that the LAN sees instead of the client's: a port of a LAN address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Outside {
    pub lan: LanId,
    pub protocol: Protocol,
    pub port: u16,
}

/// Defines the id of a kind of record: an index of its slab, in 4 bytes.
macro_rules! record_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(super) struct $name(pub u32);

        impl $name {
            pub(super) fn from_index(index: usize) -> Self {
                Self(index as u32)
            }

            pub(super) fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

record_id! {
    /// A mapping in the table.
    MappingId
}
record_id! {
    /// A session in the table.
    SessionId
}
record_id! {
    /// A client: an inner address with port blocks or sessions.
    ClientId
}

/// Reserves one id for "no record", so that an optional id takes 4 bytes.
macro_rules! optional_id {
    ($name:ident) => {
        impl $name {
            /// The id of no record.
            pub(super) const NONE: Self = Self(u32::MAX);

            /// Returns the id unless it is [`NONE`](Self::NONE).
            pub(super) fn get(self) -> Option<Self> {
                (self != Self::NONE).then_some(self)
            }
        }
    };
}

optional_id!(MappingId);
optional_id!(SessionId);
