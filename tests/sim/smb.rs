//! SMB users behind one address: what the server gets is what each client sent, but for a
//! VcNumber of each connection's own.

use crate::host::Host;
use crate::ip::{ACK, SYN, pieces, tcp, tcp_data};
use crate::network::{Family, Faults, Network, SERVER, inner};
use crate::network_of_shards;
use crate::raw::{left, raw, received, sends};
use crate::rules::lan;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
use vcgate_core::engine::GlobalPolicy;
use vcgate_core::smb::Mode;
use vcgate_wire::ip::Headers;

pub const NEGOTIATE: u8 = 0x72;
pub const SESSION_SETUP_ANDX: u8 = 0x73;
pub const WRITE_ANDX: u8 = 0x2F;
/// Where VcNumber lies, from the transport header on (MS-CIFS section 2.2.4.53.1, MS-SMB
/// section 2.2.4.6.1).
const VC_NUMBER: std::ops::Range<usize> = 45..47;

/// One message with its transport header: 12 words for session setups (extended security), as
/// many bytes of data as asked.
pub fn message(command: u8, data: usize) -> Vec<u8> {
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

/// A logon, copies, and another user's logon on the same connection.
pub fn stream(client: usize) -> Vec<u8> {
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

/// The VcNumbers of all session setups in a stream, which are zeroed.
pub fn take_numbers(stream: &mut [u8]) -> Vec<u16> {
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

/// Every client of a new network sends its stream; what the server got from each.
fn server_gets(
    shards: u8,
    family: Family,
    mode: Mode,
    clients: usize,
    seed: u64,
    faults: Faults,
) -> Vec<Vec<u8>> {
    let mut network = network_of_shards(shards, family, clients, mode, seed);
    network.faults = faults;
    server_gets_of(&mut network)
}

/// Every client sends its stream on 445; what the server got from each.
pub fn server_gets_of(network: &mut Network) -> Vec<Vec<u8>> {
    server_gets_from(network, 50_000)
}

/// The same, from this port of each client.
pub fn server_gets_from(network: &mut Network, port: u16) -> Vec<Vec<u8>> {
    let to = (network.family.server(), 445).into();
    let clients = network.clients.len();
    gets_from(network, |net| &mut net.server, to, clients, port)
}

/// The first clients send their streams from this port to another one; what its host got from each.
pub fn gets_from(
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

pub fn all_distinct_and_otherwise_unchanged(mut got: Vec<Vec<u8>>) {
    let mut seen = HashSet::new();
    let mut streams: HashSet<_> = (0..got.len()).map(stream).collect();
    for stream in &mut got {
        let numbers = take_numbers(stream);
        assert_eq!(numbers.len(), 3);
        assert!(
            numbers.iter().all(|n| *n == numbers[0] && *n != 0),
            "{numbers:?}"
        );
        assert!(seen.insert(numbers[0]), "{numbers:?} twice");
        assert!(streams.remove(stream), "something else was changed");
    }
}

#[test]
fn every_connection_gets_a_number_of_its_own() {
    for family in [Family::V4, Family::V6] {
        let got = server_gets(1, family, Mode::Assign, 5, 1, Faults::default());
        all_distinct_and_otherwise_unchanged(got);
    }
}

/// A session setup without a number, as the LAN sees it of a client that sends it so: whole, or in
/// these pieces in this order.
fn logon_on_lan(order: &[usize]) -> Vec<u8> {
    let (client, server) = ((inner(0), 50_000), (SERVER, 445));
    let mut network = raw(GlobalPolicy::default(), &[vec![lan()]]);
    network.server.listen(445);
    sends(&mut network, 0, &tcp(client, server, (SYN, 99, 0)));
    let [syn_ack] = &received(&mut network, 0)[..] else {
        panic!("one answer");
    };
    let its = u32::from_be_bytes(syn_ack[24..28].try_into().unwrap());
    let numbers = (ACK, 100, its.wrapping_add(1));
    sends(&mut network, 0, &tcp(client, server, numbers));
    let logon = tcp_data(client, server, numbers, &message(SESSION_SETUP_ANDX, 900));
    left(&mut network);
    let cut = pieces(&logon, 504, 7);
    match order {
        [] => sends(&mut network, 0, &logon),
        order => order
            .iter()
            .for_each(|piece| sends(&mut network, 0, &cut[*piece])),
    }
    let [packet] = &left(&mut network)[..] else {
        panic!("one packet");
    };
    let headers = Headers::parse(packet).unwrap();
    assert!(headers.fragment.is_none());
    packet[headers.l4..].to_vec()
}

#[test]
fn rfc4787_req14_a_logon_in_fragments_gets_its_number_too() {
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
        for mut stream in server_gets(2, Family::V6, mode, 3, 2, Faults::default()) {
            assert_eq!(take_numbers(&mut stream), [0, 0, 0]);
        }
    }
}

proptest! {
#![proptest_config(ProptestConfig::with_cases(8))]

#[test]
fn numbers_stay_right_under_loss_reorder_and_duplication(
    shards in 1u8..4, six in any::<bool>(), seed in any::<u64>(),
    loss in 0.0..0.05, reorder in 0.0..0.3, duplicate in 0.0..0.1,
) {
    let faults = Faults { loss, reorder, duplicate };
    let family = if six { Family::V6 } else { Family::V4 };
    all_distinct_and_otherwise_unchanged(server_gets(shards, family, Mode::Assign, 4, seed, faults));
}}
