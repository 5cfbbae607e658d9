//! Translates packets of the LAN, and fragments what is too long for the tunnel.
//!
//! The steps: find the shard; read the headers, find the mapping, apply the filter, record the
//! packet, rewrite the destination. Nothing is written before the packet is accepted, so that an
//! ICMP error quotes it unmodified.

use super::endpoint::{Endpoint, LanId, Outside, Protocol, Remote, Side};
use super::fragments::{FragmentKind, FragmentRewrite, Key};
use super::icmp_error::Refusal;
use super::l4::{self, L4, Ports, QuotedPacket};
use super::outcome::{DeferredPacket, FlowRef, Outcome, Reason, Stop, Verdict};
use super::rewrite::{self, End, Rewrite};
use super::{Context, Nat};
use crate::ids::PeerId;
use smoltcp::wire::IpProtocol;
use std::net::IpAddr;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::fragment;
use vcgate_wire::packet::Packet;
use vcgate_wire::split::Split;
use vcgate_wire::virtio_net::{Gso, Header};

/// The destination of a packet of the LAN among the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardLookup {
    /// The shard that owns the port.
    Shard(u8),
    /// The shard of this client, to which the port is forwarded.
    Client(IpAddr),
    /// The shard of this peer, the only one that uses the LAN address.
    Peer(PeerId),
    /// The shard that received the first fragment of the datagram.
    Fragment,
    /// No shard: the packet is to be dropped.
    Unknown,
}

impl Nat {
    /// Returns the destination of a packet for the LAN address, using only state that all shards
    /// have.
    pub fn shard_lookup(&self, packet: &Packet<'_>) -> ShardLookup {
        if !packet.headers.has_l4() {
            return ShardLookup::Fragment;
        }
        let Some(lan) = self.lan.id_of(packet.headers.dst) else {
            return ShardLookup::Unknown;
        };
        let outside = match l4::read(packet, Side::Lan) {
            Ok(L4::Flow(ports)) => Outside {
                lan,
                protocol: ports.protocol,
                port: ports.dst,
            },
            Ok(L4::Error) => match QuotedPacket::read(packet, Side::Lan) {
                Ok(quoted) => Outside {
                    lan,
                    protocol: quoted.protocol,
                    port: quoted.src.port,
                },
                Err(_) => return ShardLookup::Unknown,
            },
            Err(_) => return ShardLookup::Unknown,
        };
        match self.forwards.to(outside) {
            Some(inside) => ShardLookup::Client(inside.0.ip),
            None => match self.lan.owner(lan) {
                Some(peer) => ShardLookup::Peer(peer),
                None => ShardLookup::Shard(self.shard_of_port(packet.headers.dst, outside.port)),
            },
        }
    }

    pub(super) fn translate_in(&mut self, packet: &mut Packet<'_>, cx: &Context<'_>) -> Verdict {
        let Some(lan) = self.lan.id_of(packet.headers.dst) else {
            let first = self.lan.first(packet.headers.dst);
            let reason = first.map_or(Reason::Family, |_| Reason::NotOurs);
            return Err(reason.into());
        };
        let kind = self.handle_fragment(packet, Side::Lan, cx)?;
        if let FragmentKind::Later = kind {
            // The first fragment was answered with an error.
            self.check_mtu(packet).map_err(|_| Reason::TooBig)?;
            return Ok(self.deliver(packet, None));
        }
        let l4 = l4::read(packet, Side::Lan);
        let flow = match l4.map_err(|reason| self.unreadable(reason, packet))? {
            L4::Flow(ports) => self.translate_flow_in(packet, ports, lan, cx)?,
            L4::Error => {
                self.translate_error_in(packet, lan)?;
                None
            }
        };
        if let FragmentKind::First(key) = kind {
            self.release_fragments_in(packet, key);
        }
        Ok(self.deliver(packet, flow))
    }

    fn translate_flow_in(
        &mut self,
        packet: &mut Packet<'_>,
        ports: Ports,
        lan: LanId,
        cx: &Context<'_>,
    ) -> Result<Option<FlowRef>, Stop> {
        let remote = Remote(Endpoint {
            ip: packet.headers.src,
            port: ports.src,
        });
        let outside = Outside {
            lan,
            protocol: ports.protocol,
            port: ports.dst,
        };
        self.open_forwarded(outside, remote, ports.segment, cx)?;
        let Some(mapping) = self.table.by_outside(outside) else {
            return Err(self.reject_unsolicited(
                Reason::NoMapping,
                ports,
                outside,
                remote,
                packet,
                cx,
            ));
        };
        let known = self.table.session(mapping, remote);
        if known.is_none() && !self.passes_filter(mapping, remote.0.ip) {
            return Err(self.reject_unsolicited(
                Reason::Filtered,
                ports,
                outside,
                remote,
                packet,
                cx,
            ));
        }
        self.check_mtu(packet)?;
        let session = match (known, ports.protocol) {
            (Some(session), _) => Some(session),
            (None, Protocol::Tcp) if ports.opens_connection() => {
                Some(self.open_in(mapping, remote, cx.now)?)
            }
            (None, Protocol::Tcp) => {
                let reason = Reason::NoSession;
                return Err(self.reject_unsolicited(reason, ports, outside, remote, packet, cx));
            }
            // Only the client's own packets open sessions.
            (None, Protocol::Udp | Protocol::Echo) => None,
        };
        if let Some(session) = session {
            self.record_packet(session, Side::Lan, packet, ports.segment, cx.now);
        }
        if ports.is_syn() {
            rewrite::clamp_mss(packet, self.settings.mtu);
        }
        let mapping = &self.table.mappings[mapping.index()];
        Rewrite::inward(mapping).apply(End::Destination, packet);
        Ok(session.map(|session| FlowRef {
            id: self.table.flow_id(session),
            protocol: ports.protocol,
            remote: remote.0.into(),
        }))
    }

