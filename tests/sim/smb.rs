//! SMB users that share one address: the server receives what each client sent, except for a distinct
//! VcNumber per connection.

use crate::host::Host;
use crate::ip::{ACK, SYN, fragment_in_two, tcp, tcp_data};
use crate::network::{Family, Faults, Network, SERVER, inner};
use crate::network_of_shards;
use crate::raw::{raw, send_and_wait, take_lan_packets, take_received};
use crate::rules::lan;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
use vcgate_core::engine::GlobalPolicy;
use vcgate_core::smb::Mode;
use vcgate_wire::ip::Headers;

pub(crate) const NEGOTIATE: u8 = 0x72;
pub(crate) const SESSION_SETUP_ANDX: u8 = 0x73;
pub(crate) const WRITE_ANDX: u8 = 0x2F;
/// Offset of the VcNumber from the transport header (MS-CIFS section 2.2.4.53.1, MS-SMB section
/// 2.2.4.6.1).
const VC_NUMBER: std::ops::Range<usize> = 45..47;

/// Makes a message with its transport header and `data` bytes of data. A session setup has 12 words
/// (extended security).
pub(crate) fn message(command: u8, data: usize) -> Vec<u8> {
    let words: &[u8] = match command {
        SESSION_SETUP_ANDX => &[
            12, 0xFF, 0, 0, 0, 0x04, 0x11, 10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
        _ => &[1, 0x55, 0xAA],
    };
    let mut smb = vec![
        0xFF, b'S', b'M', b'B', command, 0, 0, 0, 0, 0x18, 0x07, 0xC8,
    ];
    smb.resize(32, 0);
    smb.extend(words);
    smb.extend((data as u16).to_le_bytes());
    smb.extend((0..data).map(|i| (i * 7) as u8));
    let len = smb.len() as u32;
    [&len.to_be_bytes()[..], &smb].concat()
}

/// Makes a stream of logons and writes, with a second user on the same connection.
pub(crate) fn stream(client: usize) -> Vec<u8> {
    let mut all = message(NEGOTIATE, 90);
    all.extend(message(SESSION_SETUP_ANDX, 60 + client));
    all.extend(message(SESSION_SETUP_ANDX, 3000));
    for i in 0..10 {
        all.extend(message(WRITE_ANDX, 1000 * i + client));
    }
    all.extend(message(SESSION_SETUP_ANDX, 40));
    all.extend(message(WRITE_ANDX, 60_000));
    all
}

/// Returns the VcNumbers of all session setups in a stream, and sets them to 0.
pub(crate) fn take_numbers(stream: &mut [u8]) -> Vec<u16> {
    let (mut at, mut numbers) = (0, Vec::new());
    while at + 4 <= stream.len() {
        let len = u32::from_be_bytes(stream[at..at + 4].try_into().unwrap()) as usize;
        if stream[at + 8] == SESSION_SETUP_ANDX {
            let place = at + VC_NUMBER.start..at + VC_NUMBER.end;
            numbers.push(u16::from_le_bytes(
                stream[place.clone()].try_into().unwrap(),
            ));
            stream[place].fill(0);
        }
        at += 4 + len;
    }
    numbers
}

/// Sends the streams of all clients in a new network; returns the received ones.
fn streams_at_server(
    shards: u8,
    family: Family,
    mode: Mode,
    clients: usize,
    seed: u64,
    faults: Faults,
) -> Vec<Vec<u8>> {
    let mut network = network_of_shards(shards, family, clients, mode, seed);
    network.faults = faults;
    streams_at_server_of(&mut network)
}

/// Sends the streams of all clients to port 445; returns the received ones.
pub(crate) fn streams_at_server_of(network: &mut Network) -> Vec<Vec<u8>> {
    streams_at_server_from(network, 50_000)
}

/// Sends the streams of all clients from a source port; returns the received ones.
pub(crate) fn streams_at_server_from(network: &mut Network, port: u16) -> Vec<Vec<u8>> {
    let to = (network.family.server(), 445).into();
    let clients = network.clients.len();
    transfer_streams(network, |net| &mut net.server, to, clients, port)
}

/// Sends the streams of the first clients from a source port to a host; returns the received ones.
pub(crate) fn transfer_streams(
    network: &mut Network,
    host: impl Fn(&mut Network) -> &mut Host,
    to: SocketAddr,
    clients: usize,
    port: u16,
) -> Vec<Vec<u8>> {
    let far: Vec<_> = (0..clients).map(|_| host(network).listen(445)).collect();
    let near: Vec<_> = network.clients[..clients]
        .iter_mut()
        .map(|c| c.host.connect(port, to))
        .collect();
    let streams: Vec<_> = (0..clients).map(stream).collect();
    let total: usize = streams.iter().map(Vec::len).sum();
    let mut sent = vec![0; clients];
    let mut got = vec![Vec::new(); clients];
    let done = network.run(Duration::from_secs(600), |net| {
        for (i, stream) in streams.iter().enumerate() {
            let socket = net.clients[i].host.tcp(near[i]);
            if socket.may_send() {
                sent[i] += socket.send_slice(&stream[sent[i]..]).unwrap_or(0);
            }
            let socket = host(net).tcp(far[i]);
            while socket.can_recv() {
                let more = socket
                    .recv(|data| (data.len(), data.to_vec()))
                    .unwrap_or_default();
                got[i].extend(more);
            }
        }
        got.iter().map(Vec::len).sum::<usize>() == total
    });
    assert!(done, "all data arrives");
    got
}

pub(crate) fn assert_distinct_numbers_and_unchanged_data(mut got: Vec<Vec<u8>>) {
    let mut seen = HashSet::new();
    let mut streams: HashSet<_> = (0..got.len()).map(stream).collect();
    for stream in &mut got {
        let numbers = take_numbers(stream);
        assert_eq!(numbers.len(), 3);
        assert!(
            numbers.iter().all(|n| *n == numbers[0] && *n != 0),
            "{numbers:?}"
        );
        assert!(seen.insert(numbers[0]), "{numbers:?} is assigned twice");
        assert!(streams.remove(stream), "other bytes changed");
    }
}

#[test]
fn every_connection_gets_a_distinct_number() {
    for family in [Family::V4, Family::V6] {
        let got = streams_at_server(1, family, Mode::Assign, 5, 1, Faults::default());
        assert_distinct_numbers_and_unchanged_data(got);
    }
}

/// Sends a session setup with VcNumber 0, whole or in two fragments in this order; returns the
/// segment on the LAN.
fn logon_on_lan(order: &[usize]) -> Vec<u8> {
    let (client, server) = ((inner(0), 50_000), (SERVER, 445));
    let mut network = raw(GlobalPolicy::default(), &[vec![lan()]]);
    network.server.listen(445);
    send_and_wait(&mut network, 0, &tcp(client, server, (SYN, 99, 0)));
    let [syn_ack] = &take_received(&mut network, 0)[..] else {
        panic!("expected one answer");
    };
    let its = u32::from_be_bytes(syn_ack[24..28].try_into().unwrap());
    let numbers = (ACK, 100, its.wrapping_add(1));
    send_and_wait(&mut network, 0, &tcp(client, server, numbers));
    let logon = tcp_data(client, server, numbers, &message(SESSION_SETUP_ANDX, 900));
    take_lan_packets(&mut network);
    let cut = fragment_in_two(&logon, 504, 7);
    match order {
        [] => send_and_wait(&mut network, 0, &logon),
        order => order
            .iter()
            .for_each(|piece| send_and_wait(&mut network, 0, &cut[*piece])),
    }
    let [packet] = &take_lan_packets(&mut network)[..] else {
        panic!("expected one packet");
    };
    let headers = Headers::parse(packet).unwrap();
    assert!(headers.fragment.is_none());
    packet[headers.l4..].to_vec()
}

#[test]
fn rfc4787_req14_a_fragmented_logon_gets_its_number() {
    let whole = logon_on_lan(&[]);
    let mut smb = whole[20..].to_vec();
    assert_ne!(take_numbers(&mut smb), [0]);
    assert_eq!(smb, message(SESSION_SETUP_ANDX, 900));
    for order in [[0, 1], [1, 0]] {
        assert_eq!(logon_on_lan(&order), whole);
    }
}

#[test]
fn observe_and_off_change_nothing() {
    for mode in [Mode::Observe, Mode::Off] {
        for mut stream in streams_at_server(2, Family::V6, mode, 3, 2, Faults::default()) {
            assert_eq!(take_numbers(&mut stream), [0, 0, 0]);
        }
    }
}

proptest! {
#![proptest_config(ProptestConfig::with_cases(8))]

#[test]
fn numbers_are_distinct_under_loss_reordering_and_duplication(
    shards in 1u8..4, six in any::<bool>(), seed in any::<u64>(),
    loss in 0.0..0.05, reorder in 0.0..0.3, duplicate in 0.0..0.1,
) {
    let faults = Faults { loss, reorder, duplicate };
    let family = if six { Family::V6 } else { Family::V4 };
    assert_distinct_numbers_and_unchanged_data(streams_at_server(shards, family, Mode::Assign, 4, seed, faults));
}}
