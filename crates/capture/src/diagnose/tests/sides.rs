//! Captures of both sides of a NAT: `tcpdump -i any` on the gateway, vcgate's own, and files of two
//! machines that were merged or appended.

use super::network::{ACK, FIN, Network, RST, TestConnection};
use super::{SERVER, log_on, log_on_again, message, office, read_a_file, report};
use crate::diagnose::{Confidence, Kind};
use crate::{Packet, pcapng};
use proptest::prelude::*;
use vcgate_core::engine::{Direction, Side};

const ADDRESS: &str = "192.168.77.2";

/// The packets of the LAN, each with its copy in front of the NAT, where a client's port is the
/// last byte of its address too.
fn on_all_interfaces(lan: &Network) -> Network {
    let mut all = lan.clone();
    let both = lan.packets.iter().flat_map(|(time, packet)| {
        let mut inner = packet.clone();
        let to_server = packet[22..24] == 445u16.to_be_bytes();
        let (address, port) = if to_server { (12, 20) } else { (16, 22) };
        inner[address..address + 4].copy_from_slice(&[10, 8, 0, packet[port + 1]]);
        // The TTL falls on the way.
        inner[8] = if to_server { 65 } else { 63 };
        let outer = packet.clone();
        let pair = if to_server {
            [inner, outer]
        } else {
            [outer, inner]
        };
        pair.map(|packet| (*time, packet))
    });
    all.packets = both.collect();
    all
}

#[test]
fn the_copies_in_front_of_the_nat_only_name_the_clients() {
    let lan = office(ADDRESS, SERVER);
    let (once, twice) = (report(&lan), report(&on_all_interfaces(&lan)));
    assert_eq!(once.verdict, twice.verdict);
    let mut counts = twice.counts.clone();
    assert_eq!(counts.segments, 2 * once.counts.segments);
    counts.segments = once.counts.segments;
    counts.segments_to_servers = once.counts.segments_to_servers;
    assert_eq!(counts, once.counts);
    let ends = |report: &crate::diagnose::Report| {
        let requests = report.requests.iter();
        let victims = requests.flat_map(|r| r.victims.iter().map(|v| (r.client, v.client)));
        victims.collect::<Vec<_>>()
    };
    assert_eq!(ends(&once), ends(&twice));
    let inner = |port: u16| Some(([10, 8, 0, port.to_be_bytes()[1]], port).into());
    assert_eq!(twice.requests[0].inner, inner(50_003));
    assert_eq!(twice.requests[0].victims[0].inner, inner(50_001));
    assert_eq!(twice.matched.len(), 3);
}

#[test]
fn connections_of_which_only_the_middle_was_seen_are_paired_too() {
    let mut lan = Network::new();
    let [mut a, mut b] =
        [50_001, 50_002].map(|port| TestConnection::old(&format!("{ADDRESS}:{port}"), SERVER));
    read_a_file(&mut lan, &mut a);
    log_on(&mut lan, &format!("{ADDRESS}:50003"), SERVER, 0);
    a.of_server(&mut lan, RST, &[]);
    b.of_server(&mut lan, RST, &[]);
    let report = report(&on_all_interfaces(&lan));
    assert_eq!((report.counts.connections, report.counts.victims), (3, 2));
    assert_eq!((report.counts.endings, report.matched.len()), (0, 3));
    assert_eq!(report.requests[0].client.to_string(), "192.168.77.2:50003");
    let victims: Vec<_> = report.requests[0]
        .victims
        .iter()
        .map(|v| v.client.port())
        .collect();
    assert_eq!(victims, [50_001, 50_002]);
}

#[test]
fn a_zero_that_the_hook_rewrote_never_reached_the_server() {
    let mut lan = Network::new();
    let mut anna = log_on(&mut lan, &format!("{ADDRESS}:50001"), SERVER, 1);
    log_on(&mut lan, &format!("{ADDRESS}:50002"), SERVER, 2);
    anna.of_server(&mut lan, FIN | ACK, &[]);
    let mut all = on_all_interfaces(&lan);
    for (_, packet) in &mut all.packets {
        let setup = message::logon(12, 2);
        if packet[12] == 10 && packet.ends_with(&setup) {
            let start = packet.len() - setup.len();
            packet[start..].copy_from_slice(&message::logon(12, 0));
        }
    }
    let report = report(&all);
    assert_eq!(report.verdict.kind, Kind::Rewritten);
    assert_eq!(report.counts.rewritten_zeros, 2);
    assert_eq!((report.counts.zeros, report.requests.len()), (0, 0));
    assert_eq!(
        (report.counts.endings, report.counts.victims_elsewhere),
        (1, 0)
    );
    assert_eq!(report.endings[0].delay_ms, None);
}

