//! All connections to file servers, and what the servers do after a VcNumber 0.
//!
//! It holds a bounded number of connections and of what happened; the counts go on.

use super::connection::{Connection, Ended, Ends, Tally};
use super::conversation::{Dialect, Moment, SessionSetup};
use super::findings::{Counts, Ending, Request};
use super::messages::Side;
use super::segment::Segment;
use super::time::Time;
use super::traces::Traces;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vcgate_core::tcp_stream::reorder::MemoryBudget;

/// The TCP ports of file servers.
const PORTS: [u16; 2] = [445, 139];
/// A server that ends other connections does so within this time.
const WINDOW: Duration = Duration::from_secs(1);
/// How many connections are followed at a time.
const MOST_CONNECTIONS: usize = 1 << 16;
/// How long a connection that is over is kept, for segments that come late.
const LATE: Duration = Duration::from_secs(60);
/// How much that came out of order may wait in all connections together, in bytes.
const MAX_BUFFERED: usize = 32 << 20;
/// How many session setups of one second are kept for a server. A capture whose clock stands
/// still has more in it.
const MOST_ZEROS: usize = 4096;
const MOST_REQUESTS: usize = 10_000;
const MOST_VICTIMS: usize = 10_000;
const MOST_ENDINGS: usize = 100;
const MOST_FLOWS: usize = 1 << 18;

/// A connection as [`against`](super::against) and [`twins`](super::twins) compare it.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    pub ends: Ends,
    pub traces: Traces,
    pub dialect: Dialect,
    pub tally: Tally,
    /// The client's end in front of the NAT, if the capture shows that too.
    pub inner: Option<SocketAddr>,
}

impl Flow {
    /// What it adds to the counts.
    pub fn adds<'a>(&self, counts: &'a mut Counts) -> [(&'a mut u64, u64); 9] {
        let Tally {
            session_setups,
            zeros,
            ended,
        } = self.tally;
        let speaks = |dialect| u64::from(self.dialect == dialect);
        let elsewhere = matches!(ended, Some(Ended::OtherShard(_)));
        let victim = ended == Some(Ended::Victim);
        [
            (&mut counts.connections, 1),
            (&mut counts.smb1, speaks(Dialect::Smb1)),
            (&mut counts.smb2, speaks(Dialect::Smb2)),
            (&mut counts.encrypted, speaks(Dialect::Encrypted)),
            (&mut counts.session_setups, session_setups),
            (&mut counts.zeros, zeros),
            (&mut counts.victims, victim.into()),
            (&mut counts.victims_elsewhere, elsewhere.into()),
            (&mut counts.endings, (ended.is_some() && !victim).into()),
        ]
    }
}

/// What was seen so far.
#[derive(Debug)]
pub struct Watch {
    servers: HashMap<IpAddr, Server>,
    followed: usize,
    budget: MemoryBudget,
    pub counts: Counts,
    pub requests: Vec<Request>,
    pub endings: Vec<Ending>,
    pub flows: Vec<Flow>,
    victims: usize,
    /// The last frame.
    now: Moment,
}

/// A server: the connections by the client's address and the two ports.
#[derive(Debug, Default)]
struct Server {
    clients: HashMap<IpAddr, HashMap<(u16, u16), Connection>>,
    /// The session setups with VcNumber 0 of the last second, in order.
    zeros: VecDeque<Zero>,
}

#[derive(Debug, Clone, Copy)]
struct Zero {
    time: Time,
    ends: Ends,
    /// Its place in the report, if it has one.
    request: Option<usize>,
}

impl Watch {
    pub fn new() -> Self {
        Self {
            servers: HashMap::new(),
            followed: 0,
            budget: MemoryBudget::new(MAX_BUFFERED),
            counts: Counts::default(),
            requests: Vec::new(),
            endings: Vec::new(),
            flows: Vec::new(),
            victims: 0,
            now: Moment {
                frame: 0,
                time: Time::default(),
            },
        }
    }

