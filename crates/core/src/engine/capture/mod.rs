//! The tap: copies of packets for `vcgate capture`, on both sides of the translation, each with
//! its story.
//!
//! It never waits and never changes a packet: what finds no room is counted. Without a capture
//! there is no tap, and a packet pays for the question.
//!
//! A packet arrives, and is copied before anybody rewrites it; its story is complete only when
//! it leaves, or goes no further. One packet is on its way at a time.

mod metadata;
mod points;

pub use metadata::{Direction, End, Note, PacketMetadata};

use crate::smb::Change;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use vcgate_wire::packet::Packet;

/// The most that waits to be fetched, in bytes of packets.
const ROOM: usize = 16 << 20;
/// The most packets that wait to be fetched.
const MOST: usize = 1 << 16;

/// A side of the translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// As the client sent it, or will get it.
    Tunnel,
    /// As it goes to the LAN, or came from there.
    Lan,
}

/// What is to be captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only this peer's, by its name.
    #[serde(default)]
    pub peer: Option<String>,
    /// Only this side of it.
    #[serde(default)]
    pub side: Option<Side>,
}

/// A captured packet or super-packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When its batch was read.
    pub at: Instant,
    /// Where it was captured.
    pub side: Side,
    /// What is told of it.
    pub story: PacketMetadata,
    place: Range<usize>,
}

/// What was captured since the last time that somebody asked.
#[derive(Debug, Default)]
pub struct CaptureBuffer {
    frames: Vec<Frame>,
    bytes: Vec<u8>,
    dropped: [u64; 2],
}

impl CaptureBuffer {
    /// With the memory that it may come to need.
    pub fn with_room() -> Self {
        Self {
            frames: Vec::with_capacity(MOST),
            bytes: Vec::with_capacity(ROOM),
            dropped: [0; 2],
        }
    }

    /// The frames and their bytes, oldest first.
    pub fn frames(&self) -> impl Iterator<Item = (&Frame, &[u8])> {
        let bytes = |frame: &Frame| self.bytes.get(frame.place.clone()).unwrap_or_default();
        self.frames.iter().map(move |frame| (frame, bytes(frame)))
    }

    /// How many found no room, on a side.
    pub fn dropped(&self, side: Side) -> u64 {
        self.dropped[side as usize]
    }

    /// Makes it what it was in the beginning. Thousands of stories take their time: it is not done
    /// where packets wait.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes.clear();
        self.dropped = [0; 2];
    }

    /// A copy of the packet, if there is room for it.
    fn push(
        &mut self,
        side: Side,
        story: PacketMetadata,
        packet: &Packet<'_>,
        at: Instant,
    ) -> bool {
        let start = self.bytes.len();
        let len: usize = packet.pieces().map(<[u8]>::len).sum();
        if start + len > ROOM || self.frames.len() == MOST {
            return false;
        }
        packet
            .pieces()
            .for_each(|piece| self.bytes.extend_from_slice(piece));
        let place = start..self.bytes.len();
        self.frames.push(Frame {
            at,
            side,
            story,
            place,
        });
        true
    }

    /// More is known of the newest frame.
    fn update_last(&mut self, story: PacketMetadata) {
        if let Some(newest) = self.frames.last_mut() {
            newest.story = story;
        }
    }

    /// Forgets the newest frame.
    fn pop(&mut self) {
        if let Some(newest) = self.frames.pop() {
            self.bytes.truncate(newest.place.start);
        }
    }
}

/// The copy of the packet that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrived {
    /// There is none, or its story is complete.
    Nothing,
    /// It is the newest frame.
    Kept,
    /// There was no room for it.
    Lost(Side),
}

/// A running capture.
#[derive(Debug)]
pub(super) struct Tap {
    filter: Filter,
    catch: CaptureBuffer,
    arrived: Arrived,
    /// Of the packet that is, or was last, on its way.
    story: Option<PacketMetadata>,
    /// The last peer's name: it is likely to be the next one's too.
    name: Arc<str>,
}

impl Tap {
    pub(super) fn new(filter: Filter) -> Self {
        Self {
            filter,
            catch: CaptureBuffer::with_room(),
            arrived: Arrived::Nothing,
            story: None,
            name: Arc::default(),
        }
    }

    /// Hands out what was captured and goes on with an empty catch.
    pub(super) fn swap(&mut self, other: CaptureBuffer) -> CaptureBuffer {
        self.finalize();
        std::mem::replace(&mut self.catch, other)
    }

    /// A peer's packet has come out of the tunnel.
    #[cold]
    pub(super) fn client_sent(&mut self, peer: Option<&str>, packet: &Packet<'_>, now: Instant) {
        let (from, to) = End::both(packet);
        let mut story = PacketMetadata::new(Direction::ToLan, to);
        story.peer = self.name(peer);
        story.inner = Some(from);
        self.arrive(Side::Tunnel, story, packet, now);
    }

