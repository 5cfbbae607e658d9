//! A network whose clients send packets of the test and record what they receive.

use crate::ip::ping;
use crate::network::{Family, GATEWAY, Network, inner};
use crate::ruled_network;
use std::net::IpAddr;
use std::time::Duration;
use vcgate_core::engine::{GlobalPolicy, Rule};
use vcgate_core::nat::Limits;
use vcgate_core::smb::Mode;
use vcgate_wire::ip::Headers;

/// Makes a network of raw, connected clients that records packets to the LAN.
pub(crate) fn raw(policy: GlobalPolicy, rules: &[Vec<Rule>]) -> Network {
    let mut network = ruled_network(
        Family::V4,
        policy,
        Limits::default(),
        rules,
        Mode::Assign,
        1,
    );
    network.keep_lan = true;
    network.clients.iter_mut().for_each(|c| c.raw = true);
    // Connects the clients.
    for client in 0..rules.len() {
        network.client_sends(client, &ping(inner(client), GATEWAY, 1, b""));
    }
    network.wait(Duration::from_secs(1));
    network.clients.iter_mut().for_each(|c| c.received.clear());
    network
}

/// The source, type and code of an ICMP error.
pub(crate) type IcmpError = (IpAddr, u8, u8);

/// RFC 1812 section 5.2.7.1: destination unreachable, administratively prohibited.
pub(crate) const PROHIBITED: IcmpError = (IpAddr::V4(GATEWAY), 3, 13);

/// Takes the ICMP messages that a client received, except those of the server, whose stack has no
/// UDP.
pub(crate) fn take_icmp_errors(network: &mut Network, client: usize) -> Vec<IcmpError> {
    let server = network.family.server();
    let icmp = |p: &Vec<u8>| {
        let headers = Headers::parse(p).expect("a whole packet");
        let is_icmp = [1, 58].contains(&headers.protocol.into()) && headers.src != server;
        is_icmp.then(|| (headers.src, p[headers.l4], p[headers.l4 + 1]))
    };
    take_received(network, client)
        .iter()
        .filter_map(icmp)
        .collect()
}

/// Sends a packet from a client and waits until all consequences have arrived.
pub(crate) fn send_and_wait(network: &mut Network, client: usize, packet: &[u8]) {
    network.client_sends(client, packet);
    network.wait(Duration::from_millis(100));
}

/// Takes the packets that a client has received.
pub(crate) fn take_received(network: &mut Network, client: usize) -> Vec<Vec<u8>> {
    std::mem::take(&mut network.clients[client].received)
}

/// Takes the UDP datagrams and their fragments that a client has received.
pub(crate) fn take_datagrams(network: &mut Network, client: usize) -> Vec<Vec<u8>> {
    let mut all = take_received(network, client);
    all.retain(|p| Headers::parse(p).is_ok_and(|h| u8::from(h.protocol) == 17));
    all
}

/// Takes the packets that left for the LAN.
pub(crate) fn take_lan_packets(network: &mut Network) -> Vec<Vec<u8>> {
    std::mem::take(&mut network.on_lan)
}
