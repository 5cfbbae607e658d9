//! Destinations without translation, forwards and unknown protocols, in both families.

use crate::ip::{fragments, of_protocol, ping, udp, unreachable, with_ttl};
use crate::network::{Family, Network, source};
use crate::raw::{
    IcmpError, raw, send_and_wait, take_datagrams, take_icmp_errors, take_lan_packets,
    take_received,
};
use crate::ruled_network;
use crate::rules::{lan, net, rule};
use smoltcp::wire::IpProtocol;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vcgate_core::engine::{Destination, GlobalPolicy, OnDeny, Rule};
use vcgate_core::nat::{AdjustableSettings, Forward, Limits, OnUnsolicited, Protocol, Timeouts};
use vcgate_core::smb::Mode;
use vcgate_wire::ip::Headers;

/// Returns a host of a network for which translation is off, and a router before it.
fn branch(family: Family) -> [IpAddr; 2] {
    let texts = match family {
        Family::V4 => ["10.1.0.5", "192.168.77.254"],
        Family::V6 => ["fd00:1::5", "fd00:77::254"],
    };
    texts.map(|text| text.parse().unwrap())
}

/// Permits DNS queries to the branch.
fn questions(family: Family) -> Rule {
    let place = match family {
        Family::V4 => "10.1.0.0/16",
        Family::V6 => "fd00:1::/32",
    };
    rule(net(place), IpProtocol::Udp, 53)
}

fn no_nat() -> GlobalPolicy {
    let nets = ["10.1.0.0/16", "fd00:1::/32"];
    GlobalPolicy {
        no_nat: nets.map(|net| net.parse().unwrap()).to_vec(),
        ..GlobalPolicy::default()
    }
}

/// RFC 1812 section 5.2.7.1, RFC 4443 section 3.1: administratively prohibited.
fn prohibited(family: Family) -> IcmpError {
    match family {
        Family::V4 => (family.gateway(), 3, 13),
        Family::V6 => (family.gateway(), 1, 1),
    }
}

/// RFC 792, RFC 4443 section 3.3: time exceeded in transit.
fn expired(family: Family) -> IcmpError {
    match family {
        Family::V4 => (family.gateway(), 11, 0),
        Family::V6 => (family.gateway(), 3, 0),
    }
}

#[test]
fn rfc6888_req6_no_nat_destinations_see_the_client_s_address() {
    for family in Family::BOTH {
        let both_lans = [lan(), Rule::network("fd00:77::/64".parse().unwrap())];
        let rules = [
            [&both_lans[..], &[questions(family)]].concat(),
            both_lans.to_vec(),
        ];
        let mut network = raw(no_nat(), &rules);
        let ([branch, router], server) = (branch(family), family.server());
        let (client, other) = ((family.inner(0), 5000), (family.inner(1), 5000));
        let packet = udp(client, (branch, 53), b"question");
        send_and_wait(&mut network, 0, &packet);
        assert_eq!(
            take_lan_packets(&mut network),
            std::slice::from_ref(&packet)
        );
        let answer = udp((branch, 53), client, b"answer");
        network.server_sends(answer.clone());
        // A router of the branch reports an error.
        let error = unreachable(router, client.0, &packet);
        network.server_sends(error.clone());
        network.wait(Duration::from_millis(100));
        assert_eq!(take_received(&mut network, 0), [answer, error]);

        // The rules apply in both directions, and other hosts cannot reach the client's address.
        network.server_sends(udp((branch, 54), client, b"port"));
        network.server_sends(udp((server, 53), client, b"not untranslated"));
        network.server_sends(udp((branch, 53), other, b"client 1 has no rule"));
        let about_another = udp(client, (branch, 54), b"other");
        network.server_sends(unreachable(router, client.0, &about_another));
        network.wait(Duration::from_millis(100));
        assert!(
            take_received(&mut network, 0).is_empty() && take_received(&mut network, 1).is_empty()
        );
        send_and_wait(&mut network, 0, &udp(client, (branch, 54), b"port"));
        send_and_wait(&mut network, 1, &udp(other, (branch, 53), b"no rule"));
        assert!(take_lan_packets(&mut network).is_empty());
        assert_eq!(take_icmp_errors(&mut network, 0), [prohibited(family)]);
        assert_eq!(network.engine.counters().denied, 6);
        // Other destinations are translated.
        send_and_wait(&mut network, 0, &udp(client, (server, 53), b"x"));
        let sources: Vec<_> = take_lan_packets(&mut network)
            .iter()
            .map(|p| source(p))
            .collect();
        assert_eq!(sources, [family.lan()]);
    }
}

