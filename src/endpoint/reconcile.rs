//! The endpoint goes along with its host while it runs: what others take away of the set-up is put
//! back, and clients reach the networks that the LAN's interface has now.

use super::active_config::ActiveConfig;
use super::assemble::destinations;
use super::handle::EndpointHandle;
use crate::host::{HostError, NetlinkMonitor};
use ipnet::IpNet;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::time::Duration;
use tokio::time::timeout;

/// Changes come in groups: an interface goes off and on, an address is taken away and given back.
const SETTLE: Duration = Duration::from_millis(250);
/// What the kernel gives no notice of is looked for this often.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Who takes it away again and again is answered at least so often.
const LONGEST: Duration = Duration::from_secs(60);

impl EndpointHandle {
    /// Looks after the host whenever it changes, until the endpoint stops.
    pub(super) async fn reconcile(&self, notices: NetlinkMonitor) -> Infallible {
        let mut pause = SETTLE;
        loop {
            if let Err(error) = self.next_change(&notices).await {
                tracing::warn!(%error, "what is taken away of the host's set-up is no longer noticed: restart vcgate");
                return pending().await;
            }
            // Those that come meanwhile need no look of their own.
            let _ = timeout(pause, async { while notices.next().await.is_ok() {} }).await;
            pause = match self.look_after_host().await {
                true => SETTLE,
                false => LONGEST.min(pause * 2),
            };
        }
    }

    /// Waits for a notice of the kernel, or until something is missing that it gives none of.
    async fn next_change(&self, notices: &NetlinkMonitor) -> io::Result<()> {
        loop {
            if let Ok(notice) = timeout(POLL_INTERVAL, notices.next()).await {
                return notice;
            }
            if !self.guard.is_complete().await {
                return Ok(());
            }
        }
    }

    /// Whether everything was still there.
    async fn look_after_host(&self) -> bool {
        let mut force = self.force.lock().await;
        let lan_changed = self.look_at_lan(&mut force).await;
        if self.look_at_broadcasts(&mut force).await || lan_changed {
            self.set_global_policy(&force).await;
        }
        self.restore_missing(&mut force).await
    }

    /// Translates where clients' packets leave by other interfaces now. Returns what was missing.
    pub(super) async fn follow_egress(
        &self,
        force: &mut ActiveConfig,
    ) -> Vec<Result<String, HostError>> {
        let mut destinations = destinations(&force.config);
        destinations.extend(&force.on_lan);
        match force.egress.follow(&destinations).await {
            Ok(missing) => missing.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    }

    /// Takes over which broadcast addresses the host has now; returns whether they changed.
    async fn look_at_broadcasts(&self, force: &mut ActiveConfig) -> bool {
        match self.guard.broadcasts().await {
            Ok(broadcasts) if broadcasts != force.broadcasts => {
                force.broadcasts = broadcasts;
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "clients may reach new broadcast addresses of this machine");
                false
            }
        }
    }

    /// Takes over which networks the LAN's interface has now. Whether that is something else for
    /// clients.
    pub(super) async fn look_at_lan(&self, force: &mut ActiveConfig) -> bool {
        let networks = self.guard.lan_networks().await;
        // Without any, an interface is off or between two addresses: clients keep what they have.
        if networks.is_empty() || networks == force.on_lan {
            return false;
        }
        force.on_lan = networks;
        let counts = force.config.lan.networks.is_empty();
        if counts {
            let networks = force.on_lan.iter().map(IpNet::to_string);
            let networks = networks.collect::<Vec<_>>().join(", ");
            tracing::info!(
                networks,
                "the LAN interface has other networks: clients reach these"
            );
        }
        counts
    }

    /// Puts back what is missing, with a word. Whether nothing was.
    async fn restore_missing(&self, force: &mut ActiveConfig) -> bool {
        let mut missing = self
            .guard
            .restore_missing(&force.config.forwards, &force.routes)
            .await;
        missing.extend(self.follow_egress(force).await);
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
