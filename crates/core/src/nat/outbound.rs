//! Translates packets of clients.
//!
//! The steps: read the headers, find or open the session, record the packet, rewrite the source. A
//! packet for the LAN address itself is then translated as an inbound packet (hairpin). Nothing is
//! written before the packet is accepted, so that an ICMP error quotes it unmodified.

use super::endpoint::{Endpoint, Inside, Remote, Side};
use super::fragments::{FragmentKind, FragmentRewrite};
use super::icmp_error::Refusal;
use super::l4::{self, L4, Ports, QuotedPacket};
use super::outcome::{DeferredPacket, FlowRef, HairpinFlows, Outcome, Reason, Stop, Verdict};
use super::rewrite::{self, End, Rewrite};
use super::{Context, Nat};
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;

/// The shard that owns the destination port of a client's packet for the LAN address (hairpin).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HairpinShard {
    Local,
    Other,
}

impl Nat {
    pub(super) fn translate_out(
        &mut self,
        packet: &mut Packet<'_>,
        shard: HairpinShard,
        cx: &Context<'_>,
    ) -> Verdict {
        if self.lan.first(packet.headers.src).is_none() {
            // The error makes a host with both families use the other one at once.
            return Err(Stop::Refuse(Reason::Family, Refusal::NoRoute));
        }
        // The kernel would send the error too, but limits it to one per second for all clients.
        if packet.headers.ttl <= 1 {
            return Err(Stop::Refuse(Reason::Expired, Refusal::TimeExceeded));
        }
        let kind = self.handle_fragment(packet, Side::Inside, cx)?;
        let shard = self.lan.contains(packet.headers.dst).then_some(shard);
        if let FragmentKind::Later = kind {
            return self.send_translated(packet, None, shard, cx);
        }
        let flow = match l4::read(packet, Side::Inside)? {
            L4::Flow(ports) => {
                if shard.is_some() {
                    self.check_mtu(packet)?;
                }
                Some(self.translate_flow_out(packet, ports, cx)?)
            }
            L4::Error => {
                self.translate_error_out(packet)?;
                None
            }
        };
        let id = self.identification(packet);
        if let Some(id) = id {
            rewrite::set_identification(packet, id);
        }
        let outcome = self.send_translated(packet, flow, shard, cx)?;
        if let FragmentKind::First(key) = kind {
            let rewrite = FragmentRewrite {
                end: End::Source,
                ip: packet.headers.src,
                id,
            };
            for fragment in self.fragments.resolve(key, rewrite) {
                self.release_fragment_out(fragment, rewrite, shard, cx);
            }
        }
        Ok(outcome)
    }

    /// Returns the outcome of a client's packet whose source is rewritten. `shard` is that of a packet
    /// for a LAN address of vcgate.
    fn send_translated(
        &mut self,
        packet: &mut Packet<'_>,
        flow: Option<FlowRef>,
        shard: Option<HairpinShard>,
        cx: &Context<'_>,
    ) -> Verdict {
        if let Some(shard) = shard {
            // The kernel does not forward a hairpinned packet.
            rewrite::decrement_ttl(packet);
            if shard == HairpinShard::Local {
                return self.hairpin(packet, flow, cx);
            }
        }
        Ok(Outcome::Forward(flow))
    }

    /// Translates a client's packet for the LAN address as one that comes from there.
    #[cold]
    fn hairpin(
        &mut self,
        packet: &mut Packet<'_>,
        from: Option<FlowRef>,
        cx: &Context<'_>,
    ) -> Verdict {
        match self.translate_in(packet, cx) {
            Ok(Outcome::Forward(to)) => Ok(Outcome::Hairpin(Box::new(HairpinFlows { from, to }))),
            Ok(outcome) => Ok(outcome),
            // The packet was modified, so no error can quote it.
            Err(Stop::Refuse(reason, _)) => Err(reason.into()),
            Err(stop) => Err(stop),
        }
    }

    fn translate_flow_out(
        &mut self,
        packet: &mut Packet<'_>,
        ports: Ports,
        cx: &Context<'_>,
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
        let session = match mapping.and_then(|m| self.table.session(m, remote)) {
            Some(session) => session,
            None if ports.is_rst() => return Err(Reason::NoSession.into()),
            None => self.open_out(inside, remote, ports.protocol, mapping, cx)?,
        };
        self.record_packet(session, Side::Inside, packet, ports.segment, cx.now);
        let mapping = &self.table.mappings[self.table.sessions[session.index()].mapping.index()];
        if ports.is_syn() {
            self.held_syns.cancel(mapping.outside, remote);
            rewrite::clamp_mss(packet, self.settings.mtu);
        }
        let lan = self.lan.address(mapping.outside.lan);
        Rewrite::outward(mapping, lan).apply(End::Source, packet);
        Ok(FlowRef {
            id: self.table.flow_id(session),
            protocol: ports.protocol,
            remote: remote.0.into(),
        })
    }

    /// Translates a client's ICMP error about a packet that it received through its mapping.
    fn translate_error_out(&mut self, packet: &mut Packet<'_>) -> Result<(), Reason> {
        let quoted = QuotedPacket::read(packet, Side::Inside)?;
        // The error may go only to the sender of the quoted packet.
        if quoted.src.ip != packet.headers.dst {
            return Err(Reason::Quote);
        }
        let mapping = self
            .table
            .by_inside(Inside(quoted.dst), quoted.protocol)
            .filter(|m| self.passes_filter(*m, quoted.src.ip))
            .ok_or(Reason::Quote)?;
        let mapping = &self.table.mappings[mapping.index()];
        let rewrite = Rewrite::outward(mapping, self.lan.address(mapping.outside.lan));
        rewrite.apply_to_quote(End::Destination, &quoted, packet.l4_mut());
        rewrite::replace_address_of_error(packet, End::Source, rewrite.ip);
        Ok(())
    }

    /// Sends a fragment that waited for the first one.
    fn release_fragment_out(
        &mut self,
        mut fragment: Vec<u8>,
        rewrite: FragmentRewrite,
        shard: Option<HairpinShard>,
        cx: &Context<'_>,
    ) {
        let Ok(mut packet) = Packet::parse(&mut fragment, Checksum::Complete) else {
            return;
        };
        rewrite.apply(&mut packet);
        match self.send_translated(&mut packet, None, shard, cx) {
            Ok(Outcome::Forward(_)) => self.deferred.push_back(DeferredPacket::ToLan(fragment)),
            Ok(Outcome::Hairpin(_)) => self.deferred.push_back(DeferredPacket::ToClient(fragment)),
            _ => {}
        }
    }

    /// Returns whether a client's ICMP error is about a packet from a host to which the client sent
    /// from the same port. An error to any other host is subject to the client's rules.
    pub fn answers_contact(&self, error: &Packet<'_>) -> bool {
        QuotedPacket::read(error, Side::Inside).is_ok_and(|quoted| {
            let mapping = self.table.by_inside(Inside(quoted.dst), quoted.protocol);
            mapping.is_some_and(|m| self.table.has_session_with(m, quoted.src.ip))
        })
    }
}
