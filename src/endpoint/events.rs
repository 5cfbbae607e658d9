//! What the SMB hook reports, on its way from the shard to the log and to `vcgate smb`.
//!
//! The data plane never waits: when the control plane is behind, events stay with the hook, which
//! drops and counts those that are too many; packets are never dropped for it.

use crate::control::report::Logon;
use std::collections::VecDeque;
use std::time::Instant;
use tokio::sync::mpsc;
use vcgate_core::smb::Event;

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
    /// A place for one more, if the control plane is not behind.
    pub(super) fn place(&self) -> Option<mpsc::Permit<'_, Timed>> {
        self.queue.try_reserve().ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use vcgate_core::smb::{Cause, Ends, Unchanged};

    #[test]
    fn there_is_no_place_for_more_until_some_were_told() {
        let (sender, mut events) = channel();
        let (event, now) = (Event::MassDisconnect(cause()), Instant::now());
        for _ in 0..QUEUE {
            sender.place().unwrap().send((event, now));
        }
        assert!(sender.place().is_none());
        assert_eq!(events.try_recv(), Ok((event, now)));
        assert!(sender.place().is_some());
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
