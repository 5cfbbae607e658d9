//! A client whose stack is gone logs on again: the server loses its old connection, and nobody
//! else's.

use crate::host::Host;
use crate::ip;
use crate::network;
use crate::network::{LAN, MTU, Network, SERVER, inner, source};
use crate::smb::{NEGOTIATE, SESSION_SETUP_ANDX, message};
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{TcpPacket, TcpRepr};
use std::time::{Duration, Instant};
use vcgate_core::smb::Mode;
use vcgate_wire::ip::Headers;

/// A connection's socket at the client and at the server.
#[derive(Clone, Copy)]
pub struct Connection {
    client: usize,
    near: SocketHandle,
    far: SocketHandle,
}

/// A client connects from a port of its own and logs on.
pub fn log_on(network: &mut Network, client: usize, port: u16) -> Connection {
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
    // The answer that every server gives: now all is acknowledged.
    network.server.tcp(far).send_slice(b"welcome").unwrap();
    network.wait(Duration::from_millis(100));
    Connection { client, near, far }
}

/// The client's memory of all connections is gone; its address stays.
pub fn crash(network: &mut Network, client: usize) {
    network.clients[client].host = Host::new(inner(client).into(), MTU.into(), 99, network.now);
}

fn server_has(network: &mut Network, connection: Connection) -> bool {
    network.server.tcp(connection.far).may_send()
}

/// How long the server still has this connection.
fn gone_after(network: &mut Network, connection: Connection, since: Instant) -> Duration {
    let gone = |net: &mut Network| !server_has(net, connection);
    assert!(network.run(Duration::from_secs(10), gone), "it is kept");
    network.now - since
}

/// Both ends still talk.
fn assert_alive(network: &mut Network, connection: Connection) {
    let Connection { client, near, far } = connection;
    let socket = network.clients[client].host.tcp(near);
    socket.send_slice(b"still here").unwrap();
    let arrives = |net: &mut Network| net.server.tcp(far).can_recv();
    assert!(network.run(Duration::from_secs(5), arrives));
}

#[test]
fn a_new_stack_refuses_the_probe_and_the_old_connection_is_reset_at_once() {
    let mut network = network(2, Mode::Assign, 1);
    let old = log_on(&mut network, 0, 50_000);
    let others = log_on(&mut network, 1, 50_000);
    network.wait(Duration::from_secs(60));
    crash(&mut network, 0);
    let start = network.now;
    let new = log_on(&mut network, 0, 50_001);
    let time = gone_after(&mut network, old, start);
    assert!(time < Duration::from_millis(250), "{time:?}");
    network.wait(Duration::from_secs(5));
    assert_alive(&mut network, new);
    assert_alive(&mut network, others);
    let counters = network.engine.hook().counters();
    assert_eq!((counters.stale_probed, counters.stale_reset), (1, 1));
}

#[test]
fn silence_of_a_second_is_an_answer_and_a_live_connection_of_the_client_survives() {
    let mut network = network(2, Mode::Assign, 2);
    let dead = log_on(&mut network, 0, 50_000);
    let live = log_on(&mut network, 0, 50_001);
    let others = log_on(&mut network, 1, 50_000);
    network.wait(Duration::from_secs(60));
    network.clients[0].deaf_at = Some(50_000);
    let start = network.now;
    let new = log_on(&mut network, 0, 50_002);
    let time = gone_after(&mut network, dead, start);
    let second = Duration::from_secs(1);
    assert!(time > second && time < second * 5 / 4, "{time:?}");
    network.wait(Duration::from_secs(5));
    for connection in [live, new, others] {
        assert_alive(&mut network, connection);
    }
    // The second connection asked about the first one too, which answered then.
    let counters = network.engine.hook().counters();
    assert_eq!((counters.stale_alive, counters.stale_reset), (2, 1));
}

