//! Congestion marks through the whole pipeline (RFC 6040), and through its super-packets.

use crate::ip::{udp, udp_parts, with_ecn};
use crate::network::{Family, Network};
use crate::network_of;
use std::time::Duration;
use vcgate_core::smb::Mode;
use vcgate_core::tunnel::Ecn::{self, Capable0, Capable1, Congested, NotCapable};

/// A client that is connected and has a flow to the server, and the flow's port there.
fn connected(family: Family) -> (Network, u16) {
    let mut network = network_of(family, 1, Mode::Assign, 1);
    network.clients[0].raw = true;
    network.keep_lan = true;
    network.client_sends(0, &up(family, 0, NotCapable));
    network.wait(Duration::from_secs(1));
    let packet = network.on_lan.pop().unwrap();
    // What the server says to it is of no account.
    network.clients[0].received.clear();
    network.marked.clear();
    (network, udp_parts(&packet).unwrap().0)
}

fn up(family: Family, number: u8, mark: Ecn) -> Vec<u8> {
    let packet = udp(
        (family.inner(0), 4000),
        (family.server(), 5000),
        &[number; 9],
    );
    with_ecn(packet, mark)
}

fn seen(packets: &[Vec<u8>]) -> Vec<(u8, Ecn)> {
    let of = |packet: &Vec<u8>| (udp_parts(packet).unwrap().2[0], Ecn::of(packet));
    packets.iter().map(of).collect()
}

#[test]
fn congestion_on_the_way_to_the_gateway_is_told_to_the_lan_packet_by_packet() {
    for family in Family::BOTH {
        let (mut network, _) = connected(family);
        for number in 1..=6 {
            let inner = if number == 6 { NotCapable } else { Capable0 };
            network.client_sends(0, &up(family, number, inner));
        }
        // All come at once, so that those with equal marks leave as one super-packet.
        network.marks = [Capable0, Capable0, Congested, Capable0, Capable0, Congested].into();
        network.wait(Duration::from_secs(1));
        let expected = [
            (1, Capable0),
            (2, Capable0),
            (3, Congested),
            (4, Capable0),
            (5, Capable0),
            (6, NotCapable),
        ];
        assert_eq!(seen(&network.on_lan), expected, "{family:?}");
    }
}

#[test]
fn what_a_client_gets_has_its_mark_inside_and_outside_but_congestion_inside_only() {
    for family in Family::BOTH {
        let (mut network, port) = connected(family);
        let inner = [Capable0, Congested, Capable1, NotCapable, NotCapable];
        for (mark, number) in inner.into_iter().zip(1..) {
            let packet = udp((family.server(), 5000), (family.lan(), port), &[number; 9]);
            network.server_sends(with_ecn(packet, mark));
        }
        network.wait(Duration::from_secs(1));
        let expected: Vec<_> = (1..).zip(inner).collect();
        assert_eq!(seen(&network.clients[0].received), expected, "{family:?}");
        let outer = [Capable0, Capable0, Capable1, NotCapable, NotCapable];
        assert_eq!(network.marked, outer, "{family:?}");
    }
}
