//! What crosses the gateway by exception, in both families: destinations without translation, and
//! forwards.

use crate::ip::{fragments, of_protocol, ping, udp, unreachable, with_ttl};
use crate::network::{Family, Network, source};
use crate::raw::{Told, datagrams, left, raw, received, sends, told};
use crate::ruled_network;
use crate::rules::{lan, net, rule};
use smoltcp::wire::IpProtocol;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vcgate_core::engine::{Destination, GlobalPolicy, OnDeny, Rule};
use vcgate_core::nat::{AdjustableSettings, Forward, Limits, OnUnsolicited, Protocol, Timeouts};
use vcgate_core::smb::Mode;
use vcgate_wire::ip::Headers;

/// A host of a network for which translation is off, and a router on the way to it.
fn branch(family: Family) -> [IpAddr; 2] {
    let texts = match family {
        Family::V4 => ["10.1.0.5", "192.168.77.254"],
        Family::V6 => ["fd00:1::5", "fd00:77::254"],
    };
    texts.map(|text| text.parse().unwrap())
}

/// What a client may ask of the branch.
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
fn prohibited(family: Family) -> Told {
    match family {
        Family::V4 => (family.gateway(), 3, 13),
        Family::V6 => (family.gateway(), 1, 1),
    }
}

/// RFC 792, RFC 4443 section 3.3: time exceeded in transit.
fn expired(family: Family) -> Told {
    match family {
        Family::V4 => (family.gateway(), 11, 0),
        Family::V6 => (family.gateway(), 3, 0),
    }
}

#[test]
fn rfc6888_req6_chosen_destinations_see_the_client_itself() {
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
        sends(&mut network, 0, &packet);
        assert_eq!(left(&mut network), std::slice::from_ref(&packet));
        let answer = udp((branch, 53), client, b"answer");
        network.server_sends(answer.clone());
        // A router of theirs says that something went wrong.
        let error = unreachable(router, client.0, &packet);
        network.server_sends(error.clone());
        network.wait(Duration::from_millis(100));
        assert_eq!(received(&mut network, 0), [answer, error]);

        // The rules hold in both directions, and other hosts do not come in by the client's
        // address.
        network.server_sends(udp((branch, 54), client, b"port"));
        network.server_sends(udp((server, 53), client, b"not untranslated"));
        network.server_sends(udp((branch, 53), other, b"client 1 has no rule"));
        let about_another = udp(client, (branch, 54), b"other");
        network.server_sends(unreachable(router, client.0, &about_another));
        network.wait(Duration::from_millis(100));
        assert!(received(&mut network, 0).is_empty() && received(&mut network, 1).is_empty());
        sends(&mut network, 0, &udp(client, (branch, 54), b"port"));
        sends(&mut network, 1, &udp(other, (branch, 53), b"no rule"));
        assert!(left(&mut network).is_empty());
        assert_eq!(told(&mut network, 0), [prohibited(family)]);
        assert_eq!(network.engine.counters().denied, 6);
        // Everything else is translated as ever.
        sends(&mut network, 0, &udp(client, (server, 53), b"x"));
        let sources: Vec<_> = left(&mut network).iter().map(|p| source(p)).collect();
        assert_eq!(sources, [family.lan()]);
    }
}

#[test]
fn rfc6888_req6_a_hop_is_counted_and_fragments_follow_their_first() {
    for family in Family::BOTH {
        let mut network = raw(no_nat(), &[vec![questions(family)]]);
        let (client, [branch, _]) = ((family.inner(0), 5000), branch(family));
        let last_hop = with_ttl(udp(client, (branch, 53), b"x"), 1);
        sends(&mut network, 0, &last_hop);
        assert_eq!(told(&mut network, 0), [expired(family)]);
        let [first, second] = fragments(client, (branch, 53), 1);
        sends(&mut network, 0, &second);
        assert!(left(&mut network).is_empty());
        sends(&mut network, 0, &first);
        assert_eq!(left(&mut network), [first, second]);
        for piece in fragments(client, (branch, 54), 2) {
            sends(&mut network, 0, &piece);
        }
        assert!(left(&mut network).is_empty());
        let [first, second] = fragments((branch, 53), client, 3);
        network.server_sends(second.clone());
        network.server_sends(first.clone());
        network.wait(Duration::from_millis(100));
        let mut came = datagrams(&mut network, 0);
        came.sort();
        let mut expected = vec![first, second];
        expected.sort();
        assert_eq!(came, expected);
    }
}

