use super::*;
use std::net::UdpSocket;

fn receive(udp: &mut Udp, inbox: &mut Inbox) {
    let seconds = Some(Duration::from_secs(5));
    assert_eq!(sys::wait([Interest::read(udp)], seconds).unwrap(), [true]);
    assert!(udp.receive(inbox).unwrap() > 0);
}

/// Receives at `udp` until `bytes` bytes have arrived. Returns the datagrams and the length of the
/// longest burst.
fn datagrams(udp: &mut Udp, bytes: usize) -> (Vec<Vec<u8>>, usize) {
    let (mut all, mut inbox, mut longest) = (Vec::new(), Inbox::new(), 0);
    while all.iter().map(Vec::len).sum::<usize>() < bytes {
        receive(udp, &mut inbox);
        for burst in inbox.bursts() {
            longest = longest.max(burst.bytes.len());
            all.extend(burst.bytes.chunks(burst.stride).map(<[u8]>::to_vec));
        }
    }
    (all, longest)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn local(ip: impl Into<IpAddr>, udp: &Udp) -> Path {
    Path {
        remote: SocketAddr::new(ip.into(), udp.port()),
        local: None,
    }
}

#[test]
fn replies_come_from_the_address_that_was_sent_to_in_both_families() {
    let mut ours = Udp::bind(Settings::on_port(0)).unwrap();
    let mut inbox = Inbox::new();
    let mut tried = vec![("127.0.0.1:0", IpAddr::from([127, 0, 0, 77]))];
    if ours.v6 && UdpSocket::bind("[::1]:0").is_ok() {
        tried.push(("[::1]:0", Ipv6Addr::LOCALHOST.into()));
    }
    for (client, server) in tried {
        let client = UdpSocket::bind(client).unwrap();
        client.send_to(b"hello", (server, ours.port())).unwrap();
        receive(&mut ours, &mut inbox);
        let burst = inbox.bursts().next().unwrap();
        assert_eq!(burst.bytes, b"hello");
        assert_eq!(burst.path.remote, client.local_addr().unwrap());
        assert_eq!(burst.path.local, Some(server));
        assert_eq!(ours.send(&burst.path, Ecn::default(), 5, burst.bytes), 0);
        let (mut buffer, from) = ([0; 9], SocketAddr::new(server, ours.port()));
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (5, from));
    }
}

#[test]
fn ecn_bits_travel_in_both_families() {
    let mut ours = Udp::bind(Settings::on_port(0)).unwrap();
    let mut theirs = Udp::bind(Settings::on_port(0)).unwrap();
    let mut inbox = Inbox::new();
    let mut tried: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
    if ours.v6 && UdpSocket::bind("[::1]:0").is_ok() {
        tried.push(Ipv6Addr::LOCALHOST.into());
    }
    for ip in tried {
        for ecn in (0..4).map(Ecn::from_bits) {
            ours.send(&local(ip, &theirs), ecn, 1, b"x");
            receive(&mut theirs, &mut inbox);
            assert_eq!(
                inbox.bursts().map(|b| b.ecn).collect::<Vec<_>>(),
                [ecn],
                "{ip}"
            );
        }
    }
}

#[test]
fn every_way_to_send_and_receive_delivers_the_same_datagrams() {
    // A little more than two bursts: small segments fill 64, those of a full tunnel packet 65,340 bytes.
    for (segment, most) in [(300, 64), (1452, 45)] {
        let bytes = pattern(segment * most * 2 + 7);
        let expected: Vec<_> = bytes.chunks(segment).map(<[u8]>::to_vec).collect();
        for (gso, gro) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut ours = Udp::bind(Settings {
                gso,
                ..Settings::on_port(0)
            })
            .unwrap();
            let mut theirs = Udp::bind(Settings {
                gro,
                ..Settings::on_port(0)
            })
            .unwrap();
            assert_eq!(
                ours.send(
                    &local(Ipv4Addr::LOCALHOST, &theirs),
                    Ecn::default(),
                    segment,
                    &bytes
                ),
                0
            );
            let (received, longest) = datagrams(&mut theirs, bytes.len());
            assert_eq!(received, expected, "gso {gso} gro {gro}");
            if gso && gro && ours.gso() && theirs.gro() {
                assert_eq!(longest, segment * most);
            } else if !gro {
                assert_eq!(longest, segment);
            }
        }
    }
}

