//! Rate limits of peers: the rate in both directions, for TCP and UDP, and no effect on others.

use crate::ip::{udp, udp_parts};
use crate::network;
use crate::network::{GATEWAY, LAN, Network, SERVER, inner};
use crate::raw::{raw, send_and_wait, take_datagrams, take_lan_packets};
use crate::rules::{lan, rule};
use crate::transfer::{copy_both_ways, move_data};
use smoltcp::wire::IpProtocol;
use std::time::{Duration, Instant};
use vcgate_core::engine::{Destination, GlobalPolicy, Rates};
use vcgate_core::ids::PeerId;
use vcgate_core::smb::Mode;

const MBIT: u64 = 1_000_000;

fn limit(network: &mut Network, up: u64, down: u64) {
    let now = network.now;
    let rates = Rates {
        up: Some(up * MBIT),
        down: Some(down * MBIT),
    };
    network.engine.set_rates(PeerId(0), rates, now);
}

/// Whether a number is within 10 % of another.
fn is_near(got: f64, expected: f64) -> bool {
    (got / expected - 1.0).abs() < 0.1
}

/// Copies `size` bytes of client 0 in one direction; returns the time.
fn copy(network: &mut Network, up: bool, size: usize) -> Duration {
    let start = network.now;
    let far = network.server.listen(5000);
    let near = network.clients[0]
        .host
        .connect(40_000, (SERVER, 5000).into());
    let (to_server, to_client) = if up { (size, 0) } else { (0, size) };
    let [mut sent, mut arrived, mut sent_back, mut arrived_back] = [0; 4];
    let done = network.run(Duration::from_secs(600), |net| {
        let socket = net.clients[0].host.tcp(near);
        move_data(socket, 0, to_server, &mut sent, &mut arrived_back);
        let socket = net.server.tcp(far);
        move_data(socket, 0, to_client, &mut sent_back, &mut arrived);
        (arrived, arrived_back) == (to_server, to_client)
    });
    assert!(done, "all data arrives");
    network.now.duration_since(start)
}

/// The stacks of the simulation fill their window of 256 KB without regard to losses; at these rates
/// the queue holds it.
#[test]
fn tcp_has_the_rate_of_its_direction() {
    for (up, expected) in [(true, 24), (false, 22)] {
        let mut network = network(1, Mode::Assign, 1);
        limit(&mut network, 24, 22);
        let size = 6_000_000;
        let time = copy(&mut network, up, size);
        let rate = size as f64 * 8.0 / time.as_secs_f64() / MBIT as f64;
        assert!(is_near(rate, expected as f64), "{up}: {rate}");
    }
}

/// Sends datagrams between a client and a server of the LAN; see [`flood`].
fn flood_lan(network: &mut Network, client: usize, up: bool, mbit: u64) -> f64 {
    let (here, server) = ((inner(client), 5000), (SERVER, 53));
    send_and_wait(network, client, &udp(here, server, b"?"));
    let question = take_lan_packets(network);
    let (port, ..) = udp_parts(&question[0]).unwrap();
    let payload = [7; LEN - 28];
    let packet = match up {
        true => udp(here, server, &payload),
        false => udp(server, (LAN, port), &payload),
    };
    flood(network, client, up, mbit, &packet)
}

/// Length of the packets of a [`flood`] in bytes.
const LEN: usize = 1000;

/// Sends a packet of [`LEN`] bytes at `mbit` for two seconds, up or down; returns the rate at which it
/// arrives.
fn flood(network: &mut Network, client: usize, up: bool, mbit: u64, packet: &[u8]) -> f64 {
    let start: Instant = network.now;
    let interval = Duration::from_nanos(LEN as u64 * 8 * 1_000_000_000 / (mbit * MBIT));
    let mut arrived = 0;
    while network.now < start + Duration::from_secs(2) {
        match up {
            true => network.client_sends(client, packet),
            false => network.server_sends(packet.to_vec()),
        }
        network.wait(interval);
        arrived += take_lan_packets(network).len();
        arrived += take_datagrams(network, client).len();
    }
    let seconds = network.now.duration_since(start).as_secs_f64();
    arrived as f64 * LEN as f64 * 8.0 / seconds / MBIT as f64
}

#[test]
fn udp_above_the_rate_is_dropped() {
    for up in [true, false] {
        let mut network = raw(GlobalPolicy::default(), &[vec![lan()], vec![lan()]]);
        limit(&mut network, 4, 4);
        let rate = flood_lan(&mut network, 0, up, 8);
        assert!(is_near(rate, 4.0), "{up}: {rate}");
        assert!(network.engine.counters().rate_limited > 100);
        assert!(network.engine.drop_counters(PeerId(0)).limited > 100);
        // Below its limit, and without a limit.
        let rate = flood_lan(&mut network, 1, up, 8);
        assert!(is_near(rate, 8.0), "{up}: {rate}");
    }
}

/// DNS, and services of the machine: its kernel is at the side of the LAN.
#[test]
fn the_gateways_own_services_have_the_rate_of_the_client() {
    for up in [true, false] {
        let dns = rule(Destination::Gateway, IpProtocol::Udp, 53);
        let mut network = raw(GlobalPolicy::default(), &[vec![dns.clone()], vec![dns]]);
        limit(&mut network, 4, 4);
        for (client, expected) in [(0, 4.0), (1, 8.0)] {
            let (here, service) = ((inner(client), 5000), (GATEWAY, 53));
            let (from, to) = if up { (here, service) } else { (service, here) };
            send_and_wait(&mut network, client, &udp(here, service, b"?"));
            take_lan_packets(&mut network);
            let packet = udp(from, to, &[7; LEN - 28]);
            let rate = flood(&mut network, client, up, 8, &packet);
            assert!(is_near(rate, expected), "{up} {client}: {rate}");
        }
    }
}

#[test]
fn a_removed_peer_leaves_no_limit_to_its_successor() {
    let mut network = raw(GlobalPolicy::default(), &[vec![lan()], vec![lan()]]);
    limit(&mut network, 4, 4);
    let now = network.now;
    network.engine.set_rates(PeerId(0), Rates::default(), now);
    let rate = flood_lan(&mut network, 0, true, 8);
    assert!(is_near(rate, 8.0), "{rate}");
}

#[test]
fn packets_that_waited_are_unchanged() {
    let mut network = network(1, Mode::Assign, 7);
    limit(&mut network, 3, 3);
    assert!(
        copy_both_ways(&mut network, 300_000),
        "copies compare each byte"
    );
}
