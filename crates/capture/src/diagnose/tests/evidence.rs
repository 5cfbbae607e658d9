//! A verdict says no more than the capture shows: one direction only, cut packets, connections
//! that were never SMB, and connections that the server had lost before.

use super::network::{ACK, FIN, Network, RST, SYN, TestConnection};
use super::{SERVER, diagnosis, file, log_on, message, office, read_a_file, report};
use crate::diagnose::{Confidence, Kind, Report};
use proptest::prelude::*;

const ADDRESS: &str = "192.168.77.2";

fn captured(file: &[u8]) -> Report {
    diagnosis(file).report().clone()
}

/// Only the packets that go to a file server, or only those that come from one.
fn one_direction(net: &Network, to_server: bool) -> Network {
    let mut net = net.clone();
    net.packets
        .retain(|(_, packet)| (packet[22..24] == 445u16.to_be_bytes()) == to_server);
    net
}

/// One user at work while another logs on, and the server ends nothing.
fn calm() -> Network {
    let mut net = Network::new();
    let mut anna = log_on(&mut net, "10.0.0.1:1000", SERVER, 1);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    net.wait(1500);
    read_a_file(&mut net, &mut anna);
    net
}

#[test]
fn a_declined_netbios_call_is_no_victim() {
    let report = captured(include_bytes!("captures/neg_session_response.pcap"));
    assert_eq!(report.counts.victims, 0);
    assert_eq!(report.counts.declined, 1);
    assert_eq!(report.verdict.kind, Kind::NoOtherClient);
}

/// RFC 1002 section 4.3.4 and 4.3.5: declined, or sent to another address.
#[test]
fn rfc1002_4_3_4_a_server_that_declines_or_redirects_ends_no_connection() {
    for answer in [
        &[0x83, 0, 0, 1, 0x82][..],
        &[0x84, 0, 0, 6, 10, 0, 0, 9, 0, 139],
    ] {
        for was_opened in [true, false] {
            let mut net = Network::new();
            let netbios = "192.168.77.10:139";
            let mut call = match was_opened {
                true => TestConnection::open(&mut net, "10.0.0.1:1000", netbios),
                false => TestConnection::old("10.0.0.1:1000", netbios),
            };
            call.ask(&mut net, &[&[0x81, 0, 0, 68][..], &[0x20; 68]].concat());
            let alone = {
                let (mut net, mut call) = (net.clone(), call.clone());
                call.answer(&mut net, answer);
                call.of_server(&mut net, FIN | ACK, &[]);
                report(&net)
            };
            assert_eq!(alone.verdict.kind, Kind::Declined);
            log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
            call.answer(&mut net, answer);
            call.of_server(&mut net, FIN | ACK, &[]);
            let report = report(&net);
            assert_eq!((report.counts.victims, report.counts.declined), (0, 1));
            assert_eq!(report.verdict.kind, Kind::NoOtherClient);
        }
    }
}

#[test]
fn a_connection_that_never_spoke_smb_is_no_victim() {
    for text in [&b""[..], b"GET / HTTP/1.0\r\n\r\n"] {
        let mut net = Network::new();
        let mut scan = TestConnection::open(&mut net, "10.0.0.1:1000", SERVER);
        log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
        if !text.is_empty() {
            scan.ask(&mut net, text);
        }
        scan.of_server(&mut net, FIN | ACK, &[]);
        let report = report(&net);
        assert_eq!(report.counts.victims, 0);
        assert_eq!(report.verdict.kind, Kind::NoOtherClient);
    }
}

#[test]
fn connections_that_a_restarted_server_no_longer_knows_are_no_victims() {
    let report = captured(include_bytes!("captures/reboot_rst_without_ack.pcap"));
    let counts = &report.counts;
    assert_eq!((counts.victims, counts.lost), (0, 4));
    assert_eq!(report.verdict.kind, Kind::LostBefore);
    assert!(report.verdict.confidence < Confidence::Certain);
    assert!(report.verdict.happened.contains("no longer knew"));
}