#[test]
fn segments_beyond_the_paths_mtu_are_fragmented_not_lost() {
    if !sys::enter_new_network() {
        return;
    }
    for arguments in [["link", "set", "lo", "up"], ["link", "set", "lo", "mtu"]] {
        let more = if arguments[3] == "mtu" {
            &["1300"][..]
        } else {
            &[]
        };
        let status = std::process::Command::new("ip")
            .args(arguments)
            .args(more)
            .status();
        assert!(status.unwrap().success());
    }
    let mut ours = Udp::bind(Settings::on_port(0)).unwrap();
    let mut theirs = Udp::bind(Settings::on_port(0)).unwrap();
    let bytes = pattern(1452 * 20 + 5);
    for ip in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        if ip.is_ipv6() && !(ours.v6 && UdpSocket::bind("[::1]:0").is_ok()) {
            continue;
        }
        // The second burst is not offered to the kernel.
        for _ in 0..2 {
            let now = Instant::now();
            assert_eq!(
                ours.send(&local(ip, &theirs), Ecn::Capable1, 1452, &bytes),
                0
            );
            let (received, _) = datagrams(&mut theirs, bytes.len());
            assert_eq!(received.concat(), bytes, "{ip}");
            let refuses = |segment| ours.gso_blocklist.refuses(ip, segment, now);
            assert!(refuses(1452) && !refuses(1000), "{ip}");
        }
        assert!(ours.gso(), "one narrow path does not end it for all");
    }
}

/// Runs `ip` and returns its output.
fn ip(arguments: &str) -> String {
    let output = std::process::Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Sends a forged ICMP error about a small path MTU, as an attacker off the path can: it quotes a
/// datagram from `from` to `to` of which only the addresses and ports are known.
fn forge_too_big(from: SocketAddr, to: SocketAddr, mtu: u16) {
    let quoted_udp = |len: u16| {
        let ports = [from.port(), to.port()].map(u16::to_be_bytes).concat();
        [ports, len.to_be_bytes().to_vec(), vec![0; 2]].concat()
    };
    let arrived = || match from.is_ipv4() {
        true => counter("Icmp", "InDestUnreachs"),
        false => counter("Icmp6", "InPktTooBigs"),
    };
    let (icmp, family, protocol) = match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = vec![0x45, 0, 0x05, 0xDC, 0, 1, 0x40, 0, 64, 17, 0, 0];
            ip.extend([src.octets(), dst.octets()].concat());
            let sum = !smoltcp::wire::checksum::data(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            let mut icmp = vec![3, 4, 0, 0, 0, 0];
            icmp.extend(mtu.to_be_bytes());
            icmp.extend(ip);
            icmp.extend(quoted_udp(1480));
            let sum = !smoltcp::wire::checksum::data(&icmp);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            (icmp, Domain::IPV4, Protocol::ICMPV4)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            // The kernel computes the checksum.
            let mut icmp = vec![2, 0, 0, 0, 0, 0];
            icmp.extend(mtu.to_be_bytes());
            icmp.extend([0x60, 0, 0, 0, 0x05, 0xB4, 17, 64]);
            icmp.extend([src.octets(), dst.octets()].concat());
            icmp.extend(quoted_udp(1460));
            (icmp, Domain::IPV6, Protocol::ICMPV6)
        }
        _ => panic!("two families"),
    };
    let raw = Socket::new(family, Type::RAW, Some(protocol)).unwrap();
    let victim = SocketAddr::new(from.ip(), 0);
    let before = arrived();
    assert_eq!(raw.send_to(&icmp, &victim.into()).unwrap(), icmp.len());
    sys::until(|| arrived() > before);
}