    /// A packet has come from the LAN; for whom, the NAT will say.
    #[cold]
    pub(super) fn lan_sent(&mut self, packet: &Packet<'_>, now: Instant) {
        let (from, to) = End::both(packet);
        let mut story = PacketMetadata::new(Direction::ToClient, from);
        story.lan = Some(to);
        self.arrive(Side::Lan, story, packet, now);
    }

    /// The packet from the LAN is for this peer, and its destination the peer's address now.
    #[cold]
    pub(super) fn translated(&mut self, peer: Option<&str>, packet: &Packet<'_>) {
        let (_, inner) = End::both(packet);
        let peer = self.name(peer);
        if let Some(story) = &mut self.story {
            story.peer = peer;
            story.inner = Some(inner);
            story.lan = story.lan.filter(|lan| *lan != inner);
        }
        self.finalize();
    }

    /// What the hook has changed in the packet that leaves next.
    #[cold]
    pub(super) fn changed(&mut self, changes: impl Iterator<Item = Change>) {
        if let Some(story) = &mut self.story {
            story.changes.extend(changes);
        }
    }

    /// The packet on its way goes no further, at least not now.
    #[cold]
    pub(super) fn note(&mut self, note: Note) {
        if let Some(story) = &mut self.story {
            story.note = Some(note);
        }
        self.finalize();
    }

    /// Packets of our own that leave next are of this flow.
    #[cold]
    pub(super) fn about(&mut self, peer: Option<&str>, inner: End, lan: End, far: End) {
        self.finalize();
        let mut story = PacketMetadata::new(Direction::ToLan, far);
        story.peer = self.name(peer);
        (story.inner, story.lan) = (Some(inner), Some(lan));
        self.story = Some(story);
    }

    /// A packet leaves for the LAN.
    #[cold]
    pub(super) fn leaves_for_lan(&mut self, packet: &Packet<'_>, now: Instant) {
        let (from, to) = End::both(packet);
        let story = match &mut self.story {
            Some(story) if story.leads(from, to) => {
                if story.inner != Some(from) {
                    story.lan = Some(from);
                }
                story.clone()
            }
            _ => {
                let mut story = PacketMetadata::new(Direction::ToLan, to);
                story.lan = Some(from);
                story
            }
        };
        self.finalize();
        let direction = Direction::ToLan;
        self.keep(
            Side::Lan,
            PacketMetadata { direction, ..story },
            packet,
            now,
        );
    }

    /// A packet leaves for a peer.
    #[cold]
    pub(super) fn leaves_for_client(
        &mut self,
        peer: Option<&str>,
        packet: &Packet<'_>,
        now: Instant,
    ) {
        self.finalize();
        let (from, to) = End::both(packet);
        let known = self.story.as_ref().filter(|story| story.meets(to, from));
        let mut story = PacketMetadata::new(Direction::ToClient, from);
        story.lan = known.and_then(|known| known.lan);
        story.inner = Some(to);
        story.peer = self.name(peer);
        self.keep(Side::Tunnel, story, packet, now);
    }

    fn arrive(&mut self, side: Side, story: PacketMetadata, packet: &Packet<'_>, now: Instant) {
        self.finalize();
        // A packet from the LAN may yet turn out to be the peer's.
        let may_be = story.peer.is_none() || self.wants(story.peer.as_deref());
        if may_be && self.filter.side.is_none_or(|only| only == side) {
            let kept = self.catch.push(side, story.clone(), packet, now);
            self.arrived = if kept {
                Arrived::Kept
            } else {
                Arrived::Lost(side)
            };
        }
        self.story = Some(story);
    }

    fn keep(&mut self, side: Side, story: PacketMetadata, packet: &Packet<'_>, now: Instant) {
        let here = self.filter.side.is_none_or(|only| only == side);
        if here && self.wants(story.peer.as_deref()) && !self.catch.push(side, story, packet, now) {
            self.catch.dropped[side as usize] += 1;
        }
    }

    /// The story of the packet on its way is as complete as it will be.
    fn finalize(&mut self) {
        let arrived = std::mem::replace(&mut self.arrived, Arrived::Nothing);
        let Some(story) = &self.story else { return };
        let wanted = self.wants(story.peer.as_deref());
        match arrived {
            Arrived::Kept if wanted => self.catch.update_last(story.clone()),
            Arrived::Kept => self.catch.pop(),
            Arrived::Lost(side) if wanted => self.catch.dropped[side as usize] += 1,
            Arrived::Lost(_) | Arrived::Nothing => {}
        }
        // What follows of the same flow is another packet.
        if let Some(story) = &mut self.story {
            story.changes.clear();
            story.note = None;
        }
    }

    fn wants(&self, peer: Option<&str>) -> bool {
        self.filter.peer.is_none() || self.filter.peer.as_deref() == peer
    }

    fn name(&mut self, peer: Option<&str>) -> Option<Arc<str>> {
        let peer = peer?;
        if *self.name != *peer {
            self.name = peer.into();
        }
        Some(self.name.clone())
    }
}

#[cfg(test)]
mod tests;
