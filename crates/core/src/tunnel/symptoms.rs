//! Signs that a peer's client is configured incorrectly, collected for each peer over several
//! datagrams.
//!
//! It decides nothing about a datagram: it only recognizes causes that one datagram does not show.

use super::failures::{Failure, FailureCause};
use super::handshake::{Context, INITIATION, RESPONSE};
use super::peer::Peer;
use super::settings::Path;
use boringtun::noise::errors::WireGuardError;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Maximum time between two answered initiations that belong to one failing handshake. A client
/// tries again every 5 s (REKEY_TIMEOUT).
const RETRY_WINDOW: Duration = Duration::from_secs(30);
/// Number of consecutive responses without a confirmation that packet loss does not explain.
const MIN_UNCONFIRMED: u8 = 2;
/// Number of returns to the previous endpoint that indicate two devices. A client that changes its
/// network does not return that often.
const MIN_RETURNS: u8 = 3;
/// Maximum time between two such returns: idle devices send keepalives every 25 s.
const RETURN_WINDOW: Duration = Duration::from_secs(60);
/// Minimum time between two such returns: while a client changes its network, packets from its old
/// and new address can arrive interleaved.
const MIN_RETURN_INTERVAL: Duration = Duration::from_secs(1);

/// The signs of one peer.
#[derive(Debug, Default)]
pub(super) struct Symptoms {
    /// The last failure, reported or not.
    pub(super) last: Option<Failure>,
    unconfirmed: Unconfirmed,
    alternation: Alternation,
    /// The beginning of the last accepted initiation's mac1, to recognize a duplicate.
    initiation: Option<[u8; 8]>,
}

#[derive(Debug, Default)]
struct Unconfirmed {
    count: u8,
    last: Option<Instant>,
}

#[derive(Debug, Default)]
struct Alternation {
    previous: Option<SocketAddr>,
    returns: u8,
    last: Option<Instant>,
}

impl Symptoms {
    /// Notes an initiation that was answered. Returns true if the client did not confirm the last
    /// answers either.
    pub(super) fn answered(&mut self, initiation: &[u8], now: Instant) -> bool {
        self.initiation = mac(initiation);
        let Unconfirmed { count, last } = &mut self.unconfirmed;
        let is_retry = last.is_some_and(|at| now.saturating_duration_since(at) < RETRY_WINDOW);
        let failing = is_retry && *count >= MIN_UNCONFIRMED;
        *count = if is_retry { count.saturating_add(1) } else { 1 };
        *last = Some(now);
        failing
    }

    /// Notes that a session works.
    pub(super) fn confirmed(&mut self) {
        self.unconfirmed = Unconfirmed::default();
    }

    /// Returns whether an initiation is a copy of the one that was accepted last.
    pub(super) fn is_duplicate(&self, initiation: &[u8]) -> bool {
        self.initiation.is_some() && self.initiation == mac(initiation)
    }

    /// Notes that the endpoint moved. Returns true if it alternates between the two addresses.
    pub(super) fn moved(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) -> bool {
        let Alternation {
            previous,
            returns,
            last,
        } = &mut self.alternation;
        let is_return = *previous == Some(to);
        *previous = Some(from);
        let age = last.map(|at| now.saturating_duration_since(at));
        if !is_return || age.is_some_and(|age| age < MIN_RETURN_INTERVAL) {
            return false;
        }
        *last = Some(now);
        *returns = match age {
            Some(age) if age < RETURN_WINDOW => returns.saturating_add(1),
            _ => 1,
        };
        *returns >= MIN_RETURNS
    }
}

impl Peer {
    /// Notes that an initiation was valid and is answered.
    pub(super) fn initiation_accepted(
        &mut self,
        initiation: &[u8],
        path: &Path,
        ctx: &mut Context,
    ) {
        let symptoms = self.symptoms.get_or_insert_default();
        if symptoms.answered(initiation, ctx.now) && !self.ready {
            let cause = FailureCause::AnswersUnconfirmed;
            self.note_failure(cause, path, ctx.failures, ctx.now);
        }
    }

