//! A crowd: many clients on several shards, whose flows fill most of the ports of the LAN address. The
//! tests of `crowd_rows` look at a requirement for each client, while the others send, strangers knock
//! and clients exceed their limits. It asserts only that no flow of the crowd is affected.

use crate::ip::{SYN, fragment_in_two, tcp, udp, udp_parts};
use crate::network::{Family, Network, source};
use crate::{Place, crowded_network};
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;
use vcgate_core::engine::GlobalPolicy;
use vcgate_core::nat::{Filtering, Limits};
use vcgate_wire::ip::Headers;

pub(crate) const SHARDS: u8 = 3;
/// The clients for which a requirement is looked at. One more exceeds its limits.
pub(crate) const CLIENTS: usize = 48;
const GREEDY: usize = CLIENTS;
/// The groups of 64 ports: those below 1024, and 11 for each shard.
const BLOCKS: Range<u16> = 0..16 + 11 * SHARDS as u16;
/// Flows of each client: with them, 85 % of the ports of each shard are in use.
const FLOWS: u16 = 37;
const FIRST_PORT: u16 = 20_001;
/// The port of the remote host to which the flows of the crowd lead.
const SERVICE: u16 = 7000;
/// Time for a packet and its answer to arrive.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// A host of the LAN that has no stack of its own: it sends what a test sends.
pub(crate) fn remote(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => [192, 168, 77, 100 + number].into(),
        Family::V6 => [0xFD00, 0x77, 0, 0, 0, 0, 0, 0x100 + u16::from(number)].into(),
    }
}

/// The clients, and the ports that their flows have.
pub(crate) struct Crowd {
    pub network: Network,
    pub family: Family,
    filtering: Filtering,
    /// The port of the LAN address for each flow of each client.
    ports: Vec<Vec<u16>>,
    rounds: u16,
}

impl Crowd {
    pub(crate) fn new(family: Family, filtering: Filtering) -> Self {
        // As a wide policy has it: one network behind the LAN is reached without translation.
        let nets = ["10.1.0.0/16", "fd00:1::/32"];
        let policy = GlobalPolicy {
            no_nat: nets.map(|net| net.parse().unwrap()).to_vec(),
            ..GlobalPolicy::default()
        };
        let place = Place {
            shards: SHARDS,
            blocks: BLOCKS,
            filtering,
        };
        let limits = Limits {
            sessions: 256,
            ..Limits::default()
        };
        let mut network = crowded_network(place, family, CLIENTS + 1, policy, limits);
        network.keep_lan = true;
        network
            .clients
            .iter_mut()
            .for_each(|client| client.raw = true);
        let mut crowd = Self {
            network,
            family,
            filtering,
            ports: vec![Vec::new(); CLIENTS],
            rounds: 0,
        };
        // The first packet of a client opens its tunnel.
        crowd.send(|crowd, client| crowd.greeting(client, 0));
        for flow in 0..FLOWS {
            let sent = crowd.send(|crowd, client| crowd.greeting(client, flow));
            for (client, packet) in sent.iter().enumerate() {
                let port = ports(packet).0;
                crowd.ports[client].push(port);
            }
        }
        let given: HashSet<u16> = crowd.ports.iter().flatten().copied().collect();
        assert_eq!(given.len(), CLIENTS * usize::from(FLOWS), "RFC 4787 REQ-3");
        crowd
    }

    pub(crate) fn inner(&self, client: usize) -> IpAddr {
        self.family.inner(client)
    }

    /// Returns the ports of the crowd's flows.
    pub(crate) fn given(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().flatten().copied()
    }

    /// Returns the ports of the crowd's flows of one client, in the order of their first packets.
    pub(crate) fn given_to(&self, client: usize) -> &[u16] {
        &self.ports[client]
    }

    fn greeting(&self, client: usize, flow: u16) -> Vec<u8> {
        let from = (self.inner(client), FIRST_PORT + flow);
        let payload = [&tag(client)[..], b" greets"].concat();
        udp(from, (remote(self.family, 0), SERVICE), &payload)
    }

    /// Sends a packet of each client at the same time; returns them as the LAN gets them, by client.
    /// A UDP packet begins with the [`tag`] of its client, a TCP segment has it as sequence number.
    #[track_caller]
    pub(crate) fn send(&mut self, packet: impl Fn(&Self, usize) -> Vec<u8>) -> Vec<Vec<u8>> {
        self.network.on_lan.clear();
        let packets: Vec<_> = (0..CLIENTS).map(|client| packet(self, client)).collect();
        for (client, packet) in packets.iter().enumerate() {
            self.network.client_sends(client, packet);
        }
        self.network.wait(ROUND_TRIP);
        let mut sent = vec![Vec::new(); CLIENTS];
        for packet in std::mem::take(&mut self.network.on_lan) {
            if let Some(client) = tag_of(&packet) {
                sent[client] = packet;
            }
        }
        for (client, packet) in sent.iter().enumerate() {
            assert!(!packet.is_empty(), "no packet of client {client} left");
        }
        sent
    }

    /// Sends packets of clients at the same time; returns those that leave for the LAN.
    pub(crate) fn send_all(&mut self, packets: Vec<(usize, Vec<u8>)>) -> Vec<Vec<u8>> {
        self.network.on_lan.clear();
        for (client, packet) in packets {
            self.network.client_sends(client, &packet);
        }
        self.network.wait(ROUND_TRIP);
        std::mem::take(&mut self.network.on_lan)
    }

