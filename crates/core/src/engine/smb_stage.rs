//! The SMB hook's place in the pipeline: it is shown the TCP payload of watched flows, and what
//! it changes is made good in the checksum. A damaged segment is dropped before the hook sees
//! it, as the receiver would drop it: the hook believes what it reads.

use super::DataPlane;
use super::output::Output;
use super::tap::Note;
use crate::ids::FlowId;
use crate::nat::{FlowRef, Protocol};
use crate::smb::{Ends, Segment, Verdict};
use smoltcp::wire::{TcpPacket, checksum};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;
use vcgate_wire::tcp::{self, TcpOptions};
use vcgate_wire::virtio_net::{Gso, Header};

impl DataPlane {
    /// A translated packet of a flow to a file server: the hook may change it or hold it back.
    pub(super) fn inspect_outbound(
        &mut self,
        flow: FlowId,
        ends: &Ends,
        mut packet: Packet<'_>,
        vnet: &Header,
        now: Instant,
        out: &mut impl Output,
    ) {
        if !self.needs_inspection(flow, packet.l4()) {
            return self.forward_to_server(ends, &packet, vnet, now, out);
        }
        if !intact(&packet) {
            self.counters.damaged += 1;
            self.tap_note(Note::Damaged);
            return;
        }
        match self.inspect(flow, ends, &mut packet, now) {
            Verdict::Pass => self.forward_to_server(ends, &packet, vnet, now, out),
            Verdict::Hold => {
                self.tap_note(Note::Held);
                return self.hold(flow, &mut packet, vnet, now);
            }
            Verdict::Drop => self.tap_note(Note::Unwanted),
        }
        self.release(flow, ends, now, out);
    }

    /// A packet from a file server to `lan`, before it is delivered; the hook only reads it. What its
    /// acknowledgement lets go leaves for the server.
    pub(super) fn inspect_inbound(
        &mut self,
        flow: &FlowRef,
        lan: IpAddr,
        packet: &mut Packet<'_>,
        now: Instant,
        out: &mut impl Output,
    ) {
        let Some((_, port)) = packet.ports() else {
            return;
        };
        if self.needs_inspection(flow.id, packet.l4())
            && let Some((segment, header)) = segment(packet.l4())
        {
            let ends = Ends {
                client: SocketAddr::new(packet.headers.dst, port),
                lan,
                server: flow.remote,
            };
            let payload = packet.payload(header);
            self.hook.server(flow.id, &segment, &payload, now);
            self.release(flow.id, &ends, now, out);
        }
    }

    /// Whether a flow is one to a file server.
    pub(super) fn is_watched(&self, flow: &FlowRef) -> bool {
        flow.protocol == Protocol::Tcp && self.hook.watches(flow.remote.port())
    }

    /// Whether the hook has to see a segment. On a connection that it does not read any more only
    /// the end matters, and the beginning of the next one.
    fn needs_inspection(&self, flow: FlowId, l4: &[u8]) -> bool {
        let turns = |tcp: TcpPacket<&[u8]>| tcp.syn() || tcp.fin() || tcp.rst();
        self.hook.reads(flow) || TcpPacket::new_checked(l4).is_ok_and(turns)
    }

    /// Sends what the hook held back and need not any longer.
    fn release(&mut self, flow: FlowId, ends: &Ends, now: Instant, out: &mut impl Output) {
        while let Some(mut held) = self.hook.release(flow) {
            let Some((vnet, bytes)) = held.split_first_chunk_mut() else {
                continue;
            };
            let Ok(vnet) = Header::decode(vnet, bytes) else {
                continue;
            };
            let checksum = checksum_of(&vnet);
            let Ok(mut packet) = Packet::parse(bytes, checksum) else {
                continue;
            };
            if let Some(clock) = self.hook.clock(flow) {
                tcp::raise_timestamp(&mut packet, clock);
            }
            match self.inspect(flow, ends, &mut packet, now) {
                Verdict::Pass => self.forward_to_server(ends, &packet, &vnet, now, out),
                Verdict::Hold => self.hold(flow, &mut packet, &vnet, now),
                Verdict::Drop => {}
            }
        }
    }

