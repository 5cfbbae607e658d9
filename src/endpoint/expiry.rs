//! Ends peers whose time is over: their sessions, their flows, and their place in the engines. The
//! configuration keeps them. It changes no file.

use super::state::EndpointHandle;
use crate::config::{Change, Peer};
use crate::control::caller::Caller;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

/// Maximum time between two looks at the clock, which may be set.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl EndpointHandle {
    /// Ends peers at the time when they expire.
    pub(super) async fn end_expired_peers(&self) -> Infallible {
        let mut checked = SystemTime::now();
        loop {
            tokio::time::sleep(self.until_next_expiry().await).await;
            let now = SystemTime::now();
            let caller = Caller::internal("the time in `expires`");
            caller.run(self.end_expired(checked, now)).await;
            checked = now;
        }
    }

    /// Returns the time until the next peer expires, at most [`CLOCK_CHECK_INTERVAL`].
    async fn until_next_expiry(&self) -> Duration {
        let now = SystemTime::now();
        let active = self.active.lock().await;
        let times = active.config.peers.iter().filter_map(|peer| {
            let expires = SystemTime::from(peer.lifecycle.expires?);
            expires.duration_since(now).ok()
        });
        times
            .min()
            .unwrap_or(CLOCK_CHECK_INTERVAL)
            .min(CLOCK_CHECK_INTERVAL)
    }

    /// Ends the peers that expired between two times.
    async fn end_expired(&self, before: SystemTime, now: SystemTime) {
        let mut active = self.active.lock().await;
        let expires = |peer: &&Peer| {
            let life = &peer.lifecycle;
            life.is_active(before) && !life.is_active(now)
        };
        let expired: Vec<Peer> = { active.config.peers.iter().filter(expires) }
            .cloned()
            .collect();
        for peer in expired {
            // A peer is always removed; only a stopping endpoint refuses.
            let _ = self.make_one(&mut active, Change::PeerExpired(peer)).await;
        }
    }
}