#[test]
fn a_client_whose_answers_take_longer_than_a_second_is_given_that_time() {
    let mut network = network(1, Mode::Assign, 6);
    network.latency = Duration::from_millis(700);
    let dead = log_on(&mut network, 0, 50_000);
    let live = log_on(&mut network, 0, 50_001);
    network.wait(Duration::from_secs(60));
    network.clients[0].deaf_at = Some(50_000);
    let start = network.now;
    let new = log_on(&mut network, 0, 50_002);
    let time = gone_after(&mut network, dead, start);
    // Three round trips of silence.
    assert!(time > Duration::from_millis(4200), "{time:?}");
    network.wait(Duration::from_secs(10));
    for connection in [live, new] {
        assert_alive(&mut network, connection);
    }
    let counters = network.engine.hook().counters();
    assert_eq!((counters.stale_alive, counters.stale_reset), (2, 1));
}

#[test]
fn observe_sends_nothing_of_its_own() {
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
fn the_reset_has_the_number_that_the_server_expects_and_a_challenge_is_answered() {
    let mut network = network(1, Mode::Assign, 4);
    network.keep_lan = true;
    let old = log_on(&mut network, 0, 50_000);
    let (port, next) = stands_at(&network);
    network.clients[0].deaf_at = Some(50_000);
    network.on_lan.clear();
    let start = network.now;
    log_on(&mut network, 0, 50_001);
    gone_after(&mut network, old, start);
    assert_eq!(resets(&network, port), [next]);
    // A server that knows better: its answer to a RST that is not exact.
    network.on_lan.clear();
    let challenge = next.wrapping_add(1000);
    network.server_sends(ip::tcp((SERVER, 445), (LAN, port), (ip::ACK, 7, challenge)));
    network.wait(Duration::from_millis(10));
    assert_eq!(resets(&network, port), [challenge]);
}

#[test]
fn rfc7323_3_2_a_probe_carries_the_timestamps_that_the_server_sent_last() {
    let mut network = network(1, Mode::Assign, 5);
    network.keep_lan = true;
    log_on(&mut network, 0, 50_000);
    // The client's acknowledgement of the last that the server sent.
    let told: Vec<_> = network
        .on_lan
        .iter()
        .filter_map(|p| timestamps(p))
        .collect();
    let (_, of_the_server) = *told.last().expect("a stack with timestamps");
    network.wait(Duration::from_secs(60));
    network.clients[0].deaf_at = Some(50_000);
    log_on(&mut network, 0, 50_001);
    network.wait(Duration::from_secs(1));
    let received = network.clients[0].received.iter();
    let (resets, probes): (Vec<_>, Vec<_>) = received.partition(|packet| tcp(packet).rst());
    assert_eq!((resets.len(), probes.len()), (1, 4));
    for probe in probes {
        let (value, echo) = timestamps(probe).unwrap();
        assert_eq!(value, of_the_server);
        assert!(told.iter().any(|(client, _)| *client == echo));
    }
}

/// The clock of a segment's sender, and the other end's that it knows.
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

/// The port of the LAN address that the only connection has, and the number that the server
/// expects on it.
fn stands_at(network: &Network) -> (u16, u32) {
    let last = tcp(network.on_lan.last().unwrap());
    let next = last.seq_number() + last.payload().len();
    (last.src_port(), next.0 as u32)
}

/// The numbers of the RSTs that the server was sent from this port.
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

/// The NAT keeps a flow that is over for four minutes (RFC 5382 REQ-5); its number is free before.
#[test]
fn short_logons_keep_numbers_small_however_they_end() {
    for abort in [false, true] {
        let mut network = network(1, Mode::Assign, 7);
        let mut largest = 0;
        for n in 0..40 {
            let Connection { near, far, .. } = log_on(&mut network, 0, 50_000 + n);
            let flows = network.engine.nat().flows(network.now);
            let numbers = flows.filter_map(|f| network.engine.hook().flow(f.id)?.number);
            largest = numbers.max().unwrap_or(0).max(largest);
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