#[test]
fn rfc6888_req6_the_ttl_is_decremented_and_fragments_follow_their_first() {
    for family in Family::BOTH {
        let mut network = raw(no_nat(), &[vec![questions(family)]]);
        let (client, [branch, _]) = ((family.inner(0), 5000), branch(family));
        let last_hop = with_ttl(udp(client, (branch, 53), b"x"), 1);
        send_and_wait(&mut network, 0, &last_hop);
        assert_eq!(take_icmp_errors(&mut network, 0), [expired(family)]);
        let [first, second] = fragments(client, (branch, 53), 1);
        send_and_wait(&mut network, 0, &second);
        assert!(take_lan_packets(&mut network).is_empty());
        send_and_wait(&mut network, 0, &first);
        assert_eq!(take_lan_packets(&mut network), [first, second]);
        for piece in fragments(client, (branch, 54), 2) {
            send_and_wait(&mut network, 0, &piece);
        }
        assert!(take_lan_packets(&mut network).is_empty());
        let [first, second] = fragments((branch, 53), client, 3);
        network.server_sends(second.clone());
        network.server_sends(first.clone());
        network.wait(Duration::from_millis(100));
        let mut received = take_datagrams(&mut network, 0);
        received.sort();
        let mut expected = vec![first, second];
        expected.sort();
        assert_eq!(received, expected);
    }
}

#[test]
fn rfc1812_every_client_that_traces_a_route_sees_the_gateway() {
    for family in Family::BOTH {
        // One is translated, the other is not.
        let servers = [family.server(), branch(family)[0]];
        let rules = vec![vec![Rule::all(Destination::Anywhere)]; 4];
        let mut network = raw(no_nat(), &rules);
        for probe in 0..20 {
            for client in 0..4 {
                let to = servers[probe % 2];
                let probe = ping(family.inner(client), to, probe as u16, b"");
                network.client_sends(client, &with_ttl(probe, 1));
            }
        }
        network.wait(Duration::from_millis(100));
        for client in 0..4 {
            assert_eq!(
                take_icmp_errors(&mut network, client),
                [expired(family); 20],
                "{client}"
            );
        }
        assert!(take_lan_packets(&mut network).is_empty());
    }
}