    /// Sends packets of the LAN at the same time; returns those that the clients receive, by client.
    pub(crate) fn receive(&mut self, packets: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
        self.take_received();
        self.network.on_lan.clear();
        packets
            .into_iter()
            .for_each(|packet| self.network.server_sends(packet));
        self.network.wait(ROUND_TRIP);
        self.take_received()
    }

    /// Takes the packets that the clients have received, by client.
    pub(crate) fn take_received(&mut self) -> Vec<Vec<Vec<u8>>> {
        self.network.clients[GREEDY].received.clear();
        let clients = self.network.clients[..CLIENTS].iter_mut();
        clients
            .map(|client| std::mem::take(&mut client.received))
            .collect()
    }

    /// The traffic of others: each client uses a flow, a stranger scans the LAN address, one client
    /// opens sessions and sends fragments beyond its limits.
    pub(crate) fn stir(&mut self) {
        self.rounds += 1;
        let (family, flow) = (self.family, self.rounds % FLOWS);
        let mut packets: Vec<_> = (0..CLIENTS)
            .map(|client| (client, self.greeting(client, flow)))
            .collect();
        let stranger = remote(family, 50);
        for number in 0..300 {
            let from = (self.inner(GREEDY), FIRST_PORT);
            packets.push((GREEDY, udp(from, (remote(family, 60), 1000 + number), b"-")));
        }
        for id in 0..80 {
            let whole = udp((self.inner(GREEDY), 9), (remote(family, 0), 9), &[7; 64]);
            let [first, _] = fragment_in_two(&whole, 32, id + 80 * self.rounds);
            packets.push((GREEDY, first));
        }
        self.send_all(packets);
        let scanned = (0..100).map(|number| 1024 + number * 21 + self.rounds);
        let probes = scanned.flat_map(|port| {
            let to = (family.lan(), port);
            [
                udp((stranger, 53), to, b"?"),
                tcp((stranger, 80), to, (SYN, 1, 0)),
            ]
        });
        let received = self.receive(probes.collect());
        if self.filtering == Filtering::AddressDependent {
            assert!(
                received.iter().all(Vec::is_empty),
                "a scan reaches no client"
            );
        }
    }

    /// Checks that each flow of the crowd still has its port and works in both directions.
    pub(crate) fn check(&mut self) {
        let (lan, service) = (self.family.lan(), (remote(self.family, 0), SERVICE));
        for flow in 0..FLOWS {
            let sent = self.send(|crowd, client| crowd.greeting(client, flow));
            let now_given: Vec<u16> = sent.iter().map(|packet| ports(packet).0).collect();
            let given: Vec<u16> = self
                .ports
                .iter()
                .map(|own| own[usize::from(flow)])
                .collect();
            assert_eq!(now_given, given, "flow {flow} of each client");
            let answers = given
                .iter()
                .map(|port| udp(service, (lan, *port), &port.to_be_bytes()));
            let received = self.receive(answers.collect());
            for (client, (packets, port)) in received.iter().zip(&given).enumerate() {
                let [packet] = &packets[..] else {
                    panic!("client {client} received {} answers", packets.len());
                };
                let expected = (SERVICE, FIRST_PORT + flow, &port.to_be_bytes()[..]);
                assert_eq!(udp_parts(packet), Some(expected), "client {client}");
            }
        }
    }
}

/// The bytes by which packets of a client are recognized.
pub(crate) fn tag(client: usize) -> [u8; 4] {
    (0xC0DE_0000 + client as u32).to_be_bytes()
}

/// The [`tag`] as a number.
pub(crate) fn tag_number(client: usize) -> u32 {
    u32::from_be_bytes(tag(client))
}

/// Returns the client whose [`tag`] a packet has.
pub(crate) fn tag_of(packet: &[u8]) -> Option<usize> {
    let headers = Headers::parse(packet).ok()?;
    let at = headers.l4
        + match u8::from(headers.protocol) {
            6 => 4,
            _ => 8,
        };
    let number = u32::from_be_bytes(*packet.get(at..)?.first_chunk()?);
    number
        .checked_sub(tag_number(0))
        .map(|client| client as usize)
        .filter(|client| *client < CLIENTS)
}

/// Returns the source and destination port of a packet.
pub(crate) fn ports(packet: &[u8]) -> (u16, u16) {
    let l4 = Headers::parse(packet).expect("a whole packet").l4;
    let port = |at| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (port(l4), port(l4 + 2))
}

/// Asserts that each client received one packet; returns them.
#[track_caller]
pub(crate) fn one_each(received: Vec<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
    let one = |(client, packets): (usize, Vec<Vec<u8>>)| match <[_; 1]>::try_from(packets) {
        Ok([packet]) => packet,
        Err(packets) => panic!("client {client} received {} packets", packets.len()),
    };
    received.into_iter().enumerate().map(one).collect()
}

/// Asserts that packets come from the LAN address.
#[track_caller]
pub(crate) fn assert_from_lan(family: Family, packets: &[Vec<u8>]) {
    assert!(packets.iter().all(|packet| source(packet) == family.lan()));
}
