//! `vcgate capture`: a tap is put into each shard and taken out again, and what they caught is
//! put into words here, where nobody waits for it.

use super::clock::{Clock, unix_nanos};
use super::handle::EndpointHandle;
use super::pipeline::ShardPipeline;
use crate::control::endpoint::Captured;
use crate::control::endpoint::Refusal;
use std::cell::{Cell, RefCell};
use vcgate_capture::{Counts, Packet};
use vcgate_core::engine::{CaptureBuffer, Filter, Side};
use vcgate_io::shard::ShardHandle;

/// The capture that runs, if one does.
#[derive(Default)]
pub(super) struct Capturing {
    /// Both clocks, as they were at its start: its times never jump.
    clock: Cell<Option<Clock>>,
    /// What each shard gets in exchange for what it has caught.
    spare: RefCell<Vec<CaptureBuffer>>,
}

impl EndpointHandle {
    pub(super) async fn start_capture(&self, filter: Filter) -> Result<(), Refusal> {
        let Capturing { clock, spare } = &self.capturing;
        if clock.get().is_some() {
            return Err(Refusal {
                message: "a capture is running already".into(),
                remedy: Some("stop it with Ctrl-C where it was started".into()),
            });
        }
        clock.set(Some(Clock::read()));
        if let Some(name) = filter.peer.clone()
            && !self.has_peer(name.clone()).await
        {
            clock.set(None);
            return Err(Refusal {
                message: format!("there is no peer {name:?}"),
                remedy: Some("see `vcgate peer list`".into()),
            });
        }
        let buffers = self
            .shards
            .iter()
            .map(|_| CaptureBuffer::preallocated())
            .collect();
        spare.replace(buffers);
        self.ask_all(move |engine, _| engine.start_capture(filter))
            .await;
        Ok(())
    }

    pub(super) async fn take_capture(&self) -> Captured {
        let mut spare = self.capturing.spare.take().into_iter();
        let take = |shard: &ShardHandle<ShardPipeline>| {
            let empty = spare.next().unwrap_or_default();
            shard.with(move |lane, _| lane.engine.take_capture(empty))
        };
        // All are asked before the first answer is awaited.
        let asked: Vec<_> = self.shards.iter().map(take).collect();
        let mut caught = Vec::new();
        for answer in asked {
            // A shard that is gone has caught nothing.
            caught.push(answer.await.unwrap_or_default());
        }
        let captured = self.describe_catches(&caught);
        caught.iter_mut().for_each(CaptureBuffer::clear);
        self.capturing.spare.replace(caught);
        captured
    }

    pub(super) async fn stop_capture(&self) -> Captured {
        let caught = self.ask_all(|engine, _| engine.stop_capture()).await;
        let captured = self.describe_catches(&caught);
        self.capturing.spare.take();
        self.capturing.clock.set(None);
        captured
    }

    async fn has_peer(&self, name: String) -> bool {
        let known = self.ask_one(move |engine, _| {
            let mut peers = engine.tunnel().peers();
            peers.any(|peer| peer.name == name)
        });
        known.await.unwrap_or(false)
    }

    fn describe_catches(&self, caught: &[CaptureBuffer]) -> Captured {
        let clock = self.capturing.clock.get().unwrap_or_else(Clock::read);
        let frames = caught.iter().flat_map(CaptureBuffer::frames);
        let packets = frames.map(|(frame, bytes)| Packet {
            side: frame.side,
            direction: frame.metadata.direction,
            unix_nanos: unix_nanos(clock.time_of_day(frame.at)),
            comment: frame.metadata.to_string(),
            bytes: bytes.to_vec(),
        });
        let mut packets: Vec<_> = packets.collect();
        // Each shard's are in order.
        packets.sort_by_key(|packet| packet.unix_nanos);
        let dropped = |side| caught.iter().map(|catch| catch.dropped(side)).sum();
        Captured {
            packets,
            dropped: Counts {
                tunnel: dropped(Side::Tunnel),
                lan: dropped(Side::Lan),
            },
        }
    }
}
