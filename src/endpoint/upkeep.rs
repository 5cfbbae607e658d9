//! What others take away of what the host was set up with is put back while the endpoint runs.

use super::running::Running;
use crate::host::Notices;
use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;
use tokio::time::timeout;

/// Changes come in groups: an interface goes off and on, an address is taken away and given back.
const SETTLE: Duration = Duration::from_millis(250);
/// Nobody who takes it away again and again is answered in kind more seldom than this.
const LONGEST: Duration = Duration::from_secs(60);

impl Running {
    /// Looks after the host whenever it changes, until the endpoint stops.
    pub(super) async fn keep_up(&self, notices: Notices) -> Infallible {
        let mut pause = SETTLE;
        loop {
            pause = match self.put_back().await {
                true => SETTLE,
                false => LONGEST.min(pause * 2),
            };
            if let Err(error) = notices.next().await {
                tracing::warn!(%error, "what is taken away of the host's set-up is no longer noticed: restart vcgate");
                return pending().await;
            }
            // Those that come meanwhile need no look of their own.
            let _ = timeout(pause, async { while notices.next().await.is_ok() {} }).await;
        }
    }

    /// Whether everything was still there.
    async fn put_back(&self) -> bool {
        let force = self.force.lock().await;
        let missing = self
            .guard
            .put_back(&force.config.forwards, &force.routes)
            .await;
        let in_order = missing.is_empty();
        let (back, refused): (Vec<_>, Vec<_>) = missing.into_iter().partition(Result::is_ok);
        let back: Vec<_> = back.into_iter().flatten().collect();
        if !back.is_empty() {
            let missing = back.join(", ");
            tracing::warn!(
                "something on this machine had taken away what clients need; put back: {missing}"
            );
        }
        for error in refused.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "cannot put back what clients need");
        }
        in_order
    }
}
