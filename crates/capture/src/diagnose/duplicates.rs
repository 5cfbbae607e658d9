//! Removes duplicates from captures of both sides of a NAT, which contain each packet twice. Only
//! the server's side is evaluated; the other side identifies the clients.
//!
//! Both copies have the same sequence numbers ([`super::against`]). The TTL, which decreases on the
//! path, shows the side of a copy; otherwise the addresses do, since a NAT has fewer of them than
//! there are clients; and finally the order of the frames, because merged captures have two clocks.

use super::against;
use super::fingerprint::Fingerprint;
use super::flow::{Ended, Ends, Flow};
use super::watch::Watch;
use hashbrown::{HashMap, HashSet};
use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use vcgate_wire::tcp::SeqNumber;

/// Keeps the server's copy of each connection that was captured twice.
pub(super) fn drop_copies(watch: &mut Watch) {
    let groups = groups(&watch.flows);
    let sides = Sides::new(&groups);
    let mut copies = HashSet::new();
    let mut inner = HashMap::new();
    for group in &groups {
        let Some((nearest, farthest)) = sides.ends_of(group) else {
            continue;
        };
        let others = || group.iter().filter(|flow| flow.id != nearest.id);
        copies.extend(others().map(|flow| flow.id));
        if nearest.ends != farthest.ends {
            inner.insert(nearest.id, farthest.ends.client);
            watch.counts.undecided_sides += u64::from(sides.order(nearest, farthest).is_none());
        }
        let sent = others().map(|flow| flow.tally.zeros).max().unwrap_or(0);
        if nearest.tally.session_setups > 0 {
            watch.counts.rewritten_zeros += sent.saturating_sub(nearest.tally.zeros);
        }
    }
    if !copies.is_empty() {
        drop(groups);
        remove(watch, &copies, &inner);
    }
}

fn remove(watch: &mut Watch, copies: &HashSet<u64>, inner: &HashMap<u64, SocketAddr>) {
    let Watch { flows, counts, .. } = watch;
    let copied_ends: HashSet<Ends> = flows
        .iter()
        .filter(|flow| copies.contains(&flow.id))
        .map(|flow| flow.ends)
        .collect();
    flows.retain(|flow| {
        let is_copy = copies.contains(&flow.id);
        if is_copy {
            for (count, less) in flow.adds(counts) {
                *count = count.saturating_sub(less);
            }
        }
        !is_copy
    });
    for flow in flows.iter_mut() {
        flow.inner = inner.get(&flow.id).copied();
        // A logon that the server never saw cannot be the reason.
        if matches!(flow.tally.ended, Some(Ended::OtherAddress(of)) if copied_ends.contains(&of)) {
            flow.tally.ended = Some(Ended::Alone);
            counts.victims_elsewhere -= 1;
        }
    }
    let alone: HashSet<_> = flows
        .iter()
        .filter(|flow| flow.tally.ended == Some(Ended::Alone))
        .map(|flow| flow.id)
        .collect();
    watch.requests.retain(|r| !copies.contains(&r.flow));
    for request in &mut watch.requests {
        request.victims.retain(|v| !copies.contains(&v.flow));
    }
    watch.endings.retain(|e| !copies.contains(&e.flow));
    for ending in &mut watch.endings {
        if alone.contains(&ending.flow) {
            ending.delay_ms = None;
        }
    }
}

/// Connections with several copies.
fn groups(flows: &[Flow]) -> Vec<Vec<&Flow>> {
    let mut by_numbers: HashMap<_, Vec<&Flow>> = HashMap::new();
    for flow in flows {
        let numbers = Numbers::of(&flow.fingerprint);
        let same = by_numbers.entry((flow.ends.server, numbers)).or_default();
        same.push(flow);
    }
    let mut groups: Vec<_> = by_numbers.into_values().map(|g| keep_same(&g)).collect();
    groups.retain(|group| group.len() > 1);
    let late = begun_late(flows, &groups);
    groups.extend(late);
    groups.sort_by_key(|group| group.first().map(|flow| flow.id));
    groups
}

