//! The NAT's place in the pipeline, for packets of clients: translation, or passing them on
//! untranslated, and the stage that follows.

use super::DataPlane;
use super::output::{Context, Output};
use crate::ids::PeerId;
use crate::nat::{self, Egress, Outcome, Reassembly};
use crate::smb::Ends;
use crate::tunnel::Tunnel;
use smoltcp::wire::IpProtocol;
use std::net::{IpAddr, SocketAddr};
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;
use vcgate_wire::virtio_net::Header;

impl nat::Peers for Tunnel {
    fn of(&self, client: IpAddr) -> Option<PeerId> {
        self.route(client)
    }
}

impl DataPlane {
    /// Translates a client's packet and passes it to the SMB hook or to the egress.
    pub(super) fn translate<O: Output>(
        &mut self,
        peer: PeerId,
        mut packet: Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        let (src, ports) = (packet.headers.src, packet.ports());
        let shard = self.shard_for_lan(&packet);
        let outcome = match self.reassemble(peer, &packet, cx) {
            Reassembly::Separate if shard.is_some() => {
                self.nat
                    .outbound_cross_shard(&mut packet, peer, &self.tunnel, cx.now)
            }
            Reassembly::Separate => self.nat.outbound(&mut packet, peer, &self.tunnel, cx.now),
            Reassembly::Whole(mut whole) => {
                return match Packet::parse(&mut whole, Checksum::Complete) {
                    Ok(whole) => self.translate(peer, whole, vnet, cx),
                    Err(_) => self.counters.malformed += 1,
                };
            }
            Reassembly::Stopped(outcome) => outcome,
        };
        let flow = match &outcome {
            Outcome::Forward(flow) => *flow,
            Outcome::Hairpin(flows) => flows.from,
            _ => None,
        };
        if let Some(flow) = flow.filter(|flow| self.is_watched(flow)) {
            let client = SocketAddr::new(src, ports.map_or(0, |(from, _)| from));
            let ends = Ends {
                client,
                lan: packet.headers.src,
                server: flow.remote,
            };
            return self.inspect_outbound(flow.id, &ends, packet, vnet, cx);
        }
        match outcome {
            Outcome::Forward(_) => match shard {
                Some(shard) => self.forward_to_shard(shard, &packet, vnet, cx),
                None => self.send(&packet, vnet, cx),
            },
            Outcome::Hairpin(flows) => {
                if let Some(flow) = flows.to.filter(|flow| self.is_watched(flow)) {
                    self.inspect_inbound(&flow, flow.remote.ip(), &mut packet, cx);
                }
                self.hairpin(&packet, vnet, cx);
            }
            outcome => self.drop_from_client(peer, outcome, cx),
        }
    }

    /// Reassembles a fragmented segment for the SMB hook, which must see all of it or nothing.
    fn reassemble<O>(
        &mut self,
        peer: PeerId,
        packet: &Packet<'_>,
        cx: &Context<'_, O>,
    ) -> Reassembly {
        if packet.headers.fragment.is_none() {
            return Reassembly::Separate;
        }
        let watched = packet.headers.protocol == IpProtocol::Tcp
            && packet.ports().is_some_and(|(_, to)| self.hook.watches(to));
        self.nat
            .reassemble(packet, watched, peer, &self.tunnel, cx.now)
    }

    /// Passes on a client's packet that keeps its source.
    pub(super) fn pass_outbound<O: Output>(
        &mut self,
        peer: PeerId,
        mut packet: Packet<'_>,
        egress: Egress,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        match self
            .nat
            .route_out(&mut packet, egress, peer, &self.tunnel, cx.now)
        {
            Outcome::Forward(_) => self.send(&packet, vnet, cx),
            Outcome::Hairpin(_) => self.hairpin(&packet, vnet, cx),
            outcome => self.drop_from_client(peer, outcome, cx),
        }
    }
}
