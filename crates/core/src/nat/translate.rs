//! The way of a packet through the NAT, in both directions.
//!
//! Outbound: read, find or open the session, take note, rewrite the source; what is for the LAN
//! address itself then turns and goes inbound. Inbound: read, find the mapping, ask the filter,
//! take note, rewrite the destination. Nothing is written before the packet is accepted, so that
//! an ICMP error quotes it as it came.

use super::counters::Reason;
use super::endpoint::{Endpoint, Family, Inside, Outside, Protocol, Remote, Side};
use super::fragments::{FragmentKind, FragmentRewrite};
use super::icmp::{self, About, Refusal};
use super::l4::{self, L4, Ports};
use super::rewrite::{self, End, Rewrite};
use super::settings::OnUnsolicited;
use super::verdict::{Stop, To, Verdict};
use super::{FlowRef, HairpinFlows, Nat, Outcome, Peers};
use smoltcp::wire::IpProtocol;
use std::net::IpAddr;
use std::time::Instant;
use vcgate_wire::packet::Packet;

impl Nat {
    /// Counts a verdict, and says no where an ICMP error is due.
    pub(super) fn conclude(
        &mut self,
        verdict: Verdict,
        from: Side,
        packet: &Packet<'_>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Outcome {
        let counters = &mut self.counters;
        let (reason, refusal) = match verdict {
            Ok(outcome) => {
                match (&outcome, from) {
                    (Outcome::Hairpin(_), _) => counters.hairpinned += 1,
                    (_, Side::Inside) => counters.outbound += 1,
                    (_, Side::Lan) => counters.inbound += 1,
                }
                return outcome;
            }
            Err(Stop::Held) => {
                counters.held += 1;
                return Outcome::Held;
            }
            Err(Stop::Drop(reason)) => {
                counters.drop(reason);
                return Outcome::Drop(reason);
            }
            Err(Stop::Refuse(reason, refusal)) => (reason, refusal),
        };
        counters.drop(reason);
        match self.refuse(refusal, from, packet, peers, now) {
            Some(error) => Outcome::Reply { reason, error },
            None => Outcome::Drop(reason),
        }
    }

    /// The ICMP error for a packet that goes no further, if one is due.
    pub(super) fn refuse(
        &mut self,
        refusal: Refusal,
        from: Side,
        packet: &Packet<'_>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let to = packet.headers.src;
        let speaker = self.settings.speaker(from, to)?;
        let error = icmp::error(refusal, speaker, packet)?;
        let may = match from {
            Side::Lan => self.may_send_lan_error(now),
            Side::Inside => self.may_send_error(peers.of(to)?, now),
        };
        may.then(|| {
            self.counters.refused += 1;
            error
        })
    }

    pub(super) fn translate_out(
        &mut self,
        packet: &mut Packet<'_>,
        to: To,
        peers: &dyn Peers,
        now: Instant,
    ) -> Verdict {
        let Some(lan) = self.settings.lan(packet.headers.src) else {
            // So that who has both families uses the other one at once.
            return Err(Stop::Refuse(Reason::Family, Refusal::NoRoute));
        };
        let turns = packet.headers.dst == lan;
        // The kernel would tell it too, but all clients share its one error a second.
        if packet.headers.ttl <= 1 {
            return Err(Stop::Refuse(Reason::Expired, Refusal::TimeExceeded));
        }
        let piece = self.piece(packet, Side::Inside, peers, now)?;
        if let FragmentKind::Later = piece {
            return self.route_translated(packet, None, to, peers, now);
        }
        let flow = match l4::read(packet, Side::Inside)? {
            L4::Flow(ports) => {
                if turns {
                    self.fits_tunnel(packet)?;
                }
                Some(self.flow_out(packet, ports, lan, peers, now)?)
            }
            L4::Error => {
                self.error_out(packet, lan)?;
                None
            }
        };
        let id = self.identification(packet);
        if let Some(id) = id {
            rewrite::identify(packet, id);
        }
        let outcome = self.route_translated(packet, flow, to, peers, now)?;
        if let FragmentKind::First(key) = piece {
            let way = FragmentRewrite {
                end: End::Source,
                ip: lan,
                id,
            };
            let held = self.fragments.resolve(key, way);
            self.release_out(held, way, to, peers, now);
        }
        Ok(outcome)
    }