#[test]
fn rfc1812_every_client_that_traces_a_route_hears_of_its_first_hop() {
    for family in Family::BOTH {
        // Translated, and not.
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
                told(&mut network, client),
                [expired(family); 20],
                "{client}"
            );
        }
        assert!(left(&mut network).is_empty());
    }
}

#[test]
fn rfc4787_req9_the_lan_address_is_never_untranslated() {
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
        sends(
            &mut network,
            1,
            &udp((family.inner(1), 7), (family.lan(), 8443), b"x"),
        );
        let [packet] = &datagrams(&mut network, 0)[..] else {
            panic!("{family:?}: it did not turn");
        };
        assert_eq!(source(packet), family.lan());
    }
}

/// Port 8443 of the LAN address leads to port 443 of the first client.
fn forward(network: &mut Network, family: Family, protocol: Protocol) {
    let forward = Forward {
        protocol,
        port: 8443,
        to: SocketAddr::new(family.inner(0), 443),
    };
    network.engine.add_forward(forward, network.now).unwrap();
}

#[test]
fn a_forward_lets_strangers_in_and_their_answers_out_whatever_the_rules_say() {
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
        // The client itself still reaches nothing.
        let server = SocketAddr::new(family.server(), 80);
        let out = network.clients[0].host.connect(50_001, server);
        network.wait(Duration::from_secs(3));
        assert!(!network.clients[0].host.tcp(out).may_send());
        assert!(network.engine.counters().denied > 0);
    }
}

/// GRE, ESP, AH, SCTP, UDP-Lite, and one that nobody has.
const UNKNOWN: [u8; 6] = [47, 50, 51, 132, 136, 253];

#[test]
fn rfc5508_req8_a_protocol_that_is_not_translated_is_refused_as_the_rules_refuse() {
    for family in Family::BOTH {
        let anywhere = vec![Rule::all(Destination::Anywhere)];
        let mut network = raw(no_nat(), std::slice::from_ref(&anywhere));
        let client = family.inner(0);
        let ask = |network: &mut Network, to: IpAddr| {
            for protocol in UNKNOWN {
                sends(network, 0, &of_protocol(protocol, client, to, &[7; 40]));
            }
        };
        ask(&mut network, family.server());
        assert_eq!(told(&mut network, 0), [prohibited(family); 6]);
        // The LAN address is one more destination that has none of them.
        ask(&mut network, family.lan());
        assert_eq!(told(&mut network, 0), [prohibited(family); 6]);
        assert!(left(&mut network).is_empty());
        assert_eq!(network.engine.counters().denied, 12);
        // Without translation a router does not ask what it carries.
        ask(&mut network, branch(family)[0]);
        assert_eq!(told(&mut network, 0), []);
        assert_eq!(left(&mut network).len(), 6);
        network.engine.set_global_policy(GlobalPolicy {
            on_deny: OnDeny::Drop,
            ..no_nat()
        });
        ask(&mut network, family.server());
        assert_eq!(told(&mut network, 0), []);
        assert!(left(&mut network).is_empty());
    }
}

/// RFC 1122 section 3.2.2.1: protocol unreachable; RFC 4443 section 3.4: unrecognized next header.
fn no_protocol(family: Family) -> Told {
    match family {
        Family::V4 => (family.lan(), 3, 2),
        Family::V6 => (family.lan(), 4, 1),
    }
}

#[test]
fn rfc5508_req10_the_lan_address_refuses_protocols_that_it_has_not() {
    for family in Family::BOTH {
        let mut network = raw(GlobalPolicy::default(), &[vec![]]);
        let ask = |network: &mut Network| {
            for protocol in UNKNOWN {
                let packet = of_protocol(protocol, family.server(), family.lan(), &[7; 40]);
                network.server_sends(packet);
            }
            network.wait(Duration::from_millis(100));
            let icmp = |p: &Vec<u8>| {
                let headers = Headers::parse(p).unwrap();
                (headers.src, p[headers.l4], p[headers.l4 + 1])
            };
            left(network).iter().map(icmp).collect::<Vec<_>>()
        };
        assert_eq!(ask(&mut network), [no_protocol(family); 6]);
        network.engine.set_nat(AdjustableSettings {
            filtering: Default::default(),
            on_unsolicited: OnUnsolicited::Drop,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        });
        assert_eq!(ask(&mut network), []);
        // The errors of one second are limited, for all hosts of the LAN together.
        network.engine.set_nat(AdjustableSettings {
            filtering: Default::default(),
            on_unsolicited: OnUnsolicited::Reject,
            timeouts: Timeouts::default(),
            limits: Limits {
                errors: 4,
                ..Limits::default()
            },
        });
        assert_eq!(ask(&mut network).len(), 4);
    }
}
