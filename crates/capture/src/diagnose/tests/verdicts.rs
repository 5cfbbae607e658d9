//! The verdict on each kind of capture.

use super::network::{ACK, FIN, Network, RST, SYN, TestConnection};
use super::{SERVER, log_on, log_on_again, message, office, read_a_file, report};
use crate::diagnose::{Confidence, Kind, Signing};

const ADDRESS: &str = "192.168.77.2";

#[test]
fn a_logon_cuts_the_others_off() {
    let report = report(&office(ADDRESS, SERVER));
    assert_eq!(report.verdict.kind, Kind::CutOff);
    assert_eq!(report.verdict.confidence, Confidence::Certain);
    let counts = &report.counts;
    assert_eq!((counts.connections, counts.smb1), (3, 3));
    assert_eq!((counts.session_setups, counts.zeros), (6, 2));
    assert_eq!((counts.victims, counts.endings), (2, 0));
    let [first, second] = &report.requests[..] else {
        panic!("{:?}", report.requests);
    };
    assert_eq!(first.client, "192.168.77.2:50003".parse().unwrap());
    assert_eq!((first.word_count, first.extended_security), (12, true));
    assert_eq!(
        (first.signing, first.signed),
        (Some(Signing::Enabled), false)
    );
    assert_eq!(first.native_os, "Windows 2002");
    assert_eq!(first.native_lan_manager, "LAN 5.1");
    assert_eq!((first.others, first.unaffected), (2, Some(0)));
    assert_eq!((second.others, second.victims.len()), (0, 0));
    let [anna, berta] = &first.victims[..] else {
        panic!("{:?}", first.victims);
    };
    assert_eq!(anna.client, "192.168.77.2:50001".parse().unwrap());
    assert_eq!((anna.delay_ms, anna.by), (Some(1.0), "RST"));
    assert_eq!((&*anna.doing, anna.busy), ("reading", true));
    assert_eq!(berta.delay_ms, Some(2.0));
    assert_eq!(berta.doing, "writing, waiting for a response");
}

#[test]
fn one_victim_may_be_chance() {
    let mut net = Network::new();
    let mut anna = log_on(&mut net, "10.0.0.1:1000", SERVER, 1);
    read_a_file(&mut net, &mut anna);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    net.wait(500);
    anna.of_server(&mut net, FIN | ACK, &[]);
    let report = report(&net);
    assert_eq!(report.verdict.kind, Kind::CutOff);
    assert_eq!(report.verdict.confidence, Confidence::Likely);
    // Put down to the first leg, since that is the one that servers act on.
    assert_eq!(report.requests[0].victims[0].by, "FIN");
    assert!(report.requests[1].victims.is_empty());
}

#[test]
fn a_computer_that_came_back_is_no_failure() {
    let mut net = Network::new();
    let mut old = log_on(&mut net, "10.0.0.1:1000", SERVER, 0);
    net.wait(600_000);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    old.of_server(&mut net, RST, &[]);
    let report = report(&net);
    assert_eq!(report.verdict.kind, Kind::CutOff);
    assert_eq!(report.verdict.confidence, Confidence::Possible);
    assert!(report.verdict.because.contains("had restarted"));
    assert_eq!(report.requests[2].victims[0].doing, "idle for 10 minutes");
}

/// Neither is work: a client's keepalive with or without a byte of garbage (RFC 9293 section 3.8.4),
/// a copy of its last segment, or NetBIOS's keepalive (RFC 1002 section 4.3.7).
#[test]
fn an_idle_connection_that_is_kept_alive_is_idle() {
    const KEEP_ALIVE: [u8; 4] = [0x85, 0, 0, 0];
    for was_seen in [true, false] {
        let mut net = Network::new();
        let mut old = match was_seen {
            true => log_on(&mut net, "10.0.0.1:1000", SERVER, 0),
            false => TestConnection::old("10.0.0.1:1000", SERVER),
        };
        for _ in 0..10 {
            net.wait(60_000);
            for len in [0, 1] {
                let seqs = (old.seqs.0.wrapping_sub(1), old.seqs.1);
                let mut probe = TestConnection {
                    seqs,
                    ..old.clone()
                };
                probe.ask(&mut net, &[0; 1][..len]);
                old.answer(&mut net, &[]);
            }
            if was_seen {
                let logon = message::logon(12, 0);
                let seqs = (old.seqs.0.wrapping_sub(logon.len() as u32), old.seqs.1);
                let mut again = TestConnection {
                    seqs,
                    ..old.clone()
                };
                again.ask(&mut net, &logon);
            }
            old.answer(&mut net, &KEEP_ALIVE);
            old.ask(&mut net, &KEEP_ALIVE);
        }
        log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
        old.of_server(&mut net, RST, &[]);
        let report = report(&net);
        let request = &report.requests[2 * usize::from(was_seen)];
        assert_eq!(report.verdict.confidence, Confidence::Possible);
        assert!(!request.victims[0].busy);
        let expected = match was_seen {
            true => "idle for 10 minutes",
            false => "no data was captured before",
        };
        assert_eq!(request.victims[0].doing, expected);
    }
}

