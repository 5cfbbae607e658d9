//! The engine as a shard drives it. Calls pass straight through; after each batch the events of the
//! hook and of the NAT go to the control plane.
//!
//! The data plane never waits for the control plane: when the queue is full, events stay in the
//! hook, which drops and counts those beyond its own limit. No packet is dropped for it.

use super::failures;
use super::flow_journal;
use super::port_log;
use crate::confine;
use std::time::Instant;
use tokio::sync::mpsc;
use vcgate_core::engine::{Engine, Output, ShardMessage, ShardTarget};
use vcgate_core::smb::Event;
use vcgate_core::tunnel::{Ecn, Path};
use vcgate_io::shard::Pipeline;
use vcgate_wire::virtio_net::Header;

/// Maximum number of events that wait for the control plane.
const EVENT_QUEUE_CAPACITY: usize = 1024;
/// The shards' end of the event queue.
#[derive(Clone)]
pub(super) struct EventSender {
    queue: mpsc::Sender<TimedEvent>,
}

/// An event and its time.
pub(super) type TimedEvent = (Event, Instant);

impl EventSender {
    /// Reserves a place for one event; `None` if the queue is full.
    pub(super) fn reserve(&self) -> Option<mpsc::Permit<'_, TimedEvent>> {
        self.queue.try_reserve().ok()
    }
}

/// Returns both ends of a new event queue.
pub(super) fn event_channel() -> (EventSender, mpsc::Receiver<TimedEvent>) {
    let (queue, events) = mpsc::channel(EVENT_QUEUE_CAPACITY);
    (EventSender { queue }, events)
}

/// One shard's engine and its channels to the control plane.
pub(super) struct ShardPipeline {
    pub engine: Engine,
    events: EventSender,
    port_log: port_log::Sender,
    failures: failures::Sender,
    journal: flow_journal::Sender,
}

impl ShardPipeline {
    pub(super) fn new(
        engine: Engine,
        events: EventSender,
        port_log: port_log::Sender,
        failures: failures::Sender,
        journal: flow_journal::Sender,
    ) -> Self {
        let mut pipeline = Self {
            engine,
            events,
            port_log,
            failures,
            journal,
        };
        // An engine with restored flows has port blocks already.
        pipeline.log_port_blocks();
        pipeline
    }

    /// Sends everything to the flow journal, which has lost changes.
    pub(super) fn send_snapshot(&mut self, now: Instant) {
        self.log_port_blocks();
        // The snapshot contains the changes.
        self.engine.append_changes(&mut Vec::new());
        self.journal
            .send_snapshot(self.engine.journal_snapshot(now));
    }

    fn log_port_blocks(&mut self) {
        while let Some(event) = self.engine.poll_block() {
            let tunnel = self.engine.tunnel();
            let name = |client| tunnel.route(client).and_then(|peer| tunnel.name(peer));
            self.port_log
                .block(&event, |client| name(client).unwrap_or_default().to_owned());
        }
    }
}

impl Pipeline for ShardPipeline {
    fn start(&mut self) {
        confine::data_plane();
    }

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
        while let Some(slot) = self.events.reserve()
            && let Some(event) = self.engine.poll_event()
        {
            slot.send((event, now));
        }
        self.failures.drain(&mut self.engine);
        self.log_port_blocks();
        if self.engine.has_changes() {
            let mut records = self.journal.buffer();
            self.engine.append_changes(&mut records);
            self.journal.send(records);
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut impl Output) {
        self.engine.handle_timeout(now, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.engine.next_timeout()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use vcgate_core::smb::{Cause, Ends, Unchanged};

    #[test]
    fn a_full_queue_has_space_again_after_an_event_was_received() {
        let (sender, mut events) = event_channel();
        let (event, now) = (Event::MassDisconnect(cause()), Instant::now());
        for _ in 0..EVENT_QUEUE_CAPACITY {
            sender.reserve().unwrap().send((event, now));
        }
        assert!(sender.reserve().is_none());
        assert_eq!(events.try_recv(), Ok((event, now)));
        assert!(sender.reserve().is_some());
    }

    fn cause() -> Cause {
        let end: SocketAddr = "192.168.77.10:445".parse().unwrap();
        Cause {
            ends: Ends {
                client: end,
                lan: end.ip(),
                server: end,
            },
            why: Unchanged::Signed,
        }
    }
}
