//! Which way a packet goes, and whether it may: translated, as it is, or nowhere.
//!
//! Between clients and to destinations for which translation is off nothing is rewritten, and the
//! SMB hook is not asked: there every client has an address of its own.

use super::DataPlane;
use super::output::Output;
use super::policy::OnDeny;
use super::remote_endpoint::{RemoteEndpoint, is_error, quoted_receiver};
use super::tap::Note;
use crate::ids::PeerId;
use crate::nat::{Egress, Outcome};
use std::time::Instant;
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::Header;

/// The way of a client's packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To the LAN, by the NAT.
    Translated,
    /// As it is.
    Untranslated(Egress),
    /// No rule allows it, or it would have to be translated and its protocol is not known.
    Denied,
}

impl DataPlane {
    /// Asks the rules about a client's packet. A later fragment has no ports; NAT lets it pass
    /// only behind a first fragment that was asked about here.
    pub(super) fn way(&self, peer: PeerId, packet: &Packet<'_>) -> Route {
        let (dst, later) = (packet.headers.dst, !packet.headers.has_l4());
        if self.policy.is_broadcast(dst) {
            return Route::Denied;
        }
        let error = !later && is_error(packet);
        // A client tells of what it received itself, not of another one's flows.
        let own = |receiver| self.tunnel.route(receiver) == Some(peer);
        if error && !quoted_receiver(packet).is_some_and(own) {
            return Route::Denied;
        }
        // The LAN address is ours, whatever a peer's prefixes cover.
        let other = self.tunnel.route(dst).filter(|_| !self.nat.is_lan(dst));
        if let Some(other) = other {
            // What is for a client never leaves for the LAN.
            let meet = match later {
                true => self.policy.common.client_to_client,
                false => self.policy.permits_peer_to_peer(peer, other, packet),
            };
            return match meet {
                true => Route::Untranslated(Egress::Client),
                false => Route::Denied,
            };
        }
        let as_it_is = !self.nat.is_lan(dst) && self.policy.keeps_source(dst);
        // About translated flows NAT knows better which errors are due (RFC 5508 REQ-5).
        let passes = later
            || (!as_it_is && error && self.nat.answers_contact(packet))
            || RemoteEndpoint::of_destination(packet)
                .is_some_and(|far| self.policy.allows(peer, &far))
            || (!as_it_is && self.nat.answers_forward(packet));
        match (passes, as_it_is) {
            (false, _) => Route::Denied,
            (true, true) => Route::Untranslated(Egress::Lan),
            (true, false) if self.nat.translates(packet) => Route::Translated,
            (true, false) => Route::Denied,
        }
    }

    /// A client's packet that goes as it is.
    pub(super) fn route_out(
        &mut self,
        peer: PeerId,
        mut packet: Packet<'_>,
        to: Egress,
        vnet: &Header,
        now: Instant,
        out: &mut impl Output,
    ) {
        let outcome = self.nat.route_out(&mut packet, to, &self.tunnel, now);
        self.note_limit(peer, &outcome);
        match outcome {
            Outcome::Forward(_) => self.send(&packet, vnet, now, out),
            Outcome::Hairpin(_) => self.hairpin(&packet, vnet, now, out),
            Outcome::Reply { error, .. } => self.refuse(error, now, out),
            Outcome::Drop(reason) => self.tap_note(Note::Dropped(reason)),
            Outcome::Held => {}
        }
    }

    /// Whether a packet of the LAN is for a client's own address, as answers are where
    /// translation is off.
    pub(super) fn is_routed(&self, packet: &Packet<'_>) -> bool {
        let dst = packet.headers.dst;
        !self.policy.common.no_nat.is_empty()
            && !self.nat.is_lan(dst)
            && self.tunnel.route(dst).is_some()
    }

    /// A packet of the LAN for a client's own address; whether it is to be delivered.
    pub(super) fn route_in(
        &mut self,
        packet: &mut Packet<'_>,
        now: Instant,
        out: &mut impl Output,
    ) -> bool {
        let peer = self.tunnel.route(packet.headers.dst);
        let may = |far: RemoteEndpoint| {
            self.policy.keeps_source(far.address)
                && peer.is_some_and(|peer| self.policy.allows(peer, &far))
        };
        let passes = match packet.headers.has_l4() {
            true => RemoteEndpoint::of_source(packet).is_some_and(may),
            false => self.policy.keeps_source(packet.headers.src),
        };
        if !passes {
            self.counters.denied += 1;
            return false;
        }
        match self.nat.route_in(packet, &self.tunnel, now) {
            Outcome::Forward(_) => return true,
            outcome => self.handle_drop(outcome, now, out),
        }
        false
    }

    /// A client's packet that goes [nowhere](Way::Nowhere).
    pub(super) fn deny(
        &mut self,
        peer: PeerId,
        packet: &Packet<'_>,
        now: Instant,
        out: &mut impl Output,
    ) {
        self.counters.denied += 1;
        self.shares.of(peer).denied += 1;
        self.tap_note(Note::Denied);
        // An error about a broadcast is never sent (RFC 1122 section 3.2.2).
        let dst = packet.headers.dst;
        if self.policy.common.on_deny == OnDeny::Drop || self.policy.is_broadcast(dst) {
            return;
        }
        if let Some(error) = self.nat.prohibit(packet, &self.tunnel, now) {
            self.answer(error, now, out);
        }
    }
}
