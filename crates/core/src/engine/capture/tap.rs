//! The tap of a running capture: follows one packet at a time through the pipeline.
//!
//! A packet is copied on arrival, before any stage rewrites it. Its metadata is complete only when
//! it leaves or is dropped: then the copy is updated, or removed if the filter does not want it.

use super::{CaptureBuffer, Direction, End, Filter, Note, PacketMetadata, Side};
use crate::smb::Change;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use vcgate_wire::packet::Packet;

/// The copy of the packet that is in the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrived {
    /// There is none, or its metadata is complete.
    Nothing,
    /// It is the newest frame.
    Kept,
    /// There was no space for it.
    Lost(Side),
}

/// A running capture.
#[derive(Debug)]
pub(in crate::engine) struct Tap {
    filter: Filter,
    buffer: CaptureBuffer,
    arrived: Arrived,
    /// The metadata of the packet that is in the pipeline, or of the last one.
    metadata: Option<PacketMetadata>,
    /// The name of the last packet's peer, which is often the next one's too.
    name: Arc<str>,
}

impl Tap {
    pub(in crate::engine) fn new(filter: Filter) -> Self {
        Self {
            filter,
            buffer: CaptureBuffer::preallocated(),
            arrived: Arrived::Nothing,
            metadata: None,
            name: Arc::default(),
        }
    }

    /// Returns the captured packets and continues with an empty buffer.
    pub(super) fn swap(&mut self, empty: CaptureBuffer) -> CaptureBuffer {
        self.finalize();
        std::mem::replace(&mut self.buffer, empty)
    }

    /// Records a packet that a peer sent, out of the tunnel.
    #[cold]
    pub(super) fn client_sent(&mut self, peer: Option<&str>, packet: &Packet<'_>, now: Instant) {
        let (from, to) = End::both(packet);
        let mut metadata = PacketMetadata::new(Direction::ToLan, to);
        metadata.peer = self.name(peer);
        metadata.inner = Some(from);
        self.arrive(Side::Tunnel, metadata, packet, now);
    }

    /// Records a packet of the LAN, whose peer is not known before the NAT.
    #[cold]
    pub(super) fn lan_sent(&mut self, packet: &Packet<'_>, now: Instant) {
        let (from, to) = End::both(packet);
        let mut metadata = PacketMetadata::new(Direction::ToClient, from);
        metadata.lan = Some(to);
        self.arrive(Side::Lan, metadata, packet, now);
    }

    /// Records the peer of a packet of the LAN, whose destination is now the peer's address.
    #[cold]
    pub(super) fn translated(&mut self, peer: Option<&str>, packet: &Packet<'_>) {
        let (_, inner) = End::both(packet);
        let peer = self.name(peer);
        if let Some(metadata) = &mut self.metadata {
            metadata.peer = peer;
            metadata.inner = Some(inner);
            metadata.lan = metadata.lan.filter(|lan| *lan != inner);
        }
        self.finalize();
    }

    /// Records the hook's changes to the packet that leaves next.
    #[cold]
    pub(super) fn changed(&mut self, changes: impl Iterator<Item = Change>) {
        if let Some(metadata) = &mut self.metadata {
            metadata.changes.extend(changes);
        }
    }

    /// Records that the packet goes no further, at least for now.
    #[cold]
    pub(super) fn note(&mut self, note: Note) {
        if let Some(metadata) = &mut self.metadata {
            metadata.note = Some(note);
        }
        self.finalize();
    }

    /// Records the flow of vcgate's own packets that leave next.
    #[cold]
    pub(super) fn about(&mut self, peer: Option<&str>, inner: End, lan: End, remote: End) {
        self.finalize();
        let mut metadata = PacketMetadata::new(Direction::ToLan, remote);
        metadata.peer = self.name(peer);
        (metadata.inner, metadata.lan) = (Some(inner), Some(lan));
        self.metadata = Some(metadata);
    }

    /// Records a packet that leaves for the LAN.
    #[cold]
    pub(super) fn leaves_for_lan(&mut self, packet: &Packet<'_>, now: Instant) {
        let (from, to) = End::both(packet);
        let metadata = match &mut self.metadata {
            Some(metadata) if metadata.leads(from, to) => {
                if metadata.inner != Some(from) {
                    metadata.lan = Some(from);
                }
                metadata.clone()
            }
            _ => {
                let mut metadata = PacketMetadata::new(Direction::ToLan, to);
                metadata.lan = Some(from);
                metadata
            }
        };
        self.finalize();
        let metadata = PacketMetadata {
            direction: Direction::ToLan,
            ..metadata
        };
        self.keep(Side::Lan, metadata, packet, now);
    }

    /// Records that the client knows the destination by another address.
    #[cold]
    pub(super) fn mapped(&mut self, lan: IpAddr, mapped: IpAddr) {
        if let Some(metadata) = &mut self.metadata {
            metadata.remote.address = lan;
            metadata.mapped = Some(mapped);
        }
    }

    /// Records a packet that leaves for a peer; `sender` is its source on the LAN.
    #[cold]
    pub(super) fn leaves_for_client(
        &mut self,
        peer: Option<&str>,
        packet: &Packet<'_>,
        sender: IpAddr,
        now: Instant,
    ) {
        self.finalize();
        let (known_as, to) = End::both(packet);
        let from = End {
            address: sender,
            ..known_as
        };
        let known = self.metadata.as_ref().filter(|known| known.joins(to, from));
        let mut metadata = PacketMetadata::new(Direction::ToClient, from);
        metadata.lan = known.and_then(|known| known.lan);
        metadata.inner = Some(to);
        metadata.mapped = (known_as != from).then_some(known_as.address);
        metadata.peer = self.name(peer);
        self.keep(Side::Tunnel, metadata, packet, now);
    }

    fn arrive(&mut self, side: Side, metadata: PacketMetadata, packet: &Packet<'_>, now: Instant) {
        self.finalize();
        // The peer of a packet of the LAN is not known yet.
        let wanted = metadata.peer.is_none() || self.wants(metadata.peer.as_deref());
        if wanted && self.filter.side.is_none_or(|only| only == side) {
            self.arrived = match self.buffer.push(side, metadata.clone(), packet, now) {
                true => Arrived::Kept,
                false => Arrived::Lost(side),
            };
        }
        self.metadata = Some(metadata);
    }

    fn keep(&mut self, side: Side, metadata: PacketMetadata, packet: &Packet<'_>, now: Instant) {
        let wanted = self.filter.side.is_none_or(|only| only == side)
            && self.wants(metadata.peer.as_deref());
        if wanted && !self.buffer.push(side, metadata, packet, now) {
            self.buffer.count_dropped(side);
        }
    }

    /// Completes the frame of the packet that is in the pipeline.
    fn finalize(&mut self) {
        let arrived = std::mem::replace(&mut self.arrived, Arrived::Nothing);
        let Some(metadata) = &self.metadata else {
            return;
        };
        let wanted = self.wants(metadata.peer.as_deref());
        match arrived {
            Arrived::Kept if wanted => self.buffer.update_last(metadata.clone()),
            Arrived::Kept => self.buffer.pop(),
            Arrived::Lost(side) if wanted => self.buffer.count_dropped(side),
            Arrived::Lost(_) | Arrived::Nothing => {}
        }
        // The next packet of the flow has its own changes and its own fate.
        if let Some(metadata) = &mut self.metadata {
            metadata.changes.clear();
            metadata.note = None;
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
