//! The part of the set-up that is IPv6's.

use super::*;
use crate::doctor::{self, Subject, Verdict};
use std::net::Ipv6Addr;

const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 1);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 2);
const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 0x10);

/// The LAN of the other tests, with IPv6 too.
pub(super) fn lan6() -> Option<Neighbour> {
    let neighbour = lan()?;
    run("sysctl -q -w net.ipv6.conf.violan0.disable_ipv6=0");
    run(&format!("ip address add {GATEWAY6}/64 dev violan0 nodad"));
    run(&neighbour.on(&format!("ip address add {NEIGHBOUR6}/64 dev violan1 nodad")));
    // Link-local addresses come into use a while later.
    until(|| !text("ip -6 address show dev violan0").contains("tentative"));
    until(|| !text(&neighbour.on("ip -6 address show dev violan1")).contains("tentative"));
    Some(neighbour)
}

pub(super) fn plan6(tun: &str, address: LanAddress<Ipv6Addr>, directory: &Path) -> Plan {
    Plan {
        lan_address6: Some(address),
        tunnel_addresses: vec![
            Ipv4Addr::new(10, 8, 0, 1).into(),
            Ipv6Addr::new(0xFD00, 8, 0, 0, 0, 0, 0, 1).into(),
        ],
        ..plan(tun, LanAddress::Fixed(ADDRESS), directory)
    }
}

/// An echo request or reply.
fn echo6(kind: u8, src: Ipv6Addr, dst: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0, 0, 4 + body.len() as u8, 58, 64];
    p.extend(src.octets());
    p.extend(dst.octets());
    p.extend([kind, 0, 0, 0]);
    p.extend(body);
    let pseudo = [58, (4 + body.len()) as u16];
    let sum = !checksum::combine(&[checksum::data(&p[8..]), pseudo[0], pseudo[1]]);
    p[42..44].copy_from_slice(&sum.to_be_bytes());
    p
}

/// The next echo that the kernel sends over the device: from whom, its type, the rest.
fn read_echo6(tun: &mut Tun) -> (Ipv6Addr, u8, Vec<u8>) {
    let mut buffer = Vec::with_capacity(2000);
    for _ in 0..1_000_000 {
        if tun.read(&mut buffer).unwrap().is_some() {
            let p = &buffer;
            if p[0] >> 4 == 6 && p[6] == 58 && [128, 129].contains(&p[40]) {
                let src: [u8; 16] = p[8..24].try_into().unwrap();
                return (src.into(), p[40], p[44..].to_vec());
            }
        }
        std::thread::yield_now();
    }
    panic!("no echo came over the device");
}

#[test]
fn an_address_of_its_own_is_answered_on_the_lan_and_all_is_undone() {
    let Some(neighbour) = lan6() else { return };
    let directory = tempfile::tempdir().unwrap();
    run("sysctl -q -w net.ipv6.conf.violan0.accept_ra=1 net.ipv6.conf.lo.forwarding=1");
    let before = snapshot();
    // As if another machine had had the address until now.
    let known = format!("{ADDRESS6} dev violan1");
    run(&neighbour.on(&format!(
        "ip neigh add {known} lladdr 02:00:00:00:00:99 nud stale"
    )));
    let mut tun = Tun::create("viotun5", Offload::TcpAndUdp).unwrap();
    let plan = plan6("viotun5", LanAddress::Fixed(ADDRESS6), directory.path());
    let runtime = runtime();
    let setup = runtime.block_on(Setup::apply(&plan)).unwrap();
    assert_eq!(setup.address6(), Some(ADDRESS6));
    let networks = ["192.168.77.0/24", "fd00:77::/64"].map(|net| net.parse().unwrap());
    assert_eq!(setup.lan_networks(), networks);
    let conf = |key| text(&format!("sysctl -n net.ipv6.conf.violan0.{key}"));
    assert_eq!(
        (conf("accept_ra"), conf("forwarding")),
        ("2\n".into(), "1\n".into())
    );
    until(|| text(&neighbour.on(&format!("ip neigh show {known}"))).contains(GATEWAY_STATION));

    // Asked by neighbour discovery, not from what it knows.
    run(&neighbour.on("ip -6 neigh flush dev violan1"));
    let mut ping = Command::new("sh");
    ping.args(["-c", &neighbour.on(&format!("ping -c 1 -W 5 {ADDRESS6}"))])
        .stdout(Stdio::null());
    let mut ping = ping.spawn().unwrap();
    let (src, kind, body) = read_echo6(&mut tun);
    assert_eq!((src, kind), (NEIGHBOUR6, 128));
    let reply = echo6(129, ADDRESS6, NEIGHBOUR6, &body);
    tun.write(&Header::default(), &[IoSlice::new(&reply)])
        .unwrap();
    assert!(ping.wait().unwrap().success());

    runtime.block_on(setup.undo()).unwrap();
    remove(tun);
    unchanged(&before);
}

