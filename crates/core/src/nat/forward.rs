//! Inbound forwards: ports of the LAN address that lead permanently to one client.
//!
//! A forwarded port is never assigned to a client's own flows, has no filter, and is also the port
//! from which the LAN sees the client's endpoint (RFC 4787 REQ-1). Its sessions are like all others;
//! the mapping that carries them exists as long as they do.

use super::endpoint::{Endpoint, Inside, LanId, Outside, Protocol, Remote, Side};
use super::outcome::{Reason, Stop};
use super::table::MappingEnds;
use super::tcp::Segment;
use super::{Context, Nat};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use vcgate_wire::packet::Packet;

/// A forwarded port of the LAN address, and the client's endpoint of the same family. A port can be
/// forwarded in both families, to an endpoint in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port of the LAN address.
    pub port: u16,
    /// The client's endpoint.
    pub to: SocketAddr,
    /// The LAN address; `None` is the first one of the family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lan: Option<IpAddr>,
}

/// The reason why a port cannot be forwarded. Each message names the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The protocol is not TCP or UDP, or the port is 0.
    #[error("only ports 1 to 65535 of tcp and udp can be forwarded")]
    NoPort,
    /// There is no LAN address of this family.
    #[error("cannot forward to {0}: there is no IPv6 LAN address; set lan.address6")]
    Family(SocketAddr),
    /// vcgate does not have this LAN address.
    #[error(
        "cannot forward a port of {0}: it is none of vcgate's LAN addresses; choose one of them"
    )]
    Address(IpAddr),
    /// The port is forwarded to another endpoint already.
    #[error(
        "cannot forward LAN port {0}: it is forwarded to {1}; remove that forward or choose another port"
    )]
    Duplicate(u16, SocketAddr),
    /// Another port is forwarded to the client's endpoint already.
    #[error(
        "cannot forward to {0}: LAN port {1} is forwarded to it; remove that forward or choose another target"
    )]
    Target(SocketAddr, u16),
    /// A client's own flow uses the port; flows are not closed for a forward.
    #[error(
        "cannot forward LAN port {0}: it is in use by a client's flow; choose another port or try again later"
    )]
    InUse(u16),
}

/// All forwards, indexed by both ends.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    to: HashMap<Outside, Inside>,
    from: HashMap<(Inside, Protocol), Outside>,
}

impl Forwards {
    /// Returns the client's endpoint to which a port is forwarded.
    pub(super) fn to(&self, outside: Outside) -> Option<Inside> {
        // Most gateways have no forwards: skip the hash.
        match self.to.is_empty() {
            true => None,
            false => self.to.get(&outside).copied(),
        }
    }

    /// Returns the port that is forwarded to a client's endpoint.
    pub(super) fn from(&self, inside: Inside, protocol: Protocol) -> Option<Outside> {
        self.from.get(&(inside, protocol)).copied()
    }

    /// Iterates over both ends of all forwards.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Outside, Inside)> + '_ {
        self.to.iter().map(|(outside, inside)| (*outside, *inside))
    }

    /// Removes all forwards of a LAN address; returns their ports.
    pub(super) fn remove_all(&mut self, lan: LanId) -> Vec<Outside> {
        let removed = self.to.extract_if(|outside, _| outside.lan == lan);
        let removed: Vec<_> = removed.map(|(outside, _)| outside).collect();
        self.from.retain(|_, outside| outside.lan != lan);
        removed
    }

    /// Returns the ports that are forwarded to this client.
    pub(super) fn of(&self, client: IpAddr) -> Vec<Outside> {
        let all = self.iter().filter(|(_, inside)| inside.0.ip == client);
        all.map(|(outside, _)| outside).collect()
    }
}