/// Enters a new network with a link, and returns the path over it from `own` to `remote`.
fn path_in_new_network(own: &str, remote: &str) -> Option<Path> {
    if !sys::enter_new_network() {
        return None;
    }
    ip("link set lo up");
    ip("link add wan type veth peer name far");
    ip("link set wan up");
    ip("link set far up");
    match own.contains(':') {
        true => ip(&format!("address add {own}/64 dev wan nodad")),
        false => ip(&format!("address add {own}/24 dev wan")),
    };
    ip(&format!(
        "neighbour add {remote} lladdr 02:00:00:00:00:02 dev wan"
    ));
    // The link is up and the address valid shortly after the commands return.
    sys::until(|| ip("link show wan").contains("state UP"));
    sys::until(|| ip(&format!("route get {own}")).starts_with("local "));
    Some(Path {
        remote: SocketAddr::new(remote.parse().unwrap(), 40_000),
        local: own.parse().ok(),
    })
}

#[test]
fn a_forged_icmp_error_does_not_reduce_the_path_mtu_of_a_client() {
    let own = "192.0.2.1";
    let Some(path) = path_in_new_network(own, "192.0.2.2") else {
        return;
    };
    let mut ours = Udp::bind(Settings::on_port(0)).unwrap();
    let route = || ip(&format!("route get {}", path.remote.ip()));
    assert_eq!(ours.send(&path, Ecn::default(), 1400, &pattern(1400)), 0);
    let from = SocketAddr::new(own.parse().unwrap(), ours.port());
    forge_too_big(from, path.remote, 600);
    assert!(!route().contains(" mtu "), "{}", route());

    // Another socket of the machine accepts the error, so the forgery works.
    let other = UdpSocket::bind((own, 0)).unwrap();
    other.send_to(b"x", path.remote).unwrap();
    forge_too_big(other.local_addr().unwrap(), path.remote, 600);
    assert!(route().contains(" mtu 600"), "{}", route());
    // The datagrams of this socket are not fragmented.
    let bytes = pattern(1400 * 20);
    assert_eq!(ours.send(&path, Ecn::default(), 1400, &bytes), 0);
    assert!(
        ours.gso()
            && !ours
                .gso_blocklist
                .refuses(path.remote.ip(), 1400, Instant::now())
    );
    assert_eq!(fragments_made(), 0);
}

#[test]
fn over_an_ipv6_path_with_a_small_mtu_datagrams_are_fragmented() {
    let own = "2001:db8::1";
    let Some(path) = path_in_new_network(own, "2001:db8::2") else {
        return;
    };
    let mut ours = Udp::bind(Settings::on_port(0)).unwrap();
    assert_eq!(ours.send(&path, Ecn::default(), 1400, &pattern(1400)), 0);
    assert_eq!(fragments_made(), 0);
    let from = SocketAddr::new(own.parse().unwrap(), ours.port());
    forge_too_big(from, path.remote, 1280);
    assert_eq!(ours.send(&path, Ecn::default(), 1400, &pattern(1400)), 0);
    assert_eq!(fragments_made(), 2);
}

/// Returns the number of fragments that the kernel created in this network.
fn fragments_made() -> u64 {
    counter("Ip", "FragCreates") + counter("Ip6", "FragCreates")
}

/// Returns a counter of this network.
fn counter(group: &str, name: &str) -> u64 {
    let read = |file| std::fs::read_to_string(file).unwrap();
    if group.ends_with('6') {
        let all = read("/proc/thread-self/net/snmp6");
        let line = all
            .lines()
            .find(|line| line.starts_with(&format!("{group}{name} ")));
        return line
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
    }
    let all = read("/proc/thread-self/net/snmp");
    let head = format!("{group}: ");
    let mut lines = all.lines().filter_map(|line| line.strip_prefix(&head));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(n, _)| *n == name).unwrap().1.parse().unwrap()
}

