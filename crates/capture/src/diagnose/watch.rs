//! Tracks all connections to file servers, and the servers' reactions to a VcNumber 0.
//!
//! It keeps a bounded number of connections and events; the counts continue beyond that.

use super::connection::Connection;
use super::conversation::{FrameStamp, SessionSetup};
use super::findings::{Counts, Ending, Request};
use super::flow::{Ended, Ends, Flow};
use super::messages::Side;
use super::segment::{Packet, Segment};
use super::server::{Server, Zero, cause, find};
use super::timestamp::Timestamp;
use hashbrown::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vcgate_core::tcp_stream::reorder::MemoryBudget;

/// The TCP ports of file servers.
const PORTS: [u16; 2] = [445, 139];
/// Time within which a server ends other connections.
const WINDOW: Duration = Duration::from_secs(1);
/// Maximum number of tracked connections.
const MAX_CONNECTIONS: usize = 1 << 16;
/// Time for which a closed connection is kept, for late segments.
const CLOSED_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of bytes that wait for gaps to be filled, in all connections together.
const MAX_BUFFERED: usize = 32 << 20;
/// Maximum number of session setups that are kept for a server within one second. Captures whose
/// clock stands still exceed it.
const MAX_ZEROS: usize = 4096;
const MAX_REQUESTS: usize = 10_000;
const MAX_VICTIMS: usize = 10_000;
const MAX_ENDINGS: usize = 10_000;
const MAX_FLOWS: usize = 1 << 18;