/// Returns the copies of the first one.
fn keep_same<'a>(group: &[&'a Flow]) -> Vec<&'a Flow> {
    let Some(first) = group.first() else {
        return Vec::new();
    };
    let same = |flow: &&&Flow| against::is_same(&first.fingerprint, &flow.fingerprint);
    group.iter().filter(same).copied().collect()
}

/// Pairs of which one side was captured later than the other. If the addresses are known to belong
/// to the two sides of a NAT, overlapping sequence numbers suffice.
fn begun_late<'a>(flows: &'a [Flow], groups: &[Vec<&Flow>]) -> Vec<Vec<&'a Flow>> {
    let partners = partners(groups);
    let grouped: HashSet<_> = groups.iter().flatten().map(|flow| flow.id).collect();
    let mut rest: HashMap<_, Vec<&Flow>> = HashMap::new();
    for flow in flows.iter().filter(|flow| !grouped.contains(&flow.id)) {
        let address = (flow.ends.server, flow.ends.client.ip());
        rest.entry(address).or_default().push(flow);
    }
    let mut found: Vec<Vec<&Flow>> = Vec::new();
    for ((server, address), old) in &rest {
        for flow in old.iter().filter(|flow| flow.fingerprint.opening.is_none()) {
            let others: Vec<&IpAddr> = match partners.get(address) {
                Some(partners) => partners.iter().collect(),
                // It may be the only connection of the pair.
                None => partners.keys().collect(),
            };
            let others = others.into_iter();
            let others = others.filter_map(|partner| rest.get(&(*server, *partner)));
            let mut same = others
                .flatten()
                .filter(|other| against::is_same(&flow.fingerprint, &other.fingerprint));
            if let (Some(other), None) = (same.next(), same.next()) {
                let mut pair = vec![*flow, *other];
                pair.sort_by_key(|flow| flow.id);
                found.push(pair);
            }
        }
    }
    // A pair may have been found from both sides.
    found.sort_by_key(|pair| pair.iter().map(|flow| flow.id).collect::<Vec<_>>());
    found.dedup_by_key(|pair| pair.iter().map(|flow| flow.id).collect::<Vec<_>>());
    found
}

/// The addresses of each client address on the other side.
fn partners(groups: &[Vec<&Flow>]) -> HashMap<IpAddr, HashSet<IpAddr>> {
    let mut partners: HashMap<_, HashSet<_>> = HashMap::new();
    for group in groups {
        for (one, other) in pairs(group) {
            let (one, other) = (one.ends.client.ip(), other.ends.client.ip());
            if one != other {
                partners.entry(one).or_default().insert(other);
                partners.entry(other).or_default().insert(one);
            }
        }
    }
    partners
}

fn pairs<'a>(group: &[&'a Flow]) -> impl Iterator<Item = (&'a Flow, &'a Flow)> {
    let all = group.iter().enumerate();
    all.flat_map(|(n, one)| group.iter().skip(n + 1).map(|other| (*one, *other)))
}

/// The sequence numbers that identify copies.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Numbers {
    /// The client's SYN.
    Opening(SeqNumber),
    /// Without a SYN, the lowest number of each side.
    Lowest(Option<SeqNumber>, Option<SeqNumber>),
}

impl Numbers {
    fn of(fingerprint: &Fingerprint) -> Self {
        let low = |span: Option<super::fingerprint::Span>| span.map(|span| span.low);
        match fingerprint.opening {
            Some(opening) => Self::Opening(opening),
            None => Self::Lowest(low(fingerprint.client), low(fingerprint.server)),
        }
    }
}

/// Returns the client address that is nearer to the server.
struct Sides {
    /// Sums over all connections between two addresses, the lower one first; positive if the higher
    /// one is nearer to the server.
    ttls: HashMap<(IpAddr, IpAddr), i64>,
    frames: HashMap<(IpAddr, IpAddr), i64>,
    partners: HashMap<IpAddr, HashSet<IpAddr>>,
}