/// The same, where the first to come is answered more than a second after the logon: nothing
/// says that the server still had the connections.
#[test]
fn a_lost_connection_is_not_one_that_the_server_kept() {
    let mut net = Network::new();
    let mut old = log_on(&mut net, "10.0.0.1:1000", SERVER, 1);
    net.wait(30_000);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    net.wait(3000);
    old.ask(&mut net, &message::read());
    old.of_server(&mut net, RST, &[]);
    let report = report(&net);
    assert_eq!((report.counts.victims, report.counts.lost), (0, 1));
    assert_eq!(report.verdict.kind, Kind::LostBefore);
}

/// A server that had the connection a stamp before cannot have restarted since: then it is a
/// victim, though not a certain one.
#[test]
fn a_reset_without_ack_of_a_live_connection_still_counts() {
    let mut net = Network::new();
    let mut lines = [1000, 1001].map(|port| {
        let client = format!("10.0.0.1:{port}");
        log_on(&mut net, &client, SERVER, 1)
    });
    for connection in &mut lines {
        read_a_file(&mut net, connection);
    }
    log_on(&mut net, "10.0.0.1:1002", SERVER, 0);
    for connection in &mut lines {
        connection.ask(&mut net, &message::read());
        connection.of_server(&mut net, RST, &[]);
    }
    let report = report(&net);
    assert_eq!((report.counts.victims, report.counts.lost), (2, 0));
    assert_eq!(report.verdict.kind, Kind::CutOff);
    assert_eq!(report.verdict.confidence, Confidence::Likely);
}

/// A server that is being stopped ends all connections; who comes back at once sends VcNumber 0
/// while it is still at it.
#[test]
fn a_server_that_was_already_ending_connections_makes_the_logon_a_doubtful_cause() {
    let mut net = Network::new();
    let mut lines = [1000, 1001, 1002].map(|port| {
        let client = format!("10.0.0.1:{port}");
        log_on(&mut net, &client, SERVER, 1)
    });
    net.wait(5000);
    for connection in &mut lines {
        read_a_file(&mut net, connection);
    }
    let [first, rest @ ..] = &mut lines;
    first.of_server(&mut net, RST | ACK, &[]);
    log_on(&mut net, "10.0.0.1:1003", SERVER, 0);
    for connection in rest {
        connection.of_server(&mut net, RST | ACK, &[]);
    }
    let report = report(&net);
    assert_eq!((report.counts.victims, report.counts.endings), (2, 1));
    assert_eq!(report.verdict.kind, Kind::CutOff);
    assert_eq!(report.verdict.confidence, Confidence::Possible);
    assert!(report.verdict.because.contains("restart"));
}

#[test]
fn one_direction_shows_neither_guilt_nor_innocence() {
    let clients_only = captured(include_bytes!("captures/clients_direction_only.pcap"));
    assert_eq!(clients_only.verdict.kind, Kind::OneDirection);
    for (net, kind) in [
        (office(ADDRESS, SERVER), Kind::CutOff),
        (calm(), Kind::Unaffected),
    ] {
        assert_eq!(report(&net).verdict.kind, kind);
        for to_server in [true, false] {
            let report = report(&one_direction(&net, to_server));
            assert_eq!(report.verdict.kind, Kind::OneDirection);
            assert_eq!(report.verdict.confidence, Confidence::Possible);
            let happened = &report.verdict.happened;
            let missing = match to_server {
                true => "no packet from a file server",
                false => "no packet to a file server",
            };
            assert!(happened.contains(missing), "{happened}");
            let advice = &report.verdict.advice;
            let both = "tcpdump -i any -s 0 -w FILE 'tcp port 445 or tcp port 139'";
            assert!(advice.contains(both), "{advice}");
        }
    }
}

/// The server's direction of the other connection is missing, of the one that logs on it is not.
#[test]
fn one_direction_of_the_others_shows_nothing_of_them_either() {
    let mut net = calm();
    let from_anna = |packet: &[u8]| packet[22..24] == 1000u16.to_be_bytes();
    net.packets.retain(|(_, packet)| !from_anna(packet));
    let report = report(&net);
    assert_eq!(report.verdict.kind, Kind::OneDirection);
    assert_eq!(report.counts.only_to_server, 1);
}

