//! Parts of the set-up that endpoints and programs of one machine share.

use super::ipv6::{lan6, plan6};
use super::*;
use std::net::Ipv6Addr;

/// The settings of two endpoints with addresses of their own on one LAN.
fn shared() -> String {
    text(
        "sysctl net.ipv4.conf.violan0.forwarding net.ipv4.neigh.violan0.proxy_delay \
         net.ipv6.conf.all.forwarding net.ipv6.conf.all.proxy_ndp net.ipv6.conf.violan0.accept_ra",
    )
}

#[test]
fn an_endpoint_that_stops_leaves_what_another_needs() {
    let Some(_neighbour) = lan6() else { return };
    run("sysctl -q -w net.ipv6.conf.violan0.accept_ra=1");
    let directory = tempfile::tempdir().unwrap();
    let before = snapshot();
    let runtime = runtime();
    let start = |tun: &str, host: u8| {
        let ipv6 = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, host.into());
        let plan = Plan {
            lan_address: LanAddress::Fixed(Ipv4Addr::new(192, 168, 77, host)),
            ..plan6(tun, LanAddress::Fixed(ipv6), directory.path())
        };
        let device = Tun::create(tun, Offload::None).unwrap();
        (runtime.block_on(Setup::apply(&plan)).unwrap(), device)
    };
    let stop = |(setup, device): (Setup, Tun)| {
        runtime.block_on(setup.undo()).unwrap();
        remove(device);
    };
    let without = shared();
    let (first, second) = (start("viotun10", 2), start("viotun11", 3));
    let with = shared();
    assert_ne!(with, without);
    stop(first);
    assert_eq!(shared(), with);
    let first = start("viotun10", 2);
    stop(second);
    assert_eq!(shared(), with);
    stop(first);
    unchanged(&before);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn what_the_whole_machine_does_by_now_goes_on() {
    let Some(_neighbour) = lan() else { return };
    let directory = tempfile::tempdir().unwrap();
    let tun = Tun::create("viotun12", Offload::None).unwrap();
    let runtime = runtime();
    let plan = plan("viotun12", LanAddress::Auto, directory.path());
    let setup = runtime.block_on(Setup::apply(&plan)).unwrap();
    run("sysctl -q -w net.ipv4.conf.all.forwarding=1");
    runtime.block_on(setup.undo()).unwrap();
    remove(tun);
    let forwards = text("sysctl -n net.ipv4.conf.violan0.forwarding");
    assert_eq!(forwards, "1\n");
}
