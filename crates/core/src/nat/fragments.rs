//! Fragmented datagrams (RFC 4787 REQ-14): which fragment belongs to which flow.
//!
//! Only the first fragment has ports, so the others wait until it is accepted and then get the same
//! rewrite. Datagrams are reassembled only where a caller must inspect the whole
//! ([`Nat::reassemble`]). Everything is bounded, and so is the share of each sender: a flood of
//! fragments harms only the flooder. Each side has a separate table, and datagrams whose first
//! fragment was accepted are evicted last.

use super::endpoint::Side;
use super::icmp_error::Refusal;
use super::outcome::{Outcome, Reason, Stop};
use super::rewrite::{self, End};
use super::{Context, Nat, Peers};
use crate::ids::{PeerId, ShardId};
use smoltcp::wire::IpProtocol;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};
use vcgate_wire::fragment;
use vcgate_wire::ip::{Fragment, Headers};
use vcgate_wire::packet::Packet;

/// The time within which all fragments of a datagram must arrive.
pub(super) const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of incomplete datagrams per side; a further one evicts the oldest.
const MAX_DATAGRAMS: usize = 1024;
/// The share of a host on the LAN, as a multiple of that of a peer: a server sends to many peers.
const HOST_SHARE: usize = 8;
/// Maximum number of fragments of one datagram. The longest datagram has 119 at an MTU of 576, and
/// the kernel splits each once more for the tunnel. Their bytes are bounded by the length of a
/// datagram.
const MAX_FRAGMENTS: usize = 256;

/// The role of a packet in its datagram.
pub(super) enum FragmentKind {
    /// The packet is the whole datagram.
    Whole,
    /// The first fragment, to be translated like a whole packet; see [`Fragments::resolve`].
    First(Key),
    /// Another fragment, which was rewritten like the first.
    Later,
}

/// The result of [`Nat::reassemble`].
#[derive(Debug, PartialEq, Eq)]
pub enum Reassembly {
    /// The packet is not to be reassembled.
    Separate,
    /// The packet was the last fragment: contains the datagram, which may be fragmented again.
    Whole(Vec<u8>),
    /// The packet waits for the other fragments, or was dropped.
    Stopped(Outcome),
}

/// The rewrite of the fragments after the first.
#[derive(Debug, Clone, Copy)]
pub(super) struct FragmentRewrite {
    pub end: End,
    pub ip: IpAddr,
    pub id: Option<u32>,
}

impl FragmentRewrite {
    pub(super) fn apply(&self, packet: &mut Packet<'_>) {
        rewrite::replace_address(packet, self.end, self.ip);
        if let Some(id) = self.id {
            rewrite::set_identification(packet, id);
        }
    }
}

impl Nat {
    /// Reassembles a client's datagram if its first fragment is `watched`: the caller must inspect
    /// the whole datagram, so the later fragments are not translated one by one either.
    pub fn reassemble(
        &mut self,
        packet: &Packet<'_>,
        watched: bool,
        sender: PeerId,
        peers: &dyn Peers,
        now: Instant,
    ) -> Reassembly {
        let Some(fragment) = packet.headers.fragment.filter(Fragment::has_others) else {
            return Reassembly::Separate;
        };
        let cx = Context::of_client(sender, peers, now);
        let key = Key::new(&packet.headers, fragment, Side::Inside);
        let starts_reassembly = watched && packet.headers.has_l4();
        if !starts_reassembly && !self.fragments.is_reassembling(key) {
            return Reassembly::Separate;
        }
        let stop = match self.track_fragment(packet, fragment, key, &cx) {
            Ok(_) => match self.fragments.collect(key, packet.to_vec()) {
                None => Stop::Held,
                Some(fragments) => match fragment::reassemble(&fragments) {
                    Some(datagram) => return Reassembly::Whole(datagram),
                    None => Reason::BadFragment.into(),
                },
            },
            Err(stop) => stop,
        };
        Reassembly::Stopped(self.conclude(Err(stop), Side::Inside, packet, &cx))
    }

    /// Rewrites a later fragment like the first one, or holds it until the first is accepted.
    pub(super) fn handle_fragment(
        &mut self,
        packet: &mut Packet<'_>,
        from: Side,
        cx: &Context<'_>,
    ) -> Result<FragmentKind, Stop> {
        // The only fragment of an IPv6 datagram is independent of all others (RFC 6946).
        let Some(fragment) = packet.headers.fragment.filter(Fragment::has_others) else {
            return Ok(FragmentKind::Whole);
        };
        let key = Key::new(&packet.headers, fragment, from);
        let rewrite = self.track_fragment(packet, fragment, key, cx)?;
        if packet.headers.has_l4() {
            return Ok(FragmentKind::First(key));
        }
        match rewrite {
            Some(rewrite) => {
                rewrite.apply(packet);
                Ok(FragmentKind::Later)
            }
            None => {
                self.fragments.hold(key, packet.to_vec());
                Err(Stop::Held)
            }
        }
    }