    /// Notes that a handshake message for this peer was refused.
    pub(super) fn handshake_refused(
        &mut self,
        message: &[u8],
        error: &WireGuardError,
        path: &Path,
        ctx: &mut Context,
    ) {
        let symptoms = self.symptoms.as_deref();
        let cause = match (message.first(), error) {
            (Some(&INITIATION), WireGuardError::WrongTai64nTimestamp) => {
                if symptoms.is_some_and(|symptoms| symptoms.is_duplicate(message)) {
                    return;
                }
                FailureCause::OldTimestamp
            }
            // mac1 and the receiver index are valid, so the preshared key must differ.
            (Some(&RESPONSE), WireGuardError::InvalidAeadTag) => FailureCause::PresharedKey,
            // The sender is not authenticated: the failure is not attributed to the peer.
            (Some(&INITIATION), WireGuardError::InvalidAeadTag) => {
                ctx.failures.note(Failure {
                    cause: FailureCause::NotAuthentic,
                    source: path.remote,
                    peer: None,
                    at: ctx.now,
                });
                return;
            }
            _ => return,
        };
        self.note_failure(cause, path, ctx.failures, ctx.now);
    }

    /// Notes a packet whose inner source address is not the peer's. Addresses that every system
    /// uses for link-local messages do not indicate an error.
    pub(super) fn source_refused(&mut self, source: IpAddr, path: &Path, ctx: &mut Context) {
        let is_link_local = match source {
            IpAddr::V4(source) => source.is_link_local(),
            IpAddr::V6(source) => source.is_unicast_link_local(),
        };
        if !is_link_local && !source.is_unspecified() && !source.is_multicast() {
            let cause = FailureCause::SourceNotAllowed(source);
            self.note_failure(cause, path, ctx.failures, ctx.now);
        }
    }
}

/// The beginning of the mac1 of an initiation.
fn mac(initiation: &[u8]) -> Option<[u8; 8]> {
    initiation.get(116..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn devices() -> [SocketAddr; 2] {
        ["192.0.2.1:1000", "192.0.2.2:1000"].map(|text| text.parse().unwrap())
    }

    #[test]
    fn an_endpoint_that_keeps_returning_belongs_to_two_devices() {
        let [a, b] = devices();
        let (mut symptoms, mut now) = (Symptoms::default(), Instant::now());
        let mut seen = Vec::new();
        for (from, to) in [(a, b), (b, a), (a, b), (b, a), (a, b)] {
            now += 13 * SECOND;
            seen.push(symptoms.moved(from, to, now));
        }
        assert_eq!(seen, [false, false, false, true, true]);
    }

    #[test]
    fn a_client_that_changes_its_network_is_one_device() {
        let [a, b] = devices();
        let start = Instant::now();
        // Packets of both addresses arrive interleaved.
        let mut symptoms = Symptoms::default();
        for millisecond in 0..400 {
            let (from, to) = if millisecond % 2 == 0 { (a, b) } else { (b, a) };
            let now = start + Duration::from_millis(millisecond);
            assert!(!symptoms.moved(from, to, now));
        }
        // Home and office, every hour.
        let mut symptoms = Symptoms::default();
        for hour in 0..48u32 {
            let (from, to) = if hour % 2 == 0 { (a, b) } else { (b, a) };
            assert!(!symptoms.moved(from, to, start + hour * 3600 * SECOND));
        }
        // A new port after each pause, as behind some NATs.
        let mut symptoms = Symptoms::default();
        for port in 1..1000u16 {
            let (from, to) = (
                SocketAddr::new(a.ip(), port),
                SocketAddr::new(a.ip(), port + 1),
            );
            assert!(!symptoms.moved(from, to, start + u32::from(port) * SECOND));
        }
    }

    #[test]
    fn answers_that_are_never_confirmed_are_noticed_and_lost_ones_are_not() {
        let (mut symptoms, start) = (Symptoms::default(), Instant::now());
        assert!(!symptoms.answered(&[1; 148], start));
        assert!(!symptoms.answered(&[2; 148], start + 5 * SECOND));
        assert!(symptoms.answered(&[3; 148], start + 10 * SECOND));
        symptoms.confirmed();
        assert!(!symptoms.answered(&[4; 148], start + 15 * SECOND));
        assert!(!symptoms.answered(&[5; 148], start + 120 * SECOND));
        assert!(!symptoms.answered(&[6; 148], start + 240 * SECOND));
    }
}
