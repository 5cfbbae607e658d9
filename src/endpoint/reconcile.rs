//! Reconciliation with the host: restores parts of the set-up that others remove while the endpoint
//! runs, and adopts changes of the LAN interface's networks and of resolv.conf.

use super::active_config::ActiveConfig;
use super::state::EndpointHandle;
use crate::host::NetlinkMonitor;
use crate::host::programs::RESOLV_CONF;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Time to wait after a change: changes come in groups, as when an interface goes down and up.
const SETTLE_TIME: Duration = Duration::from_millis(250);
/// Interval of checks for changes that the kernel does not announce.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum time between two restorations if another program keeps removing the set-up.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Interval at which the machine's resolv.conf is read.
const RESOLV_CONF_INTERVAL: Duration = Duration::from_secs(10);

impl EndpointHandle {
    /// Reconciles after each change of the host, until the endpoint stops.
    pub(super) async fn reconcile(&self, changes: NetlinkMonitor) -> Infallible {
        let mut pause = SETTLE_TIME;
        loop {
            if let Err(error) = self.next_change(&changes).await {
                tracing::warn!("cannot monitor the host's set-up: {error}; restart vcgate");
                return pending().await;
            }
            // Changes during the pause are handled together.
            let _ = timeout(pause, async { while changes.next().await.is_ok() {} }).await;
            pause = match self.reconcile_once().await {
                true => SETTLE_TIME,
                false => MAX_PAUSE.min(pause * 2),
            };
        }
    }

    /// Waits for a change that the kernel announces, or that a check finds.
    async fn next_change(&self, changes: &NetlinkMonitor) -> io::Result<()> {
        loop {
            if let Ok(notice) = timeout(POLL_INTERVAL, changes.next()).await {
                return notice;
            }
            if !self.reconciler.is_complete().await {
                return Ok(());
            }
        }
    }

    /// Reconciles once. Returns whether nothing was missing.
    async fn reconcile_once(&self) -> bool {
        let mut active = self.active.lock().await;
        let lan_changed = self.update_lan_networks(&mut active).await;
        if self.update_broadcasts(&mut active).await || lan_changed {
            self.set_global_policy(&active).await;
        }
        self.restore_missing(&mut active).await
    }

    /// Restores the missing parts of the set-up and logs them. Returns whether nothing was missing.
    async fn restore_missing(&self, active: &mut ActiveConfig) -> bool {
        let mut missing = self
            .reconciler
            .restore_missing(&active.config.forwards, &active.routes)
            .await;
        missing.extend(self.update_egress(active).await);
        let complete = missing.is_empty();
        let (restored, failed): (Vec<_>, Vec<_>) = missing.into_iter().partition(Result::is_ok);
        let restored: Vec<_> = restored.into_iter().flatten().collect();
        if !restored.is_empty() {
            let missing = restored.join(", ");
            tracing::warn!(
                "restored parts of the set-up that another program had removed: {missing}"
            );
        }
        for error in failed.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "cannot restore a part of the set-up");
        }
        complete
    }

    /// Follows the machine's resolv.conf, which changes with its DHCP lease, until the endpoint stops.
    pub(super) async fn follow_resolv_conf(&self) -> Infallible {
        loop {
            sleep(RESOLV_CONF_INTERVAL).await;
            if self.names.reread_resolv_conf().await {
                let active = self.active.lock().await;
                self.names.update(&active).await;
                let servers = self.names.servers(&active);
                tracing::info!(?servers, "{RESOLV_CONF} has changed");
            }
        }
    }
}