    /// What the hook lets pass leaves for its server: on the LAN, or behind a port of the LAN address
    /// that is another client's (hairpin).
    fn forward_to_server(
        &mut self,
        ends: &Ends,
        packet: &Packet<'_>,
        vnet: &Header,
        now: Instant,
        out: &mut impl Output,
    ) {
        if !self.nat.is_lan(ends.server.ip()) {
            return self.send(packet, vnet, now, out);
        }
        match self.shard_for_lan(packet) {
            Some(mate) => self.forward_to_shard(mate, packet, vnet, out),
            None => self.hairpin(packet, vnet, now, out),
        }
    }

    /// Leaves a copy with the hook, as it would be written to the device.
    fn hold(&mut self, flow: FlowId, packet: &mut Packet<'_>, vnet: &Header, now: Instant) {
        if let Some((segment, header)) = segment(packet.l4()) {
            let len = packet.payload(header).len();
            let size = match vnet.gso {
                Gso::None => len,
                _ => vnet.gso_size.into(),
            };
            let mut held = vnet.encode().to_vec();
            packet
                .pieces()
                .for_each(|piece| held.extend_from_slice(piece));
            self.hook.hold(flow, &segment, (len, size), held, now);
        }
    }

    /// Asks the hook about a packet and keeps its checksum right.
    fn inspect(
        &mut self,
        flow: FlowId,
        ends: &Ends,
        packet: &mut Packet<'_>,
        now: Instant,
    ) -> Verdict {
        let Some((segment, header)) = segment(packet.l4()) else {
            return Verdict::Pass;
        };
        if self.hook.rewrites() {
            // The hook and the server must read the same stream.
            tcp::clear_urgent(packet);
        }
        let mut payload = packet.payload(header);
        let Self { hook, tunnel, .. } = self;
        let peer_of = |client| tunnel.route(client);
        let verdict = hook.client(flow, ends, &segment, &mut payload, peer_of, now);
        let delta = payload.delta();
        if packet.checksum == Checksum::Complete {
            let mut tcp = TcpPacket::new_unchecked(packet.l4_mut());
            let checksum = delta.apply(tcp.checksum());
            tcp.set_checksum(checksum);
        }
        if verdict == Verdict::Pass {
            self.tap_changes(flow, &segment, || packet.payload(header).len());
        }
        verdict
    }
}

/// How the L4 checksum of a packet behind this header is to be kept.
pub(super) fn checksum_of(vnet: &Header) -> Checksum {
    match vnet.needs_csum {
        true => Checksum::Partial,
        false => Checksum::Complete,
    }
}

/// Whether the payload is what was sent. With a partial checksum it was verified before, or
/// never left the host.
fn intact(packet: &Packet<'_>) -> bool {
    let sum = |packet: &Packet<'_>| {
        let l4 = packet.l4();
        checksum::combine(&[packet.headers.pseudo_header(l4.len()), checksum::data(l4)])
    };
    packet.checksum == Checksum::Partial || sum(packet) == 0xFFFF
}

/// What the hook needs to know of a TCP header, and the header's length in bytes.
fn segment(l4: &[u8]) -> Option<(Segment, usize)> {
    let tcp = TcpPacket::new_checked(l4).ok()?;
    let options = TcpOptions::parse(tcp.options());
    let segment = Segment {
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack().then(|| tcp.ack_number().0 as u32),
        syn: tcp.syn(),
        rst: tcp.rst(),
        fin: tcp.fin(),
        window: tcp.window_len(),
        sack_permitted: options.sack_permitted,
        timestamps: options.timestamps,
    };
    Some((segment, tcp.header_len().into()))
}
