//! The settings of one shard's NAT.

use crate::ids::ShardId;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::Duration;

/// The settings of one shard's NAT.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The first LAN address that clients share.
    pub address: Ipv4Addr,
    /// The further LAN addresses that clients share; each peer uses one address.
    pub pool: Vec<Ipv4Addr>,
    /// The IPv6 LAN address; without one, IPv6 is not translated.
    pub address6: Option<Ipv6Addr>,
    /// The gateway's address in the tunnel: the source of ICMP errors to clients.
    pub gateway: Ipv4Addr,
    /// The gateway's IPv6 address in the tunnel; without one, ICMPv6 errors to clients come from
    /// the LAN address.
    pub gateway6: Option<Ipv6Addr>,
    /// The senders that reach a mapped port.
    pub filtering: Filtering,
    /// The answer to unsolicited TCP segments from the LAN.
    pub on_unsolicited: OnUnsolicited,
    /// The lifetimes of idle sessions.
    pub timeouts: Timeouts,
    /// The limits of one peer.
    pub limits: Limits,
    /// The MTU inside the tunnel, in bytes.
    pub mtu: u16,
    /// The ports that clients may have, in units of [`BLOCK_SIZE`](super::BLOCK_SIZE).
    pub blocks: Range<u16>,
    /// The shard of this NAT; ports are distributed among the shards round-robin.
    pub shard: ShardId,
}

/// The settings that can change while flows exist.
#[derive(Debug, Clone)]
pub struct AdjustableSettings {
    /// See [`Settings::filtering`].
    pub filtering: Filtering,
    /// See [`Settings::on_unsolicited`].
    pub on_unsolicited: OnUnsolicited,
    /// See [`Settings::timeouts`]; sessions that exceed a new timeout end.
    pub timeouts: Timeouts,
    /// See [`Settings::limits`]; a peer above a new limit keeps what it has.
    pub limits: Limits,
}

/// The senders on the LAN that reach a mapped port (RFC 4787 REQ-8, RFC 5382 REQ-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Hosts to whose address the client has sent from this port.
    #[default]
    AddressDependent,
    /// All hosts.
    EndpointIndependent,
}

/// The answer to TCP segments from the LAN that belong to no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnsolicited {
    /// To a SYN, ICMP port unreachable after 6 s, unless the client sends a SYN to the same endpoint
    /// before (RFC 5382 REQ-4). To any other segment, a reset (RFC 9293 section 3.10.7.1).
    #[default]
    Reject,
    /// No answer.
    Drop,
}

/// The lifetime of a session after the packet that last refreshed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP: at least 2 minutes, 5 by default (RFC 4787 REQ-5).
    pub udp: Duration,
    /// Whether packets from the LAN refresh a UDP session too; packets from the client always do
    /// (RFC 4787 REQ-6).
    pub udp_inbound_refresh: bool,
    /// UDP to port 53: may be shorter (RFC 4787 REQ-5a), because a resolver uses one port per query.
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

/// The limits of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of ports per inner address, of every protocol. All addresses of a peer
    /// together get at most 29 % of a shard's ports, and fewer if others need them too.
    pub ports: u16,
    /// Maximum number of concurrent sessions; hosts on the LAN can open at most half of them.
    pub sessions: u32,
    /// New sessions per second, with a burst of one second's worth; hosts on the LAN have a separate
    /// rate of the same size.
    pub new_sessions: u32,
    /// Maximum number of incomplete datagrams (RFC 4787 REQ-14).
    pub fragments: u16,
    /// ICMP errors per second that the NAT itself sends to a peer, to the LAN about packets for a peer,
    /// and to the LAN about packets for no peer (RFC 1812 section 4.3.2.8).
    pub errors: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ports: 2048,
            sessions: 16384,
            new_sessions: 1000,
            fragments: 32,
            errors: 100,
        }
    }
}
