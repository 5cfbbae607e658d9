//! ECN marks through the whole data plane, including super-packets (RFC 6040).

use crate::ip::{udp, udp_parts, with_ecn};
use crate::network::{Family, Network};
use crate::network_of;
use std::time::Duration;
use vcgate_core::smb::Mode;
use vcgate_core::tunnel::Ecn::{self, Capable0, Capable1, Congested, NotCapable};

/// Connects a client and opens a flow to the server; returns the LAN port of the flow.
fn connected(family: Family) -> (Network, u16) {
    let mut network = network_of(family, 1, Mode::Assign, 1);
    network.clients[0].raw = true;
    network.keep_lan = true;
    network.client_sends(0, &up(family, 0, NotCapable));
    network.wait(Duration::from_secs(1));
    let packet = network.on_lan.pop().unwrap();
    network.clients[0].received.clear();
    network.sent_ecn_marks.clear();
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
fn congestion_before_the_gateway_is_marked_on_the_same_packets_on_the_lan() {
    for family in Family::BOTH {
        let (mut network, _) = connected(family);
        for number in 1..=6 {
            let inner = if number == 6 { NotCapable } else { Capable0 };
            network.client_sends(0, &up(family, number, inner));
        }
        // All arrive together, so that packets with equal marks leave as one super-packet.
        network.ecn_marks = [Capable0, Capable0, Congested, Capable0, Capable0, Congested].into();
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
fn the_outer_mark_equals_the_inner_one_except_for_congestion() {
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
        assert_eq!(network.sent_ecn_marks, outer, "{family:?}");
    }
}
