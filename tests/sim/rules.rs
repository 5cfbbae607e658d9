//! What each client may reach: rules for fragments, answers and sites; clients that meet; limits.

use crate::ip::{SYN, SYN_ACK, fragments, ping, tcp, udp, udp_parts, unreachable, with_ttl};
use crate::network::{Family, GATEWAY, LAN, Network, SERVER, inner};
use crate::raw::{PROHIBITED, datagrams, left, raw, received, sends, told};
use crate::ruled_network;
use ipnet::IpNet;
use smoltcp::wire::{IpProtocol, Ipv4Packet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use vcgate_core::engine::{Destination, GlobalPolicy, OnDeny, Rule};
use vcgate_core::ids::PeerId;
use vcgate_core::nat::{self, Limits};
use vcgate_core::smb::Mode;

pub fn net(text: &str) -> Destination {
    Destination::Net(text.parse().unwrap())
}

pub fn rule(destination: Destination, protocol: IpProtocol, port: u16) -> Rule {
    Rule {
        destination,
        protocol: Some(protocol),
        ports: Some(port..=port),
    }
}

pub fn lan() -> Rule {
    Rule::all(net("192.168.77.0/24"))
}

fn meeting() -> GlobalPolicy {
    GlobalPolicy {
        client_to_client: true,
        ..GlobalPolicy::default()
    }
}

#[test]
fn client_to_client_traffic_is_routed_with_a_hop_in_between() {
    let everybody = vec![lan(), Rule::all(Destination::Clients)];
    let mut network = raw(meeting(), &[everybody.clone(), everybody]);
    let packet = udp((inner(0), 5000), (inner(1), 53), b"hello");
    sends(&mut network, 0, &packet);
    assert_eq!(received(&mut network, 1), [with_ttl(packet.clone(), 63)]);
    sends(&mut network, 0, &with_ttl(packet, 1));
    assert_eq!(received(&mut network, 1), [] as [Vec<u8>; 0]);
    assert_eq!(told(&mut network, 0), [(GATEWAY.into(), 11, 0)]);
    // Somebody else's address is of no use here either.
    sends(
        &mut network,
        0,
        &udp((inner(1), 5000), (inner(1), 53), b"x"),
    );
    assert_eq!(received(&mut network, 1), [] as [Vec<u8>; 0]);
    assert!(left(&mut network).is_empty());
}

#[test]
fn rules_that_change_count_from_the_next_packet_on_and_flows_stay() {
    let mut network = raw(GlobalPolicy::default(), &[vec![lan()], vec![lan()]]);
    let ask = |network: &mut Network| {
        for client in 0..2 {
            let question = udp((inner(client), 5000), (SERVER, 53), b"?");
            sends(network, client, &question);
        }
    };
    ask(&mut network);
    let flows = |network: &Network| {
        let flows = network.engine.nat().flows(network.now);
        let mut flows: Vec<_> = flows.map(|f| (f.inside, f.port)).collect();
        flows.sort();
        flows
    };
    let (before, _) = (flows(&network), left(&mut network));
    assert_eq!(before.len(), 2);
    let silent = GlobalPolicy {
        on_deny: OnDeny::Drop,
        ..GlobalPolicy::default()
    };
    network.engine.set_global_policy(silent);
    network.engine.set_rules(PeerId(1), Vec::new());
    ask(&mut network);
    assert_eq!(left(&mut network).len(), 1, "the first one's");
    assert_eq!(told(&mut network, 1), []);
    assert_eq!(flows(&network), before);
}

#[test]
fn an_address_that_becomes_anothers_leaves_no_flow_to_the_new_owner() {
    let mut network = raw(
        GlobalPolicy::default(),
        &[vec![lan()], vec![lan()], vec![lan()]],
    );
    for client in 0..3 {
        sends(
            &mut network,
            client,
            &udp((inner(client), 5000), (SERVER, 53), b"?"),
        );
    }
    let now = network.now;
    let moved = IpNet::from(IpAddr::V4(inner(0)));
    network.engine.change_peers(now, |engine| {
        engine.tunnel_mut().allow(PeerId(1), moved);
    });
    let flows = network.engine.nat().flows(now);
    let mut clients: Vec<IpAddr> = flows.map(|flow| flow.inside.ip()).collect();
    clients.sort();
    assert_eq!(clients, [inner(1), inner(2)].map(IpAddr::V4));
}

#[test]
fn clients_do_not_meet_unless_it_is_said() {
    let everything = vec![
        Rule::all(Destination::Anywhere),
        Rule::all(Destination::Clients),
    ];
    let mut network = raw(GlobalPolicy::default(), &[everything.clone(), everything]);
    sends(
        &mut network,
        0,
        &udp((inner(0), 5000), (inner(1), 53), b"x"),
    );
    for piece in fragments((inner(0), 5000), (inner(1), 53), 9) {
        sends(&mut network, 0, &piece);
    }
    assert_eq!(received(&mut network, 1), [] as [Vec<u8>; 0]);
    assert_eq!(told(&mut network, 0), [PROHIBITED; 2]);
    assert!(left(&mut network).is_empty());
}

#[test]
fn a_connection_between_clients_carries_a_file() {
    let everybody = vec![Rule::all(Destination::Clients)];
    let rules = [everybody.clone(), everybody];
    let limits = Limits::default();
    let mut network = ruled_network(Family::V4, meeting(), limits, &rules, Mode::Assign, 2);
    for client in 0..2 {
        network.client_sends(client, &ping(inner(client), GATEWAY, 1, b""));
    }
    network.wait(Duration::from_secs(1));
    let server = network.clients[1].host.listen(80);
    let to = SocketAddr::new(inner(1).into(), 80);
    let client = network.clients[0].host.connect(50_000, to);
    let (mut sent, mut came) = (0usize, 0usize);
    const SIZE: usize = 300_000;
    let done = network.run(Duration::from_secs(60), |network| {
        let socket = network.clients[0].host.tcp(client);
        if socket.can_send() && sent < SIZE {
            sent += socket.send_slice(&vec![7; SIZE - sent]).unwrap();
        }
        let socket = network.clients[1].host.tcp(server);
        while socket.can_recv() {
            came += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
        came == SIZE
    });
    assert!(done, "{came} of {SIZE} bytes came");
}

#[test]
fn rules_hold_between_clients_and_answers_pass() {
    let rules = [
        vec![rule(net("10.8.0.12/32"), IpProtocol::Tcp, 22)],
        vec![lan()],
    ];
    let mut network = raw(meeting(), &rules);
    let (a, b) = ((inner(0), 5000), (inner(1), 22));
    sends(&mut network, 0, &tcp(a, b, (SYN, 1, 0)));
    assert_eq!(received(&mut network, 1).len(), 1);
    sends(&mut network, 1, &tcp(b, a, (SYN_ACK, 1, 0)));
    assert_eq!(received(&mut network, 0).len(), 1);
    // An error about it passes too, from whom it is about.
    let about = with_ttl(tcp(a, b, (SYN, 1, 0)), 63);
    sends(&mut network, 1, &unreachable(inner(1), inner(0), &about));
    assert_eq!(received(&mut network, 0).len(), 1);
    // What is no answer does not, from whatever port.
    sends(&mut network, 1, &tcp(b, a, (SYN, 1, 0)));
    sends(&mut network, 1, &udp((inner(1), 22), a, b"x"));
    sends(&mut network, 1, &ping(inner(1), inner(0), 1, b""));
    assert_eq!(received(&mut network, 0), [] as [Vec<u8>; 0]);
    assert_eq!(told(&mut network, 1), [PROHIBITED; 3]);
    // Nor another port.
    sends(&mut network, 0, &tcp(a, (inner(1), 23), (SYN, 1, 0)));
    assert_eq!(told(&mut network, 0), [PROHIBITED]);
    assert_eq!(received(&mut network, 1), [] as [Vec<u8>; 0]);
}

#[test]
fn rules_hold_for_fragments_in_any_order() {
    let rules = [vec![rule(net("192.168.77.10/32"), IpProtocol::Udp, 5000)]];
    for (order, id) in [([0, 1], 1), ([1, 0], 2)] {
        let mut network = raw(GlobalPolicy::default(), &rules);
        let good = fragments((inner(0), 7), (SERVER, 5000), id);
        let bad = fragments((inner(0), 7), (SERVER, 5001), id + 10);
        for index in order {
            sends(&mut network, 0, &good[index]);
            sends(&mut network, 0, &bad[index]);
        }
        network.wait(Duration::from_secs(10));
        let left = left(&mut network);
        assert_eq!(left.len(), 2);
        let first = |p: &&Vec<u8>| Ipv4Packet::new_unchecked(&p[..]).frag_offset() == 0;
        let port = |p: &Vec<u8>| udp_parts(p).map(|(_, to, _)| to);
        let ports: Vec<_> = left.iter().filter(first).filter_map(port).collect();
        assert_eq!(ports, [5000]);
        assert_eq!(told(&mut network, 0), [PROHIBITED]);
    }
}

#[test]
fn rules_hold_for_a_site_and_for_each_host_behind_it() {
    let rules = [
        vec![rule(net("192.168.77.10/32"), IpProtocol::Udp, 445)],
        vec![lan()],
    ];
    let mut network = raw(GlobalPolicy::default(), &rules);
    let (host, other_site) = (Ipv4Addr::new(10, 20, 0, 9), Ipv4Addr::new(10, 20, 1, 9));
    sends(&mut network, 0, &udp((host, 7), (SERVER, 445), b"allowed"));
    let [packet] = &left(&mut network)[..] else {
        panic!("one packet");
    };
    // Its answer finds the host again.
    let (port, ..) = udp_parts(packet).unwrap();
    network.server_sends(udp((SERVER, 445), (LAN, port), b"answer"));
    network.wait(Duration::from_millis(100));
    let [answer] = &datagrams(&mut network, 0)[..] else {
        panic!("one answer");
    };
    assert_eq!(Ipv4Packet::new_unchecked(&answer[..]).dst_addr(), host);

    for packet in [
        udp((host, 7), (SERVER, 446), b"port"),
        udp((host, 7), (Ipv4Addr::new(192, 168, 77, 11), 445), b"host"),
        udp((host, 7), (other_site, 445), b"other site"),
        udp((host, 7), (inner(1), 445), b"other client"),
        ping(host, SERVER, 1, b""),
    ] {
        sends(&mut network, 0, &packet);
        let [error] = &received(&mut network, 0)[..] else {
            panic!("one error");
        };
        assert_eq!(Ipv4Packet::new_unchecked(&error[..]).dst_addr(), host);
        assert_eq!(error[20..22], [3, 13]);
    }
    // Addresses that are not the site's are not its to use.
    sends(&mut network, 0, &udp((other_site, 7), (SERVER, 445), b"x"));
    assert!(left(&mut network).is_empty());
    let peers: Vec<_> = network.engine.tunnel().peers().map(|p| p.id).collect();
    assert_eq!(network.engine.drop_counters(peers[0]).denied, 5);
    assert_eq!(network.engine.drop_counters(peers[1]).denied, 0);
}

#[test]
fn what_is_denied_can_be_passed_over_in_silence() {
    let silent = GlobalPolicy {
        on_deny: OnDeny::Drop,
        ..GlobalPolicy::default()
    };
    let mut network = raw(silent, &[vec![]]);
    sends(&mut network, 0, &udp((inner(0), 7), (SERVER, 445), b"x"));
    assert!(received(&mut network, 0).is_empty() && left(&mut network).is_empty());
    assert_eq!(network.engine.counters().denied, 1);
}

#[test]
fn errors_about_allowed_flows_pass_and_others_do_not() {
    let rules = [
        vec![rule(net("192.168.77.10/32"), IpProtocol::Udp, 5000)],
        vec![lan()],
    ];
    let mut network = raw(GlobalPolicy::default(), &rules);
    for client in 0..2 {
        sends(
            &mut network,
            client,
            &udp((inner(client), 7), (SERVER, 5000), b"x"),
        );
    }
    let [packet, _] = &left(&mut network)[..] else {
        panic!("two packets");
    };
    let (port, ..) = udp_parts(packet).unwrap();
    network.server_sends(udp((SERVER, 5000), (LAN, port), b"answer"));
    network.wait(Duration::from_millis(100));
    let [answer] = &datagrams(&mut network, 0)[..] else {
        panic!("one answer");
    };
    sends(&mut network, 0, &unreachable(inner(0), SERVER, answer));
    assert_eq!(left(&mut network).len(), 1, "the server is told");
    // In another client's name, and about what never was.
    let theirs = udp((SERVER, 5000), (inner(1), 7), b"answer");
    sends(&mut network, 0, &unreachable(inner(0), SERVER, &theirs));
    let never = udp((SERVER, 5001), (inner(0), 7), b"answer!!");
    sends(
        &mut network,
        0,
        &unreachable(inner(0), Ipv4Addr::new(192, 168, 77, 11), &never),
    );
    assert!(left(&mut network).is_empty());
}

#[test]
fn rfc6888_req4_who_reaches_a_limit_is_counted_and_nobody_else_feels_it() {
    let limits = Limits {
        sessions: 5,
        ..Limits::default()
    };
    let rules = [vec![lan()], vec![lan()]];
    let mut network = ruled_network(
        Family::V4,
        GlobalPolicy::default(),
        limits,
        &rules,
        Mode::Assign,
        4,
    );
    network.keep_lan = true;
    network.clients.iter_mut().for_each(|c| c.raw = true);
    for port in 0..8 {
        sends(
            &mut network,
            0,
            &udp((inner(0), 5000 + port), (SERVER, 53), b"x"),
        );
    }
    for port in 0..5 {
        sends(
            &mut network,
            1,
            &udp((inner(1), 5000 + port), (SERVER, 53), b"x"),
        );
    }
    assert_eq!(left(&mut network).len(), 10);
    assert_eq!(told(&mut network, 0), [PROHIBITED; 3]);
    assert_eq!(told(&mut network, 1), []);
    let peers: Vec<_> = network.engine.tunnel().peers().map(|p| p.id).collect();
    assert_eq!(network.engine.drop_counters(peers[0]).limited, 3);
    assert_eq!(network.engine.drop_counters(peers[1]).limited, 0);
    assert_eq!(
        network
            .engine
            .nat()
            .counters()
            .dropped(nat::Reason::Sessions),
        3
    );
}

#[test]
fn broadcasts_reach_nothing_and_are_not_answered() {
    let everything = vec![Rule::all(Destination::Anywhere)];
    let broadcast = Ipv4Addr::new(192, 168, 77, 255);
    let policy = GlobalPolicy {
        broadcasts: vec![broadcast.into()],
        ..GlobalPolicy::default()
    };
    let mut network = raw(policy, &[everything.clone(), everything]);
    let link_local = Ipv4Addr::new(169, 254, 169, 254);
    for to in [
        broadcast,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::LOCALHOST,
        link_local,
        Ipv4Addr::new(224, 0, 0, 251),
    ] {
        sends(&mut network, 0, &udp((inner(0), 5000), (to, 137), b"x"));
        sends(
            &mut network,
            0,
            &tcp((inner(0), 5000), (to, 22), (SYN, 1, 0)),
        );
        sends(&mut network, 0, &ping(inner(0), to, 1, b""));
        for piece in fragments((inner(0), 5000), (to, 137), 9) {
            sends(&mut network, 0, &piece);
        }
        assert_eq!(left(&mut network), [] as [Vec<u8>; 0], "{to}");
    }
    assert_eq!(told(&mut network, 0), []);
    let neighbour = Ipv4Addr::new(192, 168, 77, 254);
    sends(
        &mut network,
        0,
        &udp((inner(0), 5000), (neighbour, 137), b"x"),
    );
    assert_eq!(left(&mut network).len(), 1);
}
