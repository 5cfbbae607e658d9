//! The SMB hook's place in the pipeline: it is shown the TCP payload of watched flows, and what
//! it changes is made good in the checksum. A damaged segment is dropped before the hook sees
//! it, as the receiver would drop it: the hook believes what it reads.

use super::DataPlane;
use super::output::Output;
use super::tap::Note;
use crate::ids::FlowId;
use crate::nat::{FlowRef, Protocol};
use crate::smb::{Ends, Segment, TcpTimestamps, Verdict, is_older};
use smoltcp::wire::{TCP_HEADER_LEN as HEADER_LEN, TcpOption, TcpPacket, checksum};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use vcgate_wire::checksum::{Checksum, Delta};
use vcgate_wire::packet::Packet;
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
                refresh(&mut packet, clock);
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
            clear_urgent(packet);
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

/// Makes urgent data what it is to the hook, a part of the stream: many servers' stacks take its last
/// byte out (RFC 6093 section 2), and would read another stream than the hook. No SMB client uses it.
fn clear_urgent(packet: &mut Packet<'_>) {
    let complete = packet.checksum == Checksum::Complete;
    let Ok(mut tcp) = TcpPacket::new_checked(packet.l4_mut()) else {
        return;
    };
    if !tcp.urg() {
        return;
    }
    let flags = |tcp: &TcpPacket<&mut [u8]>| {
        let l4 = tcp.as_ref();
        u16::from_be_bytes([l4[12], l4[13]])
    };
    let before = (flags(&tcp), tcp.urgent_at());
    tcp.set_urg(false);
    tcp.set_urgent_at(0);
    if complete {
        let delta = Delta::default().word(before.0, flags(&tcp));
        let sum = delta.word(before.1, 0).apply(tcp.checksum());
        tcp.set_checksum(sum);
    }
}

/// Makes the TSval of a packet that was held no older than `clock`.
fn refresh(packet: &mut Packet<'_>, clock: u32) {
    let complete = packet.checksum == Checksum::Complete;
    let l4 = packet.l4_mut();
    let Ok(tcp) = TcpPacket::new_checked(&*l4) else {
        return;
    };
    let Some(at) = stamps_at(tcp.options()) else {
        return;
    };
    let mut sum = tcp.checksum();
    // Behind the kind and the length of the option.
    let start = HEADER_LEN + at + 2;
    let Some(field) = l4.get_mut(start..).and_then(|l4| l4.first_chunk_mut()) else {
        return;
    };
    let (old, new) = (*field, clock.to_be_bytes());
    if !is_older(u32::from_be_bytes(old), clock) {
        return;
    }
    *field = new;
    for (i, (old, new)) in old.into_iter().zip(new).enumerate() {
        sum = Delta::default()
            .byte((start + i) % 2 == 1, old, new)
            .apply(sum);
    }
    if complete {
        TcpPacket::new_unchecked(l4).set_checksum(sum);
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
    let options = Options::read(tcp.options());
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

/// What matters of the options of a TCP header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Options {
    sack_permitted: bool,
    timestamps: Option<TcpTimestamps>,
}

impl Options {
    #[inline]
    fn read(options: &[u8]) -> Self {
        // As nearly all stacks lay them out behind the handshake (RFC 7323 appendix A).
        if let [1, 1, 8, 10, v0, v1, v2, v3, e0, e1, e2, e3] = options {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            let echo = u32::from_be_bytes([*e0, *e1, *e2, *e3]);
            let timestamps = Some(TcpTimestamps { value, echo });
            return Self {
                timestamps,
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
                    found.timestamps = Some(TcpTimestamps { value, echo });
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

/// Where among the options of a TCP header the timestamps are.
fn stamps_at(options: &[u8]) -> Option<usize> {
    let mut rest = options;
    while let Ok((next, option)) = TcpOption::parse(rest) {
        match option {
            TcpOption::TimeStamp { .. } => return Some(options.len() - rest.len()),
            TcpOption::EndOfList => return None,
            _ => rest = next,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{IpAddress, Ipv4Address, Ipv4Packet, TcpSeqNumber};

    /// RFC 7323 section 5.3: with its old one the server would drop it.
    #[test]
    fn what_was_held_gets_a_clock_that_is_not_behind() {
        let (src, dst) = (
            Ipv4Address::new(192, 0, 2, 1),
            Ipv4Address::new(192, 0, 2, 2),
        );
        let ends = (IpAddress::from(src), IpAddress::from(dst));
        for options in [&[1, 1, 8, 10][..], &[1, 8, 10], &[8, 10]] {
            let mut bytes = vec![0; 20 + 20 + 12 + 3];
            let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
            ip.set_version(4);
            ip.set_header_len(20);
            ip.set_total_len(55);
            ip.set_next_header(smoltcp::wire::IpProtocol::Tcp);
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
            let timestamps = [options, &u32::MAX.to_be_bytes(), &[0, 0, 0, 9]].concat();
            ip.payload_mut()[20..20 + timestamps.len()].copy_from_slice(&timestamps);
            let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
            tcp.set_header_len(32);
            tcp.set_seq_number(TcpSeqNumber(7));
            tcp.fill_checksum(&ends.0, &ends.1);
            let mut after = |clock| {
                let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
                refresh(&mut packet, clock);
                let tcp = TcpPacket::new_checked(packet.l4()).unwrap();
                assert!(tcp.verify_checksum(&ends.0, &ends.1));
                Options::read(tcp.options()).timestamps
            };
            let timestamps = |value| Some(TcpTimestamps { value, echo: 9 });
            assert_eq!(after(u32::MAX - 5), timestamps(u32::MAX));
            assert_eq!(after(0x0102_0304), timestamps(0x0102_0304));
        }
    }

    #[test]
    fn rfc7323_3_2_finds_the_timestamps_wherever_they_are() {
        let option = [8, 10, 0x80, 0, 0, 1, 0, 0, 0, 2];
        let timestamps = Some(TcpTimestamps {
            value: 0x8000_0001,
            echo: 2,
        });
        let after = |before: &[u8]| Options::read(&[before, &option].concat()).timestamps;
        assert_eq!(after(&[1, 1]), timestamps);
        assert_eq!(after(&[2, 4, 5, 0xB4, 4, 2]), timestamps);
        // Behind the end of the list; behind a length that is none; cut.
        assert_eq!(after(&[0]), None);
        assert_eq!(after(&[2, 0]), None);
        assert_eq!(Options::read(&option[..9]).timestamps, None);
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
        assert!(Options::read(&linux).timestamps.is_some());
        assert!(Options::read(&windows).sack_permitted);
        assert!(!Options::read(&windows[..8]).sack_permitted);
    }
}
