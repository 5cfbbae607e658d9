//! Messages to the service manager that started the endpoint (sd_notify(3)), if one waits for them.
//! It never fails: a manager that cannot be reached is logged.

use super::shards::Shards;
use sd_notify::NotifyState;
use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::error;

/// Reports to the watchdog in the time that it waits for one.
const REPORTS: u32 = 4;

/// Reports that clients can connect.
pub(super) fn ready() {
    send(NotifyState::Ready);
}

/// Reports that the endpoint ends.
pub(super) fn stopping() {
    send(NotifyState::Stopping);
}

/// Reports, as often as the service manager asks for it, that all shards and the control plane work:
/// each shard has answered a request since the last report. A shard that hangs ends the reports, so
/// that the manager ends the process and starts another one.
pub(super) async fn feed_watchdog(shards: &Shards) -> Infallible {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return pending().await;
    };
    loop {
        let next = Instant::now() + limit / REPORTS;
        wait_for_all(shards, limit / 2).await;
        send(NotifyState::Watchdog);
        sleep_until(next).await;
    }
}

/// Waits until all shards have answered. Logs an error if that takes longer than `patience`.
async fn wait_for_all(shards: &Shards, patience: Duration) {
    let mut answers = Box::pin(shards.ask_all(|_, _| ()));
    let answers = match timeout(patience, &mut answers).await {
        Ok(answers) => answers,
        Err(_) => {
            error!(
                "a thread of the data plane hangs: it has not answered for {patience:?}; if it \
                 does not answer soon, the service manager starts another process, which \
                 continues the flows"
            );
            answers.await
        }
    };
    if answers.len() < shards.len() {
        // A shard has stopped, and the endpoint is about to stop as well.
        pending::<()>().await;
    }
}

fn send(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(
            %error,
            "cannot report to the service manager; it may stop the service, look at NOTIFY_SOCKET"
        );
    }
}
