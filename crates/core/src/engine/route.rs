//! The route of a client's packet: translated, untranslated, or denied by the client's rules.
//!
//! Packets between clients and to destinations without translation are not rewritten, and the SMB
//! hook does not see them: every client has an address of its own there.

use super::DataPlane;
use super::capture::Note;
use super::output::{Context, Output};
use super::policy::OnDeny;
use super::remote_endpoint::{RemoteEndpoint, is_error, quoted_receiver};
use crate::ids::PeerId;
use crate::nat::Egress;
use vcgate_wire::ip::Headers;
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::Header;

/// The route of a client's packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To the LAN, with a port of the LAN address as its source.
    Translated,
    /// With its own source address.
    Untranslated(Egress),
    /// No rule allows it, or it needs translation and its protocol is not translated.
    Denied,
}

impl DataPlane {
    /// Applies the rules to a client's packet. A later fragment has no ports; the NAT passes it
    /// only after a first fragment that was checked here.
    pub(super) fn route(&self, peer: PeerId, packet: &Packet<'_>) -> Route {
        let (dst, later) = (packet.headers.dst, !packet.headers.has_l4());
        if self.policy.is_broadcast(dst) {
            return Route::Denied;
        }
        let error = !later && is_error(packet);
        // A client reports errors about packets that it received itself, not about other clients'.
        let own = |receiver| self.tunnel.route(receiver) == Some(peer);
        if error && !quoted_receiver(packet).is_some_and(own) {
            return Route::Denied;
        }
        // The LAN address is ours, whatever a peer's prefixes cover.
        let is_lan = self.nat.is_lan(dst);
        let other = self.tunnel.route(dst).filter(|_| !is_lan);
        if let Some(other) = other {
            // A packet for a client never leaves for the LAN.
            let permitted = match later {
                true => self.policy.global.client_to_client,
                false => self.policy.permits_peer_to_peer(peer, other, packet),
            };
            return match permitted {
                true => Route::Untranslated(Egress::Client),
                false => Route::Denied,
            };
        }
        let untranslated = !is_lan && self.policy.keeps_source(dst);
        // For translated flows the NAT knows which errors are due (RFC 5508 REQ-5).
        let permitted = later
            || (!untranslated && error && self.nat.answers_contact(packet))
            || RemoteEndpoint::of_destination(packet)
                .is_some_and(|remote| self.policy.allows(peer, &remote))
            || (!untranslated && self.nat.answers_forward(packet));
        match (permitted, untranslated) {
            (false, _) => Route::Denied,
            (true, true) => Route::Untranslated(Egress::Lan),
            (true, false) if self.nat.translates(packet) => Route::Translated,
            (true, false) => Route::Denied,
        }
    }

    /// Drops a client's packet that no rule allows, and answers it if the policy says so.
    pub(super) fn deny<O: Output>(
        &mut self,
        peer: PeerId,
        packet: &Packet<'_>,
        cx: &mut Context<'_, O>,
    ) {
        if let Some(error) = self.count_denied(peer, packet, cx) {
            self.originate_to_client(error, cx);
        }
    }

    /// Drops a client's packet to an address of the LAN that clients know by another one. The answer
    /// quotes the packet as it came, so its addresses are not mapped.
    #[cold]
    pub(super) fn deny_hidden<O: Output>(
        &mut self,
        peer: PeerId,
        packet: &Packet<'_>,
        cx: &mut Context<'_, O>,
    ) {
        if let Some(mut error) = self.count_denied(peer, packet, cx)
            && let Ok(headers) = Headers::parse(&error)
        {
            self.deliver_to_peer(peer, &Header::default(), &headers, &mut error, cx);
        }
    }

    /// Counts a denied packet, and returns the ICMP error with which it is answered, if it is.
    fn count_denied<O>(
        &mut self,
        peer: PeerId,
        packet: &Packet<'_>,
        cx: &Context<'_, O>,
    ) -> Option<Vec<u8>> {
        self.counters.denied += 1;
        self.peer_drops.entry(peer).denied += 1;
        self.tap_note(Note::Denied);
        // An error about a broadcast is never sent (RFC 1122 section 3.2.2).
        let dst = packet.headers.dst;
        if self.policy.global.on_deny == OnDeny::Drop || self.policy.is_broadcast(dst) {
            return None;
        }
        self.nat.prohibit(packet, peer, cx.now)
    }
}
