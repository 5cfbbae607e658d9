//! `vcgate capture`: starts, reads and stops the capture of each shard. The captured packets are
//! described here and not in the shards, so that no packet waits for it.

use super::pipeline::ShardPipeline;
use super::report::{Clock, unix_nanos};
use super::shards::Shards;
use crate::control::endpoint::{Captured, Refusal};
use std::cell::{Cell, RefCell};
use vcgate_capture::{Counts, Packet};
use vcgate_core::engine::{CaptureBuffer, Filter, Side};
use vcgate_io::shard::ShardHandle;

/// The running capture, if any.
#[derive(Default)]
pub(super) struct Capture {
    /// Both clocks at the start of the capture, so that its times never jump.
    clock: Cell<Option<Clock>>,
    /// An empty buffer for each shard, which is exchanged for the shard's full one.
    spare: RefCell<Vec<CaptureBuffer>>,
}

impl Capture {
    /// Starts a capture in all shards.
    ///
    /// # Errors
    /// If a capture is running, or if the peer of the filter does not exist.
    pub(super) async fn start(&self, shards: &Shards, filter: Filter) -> Result<(), Refusal> {
        let Self { clock, spare } = self;
        if clock.get().is_some() {
            return Err(Refusal {
                message: "a capture is running already".into(),
                remedy: Some("stop it with Ctrl-C where it was started".into()),
            });
        }
        clock.set(Some(Clock::read()));
        if let Some(name) = filter.peer.clone()
            && !has_peer(shards, name.clone()).await
        {
            clock.set(None);
            return Err(Refusal {
                message: format!("there is no peer {name:?}"),
                remedy: Some("see `vcgate peer list`".into()),
            });
        }
        let buffers = shards.iter().map(|_| CaptureBuffer::preallocated());
        spare.replace(buffers.collect());
        let start = shards.ask_all(move |engine, _| engine.start_capture(filter));
        start.await;
        Ok(())
    }

    /// Returns the packets captured since the last call.
    pub(super) async fn take(&self, shards: &Shards) -> Captured {
        let mut spare = self.spare.take().into_iter();
        let take = |shard: &ShardHandle<ShardPipeline>| {
            let empty = spare.next().unwrap_or_default();
            shard.with(move |pipeline, _| pipeline.engine.take_capture(empty))
        };
        // Every shard has the request before the first answer is awaited.
        let pending: Vec<_> = shards.iter().map(take).collect();
        let mut buffers = Vec::new();
        for answer in pending {
            // A shard that has stopped has captured nothing.
            buffers.push(answer.await.unwrap_or_default());
        }
        let captured = self.describe(&buffers);
        buffers.iter_mut().for_each(CaptureBuffer::clear);
        self.spare.replace(buffers);
        captured
    }

    /// Stops the capture and returns the remaining packets.
    pub(super) async fn stop(&self, shards: &Shards) -> Captured {
        let buffers = shards.ask_all(|engine, _| engine.stop_capture()).await;
        let captured = self.describe(&buffers);
        self.spare.take();
        self.clock.set(None);
        captured
    }

    fn describe(&self, buffers: &[CaptureBuffer]) -> Captured {
        let clock = self.clock.get().unwrap_or_else(Clock::read);
        let frames = buffers.iter().flat_map(CaptureBuffer::frames);
        let packets = frames.map(|(frame, bytes)| Packet {
            side: frame.side,
            direction: frame.metadata.direction,
            unix_nanos: unix_nanos(clock.time_of_day(frame.at)),
            comment: frame.metadata.to_string(),
            bytes: bytes.to_vec(),
        });
        let mut packets: Vec<_> = packets.collect();
        // The packets of each shard are in order.
        packets.sort_by_key(|packet| packet.unix_nanos);
        let dropped = |side| buffers.iter().map(|buffer| buffer.dropped(side)).sum();
        Captured {
            packets,
            dropped: Counts {
                tunnel: dropped(Side::Tunnel),
                lan: dropped(Side::Lan),
            },
        }
    }
}

async fn has_peer(shards: &Shards, name: String) -> bool {
    let known = shards.ask_one(move |engine, _| {
        let mut peers = engine.tunnel().peers();
        peers.any(|peer| peer.name == name)
    });
    known.await.unwrap_or(false)
}
