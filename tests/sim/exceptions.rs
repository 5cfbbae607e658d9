//! What crosses the gateway by exception, in both families: destinations without translation, and
//! forwards.

use crate::ip::{fragments, ping, udp, unreachable, with_ttl};
use crate::network::{Family, Network, source};
use crate::raw::{Told, datagrams, left, raw, received, sends, told};
use crate::ruled_network;
use crate::rules::{lan, net, rule};
use smoltcp::wire::IpProtocol;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use vcgate_core::engine::{GlobalPolicy, Rule};
use vcgate_core::nat::{Forward, Limits, Protocol};
use vcgate_core::smb::Mode;

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

fn untranslated() -> GlobalPolicy {
    let nets = ["10.1.0.0/16", "fd00:1::/32"];
    GlobalPolicy {
        untranslated: nets.map(|net| net.parse().unwrap()).to_vec(),
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
        let mut network = raw(untranslated(), &rules);
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
        let mut network = raw(untranslated(), &[vec![questions(family)]]);
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
fn rfc4787_req9_the_lan_address_is_never_untranslated() {
    for family in Family::BOTH {
        let everywhere = GlobalPolicy {
            untranslated: ["0.0.0.0/0", "::/0"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            ..GlobalPolicy::default()
        };
        let anywhere = vec![Rule::all(vcgate_core::engine::Destination::Anywhere)];
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
        let (common, limits) = (GlobalPolicy::default(), Limits::default());
        let mut network = ruled_network(family, common, limits, &[vec![]], Mode::Assign, 3);
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