#[test]
fn a_connection_of_which_nothing_was_seen_can_be_a_victim() {
    let mut net = Network::new();
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    TestConnection::old("10.0.0.1:1000", SERVER).of_server(&mut net, RST, &[]);
    let report = report(&net);
    assert_eq!(report.counts.victims, 1);
    let victim = &report.requests[0].victims[0];
    assert_eq!(victim.doing, "no data was captured before");
    assert_eq!(victim.quiet_seconds, None);
}

#[test]
fn what_ends_otherwise_is_no_victim() {
    let mut net = Network::new();
    // One that the client ended, one that was refused, one with another server, one of another
    // client, one that began after the logon, one that ends too late.
    let mut left = log_on(&mut net, "10.0.0.1:1000", SERVER, 1);
    let mut elsewhere = log_on(&mut net, "10.0.0.1:1000", "192.168.77.11:445", 1);
    let mut late = log_on(&mut net, "10.0.0.1:1003", SERVER, 1);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    left.of_client(&mut net, FIN | ACK, &[]);
    left.of_server(&mut net, FIN | ACK, &[]);
    left.of_server(&mut net, RST, &[]);
    elsewhere.of_server(&mut net, RST, &[]);
    let mut refused = TestConnection::old("10.0.0.1:1002", "192.168.77.10:139");
    refused.of_client(&mut net, SYN, &[]);
    refused.of_server(&mut net, RST | ACK, &[]);
    let mut young = log_on(&mut net, "10.0.0.1:1004", SERVER, 1);
    young.of_server(&mut net, RST, &[]);
    net.wait(1001);
    late.of_server(&mut net, RST, &[]);
    let report = report(&net);
    assert_eq!(report.counts.victims, 0);
    assert_eq!(report.counts.endings, 3);
    assert_eq!(report.verdict.kind, Kind::Unaffected);
    assert_eq!(
        (report.requests[0].others, report.requests[0].unaffected),
        (2, Some(1))
    );
}

#[test]
fn the_clients_side_of_a_nat_shows_it_too() {
    let mut net = Network::new();
    let mut anna = log_on(&mut net, "10.8.0.11:1000", SERVER, 1);
    log_on(&mut net, "10.8.0.12:1000", SERVER, 0);
    anna.of_server(&mut net, RST, &[]);
    let report = report(&net);
    assert_eq!(report.verdict.kind, Kind::CutOffThroughNat);
    assert_eq!(report.counts.victims_elsewhere, 1);
}

#[test]
fn a_capture_that_stops_too_early_tells_nothing() {
    let mut net = Network::new();
    log_on(&mut net, "10.0.0.1:1000", SERVER, 1);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    assert_eq!(report(&net).verdict.kind, Kind::TooEarly);
    // They would have seen an event at the same server a second later.
    net.wait(1001);
    log_on(&mut net, "10.0.0.2:1000", SERVER, 1);
    assert_eq!(report(&net).verdict.kind, Kind::Unaffected);
}

#[test]
fn a_clock_that_stands_still_is_no_reason_to_keep_everything() {
    let mut net = Network::new();
    let mut connection = TestConnection::open(&mut net, "10.0.0.1:1000", SERVER);
    for _ in 0..5000 {
        connection.ask(&mut net, &message::logon(12, 0));
    }
    net.packets.iter_mut().for_each(|(time, _)| *time = 0);
    let report = report(&net);
    let settled = report.requests.iter().filter(|r| r.unaffected.is_some());
    assert_eq!((report.counts.zeros, settled.count()), (5000, 5000 - 4096));
}