    /// Learns from a segment, if it is one from or to a file server.
    pub fn learn(&mut self, segment: &Segment<'_>, moment: Moment) {
        let (side, ends) = match (segment.src, segment.dst) {
            (client, server) if PORTS.contains(&server.port()) => {
                (Side::Client, Ends { client, server })
            }
            (server, client) if PORTS.contains(&server.port()) => {
                (Side::Server, Ends { client, server })
            }
            _ => return,
        };
        self.now = moment;
        self.counts.segments += 1;
        if side == Side::Client && is_cut_session_setup(segment) {
            self.counts.cut_session_setups += 1;
        }
        self.settle(ends.server.ip(), moment.time);
        let mut heard = Vec::new();
        let begun = match find(&mut self.servers, ends) {
            Some(connection) => connection.successor(side, segment),
            None => Some(Connection::new(ends, side, segment, moment.time)),
        };
        if let Some(connection) = begun {
            self.follow(connection);
        }
        let Some(connection) = find(&mut self.servers, ends) else {
            return;
        };
        let ending = connection.learn(side, segment, moment, &mut self.budget, &mut heard);
        let ending = ending.map(|ending| (ending, connection.activity(), connection.opened));
        for setup in heard {
            self.session_setup(ends, setup);
        }
        if let Some((ending, activity, opened)) = ending {
            let Moment { frame, time } = moment;
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
            };
            let ended = self.ended(ending, ends, opened);
            if let Some(connection) = find(&mut self.servers, ends) {
                connection.tally.ended = Some(ended);
            }
        }
    }

    /// The capture is at its end.
    pub fn finish(&mut self) {
        let servers: Vec<_> = self.servers.keys().copied().collect();
        for address in servers {
            self.settle(address, self.now.time);
        }
        for server in std::mem::take(&mut self.servers).into_values() {
            for connection in server.clients.into_values().flat_map(HashMap::into_values) {
                self.close(connection);
            }
        }
        self.requests.sort_by_key(|request| request.frame);
    }

    /// A client has sent a session setup.
    fn session_setup(&mut self, ends: Ends, setup: SessionSetup) {
        let Some(server) = self.servers.get_mut(&ends.server.ip()) else {
            return;
        };
        let (is_zero, time) = (setup.vc_number == 0, setup.moment.time);
        let others = match is_zero && self.requests.len() < MOST_REQUESTS {
            true => server.others(ends, time),
            false => 0,
        };
        let Some(connection) = server.find(ends) else {
            return;
        };
        let request = note(&mut self.requests, connection, setup, others);
        if is_zero {
            if server.zeros.len() == MOST_ZEROS {
                server.take_stock(&mut self.requests);
            }
            server.zeros.push_back(Zero {
                time,
                ends,
                request,
            });
        }
    }

    /// A server has ended a connection that was opened at that time.
    fn ended(&mut self, mut ending: Ending, ends: Ends, opened: Time) -> Ended {
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
                && self.victims < MOST_VICTIMS
            {
                self.victims += 1;
                request.victims.push(ending);
            }
            return Ended::Victim;
        }
        let mut ended = Ended::Alone;
        if let Some(zero) = server.zeros.iter().rfind(before) {
            ended = Ended::OtherShard(zero.ends);
            ending.delay_ms = Some(ending.time.since(zero.time).as_secs_f64() * 1000.0);
        }
        if self.endings.len() < MOST_ENDINGS {
            self.endings.push(ending);
        }
        ended
    }

    /// Takes stock of the session setups whose second is over.
    fn settle(&mut self, address: IpAddr, now: Time) {
        let Some(server) = self.servers.get_mut(&address) else {
            return;
        };
        let is_over = |zero: &Zero| now.since(zero.time) > WINDOW;
        while server.zeros.front().is_some_and(is_over) {
            server.take_stock(&mut self.requests);
        }
    }

    /// Follows a connection from here on.
    fn follow(&mut self, connection: Connection) {
        if self.followed >= MOST_CONNECTIONS {
            self.make_room(self.now.time);
        }
        let ends = connection.ends;
        let server = self.servers.entry(ends.server.ip()).or_default();
        let client = server.clients.entry(ends.client.ip()).or_default();
        let ports = (ends.client.port(), ends.server.port());
        match client.insert(ports, connection) {
            Some(old) => self.close(old),
            None => self.followed += 1,
        }
    }

    /// Lets go of connections that are over, and if that is not enough of the quieter half.
    fn make_room(&mut self, now: Time) {
        self.drop_where(|c| !c.is_open() && now.since(c.last) > LATE);
        if self.followed <= MOST_CONNECTIONS / 2 {
            return;
        }
        let connections = self.servers.values().flat_map(|s| s.clients.values());
        let mut times: Vec<_> = connections
            .flat_map(HashMap::values)
            .map(|c| c.last)
            .collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2).copied().unwrap_or_default();
        let before = self.followed;
        self.drop_where(|c| c.last <= middle);
        self.counts.forgotten += (before - self.followed) as u64;
    }

    fn drop_where(&mut self, is_dropped: impl Fn(&Connection) -> bool) {
        let mut dropped = Vec::new();
        for server in self.servers.values_mut() {
            for client in server.clients.values_mut() {
                dropped.extend(client.extract_if(|_, c| is_dropped(c)).map(|(_, c)| c));
            }
            server.clients.retain(|_, client| !client.is_empty());
        }
        self.followed -= dropped.len();
        for connection in dropped {
            self.close(connection);
        }
        let in_use = |server: &Server| !server.clients.is_empty() || !server.zeros.is_empty();
        self.servers.retain(|_, server| in_use(server));
    }

    /// A connection is not followed any more: what waits in it still counts.
    fn close(&mut self, mut connection: Connection) {
        let mut heard = Vec::new();
        connection.finish(self.now, &mut self.budget, &mut heard);
        for setup in heard {
            note(&mut self.requests, &mut connection, setup, 0);
        }
        let flow = Flow {
            ends: connection.ends,
            traces: connection.traces(),
            dialect: connection.dialect(),
            tally: connection.tally,
            inner: None,
        };
        for (count, more) in flow.adds(&mut self.counts) {
            *count += more;
        }
        if self.flows.len() < MOST_FLOWS {
            self.flows.push(flow);
        }
    }
}