/// The state of the analysis after a part of the capture.
#[derive(Debug)]
pub(super) struct Watch {
    servers: HashMap<IpAddr, Server>,
    followed: usize,
    begun: u64,
    budget: MemoryBudget,
    pub counts: Counts,
    pub requests: Vec<Request>,
    pub endings: Vec<Ending>,
    pub flows: Vec<Flow>,
    victims: usize,
    /// The last frame.
    now: FrameStamp,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            servers: HashMap::new(),
            followed: 0,
            begun: 0,
            budget: MemoryBudget::new(MAX_BUFFERED),
            counts: Counts::default(),
            requests: Vec::new(),
            endings: Vec::new(),
            flows: Vec::new(),
            victims: 0,
            now: FrameStamp {
                frame: 0,
                time: Timestamp::default(),
            },
        }
    }

    /// Processes a segment, if it is from or to a file server.
    pub(super) fn learn(&mut self, segment: &Segment<'_>, stamp: FrameStamp) {
        let (side, ends) = match (segment.src, segment.dst) {
            (client, server) if PORTS.contains(&server.port()) => {
                (Side::Client, Ends { client, server })
            }
            (server, client) if PORTS.contains(&server.port()) => {
                (Side::Server, Ends { client, server })
            }
            _ => return,
        };
        self.now = stamp;
        self.counts.segments += 1;
        self.counts.segments_to_servers += u64::from(side == Side::Client);
        self.counts.cut_segments += u64::from(segment.missing > 0);
        if side == Side::Client && is_cut_session_setup(segment) {
            self.counts.cut_session_setups += 1;
        }
        self.finalize_requests(ends.server.ip(), stamp.time);
        let mut setups = Vec::new();
        let begun = match find(&mut self.servers, ends) {
            Some(connection) => connection.successor(side, segment),
            None => Some(Connection::new(ends, side, segment, stamp.time)),
        };
        if let Some(connection) = begun {
            self.follow(connection);
        }
        let Some(connection) = find(&mut self.servers, ends) else {
            return;
        };
        let ending = connection.learn(side, segment, stamp, &mut self.budget, &mut setups);
        let is_other = ending.is_some() && !connection.may_be_smb();
        let ending = ending.filter(|_| !is_other);
        let ending = ending.map(|ending| (ending, connection.activity(), connection.opened));
        let (flow, opened) = (connection.id, connection.opened);
        for setup in setups {
            self.session_setup(ends, setup);
        }
        if is_other && opened == Timestamp::default() {
            self.discount(ends);
        }
        if let Some((ending, activity, opened)) = ending {
            let FrameStamp { frame, time } = stamp;
            let is_lost = ending.lost;
            let ending = Ending {
                frame,
                time,
                client: ends.client,
                inner: None,
                server: ends.server,
                by: if ending.reset { "RST" } else { "FIN" },
                delay_ms: None,
                doing: activity.words(time),
                busy: activity.is_busy(time),
                quiet_seconds: activity.quiet(time).map(|quiet| quiet.as_secs_f64()),
                odd_ttl: ending.odd_ttl,
                answers: ending.answers,
                flow,
            };
            let ended = match is_lost {
                true => self.lost(ending),
                false => self.ended(ending, ends, opened),
            };
            if let Some(connection) = find(&mut self.servers, ends) {
                connection.tally.ended = Some(ended);
            }
        }
        if side == Side::Server && !segment.rst {
            self.compare(ends);
        }
    }

    /// ICMP says that the server of a connection cannot be reached.
    pub(super) fn refused(&mut self, ends: Ends) {
        if let Some(connection) = find(&mut self.servers, ends) {
            connection.refuse();
        }
    }

    /// Handles a packet of the server: counts the logons that the connection has outlived.
    fn compare(&mut self, ends: Ends) {
        let Some(client) = self.servers.get_mut(&ends.server.ip()) else {
            return;
        };
        let Some(client) = client.clients.get_mut(&ends.client.ip()) else {
            return;
        };
        let ports = (ends.client.port(), ends.server.port());
        let Some(connection) = client.connections.get_mut(&ports) else {
            return;
        };
        let requests = client.requests.get(connection.compared..);
        for (zero, request) in requests.unwrap_or_default() {
            if self.now.time.since(zero.time) <= WINDOW {
                break;
            }
            connection.compared += 1;
            if zero.ends != ends
                && connection.was_alive(zero.time, WINDOW)
                && let Some(request) = self.requests.get_mut(*request)
            {
                request.seen_alive += 1;
            }
        }
    }

    /// Corrects the counts for a connection that turns out not to be SMB.
    fn discount(&mut self, ends: Ends) {
        let Some(server) = self.servers.get(&ends.server.ip()) else {
            return;
        };
        let same = server
            .zeros
            .iter()
            .filter(|zero| zero.ends.client.ip() == ends.client.ip() && zero.ends != ends);
        for at in same.filter_map(|zero| zero.request) {
            if let Some(request) = self.requests.get_mut(at) {
                request.others = request.others.saturating_sub(1);
            }
        }
    }

    /// Counts a connection that the server no longer knew.
    fn lost(&mut self, ending: Ending) -> Ended {
        if self.endings.len() < MAX_ENDINGS {
            self.endings.push(ending);
        }
        Ended::Lost
    }

    /// Finishes at the end of the capture.
    pub(super) fn finish(&mut self) {
        let servers: Vec<_> = self.servers.keys().copied().collect();
        for address in servers {
            self.finalize_requests(address, self.now.time);
        }
        for server in std::mem::take(&mut self.servers).into_values() {
            let connections = server.clients.into_values().map(|c| c.connections);
            for connection in connections.flat_map(HashMap::into_values) {
                self.close(connection);
            }
        }
        self.requests.sort_by_key(|request| request.frame);
    }

    /// Handles a session setup of a client.
    fn session_setup(&mut self, ends: Ends, setup: SessionSetup) {
        let Some(server) = self.servers.get_mut(&ends.server.ip()) else {
            return;
        };
        let (is_zero, time) = (setup.vc_number == 0, setup.stamp.time);
        let others = match is_zero && self.requests.len() < MAX_REQUESTS {
            true => server.others(ends, time),
            false => 0,
        };
        let Some(connection) = server.find(ends) else {
            return;
        };
        let request = note(&mut self.requests, connection, setup, others);
        if is_zero {
            if server.zeros.len() == MAX_ZEROS {
                server.finalize_request(&mut self.requests);
            }
            let zero = Zero {
                time,
                ends,
                request,
            };
            server.zeros.push_back(zero);
            if let (Some(at), Some(client)) = (request, server.clients.get_mut(&ends.client.ip())) {
                client.requests.push((zero, at));
            }
        }
    }

    /// Handles a connection, opened at that time, that a server has ended.
    fn ended(&mut self, mut ending: Ending, ends: Ends, opened: Timestamp) -> Ended {
        let Some(server) = self.servers.get(&ends.server.ip()) else {
            return Ended::Alone;
        };
        let before = |zero: &&Zero| zero.ends.client != ends.client && opened <= zero.time;
        let own = |zero: &&Zero| zero.ends.client.ip() == ends.client.ip();
        let cause = cause(server.zeros.iter().filter(before).filter(own));
        if let Some(zero) = cause {
            ending.delay_ms = Some(ending.time.since(zero.time).as_secs_f64() * 1000.0);
            let request = zero.request.and_then(|at| self.requests.get_mut(at));
            if let Some(request) = request
                && self.victims < MAX_VICTIMS
            {
                self.victims += 1;
                request.victims.push(ending);
            }
            return Ended::Victim;
        }
        let mut ended = Ended::Alone;
        if let Some(zero) = server.zeros.iter().rfind(before) {
            ended = Ended::OtherAddress(zero.ends);
            ending.delay_ms = Some(ending.time.since(zero.time).as_secs_f64() * 1000.0);
        }
        if self.endings.len() < MAX_ENDINGS {
            self.endings.push(ending);
        }
        ended
    }

    /// Finalizes the session setups that are more than a second old.
    fn finalize_requests(&mut self, address: IpAddr, now: Timestamp) {
        let Some(server) = self.servers.get_mut(&address) else {
            return;
        };
        let is_over = |zero: &Zero| now.since(zero.time) > WINDOW;
        while server.zeros.front().is_some_and(is_over) {
            server.finalize_request(&mut self.requests);
        }
    }

    /// Starts to track a connection.
    fn follow(&mut self, mut connection: Connection) {
        if self.followed >= MAX_CONNECTIONS {
            self.evict(self.now.time);
        }
        let ends = connection.ends;
        let server = self.servers.entry(ends.server.ip()).or_default();
        let client = server.clients.entry(ends.client.ip()).or_default();
        let ports = (ends.client.port(), ends.server.port());
        self.begun += 1;
        connection.id = self.begun;
        connection.compared = client.requests.len();
        match client.connections.insert(ports, connection) {
            Some(old) => self.close(old),
            None => self.followed += 1,
        }
    }

    /// Drops closed connections and, if that does not suffice, the less active half.
    fn evict(&mut self, now: Timestamp) {
        self.drop_where(|c| !c.is_open() && now.since(c.last) > CLOSED_TIMEOUT);
        if self.followed <= MAX_CONNECTIONS / 2 {
            return;
        }
        let connections = self.servers.values().flat_map(|s| s.clients.values());
        let mut times: Vec<_> = connections
            .flat_map(|client| client.connections.values())
            .map(|c| c.last)
            .collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2).copied().unwrap_or_default();
        let before = self.followed;
        self.drop_where(|c| c.last <= middle);
        self.counts.evicted += (before - self.followed) as u64;
    }

    fn drop_where(&mut self, is_dropped: impl Fn(&Connection) -> bool) {
        let mut dropped = Vec::new();
        for server in self.servers.values_mut() {
            for client in server.clients.values_mut() {
                let all = client.connections.extract_if(|_, c| is_dropped(c));
                dropped.extend(all.map(|(_, c)| c));
            }
            server.clients.retain(|_, c| !c.connections.is_empty());
        }
        self.followed -= dropped.len();
        for connection in dropped {
            self.close(connection);
        }
        let in_use = |server: &Server| !server.clients.is_empty() || !server.zeros.is_empty();
        self.servers.retain(|_, server| in_use(server));
    }

    /// Drops a connection; its waiting data still counts.
    fn close(&mut self, mut connection: Connection) {
        let mut setups = Vec::new();
        connection.finish(self.now, &mut self.budget, &mut setups);
        for setup in setups {
            note(&mut self.requests, &mut connection, setup, 0);
        }
        let flow = Flow {
            id: connection.id,
            ends: connection.ends,
            fingerprint: connection.fingerprint(),
            dialect: connection.dialect(),
            tally: connection.tally,
            outcome: connection.outcome(),
            inner: None,
        };
        for (count, more) in flow.adds(&mut self.counts) {
            *count += more;
        }
        if self.flows.len() < MAX_FLOWS {
            self.flows.push(flow);
        }
    }
}

