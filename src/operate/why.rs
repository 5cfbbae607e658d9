//! Reasons why a client cannot connect, or what may be wrong with it.
//!
//! It changes nothing and sends nothing: it judges what the endpoint has seen.

use super::{OperationError, checkup};
use crate::config::{Loaded, PeerState};
use crate::control::client::Client;
use crate::control::failure::{Cause, Failure};
use crate::control::report::{InactivePeer, PeerStatus, Status};
use crate::doctor::{Check, Verdict};
use crate::time::Timestamp;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::SystemTime;
use utoipa::ToSchema;

/// A failure is no explanation any more when it is this old, in seconds.
const MAX_FAILURE_AGE: u64 = 600;
/// Maximum number of unknown senders to show.
const MAX_STRANGERS: usize = 5;

/// The reason why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// There is no peer of this name.
    #[error("there is no peer {0:?}; see `vcgate peer list`")]
    NoPeer(String),
    /// The peer is disabled or has expired.
    #[error("{}", inactive(.0))]
    Inactive(InactivePeer),
    /// The running endpoint does not have the peer.
    #[error(
        "the running endpoint does not have peer {0:?}, which was added to the file later; let it \
         read the file again with `vcgate reload`"
    )]
    NotRunning(String),
    /// The endpoint does not answer.
    #[error(transparent)]
    Endpoint(#[from] OperationError),
    /// The firewalls of this machine cannot be checked.
    #[error("cannot check the firewalls: {0}; try again")]
    Check(#[from] std::io::Error),
}

/// Explains the state of a peer of a running endpoint.
///
/// # Errors
/// If there is no such peer, it may not connect, or the endpoint does not answer.
pub fn explain_peer(
    loaded: &Loaded,
    endpoint: &Client,
    name: &str,
) -> Result<Explanation, WhyError> {
    let config = &loaded.config;
    let status = endpoint.status().map_err(OperationError::from)?;
    let Some(peer) = status.peers.iter().find(|peer| peer.name == name) else {
        if config.peer(name).is_none() {
            return Err(WhyError::NoPeer(name.to_owned()));
        }
        return Err(
            match status.inactive.iter().find(|peer| peer.name == name) {
                Some(peer) => WhyError::Inactive(peer.clone()),
                None => WhyError::NotRunning(name.to_owned()),
            },
        );
    };
    let filter = match peer.connected {
        true => None,
        false => checkup::input_filter(loaded)?,
    };
    let endpoint = config.interface.endpoint.as_ref();
    let expected = endpoint.map_or_else(
        || format!("this machine's address and UDP port {}", status.listen_port),
        ToString::to_string,
    );
    let now = Timestamp::from(SystemTime::now()).0;
    Ok(Explanation {
        peer: name.to_owned(),
        connected: peer.connected,
        endpoint: peer.endpoint,
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
        last_handshake: peer.last_handshake,
        last_seen: peer.last_seen,
        last_failure: peer.last_failure.clone(),
        persistent_keepalive_seconds: peer.persistent_keepalive_seconds,
        queued_packets: peer.queued_packets,
        findings: findings(peer, &status, filter.as_ref(), &expected, now),
    })
}

/// Returns the reason why a peer may not connect.
fn inactive(peer: &InactivePeer) -> String {
    let name = &peer.name;
    match (peer.state, peer.expires) {
        (PeerState::Expired, Some(expires)) => format!(
            "peer {name} expired at {expires}; give it another time: vcgate peer set {name} expires=30d"
        ),
        _ => format!("peer {name} is disabled; let it connect: vcgate peer enable {name}"),
    }
}

/// The state of a peer and what may be wrong with it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// Its name.
    pub peer: String,
    /// Whether there is a session.
    pub connected: bool,
    /// The source of its last authenticated datagram.
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<SocketAddr>,
    /// Bytes received from it, as UDP payload.
    pub rx_bytes: u64,
    /// Bytes sent to it, as UDP payload.
    pub tx_bytes: u64,
    /// The time of the last completed handshake.
    #[schema(value_type = Option<String>)]
    pub last_handshake: Option<Timestamp>,
    /// When the last authentic message arrived from it.
    #[schema(value_type = Option<String>)]
    pub last_seen: Option<Timestamp>,
    /// The last reason why it could not connect, or does not work.
    pub last_failure: Option<Failure>,
    /// The keepalive interval.
    pub persistent_keepalive_seconds: Option<u16>,
    /// Packets that wait for a session.
    pub queued_packets: usize,
    /// The most likely one first.
    pub findings: Vec<Finding>,
}

