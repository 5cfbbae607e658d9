//! The SMB hook's place in the pipeline: the hook sees the TCP payload of watched flows, and its
//! changes are carried into the checksum. A damaged segment is dropped before the hook sees it, as
//! the receiver would drop it: the hook trusts the bytes that it reads.

use super::DataPlane;
use super::capture::Note;
use super::output::{Context, Output};
use crate::ids::FlowId;
use crate::nat::{FlowRef, Protocol};
use crate::smb::{Ends, HeldPacket, Segment, Verdict};
use smoltcp::wire::{TcpPacket, checksum};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;
use vcgate_wire::tcp::{self, TcpOptions};
use vcgate_wire::virtio_net::{Gso, Header};

impl DataPlane {
    /// Inspects a translated packet to a file server: the hook may change it or hold it.
    pub(super) fn inspect_outbound<O: Output>(
        &mut self,
        flow: FlowId,
        ends: &Ends,
        mut packet: Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        if !self.needs_inspection(flow, packet.l4()) {
            return self.forward_to_server(ends, &packet, vnet, cx);
        }
        if !is_intact(&packet) {
            self.counters.damaged += 1;
            self.tap_note(Note::Damaged);
            return;
        }
        match self.inspect(flow, ends, &mut packet, cx.now) {
            Verdict::Pass => self.forward_to_server(ends, &packet, vnet, cx),
            Verdict::Hold => {
                self.tap_note(Note::Held);
                return self.hold(flow, &mut packet, vnet, cx.now);
            }
            Verdict::Drop => self.tap_note(Note::DroppedByHook),
        }
        self.release(flow, ends, cx);
    }

    /// Inspects a packet from a file server to `lan` before its delivery; the hook only reads it.
    /// Held packets that its acknowledgement releases leave for the server.
    pub(super) fn inspect_inbound<O: Output>(
        &mut self,
        flow: &FlowRef,
        lan: IpAddr,
        packet: &mut Packet<'_>,
        cx: &mut Context<'_, O>,
    ) {
        let Some((_, port)) = packet.ports() else {
            return;
        };
        if self.needs_inspection(flow.id, packet.l4())
            && let Some((segment, header)) = read_segment(packet.l4())
        {
            let ends = Ends {
                client: SocketAddr::new(packet.headers.dst, port),
                lan,
                server: flow.remote,
            };
            let payload = packet.payload(header);
            self.hook.server(flow.id, &segment, &payload, cx.now);
            self.release(flow.id, &ends, cx);
        }
    }

    /// Whether a flow goes to a file server.
    pub(super) fn is_watched(&self, flow: &FlowRef) -> bool {
        flow.protocol == Protocol::Tcp && self.hook.watches(flow.remote.port())
    }

    /// Whether the hook has to see a segment. On a connection that it has stopped reading, it sees
    /// only the end, and the start of the next one.
    fn needs_inspection(&self, flow: FlowId, l4: &[u8]) -> bool {
        let opens_or_ends = |tcp: TcpPacket<&[u8]>| tcp.syn() || tcp.fin() || tcp.rst();
        self.hook.reads(flow) || TcpPacket::new_checked(l4).is_ok_and(opens_or_ends)
    }

    /// Sends the held packets that need not wait any longer.
    fn release<O: Output>(&mut self, flow: FlowId, ends: &Ends, cx: &mut Context<'_, O>) {
        while let Some(mut held) = self.hook.release(flow) {
            let Some((vnet, bytes)) = held.split_first_chunk_mut() else {
                continue;
            };
            let Ok(vnet) = Header::decode(vnet, bytes) else {
                continue;
            };
            let checksum = vnet.checksum();
            let Ok(mut packet) = Packet::parse(bytes, checksum) else {
                continue;
            };
            if let Some(clock) = self.hook.clock(flow) {
                tcp::raise_timestamp(&mut packet, clock);
            }
            match self.inspect(flow, ends, &mut packet, cx.now) {
                Verdict::Pass => self.forward_to_server(ends, &packet, &vnet, cx),
                Verdict::Hold => self.hold(flow, &mut packet, &vnet, cx.now),
                Verdict::Drop => {}
            }
        }
    }

    /// Sends a packet that the hook passed to its server: on the LAN, or another client that a port
    /// of the LAN address leads to (hairpin).
    fn forward_to_server<O: Output>(
        &mut self,
        ends: &Ends,
        packet: &Packet<'_>,
        vnet: &Header,
        cx: &mut Context<'_, O>,
    ) {
        if !self.nat.is_lan(ends.server.ip()) {
            return self.send(packet, vnet, cx);
        }
        match self.shard_for_lan(packet) {
            Some(shard) => self.forward_to_shard(shard, packet, vnet, cx),
            None => self.hairpin(packet, vnet, cx),
        }
    }

    /// Leaves a copy of a packet with the hook, after its virtio header.
    fn hold(&mut self, flow: FlowId, packet: &mut Packet<'_>, vnet: &Header, now: Instant) {
        if let Some((segment, header)) = read_segment(packet.l4()) {
            let payload_len = packet.payload(header).len();
            let segment_len = match vnet.gso {
                Gso::None => payload_len,
                _ => vnet.gso_size.into(),
            };
            let mut held = vnet.encode().to_vec();
            packet
                .pieces()
                .for_each(|piece| held.extend_from_slice(piece));
            let packet = HeldPacket {
                bytes: held,
                payload_len,
                segment_len,
            };
            self.hook.hold(flow, &segment, packet, now);
        }
    }

    /// Gives a packet to the hook and carries its changes into the checksum.
    fn inspect(
        &mut self,
        flow: FlowId,
        ends: &Ends,
        packet: &mut Packet<'_>,
        now: Instant,
    ) -> Verdict {
        let Some((segment, header)) = read_segment(packet.l4()) else {
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

/// Whether a segment's checksum is right. A packet with a partial checksum was verified before, or
/// never left the host.
fn is_intact(packet: &Packet<'_>) -> bool {
    let sum = |packet: &Packet<'_>| {
        let l4 = packet.l4();
        checksum::combine(&[packet.headers.pseudo_header(l4.len()), checksum::data(l4)])
    };
    packet.checksum == Checksum::Partial || sum(packet) == 0xFFFF
}

/// Reads the fields that the hook needs, and the header's length in bytes.
fn read_segment(l4: &[u8]) -> Option<(Segment, usize)> {
    let tcp = TcpPacket::new_checked(l4).ok()?;
    let options = TcpOptions::parse(tcp.options());
    let segment = Segment {
        seq: tcp.seq_number().into(),
        ack: tcp.ack().then(|| tcp.ack_number().into()),
        syn: tcp.syn(),
        rst: tcp.rst(),
        fin: tcp.fin(),
        window: tcp.window_len(),
        sack_permitted: options.sack_permitted,
        timestamps: options.timestamps,
    };
    Some((segment, tcp.header_len().into()))
}
