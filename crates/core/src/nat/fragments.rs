//! Datagrams in pieces (RFC 4787 REQ-14): which piece belongs to what.
//!
//! Only the first piece has ports, so the others wait until it was accepted, and then go its way.
//! Nothing is put together here but what another room must see whole ([`Nat::reassemble`]). All is
//! bounded, and a sender's share too, so a flood of pieces harms the flooder alone: each side has
//! its own table, and what is on its way already goes last.

use super::counters::Reason;
use super::cut;
use super::endpoint::Side;
use super::icmp::Refusal;
use super::rewrite::{self, End};
use super::verdict::{Stop, To};
use super::{DeferredPacket, Nat, Outcome, Peers};
use crate::ids::PeerId;
use smoltcp::wire::{IpProtocol, TCP_HEADER_LEN};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};
use vcgate_wire::checksum::Checksum;
use vcgate_wire::ip::{Fragment, Headers, IPV6_HEADER};
use vcgate_wire::packet::Packet;

/// How long a datagram's pieces may be under way.
pub(super) const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Datagrams in pieces at a time, from each side; the oldest makes room.
const MAX_DATAGRAMS: usize = 256;
/// Maximum number of fragments of one datagram. The longest one has 119 at an MTU of 576, and the
/// kernel cuts each once more for the tunnel. Their bytes are bounded by the datagram's length.
const MAX_FRAGMENTS: usize = 256;

/// The length of IPv6's Fragment header.
const FRAGMENT_HEADER: usize = 8;

/// What a packet is of its datagram.
pub(super) enum FragmentKind {
    /// All of it.
    Whole,
    /// The first piece, which goes the way of a whole packet; then see [`Fragments::resolve`].
    First(Key),
    /// Another piece, which went the way of the first one.
    Later,
}

/// What becomes of a piece that may have to be seen with the others.
#[derive(Debug, PartialEq, Eq)]
pub enum Reassembly {
    /// It goes its own way.
    Separate,
    /// It was the last one: the datagram, which may be cut again.
    Whole(Vec<u8>),
    /// It waits for the others, or goes no further.
    Stopped(Outcome),
}

/// What is written into the pieces behind the first, once that was accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct FragmentRewrite {
    pub end: End,
    pub ip: IpAddr,
    pub id: Option<u32>,
}

impl FragmentRewrite {
    fn apply(&self, packet: &mut Packet<'_>) {
        rewrite::replace_address(packet, self.end, self.ip);
        if let Some(id) = self.id {
            rewrite::identify(packet, id);
        }
    }
}

impl Nat {
    /// Puts a client's datagram together if its first piece is `watched`: somebody must see all of
    /// it, and the pieces behind the first do not go their own way either.
    pub fn reassemble(
        &mut self,
        packet: &Packet<'_>,
        watched: bool,
        peers: &dyn Peers,
        now: Instant,
    ) -> Reassembly {
        let Some(fragment) = packet.headers.fragment.filter(Fragment::has_others) else {
            return Reassembly::Separate;
        };
        let key = Key::new(&packet.headers, fragment, Side::Inside);
        let begins = watched && packet.headers.has_l4();
        if !begins && !self.fragments.joins(key) {
            return Reassembly::Separate;
        }
        let stop = match self.note_piece(packet, fragment, key, peers, now) {
            Ok(_) => match self.fragments.join(key, packet.to_vec()) {
                None => Stop::Held,
                Some(pieces) => match cut::join(pieces) {
                    Some(whole) => return Reassembly::Whole(whole),
                    None => Reason::BadFragment.into(),
                },
            },
            Err(stop) => stop,
        };
        Reassembly::Stopped(self.conclude(Err(stop), Side::Inside, packet, peers, now))
    }

