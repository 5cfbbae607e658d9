//! A flood of initiations, in virtual time because load is measured per second.

use super::attack::{client, gateway, initiation, offer};
use super::net::*;
use crate::tunnel::handshake_limiter::{LOAD_THRESHOLD, SOURCE_RATE};
use crate::tunnel::{DropReason, Tunnel};
use boringtun::noise::TunnResult;
use std::time::{Duration, Instant};

/// Returns a gateway that received so many messages from forged sources within one second that the
/// next one needs a cookie.
fn gateway_under_flood(now: Instant) -> Tunnel {
    let mut gateway = gateway(now);
    let flood = initiation(&mut client(99));
    for n in 0..LOAD_THRESHOLD {
        let from = path(&format!("203.0.{}.{}:666", n >> 8, n & 0xFF));
        let offered = offer(&mut gateway, &from, &flood, now);
        assert_eq!(offered, Err(DropReason::UnknownPeer));
    }
    gateway
}

#[test]
fn during_a_flood_a_client_gets_a_cookie_and_with_it_answers_up_to_its_rate() {
    let now = Instant::now();
    let mut gateway = gateway_under_flood(now);
    let (mut honest, mut dst) = (client(2), [0; 256]);
    let from = path("198.51.100.7:40000");

    let offered = offer(&mut gateway, &from, &initiation(&mut honest), now);
    assert_eq!(offered, Err(DropReason::CookieSent));
    let cookie = gateway.poll_transmit().unwrap();
    assert_eq!(
        (cookie.path, cookie.bytes[0], cookie.bytes.len()),
        (from, 3, 64)
    );
    assert!(matches!(
        honest.decapsulate(None, &cookie.bytes, &mut dst),
        TunnResult::Done
    ));

    for _ in 0..SOURCE_RATE.burst {
        let offered = offer(&mut gateway, &from, &initiation(&mut honest), now);
        assert_eq!(offered, Ok(()));
        assert_eq!(gateway.poll_transmit().unwrap().bytes[0], 2);
    }
    let offered = offer(&mut gateway, &from, &initiation(&mut honest), now);
    assert_eq!(offered, Err(DropReason::RateLimited));

    let other_address = path("198.51.100.8:40000");
    let offered = offer(&mut gateway, &other_address, &initiation(&mut honest), now);
    assert_eq!(
        offered,
        Err(DropReason::CookieSent),
        "a cookie is valid for one address"
    );
}

#[test]
fn a_cookie_reply_does_not_change_the_endpoint() {
    let now = Instant::now();
    let mut net = Net::new();
    net.nodes[GATEWAY].tunnel = gateway_under_flood(now);
    net.send(CLIENT);
    net.run(LATENCY);
    let mut cookie = net.heard.pop().unwrap();
    assert_eq!(cookie.bytes[0], 3);
    cookie.source = address("203.0.113.66:666");
    net.deliver(cookie);
    assert_eq!(net.nodes[CLIENT].drops, []);
    let client = net.nodes[CLIENT].status();
    assert_eq!(client.path.unwrap().remote, address("192.0.2.1:51820"));
}

#[test]
fn a_client_connects_during_a_long_flood_at_its_second_attempt() {
    let mut net = Net::new();
    net.nodes[GATEWAY].tunnel = gateway_under_flood(net.now);
    net.send(CLIENT);
    net.run(Duration::from_millis(500));
    assert_eq!((net.count(GATEWAY, 3), net.count(GATEWAY, 2)), (1, 0));

    let flood = initiation(&mut client(99));
    while net.nodes[GATEWAY].inbox.is_empty() {
        let mut last = Ok(());
        for n in 0..=LOAD_THRESHOLD {
            let from = path(&format!("203.0.{}.{}:666", n >> 8, n & 0xFF));
            last = offer(&mut net.nodes[GATEWAY].tunnel, &from, &flood, net.now);
        }
        assert_eq!(
            last,
            Err(DropReason::CookieSent),
            "the gateway is under load"
        );
        net.run(Duration::from_millis(1001));
        assert!(net.count(CLIENT, 1) <= 2);
    }
    assert_eq!(net.nodes[GATEWAY].inbox, [0]);
}

#[test]
fn every_second_of_a_flood_needs_cookies_and_the_limit_ends_with_the_flood() {
    let mut now = Instant::now();
    let mut gateway = gateway_under_flood(now);
    let flood = initiation(&mut client(99));
    let from = path("203.0.113.66:666");
    for _ in 0..5 * LOAD_THRESHOLD {
        now += Duration::from_secs(1) / (2 * LOAD_THRESHOLD as u32);
        let offered = offer(&mut gateway, &from, &flood, now);
        assert_eq!(offered, Err(DropReason::CookieSent));
    }
    now += Duration::from_secs(1);
    let offered = offer(&mut gateway, &from, &initiation(&mut client(2)), now);
    assert_eq!(offered, Ok(()));
}
