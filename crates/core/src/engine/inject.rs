//! Packets that vcgate sends by itself: those that the NAT deferred, and TCP segments for the SMB
//! hook: acknowledgements and probes to a client, resets to both ends. The segments carry no data,
//! and no number that the NAT did not see on the connection.

use super::DataPlane;
use super::output::{Context, Output};
use crate::ids::FlowId;
use crate::nat::{DeferredPacket, Sequence, TcpState};
use crate::smb::{Action, Blocks, TcpReplyTemplate, TcpTimestamps};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpTimestampRepr};
use std::net::SocketAddr;
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;
use vcgate_wire::tcp::SeqNumber;
use vcgate_wire::virtio_net::Header;

/// The usual default of hosts.
const HOP_LIMIT: u8 = 64;
/// A window for segments whose window is ignored: resets, and probes below the receive window.
const ANY_WINDOW: u16 = u16::MAX;

/// A translated TCP connection, by the addresses that its two ends use.
struct Connection {
    client: SocketAddr,
    /// The client's end as the server sees it.
    lan: SocketAddr,
    server: SocketAddr,
    sequence: Sequence,
}

impl DataPlane {
    /// Sends all that a packet or a time-out has left to send: the NAT's deferred packets, segments
    /// for the hook, and in turn what packets to the LAN address itself cause.
    pub(super) fn drain_events<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        loop {
            while let Some(deferred) = self.nat.poll_deferred() {
                match deferred {
                    DeferredPacket::ToClient(packet) => self.originate_to_client(packet, cx),
                    DeferredPacket::ToLan(packet) => self.originate_to_lan(packet, cx),
                }
            }
            while let Some(flow) = self.nat.poll_ended() {
                self.hook.connection_over(flow);
            }
            while let Some(flow) = self.nat.poll_closed() {
                self.hook.close(flow);
            }
            self.run_actions(cx);
            let Some(mut packet) = self.looped_back.pop_front() else {
                return;
            };
            if let Ok(packet) = Packet::parse(&mut packet, Checksum::Complete) {
                self.lan_to_client(&Header::default(), packet, cx);
            }
        }
    }

    /// Runs the hook's actions on flows of clients that reconnected.
    fn run_actions<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        while let Some(action) = self.next_action(cx.now) {
            match action {
                Action::Acknowledge(flow, blocks) => self.acknowledge(flow, blocks, cx),
                Action::Probe(flow) => self.probe(flow, cx),
                Action::Reset(flow) => self.reset(flow, cx),
                Action::ResetServer(flow, seq) => self.reset_server(flow, seq, cx),
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

    /// Repeats the server's last acknowledgement to the client, with SACK blocks and otherwise
    /// unchanged, so that the client counts a duplicate (RFC 5681 section 2).
    fn acknowledge<O: Output>(&mut self, flow: FlowId, blocks: Blocks, cx: &mut Context<'_, O>) {
        let TcpReplyTemplate {
            window: Some(window),
            timestamps,
        } = self.hook.reply_template(flow)
        else {
            return;
        };
        let Some(Connection {
            client,
            server,
            sequence,
            ..
        }) = self.connection(flow, cx.now)
        else {
            return;
        };
        let Some(next) = sequence.server_next else {
            return;
        };
        let acknowledgement = Segment {
            from: server,
            to: client,
            control: TcpControl::None,
            seq: next,
            ack: sequence.server_expects,
            window,
            timestamps,
            blocks,
        };
        if let Some(acknowledgement) = acknowledgement.packet() {
            self.originate_to_client(acknowledgement, cx);
        }
    }

    /// Probes the client with an old sequence number, as a keepalive does: a connection answers with
    /// an acknowledgement, a stack without the connection with a reset.
    fn probe<O: Output>(&mut self, flow: FlowId, cx: &mut Context<'_, O>) {
        let Some(Connection {
            client,
            server,
            sequence,
            ..
        }) = self.connection(flow, cx.now)
        else {
            return;
        };
        let Some(expected) = sequence.client_expects else {
            return;
        };
        let probe = Segment {
            from: server,
            to: client,
            control: TcpControl::None,
            seq: expected.previous(),
            ack: sequence.server_expects,
            window: ANY_WINDOW,
            timestamps: self.hook.reply_template(flow).timestamps,
            blocks: Blocks::default(),
        };
        if let Some(probe) = probe.packet() {
            self.originate_to_client(probe, cx);
        }
    }

    /// Resets both ends. An end accepts only the number that it expects next (RFC 5961 section 3.2),
    /// which may follow all that was sent to it, acknowledged or not: both numbers are tried.
    fn reset<O: Output>(&mut self, flow: FlowId, cx: &mut Context<'_, O>) {
        let Some(Connection {
            client,
            lan,
            server,
            sequence,
        }) = self.connection(flow, cx.now)
        else {
            return;
        };
        for seq in candidates(sequence.server_expects, sequence.client_next) {
            let reset = Segment::reset(lan, server, seq, sequence.client_expects);
            if let Some(reset) = reset.packet() {
                self.originate_to_lan(reset, cx);
            }
        }
        for seq in candidates(sequence.client_expects, sequence.server_next) {
            let reset = Segment::reset(server, client, seq, sequence.server_expects);
            if let Some(reset) = reset.packet() {
                self.originate_to_client(reset, cx);
            }
        }
        self.nat.mark_reset(flow, cx.now);
    }

    /// Resets the server at a sequence number that it may expect.
    fn reset_server<O: Output>(&mut self, flow: FlowId, seq: SeqNumber, cx: &mut Context<'_, O>) {
        if let Some(Connection { lan, server, .. }) = self.connection(flow, cx.now)
            && let Some(reset) = Segment::reset(lan, server, seq, None).packet()
        {
            self.originate_to_lan(reset, cx);
        }
    }

    fn connection(&mut self, id: FlowId, now: Instant) -> Option<Connection> {
        let flow = self.nat.flow(id, now)?;
        let connection = Connection {
            client: flow.inside,
            lan: SocketAddr::new(self.hook.flow(id)?.ends.lan, flow.port),
            server: flow.remote,
            sequence: self.nat.sequence(id)?,
        };
        self.tap_about(connection.client, connection.lan, connection.server);
        Some(connection)
    }
}

/// Returns the sequence numbers that an end may expect next: the one after all that it has
/// acknowledged, and the one after all that was sent to it.
fn candidates(
    expected: Option<SeqNumber>,
    next: Option<SeqNumber>,
) -> impl Iterator<Item = SeqNumber> {
    let other = next.filter(|next| Some(*next) != expected);
    expected.into_iter().chain(other)
}

/// A TCP segment without data.
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    control: TcpControl,
    seq: SeqNumber,
    ack: Option<SeqNumber>,
    window: u16,
    /// `None` for resets, which need none (RFC 7323 section 3.2).
    timestamps: Option<TcpTimestamps>,
    blocks: Blocks,
}

