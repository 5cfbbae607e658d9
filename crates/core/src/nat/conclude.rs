//! The last step of each packet: counts the outcome, and answers a refusal with an ICMP error as far
//! as the rate of errors allows. It changes no mapping.

use super::endpoint::Side;
use super::icmp_error::{self, Refusal};
use super::outcome::{Outcome, Stop, Verdict};
use super::{Nat, Peers};
use crate::ids::PeerId;
use std::net::IpAddr;
use std::time::Instant;
use vcgate_wire::packet::Packet;

/// The arguments that every step of a packet's translation needs.
pub(super) struct Context<'a> {
    /// The authenticated sender of a client's packet; `None` for a packet of the LAN.
    pub sender: Option<PeerId>,
    /// The lookup of all other peers.
    pub peers: &'a dyn Peers,
    pub now: Instant,
}

impl<'a> Context<'a> {
    pub(super) fn of_client(sender: PeerId, peers: &'a dyn Peers, now: Instant) -> Self {
        let sender = Some(sender);
        Self { sender, peers, now }
    }

    pub(super) fn of_lan(peers: &'a dyn Peers, now: Instant) -> Self {
        let sender = None;
        Self { sender, peers, now }
    }
}

impl Nat {
    /// Builds the ICMP error for a client's packet that the client's rules deny; returns `None` if
    /// the packet must not be answered or the rate of errors is exhausted.
    pub fn prohibit(
        &mut self,
        packet: &Packet<'_>,
        sender: PeerId,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let about = (Side::Inside, Some(sender));
        self.refuse(Refusal::Prohibited, packet, about, now)
    }

    /// Counts a verdict, and builds the ICMP error of a refusal.
    pub(super) fn conclude(
        &mut self,
        verdict: Verdict,
        from: Side,
        packet: &Packet<'_>,
        cx: &Context<'_>,
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
                counters.count_drop(reason);
                return Outcome::Drop(reason);
            }
            Err(Stop::Refuse(reason, refusal)) => (reason, refusal),
        };
        counters.count_drop(reason);
        let about = match (cx.sender, refusal) {
            (Some(sender), _) => (Side::Inside, Some(sender)),
            // It would have reached its client otherwise.
            (None, Refusal::TooBig(_)) => (Side::Lan, self.receiver(packet, cx)),
            (None, _) => (Side::Lan, None),
        };
        match self.refuse(refusal, packet, about, cx.now) {
            Some(error) => Outcome::Reply { reason, error },
            None => Outcome::Drop(reason),
        }
    }

    /// Returns the source of an ICMP error to the sender of a packet, which is on this side.
    fn icmp_source(&self, packet: &Packet<'_>, side: Side) -> Option<IpAddr> {
        let (src, dst) = (packet.headers.src, packet.headers.dst);
        match (side, src) {
            (Side::Inside, IpAddr::V4(_)) => Some(self.settings.gateway.into()),
            (Side::Inside, IpAddr::V6(_)) => {
                let gateway = self.settings.gateway6.map(IpAddr::V6);
                gateway.or_else(|| self.lan.first(src))
            }
            (Side::Lan, _) if self.lan.contains(dst) => Some(dst),
            (Side::Lan, _) => self.lan.first(src),
        }
    }

    /// Builds the ICMP error for a refused packet that came from this side, and that is of or for this
    /// peer, if it is known; returns `None` if the packet must not be answered or the rate of errors is
    /// exhausted.
    fn refuse(
        &mut self,
        refusal: Refusal,
        packet: &Packet<'_>,
        (from, peer): (Side, Option<PeerId>),
        now: Instant,
    ) -> Option<Vec<u8>> {
        let source = self.icmp_source(packet, from)?;
        let error = icmp_error::build(refusal, source, packet)?;
        let may_send = match peer {
            Some(peer) => self.may_send_error(peer, from, now),
            None => self.may_send_lan_error(now),
        };
        may_send.then(|| {
            self.counters.refused += 1;
            error
        })
    }
}
