//! The same connections on both sides of a NAT.

use super::network::{Line, Network, RST};
use super::{SERVER, diagnosis, file, log_on_again, read_a_file};
use std::net::SocketAddr;

/// Both captures: the LAN's and the clients' side's. One connection was opened before.
fn both_sides() -> (Network, Network) {
    let mut sides = [Network::new(), Network::new()];
    for (net, is_lan) in sides.iter_mut().zip([true, false]) {
        let side = |line: Line, lan: &str| if is_lan { line.translated(lan) } else { line };
        let mut anna = side(Line::old("10.8.0.11:49152", SERVER), "192.168.77.2:50001");
        let mut berta = side(Line::old("10.8.0.12:49153", SERVER), "192.168.77.2:50002");
        let mut idle = side(Line::old("10.8.0.13:49154", SERVER), "192.168.77.2:50003");
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
    diagnosis.name_clients(&super::diagnosis(&file::plain(&inner)));
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
    diagnosis.name_clients(&super::diagnosis(&file::plain(&inner)));
    assert_eq!(diagnosis.report().matched, []);
}
