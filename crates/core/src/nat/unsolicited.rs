//! Answers packets of the LAN that match no session: the LAN address answers as a host does.
//!
//! A SYN is held, and its sender gets an ICMP error (RFC 5382 REQ-4). Any other TCP segment gets a
//! reset (RFC 9293 section 3.10.7.1): its sender has a connection that no client has, and would
//! keep its resources, such as locks on files. Other packets get no answer.

use super::endpoint::{Outside, Remote};
use super::icmp_error::{self, Refusal};
use super::l4::Ports;
use super::outcome::{DeferredPacket, Reason, Stop};
use super::settings::OnUnsolicited;
use super::tcp::Segment;
use super::{Context, Nat};
use crate::tcp_segment;
use smoltcp::wire::IpProtocol;
use std::net::SocketAddr;
use vcgate_wire::packet::Packet;
use vcgate_wire::tcp::SeqNumber;

impl Nat {
    /// Handles a packet whose L4 header cannot be read: the LAN address answers as a host does.
    pub(super) fn unreadable(&self, reason: Reason, packet: &Packet<'_>) -> Stop {
        let rejects = self.settings.on_unsolicited == OnUnsolicited::Reject;
        // No Next Header is not a protocol (RFC 8200 section 4.7).
        let is_empty = packet.headers.protocol == IpProtocol::Ipv6NoNxt;
        match reason {
            Reason::Protocol if rejects && !is_empty => {
                Stop::Refuse(reason, Refusal::ProtocolUnreachable)
            }
            _ => reason.into(),
        }
    }

    /// Drops an unsolicited packet. A SYN is held first, and another TCP segment is reset.
    pub(super) fn reject_unsolicited(
        &mut self,
        reason: Reason,
        ports: Ports,
        to: Outside,
        from: Remote,
        packet: &Packet<'_>,
        cx: &Context<'_>,
    ) -> Stop {
        let is_hairpin = self.lan.contains(from.0.ip);
        let Some(segment) = ports.segment else {
            return reason.into();
        };
        if self.settings.on_unsolicited == OnUnsolicited::Drop || is_hairpin {
            return reason.into();
        }
        match segment.opens() {
            true => self.hold_syn(reason, to, from, packet, cx),
            false => {
                let lan = SocketAddr::new(packet.headers.dst, to.port);
                self.reset_sender(&segment, lan, from, cx);
                reason.into()
            }
        }
    }

    /// Holds an unsolicited SYN (RFC 5382 REQ-4).
    fn hold_syn(
        &mut self,
        reason: Reason,
        to: Outside,
        from: Remote,
        packet: &Packet<'_>,
        cx: &Context<'_>,
    ) -> Stop {
        if !self.held_syns.accepts(to, from) {
            return reason.into();
        }
        match icmp_error::build(Refusal::PortUnreachable, packet.headers.dst, packet) {
            Some(error) => {
                self.held_syns.hold(to, from, error, cx.now);
                Stop::Held
            }
            None => reason.into(),
        }
    }

    /// Resets the sender of a segment without a session, as a host without the connection does (RFC
    /// 9293 section 3.10.7.1). A reset is not answered.
    fn reset_sender(&mut self, to: &Segment, lan: SocketAddr, from: Remote, cx: &Context<'_>) {
        if to.rst {
            return;
        }
        let (seq, ack) = match to.ack {
            Some(ack) => (ack, None),
            None => (SeqNumber(0), Some(to.end())),
        };
        let reset = tcp_segment::Segment::reset(lan, from.0.into(), seq, ack);
        if let Some(reset) = reset.packet()
            && self.may_send_reset(cx.now)
        {
            self.counters.refused += 1;
            self.deferred.push_back(DeferredPacket::ToLan(reset));
        }
    }
}