#[test]
fn a_client_that_came_back_is_known_by_its_own_address() {
    let mut lan = Network::new();
    // Ports that differ in their first byte only: the same client.
    let mut old = log_on(&mut lan, &format!("{ADDRESS}:{}", 0xC011), SERVER, 0);
    lan.wait(5000);
    let mut new = TestConnection::open(&mut lan, &format!("{ADDRESS}:{}", 0xC111), SERVER);
    log_on_again(&mut lan, &mut new, 0);
    old.of_server(&mut lan, RST, &[]);
    assert_eq!(report(&lan).verdict.kind, Kind::CutOff);
    let report = report(&on_all_interfaces(&lan));
    assert_eq!(report.verdict.kind, Kind::CameBack);
    assert_eq!((report.counts.victims, report.counts.own_victims), (0, 1));
    assert_eq!(report.requests[2].own_victims.len(), 1);
}

/// The packets of one side of [`on_all_interfaces`].
fn side(all: &Network, is_lan: bool) -> Network {
    let mut net = all.clone();
    net.packets.retain(|(_, packet)| {
        let to_server = packet[22..24] == 445u16.to_be_bytes();
        (packet[if to_server { 12 } else { 16 }] == 192) == is_lan
    });
    net
}

/// Both sides in one file: merged by time, or one appended to the other.
fn joined(lan: &Network, offset: i64, order: usize, has_ttl: bool) -> Network {
    let mut all = on_all_interfaces(lan);
    if !has_ttl {
        all.packets
            .iter_mut()
            .for_each(|(_, packet)| packet[8] = 64);
    }
    let (mut inner, outer) = (side(&all, false), side(&all, true));
    for (time, _) in &mut inner.packets {
        *time = time.saturating_add_signed(offset);
    }
    let mut packets = match order {
        1 => [outer.packets, inner.packets].concat(),
        _ => [inner.packets, outer.packets].concat(),
    };
    if order == 2 {
        packets.sort_by_key(|(time, _)| *time);
    }
    all.packets = packets;
    all
}

/// One user at work while another logs on, and the server ends nothing.
fn calm() -> Network {
    let mut net = Network::new();
    let mut anna = log_on(&mut net, &format!("{ADDRESS}:50001"), SERVER, 1);
    log_on(&mut net, &format!("{ADDRESS}:50002"), SERVER, 0);
    net.wait(1500);
    read_a_file(&mut net, &mut anna);
    net
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn two_clocks_change_no_verdict(offset in -5_000_000_000i64..5_000_000_000, order in 0..3usize,
                                    has_ttl: bool, is_calm: bool) {
        let lan = if is_calm { calm() } else { office(ADDRESS, SERVER) };
        let (once, twice) = (report(&lan), report(&joined(&lan, offset, order, has_ttl)));
        prop_assert_eq!(&twice.verdict, &once.verdict);
        prop_assert_eq!(twice.counts.undecided_sides, 0);
        let lan_address = once.requests[0].client.ip();
        prop_assert!(twice.requests.iter().all(|r| r.client.ip() == lan_address));
        prop_assert_eq!(twice.counts.connections, once.counts.connections);
    }

    #[test]
    fn the_order_of_the_frames_changes_nothing(swaps in prop::collection::vec(any::<usize>(), 0..60)) {
        let net = office(ADDRESS, SERVER);
        let mut shuffled = net.clone();
        let len = shuffled.packets.len();
        for (from, swap) in swaps.iter().enumerate() {
            shuffled.packets.swap(from % len, swap % len);
        }
        let (one, other) = (report(&net), report(&shuffled));
        prop_assert_eq!(one.verdict, other.verdict);
        prop_assert_eq!(one.counts, other.counts);
    }
}

/// Two taps, one for each direction, on two machines.
#[test]
fn directions_with_clocks_that_differ_show_no_order() {
    for net in [office(ADDRESS, SERVER), calm()] {
        for offset in [-5000, -700, -100, 100, 700, 5000] {
            let mut net = net.clone();
            for (time, packet) in &mut net.packets {
                if packet[22..24] != 445u16.to_be_bytes() {
                    *time = time.saturating_add_signed(offset * 1_000_000);
                }
            }
            let report = report(&net);
            assert_eq!(report.verdict.kind, Kind::TwoClocks, "{offset} ms");
            assert_eq!(report.verdict.confidence, Confidence::Possible);
        }
    }
}

