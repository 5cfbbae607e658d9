//! What the SMB hook reports, on its way from the shard to the log and to `vcgate smb`.
//!
//! The data plane never waits: when the control plane is behind, events are dropped, never packets.

use crate::control::report::Logon;
use crate::smb::Event;
use std::collections::VecDeque;
use std::time::Instant;
use tokio::sync::mpsc;

/// Events that may be under way.
const QUEUE: usize = 1024;
/// Logons that `vcgate smb` shows.
const RECENT: usize = 100;

/// A shard's end.
#[derive(Clone)]
pub(super) struct Sender {
    queue: mpsc::Sender<Timed>,
}

/// An event, and when it happened.
pub(super) type Timed = (Event, Instant);

impl Sender {
    pub(super) fn send(&self, event: Event, now: Instant) {
        if self.queue.try_send((event, now)).is_err() {
            tracing::debug!("an SMB event was dropped: the control plane is behind");
        }
    }
}

/// The shards' end and the control plane's.
pub(super) fn channel() -> (Sender, mpsc::Receiver<Timed>) {
    let (queue, events) = mpsc::channel(QUEUE);
    (Sender { queue }, events)
}

/// The last logons, oldest first.
#[derive(Default)]
pub(super) struct Recent(VecDeque<Logon>);

impl Recent {
    pub(super) fn push(&mut self, logon: Logon) {
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back(logon);
    }

    pub(super) fn list(&self) -> Vec<Logon> {
        self.0.iter().cloned().collect()
    }
}