    /// Sends a piece behind the first on its way, or keeps it until that way is known.
    pub(super) fn piece(
        &mut self,
        packet: &mut Packet<'_>,
        from: Side,
        peers: &dyn Peers,
        now: Instant,
    ) -> Result<FragmentKind, Stop> {
        // An IPv6 packet may be its datagram's only piece; it has to do with no others (RFC 6946).
        let Some(fragment) = packet.headers.fragment.filter(Fragment::has_others) else {
            return Ok(FragmentKind::Whole);
        };
        let key = Key::new(&packet.headers, fragment, from);
        let way = self.note_piece(packet, fragment, key, peers, now)?;
        if packet.headers.has_l4() {
            return Ok(FragmentKind::First(key));
        }
        match way {
            Some(way) => {
                way.apply(packet);
                Ok(FragmentKind::Later)
            }
            None => {
                self.fragments.hold(key, packet.to_vec());
                Err(Stop::Held)
            }
        }
    }

    fn note_piece(
        &mut self,
        packet: &Packet<'_>,
        fragment: Fragment,
        key: Key,
        peers: &dyn Peers,
        now: Instant,
    ) -> Result<Option<FragmentRewrite>, Stop> {
        let src = packet.headers.src;
        let sender = match key.from {
            Side::Inside => peers.of(src).map_or(Sender::Host(src), Sender::Peer),
            Side::Lan => Sender::Host(src),
        };
        // What turned (hairpin) counted as its client's already.
        let share = match self.settings.is_lan(src) {
            true => usize::MAX,
            false => self.settings.limits.fragments.into(),
        };
        self.fragments
            .note(key, &packet.headers, fragment, sender, share, now)
            .map_err(|reason| match reason {
                // Who reaches a limit is told, where a first piece tells whom.
                Reason::FragmentFlood => Stop::Refuse(reason, Refusal::Prohibited),
                _ => Stop::Drop(reason),
            })
    }

    /// A client's first piece was accepted, and so are those that waited for it.
    pub(super) fn release_out(
        &mut self,
        held: Vec<Vec<u8>>,
        way: FragmentRewrite,
        to: To,
        peers: &dyn Peers,
        now: Instant,
    ) {
        for mut piece in held {
            let Ok(mut packet) = Packet::parse(&mut piece, Checksum::Complete) else {
                continue;
            };
            way.apply(&mut packet);
            match self.route_translated(&mut packet, None, to, peers, now) {
                Ok(Outcome::Forward(_)) => self.late.push_back(DeferredPacket::ToLan(piece)),
                Ok(Outcome::Hairpin(_)) => self.late.push_back(DeferredPacket::ToClient(piece)),
                _ => {}
            }
        }
    }

    /// A first piece from the LAN was translated: those that waited for it follow.
    pub(super) fn release_in(&mut self, first: &Packet<'_>, key: Key) {
        let way = FragmentRewrite {
            end: End::Destination,
            ip: first.headers.dst,
            id: None,
        };
        for mut piece in self.fragments.resolve(key, way) {
            let Ok(mut packet) = Packet::parse(&mut piece, Checksum::Complete) else {
                continue;
            };
            way.apply(&mut packet);
            if self.fits_tunnel(&packet).is_err() {
                continue;
            }
            if let Outcome::Forward(_) = self.deliver(&packet, None) {
                self.late.push_back(DeferredPacket::ToClient(piece));
            }
        }
    }

    /// The identification that a client's packet gets, if it can be told from another one only
    /// by that: all clients share one address (RFC 6864 section 4.3, RFC 8200 section 4.5).
    pub(super) fn identification(&mut self, packet: &Packet<'_>) -> Option<u32> {
        let headers = &packet.headers;
        if headers.dont_fragment && headers.fragment.is_none() {
            return None;
        }
        // A super-packet's segments count on from its own.
        let segment = packet.segment.unwrap_or(u16::MAX).max(1);
        let used = headers.l4_len().div_ceil(segment.into()).max(1);
        Some(self.next_id.take(used as u32))
    }
}

