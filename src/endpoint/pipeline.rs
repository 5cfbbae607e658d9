//! The engine as a shard drives it: calls pass straight through, and what the hook reports is
//! handed to the control plane after each batch.

use super::events::Sender;
use super::failures;
use super::ports;
use std::time::Instant;
use vcgate_core::engine::{Engine, Output, ShardMessage, ShardTarget};
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_io::shard::Pipeline;
use vcgate_wire::virtio_net::Header;

/// One shard's engine and its way to the control plane.
pub(super) struct ShardPipeline {
    pub engine: Engine,
    events: Sender,
    ports: ports::Sender,
    failures: failures::Sender,
}

impl ShardPipeline {
    pub(super) fn new(
        engine: Engine,
        events: Sender,
        ports: ports::Sender,
        failures: failures::Sender,
    ) -> Self {
        let mut lane = Self {
            engine,
            events,
            ports,
            failures,
        };
        // It may have been made with flows.
        lane.note_blocks();
        lane
    }

    fn note_blocks(&mut self) {
        while let Some(event) = self.engine.poll_block() {
            let tunnel = self.engine.tunnel();
            let name = |client| tunnel.route(client).and_then(|peer| tunnel.name(peer));
            self.ports
                .block(&event, |client| name(client).unwrap_or_default().to_owned());
        }
    }
}

impl Pipeline for ShardPipeline {
    fn datagrams(
        &mut self,
        path: &Path,
        ecn: Ecn,
        stride: usize,
        bytes: &[u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        self.engine.datagrams(path, ecn, stride, bytes, now, out);
    }

    fn lan_packet(
        &mut self,
        header: &Header,
        bytes: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) -> ShardTarget {
        self.engine.lan_packet(header, bytes, now, out)
    }

    fn deliver_message(&mut self, mail: ShardMessage, now: Instant, out: &mut impl Output) {
        self.engine.deliver_message(mail, now, out);
    }

    fn flush(&mut self, now: Instant, out: &mut impl Output) {
        self.engine.flush(now, out);
        while let Some(place) = self.events.place()
            && let Some(event) = self.engine.poll_event()
        {
            place.send((event, now));
        }
        self.failures.drain(&mut self.engine);
        self.note_blocks();
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut impl Output) {
        self.engine.handle_timeout(now, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.engine.next_timeout()
    }
}
