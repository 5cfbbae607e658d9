//! A capture on all interfaces of a gateway has each packet twice: in front of the NAT and behind
//! it. The server sees only what is behind it, so nothing else is judged; what is in front of it
//! says who the clients are.
//!
//! Both have the same sequence numbers, as [`against`](super::against) says.

use super::against;
use super::connection::{Ended, Ends};
use super::watch::{Flow, Watch};
use hashbrown::{HashMap, HashSet};
use std::cmp::Reverse;
use std::net::SocketAddr;

/// Keeps of each connection that was captured twice the one that the server sees.
pub fn drop_copies(watch: &mut Watch) {
    let mut copies = HashSet::new();
    let mut inner = HashMap::new();
    for mut same in by_numbers(&watch.flows).into_values() {
        same.sort_by_key(|flow| order(flow));
        let (Some(first), Some(last)) = (same.first(), same.last()) else {
            continue;
        };
        let is_copy = |flow: &Flow| {
            flow.ends.client != last.ends.client && against::is_same(&flow.traces, &last.traces)
        };
        if is_copy(first) {
            let others = same.iter().filter(|flow| is_copy(flow));
            copies.extend(others.map(|flow| flow.ends));
            inner.insert(last.ends, first.ends.client);
        }
    }
    if copies.is_empty() {
        return;
    }
    let Watch { flows, counts, .. } = watch;
    flows.retain(|flow| {
        let is_copy = copies.contains(&flow.ends);
        if is_copy {
            let less = flow.adds(counts).into_iter();
            less.for_each(|(count, less)| *count = count.saturating_sub(less));
        }
        !is_copy
    });
    for flow in flows.iter_mut() {
        flow.inner = inner.get(&flow.ends).copied();
        // What only the NAT was told cannot be why the server ended it.
        if matches!(flow.tally.ended, Some(Ended::OtherShard(of)) if copies.contains(&of)) {
            flow.tally.ended = Some(Ended::Alone);
            counts.victims_elsewhere -= 1;
        }
    }
    let alone: HashSet<_> = flows
        .iter()
        .filter(|flow| flow.tally.ended == Some(Ended::Alone))
        .map(|flow| flow.ends)
        .collect();
    let is_seen = |client, server| !copies.contains(&Ends { client, server });
    watch.requests.retain(|r| is_seen(r.client, r.server));
    watch.endings.retain(|e| is_seen(e.client, e.server));
    for ending in &mut watch.endings {
        let (client, server) = (ending.client, ending.server);
        if alone.contains(&Ends { client, server }) {
            ending.delay_ms = None;
        }
    }
}

/// The connections that may be the same: those with the same first sequence numbers.
fn by_numbers(flows: &[Flow]) -> HashMap<(SocketAddr, Numbers), Vec<&Flow>> {
    let mut same: HashMap<_, Vec<_>> = HashMap::new();
    for flow in flows {
        let traces = &flow.traces;
        let numbers = match traces.opening {
            Some(opening) => Numbers::Opening(opening),
            None => Numbers::Lowest(traces.client.map(|s| s.low), traces.server.map(|s| s.low)),
        };
        same.entry((flow.ends.server, numbers))
            .or_default()
            .push(flow);
    }
    same
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Numbers {
    /// The client's SYN.
    Opening(u32),
    /// Without it, the lowest of both sides.
    Lowest(Option<u32>, Option<u32>),
}

/// The nearer to the server, the later a client's packet is captured, and the earlier a server's.
fn order(flow: &Flow) -> (Option<u64>, Reverse<Option<u64>>) {
    let first = flow.traces.first;
    (first.client, Reverse(first.server))
}