#[test]
fn a_source_address_that_is_not_local_any_more_is_not_used_and_ecn_is_kept() {
    let mut ours = Udp::bind(Settings::on_port(0)).unwrap();
    let mut theirs = Udp::bind(Settings::on_port(0)).unwrap();
    let mut inbox = Inbox::new();
    let path = Path {
        local: Some(IpAddr::from([198, 51, 100, 9])),
        ..local(Ipv4Addr::LOCALHOST, &theirs)
    };
    for _ in 0..2 {
        let now = Instant::now();
        assert_eq!(ours.send(&path, Ecn::Capable0, 700, &pattern(2000)), 0);
        assert!(
            ours.is_refused(path.local.unwrap()),
            "it is not asked again"
        );
        assert!(!ours.gso_blocklist.refuses(path.remote.ip(), 700, now));
        let mut bytes = 0;
        while bytes < 2000 {
            receive(&mut theirs, &mut inbox);
            for burst in inbox.bursts() {
                assert_eq!(burst.ecn, Ecn::Capable0);
                bytes += burst.bytes.len();
            }
        }
    }
}

#[test]
fn a_datagram_that_cannot_be_answered_is_not_received() {
    let mut inbox = Inbox::new();
    for (meta, port) in inbox.meta.iter_mut().zip([5000, 0, 5001]) {
        meta.addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        (meta.len, meta.stride) = (9, 9);
    }
    inbox.filled = 3;
    let ports: Vec<_> = inbox.bursts().map(|b| b.path.remote.port()).collect();
    assert_eq!(ports, [5000, 5001]);
}

#[test]
fn a_device_that_refuses_gso_is_logged_once_for_all_shards_and_datagrams_go_one_by_one() {
    let error = io::Error::from_raw_os_error(libc::EIO);
    let mut all = Udp::bind_all(Settings::on_port(0), 2).unwrap();
    assert!(all.iter().all(|udp| !udp.warned.load(Relaxed)));
    assert!(all[1].is_gso_refusal(&error) && !all[1].gso());
    assert!(all.iter().all(|udp| udp.warned.load(Relaxed)));
    let mut theirs = Udp::bind(Settings::on_port(0)).unwrap();
    let path = local(Ipv4Addr::LOCALHOST, &theirs);
    let bytes = pattern(2000);
    assert_eq!(all[1].send(&path, Ecn::default(), 700, &bytes), 0);
    let (received, _) = datagrams(&mut theirs, bytes.len());
    assert_eq!(received, Vec::from_iter(bytes.chunks(700)));
}

#[test]
fn a_taken_port_is_named_with_its_remedy() {
    let first = Udp::bind(Settings::on_port(0)).unwrap();
    let error = Udp::bind(Settings::on_port(first.port())).unwrap_err();
    assert!(matches!(error, UdpError::PortTaken(port) if port == first.port()));
    assert!(error.to_string().contains("listen_port"));
}

#[test]
fn a_peer_that_refuses_does_not_end_the_socket() {
    let mut ours = Udp::bind(Settings::on_port(0)).unwrap();
    let gone = Udp::bind(Settings::on_port(0)).unwrap();
    let path = local(Ipv4Addr::LOCALHOST, &gone);
    drop(gone);
    let mut inbox = Inbox::new();
    for _ in 0..3 {
        ours.send(&path, Ecn::default(), 4, b"gone");
        assert_eq!(ours.receive(&mut inbox).unwrap(), 0);
    }
}

#[test]
fn paths_are_canonical() {
    let mapped: SocketAddr = "[::ffff:192.0.2.1]:9".parse().unwrap();
    assert_eq!(canonical(mapped), "192.0.2.1:9".parse().unwrap());
    let labelled = std::net::SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 77, 3);
    let SocketAddr::V6(canonical) = canonical(labelled.into()) else {
        panic!()
    };
    assert_eq!((canonical.flowinfo(), canonical.scope_id()), (0, 3));
}