    /// Translates an ICMP error of the LAN, possibly from a router, about a packet of a session.
    fn translate_error_in(&mut self, packet: &mut Packet<'_>, lan: LanId) -> Result<(), Reason> {
        let quoted = QuotedPacket::read(packet, Side::Lan)?;
        // The error goes to the LAN address from which the quoted packet came.
        if quoted.src.ip != packet.headers.dst {
            return Err(Reason::Quote);
        }
        let outside = Outside {
            lan,
            protocol: quoted.protocol,
            port: quoted.src.port,
        };
        let mapping = self
            .table
            .by_outside(outside)
            .filter(|m| self.table.session(*m, Remote(quoted.dst)).is_some())
            .ok_or(Reason::Quote)?;
        let rewrite = Rewrite::inward(&self.table.mappings[mapping.index()]);
        rewrite.apply_to_quote(End::Source, &quoted, packet.l4_mut());
        rewrite::replace_address_of_error(packet, End::Destination, rewrite.ip);
        Ok(())
    }

    /// Delivers the fragments that waited for this first one, which is translated.
    fn release_fragments_in(&mut self, first: &Packet<'_>, key: Key) {
        let rewrite = FragmentRewrite {
            end: End::Destination,
            ip: first.headers.dst,
            id: None,
        };
        for mut fragment in self.fragments.resolve(key, rewrite) {
            let Ok(mut packet) = Packet::parse(&mut fragment, Checksum::Complete) else {
                continue;
            };
            rewrite.apply(&mut packet);
            if self.delivers_whole(&packet) {
                self.deferred.push_back(DeferredPacket::ToClient(fragment));
            }
        }
    }

    /// Refuses a packet that is too long for the tunnel and has DF set (RFC 4787 REQ-13). The packet
    /// has an L4 header, or is not a super-packet.
    pub(super) fn check_mtu(&self, packet: &Packet<'_>) -> Result<(), Stop> {
        let mtu = self.settings.mtu;
        if max_segment_len(packet) <= usize::from(mtu) || !packet.headers.dont_fragment {
            return Ok(());
        }
        Err(Stop::Refuse(Reason::TooBig, Refusal::TooBig(mtu)))
    }

    /// Returns the peer to which a packet of the LAN would go.
    pub(super) fn receiver(&self, packet: &Packet<'_>, cx: &Context<'_>) -> Option<PeerId> {
        let dst = packet.headers.dst;
        let Some(lan) = self.lan.id_of(dst) else {
            return cx.peers.of(dst);
        };
        let Ok(L4::Flow(ports)) = l4::read(packet, Side::Lan) else {
            return None;
        };
        let mapping = self.table.by_outside(Outside {
            lan,
            protocol: ports.protocol,
            port: ports.dst,
        })?;
        let mapping = &self.table.mappings[mapping.index()];
        self.clients
            .client(mapping.client)
            .map(|client| client.peer)
    }

    /// Delivers a packet that passed [`check_mtu`](Self::check_mtu) to its client: whole, or in
    /// fragments as deferred packets.
    pub(super) fn deliver(&mut self, packet: &Packet<'_>, flow: Option<FlowRef>) -> Outcome {
        let mtu = self.settings.mtu;
        if max_segment_len(packet) <= usize::from(mtu) || packet.headers.dont_fragment {
            return Outcome::Forward(flow);
        }
        let mut send = |fragments: Vec<_>| {
            self.deferred
                .extend(fragments.into_iter().map(DeferredPacket::ToClient))
        };
        match packet.segment {
            None => send(fragment::fragment(packet, mtu)),
            Some(size) => {
                for mut segment in segments(packet, size) {
                    if let Ok(segment) = Packet::parse(&mut segment, Checksum::Complete) {
                        send(fragment::fragment(&segment, mtu));
                    }
                }
            }
        }
        Outcome::Held
    }

    /// Delivers a fragment; returns whether it can leave as it is.
    pub(super) fn delivers_whole(&mut self, packet: &Packet<'_>) -> bool {
        self.check_mtu(packet).is_ok() && matches!(self.deliver(packet, None), Outcome::Forward(_))
    }
}

/// Returns the length of a packet, or of a super-packet's longest segment, in bytes.
fn max_segment_len(packet: &Packet<'_>) -> usize {
    match packet.segment {
        None => packet.headers.len,
        Some(payload) => packet.headers.l4 + l4::header_len(packet) + usize::from(payload),
    }
}

/// Returns the segments of an IPv4 super-packet; only IPv4 can be fragmented on the way.
fn segments(packet: &Packet<'_>, size: u16) -> Vec<Vec<u8>> {
    let vnet = Header {
        gso: match packet.headers.protocol {
            IpProtocol::Tcp => Gso::TcpV4,
            _ => Gso::UdpL4,
        },
        gso_size: size,
        ..Header::default()
    };
    let mut whole = packet.to_vec();
    let split = Split::new(&vnet, &packet.headers, &whole);
    split.map_or_else(Vec::new, |mut split| {
        std::iter::from_fn(|| split.next(&mut whole).map(|range| whole[range].to_vec())).collect()
    })
}