#[test]
fn auto_shares_the_machines_address_and_all_is_undone() {
    let Some(_neighbour) = lan6() else { return };
    let directory = tempfile::tempdir().unwrap();
    let before = snapshot();
    let mut tun = Tun::create("viotun6", Offload::TcpAndUdp).unwrap();
    let plan = plan6("viotun6", LanAddress::Auto, directory.path());
    let runtime = runtime();
    let setup = runtime.block_on(Setup::apply(&plan)).unwrap();
    let transit = setup.address6().unwrap();
    // The neighbour has no route to the transit address: its answer shows that it saw another.
    let request = echo6(128, transit, NEIGHBOUR6, &[0, 7, 0, 1, 0xAB]);
    tun.write(&Header::default(), &[IoSlice::new(&request)])
        .unwrap();
    assert_eq!(
        read_echo6(&mut tun),
        (NEIGHBOUR6, 129, vec![0, 7, 0, 1, 0xAB])
    );
    runtime.block_on(setup.undo()).unwrap();
    remove(tun);
    unchanged(&before);
}

#[test]
fn refusals_say_why_and_change_nothing() {
    let Some(neighbour) = lan6() else { return };
    let directory = tempfile::tempdir().unwrap();
    let tun = Tun::create("viotun7", Offload::None).unwrap();
    let runtime = runtime();
    let refused = |address| {
        let before = snapshot();
        let plan = plan6("viotun7", LanAddress::Fixed(address), directory.path());
        let error = runtime.block_on(Setup::apply(&plan)).unwrap_err();
        unchanged(&before);
        error.to_string()
    };
    let taken = refused(NEIGHBOUR6);
    assert!(
        taken.contains("02:00:00:00:77:10 on violan0 answers for it; set [lan] address6"),
        "{taken}"
    );
    // Another endpoint like ours, for whose address the kernel stands in.
    for command in [
        "ip link add viodum0 type veth peer name viodum1",
        "ip link set viodum0 up",
        "ip route add fd00:77::3 dev viodum0",
        "ip neigh add proxy fd00:77::3 dev violan1",
        "sysctl -q -w net.ipv6.conf.all.forwarding=1 net.ipv6.conf.violan1.proxy_ndp=1 \
         net.ipv6.neigh.violan1.proxy_delay=0",
    ] {
        run(&neighbour.on(command));
    }
    let taken = refused("fd00:77::3".parse().unwrap());
    assert!(taken.contains("02:00:00:00:77:10"), "{taken}");
    assert!(refused(GATEWAY6).contains("assigned to this machine (on violan0)"));
    run("sysctl -q -w net.ipv6.conf.violan0.disable_ipv6=1");
    assert!(refused(ADDRESS6).contains("IPv6 is switched off on violan0"));
    // Not asked for by name, it is no reason to stop.
    let plan = plan6("viotun7", LanAddress::Auto, directory.path());
    let setup = runtime.block_on(Setup::apply(&plan)).unwrap();
    assert_eq!(setup.address6(), None);
    runtime.block_on(setup.undo()).unwrap();
    remove(tun);
}

#[test]
fn doctor_looks_at_ipv6_where_it_is_translated() {
    let Some(_neighbour) = lan6() else { return };
    let runtime = runtime();
    let seen = |address, running| {
        let subject = Subject {
            tun: "viotun8".into(),
            listen_port: 51820,
            lan_interface: None,
            lan_address: LanAddress::Auto,
            further_addresses: Vec::new(),
            lan_address6: address,
            lan_problems: Vec::new(),
            peers_with_everything: Vec::new(),
            dns: None,
        };
        let checks = runtime.block_on(doctor::checks(&subject, running));
        let six = checks.into_iter().filter(|c| c.name.ends_with('6'));
        six.filter(|c| c.name != "ipv6")
            .map(|c| (c.name, c.verdict))
            .collect::<Vec<_>>()
    };
    let before = snapshot();
    let (forwards, ours) = (("forwarding6", Verdict::Ok), "lan-address6");
    let given = |address| Some(LanAddress::Fixed(address));
    assert_eq!(seen(None, false), []);
    assert_eq!(seen(Some(LanAddress::Auto), false), [forwards]);
    assert_eq!(
        seen(given(ADDRESS6), false),
        [forwards, (ours, Verdict::Ok)]
    );
    assert_eq!(
        seen(given(NEIGHBOUR6), false),
        [forwards, (ours, Verdict::Fail)]
    );
    assert_eq!(seen(given(ADDRESS6), true), [forwards, (ours, Verdict::Ok)]);
    assert_eq!(
        seen(given(NEIGHBOUR6), true),
        [forwards, (ours, Verdict::Fail)]
    );
    unchanged(&before);
    run("sysctl -q -w net.ipv6.conf.violan0.disable_ipv6=1");
    let off = |verdict| [("lan-ipv6", verdict)];
    assert_eq!(seen(Some(LanAddress::Auto), false), off(Verdict::Warn));
    assert_eq!(seen(given(ADDRESS6), false), off(Verdict::Fail));
}
