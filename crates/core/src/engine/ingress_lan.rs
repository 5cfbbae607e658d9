//! LAN → client, first stage: a packet or super-packet of the TUN device, or one that vcgate sent
//! to its own LAN address, is translated, or checked against the rules where translation is off.

use super::DataPlane;
use super::output::{Context, Output};
use super::remote_endpoint::RemoteEndpoint;
use crate::nat::Outcome;
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::{Gso, Header};

impl DataPlane {
    /// Parses a packet and counts it if it is malformed.
    pub(super) fn parse_lan_packet<'p>(
        &mut self,
        vnet: &Header,
        bytes: &'p mut [u8],
    ) -> Option<Packet<'p>> {
        let packet = Packet::parse(bytes, vnet.checksum()).ok();
        self.counters.malformed += u64::from(packet.is_none());
        packet
    }

    /// Runs a packet of the LAN through the stages to its client.
    pub(super) fn lan_to_client<O: Output>(
        &mut self,
        vnet: &Header,
        mut packet: Packet<'_>,
        cx: &mut Context<'_, O>,
    ) {
        packet.segment = (vnet.gso != Gso::None).then_some(vnet.gso_size);
        self.tap_from_lan(&packet, cx.now);
        if self.is_from_gateway(&packet) {
            return self.gateway_to_client(vnet, packet, cx);
        }
        let lan = packet.headers.dst;
        let outcome = match self.is_untranslated(&packet) {
            true if !self.permits_inbound(&packet) => {
                self.counters.denied += 1;
                return;
            }
            true => self.nat.route_in(&mut packet, &self.tunnel, cx.now),
            false => self.nat.inbound(&mut packet, &self.tunnel, cx.now),
        };
        let Outcome::Forward(flow) = outcome else {
            return self.drop_from_lan(outcome, cx);
        };
        self.tap_translated(&packet);
        if let Some(flow) = flow.filter(|flow| self.is_watched(flow)) {
            self.inspect_inbound(&flow, lan, &mut packet, cx);
        }
        let headers = packet.headers;
        self.deliver(vnet, &headers, packet.into_bytes(), cx);
    }

    /// Whether a packet of the LAN is for a client's own address, as answers are where
    /// translation is off.
    fn is_untranslated(&self, packet: &Packet<'_>) -> bool {
        let dst = packet.headers.dst;
        !self.policy.global.no_nat.is_empty()
            && !self.nat.is_lan(dst)
            && self.tunnel.route(dst).is_some()
    }

    /// Whether an [untranslated](Self::is_untranslated) packet of the LAN may go to its client.
    fn permits_inbound(&self, packet: &Packet<'_>) -> bool {
        let peer = self.tunnel.route(packet.headers.dst);
        let permits = |remote: RemoteEndpoint| {
            self.policy.keeps_source(remote.address)
                && peer.is_some_and(|peer| self.policy.allows(peer, &remote))
        };
        match packet.headers.has_l4() {
            true => RemoteEndpoint::of_source(packet).is_some_and(permits),
            false => self.policy.keeps_source(packet.headers.src),
        }
    }
}