impl Server {
    /// How many other connections of this client's address were open at this time and are now.
    fn others(&self, ends: Ends, time: Time) -> u64 {
        let all = self.clients.get(&ends.client.ip());
        let all = all.into_iter().flat_map(HashMap::values);
        let others = all.filter(|c| c.is_open() && c.opened <= time && c.ends != ends);
        others.count() as u64
    }

    /// The oldest session setup is over: whom did the server spare?
    fn take_stock(&mut self, requests: &mut [Request]) {
        if let Some(zero) = self.zeros.pop_front()
            && let Some(request) = zero.request.and_then(|at| requests.get_mut(at))
        {
            request.spared = Some(self.others(zero.ends, zero.time));
        }
    }

    fn find(&mut self, ends: Ends) -> Option<&mut Connection> {
        let client = self.clients.get_mut(&ends.client.ip())?;
        client.get_mut(&(ends.client.port(), ends.server.port()))
    }
}

/// The session setup that an ending is put down to: of the connection that sent the last one,
/// the first one, since that is the one that servers act on.
fn cause<'a>(zeros: impl DoubleEndedIterator<Item = &'a Zero> + Clone) -> Option<Zero> {
    let last = zeros.clone().next_back()?;
    zeros.into_iter().find(|z| z.ends == last.ends).copied()
}

/// Counts a session setup; with VcNumber 0 it gets a place in the report, if there is one.
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
    if requests.len() >= MOST_REQUESTS {
        return None;
    }
    requests.push(Request {
        frame: setup.moment.frame,
        time: setup.moment.time,
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
        spared: None,
        victims: Vec::new(),
        own_victims: Vec::new(),
    });
    Some(requests.len() - 1)
}

fn find(servers: &mut HashMap<IpAddr, Server>, ends: Ends) -> Option<&mut Connection> {
    servers.get_mut(&ends.server.ip())?.find(ends)
}

/// Whether a session setup was captured, but not up to its VcNumber.
fn is_cut_session_setup(segment: &Segment<'_>) -> bool {
    use vcgate_wire::{nbss, smb1};
    const NUMBER_END: usize = nbss::HEADER + smb1::HEADER + smb1::VC_NUMBER.end;
    let message = segment.payload.get(nbss::HEADER..).unwrap_or_default();
    let is_setup = message.starts_with(&smb1::PROTOCOL)
        && message.get(4) == Some(&smb1::command::SESSION_SETUP_ANDX);
    is_setup && segment.missing > 0 && segment.payload.len() < NUMBER_END
}
