//! A client that lost its connections logs on again: the server's old connection is reset, and no
//! other.

use crate::host::Host;
use crate::ip;
use crate::network;
use crate::network::{LAN, MTU, Network, SERVER, inner, source};
use crate::smb::{NEGOTIATE, SESSION_SETUP_ANDX, message};
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{TcpPacket, TcpRepr};
use std::time::{Duration, Instant};
use vcgate_core::smb::{Mode, VcNumber};
use vcgate_wire::ip::Headers;

/// A connection's socket at the client and at the server.
#[derive(Clone, Copy)]
pub(crate) struct Connection {
    client: usize,
    pub(crate) near: SocketHandle,
    pub(crate) far: SocketHandle,
}

/// Connects a client and logs on.
pub(crate) fn log_on(network: &mut Network, client: usize, port: u16) -> Connection {
    let far = network.server.listen(445);
    let near = network.clients[client]
        .host
        .connect(port, (SERVER, 445).into());
    let stream = [message(NEGOTIATE, 90), message(SESSION_SETUP_ANDX, 60)].concat();
    let (mut sent, mut got) = (0, 0);
    let done = network.run(Duration::from_secs(30), |net| {
        let socket = net.clients[client].host.tcp(near);
        if socket.may_send() {
            sent += socket.send_slice(&stream[sent..]).unwrap_or(0);
        }
        let socket = net.server.tcp(far);
        while socket.can_recv() {
            got += socket.recv(|data| (data.len(), data.len())).unwrap_or(0);
        }
        got == stream.len()
    });
    assert!(done, "the logon arrives");
    // The response of the server, which acknowledges everything.
    network.server.tcp(far).send_slice(b"welcome").unwrap();
    network.wait(Duration::from_millis(100));
    Connection { client, near, far }
}

/// Removes all connections of a client; its address stays.
pub(crate) fn crash(network: &mut Network, client: usize) {
    network.clients[client].host = Host::new(inner(client).into(), MTU.into(), 99, network.now);
}

fn server_has(network: &mut Network, connection: Connection) -> bool {
    network.server.tcp(connection.far).may_send()
}

/// Returns how long after `since` the server closes the connection.
fn time_until_closed(network: &mut Network, connection: Connection, since: Instant) -> Duration {
    let gone = |net: &mut Network| !server_has(net, connection);
    assert!(
        network.run(Duration::from_secs(10), gone),
        "the connection is still open"
    );
    network.now - since
}

/// Checks that data still arrives through the connection.
fn assert_usable(network: &mut Network, connection: Connection) {
    let Connection { client, near, far } = connection;
    let socket = network.clients[client].host.tcp(near);
    socket.send_slice(b"still here").unwrap();
    let arrives = |net: &mut Network| net.server.tcp(far).can_recv();
    assert!(network.run(Duration::from_secs(5), arrives));
}

#[test]
fn a_rejected_probe_resets_the_old_connection_immediately() {
    let mut network = network(2, Mode::Assign, 1);
    let old = log_on(&mut network, 0, 50_000);
    let others = log_on(&mut network, 1, 50_000);
    network.wait(Duration::from_secs(60));
    crash(&mut network, 0);
    let start = network.now;
    let new = log_on(&mut network, 0, 50_001);
    let time = time_until_closed(&mut network, old, start);
    assert!(time < Duration::from_millis(250), "{time:?}");
    network.wait(Duration::from_secs(5));
    assert_usable(&mut network, new);
    assert_usable(&mut network, others);
    let counters = network.engine.hook().counters();
    assert_eq!((counters.stale_probed, counters.stale_reset), (1, 1));
}

#[test]
fn an_unanswered_probe_resets_in_time_for_the_server_and_live_connections_survive() {
    let mut network = network(2, Mode::Assign, 2);
    let dead = log_on(&mut network, 0, 50_000);
    let live = log_on(&mut network, 0, 50_001);
    let others = log_on(&mut network, 1, 50_000);
    network.wait(Duration::from_secs(60));
    network.clients[0].blocked_port = Some(50_000);
    let start = network.now;
    let new = log_on(&mut network, 0, 50_002);
    let time = time_until_closed(&mut network, dead, start);
    // Samba refuses the client's own file after 0.95 seconds.
    let least = Duration::from_millis(800);
    assert!(
        time > least && time < Duration::from_millis(950),
        "{time:?}"
    );
    network.wait(Duration::from_secs(5));
    for connection in [live, new, others] {
        assert_usable(&mut network, connection);
    }
    // The second logon also probed the first connection, which was alive.
    let counters = network.engine.hook().counters();
    assert_eq!((counters.stale_alive, counters.stale_reset), (2, 1));
}

#[test]
fn the_probe_timeout_follows_a_long_round_trip_time() {
    let mut network = network(1, Mode::Assign, 6);
    network.latency = Duration::from_millis(700);
    let dead = log_on(&mut network, 0, 50_000);
    let live = log_on(&mut network, 0, 50_001);
    network.wait(Duration::from_secs(60));
    network.clients[0].blocked_port = Some(50_000);
    let start = network.now;
    let new = log_on(&mut network, 0, 50_002);
    let time = time_until_closed(&mut network, dead, start);
    // Three round trips of silence.
    assert!(time > Duration::from_millis(4200), "{time:?}");
    network.wait(Duration::from_secs(10));
    for connection in [live, new] {
        assert_usable(&mut network, connection);
    }
    let counters = network.engine.hook().counters();
    assert_eq!((counters.stale_alive, counters.stale_reset), (2, 1));
}