    /// A client's packet that has its new source leaves, or turns.
    pub(super) fn route_translated(
        &mut self,
        packet: &mut Packet<'_>,
        flow: Option<FlowRef>,
        to: To,
        peers: &dyn Peers,
        now: Instant,
    ) -> Verdict {
        if self.settings.is_lan(packet.headers.dst) {
            rewrite::decrement_ttl(packet);
            if to == To::Here {
                return self.hairpin(packet, flow, peers, now);
            }
        }
        Ok(Outcome::Forward(flow))
    }

    /// A client's packet for the LAN address itself comes back as one from there (hairpin).
    #[cold]
    fn hairpin(
        &mut self,
        packet: &mut Packet<'_>,
        from: Option<FlowRef>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Verdict {
        match self.translate_in(packet, peers, now) {
            Ok(Outcome::Forward(to)) => Ok(Outcome::Hairpin(Box::new(HairpinFlows { from, to }))),
            Ok(outcome) => Ok(outcome),
            // The packet is no more as the client sent it, so no error can quote it.
            Err(Stop::Refuse(reason, _)) => Err(reason.into()),
            Err(stop) => Err(stop),
        }
    }

    pub(super) fn translate_in(
        &mut self,
        packet: &mut Packet<'_>,
        peers: &dyn Peers,
        now: Instant,
    ) -> Verdict {
        let lan = self.settings.lan(packet.headers.src);
        if lan != Some(packet.headers.dst) {
            let reason = lan.map_or(Reason::Family, |_| Reason::NotOurs);
            return Err(reason.into());
        }
        let piece = self.piece(packet, Side::Lan, peers, now)?;
        if let FragmentKind::Later = piece {
            // Its sender hears of it by the first piece.
            self.fits_tunnel(packet).map_err(|_| Reason::TooBig)?;
            return Ok(self.deliver(packet, None));
        }
        let l4 = l4::read(packet, Side::Lan);
        let flow = match l4.map_err(|reason| self.unread(reason, packet))? {
            L4::Flow(ports) => self.flow_in(packet, ports, peers, now)?,
            L4::Error => {
                self.error_in(packet)?;
                None
            }
        };
        if let FragmentKind::First(key) = piece {
            self.release_in(packet, key);
        }
        Ok(self.deliver(packet, flow))
    }

    fn flow_out(
        &mut self,
        packet: &mut Packet<'_>,
        ports: Ports,
        lan: IpAddr,
        peers: &dyn Peers,
        now: Instant,
    ) -> Result<FlowRef, Stop> {
        let inside = Inside(Endpoint {
            ip: packet.headers.src,
            port: ports.src,
        });
        let remote = Remote(Endpoint {
            ip: packet.headers.dst,
            port: ports.dst,
        });
        let mapping = self.table.by_inside(inside, ports.protocol);
        let known = mapping.and_then(|m| self.table.session(m, remote));
        let session = match known {
            Some(session) => session,
            None if ports.segment.is_some_and(|s| s.rst) => return Err(Reason::NoSession.into()),
            None => self.open_out((inside, remote, lan), ports.protocol, mapping, peers, now)?,
        };
        self.note(session, Side::Inside, packet, ports.segment, now);
        let mapping = &self.table.mappings[self.table.sessions[session as usize].mapping as usize];
        if ports.segment.is_some_and(|s| s.syn) {
            self.waiting.cancel(mapping.outside.port, remote);
            rewrite::clamp_mss(packet, self.settings.mtu);
        }
        Rewrite::outward(mapping, lan).apply(End::Source, packet);
        Ok(FlowRef {
            id: self.table.flow_id(session),
            protocol: ports.protocol,
            remote: remote.0.into(),
        })
    }

    fn flow_in(
        &mut self,
        packet: &mut Packet<'_>,
        ports: Ports,
        peers: &dyn Peers,
        now: Instant,
    ) -> Result<Option<FlowRef>, Stop> {
        let remote = Remote(Endpoint {
            ip: packet.headers.src,
            port: ports.src,
        });
        let outside = Outside {
            family: Family::of(remote.0.ip),
            protocol: ports.protocol,
            port: ports.dst,
        };
        let opens = ports.segment.is_some_and(|s| s.opens());
        let lan = packet.headers.dst;
        self.meet_forward(outside, remote, lan, ports.segment, peers, now)?;
        let Some(mapping) = self.table.by_outside(outside) else {
            return Err(self.unsolicited(
                Reason::NoMapping,
                opens,
                outside.port,
                remote,
                packet,
                now,
            ));
        };
        let known = self.table.session(mapping, remote);
        if known.is_none() && !self.admits(mapping, remote.0.ip) {
            return Err(self.unsolicited(
                Reason::Filtered,
                opens,
                outside.port,
                remote,
                packet,
                now,
            ));
        }
        self.fits_tunnel(packet)?;
        let session = match (known, ports.protocol) {
            (Some(session), _) => Some(session),
            (None, Protocol::Tcp) if opens => Some(self.open_in(mapping, remote, lan, now)?),
            (None, Protocol::Tcp) => return Err(Reason::NoSession.into()),
            // Only the client's own packets open sessions.
            (None, Protocol::Udp | Protocol::Echo) => None,
        };
        if let Some(session) = session {
            self.note(session, Side::Lan, packet, ports.segment, now);
        }
        if ports.segment.is_some_and(|s| s.syn) {
            rewrite::clamp_mss(packet, self.settings.mtu);
        }
        let mapping = &self.table.mappings[mapping as usize];
        Rewrite::inward(mapping).apply(End::Destination, packet);
        Ok(session.map(|session| FlowRef {
            id: self.table.flow_id(session),
            protocol: ports.protocol,
            remote: remote.0.into(),
        }))
    }

    /// An ICMP error from a client, about a packet that came to it through its mapping.
    fn error_out(&mut self, packet: &mut Packet<'_>, lan: IpAddr) -> Result<(), Reason> {
        let about = About::read(packet, Side::Inside)?;
        // The error is for the packet's sender, and for nobody else.
        if about.src.ip != packet.headers.dst {
            return Err(Reason::Quote);
        }
        let mapping = self
            .table
            .by_inside(Inside(about.dst), about.protocol)
            .filter(|m| self.admits(*m, about.src.ip))
            .ok_or(Reason::Quote)?;
        let mapping = &self.table.mappings[mapping as usize];
        let rewrite = Rewrite::outward(mapping, lan);
        about.rewrite(packet.l4_mut(), End::Destination, &rewrite);
        rewrite::replace_address_of_error(packet, End::Source, rewrite.ip);
        Ok(())
    }

    /// An ICMP error from the LAN, about a packet of a session; whoever sent it may be a router.
    fn error_in(&mut self, packet: &mut Packet<'_>) -> Result<(), Reason> {
        let about = About::read(packet, Side::Lan)?;
        // Both were sent to and from the LAN address of one family.
        if about.src.ip != packet.headers.dst {
            return Err(Reason::Quote);
        }
        let outside = Outside {
            family: Family::of(about.dst.ip),
            protocol: about.protocol,
            port: about.src.port,
        };
        let mapping = self
            .table
            .by_outside(outside)
            .filter(|m| self.table.session(*m, Remote(about.dst)).is_some())
            .ok_or(Reason::Quote)?;
        let rewrite = Rewrite::inward(&self.table.mappings[mapping as usize]);
        about.rewrite(packet.l4_mut(), End::Source, &rewrite);
        rewrite::replace_address_of_error(packet, End::Destination, rewrite.ip);
        Ok(())
    }

    /// A packet of the LAN whose L4 header is not one that the NAT knows: the LAN address is a host
    /// there, and says so.
    fn unread(&self, reason: Reason, packet: &Packet<'_>) -> Stop {
        let answers = self.settings.on_unsolicited == OnUnsolicited::Reject;
        // What is empty (RFC 8200 section 4.7) wants nothing of anyone.
        let is_empty = packet.headers.protocol == IpProtocol::Ipv6NoNxt;
        match reason {
            Reason::Protocol if answers && !is_empty => {
                Stop::Refuse(reason, Refusal::ProtocolUnreachable)
            }
            _ => reason.into(),
        }
    }

    /// What nobody asked for is dropped, but a SYN waits (RFC 5382 REQ-4).
    fn unsolicited(
        &mut self,
        reason: Reason,
        opens: bool,
        port: u16,
        from: Remote,
        packet: &Packet<'_>,
        now: Instant,
    ) -> Stop {
        let silent = self.settings.on_unsolicited == OnUnsolicited::Drop;
        let lan = self.settings.lan(from.0.ip);
        let turned = lan == Some(from.0.ip);
        if !opens || silent || turned || !self.waiting.has_room(port, from) {
            return reason.into();
        }
        match lan.and_then(|lan| icmp::error(Refusal::PortUnreachable, lan, packet)) {
            Some(answer) => {
                self.waiting.hold(port, from, answer, now);
                Stop::Held
            }
            None => reason.into(),
        }
    }
}
