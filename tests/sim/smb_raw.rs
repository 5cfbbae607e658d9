//! Raw transfers (MS-CIFS sections 2.2.4.22 and 2.2.4.25) of files that look like logons. Both sides
//! receive the files unchanged, and each logon gets the number of its connection.

use crate::network::{Family, Faults};
use crate::network_of_shards;
use crate::smb::{NEGOTIATE, SESSION_SETUP_ANDX, WRITE_ANDX, message};
use proptest::prelude::*;
use std::collections::HashSet;
use std::time::Duration;
use vcgate_core::smb::Mode;

const READ_RAW: u8 = 0x1A;
const WRITE_RAW: u8 = 0x1D;
const WRITE_MPX: u8 = 0x1E;
const WRITE_COMPLETE: u8 = 0x20;
const CLIENTS: usize = 3;
/// Offset of the VcNumber in a logon from its transport header.
const VC_NUMBER: usize = 45;

/// A client's bytes, and the server's response to them.
type Exchange = (Vec<u8>, Vec<u8>);

fn answer(command: u8, status: u8) -> Vec<u8> {
    let mut bytes = message(command, 0);
    (bytes[9], bytes[13]) = (status, 0x98);
    bytes
}

fn exchanges() -> Vec<Exchange> {
    let logon = message(SESSION_SETUP_ANDX, 100);
    let log_on = || (logon.clone(), answer(SESSION_SETUP_ANDX, 0));
    let file = logon.clone();
    let large = {
        let data = logon[4..].repeat(300);
        [&(data.len() as u32).to_be_bytes()[..], &data].concat()
    };
    // Before the server has answered, a logon could be meant.
    let other = {
        let data = vec![0x55; 30_000];
        [&(data.len() as u32).to_be_bytes()[..], &data].concat()
    };
    let request = |command| message(command, 0);
    let mut write_mpx = message(WRITE_MPX, logon.len());
    let at = write_mpx.len() - logon.len();
    write_mpx[at..].copy_from_slice(&logon);
    vec![
        (message(NEGOTIATE, 90), answer(NEGOTIATE, 0)),
        log_on(),
        (request(WRITE_RAW), answer(WRITE_RAW, 0)),
        (file.clone(), answer(WRITE_COMPLETE, 0)),
        log_on(),
        (request(WRITE_RAW), answer(WRITE_COMPLETE, 2)),
        log_on(),
        (write_mpx, answer(WRITE_MPX, 2)),
        (request(READ_RAW), large),
        (request(READ_RAW), file),
        ([request(WRITE_RAW), other].concat(), answer(WRITE_RAW, 0)),
        (message(WRITE_ANDX, 65_000), answer(WRITE_ANDX, 0)),
        log_on(),
    ]
}

/// Returns the number of bytes that a side may send after it received `got` bytes.
fn may_send(exchanges: &[(usize, usize)], got: usize) -> usize {
    let (mut own, mut others) = (0, 0);
    for (send, wait) in exchanges {
        if got < others + wait {
            break;
        }
        own += send;
        others += wait;
    }
    own
}

fn raw_transfers(shards: u8, family: Family, seed: u64, faults: Faults) {
    let mut network = network_of_shards(shards, family, CLIENTS, Mode::Assign, seed);
    network.faults = faults;
    let exchanges = exchanges();
    let requests = exchanges
        .iter()
        .map(|(r, _)| &r[..])
        .collect::<Vec<_>>()
        .concat();
    let answers = exchanges
        .iter()
        .map(|(_, a)| &a[..])
        .collect::<Vec<_>>()
        .concat();
    // A client waits for the previous answer, the server for the request.
    let waits = [0]
        .into_iter()
        .chain(exchanges.iter().map(|(_, a)| a.len()));
    let client_steps: Vec<_> = exchanges.iter().map(|(r, _)| r.len()).zip(waits).collect();
    let server_steps: Vec<_> = exchanges.iter().map(|(r, a)| (a.len(), r.len())).collect();

    let to = (family.server(), 445).into();
    let far = [(); CLIENTS].map(|()| network.server.listen(445));
    let near: Vec<_> = network
        .clients
        .iter_mut()
        .map(|c| c.host.connect(50_000, to))
        .collect();
    let mut client = vec![(0, Vec::new()); CLIENTS];
    let mut server = vec![(0, Vec::new()); CLIENTS];
    let done = network.run(Duration::from_secs(600), |net| {
        for i in 0..CLIENTS {
            let ends = [
                (
                    net.clients[i].host.tcp(near[i]),
                    &mut client[i],
                    &requests,
                    &client_steps,
                ),
                (
                    net.server.tcp(far[i]),
                    &mut server[i],
                    &answers,
                    &server_steps,
                ),
            ];
            for (socket, (sent, got), stream, exchanges) in ends {
                while socket.can_recv() {
                    let more = socket.recv(|data| (data.len(), data.to_vec()));
                    got.extend(more.unwrap_or_default());
                }
                let end = may_send(exchanges, got.len());
                if socket.may_send() {
                    *sent += socket.send_slice(&stream[*sent..end]).unwrap_or(0);
                }
            }
        }
        client.iter().all(|(_, got)| got.len() == answers.len())
    });
    assert!(done, "all data arrives");
    assert!(client.iter().all(|(_, got)| *got == answers));

    let starts = exchanges.iter().scan(0, |at, (request, _)| {
        let start = *at;
        *at += request.len();
        Some((start, request))
    });
    let logons: Vec<_> = starts
        .filter(|(_, request)| request[8] == SESSION_SETUP_ANDX)
        .map(|(start, _)| start + VC_NUMBER)
        // The second is the content of a file.
        .enumerate()
        .filter_map(|(n, at)| (n != 1).then_some(at))
        .collect();
    assert_eq!(logons.len(), 4);
    let mut seen = HashSet::new();
    for (_, mut got) in server {
        let numbers: HashSet<_> = logons.iter().map(|at| got[*at]).collect();
        assert_eq!(numbers.len(), 1);
        assert!(!numbers.contains(&0));
        assert!(seen.insert(got[logons[0]]), "the number is distinct");
        logons.iter().for_each(|at| got[*at] = 0);
        assert!(got == requests, "other bytes changed");
    }
}

#[test]
fn ms_cifs_2_2_4_25_files_that_look_like_logons_arrive_unchanged() {
    for family in Family::BOTH {
        raw_transfers(1, family, 1, Faults::default());
    }
}

proptest! {
#![proptest_config(ProptestConfig::with_cases(6))]

#[test]
fn raw_transfers_under_loss_reordering_and_duplication(
    shards in 1u8..3, seed in any::<u64>(),
    loss in 0.0..0.03, reorder in 0.0..0.3, duplicate in 0.0..0.1,
) {
    let faults = Faults { loss, reorder, duplicate };
    raw_transfers(shards, Family::V4, seed, faults);
}}