#[test]
fn observe_mode_injects_no_segments() {
    let mut network = network(1, Mode::Observe, 3);
    let old = log_on(&mut network, 0, 50_000);
    crash(&mut network, 0);
    network.keep_lan = true;
    log_on(&mut network, 0, 50_001);
    network.wait(Duration::from_secs(5));
    assert!(server_has(&mut network, old));
    assert!(network.on_lan.iter().all(|packet| !tcp(packet).rst()));
}

#[test]
fn a_reset_has_the_expected_sequence_number_and_follows_a_challenge_ack() {
    let mut network = network(1, Mode::Assign, 4);
    network.keep_lan = true;
    let old = log_on(&mut network, 0, 50_000);
    let (port, next) = port_and_next_seq(&network);
    network.clients[0].blocked_port = Some(50_000);
    network.on_lan.clear();
    let start = network.now;
    log_on(&mut network, 0, 50_001);
    time_until_closed(&mut network, old, start);
    assert_eq!(resets(&network, port), [next]);
    // A challenge ACK: the server's response to an inexact RST.
    network.on_lan.clear();
    let challenge = next.wrapping_add(1000);
    network.server_sends(ip::tcp((SERVER, 445), (LAN, port), (ip::ACK, 7, challenge)));
    network.wait(Duration::from_millis(10));
    assert_eq!(resets(&network, port), [challenge]);
}

#[test]
fn rfc7323_3_2_a_probe_carries_the_last_timestamps_of_the_server() {
    let mut network = network(1, Mode::Assign, 5);
    network.keep_lan = true;
    log_on(&mut network, 0, 50_000);
    // The timestamps in the client's acknowledgement of the last segment from the server.
    let acknowledged: Vec<_> = network
        .on_lan
        .iter()
        .filter_map(|p| timestamps(p))
        .collect();
    let (_, of_the_server) = *acknowledged.last().expect("a stack with timestamps");
    network.wait(Duration::from_secs(60));
    network.clients[0].blocked_port = Some(50_000);
    log_on(&mut network, 0, 50_001);
    network.wait(Duration::from_secs(1));
    let received = network.clients[0].received.iter();
    let (resets, probes): (Vec<_>, Vec<_>) = received.partition(|packet| tcp(packet).rst());
    assert_eq!((resets.len(), probes.len()), (1, 4));
    for probe in probes {
        let (value, echo) = timestamps(probe).unwrap();
        assert_eq!(value, of_the_server);
        assert!(acknowledged.iter().any(|(client, _)| *client == echo));
    }
}

/// Returns TSval and TSecr of a segment.
fn timestamps(packet: &[u8]) -> Option<(u32, u32)> {
    TcpRepr::parse(
        &tcp(packet),
        &LAN.into(),
        &SERVER.into(),
        &ChecksumCapabilities::ignored(),
    )
    .ok()?
    .timestamp
    .map(|stamp| (stamp.tsval, stamp.tsecr))
}

/// Returns the LAN port of the only connection, and the next sequence number of the client.
fn port_and_next_seq(network: &Network) -> (u16, u32) {
    let last = tcp(network.on_lan.last().unwrap());
    let next = last.seq_number() + last.payload().len();
    (last.src_port(), next.0 as u32)
}

/// Returns the sequence numbers of the RSTs from a LAN port to the server.
fn resets(network: &Network, port: u16) -> Vec<u32> {
    let packets = network.on_lan.iter();
    packets
        .filter(|packet| source(packet) == LAN)
        .map(|packet| tcp(packet))
        .filter(|tcp| tcp.rst() && tcp.src_port() == port)
        .map(|tcp| tcp.seq_number().0 as u32)
        .collect()
}

fn tcp(packet: &[u8]) -> TcpPacket<&[u8]> {
    let headers = Headers::parse(packet).unwrap();
    TcpPacket::new_checked(&packet[headers.l4..]).unwrap()
}

/// The NAT keeps a closed flow for four minutes (RFC 5382 REQ-5); its number is released earlier.
#[test]
fn numbers_of_closed_and_aborted_connections_are_reused() {
    for abort in [false, true] {
        let mut network = network(1, Mode::Assign, 7);
        let mut largest = 0;
        for n in 0..40 {
            let Connection { near, far, .. } = log_on(&mut network, 0, 50_000 + n);
            let flows = network.engine.nat().flows(network.now);
            let numbers = flows.filter_map(|f| network.engine.hook().flow(f.id)?.number);
            largest = numbers.map(VcNumber::get).max().unwrap_or(0).max(largest);
            let client = network.clients[0].host.tcp(near);
            match abort {
                true => client.abort(),
                false => client.close(),
            }
            network.wait(Duration::from_millis(50));
            network.server.tcp(far).close();
            network.wait(Duration::from_millis(50));
        }
        assert!((1..=17).contains(&largest), "{largest}");
        assert_eq!(network.engine.nat().flows(network.now).count(), 40);
    }
}