/// Counts a session setup; one with VcNumber 0 is added to the report, if there is space.
fn note(
    requests: &mut Vec<Request>,
    connection: &mut Connection,
    setup: SessionSetup,
    others: u64,
) -> Option<usize> {
    let (tally, ends) = (&mut connection.tally, connection.ends);
    tally.session_setups += 1;
    if setup.vc_number != 0 {
        return None;
    }
    tally.zeros += 1;
    if requests.len() >= MAX_REQUESTS {
        return None;
    }
    requests.push(Request {
        frame: setup.stamp.frame,
        time: setup.stamp.time,
        client: ends.client,
        inner: None,
        server: ends.server,
        word_count: setup.words,
        extended_security: setup.extended_security,
        signing: setup.negotiated.map(Into::into),
        signed: setup.signed,
        native_os: setup.native.os,
        native_lan_manager: setup.native.lan_manager,
        others,
        unaffected: None,
        seen_alive: 0,
        victims: Vec::new(),
        own_victims: Vec::new(),
        flow: connection.id,
    });
    Some(requests.len() - 1)
}

/// Whether a packet is from or to a file server.
pub(super) fn is_relevant(packet: &Packet<'_>) -> bool {
    let is_server = |end: &SocketAddr| PORTS.contains(&end.port());
    match packet {
        Packet::Tcp(segment) => is_server(&segment.src) || is_server(&segment.dst),
        Packet::Unreachable(_, to) => is_server(to),
        Packet::Unread(_) | Packet::Other => false,
    }
}

/// Whether a session setup was captured, but truncated before its VcNumber.
fn is_cut_session_setup(segment: &Segment<'_>) -> bool {
    use vcgate_wire::{nbss, smb1};
    const NUMBER_END: usize = nbss::HEADER_LEN + smb1::HEADER_LEN + smb1::VC_NUMBER.end;
    let message = segment.payload.get(nbss::HEADER_LEN..).unwrap_or_default();
    let is_setup = message.starts_with(&smb1::PROTOCOL)
        && message.get(4) == Some(&smb1::command::SESSION_SETUP_ANDX);
    is_setup && segment.missing > 0 && segment.payload.len() < NUMBER_END
}
