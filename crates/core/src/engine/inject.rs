//! Packets that vcgate sends by itself: those that the NAT deferred, and TCP segments for the SMB
//! hook: acknowledgements and probes to a client, resets to both ends. The segments carry no data,
//! and no number that the NAT did not see on the connection.

use super::DataPlane;
use super::output::{Context, Output};
use crate::ids::FlowId;
use crate::nat::{DeferredPacket, Sequence, TcpState};
use crate::smb::{Action, Blocks, TcpReplyTemplate};
use crate::tcp_segment::{ANY_WINDOW, Segment, candidates};
use smoltcp::wire::TcpControl;
use std::net::SocketAddr;
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;
use vcgate_wire::tcp::SeqNumber;
use vcgate_wire::virtio_net::Header;

/// A translated TCP connection, by the addresses that its two ends use.
struct Connection {
    client: SocketAddr,
    /// The client's end as the server sees it.
    lan: SocketAddr,
    server: SocketAddr,
    sequence: Sequence,
}

impl DataPlane {
    /// Sends everything that a packet or a timeout has left to send: the NAT's deferred packets,
    /// segments for the hook, and the packets that result from those to the LAN address itself.
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