impl Nat {
    /// Forwards a port; does nothing if it is forwarded to the same endpoint already.
    ///
    /// Flows of the client's endpoint through another port are closed: the LAN sees an endpoint from
    /// one port only.
    ///
    /// # Errors
    /// The reason why the port cannot be forwarded; nothing has changed then.
    pub fn add_forward(&mut self, forward: Forward, now: Instant) -> Result<(), ForwardError> {
        let Forward {
            protocol, port, to, ..
        } = forward;
        let inside = Inside(Endpoint::from(to));
        if protocol == Protocol::Echo || port == 0 || to.port() == 0 {
            return Err(ForwardError::NoPort);
        }
        if self.lan.first(to.ip()).is_none() {
            return Err(ForwardError::Family(to));
        }
        let Some(outside) = self.outside_of(&forward) else {
            let address = forward.lan.unwrap_or(to.ip());
            return Err(ForwardError::Address(address));
        };
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
        let own = own.map(|mapping| self.table.mappings[mapping.index()].outside);
        if own == Some(outside) {
            self.close_mapping(outside, now); // the endpoint has this very port by chance
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

    /// Removes a forward and closes its flows; returns false if it did not exist.
    pub fn remove_forward(&mut self, forward: Forward, now: Instant) -> bool {
        let inside = Inside(Endpoint::from(forward.to));
        let outside = self.outside_of(&forward);
        let Some(outside) = outside.filter(|outside| self.forwards.to(*outside) == Some(inside))
        else {
            return false;
        };
        self.close_mapping(outside, now);
        self.forwards.to.remove(&outside);
        self.forwards.from.remove(&(inside, forward.protocol));
        self.ports.unreserve(outside);
        true
    }

    /// Iterates over all forwards.
    pub fn forwards(&self) -> impl Iterator<Item = Forward> + '_ {
        self.forwards.iter().map(|(outside, inside)| {
            let lan = self.lan.address(outside.lan);
            Forward {
                protocol: outside.protocol,
                port: outside.port,
                to: inside.0.into(),
                lan: (self.lan.first(lan) != Some(lan)).then_some(lan),
            }
        })
    }

    /// Returns the port of a LAN address that is forwarded; `None` if vcgate does not have the
    /// address, or not of the client's family.
    pub(super) fn outside_of(&self, forward: &Forward) -> Option<Outside> {
        let to = forward.to.ip();
        let lan = forward.lan.or_else(|| self.lan.first(to))?;
        let id = self.lan.id_of(lan)?;
        (lan.is_ipv4() == to.is_ipv4()).then_some(Outside {
            lan: id,
            protocol: forward.protocol,
            port: forward.port,
        })
    }

    /// Returns whether a client's packet belongs to a session of a forwarded port: answers to a host
    /// that connected through it are not subject to the client's rules.
    pub fn answers_forward(&self, packet: &Packet<'_>) -> bool {
        let (Some((src, dst)), Ok(protocol)) =
            (packet.ports(), Protocol::try_from(packet.headers.protocol))
        else {
            return false;
        };
        let endpoint = |ip, port| Endpoint { ip, port };
        let inside = Inside(endpoint(packet.headers.src, src));
        let remote = Remote(endpoint(packet.headers.dst, dst));
        let mapping = self
            .forwards
            .from(inside, protocol)
            .and_then(|outside| self.table.by_outside(outside));
        mapping.is_some_and(|m| self.table.session(m, remote).is_some())
    }

    /// Opens a session for a packet of the LAN to a forwarded port, if there is none yet.
    ///
    /// # Errors
    /// The reason to drop the packet.
    pub(super) fn open_forwarded(
        &mut self,
        outside: Outside,
        remote: Remote,
        segment: Option<Segment>,
        cx: &Context<'_>,
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
        let peer = cx.peers.of(inside.0.ip);
        let client = (self.clients).get_or_insert(inside.0.ip, peer, &self.lan, cx.now)?;
        let limits = &self.settings.limits;
        if let Err(reason) = self.clients.admit(client, Side::Lan, limits, cx.now) {
            self.clients.remove_if_idle(client);
            return Err(reason.into());
        }
        let ends = MappingEnds {
            client,
            inside,
            outside,
            lan: self.lan.address(outside.lan),
        };
        self.open(ends, remote, cx.now);
        Ok(())
    }
}
