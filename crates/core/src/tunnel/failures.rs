//! Reasons why clients cannot connect, recorded for the log.
//!
//! Each cause is reported once per source and minute. The memory is bounded: unknown senders, whose
//! addresses can be forged, have a separate small table, so that they cannot displace the failures
//! of peers. Valid data packets never come here.

use super::handshake_limiter::site;
use crate::ids::PeerId;
use boringtun::x25519::PublicKey;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Minimum time between two reports of one cause from one source.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of reports about unknown senders in a [`REPORT_INTERVAL`].
pub(super) const MAX_STRANGERS: usize = 32;
/// Maximum number of reports about peers in a [`REPORT_INTERVAL`].
const MAX_PEER_FAILURES: usize = 1024;
/// Maximum number of reports that wait for [`Failures::poll`].
const QUEUE_CAPACITY: usize = 128;
/// Minimum time between two searches of a full table for entries to remove.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A failed handshake, or another reason why a client does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub cause: FailureCause,
    /// The sender of the datagram.
    pub source: SocketAddr,
    /// The peer, if the datagram identifies it.
    pub peer: Option<PeerId>,
    /// The time of the datagram.
    pub at: Instant,
}

/// The reason of a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// No peer has this public key.
    UnknownKey(PublicKey),
    /// The handshake was made for another public key than the endpoint's (mac1 differs).
    WrongServerKey,
    /// The handshake is damaged or forged.
    NotAuthentic,
    /// The response to the endpoint's initiation cannot be decrypted, although everything else in
    /// it is valid: the preshared keys differ.
    PresharedKey,
    /// The client's initiations are valid, but it never confirms the responses: the preshared keys
    /// differ, or the responses do not reach the client. The endpoint cannot distinguish the two.
    AnswersUnconfirmed,
    /// The initiation has an older time stamp than an earlier one: the client's clock was set back,
    /// or the message was replayed.
    OldTimestamp,
    /// The peer sent a packet from this inner address, which is not in its AllowedIPs.
    SourceNotAllowed(IpAddr),
    /// The endpoint alternates between this address and the source: two devices have one key.
    SharedKey(SocketAddr),
}

/// The failures to report.
#[derive(Debug)]
pub(super) struct Failures {
    peers: ReportTimes,
    strangers: ReportTimes,
    queue: VecDeque<Failure>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            peers: ReportTimes::new(MAX_PEER_FAILURES),
            strangers: ReportTimes::new(MAX_STRANGERS),
            queue: VecDeque::new(),
        }
    }
}

impl Failures {
    /// Queues a failure, unless the same one was reported recently.
    #[cold]
    pub(super) fn note(&mut self, failure: Failure) {
        let table = match failure.peer {
            Some(_) => &mut self.peers,
            None => &mut self.strangers,
        };
        if self.queue.len() < QUEUE_CAPACITY && table.is_due(&failure) {
            self.queue.push_back(failure);
        }
    }

    /// Drops the failures of a removed peer.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.queue.retain(|failure| failure.peer != Some(peer));
        self.peers
            .last
            .retain(|(_, other, _), _| *other != Some(peer));
    }

    /// Returns the next failure to report, oldest first.
    pub(super) fn poll(&mut self) -> Option<Failure> {
        self.queue.pop_front()
    }
}

/// The kind of the cause, the peer and the site of the source.
type Key = (std::mem::Discriminant<FailureCause>, Option<PeerId>, IpAddr);

/// The times of the last reports.
#[derive(Debug)]
struct ReportTimes {
    last: HashMap<Key, Instant>,
    capacity: usize,
    next_sweep: Option<Instant>,
}

impl ReportTimes {
    fn new(capacity: usize) -> Self {
        Self {
            last: HashMap::new(),
            capacity,
            next_sweep: None,
        }
    }

    fn is_due(&mut self, failure: &Failure) -> bool {
        let Failure {
            cause,
            source,
            peer,
            at: now,
        } = *failure;
        let source = site(source.ip().to_canonical());
        let key = (std::mem::discriminant(&cause), peer, source);
        let is_old = |at: Instant| now.saturating_duration_since(at) >= REPORT_INTERVAL;
        if let Some(last) = self.last.get_mut(&key) {
            let due = is_old(*last);
            if due {
                *last = now;
            }
            return due;
        }
        if self.last.len() >= self.capacity && self.next_sweep.is_none_or(|at| at <= now) {
            self.last.retain(|_, at| !is_old(*at));
            self.next_sweep = Some(now + SWEEP_INTERVAL);
        }
        let has_space = self.last.len() < self.capacity;
        if has_space {
            self.last.insert(key, now);
        }
        has_space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(source: u32, at: Instant) -> Failure {
        Failure {
            cause: FailureCause::WrongServerKey,
            source: SocketAddr::new(std::net::Ipv4Addr::from_bits(source).into(), 51820),
            peer: None,
            at,
        }
    }

    fn reported(failures: &mut Failures) -> usize {
        std::iter::from_fn(|| failures.poll()).count()
    }

    #[test]
    fn a_cause_is_reported_once_per_source_and_minute() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let peer = |cause, at| Failure {
            cause,
            peer: Some(PeerId(1)),
            ..stranger(1, at)
        };
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            failures.note(stranger(1, now));
            failures.note(stranger(2, now));
            failures.note(peer(FailureCause::OldTimestamp, now));
            failures.note(peer(FailureCause::PresharedKey, now));
        }
        assert_eq!(reported(&mut failures), 4);
        failures.note(stranger(1, start + REPORT_INTERVAL));
        assert_eq!(reported(&mut failures), 1);
    }

    #[test]
    fn a_flood_from_forged_addresses_is_bounded_and_leaves_peers_their_reports() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let mut count = 0;
        for number in 0..100_000 {
            failures.note(stranger(number, start));
            count += reported(&mut failures);
        }
        assert_eq!(count, MAX_STRANGERS);
        assert!(failures.strangers.last.len() <= MAX_STRANGERS);
        failures.note(Failure {
            peer: Some(PeerId(1)),
            ..stranger(1, start)
        });
        assert_eq!(reported(&mut failures), 1);
        failures.note(stranger(u32::MAX, start + REPORT_INTERVAL));
        assert_eq!(reported(&mut failures), 1);
    }

    #[test]
    fn a_queue_that_nothing_polls_is_bounded() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        for number in 0..100_000 {
            failures.note(Failure {
                peer: Some(PeerId(number)),
                ..stranger(number, start)
            });
        }
        assert_eq!(reported(&mut failures), QUEUE_CAPACITY);
        assert!(failures.peers.last.len() <= MAX_PEER_FAILURES);
    }
}
