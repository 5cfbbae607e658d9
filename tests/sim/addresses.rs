//! The addresses of the simulated hosts, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, 0, 1);
pub(crate) const LAN6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 2);
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 0x10);

/// The address family of the hosts; the engine supports both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn server(self) -> IpAddr {
        match self {
            Self::V4 => SERVER.into(),
            Self::V6 => SERVER6.into(),
        }
    }

    pub fn lan(self) -> IpAddr {
        match self {
            Self::V4 => LAN.into(),
            Self::V6 => LAN6.into(),
        }
    }

    pub fn gateway(self) -> IpAddr {
        match self {
            Self::V4 => GATEWAY.into(),
            Self::V6 => GATEWAY6.into(),
        }
    }

    pub fn inner(self, client: usize) -> IpAddr {
        match self {
            Self::V4 => inner(client).into(),
            Self::V6 => inner6(client).into(),
        }
    }
}

/// Returns the inner IPv4 address of a client.
pub(crate) fn inner(client: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 8, 0, 11)) + client as u32)
}

/// Returns the inner IPv6 address of a client.
pub(crate) fn inner6(client: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, 0, 0x11 + client as u16)
}