/// One client, equal TTLs and two clocks: nothing shows which side is the server's.
#[test]
fn what_cannot_be_decided_is_said() {
    let mut lan = Network::new();
    // Ports that differ in their first byte only: the same client.
    let ports = [0xC011, 0xC111, 0xC211].map(|port| format!("{ADDRESS}:{port}"));
    let mut lines = [&ports[0], &ports[1]].map(|client| log_on(&mut lan, client, SERVER, 1));
    log_on(&mut lan, &ports[2], SERVER, 0);
    for connection in &mut lines {
        connection.of_server(&mut lan, RST | ACK, &[]);
    }
    for order in [0, 1] {
        let report = report(&joined(&lan, 2_000_000_000, order, false));
        assert_eq!(report.counts.undecided_sides, 3);
        assert_eq!(report.verdict.confidence, Confidence::Possible);
        assert!(
            report
                .verdict
                .because
                .contains("which copy is on the server's side")
        );
    }
}

/// One of the captures began when a connection was already open.
#[test]
fn a_side_that_was_captured_later_is_found_too() {
    let lan = office(ADDRESS, SERVER);
    let mut all = joined(&lan, 1_000_000, 2, true);
    let mut skipped = 0;
    all.packets.retain(|(_, packet)| {
        let is_anna = [12, 16]
            .into_iter()
            .any(|at| packet[at..at + 4] == [10, 8, 0, 0x51]);
        skipped += usize::from(is_anna);
        !is_anna || skipped > 6
    });
    let report = report(&all);
    assert_eq!((report.counts.connections, report.matched.len()), (3, 3));
    assert_eq!(report.verdict.kind, Kind::CutOff);
}

/// The same packets on both machines, without a NAT between them.
#[test]
fn the_same_packets_twice_are_counted_once() {
    let net = office(ADDRESS, SERVER);
    let once = report(&net);
    for offset in [0, 100_000, 3_000_000_000] {
        let mut twice = net.clone();
        let copies = net.packets.iter().map(|(time, packet)| {
            let mut packet = packet.clone();
            packet[8] = 62;
            (time + offset, packet)
        });
        twice.packets.extend(copies);
        let twice = report(&twice);
        assert_eq!(twice.verdict.kind, once.verdict.kind);
        assert_eq!(twice.counts.victims, once.counts.victims);
        assert_eq!(twice.counts.zeros, once.counts.zeros);
    }
}

/// `vcgate capture` on both sides, with the hook at work.
#[test]
fn vcgates_own_capture_shows_the_zeros_that_it_replaced() {
    let mut lan = Network::new();
    log_on(&mut lan, &format!("{ADDRESS}:50001"), SERVER, 1);
    log_on(&mut lan, &format!("{ADDRESS}:50002"), SERVER, 2);
    let mut bytes = Vec::new();
    let mut writer = pcapng::Writer::new(&mut bytes, "vcgate").unwrap();
    for (time, mut packet) in on_all_interfaces(&lan).packets {
        let to_server = packet[22..24] == 445u16.to_be_bytes();
        let is_tunnel = packet[if to_server { 12 } else { 16 }] == 10;
        for number in [1, 2] {
            let setup = message::logon(12, number);
            if is_tunnel && packet.ends_with(&setup) {
                let start = packet.len() - setup.len();
                packet[start..].copy_from_slice(&message::logon(12, 0));
            }
        }
        packet[8] = 64;
        let packet = Packet {
            side: if is_tunnel { Side::Tunnel } else { Side::Lan },
            direction: if to_server {
                Direction::ToLan
            } else {
                Direction::ToClient
            },
            unix_nanos: time,
            comment: String::new(),
            bytes: packet,
        };
        writer.packet(&packet).unwrap();
    }
    writer.finish(Default::default()).unwrap();
    let report = super::diagnosis(&bytes).report().clone();
    assert_eq!(report.verdict.kind, Kind::Rewritten);
    assert_eq!((report.counts.zeros, report.counts.rewritten_zeros), (0, 4));
    assert!(
        report
            .verdict
            .happened
            .contains("4 logon messages with VcNumber 0")
    );
}
