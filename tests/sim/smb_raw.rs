//! SMB users whose files go by raw transfers (MS-CIFS sections 2.2.4.22 and 2.2.4.25), in files that
//! look like logons. Both sides get what the other one sent, and each logon its connection's number.

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
/// Where VcNumber lies in a logon, from the transport header on.
const VC_NUMBER: usize = 45;

/// What a client sends, and what the server answers once it has that.
type Turn = (Vec<u8>, Vec<u8>);

fn answer(command: u8, status: u8) -> Vec<u8> {
    let mut bytes = message(command, 0);
    (bytes[9], bytes[13]) = (status, 0x98);
    bytes
}

fn turns() -> Vec<Turn> {
    let logon = message(SESSION_SETUP_ANDX, 100);
    let log_on = || (logon.clone(), answer(SESSION_SETUP_ANDX, 0));
    let file = logon.clone();
    let large = {
        let data = logon[4..].repeat(300);
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
        (request(READ_RAW), large.clone()),
        (request(READ_RAW), file),
        ([request(WRITE_RAW), large].concat(), answer(WRITE_RAW, 0)),
        (message(WRITE_ANDX, 65_000), answer(WRITE_ANDX, 0)),
        log_on(),
    ]
}

/// How much one side may send that has got so much of the other's: all that does not wait for more.
fn may_send(turns: &[(usize, usize)], got: usize) -> usize {
    let (mut own, mut others) = (0, 0);
    for (send, wait) in turns {
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
    let turns = turns();
    let requests = turns
        .iter()
        .map(|(r, _)| &r[..])
        .collect::<Vec<_>>()
        .concat();
    let answers = turns
        .iter()
        .map(|(_, a)| &a[..])
        .collect::<Vec<_>>()
        .concat();
    // A client waits for the last answer, the server for this request.
    let waits = [0].into_iter().chain(turns.iter().map(|(_, a)| a.len()));
    let client_turns: Vec<_> = turns.iter().map(|(r, _)| r.len()).zip(waits).collect();
    let server_turns: Vec<_> = turns.iter().map(|(r, a)| (a.len(), r.len())).collect();

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
                    &client_turns,
                ),
                (
                    net.server.tcp(far[i]),
                    &mut server[i],
                    &answers,
                    &server_turns,
                ),
            ];
            for (socket, (sent, got), stream, turns) in ends {
                while socket.can_recv() {
                    let more = socket.recv(|data| (data.len(), data.to_vec()));
                    got.extend(more.unwrap_or_default());
                }
                let end = may_send(turns, got.len());
                if socket.may_send() {
                    *sent += socket.send_slice(&stream[*sent..end]).unwrap_or(0);
                }
            }
        }
        client.iter().all(|(_, got)| got.len() == answers.len())
    });
    assert!(done, "all data arrives");
    assert!(client.iter().all(|(_, got)| *got == answers));

    let starts = turns.iter().scan(0, |at, (request, _)| {
        let start = *at;
        *at += request.len();
        Some((start, request))
    });
    let logons: Vec<_> = starts
        .filter(|(_, request)| request[8] == SESSION_SETUP_ANDX)
        .map(|(start, _)| start + VC_NUMBER)
        // The second of them is a file.
        .enumerate()
        .filter_map(|(n, at)| (n != 1).then_some(at))
        .collect();
    assert_eq!(logons.len(), 4);
    let mut seen = HashSet::new();
    for (_, mut got) in server {
        let numbers: HashSet<_> = logons.iter().map(|at| got[*at]).collect();
        assert_eq!(numbers.len(), 1);
        assert!(!numbers.contains(&0));
        assert!(seen.insert(got[logons[0]]), "a number of its own");
        logons.iter().for_each(|at| got[*at] = 0);
        assert!(got == requests, "something else was changed");
    }
}

#[test]
fn ms_cifs_2_2_4_25_files_that_look_like_logons_arrive_as_they_are() {
    for family in Family::BOTH {
        raw_transfers(1, family, 1, Faults::default());
    }
}

proptest! {
#![proptest_config(ProptestConfig::with_cases(6))]

#[test]
fn under_loss_reorder_and_duplication_too(
    shards in 1u8..3, seed in any::<u64>(),
    loss in 0.0..0.03, reorder in 0.0..0.3, duplicate in 0.0..0.1,
) {
    let faults = Faults { loss, reorder, duplicate };
    raw_transfers(shards, Family::V4, seed, faults);
}}
