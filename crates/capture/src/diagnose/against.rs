//! Finds connections of one capture again in another, taken on the other side of a NAT.
//!
//! A NAT gives a client another address and port. It leaves the server's address as it is and
//! TCP's sequence numbers too, and those begin at random: so they tell which is which.

use super::connection::Ends;
use super::report::{Matched, Report};
use super::traces::{Span, Traces};
use super::watch::Flow;
use hashbrown::HashMap;
use std::net::SocketAddr;

/// The client's end on the other side of the NAT, by the ends of its connection on this one.
pub type Names = HashMap<Ends, SocketAddr>;

/// Finds connections of one capture again among those of another.
pub fn find_all(flows: &[Flow], other: &[Flow]) -> Names {
    let index = Index::new(other);
    let name = |flow: &Flow| {
        let same = index.find(flow)?;
        Some((flow.ends, same.inner.unwrap_or(same.ends.client)))
    };
    flows.iter().filter_map(name).collect()
}

/// Names the real client wherever the report has a connection, and judges anew.
pub fn name_all(report: &mut Report, names: &Names) {
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
    set_own_apart(report);
    report.judge();
}

/// A client's own connections are no victims of its logon.
fn set_own_apart(report: &mut Report) {
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

/// Connections by what they may be found by.
struct Index<'a> {
    all: HashMap<SocketAddr, Vec<&'a Flow>>,
    /// By the sequence number of the client's SYN.
    opened: HashMap<(SocketAddr, u32), Vec<&'a Flow>>,
    /// Those whose SYN was not seen.
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
            match flow.traces.opening {
                Some(opening) => index.opened.entry((server, opening)).or_default(),
                None => index.old.entry(server).or_default(),
            }
            .push(flow);
        }
        index
    }

    /// The only one that can be the same connection.
    fn find(&self, flow: &Flow) -> Option<&'a Flow> {
        let server = flow.ends.server;
        let (some, more) = match flow.traces.opening {
            Some(opening) => (self.opened.get(&(server, opening)), self.old.get(&server)),
            None => (self.all.get(&server), None),
        };
        let candidates = some.into_iter().chain(more).flatten().copied();
        let mut same = candidates.filter(|other| is_same(&flow.traces, &other.traces));
        let found = same.next()?;
        same.next().is_none().then_some(found)
    }
}

/// Whether both may be the same connection.
pub fn is_same(one: &Traces, other: &Traces) -> bool {
    if let (Some(one), Some(other)) = (one.opening, other.opening)
        && one != other
    {
        return false;
    }
    let client = overlap(one.client, other.client);
    let server = overlap(one.server, other.server);
    client.unwrap_or(true) && server.unwrap_or(true) && (client.is_some() || server.is_some())
}

/// Whether the same bytes may have been seen; `None` if either saw none.
fn overlap(one: Option<Span>, other: Option<Span>) -> Option<bool> {
    Some(one?.overlaps(&other?))
}