impl Sides {
    fn new(groups: &[Vec<&Flow>]) -> Self {
        let mut sides = Self {
            ttls: HashMap::new(),
            frames: HashMap::new(),
            partners: partners(groups),
        };
        for (one, other) in groups.iter().flat_map(|group| pairs(group)) {
            let (low, high) = match one.ends.client.ip() < other.ends.client.ip() {
                true => (one, other),
                false => (other, one),
            };
            let addresses = (low.ends.client.ip(), high.ends.client.ip());
            *sides.ttls.entry(addresses).or_default() +=
                by_ttl(&low.fingerprint, &high.fingerprint);
            *sides.frames.entry(addresses).or_default() +=
                by_frames(&low.fingerprint, &high.fingerprint);
        }
        sides
    }

    /// Returns the copies nearest to and farthest from the server, if there are several copies.
    fn ends_of<'a>(&self, group: &[&'a Flow]) -> Option<(&'a Flow, &'a Flow)> {
        let (first, rest) = group.split_first()?;
        let is_nearer = |one: &Flow, other: &Flow| {
            let order = self.order(one, other);
            order.unwrap_or_else(|| later(one, other)) == Ordering::Greater
        };
        let (mut nearest, mut farthest) = (*first, *first);
        for flow in rest {
            if is_nearer(flow, nearest) {
                nearest = flow;
            }
            if is_nearer(farthest, flow) {
                farthest = flow;
            }
        }
        (!rest.is_empty()).then_some((nearest, farthest))
    }

    /// Returns `Greater` if the first one is nearer to the server; `None` if the capture does not
    /// show it.
    fn order(&self, one: &Flow, other: &Flow) -> Option<Ordering> {
        let (a, b) = (one.ends.client.ip(), other.ends.client.ip());
        let votes = |sums: &HashMap<(IpAddr, IpAddr), i64>| match a < b {
            true => sums.get(&(a, b)).map_or(0, |sum| -sum),
            false => sums.get(&(b, a)).copied().unwrap_or(0),
        };
        let partners = |address| self.partners.get(&address).map_or(0, HashSet::len);
        let order = votes(&self.ttls)
            .cmp(&0)
            .then(partners(a).cmp(&partners(b)))
            .then(votes(&self.frames).cmp(&0));
        (order != Ordering::Equal).then_some(order)
    }
}

/// The default if nothing is known: the later copy, as for packets of a client.
fn later(one: &Flow, other: &Flow) -> Ordering {
    let first = |flow: &Flow| (flow.fingerprint.first.client, flow.id);
    first(one).cmp(&first(other))
}

/// Returns a positive number if the second copy is nearer to the server: the client's packets have
/// passed more hops there, and the server's fewer. Contradictions yield 0.
fn by_ttl(one: &Fingerprint, other: &Fingerprint) -> i64 {
    let fall = |from: Option<u8>, to: Option<u8>| match (from, to) {
        (Some(from), Some(to)) => from.cmp(&to) as i64,
        _ => 0,
    };
    let client = fall(one.ttls.client, other.ttls.client);
    let server = fall(other.ttls.server, one.ttls.server);
    agreed(client, server)
}

/// Compares by the order of the frames: near the server, a client's packet is captured later and a
/// server's earlier. Two clocks can contradict each other here.
fn by_frames(one: &Fingerprint, other: &Fingerprint) -> i64 {
    let order = |from: Option<u64>, to: Option<u64>| match (from, to) {
        (Some(from), Some(to)) => to.cmp(&from) as i64,
        _ => 0,
    };
    let client = order(one.first.client, other.first.client);
    let server = order(other.first.server, one.first.server);
    agreed(client, server)
}

fn agreed(client: i64, server: i64) -> i64 {
    match client == -server {
        true => 0,
        false => (client + server).signum(),
    }
}