#[test]
fn who_is_silent_after_a_logon_is_hardly_proof_of_anything() {
    let mut net = Network::new();
    log_on(&mut net, "10.0.0.1:1000", SERVER, 1);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    net.wait(1500);
    log_on(&mut net, "10.0.0.2:1000", SERVER, 1);
    let silent = report(&net);
    assert_eq!(silent.verdict.kind, Kind::Unaffected);
    assert_eq!(silent.verdict.confidence, Confidence::Possible);
    let alive = report(&calm());
    assert_eq!(alive.verdict.confidence, Confidence::Likely);
    assert_eq!(alive.requests[0].seen_alive, 1);
}

#[test]
fn connections_that_were_tried_and_not_answered_are_named() {
    let report = captured(include_bytes!("captures/syn_only.pcap"));
    assert_eq!(report.verdict.kind, Kind::Unanswered);
    assert_eq!(
        (report.counts.connections, report.counts.unanswered),
        (5, 5)
    );
    assert_eq!(report.verdict.confidence, Confidence::Possible);
}

#[test]
fn connections_that_were_refused_are_named() {
    let mut net = Network::new();
    for port in [1000, 1001] {
        let mut connection = TestConnection::old(&format!("10.0.0.1:{port}"), SERVER);
        connection.of_client(&mut net, SYN, &[]);
        connection.of_server(&mut net, RST | ACK, &[]);
    }
    let report = report(&net);
    assert_eq!(report.verdict.kind, Kind::Refused);
    assert_eq!((report.counts.refused, report.counts.endings), (2, 0));
}

/// RFC 792: a firewall refuses a connection with ICMP.
#[test]
fn connections_that_were_refused_with_icmp_are_named() {
    let mut net = Network::new();
    let mut connection = TestConnection::old("10.0.0.1:1000", SERVER);
    connection.of_client(&mut net, SYN, &[]);
    let (time, quoted) = net.packets[0].clone();
    let mut icmp = quoted[..20].to_vec();
    (icmp[3], icmp[9]) = (20 + 8 + 28, 1);
    let (src, dst) = (icmp[12..16].to_vec(), icmp[16..20].to_vec());
    icmp[12..20].copy_from_slice(&[dst, src].concat());
    icmp.extend([3, 3, 0, 0, 0, 0, 0, 0]);
    icmp.extend(&quoted[..28]);
    net.packets.push((time + 1_000_000, icmp));
    let report = report(&net);
    assert_eq!(report.verdict.kind, Kind::Refused);
    assert_eq!(report.counts.refused, 1);
}

/// tcpdump's old defaults, without and with TCP's timestamps in mind.
#[test]
fn cut_packets_say_how_long_they_are() {
    for snapshot in [60, 68] {
        for net in [office(ADDRESS, SERVER), calm()] {
            let file = file::pcap(&net, file::ETHERNET, file::Order::Little, false, snapshot);
            let report = captured(&file);
            assert_eq!(report.verdict.kind, Kind::CutShort);
            assert_eq!(report.verdict.confidence, Confidence::Possible);
            assert_eq!(report.capture.snap_length, Some(snapshot as u64));
            let happened = &report.verdict.happened;
            assert!(
                happened.contains(&format!("first {snapshot} bytes")),
                "{happened}"
            );
            assert!(
                report
                    .verdict
                    .advice
                    .contains("tcpdump -i any -s 0 -w FILE")
            );
        }
    }
}

#[test]
fn some_connections_of_smb2_say_nothing_of_the_others() {
    let mut net = Network::new();
    let mut connection = TestConnection::open(&mut net, "10.0.0.1:1000", SERVER);
    connection.ask(&mut net, &message::negotiate());
    connection.answer(&mut net, &message::smb2());
    assert_eq!(report(&net).verdict.confidence, Confidence::Certain);
    // The middle of something that cannot be read.
    let mut other = TestConnection::old("10.0.0.1:1001", SERVER);
    other.ask(&mut net, &[7; 100]);
    other.answer(&mut net, &[7; 100]);
    let report = report(&net);
    assert_eq!(report.verdict.kind, Kind::Smb2);
    assert_eq!(report.verdict.confidence, Confidence::Possible);
}

/// A time-out, to have one more kind of verdict: the server ends an idle connection.
fn idle() -> Network {
    let mut net = Network::new();
    let mut old = log_on(&mut net, "10.0.0.1:1000", SERVER, 0);
    for _ in 0..3 {
        net.wait(60_000);
        old.ask(&mut net, &[0x85, 0, 0, 0]);
        old.answer(&mut net, &[0x85, 0, 0, 0]);
    }
    net.wait(60_000);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 0);
    old.of_server(&mut net, RST | ACK, &[]);
    net
}