/// What the pieces of a datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    from: Side,
    src: IpAddr,
    dst: IpAddr,
    /// For IPv4; pieces of an IPv6 packet behind the first may not know it.
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

/// Who answers for a datagram in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Peer(PeerId),
    Host(IpAddr),
}

#[derive(Debug)]
struct Datagram {
    key: Key,
    sender: Sender,
    until: Instant,
    /// Known once the first piece was accepted.
    way: Option<FragmentRewrite>,
    /// Its bytes that came.
    seen: Coverage,
    /// The number of its fragments that came.
    count: usize,
    /// Where it ends, once the last piece said it.
    end: Option<usize>,
    held: Vec<Vec<u8>>,
    /// It leaves in one piece.
    joins: bool,
}

impl Datagram {
    fn add(&mut self, place: Range<usize>, last: bool) -> Result<(), Reason> {
        let beyond = self.end.is_some_and(|end| place.end > end || last);
        let cuts = last && self.seen.end() > place.end;
        if self.seen.overlaps(&place) || beyond || cuts {
            return Err(Reason::OverlappingFragment);
        }
        if self.count == MAX_FRAGMENTS {
            return Err(Reason::FragmentFlood);
        }
        if last {
            self.end = Some(place.end);
        }
        self.count += 1;
        self.seen.add(place);
        Ok(())
    }

    fn is_whole(&self) -> bool {
        let Some(end) = self.end else { return false };
        matches!(&self.seen.0[..], [only] if *only == (0..end))
    }
}

/// The bytes of a datagram that came: ranges in order, between which some are missing. Fragments that
/// come in order make one range, however many they are.
#[derive(Debug, Default)]
struct Coverage(Vec<Range<usize>>);

impl Coverage {
    /// The end of the last range.
    fn end(&self) -> usize {
        self.0.last().map_or(0, |range| range.end)
    }

    fn overlaps(&self, place: &Range<usize>) -> bool {
        let next = self.0.get(self.after(place));
        next.is_some_and(|next| next.start < place.end)
    }

    /// Adds what overlaps nothing.
    fn add(&mut self, place: Range<usize>) {
        let at = self.after(&place);
        let follows = at > 0 && self.0[at - 1].end == place.start;
        let precedes = self.0.get(at).is_some_and(|next| next.start == place.end);
        match (follows, precedes) {
            (true, true) => self.0[at - 1].end = self.0.remove(at).end,
            (true, false) => self.0[at - 1].end = place.end,
            (false, true) => self.0[at].start = place.start,
            (false, false) => self.0.insert(at, place),
        }
    }

    /// The index of the first range that does not end before this place.
    fn after(&self, place: &Range<usize>) -> usize {
        self.0.partition_point(|range| range.end <= place.start)
    }
}

/// The datagrams of which pieces are under way, by the side that they come from, oldest first.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    from: [VecDeque<Datagram>; 2],
}

impl Fragments {
    /// Notes a piece; the way of its datagram, if that is known.
    fn note(
        &mut self,
        key: Key,
        headers: &Headers,
        fragment: Fragment,
        sender: Sender,
        share: usize,
        now: Instant,
    ) -> Result<Option<FragmentRewrite>, Reason> {
        let place = place(headers, fragment)?;
        let index = match self.find(key) {
            Some(index) => index,
            None => self.begin(key, sender, share, now)?,
        };
        let datagram = &mut self.of(key)[index];
        datagram.add(place, !fragment.more)?;
        let way = datagram.way;
        if way.is_some() && datagram.is_whole() {
            self.of(key).remove(index);
        }
        Ok(way)
    }

    /// Keeps a piece that was noted, until the first one comes.
    fn hold(&mut self, key: Key, piece: Vec<u8>) {
        if let Some(index) = self.find(key) {
            self.of(key)[index].held.push(piece);
        }
    }

    /// Whether this datagram leaves in one piece.
    fn joins(&self, key: Key) -> bool {
        let datagrams = &self.from[key.from as usize];
        self.find(key).is_some_and(|index| datagrams[index].joins)
    }