/// Something that is wrong, or may be.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct Finding {
    /// How sure it is.
    pub confidence: Confidence,
    /// The cause.
    pub cause: String,
    /// The remedy.
    pub remedy: String,
}

/// How sure a finding is.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The endpoint has seen it.
    Certain,
    /// It fits what the endpoint has seen.
    Likely,
    /// Nothing contradicts it.
    Possible,
}

fn finding(confidence: Confidence, cause: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        confidence,
        cause: cause.into(),
        remedy: remedy.into(),
    }
}

/// Judges a peer. `filter` is the doctor's check of firewalls in front of the port, `expected` the
/// endpoint that the client must have.
fn findings(
    peer: &PeerStatus,
    status: &Status,
    filter: Option<&Check>,
    expected: &str,
    now: u64,
) -> Vec<Finding> {
    let failure = peer
        .last_failure
        .as_ref()
        .filter(|f| is_current(f, peer, now));
    let mut findings: Vec<Finding> = failure.map(|f| explain(f, peer)).into_iter().collect();
    if peer.connected {
        if findings.is_empty() && peer.flows == 0 {
            findings.push(finding(
                Confidence::Possible,
                "it has no open connection: if it uses the LAN at this moment, AllowedIPs in its \
                 file do not contain the LAN's networks",
                format!(
                    "hand out the client's file again (`vcgate peer show {}`)",
                    peer.name
                ),
            ));
        }
        if peer.denied_packets > 0 {
            findings.push(finding(
                Confidence::Possible,
                format!("the rules denied {} of its packets", peer.denied_packets),
                "see `reach` of the peer and `client_to_client`",
            ));
        }
        return findings;
    }
    if let Some(check) = filter.filter(|check| check.verdict != Verdict::Ok) {
        let confidence = match check.verdict {
            Verdict::Fail => Confidence::Likely,
            Verdict::Ok | Verdict::Warn => Confidence::Possible,
        };
        let remedy = check.remedy.clone().unwrap_or_default();
        findings.push(finding(confidence, check.meaning.clone(), remedy));
    }
    if failure.is_none() {
        findings.extend(strangers(peer, &status.failed_handshakes, now));
        findings.push(silence(peer, status.listen_port, expected));
    }
    findings.sort_by(|a, b| {
        let order = a.confidence.partial_cmp(&b.confidence);
        order.unwrap_or(std::cmp::Ordering::Equal)
    });
    findings
}

/// Whether a failure explains the present state.
fn is_current(failure: &Failure, peer: &PeerStatus, now: u64) -> bool {
    let lasts = matches!(
        failure.cause,
        Cause::SourceNotAllowed { .. } | Cause::SharedKey { .. }
    );
    let is_after_success = peer.last_handshake.is_none_or(|at| at <= failure.time);
    now.saturating_sub(failure.time.0) < MAX_FAILURE_AGE && (lasts || is_after_success)
}

fn explain(failure: &Failure, peer: &PeerStatus) -> Finding {
    let confidence = match failure.cause {
        Cause::AnswersUnconfirmed | Cause::OldTimestamp | Cause::SharedKey { .. } => {
            Confidence::Likely
        }
        _ => Confidence::Certain,
    };
    finding(
        confidence,
        format!("{} (from {})", failure.cause.meaning(), failure.source),
        failure.cause.remedy(Some(&peer.name)),
    )
}

/// Failed handshakes of unknown senders, which may be this peer's, newest first.
fn strangers(peer: &PeerStatus, failures: &[Failure], now: u64) -> Vec<Finding> {
    let recent = |failure: &&Failure| now.saturating_sub(failure.time.0) < MAX_FAILURE_AGE;
    let describe = |failure: &Failure| {
        let source = failure.source.ip();
        let is_its = peer.endpoint.is_some_and(|known| known.ip() == source);
        let confidence = match is_its {
            true => Confidence::Likely,
            false => Confidence::Possible,
        };
        let meaning = failure.cause.meaning();
        finding(
            confidence,
            format!("if {source} is this client: {meaning}"),
            failure.cause.remedy(Some(&peer.name)),
        )
    };
    let newest = failures.iter().rev().filter(recent);
    newest.take(MAX_STRANGERS).map(describe).collect()
}