fn healthy() -> Network {
    let mut net = Network::new();
    let mut anna = log_on(&mut net, "10.0.0.1:1000", SERVER, 1);
    log_on(&mut net, "10.0.0.1:1001", SERVER, 2);
    read_a_file(&mut net, &mut anna);
    net
}

fn upgraded() -> Network {
    let mut net = Network::new();
    let mut connection = TestConnection::open(&mut net, "10.0.0.1:1000", SERVER);
    connection.ask(&mut net, &message::negotiate());
    connection.answer(&mut net, &message::smb2());
    net
}

fn scenes() -> [Network; 5] {
    [
        office(ADDRESS, SERVER),
        calm(),
        idle(),
        healthy(),
        upgraded(),
    ]
}

#[test]
fn less_of_each_packet_never_makes_a_verdict_more_certain() {
    for (number, net) in scenes().iter().enumerate() {
        let mut before = Confidence::Possible;
        for snapshot in 30..=400 {
            let file = file::pcap(net, file::ETHERNET, file::Order::Little, false, snapshot);
            let verdict = captured(&file).verdict;
            let what = format!("scene {number}, {snapshot} bytes: {verdict:?}");
            assert!(verdict.confidence >= before, "{what}");
            before = verdict.confidence;
        }
        assert_eq!(before, report(net).verdict.confidence);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn less_directions_never_make_a_verdict_more_certain(scene in 0..5usize,
                                                         missing in prop::array::uniform3(0..3u8)) {
        let whole = scenes()[scene].clone();
        let mut net = whole.clone();
        net.packets.retain(|(_, packet)| {
            let to_server = packet[22..24] == 445u16.to_be_bytes();
            let port = packet[if to_server { 21 } else { 23 }];
            match missing[usize::from(port) % 3] {
                0 => true,
                1 => to_server,
                _ => !to_server,
            }
        });
        let (whole, part) = (report(&whole).verdict, report(&net).verdict);
        prop_assert!(part.confidence <= whole.confidence, "{:?}", part);
    }
}

#[test]
fn what_is_not_read_is_counted_and_named() {
    // Wi-Fi, which is not read.
    let net = office(ADDRESS, SERVER);
    let wifi: file::Link = (127, |_| vec![0; 40]);
    let unread = captured(&file::pcap(&net, wifi, file::Order::Little, false, 262_144));
    assert_eq!(unread.verdict.kind, Kind::Unreadable);
    let [wifi] = &unread.capture.unread[..] else {
        panic!("{:?}", unread.capture.unread);
    };
    assert_eq!(wifi.frames, net.packets.len() as u64);
    assert!(wifi.reason.contains("Wi-Fi with radiotap"));
    assert!(unread.verdict.advice.contains("Wi-Fi with radiotap"));

    // Some packets in a healthy capture: it no longer says that all is well.
    let mut net = healthy();
    assert_eq!(report(&net).verdict.confidence, Confidence::Likely);
    net.packets[9].1[9] = 50; // ESP
    let report = report(&net);
    assert_eq!(report.verdict.kind, Kind::NoZero);
    assert_eq!(report.verdict.confidence, Confidence::Possible);
    assert!(report.verdict.because.contains("packet of a VPN: IPsec"));
    assert_eq!(report.counts.tunnel_packets, 1);
}

/// RFC 3948 section 2.3: they keep a NAT's mapping alive.
#[test]
fn probes_of_port_4500_are_no_tunnel() {
    let mut net = Network::new();
    TestConnection::open(&mut net, "10.0.0.1:1000", "192.168.77.10:80");
    for (_, packet) in &mut net.packets {
        packet[9] = 17;
        packet[22..24].copy_from_slice(&4500u16.to_be_bytes());
        packet.truncate(28);
        packet[2..4].copy_from_slice(&28u16.to_be_bytes());
    }
    let report = report(&net);
    assert_eq!(report.verdict.kind, Kind::NoSmb);
    assert_eq!(report.counts.tunnel_packets, 0);
}