#[test]
fn rfc4787_req9_the_lan_address_is_always_translated() {
    for family in Family::BOTH {
        let everywhere = GlobalPolicy {
            no_nat: ["0.0.0.0/0", "::/0"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            ..GlobalPolicy::default()
        };
        let anywhere = vec![Rule::all(Destination::Anywhere)];
        let mut network = raw(everywhere, &[anywhere.clone(), anywhere]);
        forward(&mut network, family, Protocol::Udp);
        send_and_wait(
            &mut network,
            1,
            &udp((family.inner(1), 7), (family.lan(), 8443), b"x"),
        );
        let [packet] = &take_datagrams(&mut network, 0)[..] else {
            panic!("{family:?}: expected one hairpinned packet");
        };
        assert_eq!(source(packet), family.lan());
    }
}

/// Forwards port 8443 of the LAN address to port 443 of the first client.
fn forward(network: &mut Network, family: Family, protocol: Protocol) {
    let forward = Forward {
        protocol,
        port: 8443,
        to: SocketAddr::new(family.inner(0), 443),
        lan: None,
    };
    network.engine.add_forward(forward, network.now).unwrap();
}

#[test]
fn a_forward_accepts_connections_regardless_of_the_client_s_rules() {
    for family in Family::BOTH {
        let (policy, limits) = (GlobalPolicy::default(), Limits::default());
        let mut network = ruled_network(family, policy, limits, &[vec![]], Mode::Assign, 3);
        // The same port in both families.
        for family in Family::BOTH {
            forward(&mut network, family, Protocol::Tcp);
        }
        network.client_sends(0, &ping(family.inner(0), family.gateway(), 1, b""));
        network.wait(Duration::from_secs(1));
        let listening = network.clients[0].host.listen(443);
        let to = SocketAddr::new(family.lan(), 8443);
        let stranger = network.server.connect(50_000, to);
        let connected = network.run(Duration::from_secs(10), |network| {
            network.server.tcp(stranger).may_send()
                && network.clients[0].host.tcp(listening).may_send()
        });
        assert!(connected, "{family:?}");
        // The client still cannot open connections.
        let server = SocketAddr::new(family.server(), 80);
        let out = network.clients[0].host.connect(50_001, server);
        network.wait(Duration::from_secs(3));
        assert!(!network.clients[0].host.tcp(out).may_send());
        assert!(network.engine.counters().denied > 0);
    }
}

/// GRE, ESP, AH, SCTP, UDP-Lite, and a protocol for experiments.
const UNKNOWN: [u8; 6] = [47, 50, 51, 132, 136, 253];

#[test]
fn rfc5508_req8_an_untranslated_protocol_is_denied_like_other_packets() {
    for family in Family::BOTH {
        let anywhere = vec![Rule::all(Destination::Anywhere)];
        let mut network = raw(no_nat(), std::slice::from_ref(&anywhere));
        let client = family.inner(0);
        let send_all = |network: &mut Network, to: IpAddr| {
            for protocol in UNKNOWN {
                send_and_wait(network, 0, &of_protocol(protocol, client, to, &[7; 40]));
            }
        };
        send_all(&mut network, family.server());
        assert_eq!(take_icmp_errors(&mut network, 0), [prohibited(family); 6]);
        // The LAN address supports none of them either.
        send_all(&mut network, family.lan());
        assert_eq!(take_icmp_errors(&mut network, 0), [prohibited(family); 6]);
        assert!(take_lan_packets(&mut network).is_empty());
        assert_eq!(network.engine.counters().denied, 12);
        // Without translation, every protocol is forwarded.
        send_all(&mut network, branch(family)[0]);
        assert_eq!(take_icmp_errors(&mut network, 0), []);
        assert_eq!(take_lan_packets(&mut network).len(), 6);
        network.engine.set_global_policy(GlobalPolicy {
            on_deny: OnDeny::Drop,
            ..no_nat()
        });
        send_all(&mut network, family.server());
        assert_eq!(take_icmp_errors(&mut network, 0), []);
        assert!(take_lan_packets(&mut network).is_empty());
    }
}

/// RFC 1122 section 3.2.2.1: protocol unreachable; RFC 4443 section 3.4: unrecognized next header.
fn no_protocol(family: Family) -> IcmpError {
    match family {
        Family::V4 => (family.lan(), 3, 2),
        Family::V6 => (family.lan(), 4, 1),
    }
}

#[test]
fn rfc5508_req10_the_lan_address_rejects_unknown_protocols() {
    for family in Family::BOTH {
        let mut network = raw(GlobalPolicy::default(), &[vec![]]);
        let send_all = |network: &mut Network| {
            for protocol in UNKNOWN {
                let packet = of_protocol(protocol, family.server(), family.lan(), &[7; 40]);
                network.server_sends(packet);
            }
            network.wait(Duration::from_millis(100));
            let icmp = |p: &Vec<u8>| {
                let headers = Headers::parse(p).unwrap();
                (headers.src, p[headers.l4], p[headers.l4 + 1])
            };
            take_lan_packets(network)
                .iter()
                .map(icmp)
                .collect::<Vec<_>>()
        };
        assert_eq!(send_all(&mut network), [no_protocol(family); 6]);
        network.engine.set_nat(AdjustableSettings {
            filtering: Default::default(),
            on_unsolicited: OnUnsolicited::Drop,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        });
        assert_eq!(send_all(&mut network), []);
        // The rate of errors is limited for all hosts of the LAN together.
        network.engine.set_nat(AdjustableSettings {
            filtering: Default::default(),
            on_unsolicited: OnUnsolicited::Reject,
            timeouts: Timeouts::default(),
            limits: Limits {
                errors: 4,
                ..Limits::default()
            },
        });
        assert_eq!(send_all(&mut network).len(), 4);
    }
}