    /// Keeps a piece that was noted, until all are here: then those are the pieces.
    fn join(&mut self, key: Key, piece: Vec<u8>) -> Option<Vec<Vec<u8>>> {
        let index = self.find(key)?;
        let datagram = &mut self.of(key)[index];
        datagram.joins = true;
        datagram.held.push(piece);
        if !datagram.is_whole() {
            return None;
        }
        self.of(key).remove(index).map(|d| d.held)
    }

    /// The first piece was accepted: the pieces that waited for it.
    pub(super) fn resolve(&mut self, key: Key, way: FragmentRewrite) -> Vec<Vec<u8>> {
        let Some(index) = self.find(key) else {
            return Vec::new();
        };
        let datagram = &mut self.of(key)[index];
        datagram.way = Some(way);
        let held = std::mem::take(&mut datagram.held);
        if datagram.is_whole() {
            self.of(key).remove(index);
        }
        held
    }

    /// Gives up what was too long under way.
    pub(super) fn expire(&mut self, now: Instant) {
        for datagrams in &mut self.from {
            while datagrams.front().is_some_and(|d| d.until <= now) {
                datagrams.pop_front();
            }
        }
    }

    /// When the next datagram is given up.
    pub(super) fn next(&self) -> Option<Instant> {
        let fronts = self.from.iter().filter_map(VecDeque::front);
        fronts.map(|d| d.until).min()
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

    /// `share`: how many datagrams may be of one sender.
    fn begin(
        &mut self,
        key: Key,
        sender: Sender,
        share: usize,
        now: Instant,
    ) -> Result<usize, Reason> {
        let datagrams = self.of(key);
        let same_sender = |d: &&Datagram| d.sender == sender;
        if datagrams.iter().filter(same_sender).count() >= share {
            return Err(Reason::FragmentFlood);
        }
        if datagrams.len() == MAX_DATAGRAMS {
            // Of what was accepted the rest shall follow.
            let waits = datagrams.iter().position(|d| d.way.is_none());
            datagrams.remove(waits.unwrap_or(0));
        }
        datagrams.push_back(Datagram {
            key,
            sender,
            until: now + REASSEMBLY_TIMEOUT,
            way: None,
            seen: Coverage::default(),
            count: 0,
            end: None,
            held: Vec::new(),
            joins: false,
        });
        Ok(datagrams.len() - 1)
    }

    /// The newest first: pieces mostly come one after the other.
    fn find(&self, key: Key) -> Option<usize> {
        let datagrams = &self.from[key.from as usize];
        datagrams.iter().rposition(|d| d.key == key)
    }

    fn of(&mut self, key: Key) -> &mut VecDeque<Datagram> {
        &mut self.from[key.from as usize]
    }
}

/// Where a piece lies, if it may lie there.
fn place(headers: &Headers, fragment: Fragment) -> Result<Range<usize>, Reason> {
    let start = usize::from(fragment.offset);
    let len = headers.len - fragment.begins;
    // A piece that begins inside a TCP header could change its flags (RFC 3128); a first piece
    // too short for an L4 header is seen where that is read (RFC 1858).
    let in_header = headers.protocol == IpProtocol::Tcp && (1..TCP_HEADER_LEN).contains(&start);
    let uneven = fragment.more && !len.is_multiple_of(8);
    // IPv4's length counts the header, IPv6's only what follows it; the Fragment header is no part of
    // the datagram (RFC 8200 section 4.5).
    let ahead = match headers.src {
        IpAddr::V4(_) => fragment.begins,
        IpAddr::V6(_) => fragment
            .begins
            .saturating_sub(IPV6_HEADER + FRAGMENT_HEADER),
    };
    let too_far = ahead + start + len > usize::from(u16::MAX);
    if len == 0 || in_header || uneven || too_far {
        return Err(Reason::BadFragment);
    }
    Ok(start..start + len)
}
