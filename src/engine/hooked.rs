//! The SMB hook's place in the pipeline: it is shown the TCP payload of watched flows, and what
//! it changes is made good in the checksum. A damaged segment is dropped before the hook sees
//! it, as the receiver would drop it: the hook believes what it reads.

use super::Rooms;
use super::output::Output;
use super::to_lan::send;
use crate::ids::FlowId;
use crate::smb::{Ends, Segment, Verdict};
use crate::wire::checksum::Checksum;
use crate::wire::coalesce::pseudo_header;
use crate::wire::packet::Packet;
use crate::wire::virtio_net::Header;
use smoltcp::wire::{TcpOption, TcpPacket, checksum};

impl Rooms {
    /// A translated packet of a flow to a file server: the hook may change it or hold it back.
    pub(super) fn hooked(
        &mut self,
        flow: FlowId,
        ends: &Ends,
        mut packet: Packet<'_>,
        vnet: &Header,
        out: &mut impl Output,
    ) {
        if !intact(&packet) {
            self.counters.damaged += 1;
            return;
        }
        match self.judge(flow, ends, &mut packet) {
            Verdict::Pass => send(&packet, vnet, out),
            Verdict::Hold => return self.hold(flow, &packet, vnet),
        }
        self.release(flow, ends, out);
    }

    /// A packet from a file server, before it is delivered; the hook only reads it. What its
    /// acknowledgement lets go leaves for the server.
    pub(super) fn hooked_answer(
        &mut self,
        flow: FlowId,
        ends: &Ends,
        packet: &mut Packet<'_>,
        out: &mut impl Output,
    ) {
        if let Some((segment, header)) = segment(packet.l4()) {
            self.hook.server(flow, &segment, &packet.payload(header));
            self.release(flow, ends, out);
        }
    }

    /// Sends what the hook held back and need not any longer.
    fn release(&mut self, flow: FlowId, ends: &Ends, out: &mut impl Output) {
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
            match self.judge(flow, ends, &mut packet) {
                Verdict::Pass => send(&packet, &vnet, out),
                Verdict::Hold => self.hold(flow, &packet, &vnet),
            }
        }
    }

    /// Leaves a copy with the hook, as it would be written to the device.
    fn hold(&mut self, flow: FlowId, packet: &Packet<'_>, vnet: &Header) {
        if let Some((segment, _)) = segment(packet.l4()) {
            let mut held = vnet.encode().to_vec();
            packet
                .pieces()
                .for_each(|piece| held.extend_from_slice(piece));
            self.hook.hold(flow, &segment, held);
        }
    }

    /// Asks the hook about a packet and keeps its checksum right.
    fn judge(&mut self, flow: FlowId, ends: &Ends, packet: &mut Packet<'_>) -> Verdict {
        let Some((segment, header)) = segment(packet.l4()) else {
            return Verdict::Pass;
        };
        let mut payload = packet.payload(header);
        let verdict = self.hook.client(flow, ends, &segment, &mut payload);
        let delta = payload.delta();
        if packet.checksum == Checksum::Complete {
            let mut tcp = TcpPacket::new_unchecked(packet.l4_mut());
            let checksum = delta.apply(tcp.checksum());
            tcp.set_checksum(checksum);
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
        checksum::combine(&[pseudo_header(&packet.headers, l4.len()), checksum::data(l4)])
    };
    packet.checksum == Checksum::Partial || sum(packet) == 0xFFFF
}

/// What the hook needs to know of a TCP header, and the header's length in bytes.
fn segment(l4: &[u8]) -> Option<(Segment, usize)> {
    let tcp = TcpPacket::new_checked(l4).ok()?;
    let segment = Segment {
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack().then(|| tcp.ack_number().0 as u32),
        syn: tcp.syn(),
        rst: tcp.rst(),
        fin: tcp.fin(),
        stamp: stamp(tcp.options()),
    };
    Some((segment, tcp.header_len().into()))
}

/// TSval of the timestamps option, if there is one.
fn stamp(mut options: &[u8]) -> Option<u32> {
    // As nearly all stacks lay it out (RFC 7323 appendix A).
    if let [1, 1, 8, 10, a, b, c, d, ..] = options {
        return Some(u32::from_be_bytes([*a, *b, *c, *d]));
    }
    loop {
        options = match TcpOption::parse(options).ok()? {
            (_, TcpOption::TimeStamp { tsval, .. }) => return Some(tsval),
            (_, TcpOption::EndOfList) => return None,
            (rest, _) => rest,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc7323_3_2_finds_the_timestamp_wherever_it_is() {
        let option = [8, 10, 0x80, 0, 0, 1, 0, 0, 0, 2];
        let after = |before: &[u8]| stamp(&[before, &option].concat());
        assert_eq!(after(&[1, 1]), Some(0x8000_0001));
        assert_eq!(after(&[2, 4, 5, 0xB4, 4, 2]), Some(0x8000_0001));
        // Behind the end of the list; behind a length that is none; cut.
        assert_eq!(after(&[0]), None);
        assert_eq!(after(&[2, 0]), None);
        assert_eq!(stamp(&option[..9]), None);
        assert_eq!(stamp(&[]), None);
    }
}
