//! Requests to the shards. A request runs in each shard between two of its batches, so it must be
//! short; requests and changes reach all shards in the same order. It decides nothing.

use super::pipeline::ShardPipeline;
use super::report;
use crate::control::endpoint::Refusal;
use std::net::IpAddr;
use std::time::Instant;
use vcgate_core::engine::Engine;
use vcgate_core::nat;
use vcgate_io::shard::ShardHandle;

/// Maximum number of flow slots that one request visits.
const SLOTS_PER_REQUEST: usize = 512;

/// The running shards, in the order of their numbers.
pub(super) struct Shards(Vec<ShardHandle<ShardPipeline>>);

impl Shards {
    pub(super) fn new(handles: Vec<ShardHandle<ShardPipeline>>) -> Self {
        Self(handles)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ShardHandle<ShardPipeline>> {
        self.0.iter()
    }

    /// Runs a request in all shards. A shard that has stopped gives no answer: the endpoint is
    /// about to stop then, and reports the cause itself.
    pub(super) async fn ask_all<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Engine, Instant) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let ask = |shard: &ShardHandle<ShardPipeline>| {
            let request = request.clone();
            shard.with(move |pipeline, now| request(&mut pipeline.engine, now))
        };
        // Every shard has the request before the first answer is awaited.
        let pending: Vec<_> = self.0.iter().map(ask).collect();
        let mut answers = Vec::new();
        for answer in pending {
            answers.extend(answer.await.ok());
        }
        answers
    }

    /// Runs a request in one shard, about state that is the same in all.
    pub(super) async fn ask_one<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Engine, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let shard = self.0.first()?;
        let answer = shard.with(move |pipeline, now| request(&mut pipeline.engine, now));
        answer.await.ok()
    }

    /// Collects from the flows of all shards, a bounded number of slots per request.
    pub(super) async fn collect_flows<T: Send + 'static>(
        &self,
        pick: impl Fn(&Engine, &nat::Flow) -> Option<T> + Clone + Send + 'static,
    ) -> Vec<T> {
        let mut all = Vec::new();
        for part in 0.. {
            let slots = part * SLOTS_PER_REQUEST..(part + 1) * SLOTS_PER_REQUEST;
            let pick = pick.clone();
            let answers = self.ask_all(move |engine, now| {
                let more = engine.nat().slot_count() > slots.end;
                let flows = engine.nat().flows_in(slots, now);
                let picked = flows.filter_map(|flow| pick(engine, &flow));
                (picked.collect::<Vec<_>>(), more)
            });
            let answers = answers.await;
            let more = answers.iter().any(|(_, more)| *more);
            all.extend(answers.into_iter().flat_map(|(picked, _)| picked));
            if !more {
                break;
            }
        }
        all
    }

    /// Returns the name of the peer that has an inner address.
    pub(super) async fn client_name(&self, address: IpAddr) -> String {
        let name = self.ask_one(move |engine, _| report::client_name(engine, address));
        name.await.unwrap_or_default()
    }
}

/// Returns a refusal without a remedy.
pub(super) fn refusal(message: impl ToString) -> Refusal {
    Refusal {
        message: message.to_string(),
        remedy: None,
    }
}
