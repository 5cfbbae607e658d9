//! Segments of our own on a translated TCP connection: acknowledgements and probes to the client,
//! resets to both ends. They carry no data, and never a number that the NAT did not see on the connection.

use super::DataPlane;
use super::output::Output;
use crate::ids::FlowId;
use crate::nat::{Sequence, TcpState};
use crate::smb::{Action, Blocks, TcpReplyTemplate, TcpTimestamps};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr,
};
use std::net::SocketAddr;
use std::time::Instant;

/// What hosts usually begin with.
const HOP_LIMIT: u8 = 64;
/// A RST has no window, and that of an old segment is not looked at.
const ANY_WINDOW: u16 = u16::MAX;

/// A connection as its two ends see it.
struct Connection {
    client: SocketAddr,
    /// The client's end as the server sees it.
    lan: SocketAddr,
    server: SocketAddr,
    at: Sequence,
}

impl DataPlane {
    /// Does what the hook wants done to flows of clients that begin anew.
    pub(super) fn run_actions(&mut self, now: Instant, out: &mut impl Output) {
        while let Some(action) = self.next_action(now) {
            match action {
                Action::Acknowledge(flow, blocks) => self.acknowledge(flow, blocks, now, out),
                Action::Probe(flow) => self.probe(flow, now, out),
                Action::Reset(flow) => self.reset(flow, now, out),
                Action::RetryReset(flow, seq) => self.confirm(flow, seq, now, out),
            }
        }
    }

    fn next_action(&mut self, now: Instant) -> Option<Action> {
        let Self { hook, nat, .. } = self;
        hook.poll_action(now, |flow| {
            let flow = nat.flow(flow, now);
            flow.is_some_and(|flow| flow.state == Some(TcpState::Established))
        })
    }

    /// Repeats to the client what the server said last, so that the two differ in nothing but the
    /// blocks (RFC 5681 section 2).
    fn acknowledge(&mut self, flow: FlowId, blocks: Blocks, now: Instant, out: &mut impl Output) {
        let TcpReplyTemplate {
            window: Some(window),
            timestamps,
        } = self.hook.reply_template(flow)
        else {
            return;
        };
        let Some(Connection {
            client, server, at, ..
        }) = self.connection(flow, now)
        else {
            return;
        };
        let Some(next) = at.server_next else {
            return;
        };
        let acknowledgement = Segment {
            from: server,
            to: client,
            control: TcpControl::None,
            seq: next,
            ack: at.server_expects,
            window,
            timestamps,
            blocks,
        };
        if let Some(acknowledgement) = acknowledgement.packet() {
            self.answer(acknowledgement, now, out);
        }
    }

    /// Asks the client with a segment that is all acknowledged, which a connection answers and a
    /// stack that knows of none refuses.
    fn probe(&mut self, flow: FlowId, now: Instant, out: &mut impl Output) {
        let Some(Connection {
            client, server, at, ..
        }) = self.connection(flow, now)
        else {
            return;
        };
        let Some(expected) = at.client_expects else {
            return;
        };
        let probe = Segment {
            from: server,
            to: client,
            control: TcpControl::None,
            seq: expected.wrapping_sub(1),
            ack: at.server_expects,
            window: ANY_WINDOW,
            timestamps: self.hook.reply_template(flow).timestamps,
            blocks: Blocks::default(),
        };
        if let Some(probe) = probe.packet() {
            self.answer(probe, now, out);
        }
    }

    /// Resets both ends. Only the number that an end expects next counts (RFC 5961 section 3.2);
    /// if it was sent more than it is known to have, it may expect what follows that.
    fn reset(&mut self, flow: FlowId, now: Instant, out: &mut impl Output) {
        let Some(Connection {
            client,
            lan,
            server,
            at,
        }) = self.connection(flow, now)
        else {
            return;
        };
        for seq in candidates(at.server_expects, at.client_next) {
            let reset = Segment::reset(lan, server, seq, at.client_expects);
            if let Some(reset) = reset.packet() {
                self.send_to_lan_or_shard(reset, now, out);
            }
        }
        for seq in candidates(at.client_expects, at.server_next) {
            let reset = Segment::reset(server, client, seq, at.server_expects);
            if let Some(reset) = reset.packet() {
                self.answer(reset, now, out);
            }
        }
        self.nat.mark_reset(flow, now);
    }

    /// Resets the server at the number that it named itself.
    fn confirm(&mut self, flow: FlowId, seq: u32, now: Instant, out: &mut impl Output) {
        if let Some(Connection { lan, server, .. }) = self.connection(flow, now)
            && let Some(reset) = Segment::reset(lan, server, seq, None).packet()
        {
            self.send_to_lan_or_shard(reset, now, out);
        }
    }

