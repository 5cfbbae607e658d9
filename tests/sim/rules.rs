//! What each client may reach: rules for fragments, answers and sites; clients that meet;
//! destinations without translation; forwards; limits.

use crate::ip::{ping, udp, udp_parts};
use crate::network::{GATEWAY, LAN, Network, SERVER, inner};
use crate::ruled_network;
use smoltcp::wire::{IpProtocol, Ipv4Packet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use vcgate::engine::{Common, Deny, Place, Rule};
use vcgate::nat::{self, Forward, Limits, Protocol};
use vcgate::smb::Mode;

/// A host of a network for which translation is off.
const BRANCH: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 5);

fn net(text: &str) -> Place {
    Place::Net(text.parse().unwrap())
}

fn rule(place: Place, protocol: IpProtocol, port: u16) -> Rule {
    Rule {
        place,
        protocol: Some(protocol),
        ports: Some(port..=port),
    }
}

fn lan() -> Rule {
    Rule::all(net("192.168.77.0/24"))
}

/// A network with raw clients, in which what goes to the LAN is kept.
fn raw(common: Common, rules: &[Vec<Rule>]) -> Network {
    let mut network = ruled_network(common, Limits::default(), rules, Mode::Assign, 1);
    network.keep_lan = true;
    network.clients.iter_mut().for_each(|c| c.raw = true);
    // The endpoint learns where its clients are.
    for client in 0..rules.len() {
        network.client_sends(client, &ping(inner(client), GATEWAY, 1, b""));
    }
    network.wait(Duration::from_secs(1));
    network.clients.iter_mut().for_each(|c| c.received.clear());
    network
}

fn meeting() -> Common {
    Common {
        clients_may_meet: true,
        ..Common::default()
    }
}

fn untranslated() -> Common {
    Common {
        untranslated: vec!["10.1.0.0/16".parse().unwrap()],
        ..Common::default()
    }
}

fn with_ttl(mut packet: Vec<u8>, ttl: u8) -> Vec<u8> {
    let mut p = Ipv4Packet::new_unchecked(&mut packet[..]);
    p.set_hop_limit(ttl);
    p.fill_checksum();
    packet
}

/// A datagram in two fragments.
pub fn fragments(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), id: u16) -> [Vec<u8>; 2] {
    let whole = udp(from, to, &[7; 40]);
    let piece = |range: std::ops::Range<usize>, more| {
        let mut piece = [&whole[..20], &whole[20..][range.clone()]].concat();
        let mut p = Ipv4Packet::new_unchecked(&mut piece[..]);
        p.set_total_len(20 + range.len() as u16);
        p.set_ident(id);
        p.set_dont_frag(false);
        p.set_more_frags(more);
        p.set_frag_offset(range.start as u16);
        p.fill_checksum();
        piece
    };
    [piece(0..24, true), piece(24..48, false)]
}

/// A TCP segment without payload.
fn segment(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    let mut packet = udp(from, to, &[0; 12]);
    packet[9] = 6;
    packet[32] = 5 << 4;
    packet[33] = flags;
    packet[24..28].copy_from_slice(&[0, 0, 0, 1]);
    Ipv4Packet::new_unchecked(&mut packet[..]).fill_checksum();
    let (src, dst) = (from.0.into(), to.0.into());
    let mut tcp = smoltcp::wire::TcpPacket::new_unchecked(&mut packet[20..]);
    tcp.fill_checksum(&src, &dst);
    packet
}

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

/// An ICMP port unreachable about a packet.
fn unreachable(from: Ipv4Addr, to: Ipv4Addr, about: &[u8]) -> Vec<u8> {
    let mut packet = ping(from, to, 0, &about[..28]);
    packet[20..22].copy_from_slice(&[3, 3]);
    packet[24..28].fill(0);
    smoltcp::wire::Icmpv4Packet::new_unchecked(&mut packet[20..]).fill_checksum();
    packet
}

/// Type and code of the ICMP messages that a client received, and from whom; the server's own are
/// left out, whose stack knows no UDP.
fn told(network: &mut Network, client: usize) -> Vec<(Ipv4Addr, u8, u8)> {
    let received = std::mem::take(&mut network.clients[client].received);
    let icmp = received
        .iter()
        .filter(|p| p[9] == 1 && p[12..16] != SERVER.octets());
    icmp.map(|p| (Ipv4Packet::new_unchecked(&p[..]).src_addr(), p[20], p[21]))
        .collect()
}

/// RFC 1812 section 5.2.7.1: destination unreachable, administratively prohibited.
const PROHIBITED: (Ipv4Addr, u8, u8) = (GATEWAY, 3, 13);

fn sends(network: &mut Network, client: usize, packet: &[u8]) {
    network.client_sends(client, packet);
    network.wait(Duration::from_millis(100));
}

