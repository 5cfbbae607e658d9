//! Inbound forwards: ports of the LAN address that lead to one client for good.
//!
//! A forwarded port is in nobody's choice, has no filter, and is at the same time the port from
//! which its client's end is seen (RFC 4787 REQ-1). Its sessions are like all others; the mapping
//! that carries them comes and goes with them.

use super::endpoint::{Endpoint, Family, Inside, Outside, Protocol, Remote, Side};
use super::tcp::Segment;
use super::verdict::Stop;
use super::{Nat, Peers, Reason};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use vcgate_wire::packet::Packet;

/// One port of the LAN address of a family, and the end of that family that it stands for. A port
/// may be forwarded in both families, to an end in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port of the LAN address.
    pub port: u16,
    /// The client's end.
    pub to: SocketAddr,
}

impl Forward {
    pub(super) fn outside(&self) -> Outside {
        Outside {
            family: Family::of(self.to.ip()),
            protocol: self.protocol,
            port: self.port,
        }
    }
}

/// Why a port cannot be forwarded. Each message names the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Echo has no ports, and port 0 is none.
    #[error("only ports 1 to 65535 of tcp and udp can be forwarded")]
    NoPort,
    /// The LAN side has no address of this family.
    #[error(
        "{0} is IPv6, which the LAN side has not: set lan.address6, or forward to an IPv4 address"
    )]
    Family(SocketAddr),
    /// The port is forwarded already.
    #[error(
        "LAN port {0} is forwarded to {1} already: remove that forward, or choose another port"
    )]
    Duplicate(u16, SocketAddr),
    /// The client's end has another port already.
    #[error("{0} has LAN port {1} already: remove that forward, or choose another target")]
    Target(SocketAddr, u16),
    /// A client's own flow uses the port now, and nobody is cut off.
    #[error("LAN port {0} is in use by a client's flow: choose another port, or try again later")]
    InUse(u16),
}

/// All forwards, by either end.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    to: HashMap<Outside, Inside>,
    from: HashMap<(Inside, Protocol), Outside>,
}

impl Forwards {
    /// The client's end that a port leads to.
    pub(super) fn to(&self, outside: Outside) -> Option<Inside> {
        // Most gateways have none.
        match self.to.is_empty() {
            true => None,
            false => self.to.get(&outside).copied(),
        }
    }

    /// The port that stands for a client's end.
    pub(super) fn from(&self, inside: Inside, protocol: Protocol) -> Option<Outside> {
        self.from.get(&(inside, protocol)).copied()
    }

    pub(super) fn list(&self) -> impl Iterator<Item = Forward> + '_ {
        self.to.iter().map(|(outside, inside)| Forward {
            protocol: outside.protocol,
            port: outside.port,
            to: inside.0.into(),
        })
    }

    /// Those that lead to this client.
    pub(super) fn of(&self, client: IpAddr) -> Vec<Forward> {
        self.list().filter(|f| f.to.ip() == client).collect()
    }
}

impl Nat {
    /// Forwards a port from now on; it is no error if it was so before. Flows that the client's end
    /// has by another port end: it is seen from one port only.
    pub fn add_forward(&mut self, forward: Forward, now: Instant) -> Result<(), ForwardError> {
        let Forward { protocol, port, to } = forward;
        let (outside, inside) = (forward.outside(), Inside(Endpoint::from(to)));
        if protocol == Protocol::Echo || port == 0 || to.port() == 0 {
            return Err(ForwardError::NoPort);
        }
        if self.settings.lan(to.ip()).is_none() {
            return Err(ForwardError::Family(to));
        }
        if let Some(other) = self.forwards.to(outside) {
            if other == inside {
                return Ok(());
            }
            return Err(ForwardError::Duplicate(port, other.0.into()));
        }
        if let Some(other) = self.forwards.from(inside, protocol) {
            return Err(ForwardError::Target(to, other.port));
        }
        let own = self.table.by_inside(inside, protocol);
        let own = own.map(|mapping| self.table.mappings[mapping as usize].outside);
        if own == Some(outside) {
            self.close_mapping(outside, now); // the same end has it by chance
        }
        if !self.ports.reserve(outside) {
            return Err(ForwardError::InUse(port));
        }
        if let Some(own) = own {
            self.close_mapping(own, now);
        }
        self.forwards.to.insert(outside, inside);
        self.forwards.from.insert((inside, protocol), outside);
        Ok(())
    }

    /// Forwards a port no longer; its flows end. Whether it was so before.
    pub fn remove_forward(&mut self, forward: Forward, now: Instant) -> bool {
        let (outside, inside) = (forward.outside(), Inside(Endpoint::from(forward.to)));
        if self.forwards.to(outside) != Some(inside) {
            return false;
        }
        self.close_mapping(outside, now);
        self.forwards.to.remove(&outside);
        self.forwards.from.remove(&(inside, forward.protocol));
        self.ports.unreserve(outside);
        true
    }

    /// All forwards.
    pub fn forwards(&self) -> impl Iterator<Item = Forward> + '_ {
        self.forwards.list()
    }

    /// Whether a client's packet belongs to a session of a forwarded port: whoever came in by it
    /// may be answered.
    pub fn answers_forward(&self, packet: &Packet<'_>) -> bool {
        let (Some((src, dst)), Ok(protocol)) =
            (packet.ports(), Protocol::try_from(packet.headers.protocol))
        else {
            return false;
        };
        let end = |ip, port| Endpoint { ip, port };
        let inside = Inside(end(packet.headers.src, src));
        let remote = Remote(end(packet.headers.dst, dst));
        let mapping = self
            .forwards
            .from(inside, protocol)
            .and_then(|outside| self.table.by_outside(outside));
        mapping.is_some_and(|m| self.table.session(m, remote).is_some())
    }

    /// Opens a session for a packet of the LAN to a forwarded port of `lan`, if it has none yet.
    pub(super) fn meet_forward(
        &mut self,
        outside: Outside,
        remote: Remote,
        lan: IpAddr,
        segment: Option<Segment>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Result<(), Stop> {
        let Some(inside) = self.forwards.to(outside) else {
            return Ok(());
        };
        let mapping = self.table.by_outside(outside);
        if mapping.is_some_and(|m| self.table.session(m, remote).is_some()) {
            return Ok(());
        }
        if segment.is_some_and(|s| !s.opens()) {
            return Err(Reason::NoSession.into());
        }
        let client = self.clients.get_or_insert(inside.0.ip, peers, now)?;
        let limits = &self.settings.limits;
        if let Err(reason) = self.clients.admit(client, Side::Lan, limits, now) {
            self.clients.remove_if_idle(client);
            return Err(reason.into());
        }
        self.open((inside, outside, client), remote, lan, now);
        Ok(())
    }
}