impl Segment {
    fn reset(from: SocketAddr, to: SocketAddr, seq: SeqNumber, ack: Option<SeqNumber>) -> Self {
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

    /// Builds the IP packet; `None` if the addresses are of two families.
    fn packet(&self) -> Option<Vec<u8>> {
        let (src, dst) = (self.from.ip(), self.to.ip());
        if src.is_ipv4() != dst.is_ipv4() {
            return None;
        }
        let tcp = TcpRepr {
            src_port: self.from.port(),
            dst_port: self.to.port(),
            control: self.control,
            seq_number: self.seq.into(),
            ack_number: self.ack.map(Into::into),
            window_len: self.window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: self
                .blocks
                .map(|block| block.map(|(start, end)| (start.0, end.0))),
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
    fn a_reset_is_a_complete_packet_with_valid_checksums() {
        for (from, to) in [
            ("192.168.77.2:50000", "192.168.77.10:445"),
            ("[fd00::2]:50000", "[fd00::10]:445"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for ack in [None, Some(SeqNumber(0x8000_0000))] {
                let packet = Segment::reset(from, to, SeqNumber(u32::MAX), ack)
                    .packet()
                    .unwrap();
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
                assert_eq!(SeqNumber::from(tcp.seq_number()), SeqNumber(u32::MAX));
                let got = tcp.ack().then(|| tcp.ack_number().into());
                assert_eq!(got, ack);
                assert!(tcp.payload().is_empty());
            }
        }
    }

    #[test]
    fn there_is_no_segment_between_address_families() {
        let (from, to) = ("192.168.77.2:1".parse(), "[fd00::10]:445".parse());
        let reset = Segment::reset(from.unwrap(), to.unwrap(), SeqNumber(1), None);
        assert_eq!(reset.packet(), None);
    }

    #[test]
    fn an_end_that_may_expect_two_numbers_is_reset_at_both() {
        let all = |a: Option<u32>, b: Option<u32>| -> Vec<u32> {
            let numbers = candidates(a.map(SeqNumber), b.map(SeqNumber));
            numbers.map(|number| number.0).collect()
        };
        assert_eq!(all(Some(7), Some(7)), [7]);
        assert_eq!(all(Some(7), Some(9)), [7, 9]);
        assert_eq!(all(None, Some(9)), [9]);
        assert_eq!(all(None, None), [0; 0]);
    }
}
