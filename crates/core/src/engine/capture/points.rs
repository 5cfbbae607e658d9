//! Where the tap sits in the pipeline. Without a capture each of these is one comparison.

use super::{CaptureBuffer, Filter, Note, Tap};
use crate::engine::{DataPlane, Engine};
use crate::ids::{FlowId, PeerId};
use crate::smb::Segment;
use std::net::SocketAddr;
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;

impl Engine {
    /// Captures from now on what the filter says; what an earlier capture left is forgotten.
    pub fn start_capture(&mut self, filter: Filter) {
        self.plane.tap = Some(Box::new(Tap::new(filter)));
    }

    /// What was captured since the last call; `empty` is what the next call gets to hand out.
    pub fn take_capture(&mut self, empty: CaptureBuffer) -> CaptureBuffer {
        match &mut self.plane.tap {
            Some(tap) => tap.swap(empty),
            None => CaptureBuffer::default(),
        }
    }

    /// Captures no longer; returns what was captured since it was last asked for.
    pub fn stop_capture(&mut self) -> CaptureBuffer {
        let last = self.take_capture(CaptureBuffer::default());
        self.plane.tap = None;
        last
    }
}

impl DataPlane {
    /// A peer's packet has come out of the tunnel.
    #[inline]
    pub(in crate::engine) fn tap_from_client(
        &mut self,
        peer: PeerId,
        packet: &Packet<'_>,
        now: Instant,
    ) {
        if let Some(tap) = &mut self.tap {
            tap.client_sent(self.tunnel.name(peer), packet, now);
        }
    }

    /// A packet has come from the LAN.
    #[inline]
    pub(in crate::engine) fn tap_from_lan(&mut self, packet: &Packet<'_>, now: Instant) {
        if let Some(tap) = &mut self.tap {
            tap.lan_sent(packet, now);
        }
    }

    /// It has its client's address now.
    #[inline]
    pub(in crate::engine) fn tap_translated(&mut self, packet: &Packet<'_>) {
        if let Some(tap) = &mut self.tap {
            let peer = self.tunnel.route(packet.headers.dst);
            tap.translated(peer.and_then(|peer| self.tunnel.name(peer)), packet);
        }
    }

    /// The hook has let a segment with `len` bytes of payload pass.
    #[inline]
    pub(in crate::engine) fn tap_changes(
        &mut self,
        flow: FlowId,
        segment: &Segment,
        len: impl FnOnce() -> usize,
    ) {
        if let Some(tap) = &mut self.tap {
            tap.changed(self.hook.changes(flow, segment, len()));
        }
    }

    /// A packet goes no further.
    #[inline]
    pub(in crate::engine) fn tap_note(&mut self, note: Note) {
        if let Some(tap) = &mut self.tap {
            tap.note(note);
        }
    }

    /// What our own rooms send next is of this flow.
    #[inline]
    pub(in crate::engine) fn tap_about(
        &mut self,
        client: SocketAddr,
        lan: SocketAddr,
        server: SocketAddr,
    ) {
        if let Some(tap) = &mut self.tap {
            let peer = self.tunnel.route(client.ip());
            let name = peer.and_then(|peer| self.tunnel.name(peer));
            tap.about(name, client.into(), lan.into(), server.into());
        }
    }

    /// A packet leaves for the LAN.
    #[inline]
    pub(in crate::engine) fn tap_to_lan(&mut self, packet: &Packet<'_>, now: Instant) {
        if let Some(tap) = &mut self.tap {
            tap.leaves_for_lan(packet, now);
        }
    }

    /// A packet leaves for a peer.
    #[inline]
    pub(in crate::engine) fn tap_to_client(
        &mut self,
        peer: PeerId,
        bytes: &mut [u8],
        now: Instant,
    ) {
        if let Some(tap) = &mut self.tap
            // Its checksum is not looked at.
            && let Ok(packet) = Packet::parse(bytes, Checksum::Partial)
        {
            tap.leaves_for_client(self.tunnel.name(peer), &packet, now);
        }
    }
}
