//! A network whose clients send packets of the test's own, and keep what they receive.

use crate::ip::ping;
use crate::network::{Family, GATEWAY, Network, inner};
use crate::ruled_network;
use std::net::IpAddr;
use std::time::Duration;
use vcgate_core::engine::{GlobalPolicy, Rule};
use vcgate_core::nat::Limits;
use vcgate_core::smb::Mode;
use vcgate_wire::ip::Headers;

/// A network with raw clients, in which what goes to the LAN is kept.
pub fn raw(policy: GlobalPolicy, rules: &[Vec<Rule>]) -> Network {
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
    // The endpoint learns where its clients are.
    for client in 0..rules.len() {
        network.client_sends(client, &ping(inner(client), GATEWAY, 1, b""));
    }
    network.wait(Duration::from_secs(1));
    network.clients.iter_mut().for_each(|c| c.received.clear());
    network
}

/// From whom an ICMP message is, its type and its code.
pub type Told = (IpAddr, u8, u8);

/// RFC 1812 section 5.2.7.1: destination unreachable, administratively prohibited.
pub const PROHIBITED: Told = (IpAddr::V4(GATEWAY), 3, 13);

/// The ICMP messages that a client received; the server's own are left out, whose stack knows no
/// UDP.
pub fn told(network: &mut Network, client: usize) -> Vec<Told> {
    let server = network.family.server();
    let icmp = |p: &Vec<u8>| {
        let headers = Headers::parse(p).expect("a whole packet");
        let is_icmp = [1, 58].contains(&headers.protocol.into()) && headers.src != server;
        is_icmp.then(|| (headers.src, p[headers.l4], p[headers.l4 + 1]))
    };
    received(network, client).iter().filter_map(icmp).collect()
}

/// A client sends a packet, and what comes of it has time to come.
pub fn sends(network: &mut Network, client: usize, packet: &[u8]) {
    network.client_sends(client, packet);
    network.wait(Duration::from_millis(100));
}

/// What a client received since somebody asked.
pub fn received(network: &mut Network, client: usize) -> Vec<Vec<u8>> {
    std::mem::take(&mut network.clients[client].received)
}

/// The UDP datagrams and their fragments that a client received.
pub fn datagrams(network: &mut Network, client: usize) -> Vec<Vec<u8>> {
    let mut all = received(network, client);
    all.retain(|p| Headers::parse(p).is_ok_and(|h| u8::from(h.protocol) == 17));
    all
}

/// What left for the LAN since somebody asked.
pub fn left(network: &mut Network) -> Vec<Vec<u8>> {
    std::mem::take(&mut network.on_lan)
}
