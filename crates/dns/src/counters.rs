//! Counters of questions: each question has one outcome. They survive a change of the settings, and know
//! no names.

use domain::base::iana::Rcode;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Questions of clients since the start, by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// All questions. Those that wait for an answer have no outcome yet.
    pub queries: u64,
    /// Answered from records, names of peers and reverse zones.
    pub local: u64,
    /// Answered from the cache of servers' answers.
    pub cache_hits: u64,
    /// Answered by a server.
    pub forwarded: u64,
    /// Answered by a NetBIOS lookup, or because no host has the name on the LAN.
    pub netbios: u64,
    /// Answered with REFUSED, or not a question for this server.
    pub refused: u64,
    /// Answered with SERVFAIL: no server has an answer.
    pub failed: u64,
    /// Dropped since the client, or all together, asked for too much.
    pub limited: u64,
}

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Local,
    Cache,
    Server,
    Netbios,
}

/// The counters of a running server.
#[derive(Debug, Default)]
pub(crate) struct LiveCounters {
    queries: AtomicU64,
    local: AtomicU64,
    cache_hits: AtomicU64,
    forwarded: AtomicU64,
    netbios: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    limited: AtomicU64,
}

impl LiveCounters {
    pub(crate) fn read(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        Counters {
            queries: of(&self.queries),
            local: of(&self.local),
            cache_hits: of(&self.cache_hits),
            forwarded: of(&self.forwarded),
            netbios: of(&self.netbios),
            refused: of(&self.refused),
            failed: of(&self.failed),
            limited: of(&self.limited),
        }
    }

    /// Counts a question that has arrived.
    pub(crate) fn query(&self) {
        self.queries.fetch_add(1, Relaxed);
    }

    /// Counts a question that was dropped.
    pub(crate) fn limited(&self) {
        self.limited.fetch_add(1, Relaxed);
    }

    /// Counts an answer by its code, and by its source where it has the name, or knows that it does not
    /// exist. Without a source, the message was not a question for this server.
    pub(crate) fn answered(&self, source: Option<Source>, answer: &[u8]) {
        let rcode = Rcode::masked_from_int(answer.get(3).copied().unwrap_or_default());
        let counter = match (source, rcode) {
            (None, _) | (_, Rcode::REFUSED) => &self.refused,
            (_, Rcode::SERVFAIL) => &self.failed,
            (Some(Source::Local), _) => &self.local,
            (Some(Source::Cache), _) => &self.cache_hits,
            (Some(Source::Server), _) => &self.forwarded,
            (Some(Source::Netbios), _) => &self.netbios,
        };
        counter.fetch_add(1, Relaxed);
    }
}
