//! Finds connections of one capture again in another, taken on the other side of a NAT.
//!
//! A NAT gives a client another address and port. It leaves the server's address as it is and
//! TCP's sequence numbers too, and those begin at random: so they tell which is which.

use super::connection::{Span, Traces};
use super::report::{Matched, Report};
use super::watch::Flow;
use hashbrown::HashMap;
use std::net::SocketAddr;

/// Names the real client wherever the report has a connection.
pub fn name_clients(report: &mut Report, flows: &[Flow], other: &[Flow]) {
    let mut matched = HashMap::new();
    let mut index: HashMap<SocketAddr, Vec<&Flow>> = HashMap::new();
    for flow in other {
        index.entry(flow.ends.server).or_default().push(flow);
    }
    for flow in flows {
        let candidates = index.get(&flow.ends.server).map_or(&[][..], Vec::as_slice);
        if let Some(same) = find(flow, candidates) {
            matched.insert(flow.ends, same.ends.client);
        }
    }
    let inner = |client, server| {
        let ends = super::connection::Ends { client, server };
        matched.get(&ends).copied()
    };
    for request in &mut report.requests {
        request.inner = inner(request.client, request.server);
        for victim in &mut request.victims {
            victim.inner = inner(victim.client, victim.server);
        }
    }
    for ending in &mut report.endings {
        ending.inner = inner(ending.client, ending.server);
    }
    report.matched = matched
        .into_iter()
        .map(|(ends, inner)| Matched {
            client: ends.client,
            inner,
            server: ends.server,
        })
        .collect();
    report.matched.sort_by_key(|m| (m.server, m.client));
}

/// The only one of the candidates that can be the same connection.
fn find<'a>(flow: &Flow, candidates: &[&'a Flow]) -> Option<&'a Flow> {
    let mut same = candidates
        .iter()
        .filter(|other| is_same(&flow.traces, &other.traces));
    let found = same.next()?;
    same.next().is_none().then_some(*found)
}

fn is_same(one: &Traces, other: &Traces) -> bool {
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
