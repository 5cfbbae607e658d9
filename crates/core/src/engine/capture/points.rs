//! The points of the pipeline at which a packet is captured. Without a capture each is one
//! comparison.

use super::{CaptureBuffer, Filter, Note, Tap};
use crate::engine::{DataPlane, Engine};
use crate::ids::{FlowId, PeerId};
use crate::smb::Segment;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use vcgate_wire::checksum::Checksum;
use vcgate_wire::packet::Packet;

impl Engine {
    /// Starts a capture; packets that an earlier one left are discarded.
    pub fn start_capture(&mut self, filter: Filter) {
        self.plane.tap = Some(Box::new(Tap::new(filter)));
    }

    /// Takes the packets that were captured since the last call; the capture continues in `empty`.
    pub fn take_capture(&mut self, empty: CaptureBuffer) -> CaptureBuffer {
        match &mut self.plane.tap {
            Some(tap) => tap.swap(empty),
            None => CaptureBuffer::default(),
        }
    }

    /// Stops the capture and returns the packets that were not taken yet.
    pub fn stop_capture(&mut self) -> CaptureBuffer {
        let last = self.take_capture(CaptureBuffer::default());
        self.plane.tap = None;
        last
    }
}

impl DataPlane {
    /// Captures a packet that came out of the tunnel.
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

    /// Captures a packet that came from the LAN.
    #[inline]
    pub(in crate::engine) fn tap_from_lan(&mut self, packet: &Packet<'_>, now: Instant) {
        if let Some(tap) = &mut self.tap {
            tap.lan_sent(packet, now);
        }
    }

    /// Records the client of a packet of the LAN, after translation.
    #[inline]
    pub(in crate::engine) fn tap_translated(&mut self, packet: &Packet<'_>) {
        if let Some(tap) = &mut self.tap {
            let peer = self.tunnel.route(packet.headers.dst);
            tap.translated(peer.and_then(|peer| self.tunnel.name(peer)), packet);
        }
    }

    /// Records the hook's changes to a segment with `len` bytes of payload.
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

    /// Records the fate of a packet that does not leave.
    #[inline]
    pub(in crate::engine) fn tap_note(&mut self, note: Note) {
        if let Some(tap) = &mut self.tap {
            tap.note(note);
        }
    }

    /// Records the flow of the packets that vcgate itself sends next.
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

    /// Captures a packet that leaves for the LAN.
    #[inline]
    pub(in crate::engine) fn tap_to_lan(&mut self, packet: &Packet<'_>, now: Instant) {
        if let Some(tap) = &mut self.tap {
            tap.leaves_for_lan(packet, now);
        }
    }

    /// Records the destination that the client knows by the address `mapped`.
    #[inline]
    pub(in crate::engine) fn tap_mapped(&mut self, packet: &Packet<'_>, mapped: IpAddr) {
        if let Some(tap) = &mut self.tap {
            tap.mapped(packet.headers.dst, mapped);
        }
    }

    /// Captures a packet that leaves for a peer; `sender` is its source on the LAN.
    #[inline]
    pub(in crate::engine) fn tap_to_client(
        &mut self,
        peer: PeerId,
        bytes: &mut [u8],
        sender: IpAddr,
        now: Instant,
    ) {
        if let Some(tap) = &mut self.tap
            // Its checksum is not needed.
            && let Ok(packet) = Packet::parse(bytes, Checksum::Partial)
        {
            tap.leaves_for_client(self.tunnel.name(peer), &packet, sender, now);
        }
    }
}
