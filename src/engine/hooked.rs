//! The SMB hook's place in the pipeline: it is shown the TCP payload of watched flows, and what
//! it changes is made good in the checksum. A damaged segment is dropped before the hook sees
//! it, as the receiver would drop it: the hook believes what it reads.

use super::Rooms;
use super::output::Output;
use super::tap::Note;
use crate::ids::FlowId;
use crate::smb::{Ends, Segment, Stamps, Verdict};
use crate::wire::checksum::Checksum;
use crate::wire::coalesce::pseudo_header;
use crate::wire::packet::Packet;
use crate::wire::virtio_net::{Gso, Header};
use smoltcp::wire::{TcpOption, TcpPacket, checksum};
use std::time::Instant;

impl Rooms {
    /// A translated packet of a flow to a file server: the hook may change it or hold it back.
    pub(super) fn hooked(
        &mut self,
        flow: FlowId,
        ends: &Ends,
        mut packet: Packet<'_>,
        vnet: &Header,
        now: Instant,
        out: &mut impl Output,
    ) {
        if self.hook.reads(flow) && !intact(&packet) {
            self.counters.damaged += 1;
            self.tap_note(Note::Damaged);
            return;
        }
        match self.judge(flow, ends, &mut packet) {
            Verdict::Pass => self.send(&packet, vnet, now, out),
            Verdict::Hold => {
                self.tap_note(Note::Held);
                return self.hold(flow, &mut packet, vnet);
            }
        }
        self.release(flow, ends, now, out);
    }

    /// A packet from a file server, before it is delivered; the hook only reads it. What its
    /// acknowledgement lets go leaves for the server.
    pub(super) fn hooked_answer(
        &mut self,
        flow: FlowId,
        ends: &Ends,
        packet: &mut Packet<'_>,
        now: Instant,
        out: &mut impl Output,
    ) {
        if let Some((segment, header)) = segment(packet.l4()) {
            self.hook.server(flow, &segment, &packet.payload(header));
            self.release(flow, ends, now, out);
        }
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
            match self.judge(flow, ends, &mut packet) {
                Verdict::Pass => self.send(&packet, &vnet, now, out),
                Verdict::Hold => self.hold(flow, &mut packet, &vnet),
            }
        }
    }

    /// Leaves a copy with the hook, as it would be written to the device.
    fn hold(&mut self, flow: FlowId, packet: &mut Packet<'_>, vnet: &Header) {
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
            self.hook.hold(flow, &segment, (len, size), held);
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
        checksum::combine(&[pseudo_header(&packet.headers, l4.len()), checksum::data(l4)])
    };
    packet.checksum == Checksum::Partial || sum(packet) == 0xFFFF
}

/// What the hook needs to know of a TCP header, and the header's length in bytes.
fn segment(l4: &[u8]) -> Option<(Segment, usize)> {
    let tcp = TcpPacket::new_checked(l4).ok()?;
    let options = Options::read(tcp.options());
    let segment = Segment {
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack().then(|| tcp.ack_number().0 as u32),
        syn: tcp.syn(),
        rst: tcp.rst(),
        fin: tcp.fin(),
        window: tcp.window_len(),
        sack_permitted: options.sack_permitted,
        stamps: options.stamps,
    };
    Some((segment, tcp.header_len().into()))
}

/// What matters of the options of a TCP header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Options {
    sack_permitted: bool,
    stamps: Option<Stamps>,
}

impl Options {
    #[inline]
    fn read(options: &[u8]) -> Self {
        // As nearly all stacks lay them out behind the handshake (RFC 7323 appendix A).
        if let [1, 1, 8, 10, v0, v1, v2, v3, e0, e1, e2, e3] = options {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            let echo = u32::from_be_bytes([*e0, *e1, *e2, *e3]);
            let stamps = Some(Stamps { value, echo });
            return Self {
                stamps,
                ..Self::default()
            };
        }
        Self::read_each(options)
    }

    fn read_each(mut options: &[u8]) -> Self {
        let mut found = Self::default();
        while let Ok((rest, option)) = TcpOption::parse(options) {
            match option {
                TcpOption::TimeStamp { tsval, tsecr } => {
                    let (value, echo) = (tsval, tsecr);
                    found.stamps = Some(Stamps { value, echo });
                }
                TcpOption::SackPermitted => found.sack_permitted = true,
                TcpOption::EndOfList => break,
                _ => {}
            }
            options = rest;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc7323_3_2_finds_the_timestamps_wherever_they_are() {
        let option = [8, 10, 0x80, 0, 0, 1, 0, 0, 0, 2];
        let stamps = Some(Stamps {
            value: 0x8000_0001,
            echo: 2,
        });
        let after = |before: &[u8]| Options::read(&[before, &option].concat()).stamps;
        assert_eq!(after(&[1, 1]), stamps);
        assert_eq!(after(&[2, 4, 5, 0xB4, 4, 2]), stamps);
        // Behind the end of the list; behind a length that is none; cut.
        assert_eq!(after(&[0]), None);
        assert_eq!(after(&[2, 0]), None);
        assert_eq!(Options::read(&option[..9]).stamps, None);
        assert_eq!(Options::read(&[]), Options::default());
    }

    #[test]
    fn rfc2018_2_finds_whether_sack_is_permitted() {
        // As Linux sends it, and as Windows does without timestamps.
        let linux = [
            2, 4, 5, 0xB4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let windows = [2, 4, 5, 0xB4, 1, 3, 3, 8, 1, 1, 4, 2];
        assert!(Options::read(&linux).sack_permitted);
        assert!(Options::read(&linux).stamps.is_some());
        assert!(Options::read(&windows).sack_permitted);
        assert!(!Options::read(&windows[..8]).sack_permitted);
    }
}
