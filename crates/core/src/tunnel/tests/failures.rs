//! Each misconfiguration of a client is reported with its cause, and a correct client is not.

use super::attack::{initiation, offer};
use super::net::*;
use crate::keys::PresharedKey;
use crate::tunnel::{DropReason, Failure, FailureCause, Received};
use boringtun::noise::Tunn;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Returns the failures that the gateway reports, with the sender's address.
fn reported(net: &mut Net) -> Vec<(FailureCause, String)> {
    let tunnel = &mut net.nodes[GATEWAY].tunnel;
    let failures = std::iter::from_fn(|| tunnel.poll_failure());
    failures
        .map(|Failure { cause, source, .. }| (cause, source.to_string()))
        .collect()
}

fn client() -> String {
    "198.51.100.7:40000".into()
}

fn with_preshared_keys(keys: [Option<u8>; 2]) -> Net {
    Net::with(|me, settings| {
        settings.preshared_key = keys[me].map(|byte| PresharedKey::from([byte; 32]));
    })
}

/// Sends the gateway an initiation of `noise`.
fn offer_from(net: &mut Net, noise: &mut Tunn, source: &str) {
    let (from, message, now) = (path(source), initiation(noise), net.now);
    let _ = offer(&mut net.nodes[GATEWAY].tunnel, &from, &message, now);
}

fn noise(private: u8, server: u8) -> Tunn {
    Tunn::new(secret(private), public(server), None, None, 1, None)
}

#[test]
fn a_correct_client_is_not_reported() {
    let mut net = Net::new();
    for _ in 0..60 {
        net.send(CLIENT);
        net.run(10 * SECOND);
    }
    assert!(net.count(CLIENT, 1) > 2);
    assert_eq!(reported(&mut net), []);
    // The network copies a datagram.
    let initiations = net.heard.iter().rev();
    let mut initiations = initiations.filter(|d| d.from == CLIENT && d.bytes[0] == 1);
    let last = initiations.next().unwrap().clone();
    net.deliver(last);
    assert_eq!(net.nodes[GATEWAY].drops, [DropReason::Replay]);
    assert_eq!(reported(&mut net), []);
}

#[test]
fn a_client_with_another_preshared_key_is_reported() {
    for keys in [[Some(1), Some(2)], [Some(1), None], [None, Some(2)]] {
        let mut net = with_preshared_keys(keys);
        net.send(CLIENT);
        net.run(9 * SECOND);
        assert_eq!(reported(&mut net), [], "two lost answers look the same");
        net.run(9 * SECOND);
        let expected = [(FailureCause::AnswersUnconfirmed, client())];
        assert_eq!(reported(&mut net), expected);
        let status = net.nodes[GATEWAY].status();
        assert!(!status.connected && status.rx > 0);
        // A handshake that the gateway starts makes it certain.
        net.send(GATEWAY);
        net.run(9 * SECOND);
        let causes = reported(&mut net);
        assert_eq!(causes, [(FailureCause::PresharedKey, client())]);
        let last = net.nodes[GATEWAY].status().last_failure;
        assert!(last.is_some());
    }
}

#[test]
fn a_client_with_another_server_key_is_reported() {
    let mut net = Net::new();
    offer_from(&mut net, &mut noise(2, 9), "203.0.113.5:1000");
    let expected = [(FailureCause::WrongServerKey, "203.0.113.5:1000".to_owned())];
    assert_eq!(reported(&mut net), expected);
    assert_eq!(net.nodes[GATEWAY].status().last_failure, None);
}

#[test]
fn a_client_with_an_unknown_key_is_reported() {
    let mut net = Net::new();
    offer_from(&mut net, &mut noise(9, 1), "203.0.113.5:1000");
    let cause = FailureCause::UnknownKey(public(9));
    assert_eq!(reported(&mut net), [(cause, "203.0.113.5:1000".to_owned())]);
}

#[test]
fn a_client_whose_clock_was_set_back_is_reported() {
    let mut net = Net::new();
    let mut early = noise(2, 1);
    let old = initiation(&mut early);
    net.send(CLIENT);
    net.run(LATENCY * 4);
    let (from, now) = (path("203.0.113.5:1000"), net.now);
    let _ = offer(&mut net.nodes[GATEWAY].tunnel, &from, &old, now);
    let expected = [(FailureCause::OldTimestamp, "203.0.113.5:1000".to_owned())];
    assert_eq!(reported(&mut net), expected);
    let last = net.nodes[GATEWAY].status().last_failure.unwrap();
    assert_eq!(last.cause, FailureCause::OldTimestamp);
}

#[test]
fn a_foreign_inner_address_is_reported() {
    let mut net = Net::connected();
    for number in 0..100 {
        net.send_packet(CLIENT, &packet([10, 8, 0, 3], [10, 8, 0, 1], number, 60));
        // Addresses that every system uses are not reported.
        net.send_packet(CLIENT, &packet([169, 254, 0, 3], [10, 8, 0, 1], number, 60));
    }
    net.run(LATENCY * 2);
    let cause = FailureCause::SourceNotAllowed([10, 8, 0, 3].into());
    assert_eq!(reported(&mut net), [(cause, client())]);
}

#[test]
fn two_devices_with_one_key_are_reported() {
    let mut net = Net::new();
    let gateway = &mut net.nodes[GATEWAY].tunnel;
    let mut now = net.now;
    let mut seen = Vec::new();
    let mut devices = [noise(2, 1), noise(2, 1)];
    for round in 0..8usize {
        let which = round % 2;
        let from = path(["203.0.113.5:1000", "203.0.113.6:1000"][which]);
        let message = fresh(&mut devices[which]);
        let mut buffer = [0; 256];
        assert_eq!(
            gateway.receive(&from, &message, &mut buffer, now),
            Received::Nothing
        );
        while gateway.poll_transmit().is_some() {}
        now += 10 * SECOND;
        mock_instant::MockClock::advance(10 * SECOND);
        seen.extend(std::iter::from_fn(|| gateway.poll_failure()));
    }
    let shared = seen.iter().find(|failure| {
        failure.cause == FailureCause::SharedKey(address("203.0.113.5:1000"))
            && failure.source == address("203.0.113.6:1000")
    });
    assert!(shared.is_some(), "{seen:?}");
}

/// Returns an initiation even though the last one had no answer.
fn fresh(noise: &mut Tunn) -> Vec<u8> {
    use boringtun::noise::TunnResult;
    let mut buffer = [0; 148];
    match noise.format_handshake_initiation(&mut buffer, true) {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        other => panic!("{other:?}"),
    }
}