/// Nothing of the peer arrives.
fn silence(peer: &PeerStatus, port: u16, expected: &str) -> Finding {
    let remedy = format!(
        "look whether its datagrams arrive: tcpdump -ni any udp port {port}; nothing means that \
         it is off, that Endpoint in its file is not {expected}, or that a router or firewall on \
         the way drops them"
    );
    let cause = match peer.rx_bytes {
        0 => "no datagram of it has arrived",
        _ => "nothing has arrived from it since its last session",
    };
    finding(Confidence::Possible, cause, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::{Lan, LanMode, SmbCounters};
    use std::collections::BTreeMap;

    const NOW: u64 = 1_700_000_000;

    fn peer() -> PeerStatus {
        PeerStatus {
            name: "anna".into(),
            public_key: [7; 32].into(),
            endpoint: Some("203.0.113.7:51820".parse().unwrap()),
            allowed_ips: Vec::new(),
            last_handshake: Some(Timestamp(NOW - 1000)),
            rx_bytes: 1,
            tx_bytes: 0,
            persistent_keepalive_seconds: None,
            queued_packets: 0,
            flows: 1,
            denied_packets: 0,
            limited_packets: 0,
            connected: false,
            last_failure: None,
            last_seen: None,
        }
    }

    fn status(failed_handshakes: Vec<Failure>) -> Status {
        Status {
            version: "0.1.0".into(),
            interface: "vcg0".into(),
            file: None,
            public_key: [9; 32].into(),
            listen_port: 51820,
            address: Vec::new(),
            lan: Lan {
                interface: "eth0".into(),
                address: [192, 168, 77, 2].into(),
                address6: None,
                mode: LanMode::Fixed,
                mapped: Vec::new(),
                addresses: Vec::new(),
                conflicts: Vec::new(),
            },
            uptime_seconds: 0,
            shards: 1,
            offloads: Vec::new(),
            peers: Vec::new(),
            drops: BTreeMap::new(),
            confinement: None,
            inactive: Vec::new(),
            failed_handshakes,
            dns: None,
            smb: SmbCounters::default(),
        }
    }

    fn failure(cause: Cause, source: &str, age: u64) -> Failure {
        Failure {
            time: Timestamp(NOW - age),
            source: source.parse().unwrap(),
            cause,
        }
    }

    fn judge(peer: &PeerStatus, strangers: Vec<Failure>) -> Vec<(Confidence, String)> {
        let found = findings(peer, &status(strangers), None, "vpn.example.com:51820", NOW);
        found.into_iter().map(|f| (f.confidence, f.cause)).collect()
    }

    #[test]
    fn a_failure_explains_a_peer_until_it_connects() {
        let mut anna = peer();
        anna.last_failure = Some(failure(Cause::PresharedKey, "203.0.113.7:51820", 5));
        let expected = (
            Confidence::Certain,
            "it has another preshared key, or none (from 203.0.113.7:51820)".to_owned(),
        );
        assert_eq!(judge(&anna, Vec::new()), [expected]);
        anna.connected = true;
        anna.last_handshake = Some(Timestamp(NOW - 1));
        assert_eq!(judge(&anna, Vec::new()), []);
    }

    #[test]
    fn an_unknown_sender_at_the_address_of_the_peer_comes_first() {
        let found = judge(
            &peer(),
            vec![
                failure(Cause::WrongServerKey, "203.0.113.7:999", 5),
                failure(Cause::WrongServerKey, "203.0.113.8:999", 4),
                failure(Cause::WrongServerKey, "203.0.113.9:999", MAX_FAILURE_AGE),
            ],
        );
        let begins: Vec<_> = found
            .iter()
            .map(|(confidence, cause)| (*confidence, &cause[..17]))
            .collect();
        let expected = [
            (Confidence::Likely, "if 203.0.113.7 is"),
            (Confidence::Possible, "if 203.0.113.8 is"),
            (Confidence::Possible, "nothing has arriv"),
        ];
        assert_eq!(begins, expected);
    }

    #[test]
    fn a_firewall_and_a_peer_that_never_came_are_named() {
        let anna = PeerStatus {
            rx_bytes: 0,
            endpoint: None,
            ..peer()
        };
        let check = Check {
            name: "input-filter",
            verdict: Verdict::Fail,
            meaning: "chain input drops clients' datagrams".into(),
            remedy: Some("nft add rule …".into()),
        };
        let found = findings(&anna, &status(Vec::new()), Some(&check), "vpn:51820", NOW);
        assert_eq!(found[0].confidence, Confidence::Likely);
        assert_eq!(found[0].remedy, "nft add rule …");
        assert_eq!(found[1].cause, "no datagram of it has arrived");
        assert!(found[1].remedy.contains("is not vpn:51820"));
    }
}