    fn track_fragment(
        &mut self,
        packet: &Packet<'_>,
        fragment: Fragment,
        key: Key,
        cx: &Context<'_>,
    ) -> Result<Option<FragmentRewrite>, Stop> {
        let src = packet.headers.src;
        let sender = match (key.from, cx.sender) {
            (Side::Inside, Some(peer)) => Sender::Peer(peer),
            (Side::Inside, None) | (Side::Lan, _) => Sender::Host(src),
        };
        // A hairpinned fragment has already been counted for its client.
        let of_peer = usize::from(self.settings.limits.fragments);
        let share = match sender {
            Sender::Peer(_) => of_peer,
            Sender::Host(_) if self.lan.contains(src) => usize::MAX,
            Sender::Host(_) => of_peer * HOST_SHARE,
        };
        let range =
            fragment::payload_range(&packet.headers, fragment).ok_or(Reason::BadFragment)?;
        let tracked = self
            .fragments
            .track(key, range, !fragment.more, sender, share, cx.now);
        tracked.map_err(|reason| match reason {
            // Only a first fragment is answered with an error.
            Reason::FragmentFlood => Stop::Refuse(reason, Refusal::Prohibited),
            _ => Stop::Drop(reason),
        })
    }

    /// Returns a new identification for a client's packet that is or may be fragmented: all clients
    /// share one address (RFC 6864 section 4.3, RFC 8200 section 4.5).
    pub(super) fn identification(&mut self, packet: &Packet<'_>) -> Option<u32> {
        let headers = &packet.headers;
        if headers.dont_fragment && headers.fragment.is_none() {
            return None;
        }
        // The segments of a super-packet get consecutive identifications.
        let segment = packet.segment.unwrap_or(u16::MAX).max(1);
        let count = headers.l4_len().div_ceil(segment.into()).max(1);
        Some(self.identifications.take(count as u32))
    }
}

/// The fields that the fragments of a datagram have in common (RFC 791 section 3.2, RFC 8200 section
/// 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    from: Side,
    src: IpAddr,
    dst: IpAddr,
    /// For IPv4 only; later fragments of an IPv6 packet may not contain it.
    protocol: Option<IpProtocol>,
    id: u32,
}

impl Key {
    pub(super) fn new(headers: &Headers, fragment: Fragment, from: Side) -> Self {
        Self {
            from,
            src: headers.src,
            dst: headers.dst,
            protocol: headers.src.is_ipv4().then_some(headers.protocol),
            id: fragment.id,
        }
    }
}

/// The sender to whose share a datagram counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Peer(PeerId),
    Host(IpAddr),
}

#[derive(Debug)]
struct Datagram {
    key: Key,
    sender: Sender,
    deadline: Instant,
    /// Known once the first fragment was accepted.
    rewrite: Option<FragmentRewrite>,
    received: Coverage,
    fragment_count: usize,
    /// The length of the payload, known from the last fragment.
    len: Option<usize>,
    held: Vec<Vec<u8>>,
    /// Whether the datagram is reassembled instead of rewritten fragment by fragment.
    reassembling: bool,
}

impl Datagram {
    fn add(&mut self, range: Range<usize>, is_last: bool) -> Result<(), Reason> {
        let after_end = self.len.is_some_and(|len| range.end > len || is_last);
        let before_others = is_last && self.received.end() > range.end;
        if self.received.overlaps(&range) || after_end || before_others {
            return Err(Reason::OverlappingFragment);
        }
        if self.fragment_count == MAX_FRAGMENTS {
            return Err(Reason::FragmentFlood);
        }
        if is_last {
            self.len = Some(range.end);
        }
        self.fragment_count += 1;
        self.received.add(range);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        let Some(len) = self.len else { return false };
        matches!(&self.received.0[..], [only] if *only == (0..len))
    }
}

/// The received bytes of a datagram: ordered ranges with gaps between them. Fragments that arrive in
/// order make a single range.
#[derive(Debug, Default)]
struct Coverage(Vec<Range<usize>>);

impl Coverage {
    /// Returns the end of the last range.
    fn end(&self) -> usize {
        self.0.last().map_or(0, |range| range.end)
    }

    fn overlaps(&self, range: &Range<usize>) -> bool {
        let next = self.0.get(self.successor(range));
        next.is_some_and(|next| next.start < range.end)
    }

    /// Adds a range that overlaps no other.
    fn add(&mut self, range: Range<usize>) {
        let at = self.successor(&range);
        let follows = at > 0 && self.0[at - 1].end == range.start;
        let precedes = self.0.get(at).is_some_and(|next| next.start == range.end);
        match (follows, precedes) {
            (true, true) => self.0[at - 1].end = self.0.remove(at).end,
            (true, false) => self.0[at - 1].end = range.end,
            (false, true) => self.0[at].start = range.start,
            (false, false) => self.0.insert(at, range),
        }
    }

    /// Returns the index of the first range that ends after the start of this one.
    fn successor(&self, range: &Range<usize>) -> usize {
        self.0.partition_point(|other| other.end <= range.start)
    }
}

/// The incomplete datagrams by the side that they come from, oldest first.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    from: [VecDeque<Datagram>; 2],
}