fn received(network: &mut Network, client: usize) -> Vec<Vec<u8>> {
    std::mem::take(&mut network.clients[client].received)
}

/// The UDP datagrams that a client received.
fn datagrams(network: &mut Network, client: usize) -> Vec<Vec<u8>> {
    let mut all = received(network, client);
    all.retain(|p| p[9] == 17);
    all
}

fn left(network: &mut Network) -> Vec<Vec<u8>> {
    std::mem::take(&mut network.on_lan)
}

#[test]
fn clients_that_may_meet_are_routed_with_a_hop_in_between() {
    let everybody = vec![lan(), Rule::all(Place::Clients)];
    let mut network = raw(meeting(), &[everybody.clone(), everybody]);
    let packet = udp((inner(0), 5000), (inner(1), 53), b"hello");
    sends(&mut network, 0, &packet);
    assert_eq!(received(&mut network, 1), [with_ttl(packet.clone(), 63)]);
    sends(&mut network, 0, &with_ttl(packet, 1));
    assert_eq!(received(&mut network, 1), [] as [Vec<u8>; 0]);
    assert_eq!(told(&mut network, 0), [(GATEWAY, 11, 0)]);
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
fn clients_do_not_meet_unless_it_is_said() {
    let everything = vec![Rule::all(Place::Anywhere), Rule::all(Place::Clients)];
    let mut network = raw(Common::default(), &[everything.clone(), everything]);
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
    let everybody = vec![Rule::all(Place::Clients)];
    let rules = [everybody.clone(), everybody];
    let mut network = ruled_network(meeting(), Limits::default(), &rules, Mode::Assign, 2);
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
    sends(&mut network, 0, &segment(a, b, SYN));
    assert_eq!(received(&mut network, 1).len(), 1);
    sends(&mut network, 1, &segment(b, a, SYN_ACK));
    assert_eq!(received(&mut network, 0).len(), 1);
    // An error about it passes too, from whom it is about.
    let about = with_ttl(segment(a, b, SYN), 63);
    sends(&mut network, 1, &unreachable(inner(1), inner(0), &about));
    assert_eq!(received(&mut network, 0).len(), 1);
    // What is no answer does not, from whatever port.
    sends(&mut network, 1, &segment(b, a, SYN));
    sends(&mut network, 1, &udp((inner(1), 22), a, b"x"));
    sends(&mut network, 1, &ping(inner(1), inner(0), 1, b""));
    assert_eq!(received(&mut network, 0), [] as [Vec<u8>; 0]);
    assert_eq!(told(&mut network, 1), [PROHIBITED; 3]);
    // Nor another port.
    sends(&mut network, 0, &segment(a, (inner(1), 23), SYN));
    assert_eq!(told(&mut network, 0), [PROHIBITED]);
    assert_eq!(received(&mut network, 1), [] as [Vec<u8>; 0]);
}

#[test]
fn rules_hold_for_fragments_in_any_order() {
    let rules = [vec![rule(net("192.168.77.10/32"), IpProtocol::Udp, 5000)]];
    for (order, id) in [([0, 1], 1), ([1, 0], 2)] {
        let mut network = raw(Common::default(), &rules);
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
    let mut network = raw(Common::default(), &rules);
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
    assert_eq!(network.engine.refused(peers[0]).denied, 5);
    assert_eq!(network.engine.refused(peers[1]).denied, 0);
}

#[test]
fn what_is_denied_can_be_passed_over_in_silence() {
    let silent = Common {
        deny: Deny::Silent,
        ..Common::default()
    };
    let mut network = raw(silent, &[vec![]]);
    sends(&mut network, 0, &udp((inner(0), 7), (SERVER, 445), b"x"));
    assert!(received(&mut network, 0).is_empty() && left(&mut network).is_empty());
    assert_eq!(network.engine.counters().denied, 1);
}

#[test]
fn rfc6888_req6_chosen_destinations_see_the_client_itself() {
    let branch = net("10.1.0.0/16");
    let rules = [vec![lan(), rule(branch, IpProtocol::Udp, 53)], vec![lan()]];
    let mut network = raw(untranslated(), &rules);
    let client = (inner(0), 5000);
    let packet = udp(client, (BRANCH, 53), b"question");
    sends(&mut network, 0, &packet);
    assert_eq!(left(&mut network), [packet.clone()]);
    let answer = udp((BRANCH, 53), client, b"answer");
    network.server_sends(answer.clone());
    // A router of theirs says that something went wrong.
    let router = Ipv4Addr::new(192, 168, 77, 254);
    let error = unreachable(router, inner(0), &packet);
    network.server_sends(error.clone());
    network.wait(Duration::from_millis(100));
    assert_eq!(received(&mut network, 0), [answer, error]);

    // The rules hold in both directions, and other hosts do not come in by the client's address.
    network.server_sends(udp((BRANCH, 54), client, b"port"));
    network.server_sends(udp((SERVER, 53), client, b"not untranslated"));
    network.server_sends(udp((BRANCH, 53), (inner(1), 5000), b"client 1 has no rule"));
    network.server_sends(unreachable(
        router,
        inner(0),
        &udp(client, (BRANCH, 54), b"other"),
    ));
    network.wait(Duration::from_millis(100));
    assert!(received(&mut network, 0).is_empty() && received(&mut network, 1).is_empty());
    sends(&mut network, 0, &udp(client, (BRANCH, 54), b"port"));
    sends(
        &mut network,
        1,
        &udp((inner(1), 1), (BRANCH, 53), b"no rule"),
    );
    assert!(left(&mut network).is_empty());
    assert_eq!(told(&mut network, 0), [PROHIBITED]);
    assert_eq!(network.engine.counters().denied, 6);
    // Everything else is translated as ever.
    sends(&mut network, 0, &udp(client, (SERVER, 53), b"x"));
    let source = |p: &Vec<u8>| Ipv4Packet::new_unchecked(&p[..]).src_addr();
    assert_eq!(
        left(&mut network).iter().map(source).collect::<Vec<_>>(),
        [LAN]
    );
}

#[test]
fn rfc6888_req6_a_hop_is_counted_and_fragments_follow_their_first() {
    let rules = [vec![rule(net("10.1.0.0/16"), IpProtocol::Udp, 53)]];
    let mut network = raw(untranslated(), &rules);
    let client = (inner(0), 5000);
    sends(
        &mut network,
        0,
        &with_ttl(udp(client, (BRANCH, 53), b"x"), 1),
    );
    assert_eq!(told(&mut network, 0), [(GATEWAY, 11, 0)]);
    let [first, second] = fragments(client, (BRANCH, 53), 1);
    sends(&mut network, 0, &second);
    assert!(left(&mut network).is_empty());
    sends(&mut network, 0, &first);
    assert_eq!(left(&mut network), [first, second]);
    for piece in fragments(client, (BRANCH, 54), 2) {
        sends(&mut network, 0, &piece);
    }
    assert!(left(&mut network).is_empty());
    let [first, second] = fragments((BRANCH, 53), client, 3);
    network.server_sends(second.clone());
    network.server_sends(first.clone());
    network.wait(Duration::from_millis(100));
    let mut came: Vec<_> = received(&mut network, 0)
        .into_iter()
        .filter(|p| p[9] == 17)
        .collect();
    came.sort();
    let mut expected = vec![first, second];
    expected.sort();
    assert_eq!(came, expected);
}

#[test]
fn errors_about_allowed_flows_pass_and_others_do_not() {
    let rules = [
        vec![rule(net("192.168.77.10/32"), IpProtocol::Udp, 5000)],
        vec![lan()],
    ];
    let mut network = raw(Common::default(), &rules);
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
fn a_forward_lets_strangers_in_and_their_answers_out_whatever_the_rules_say() {
    let mut network = ruled_network(
        Common::default(),
        Limits::default(),
        &[vec![]],
        Mode::Assign,
        3,
    );
    let forward = Forward {
        protocol: Protocol::Tcp,
        port: 8443,
        to: SocketAddr::new(inner(0).into(), 443),
    };
    network.engine.add_forward(forward, network.now).unwrap();
    network.client_sends(0, &ping(inner(0), GATEWAY, 1, b""));
    network.wait(Duration::from_secs(1));
    let listening = network.clients[0].host.listen(443);
    let to = SocketAddr::new(LAN.into(), 8443);
    let stranger = network.server.connect(50_000, to);
    let connected = network.run(Duration::from_secs(10), |network| {
        network.server.tcp(stranger).may_send() && network.clients[0].host.tcp(listening).may_send()
    });
    assert!(connected);
    // The client itself still reaches nothing.
    let out = network.clients[0]
        .host
        .connect(50_001, SocketAddr::new(SERVER.into(), 80));
    network.wait(Duration::from_secs(3));
    assert!(!network.clients[0].host.tcp(out).may_send());
    assert!(network.engine.counters().denied > 0);
}

#[test]
fn rfc6888_req4_who_reaches_a_limit_is_counted_and_nobody_else_feels_it() {
    let limits = Limits {
        sessions: 5,
        ..Limits::default()
    };
    let rules = [vec![lan()], vec![lan()]];
    let mut network = ruled_network(Common::default(), limits, &rules, Mode::Assign, 4);
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
    assert_eq!(network.engine.refused(peers[0]).limited, 3);
    assert_eq!(network.engine.refused(peers[1]).limited, 0);
    assert_eq!(
        network
            .engine
            .nat()
            .counters()
            .dropped(nat::Reason::Sessions),
        3
    );
}
