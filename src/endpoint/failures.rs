//! Reasons why clients cannot connect, from the shards to the log; those of strangers are also
//! stored for `vcgate peer why`.
//!
//! The data plane never waits: reports that the control plane does not fetch in time are dropped.

use super::active_config::ActiveConfig;
use super::report::{self, Clock};
use crate::config::{Peer, PeerState};
use crate::control::failure::{Cause, Failure};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::SystemTime;
use tokio::sync::{Mutex, mpsc};
use vcgate_core::engine::Engine;
use vcgate_core::tunnel;

/// Maximum number of reports that wait for the control plane.
const QUEUE_CAPACITY: usize = 256;
/// Maximum number of failures of strangers that are kept.
const MAX_STRANGERS: usize = 64;

/// A failure and the name of the peer, if it is known.
type Report = (tunnel::Failure, Option<String>);

/// The shards' end of the queue.
#[derive(Clone)]
pub(super) struct Sender(mpsc::Sender<Report>);

impl Sender {
    /// Sends the engine's failures.
    pub(super) fn drain(&self, engine: &mut Engine) {
        while let Some(failure) = engine.poll_failure() {
            let name = failure.peer.and_then(|peer| engine.tunnel().name(peer));
            let report = (failure, name.map(str::to_owned));
            // If the queue is full the report is lost; the failure is reported again in a minute.
            let _ = self.0.try_send(report);
        }
    }
}

/// Returns both ends of a new queue.
pub(super) fn channel() -> (Sender, mpsc::Receiver<Report>) {
    let (sender, reports) = mpsc::channel(QUEUE_CAPACITY);
    (Sender(sender), reports)
}

/// The last failures of strangers, oldest first: one for each source and cause.
#[derive(Debug, Default)]
pub(super) struct Strangers(VecDeque<Failure>);

impl Strangers {
    fn push(&mut self, failure: Failure) {
        self.0.retain(|other| {
            other.source.ip() != failure.source.ip() || other.cause != failure.cause
        });
        if self.0.len() == MAX_STRANGERS {
            self.0.pop_front();
        }
        self.0.push_back(failure);
    }

    pub(super) fn list(&self) -> Vec<Failure> {
        self.0.iter().cloned().collect()
    }
}

/// Logs why clients cannot connect, until the endpoint stops.
pub(super) async fn log_all(
    active: &Mutex<ActiveConfig>,
    strangers: &RefCell<Strangers>,
    mut reports: mpsc::Receiver<Report>,
) -> Infallible {
    while let Some((failure, peer)) = reports.recv().await {
        let failure = report::failure(&failure, Clock::read());
        // To the engine, a peer that may not connect is a stranger.
        if let Cause::UnknownKey { public_key } = failure.cause
            && let Some(peer) =
                (active.lock().await.config.peers.iter()).find(|peer| peer.public_key == public_key)
        {
            log_inactive(peer, failure.source);
            continue;
        }
        log(&failure, peer.as_deref());
        if peer.is_none() {
            strangers.borrow_mut().push(failure);
        }
    }
    std::future::pending().await
}

fn log_inactive(peer: &Peer, source: SocketAddr) {
    let name = &peer.name;
    let (meaning, remedy) = match peer.lifecycle.state(SystemTime::now()) {
        PeerState::Expired => ("has expired", format!("vcgate peer set {name} expires=30d")),
        PeerState::Disabled => ("is disabled", format!("vcgate peer enable {name}")),
        // It has been enabled since.
        PeerState::Enabled => return,
    };
    tracing::info!(peer = %name, %source, "cannot connect a client: its peer {meaning}; `{remedy}`");
}

fn log(failure: &Failure, peer: Option<&str>) {
    let Failure { source, cause, .. } = failure;
    let (meaning, remedy) = (cause.meaning(), cause.remedy(peer));
    let action = match cause {
        Cause::SourceNotAllowed { .. } => "cannot forward a packet of the client",
        Cause::SharedKey { .. } => "cannot determine the client's endpoint",
        _ => "cannot connect a client",
    };
    match peer {
        Some(peer) => tracing::warn!(%peer, %source, "{action}: {meaning}; {remedy}"),
        // Anyone can cause these.
        None => tracing::info!(from = %source, "{action}: {meaning}; {remedy}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::time::Timestamp;
    use std::net::{Ipv4Addr, SocketAddr};

    #[test]
    fn strangers_are_kept_once_each_and_bounded() {
        let failure = |source: u32, time| Failure {
            time: Timestamp(time),
            source: SocketAddr::new(Ipv4Addr::from_bits(source).into(), time as u16),
            cause: Cause::WrongServerKey,
        };
        let mut strangers = Strangers::default();
        strangers.push(failure(1, 1));
        strangers.push(failure(2, 2));
        strangers.push(failure(1, 3));
        assert_eq!(strangers.list(), [failure(2, 2), failure(1, 3)]);
        for source in 0..1000 {
            strangers.push(failure(source, 4));
        }
        assert_eq!(strangers.list().len(), MAX_STRANGERS);
    }
}