impl Fragments {
    /// Records the range of a fragment; returns the rewrite of its datagram if that is known.
    fn track(
        &mut self,
        key: Key,
        range: Range<usize>,
        is_last: bool,
        sender: Sender,
        share: usize,
        now: Instant,
    ) -> Result<Option<FragmentRewrite>, Reason> {
        let index = match self.find(key) {
            Some(index) => index,
            None => self.insert(key, sender, share, now)?,
        };
        let datagram = &mut self.side(key)[index];
        datagram.add(range, is_last)?;
        let rewrite = datagram.rewrite;
        if rewrite.is_some() && datagram.is_complete() {
            self.side(key).remove(index);
        }
        Ok(rewrite)
    }

    /// Holds a tracked fragment until the first one is accepted.
    fn hold(&mut self, key: Key, fragment: Vec<u8>) {
        if let Some(index) = self.find(key) {
            self.side(key)[index].held.push(fragment);
        }
    }

    fn is_reassembling(&self, key: Key) -> bool {
        let datagrams = &self.from[key.from as usize];
        self.find(key)
            .is_some_and(|index| datagrams[index].reassembling)
    }

    /// Holds a tracked fragment for reassembly; returns all fragments once the datagram is complete.
    fn collect(&mut self, key: Key, fragment: Vec<u8>) -> Option<Vec<Vec<u8>>> {
        let index = self.find(key)?;
        let datagram = &mut self.side(key)[index];
        datagram.reassembling = true;
        datagram.held.push(fragment);
        if !datagram.is_complete() {
            return None;
        }
        self.side(key).remove(index).map(|d| d.held)
    }

    /// Sets the rewrite of a datagram whose first fragment was accepted; returns the fragments that
    /// waited for it.
    pub(super) fn resolve(&mut self, key: Key, rewrite: FragmentRewrite) -> Vec<Vec<u8>> {
        let Some(index) = self.find(key) else {
            return Vec::new();
        };
        let datagram = &mut self.side(key)[index];
        datagram.rewrite = Some(rewrite);
        let held = std::mem::take(&mut datagram.held);
        if datagram.is_complete() {
            self.side(key).remove(index);
        }
        held
    }

    /// Drops the datagrams that exceeded [`REASSEMBLY_TIMEOUT`].
    pub(super) fn expire(&mut self, now: Instant) {
        for datagrams in &mut self.from {
            while datagrams.front().is_some_and(|d| d.deadline <= now) {
                datagrams.pop_front();
            }
        }
    }

    /// Returns when the next datagram expires.
    pub(super) fn next(&self) -> Option<Instant> {
        let fronts = self.from.iter().filter_map(VecDeque::front);
        fronts.map(|d| d.deadline).min()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.from.iter().map(VecDeque::len).sum()
    }

    /// Drops the datagrams of clients whose addresses do not belong to the same peer any more.
    pub(super) fn drop_reassigned(&mut self, peers: &dyn Peers) {
        self.from[Side::Inside as usize].retain(|datagram| match datagram.sender {
            Sender::Peer(peer) => peers.of(datagram.key.src) == Some(peer),
            Sender::Host(_) => true,
        });
    }

    /// Adds a datagram of a sender that has fewer than `share`; returns its index.
    fn insert(
        &mut self,
        key: Key,
        sender: Sender,
        share: usize,
        now: Instant,
    ) -> Result<usize, Reason> {
        let datagrams = self.side(key);
        let same_sender = |d: &&Datagram| d.sender == sender;
        if datagrams.iter().filter(same_sender).count() >= share {
            return Err(Reason::FragmentFlood);
        }
        if datagrams.len() == MAX_DATAGRAMS {
            let unaccepted = datagrams.iter().position(|d| d.rewrite.is_none());
            datagrams.remove(unaccepted.unwrap_or(0));
        }
        datagrams.push_back(Datagram {
            key,
            sender,
            deadline: now + REASSEMBLY_TIMEOUT,
            rewrite: None,
            received: Coverage::default(),
            fragment_count: 0,
            len: None,
            held: Vec::new(),
            reassembling: false,
        });
        Ok(datagrams.len() - 1)
    }

    /// Searches from the newest: the fragments of a datagram mostly arrive one after the other.
    fn find(&self, key: Key) -> Option<usize> {
        let datagrams = &self.from[key.from as usize];
        datagrams.iter().rposition(|d| d.key == key)
    }

    fn side(&mut self, key: Key) -> &mut VecDeque<Datagram> {
        &mut self.from[key.from as usize]
    }
}

/// A generator of identifications (RFC 6864). Each shard uses a separate part of IPv4's 16 bits.
#[derive(Debug)]
pub(super) struct Identifications {
    next: u32,
    shard: ShardId,
}

impl Identifications {
    pub(super) fn new(shard: ShardId, next: u32) -> Self {
        Self { next, shard }
    }

    /// Takes consecutive identifications; returns the first.
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let bits = 16 - self.shard.bits();
        let part = 1 << bits;
        if self.next % part + count > part {
            self.next = (self.next | (part - 1)).wrapping_add(1);
        }
        let next = self.next;
        self.next = next.wrapping_add(count);
        (next >> bits << 16) | (u32::from(self.shard.number()) << bits) | (next % part)
    }
}
