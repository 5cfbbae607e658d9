//! What the SMB hook reports, on its way from the shard to the log and to `vcgate smb`.
//!
//! The data plane never waits: when the control plane is behind, events are dropped, never packets.

use super::report::Running;
use crate::control::report::Logon;
use crate::smb::{Event, Outcome};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Events that may be under way.
const QUEUE: usize = 1024;
/// Logons that `vcgate smb` shows.
const RECENT: usize = 100;

/// The shard's end.
pub(super) struct Sender {
    queue: mpsc::Sender<Event>,
}

impl Sender {
    pub(super) fn send(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            tracing::debug!("an SMB event was dropped: the control plane is behind");
        }
    }
}

/// The shard's end and the control plane's.
pub(super) fn channel() -> (Sender, mpsc::Receiver<Event>) {
    let (queue, events) = mpsc::channel(QUEUE);
    (Sender { queue }, events)
}

/// The last logons, oldest first.
#[derive(Default)]
pub(super) struct Recent(VecDeque<Logon>);

impl Recent {
    fn push(&mut self, logon: Logon) {
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back(logon);
    }

    pub(super) fn list(&self) -> Vec<Logon> {
        self.0.iter().cloned().collect()
    }
}

impl Running {
    /// Tells what the hook reports, until the endpoint stops.
    pub(super) async fn tell(&self, mut events: mpsc::Receiver<Event>) -> Infallible {
        while let Some(event) = events.recv().await {
            self.tell_one(event).await;
        }
        std::future::pending().await
    }

    async fn tell_one(&self, event: Event) {
        match event {
            Event::Logon(logon) => {
                let client = self.client_name(logon.ends.client.ip()).await;
                let (asked, given, server) = (logon.asked, logon.given, logon.ends.server);
                match logon.outcome {
                    Outcome::Kept | Outcome::Rewritten | Outcome::Observed => tracing::info!(
                        client, %server, asked, given, "SMB session setup"
                    ),
                    Outcome::Signed => tracing::warn!(
                        client, %server, asked,
                        "a signed SMB session setup goes unchanged: if its VcNumber is 0, the \
                         server may drop other users' connections"
                    ),
                }
                self.recent.borrow_mut().push(Logon {
                    unix_seconds: unix_seconds(SystemTime::now()),
                    client,
                    server,
                    vc_sent: asked,
                    vc_forwarded: given,
                });
            }
            Event::Bypass {
                flow: _,
                ends,
                reason,
            } => {
                let client = self.client_name(ends.client.ip()).await;
                let reason = reason.name();
                tracing::debug!(client, server = %ends.server, reason, "SMB flow not read");
            }
        }
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