    fn connection(&mut self, id: FlowId, now: Instant) -> Option<Connection> {
        let flow = self.nat.flow(id, now)?;
        let connection = Connection {
            client: flow.inside,
            lan: SocketAddr::new(self.hook.flow(id)?.ends.lan, flow.port),
            server: flow.remote,
            at: self.nat.sequence(id)?,
        };
        self.tap_about(connection.client, connection.lan, connection.server);
        Some(connection)
    }
}

fn candidates(expected: Option<u32>, next: Option<u32>) -> impl Iterator<Item = u32> {
    let other = next.filter(|next| Some(*next) != expected);
    expected.into_iter().chain(other)
}

/// A TCP segment without data.
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    control: TcpControl,
    seq: u32,
    ack: Option<u32>,
    window: u16,
    /// A RST needs none (RFC 7323 section 3.2).
    timestamps: Option<TcpTimestamps>,
    blocks: Blocks,
}

impl Segment {
    fn reset(from: SocketAddr, to: SocketAddr, seq: u32, ack: Option<u32>) -> Self {
        Self {
            from,
            to,
            control: TcpControl::Rst,
            seq,
            ack,
            window: ANY_WINDOW,
            timestamps: None,
            blocks: Blocks::default(),
        }
    }

    /// The whole IP packet; none between addresses of two families.
    fn packet(&self) -> Option<Vec<u8>> {
        let (src, dst) = (self.from.ip(), self.to.ip());
        if src.is_ipv4() != dst.is_ipv4() {
            return None;
        }
        let number = |n: u32| TcpSeqNumber(n as i32);
        let tcp = TcpRepr {
            src_port: self.from.port(),
            dst_port: self.to.port(),
            control: self.control,
            seq_number: number(self.seq),
            ack_number: self.ack.map(number),
            window_len: self.window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: self.blocks,
            timestamp: self
                .timestamps
                .map(|timestamps| TcpTimestampRepr::new(timestamps.value, timestamps.echo)),
            payload: &[],
        };
        let len = tcp.buffer_len();
        let ip = IpRepr::new(src.into(), dst.into(), IpProtocol::Tcp, len, HOP_LIMIT);
        let mut packet = vec![0; ip.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut packet, &checksums);
        let mut l4 = TcpPacket::new_unchecked(&mut packet[ip.header_len()..]);
        tcp.emit(&mut l4, &src.into(), &dst.into(), &checksums);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate_wire::ip::Headers;

    #[test]
    fn a_reset_is_a_whole_packet_with_right_checksums() {
        for (from, to) in [
            ("192.168.77.2:50000", "192.168.77.10:445"),
            ("[fd00::2]:50000", "[fd00::10]:445"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for ack in [None, Some(0x8000_0000)] {
                let packet = Segment::reset(from, to, u32::MAX, ack).packet().unwrap();
                let headers = Headers::parse(&packet).unwrap();
                assert_eq!((headers.src, headers.dst), (from.ip(), to.ip()));
                assert_eq!(headers.len, packet.len());
                if let Ok(ip) = smoltcp::wire::Ipv4Packet::new_checked(&packet) {
                    assert!(ip.version() != 4 || ip.verify_checksum());
                }
                let tcp = TcpPacket::new_checked(&packet[headers.l4..]).unwrap();
                assert!(tcp.verify_checksum(&from.ip().into(), &to.ip().into()));
                assert_eq!((tcp.src_port(), tcp.dst_port()), (from.port(), to.port()));
                assert_eq!((tcp.rst(), tcp.syn(), tcp.fin()), (true, false, false));
                assert_eq!(tcp.seq_number().0 as u32, u32::MAX);
                let got = tcp.ack().then(|| tcp.ack_number().0 as u32);
                assert_eq!(got, ack);
                assert!(tcp.payload().is_empty());
            }
        }
    }

    #[test]
    fn there_is_no_segment_between_two_families() {
        let (from, to) = ("192.168.77.2:1".parse(), "[fd00::10]:445".parse());
        let reset = Segment::reset(from.unwrap(), to.unwrap(), 1, None);
        assert_eq!(reset.packet(), None);
    }

    #[test]
    fn an_end_that_may_expect_two_numbers_gets_both() {
        let all = |a, b| candidates(a, b).collect::<Vec<_>>();
        assert_eq!(all(Some(7), Some(7)), [7]);
        assert_eq!(all(Some(7), Some(9)), [7, 9]);
        assert_eq!(all(None, Some(9)), [9]);
        assert_eq!(all(None, None), [0; 0]);
    }
}