#[test]
fn healthy_captures_say_so() {
    let mut net = Network::new();
    let mut anna = log_on(&mut net, "10.0.0.1:1000", SERVER, 1);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 2);
    read_a_file(&mut net, &mut anna);
    assert_eq!(report(&net).verdict.kind, Kind::NoZero);

    let mut net = Network::new();
    log_on(&mut net, "10.0.0.1:1000", SERVER, 0);
    let alone = report(&net);
    assert_eq!(alone.verdict.kind, Kind::NoOtherClient);
    assert_eq!(alone.requests[0].unaffected, None);

    let mut net = Network::new();
    let mut anna = log_on(&mut net, "10.0.0.1:1000", SERVER, 1);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    net.wait(1001);
    read_a_file(&mut net, &mut anna);
    assert_eq!(report(&net).verdict.kind, Kind::Unaffected);

    let mut net = Network::new();
    let mut connection = TestConnection::open(&mut net, "10.0.0.1:1000", SERVER);
    connection.ask(&mut net, &message::negotiate());
    connection.answer(&mut net, &message::smb2());
    connection.ask(&mut net, &message::logon(12, 0));
    let upgraded = report(&net);
    assert_eq!(upgraded.verdict.kind, Kind::Smb2);
    assert_eq!((upgraded.counts.smb2, upgraded.counts.zeros), (1, 0));

    let mut net = Network::new();
    let mut connection = TestConnection::old("10.0.0.1:1000", SERVER);
    read_a_file(&mut net, &mut connection);
    assert_eq!(report(&net).verdict.kind, Kind::NoLogon);

    let mut net = Network::new();
    let mut connection = TestConnection::open(&mut net, "10.0.0.1:1000", SERVER);
    connection.ask(&mut net, b"\0\0\0\x20\xFFE\0\0abcdefghijklmnopqrstuvwxyz12");
    assert_eq!(report(&net).verdict.kind, Kind::Encrypted);

    let mut net = Network::new();
    TestConnection::open(&mut net, "10.0.0.1:1000", "192.168.77.10:80");
    assert_eq!(report(&net).verdict.kind, Kind::NoSmb);
    assert_eq!(report(&Network::new()).verdict.kind, Kind::NoSmb);

    for (_, packet) in &mut net.packets {
        packet[9] = 50; // ESP
    }
    assert_eq!(report(&net).verdict.kind, Kind::Tunnel);
}

#[test]
fn a_capture_may_begin_in_mid_stream_and_lose_packets() {
    let mut net = Network::new();
    let mut connection = TestConnection::old("10.0.0.1:1000", SERVER);
    // The rest of a message, then whole ones.
    connection.ask(&mut net, &message::write()[100..]);
    log_on_again(&mut net, &mut connection, 0);
    connection.ask(&mut net, &message::write());
    assert_eq!(report(&net).counts.zeros, 2);
    // The packet with the first leg was not captured.
    let lost = net.packets.remove(3);
    assert!(lost.1.ends_with(&message::logon(12, 0)));
    assert_eq!(report(&net).counts.zeros, 1);
}

#[test]
fn another_connection_may_use_the_same_ports() {
    let mut net = Network::new();
    let connection = log_on(&mut net, "10.0.0.1:1000", SERVER, 0);
    let mut again = TestConnection {
        seqs: (
            connection.seqs.0 ^ 0x1234_5678,
            connection.seqs.1 ^ 0x8765_4321,
        ),
        ..connection
    };
    again.shake_hands(&mut net);
    log_on_again(&mut net, &mut again, 0);
    let report = report(&net);
    assert_eq!((report.counts.connections, report.counts.zeros), (2, 4));
}

#[test]
fn netbios_is_read_as_well() {
    let mut net = Network::new();
    let mut connection = TestConnection::open(&mut net, "10.0.0.1:1000", "192.168.77.10:139");
    connection.ask(&mut net, &[&[0x81, 0, 0, 68][..], &[0x20; 68]].concat());
    connection.answer(&mut net, &[0x82, 0, 0, 0]);
    log_on_again(&mut net, &mut connection, 0);
    assert_eq!(report(&net).counts.zeros, 2);
}

#[test]
fn what_is_captured_twice_on_its_way_is_no_firewalls() {
    let mut net = office(ADDRESS, SERVER);
    let packets = net.packets.drain(..).collect::<Vec<_>>();
    for (time, packet) in packets {
        // As it came from the server's side, and as it goes on.
        for ttl in [packet[8], packet[8] - 1] {
            let mut copy = packet.clone();
            copy[8] = ttl;
            net.packets.push((time, copy));
        }
    }
    let report = report(&net);
    assert_eq!(report.counts.victims, 2);
    let odd = report
        .requests
        .iter()
        .flat_map(|r| &r.victims)
        .filter(|v| v.odd_ttl);
    assert_eq!(odd.count(), 0);
    assert_eq!(report.verdict.confidence, Confidence::Certain);
}

#[test]
fn a_firewalls_reset_is_told_from_the_servers() {
    let mut net = office(ADDRESS, SERVER);
    for (_, packet) in &mut net.packets {
        if packet[33] & RST != 0 {
            packet[8] = 200;
        }
    }
    let report = report(&net);
    assert!(
        report.requests[0]
            .victims
            .iter()
            .all(|victim| victim.odd_ttl)
    );
    assert_eq!(report.verdict.confidence, Confidence::Likely);
}
