//! Resets connections that cannot continue: those whose flow was closed while both ends still use
//! it, and those of an earlier run that this run has not restored. Without a reset, a server would
//! keep the resources of the connection, such as locks on files, until its own timeout.
//!
//! Nothing is sent before the engine is flushed: the resets are the results of commands.

use super::output::{Context, Output};
use super::{DataPlane, Engine};
use crate::nat::{SeveredFlow, TcpState};
use crate::tcp_segment::{Segment, candidates};
use serde::{Deserialize, Serialize};
use smoltcp::wire::TcpControl;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;
use vcgate_wire::tcp::SeqNumber;

/// A connection to a file server, as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServerConnection {
    /// The client's end: a port of the LAN address.
    pub lan: SocketAddr,
    /// The server's end.
    pub server: SocketAddr,
    /// The number that the server expects, by its last acknowledgement.
    pub server_expects: Option<SeqNumber>,
    /// The next number of the client.
    pub client_next: Option<SeqNumber>,
    /// The number that the client expects, by its last acknowledgement.
    pub client_expects: Option<SeqNumber>,
}

impl ServerConnection {
    /// Returns the ends, which identify the connection.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.lan, self.server)
    }
}

/// Resets and probes for hosts of the LAN that wait for the next flush.
pub(super) type Resets = VecDeque<Vec<u8>>;

impl Engine {
    /// Returns the open connections to file servers, at most `limit`.
    pub fn server_connections(&self, limit: usize, now: Instant) -> Vec<ServerConnection> {
        let DataPlane { nat, hook, .. } = &self.plane;
        let open = hook.flows().filter_map(|(id, ends)| {
            let flow = nat.flow(id, now)?;
            let sequence = nat.sequence(id)?;
            let in_use = [Some(TcpState::Opening), Some(TcpState::Established)];
            in_use.contains(&flow.state).then_some(ServerConnection {
                lan: SocketAddr::new(ends.lan, flow.port),
                server: flow.remote,
                server_expects: sequence.server_expects,
                client_next: sequence.client_next,
                client_expects: sequence.client_expects,
            })
        });
        open.take(limit).collect()
    }

    /// Returns the number of times that a connection to a file server was opened or has ended.
    pub fn server_connection_changes(&self) -> u64 {
        self.plane.hook.connection_changes()
    }

    /// Resets the servers' ends of connections of an earlier run, in the name of the clients.
    ///
    /// The numbers may be old, and a server ignores a reset with a number that it does not expect.
    /// So each one is also probed with a number that it has acknowledged already, as by a keepalive
    /// (RFC 9293 section 3.8.4): it answers with the number that it expects, and is reset at that
    /// number like any sender of a segment that belongs to no session.
    pub fn reset_server_connections(&mut self, connections: &[ServerConnection]) {
        for connection in connections {
            let ServerConnection {
                lan,
                server,
                server_expects,
                client_next,
                client_expects,
            } = *connection;
            let probe = server_expects.map(|expected| Segment {
                control: TcpControl::None,
                ..Segment::reset(lan, server, expected.previous(), client_expects)
            });
            let numbers = candidates(server_expects, client_next);
            let resets = numbers.map(|seq| Segment::reset(lan, server, seq, client_expects));
            let packets = probe.into_iter().chain(resets);
            let packets = packets.filter_map(|segment| segment.packet());
            self.plane.resets.extend(packets);
        }
    }
}

impl DataPlane {
    /// Resets both ends of the connections whose flows were closed while in use; the client's end
    /// only if its peer can be reached now.
    pub(super) fn reset_severed(&mut self, now: Instant) {
        while let Some(SeveredFlow {
            peer,
            client,
            lan,
            server,
            sequence,
        }) = self.nat.poll_severed()
        {
            for seq in candidates(sequence.server_expects, sequence.client_next) {
                let reset = Segment::reset(lan, server, seq, sequence.client_expects);
                self.resets.extend(reset.packet());
            }
            let known = self.policy.global.netmap.to_client(server.ip());
            let server = SocketAddr::new(known.unwrap_or(server.ip()), server.port());
            for seq in candidates(sequence.client_expects, sequence.server_next) {
                let reset = Segment::reset(server, client, seq, sequence.server_expects);
                if let Some(reset) = reset.packet() {
                    self.tunnel.send_if_connected(peer, &reset, now);
                }
            }
        }
    }

    /// Sends the waiting resets, and the packets that result from those to the LAN address itself.
    pub(super) fn send_resets<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        while let Some(reset) = self.resets.pop_front() {
            self.originate_to_lan(reset, cx);
        }
        self.drain_events(cx);
    }
}
