//! What the NAT is told from outside.

use super::endpoint::Side;
use crate::ids::Shard;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::Duration;

/// What one shard's NAT shall do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The LAN address that all clients share.
    pub address: Ipv4Addr,
    /// The LAN address for IPv6; without one, IPv6 is not translated.
    pub address6: Option<Ipv6Addr>,
    /// The gateway's address in the tunnel, from which ICMP errors to clients come.
    pub gateway: Ipv4Addr,
    /// The gateway's IPv6 address in the tunnel; without one, ICMPv6 errors to clients come from
    /// the LAN address.
    pub gateway6: Option<Ipv6Addr>,
    /// Who may send to a mapped port.
    pub filtering: Filtering,
    /// Whether an unsolicited SYN from the LAN is answered after 6 s (RFC 5382 REQ-4).
    pub on_unsolicited: OnUnsolicited,
    /// How long a silent session lives.
    pub timeouts: Timeouts,
    /// What one peer may have.
    pub limits: Limits,
    /// The MTU inside the tunnel, in bytes.
    pub mtu: u16,
    /// The port blocks that clients may have, by number (see [`BLOCK_SIZE`](super::BLOCK)).
    pub blocks: Range<u16>,
    /// Whose NAT this is. Shards have the blocks in turns.
    pub shard: Shard,
}

/// The settings that no flow depends on.
#[derive(Debug, Clone)]
pub struct AdjustableSettings {
    /// See [`Settings::filtering`].
    pub filtering: Filtering,
    /// See [`Settings::on_unsolicited`].
    pub on_unsolicited: OnUnsolicited,
    /// See [`Settings::timeouts`]: what is silent for longer than a new one ends.
    pub timeouts: Timeouts,
    /// See [`Settings::limits`]: nobody loses what is above a new one.
    pub limits: Limits,
}

impl Settings {
    /// The LAN address of the family of `like`.
    pub(super) fn lan(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => Some(self.address.into()),
            IpAddr::V6(_) => self.address6.map(IpAddr::V6),
        }
    }

    /// Whether it is the LAN address.
    pub(super) fn is_lan(&self, address: IpAddr) -> bool {
        self.lan(address) == Some(address)
    }

    /// From which address an ICMP error to this side comes, to an address of the family of `to`.
    pub(super) fn speaker(&self, side: Side, to: IpAddr) -> Option<IpAddr> {
        match (side, to) {
            (Side::Inside, IpAddr::V4(_)) => Some(self.gateway.into()),
            (Side::Inside, IpAddr::V6(_)) => self.gateway6.or(self.address6).map(IpAddr::V6),
            (Side::Lan, _) => self.lan(to),
        }
    }
}

/// Which senders on the LAN reach a mapped port (RFC 4787 REQ-8, RFC 5382 REQ-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filtering {
    /// Those to whose address the client sent from this port.
    #[default]
    AddressDependent,
    /// Everybody.
    EndpointIndependent,
}

/// The reaction to a SYN from the LAN for which no mapping exists (RFC 5382 REQ-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnsolicited {
    /// ICMP port unreachable after 6 s, unless the client opens the connection too by then.
    #[default]
    Reject,
    /// No answer.
    Drop,
}

/// How long a session lives after the packet that last refreshed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP: at least 2 minutes, 5 by default (RFC 4787 REQ-5).
    pub udp: Duration,
    /// Whether what the LAN sends renews a UDP session too; what the client sends always does (RFC
    /// 4787 REQ-6).
    pub udp_inbound_refresh: bool,
    /// UDP to port 53: may be shorter (RFC 4787 REQ-5a), for a resolver takes a port for each
    /// question.
    pub dns: Duration,
    /// ICMP queries: at least 60 s (RFC 5508 REQ-2).
    pub echo: Duration,
    /// TCP before its handshake is complete: at least 4 minutes (RFC 5382 REQ-5, RFC 7857
    /// section 2.1).
    pub tcp_opening: Duration,
    /// TCP after its handshake: at least 2 hours and 4 minutes (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// TCP after both FINs or a RST: at least 4 minutes (RFC 5382 REQ-5, RFC 7857 section 2.2).
    pub tcp_closing: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            udp: minutes(5),
            udp_inbound_refresh: false,
            dns: Duration::from_secs(30),
            echo: minutes(1),
            tcp_opening: minutes(4),
            tcp_established: minutes(124),
            tcp_closing: minutes(4),
        }
    }
}

/// What one peer may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Port blocks of each inner address; each gives it [`BLOCK_SIZE`](super::BLOCK) ports of every
    /// protocol. All of a peer's addresses together have at most a quarter of a shard's.
    pub blocks: u16,
    /// Sessions at a time; others open half of them at most.
    pub sessions: u32,
    /// New sessions a second; as many again may come in one burst. Others have as many.
    pub new_sessions: u32,
    /// Datagrams under way in fragments (RFC 4787 REQ-14).
    pub fragments: u16,
    /// ICMP errors a second that the NAT itself sends to a peer, and to all hosts of the LAN (RFC
    /// 1812 section 4.3.2.8).
    pub errors: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blocks: 32,
            sessions: 16384,
            new_sessions: 1000,
            fragments: 32,
            errors: 100,
        }
    }
}
