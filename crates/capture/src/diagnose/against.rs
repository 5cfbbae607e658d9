//! Matches the connections of two captures, taken on the two sides of a NAT.
//!
//! A NAT gives a client another address and port. It leaves the server's address as it is and
//! TCP's sequence numbers too, and since those begin at random, they identify a connection.

use super::fingerprint::{Fingerprint, Span};
use super::flow::{Ends, Flow};
use super::report::{Matched, Report};
use hashbrown::HashMap;
use std::net::SocketAddr;
use vcgate_wire::tcp::SeqNumber;

/// The client's end on the other side of the NAT, by the ends of the connection on this side.
pub(super) type Names = HashMap<Ends, SocketAddr>;

/// Finds the connections of one capture in another.
pub(super) fn find_all(flows: &[Flow], other: &[Flow]) -> Names {
    let index = Index::new(other);
    let name = |flow: &Flow| {
        let same = index.find(flow)?;
        Some((flow.ends, same.inner.unwrap_or(same.ends.client)))
    };
    flows.iter().filter_map(name).collect()
}

/// Adds the real client to each connection of the report, and evaluates the report again.
pub(super) fn apply_names(report: &mut Report, names: &Names) {
    let name = |inner: &mut Option<SocketAddr>, client, server| {
        *inner = names.get(&Ends { client, server }).copied().or(*inner);
    };
    for request in &mut report.requests {
        name(&mut request.inner, request.client, request.server);
        for victim in &mut request.victims {
            name(&mut victim.inner, victim.client, victim.server);
        }
    }
    for ending in &mut report.endings {
        name(&mut ending.inner, ending.client, ending.server);
    }
    let mut matched: HashMap<_, _> = report
        .matched
        .iter()
        .map(|m| ((m.server, m.client), m.inner))
        .collect();
    matched.extend(
        names
            .iter()
            .map(|(e, inner)| ((e.server, e.client), *inner)),
    );
    report.matched = matched
        .into_iter()
        .map(|((server, client), inner)| Matched {
            client,
            inner,
            server,
        })
        .collect();
    report.matched.sort_by_key(|m| (m.server, m.client));
    separate_own(report);
    report.judge();
}

/// A client's own connections are no victims of its logon.
fn separate_own(report: &mut Report) {
    for request in &mut report.requests {
        let Some(client) = request.inner.map(|inner| inner.ip()) else {
            continue;
        };
        let victims = &mut request.victims;
        let own = victims.extract_if(.., |v| v.inner.is_some_and(|inner| inner.ip() == client));
        let before = request.own_victims.len();
        request.own_victims.extend(own);
        let more = (request.own_victims.len() - before) as u64;
        report.counts.own_victims += more;
        report.counts.victims = report.counts.victims.saturating_sub(more);
    }
}

/// Connections, indexed by the server's address and by the number of the SYN.
struct Index<'a> {
    all: HashMap<SocketAddr, Vec<&'a Flow>>,
    /// By the sequence number of the client's SYN.
    opened: HashMap<(SocketAddr, SeqNumber), Vec<&'a Flow>>,
    /// Connections whose SYN was not captured.
    old: HashMap<SocketAddr, Vec<&'a Flow>>,
}

impl<'a> Index<'a> {
    fn new(flows: &'a [Flow]) -> Self {
        let mut index = Self {
            all: HashMap::new(),
            opened: HashMap::new(),
            old: HashMap::new(),
        };
        for flow in flows {
            let server = flow.ends.server;
            index.all.entry(server).or_default().push(flow);
            match flow.fingerprint.opening {
                Some(opening) => index.opened.entry((server, opening)).or_default(),
                None => index.old.entry(server).or_default(),
            }
            .push(flow);
        }
        index
    }

    /// Returns the connection if exactly one matches.
    fn find(&self, flow: &Flow) -> Option<&'a Flow> {
        let server = flow.ends.server;
        let (some, more) = match flow.fingerprint.opening {
            Some(opening) => (self.opened.get(&(server, opening)), self.old.get(&server)),
            None => (self.all.get(&server), None),
        };
        let candidates = some.into_iter().chain(more).flatten().copied();
        let mut same = candidates.filter(|other| is_same(&flow.fingerprint, &other.fingerprint));
        let found = same.next()?;
        same.next().is_none().then_some(found)
    }
}

/// Whether both fingerprints can belong to the same connection.
pub(super) fn is_same(one: &Fingerprint, other: &Fingerprint) -> bool {
    if let (Some(one), Some(other)) = (one.opening, other.opening)
        && one != other
    {
        return false;
    }
    let client = overlap(one.client, other.client);
    let server = overlap(one.server, other.server);
    client.unwrap_or(true) && server.unwrap_or(true) && (client.is_some() || server.is_some())
}

/// Whether both captures can contain the same bytes; `None` if either contains none.
fn overlap(one: Option<Span>, other: Option<Span>) -> Option<bool> {
    Some(one?.overlaps(&other?))
}
