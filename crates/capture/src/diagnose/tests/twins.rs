//! `tcpdump -i any` on the gateway: each packet in front of the NAT and behind it.

use super::network::{ACK, FIN, Line, Network, RST};
use super::{SERVER, log_on, log_on_again, message, office, read_a_file, report};
use crate::diagnose::Kind;

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
        inner[8] -= 1;
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
        [50_001, 50_002].map(|port| Line::old(&format!("{ADDRESS}:{port}"), SERVER));
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
    assert_eq!(report.verdict.kind, Kind::NoZero);
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
    let mut new = Line::open(&mut lan, &format!("{ADDRESS}:{}", 0xC111), SERVER);
    log_on_again(&mut lan, &mut new, 0);
    old.of_server(&mut lan, RST, &[]);
    assert_eq!(report(&lan).verdict.kind, Kind::CutOff);
    let report = report(&on_all_interfaces(&lan));
    assert_eq!(report.verdict.kind, Kind::CameBack);
    assert_eq!((report.counts.victims, report.counts.own_victims), (0, 1));
    assert_eq!(report.requests[2].own_victims.len(), 1);
}
