//! Rules: fragments, answers, sites, traffic between clients, and limits.

use crate::ip::{SYN, SYN_ACK, fragments, ping, tcp, udp, udp_parts, unreachable, with_ttl};
use crate::network::{Family, GATEWAY, LAN, Network, SERVER, inner};
use crate::raw::{
    PROHIBITED, raw, send_and_wait, take_datagrams, take_icmp_errors, take_lan_packets,
    take_received,
};
use crate::ruled_network;
use ipnet::IpNet;
use smoltcp::wire::{IpProtocol, Ipv4Packet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use vcgate_core::engine::{Destination, GlobalPolicy, OnDeny, Rule};
use vcgate_core::ids::PeerId;
use vcgate_core::nat::{self, Limits};
use vcgate_core::smb::Mode;

pub(crate) fn net(text: &str) -> Destination {
    Destination::Net(text.parse().unwrap())
}

pub(crate) fn rule(destination: Destination, protocol: IpProtocol, port: u16) -> Rule {
    Rule {
        destination,
        protocol: Some(protocol),
        ports: Some(port..=port),
    }
}

pub(crate) fn lan() -> Rule {
    Rule::all(net("192.168.77.0/24"))
}

fn client_to_client() -> GlobalPolicy {
    GlobalPolicy {
        client_to_client: true,
        ..GlobalPolicy::default()
    }
}

#[test]
fn client_to_client_traffic_is_routed_and_decrements_the_ttl() {
    let clients_and_lan = vec![lan(), Rule::all(Destination::Clients)];
    let mut network = raw(
        client_to_client(),
        &[clients_and_lan.clone(), clients_and_lan],
    );
    let packet = udp((inner(0), 5000), (inner(1), 53), b"hello");
    send_and_wait(&mut network, 0, &packet);
    assert_eq!(
        take_received(&mut network, 1),
        [with_ttl(packet.clone(), 63)]
    );
    send_and_wait(&mut network, 0, &with_ttl(packet, 1));
    assert_eq!(take_received(&mut network, 1), [] as [Vec<u8>; 0]);
    assert_eq!(take_icmp_errors(&mut network, 0), [(GATEWAY.into(), 11, 0)]);
    // The address of another client is not accepted here either.
    send_and_wait(
        &mut network,
        0,
        &udp((inner(1), 5000), (inner(1), 53), b"x"),
    );
    assert_eq!(take_received(&mut network, 1), [] as [Vec<u8>; 0]);
    assert!(take_lan_packets(&mut network).is_empty());
}

#[test]
fn changed_rules_apply_to_the_next_packet_and_keep_flows() {
    let mut network = raw(GlobalPolicy::default(), &[vec![lan()], vec![lan()]]);
    let send_requests = |network: &mut Network| {
        for client in 0..2 {
            let question = udp((inner(client), 5000), (SERVER, 53), b"?");
            send_and_wait(network, client, &question);
        }
    };
    send_requests(&mut network);
    let flows = |network: &Network| {
        let flows = network.engine.nat().flows(network.now);
        let mut flows: Vec<_> = flows.map(|f| (f.inside, f.port)).collect();
        flows.sort();
        flows
    };
    let (before, _) = (flows(&network), take_lan_packets(&mut network));
    assert_eq!(before.len(), 2);
    let drop_denied = GlobalPolicy {
        on_deny: OnDeny::Drop,
        ..GlobalPolicy::default()
    };
    network.engine.set_global_policy(drop_denied);
    network.engine.set_rules(PeerId(1), Vec::new());
    send_requests(&mut network);
    assert_eq!(
        take_lan_packets(&mut network).len(),
        1,
        "only that of client 0"
    );
    assert_eq!(take_icmp_errors(&mut network, 1), []);
    assert_eq!(flows(&network), before);
}

#[test]
fn a_reassigned_address_leaves_no_flow_to_its_new_peer() {
    let mut network = raw(
        GlobalPolicy::default(),
        &[vec![lan()], vec![lan()], vec![lan()]],
    );
    for client in 0..3 {
        send_and_wait(
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
fn client_to_client_traffic_is_denied_by_default() {
    let everything = vec![
        Rule::all(Destination::Anywhere),
        Rule::all(Destination::Clients),
    ];
    let mut network = raw(GlobalPolicy::default(), &[everything.clone(), everything]);
    send_and_wait(
        &mut network,
        0,
        &udp((inner(0), 5000), (inner(1), 53), b"x"),
    );
    for piece in fragments((inner(0), 5000), (inner(1), 53), 9) {
        send_and_wait(&mut network, 0, &piece);
    }
    assert_eq!(take_received(&mut network, 1), [] as [Vec<u8>; 0]);
    assert_eq!(take_icmp_errors(&mut network, 0), [PROHIBITED; 2]);
    assert!(take_lan_packets(&mut network).is_empty());
}

#[test]
fn a_connection_between_clients_transfers_data() {
    let clients_and_lan = vec![Rule::all(Destination::Clients)];
    let rules = [clients_and_lan.clone(), clients_and_lan];
    let limits = Limits::default();
    let mut network = ruled_network(
        Family::V4,
        client_to_client(),
        limits,
        &rules,
        Mode::Assign,
        2,
    );
    for client in 0..2 {
        network.client_sends(client, &ping(inner(client), GATEWAY, 1, b""));
    }
    network.wait(Duration::from_secs(1));
    let server = network.clients[1].host.listen(80);
    let to = SocketAddr::new(inner(1).into(), 80);
    let client = network.clients[0].host.connect(50_000, to);
    let (mut sent, mut arrived) = (0usize, 0usize);
    const SIZE: usize = 300_000;
    let done = network.run(Duration::from_secs(60), |network| {
        let socket = network.clients[0].host.tcp(client);
        if socket.can_send() && sent < SIZE {
            sent += socket.send_slice(&vec![7; SIZE - sent]).unwrap();
        }
        let socket = network.clients[1].host.tcp(server);
        while socket.can_recv() {
            arrived += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
        arrived == SIZE
    });
    assert!(done, "{arrived} of {SIZE} bytes arrived");
}

#[test]
fn rules_apply_between_clients_and_answers_pass() {
    let rules = [
        vec![rule(net("10.8.0.12/32"), IpProtocol::Tcp, 22)],
        vec![lan()],
    ];
    let mut network = raw(client_to_client(), &rules);
    let (a, b) = ((inner(0), 5000), (inner(1), 22));
    send_and_wait(&mut network, 0, &tcp(a, b, (SYN, 1, 0)));
    assert_eq!(take_received(&mut network, 1).len(), 1);
    send_and_wait(&mut network, 1, &tcp(b, a, (SYN_ACK, 1, 0)));
    assert_eq!(take_received(&mut network, 0).len(), 1);
    // An ICMP error from the destination passes too.
    let about = with_ttl(tcp(a, b, (SYN, 1, 0)), 63);
    send_and_wait(&mut network, 1, &unreachable(inner(1), inner(0), &about));
    assert_eq!(take_received(&mut network, 0).len(), 1);
    // Packets that are not answers are denied, from any port.
    send_and_wait(&mut network, 1, &tcp(b, a, (SYN, 1, 0)));
    send_and_wait(&mut network, 1, &udp((inner(1), 22), a, b"x"));
    send_and_wait(&mut network, 1, &ping(inner(1), inner(0), 1, b""));
    assert_eq!(take_received(&mut network, 0), [] as [Vec<u8>; 0]);
    assert_eq!(take_icmp_errors(&mut network, 1), [PROHIBITED; 3]);
    // Another port is denied.
    send_and_wait(&mut network, 0, &tcp(a, (inner(1), 23), (SYN, 1, 0)));
    assert_eq!(take_icmp_errors(&mut network, 0), [PROHIBITED]);
    assert_eq!(take_received(&mut network, 1), [] as [Vec<u8>; 0]);
}

#[test]
fn rules_apply_to_fragments_in_any_order() {
    let rules = [vec![rule(net("192.168.77.10/32"), IpProtocol::Udp, 5000)]];
    for (order, id) in [([0, 1], 1), ([1, 0], 2)] {
        let mut network = raw(GlobalPolicy::default(), &rules);
        let good = fragments((inner(0), 7), (SERVER, 5000), id);
        let bad = fragments((inner(0), 7), (SERVER, 5001), id + 10);
        for index in order {
            send_and_wait(&mut network, 0, &good[index]);
            send_and_wait(&mut network, 0, &bad[index]);
        }
        network.wait(Duration::from_secs(10));
        let left = take_lan_packets(&mut network);
        assert_eq!(left.len(), 2);
        let first = |p: &&Vec<u8>| Ipv4Packet::new_unchecked(&p[..]).frag_offset() == 0;
        let port = |p: &Vec<u8>| udp_parts(p).map(|(_, to, _)| to);
        let ports: Vec<_> = left.iter().filter(first).filter_map(port).collect();
        assert_eq!(ports, [5000]);
        assert_eq!(take_icmp_errors(&mut network, 0), [PROHIBITED]);
    }
}

#[test]
fn rules_apply_to_a_site_and_to_each_of_its_hosts() {
    let rules = [
        vec![rule(net("192.168.77.10/32"), IpProtocol::Udp, 445)],
        vec![lan()],
    ];
    let mut network = raw(GlobalPolicy::default(), &rules);
    let (host, other_site) = (Ipv4Addr::new(10, 20, 0, 9), Ipv4Addr::new(10, 20, 1, 9));
    send_and_wait(&mut network, 0, &udp((host, 7), (SERVER, 445), b"allowed"));
    let [packet] = &take_lan_packets(&mut network)[..] else {
        panic!("expected one packet");
    };
    // The answer reaches the host.
    let (port, ..) = udp_parts(packet).unwrap();
    network.server_sends(udp((SERVER, 445), (LAN, port), b"answer"));
    network.wait(Duration::from_millis(100));
    let [answer] = &take_datagrams(&mut network, 0)[..] else {
        panic!("expected one answer");
    };
    assert_eq!(Ipv4Packet::new_unchecked(&answer[..]).dst_addr(), host);

    for packet in [
        udp((host, 7), (SERVER, 446), b"port"),
        udp((host, 7), (Ipv4Addr::new(192, 168, 77, 11), 445), b"host"),
        udp((host, 7), (other_site, 445), b"other site"),
        udp((host, 7), (inner(1), 445), b"other client"),
        ping(host, SERVER, 1, b""),
    ] {
        send_and_wait(&mut network, 0, &packet);
        let [error] = &take_received(&mut network, 0)[..] else {
            panic!("expected one error");
        };
        assert_eq!(Ipv4Packet::new_unchecked(&error[..]).dst_addr(), host);
        assert_eq!(error[20..22], [3, 13]);
    }
    // Addresses outside the site are not accepted.
    send_and_wait(&mut network, 0, &udp((other_site, 7), (SERVER, 445), b"x"));
    assert!(take_lan_packets(&mut network).is_empty());
    let peers: Vec<_> = network.engine.tunnel().peers().map(|p| p.id).collect();
    assert_eq!(network.engine.drop_counters(peers[0]).denied, 5);
    assert_eq!(network.engine.drop_counters(peers[1]).denied, 0);
}

#[test]
fn denied_packets_can_be_dropped_silently() {
    let drop_denied = GlobalPolicy {
        on_deny: OnDeny::Drop,
        ..GlobalPolicy::default()
    };
    let mut network = raw(drop_denied, &[vec![]]);
    send_and_wait(&mut network, 0, &udp((inner(0), 7), (SERVER, 445), b"x"));
    assert!(take_received(&mut network, 0).is_empty() && take_lan_packets(&mut network).is_empty());
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
        send_and_wait(
            &mut network,
            client,
            &udp((inner(client), 7), (SERVER, 5000), b"x"),
        );
    }
    let [packet, _] = &take_lan_packets(&mut network)[..] else {
        panic!("expected two packets");
    };
    let (port, ..) = udp_parts(packet).unwrap();
    network.server_sends(udp((SERVER, 5000), (LAN, port), b"answer"));
    network.wait(Duration::from_millis(100));
    let [answer] = &take_datagrams(&mut network, 0)[..] else {
        panic!("expected one answer");
    };
    send_and_wait(&mut network, 0, &unreachable(inner(0), SERVER, answer));
    assert_eq!(
        take_lan_packets(&mut network).len(),
        1,
        "the server gets the error"
    );
    // About a flow of another client, and about a flow that never existed.
    let theirs = udp((SERVER, 5000), (inner(1), 7), b"answer");
    send_and_wait(&mut network, 0, &unreachable(inner(0), SERVER, &theirs));
    let never = udp((SERVER, 5001), (inner(0), 7), b"answer!!");
    send_and_wait(
        &mut network,
        0,
        &unreachable(inner(0), Ipv4Addr::new(192, 168, 77, 11), &never),
    );
    assert!(take_lan_packets(&mut network).is_empty());
}

#[test]
fn rfc6888_req4_a_client_at_its_limit_is_counted_and_others_are_unaffected() {
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
        send_and_wait(
            &mut network,
            0,
            &udp((inner(0), 5000 + port), (SERVER, 53), b"x"),
        );
    }
    for port in 0..5 {
        send_and_wait(
            &mut network,
            1,
            &udp((inner(1), 5000 + port), (SERVER, 53), b"x"),
        );
    }
    assert_eq!(take_lan_packets(&mut network).len(), 10);
    assert_eq!(take_icmp_errors(&mut network, 0), [PROHIBITED; 3]);
    assert_eq!(take_icmp_errors(&mut network, 1), []);
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
fn broadcasts_are_dropped_without_an_answer() {
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
        send_and_wait(&mut network, 0, &udp((inner(0), 5000), (to, 137), b"x"));
        send_and_wait(
            &mut network,
            0,
            &tcp((inner(0), 5000), (to, 22), (SYN, 1, 0)),
        );
        send_and_wait(&mut network, 0, &ping(inner(0), to, 1, b""));
        for piece in fragments((inner(0), 5000), (to, 137), 9) {
            send_and_wait(&mut network, 0, &piece);
        }
        assert_eq!(take_lan_packets(&mut network), [] as [Vec<u8>; 0], "{to}");
    }
    assert_eq!(take_icmp_errors(&mut network, 0), []);
    let neighbour = Ipv4Addr::new(192, 168, 77, 254);
    send_and_wait(
        &mut network,
        0,
        &udp((inner(0), 5000), (neighbour, 137), b"x"),
    );
    assert_eq!(take_lan_packets(&mut network).len(), 1);
}
