//! Services of the gateway machine at its own tunnel addresses. Packets that the client's rules
//! allow go to the host's kernel, untranslated and with their TTL, and its answers return to the
//! client. [`LocalStack`](super::local_stack::LocalStack) answers pings and refuses all other
//! packets.
//!
//! The packets are not merged and never seen by the NAT or the SMB hook.

use super::DataPlane;
use super::output::{Context, Output};
use super::remote_endpoint::{RemoteEndpoint, is_error, quoted_receiver};
use super::shaper::Flow;
use crate::ids::PeerId;
use smoltcp::wire::IpProtocol;
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::icmp::{self, Kind};
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::Header;

impl DataPlane {
    /// Takes a client's packet for one of the gateway's own addresses.
    pub(super) fn client_to_gateway<O: Output>(
        &mut self,
        peer: PeerId,
        bytes: &mut [u8],
        cx: &mut Context<'_, O>,
    ) {
        if !self.has_edge() || self.admit_to_gateway(peer, bytes, cx.now) {
            self.serve_client(peer, bytes, cx);
        }
    }

    /// Whether the client's rate permits a packet for the gateway now.
    #[cold]
    fn admit_to_gateway(&mut self, peer: PeerId, bytes: &[u8], now: Instant) -> bool {
        let (vnet, direction) = (Header::default(), (peer, Flow::Up));
        self.passes_now(direction, &vnet, bytes.len(), || bytes.to_vec(), now)
    }

    /// Passes a client's packet for the gateway to the kernel, or answers it.
    pub(super) fn serve_client<O: Output>(
        &mut self,
        peer: PeerId,
        bytes: &mut [u8],
        cx: &mut Context<'_, O>,
    ) {
        if let Ok(packet) = Packet::parse(bytes, Checksum::Complete) {
            self.tap_from_client(peer, &packet, cx.now);
            if self.kernel_receives(peer, &packet) {
                return self.send(&packet, &Header::default(), cx);
            }
        }
        for answer in self.local_stack.handle(bytes, cx.now) {
            self.originate_to_client(answer, cx);
        }
    }

    /// Whether the kernel gets a client's packet for the gateway.
    fn kernel_receives(&self, peer: PeerId, packet: &Packet<'_>) -> bool {
        if !packet.headers.has_l4() {
            // The rest of a ping goes where its first fragment went.
            let is_icmp = matches!(
                packet.headers.protocol,
                IpProtocol::Icmp | IpProtocol::Icmpv6
            );
            return !is_icmp && self.policy.allows_gateway(peer, None);
        }
        if matches!(icmp::kind(packet), Some(Kind::Request)) {
            return false;
        }
        // A client reports errors about packets that it received itself, not about other clients'.
        let own = |receiver| self.tunnel.route(receiver) == Some(peer);
        if is_error(packet) && !quoted_receiver(packet).is_some_and(own) {
            return false;
        }
        RemoteEndpoint::of_destination(packet)
            .is_some_and(|remote| self.policy.allows_gateway(peer, Some(&remote)))
    }

    /// Whether a service of the kernel sent this packet from one of the gateway's own addresses to a
    /// client. The kernel accepts no packet with such a source from the LAN. An error about a packet
    /// to the LAN has that source too.
    pub(super) fn is_from_gateway(&self, packet: &Packet<'_>) -> bool {
        !self.nat.is_lan(packet.headers.dst)
            && self.local_stack.owns(packet.headers.src)
            && quoted_receiver(packet).is_none_or(|receiver| self.local_stack.owns(receiver))
    }

    /// Delivers a packet of the kernel to a client that may reach the sending service.
    pub(super) fn gateway_to_client<O: Output>(
        &mut self,
        vnet: &Header,
        packet: Packet<'_>,
        cx: &mut Context<'_, O>,
    ) {
        let headers = packet.headers;
        let Some(peer) = self.tunnel.route(headers.dst) else {
            self.counters.no_peer += 1;
            return;
        };
        let permitted = match headers.has_l4() {
            true => RemoteEndpoint::of_source(&packet)
                .is_some_and(|remote| self.policy.allows_gateway(peer, Some(&remote))),
            false => self.policy.allows_gateway(peer, None),
        };
        match permitted {
            true => self.deliver(vnet, &headers, packet.into_bytes(), cx),
            false => self.counters.denied += 1,
        }
    }
}
