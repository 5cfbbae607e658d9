//! Parts of the set-up that other programs remove are restored.

use super::ipv6::{lan6, plan6};
use super::*;

#[test]
fn what_is_missing_is_named_and_put_back() {
    let Some(_neighbour) = lan6() else { return };
    let directory = tempfile::tempdir().unwrap();
    let tun = Tun::create("viotun9", Offload::None).unwrap();
    let to = "[fd00:8::2]:443".parse().unwrap();
    let port: Port = "8443".parse().unwrap();
    let forwards = [Forward {
        proto: port.proto,
        lan_port: port.number,
        to,
        lan_address: None,
    }];
    let plan = Plan {
        forwards: forwards.to_vec(),
        ..plan6("viotun9", LanAddress::Auto, directory.path())
    };
    let runtime = runtime();
    let setup = runtime.block_on(Setup::apply(&plan)).unwrap();
    let (guard, mut routes) = (setup.reconciler(), setup.routes());
    let site = ["10.20.0.0/16".parse().unwrap()];
    runtime.block_on(routes.set(&site)).unwrap();
    let put_back = || {
        let missing = runtime.block_on(guard.restore_missing(&forwards, &routes));
        { missing.into_iter() }
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    assert_eq!(put_back(), [""; 0]);

    run("ip link set violan0 down");
    run("sysctl -q -w net.ipv6.conf.all.forwarding=0 net.ipv4.conf.violan0.forwarding=0");
    run("ip route delete 10.20.0.0/16 dev viotun9");
    run("nft flush ruleset");
    assert_eq!(put_back(), [""; 0], "there is nothing to put it back on");
    run("ip link set violan0 up");
    assert_eq!(
        put_back(),
        [
            "net.ipv4.conf.violan0.forwarding=1",
            "net.ipv6.conf.all.forwarding=1",
            "the route to 10.20.0.0/16",
            "the answers for 192.168.77.2 on violan0",
            "the nftables table ip6 vcgate_viotun9",
        ]
    );
    assert_eq!(put_back(), [""; 0]);
    let table = text("nft list table ip6 vcgate_viotun9");
    assert!(table.contains("elements = { 8443 }"), "{table}");

    run("ip link set viotun9 mtu 1300");
    run("ip route flush proto static");
    run("ip neigh del proxy 192.168.77.2 dev violan0");
    assert!(!runtime.block_on(guard.is_complete()));
    run("ip address del 10.8.0.1/32 dev viotun9");
    assert_eq!(
        put_back(),
        [
            "the interface viotun9, up with MTU 1420",
            "the address 10.8.0.1 of viotun9",
            "the route to 192.168.77.2/32",
            "the route to 10.20.0.0/16",
            "the answers for 192.168.77.2 on violan0",
        ]
    );
    assert!(runtime.block_on(guard.is_complete()));
    run("ip link set viotun9 down");
    let back = put_back();
    for what in [
        "the interface viotun9, up with MTU 1420",
        "the address fd00:8::1 of viotun9",
        "the route to 192.168.77.2/32",
    ] {
        assert!(back.iter().any(|it| it == what), "{what}: {back:?}");
    }
    assert_eq!(put_back(), [""; 0]);

    run("nft flush chain ip6 vcgate_viotun9 prerouting");
    assert_eq!(put_back(), ["the nftables table ip6 vcgate_viotun9"]);
    run("nft flush table ip6 vcgate_viotun9");
    assert_eq!(put_back(), ["the nftables table ip6 vcgate_viotun9"]);
    runtime.block_on(setup.undo()).unwrap();
    remove(tun);
    assert_eq!(text("nft list ruleset"), "");
}

#[test]
fn broadcasts_are_what_the_kernel_delivers_to_itself() {
    if !vcgate_io::enter_new_network() {
        return;
    }
    run("ip link set lo up");
    run("ip link add viobc0 type veth peer name viobc1");
    run("ip link set viobc1 up");
    run("ip link set viobc0 up");
    run("ip address add 192.168.77.1/24 broadcast + dev viobc0");
    run("ip address add 10.1.2.3/16 broadcast 10.1.9.9 dev viobc0");
    run("sysctl -q -w net.ipv6.conf.viobc0.forwarding=1");
    run("ip address add fd00:77::1/64 dev viobc0 nodad");
    let netlink = || async { Netlink::connect().unwrap().broadcasts().await.unwrap() };
    // The link is up a moment after the commands return.
    until(|| text("ip -6 route show table local").contains("anycast fd00:77:: "));
    let broadcasts = runtime().block_on(netlink());
    for address in ["192.168.77.255", "10.1.9.9", "fd00:77::"] {
        assert!(
            broadcasts.contains(&address.parse().unwrap()),
            "{address}: {broadcasts:?}"
        );
    }
    for address in [
        "192.168.77.1",
        "192.168.77.254",
        "fd00:77::1",
        "127.255.255.255",
    ] {
        assert!(
            !broadcasts.contains(&address.parse().unwrap()),
            "{address}: {broadcasts:?}"
        );
    }
}
