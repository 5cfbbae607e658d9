//! The same connections on both sides of a NAT.

use super::network::{Network, RST, TestConnection};
use super::{SERVER, diagnosis, file, log_on_again, read_a_file};
use crate::diagnose::Kind;
use std::net::SocketAddr;

/// Both captures: the LAN's and the clients' side's. One connection was opened before.
fn both_sides() -> (Network, Network) {
    let mut sides = [Network::new(), Network::new()];
    for (net, is_lan) in sides.iter_mut().zip([true, false]) {
        let side = |connection: TestConnection, lan: &str| {
            if is_lan {
                connection.translated(lan)
            } else {
                connection
            }
        };
        let mut anna = side(
            TestConnection::old("10.8.0.11:49152", SERVER),
            "192.168.77.2:50001",
        );
        let mut berta = side(
            TestConnection::old("10.8.0.12:49153", SERVER),
            "192.168.77.2:50002",
        );
        let mut idle = side(
            TestConnection::old("10.8.0.13:49154", SERVER),
            "192.168.77.2:50003",
        );
        anna.shake_hands(net);
        log_on_again(net, &mut anna, 0);
        net.wait(if is_lan { 2000 } else { 2001 });
        read_a_file(net, &mut anna);
        berta.shake_hands(net);
        log_on_again(net, &mut berta, 0);
        anna.of_server(net, RST, &[]);
        idle.of_server(net, RST, &[]);
    }
    let [lan, inner] = sides;
    (lan, inner)
}

#[test]
fn victims_are_named_by_their_real_clients() {
    let (lan, inner) = both_sides();
    let mut diagnosis = diagnosis(&file::plain(&lan));
    let found = diagnosis.name_clients(&super::diagnosis(&file::plain(&inner)));
    assert_eq!(found, 3);
    let report = diagnosis.report();
    let named = |address: &str| Some(address.parse::<SocketAddr>().unwrap());
    assert_eq!(report.requests[2].inner, named("10.8.0.12:49153"));
    let [anna, idle] = &report.requests[2].victims[..] else {
        panic!("{:?}", report.requests);
    };
    assert_eq!(anna.inner, named("10.8.0.11:49152"));
    assert_eq!(idle.inner, named("10.8.0.13:49154"));
    assert_eq!(report.matched.len(), 3);
}

#[test]
fn what_does_not_match_is_not_named() {
    let (lan, mut inner) = both_sides();
    for (_, packet) in &mut inner.packets {
        packet[24] ^= 0x55; // the sequence numbers
        packet[28] ^= 0x55;
    }
    let mut diagnosis = diagnosis(&file::plain(&lan));
    let found = diagnosis.name_clients(&super::diagnosis(&file::plain(&inner)));
    assert_eq!(found, 0);
    assert_eq!(diagnosis.report().matched, []);
}

#[test]
fn a_client_that_came_back_is_no_victim() {
    let mut sides = [Network::new(), Network::new()];
    for (net, address) in sides.iter_mut().zip(["192.168.77.2", "10.8.0.11"]) {
        let mut lines = [49_152, 49_153].map(|port| {
            TestConnection::old(&format!("10.8.0.11:{port}"), SERVER)
                .translated(&format!("{address}:{port}"))
        });
        for connection in &mut lines {
            connection.shake_hands(net);
            log_on_again(net, connection, 0);
        }
        let [old, _] = &mut lines;
        old.of_server(net, RST, &[]);
    }
    let [lan, inner] = sides.map(|net| diagnosis(&file::plain(&net)));
    let mut lan = lan;
    assert_eq!(lan.report().verdict.kind, Kind::CutOff);
    lan.name_clients(&inner);
    let report = lan.report();
    assert_eq!(report.verdict.kind, Kind::CameBack);
    assert_eq!((report.counts.victims, report.counts.own_victims), (0, 1));
    assert!(report.requests[2].victims.is_empty());
    assert_eq!(report.requests[2].own_victims.len(), 1);
}

#[test]
fn a_reset_with_any_number_does_not_stretch_what_was_seen() {
    let (mut lan, inner) = both_sides();
    // A firewall's, in the server's name.
    let mut anna = TestConnection::old("10.8.0.11:49152", SERVER).translated("192.168.77.2:50001");
    anna.seqs.1 = anna.seqs.1.wrapping_add(1 << 30);
    anna.of_server(&mut lan, RST, &[]);
    let spans = |net| {
        let flows = diagnosis(&file::plain(net)).flows;
        let mut spans: Vec<_> = flows
            .iter()
            .map(|f| (f.fingerprint.opening, f.fingerprint.server))
            .collect();
        spans.sort_by_key(|(opening, _)| opening.map(|seq| seq.0));
        spans
    };
    assert_eq!(spans(&lan), spans(&inner));
}
