//! Checks of the LAN interface and of the addresses on it.

use super::{Check, Subject, fail, failed, ok, warn};
use crate::config::{FurtherAddress, LanAddress};
use crate::host::setup::check_not_own;
use crate::host::{HostError, Interface, Netlink, conflict, sysctl};
use futures::future::join_all;
use std::net::{IpAddr, Ipv6Addr};

/// Checks the LAN interface and the addresses that clients share on it.
pub(super) async fn checks(subject: &Subject) -> Vec<Check> {
    let interface = match lan_interface(subject.lan_interface.as_deref()).await {
        Ok(interface) => interface,
        Err(error) => return vec![failed("lan-interface", error)],
    };
    let mut checks = of_interface(subject, &interface);
    if let LanAddress::Fixed(address) = subject.lan_address {
        checks.push(own_address("lan-address", &interface, address.into()).await);
    }
    checks.extend(further(&interface, &subject.further_addresses).await);
    if let Some(address) = subject.lan_address6 {
        checks.extend(lan6(&interface, address).await);
    }
    checks
}

/// Checks the LAN interface, but not the addresses on it, which a running endpoint defends.
pub(super) async fn surroundings(subject: &Subject) -> Vec<Check> {
    match lan_interface(subject.lan_interface.as_deref()).await {
        Ok(interface) => of_interface(subject, &interface),
        Err(error) => vec![failed("lan-interface", error)],
    }
}

fn of_interface(subject: &Subject, interface: &Interface) -> Vec<Check> {
    let found = format!("the LAN is on {}", interface.name);
    let path = sysctl::ipv4(&interface.name, "forwarding");
    let forwards = forwarding("forwarding", &interface.name, &path);
    let mut checks = vec![ok("lan-interface", found), forwards];
    let problems = subject.lan_problems.iter().map(|problem| &problem.wrong);
    checks.extend(problems.map(|wrong| warn("lan-networks", &wrong.what, &wrong.remedy)));
    checks
}

/// Checks the IPv6 settings of the LAN interface.
async fn lan6(interface: &Interface, wanted: LanAddress<Ipv6Addr>) -> Vec<Check> {
    let off = sysctl::ipv6(&interface.name, "disable_ipv6");
    match (sysctl::read(&off).as_deref(), wanted) {
        (Some("0"), _) => {}
        (_, LanAddress::Fixed(_)) => {
            return vec![failed(
                "lan-ipv6",
                HostError::NoIpv6(interface.name.clone()),
            )];
        }
        (_, LanAddress::Auto) => {
            let meaning = format!(
                "IPv6 is switched off on {}: IPv6 of clients is not translated",
                interface.name
            );
            let remedy = format!(
                "sysctl -w {}=0; container: {}",
                sysctl::dotted(&off),
                sysctl::for_container(&off, "0")
            );
            return vec![warn("lan-ipv6", meaning, remedy)];
        }
    }
    // The kernel forwards IPv6 for the whole machine or not at all.
    let path = sysctl::ipv6("all", "forwarding");
    let mut checks = vec![forwarding("forwarding6", "this machine (IPv6)", &path)];
    if let LanAddress::Fixed(address) = wanted {
        checks.push(own_address("lan-address6", interface, address.into()).await);
    }
    checks
}

/// Checks that no other station has an address that clients share.
async fn own_address(name: &'static str, interface: &Interface, address: IpAddr) -> Check {
    match probe(interface, address, None).await {
        Ok(()) => ok(name, format!("no other station on the LAN has {address}")),
        Err(error) => failed(name, error),
    }
}

/// Checks that no other station has one of the further addresses: one check for all of them, or one for
/// each that is taken.
async fn further(interface: &Interface, addresses: &[FurtherAddress]) -> Vec<Check> {
    let probes = addresses
        .iter()
        .map(|f| probe(interface, f.address.into(), f.peer.clone()));
    let probes = join_all(probes).await.into_iter();
    let taken = probes.filter_map(|probe| Some(failed("lan-addresses", probe.err()?)));
    let taken: Vec<_> = taken.collect();
    if !taken.is_empty() || addresses.is_empty() {
        return taken;
    }
    let list: Vec<_> = addresses.iter().map(|f| f.address.to_string()).collect();
    let list = list.join(", ");
    let meaning = format!("no other station on the LAN has one of the further addresses {list}");
    vec![ok("lan-addresses", meaning)]
}

/// Fails if this machine or another station has the address.
async fn probe(
    interface: &Interface,
    address: IpAddr,
    peer: Option<String>,
) -> Result<(), HostError> {
    check_not_own(&Netlink::connect()?, address, peer.clone()).await?;
    match conflict::holder(interface, address).await? {
        None => Ok(()),
        Some(station) => Err(HostError::AddressTaken {
            address,
            station,
            interface: interface.name.clone(),
            peer,
        }),
    }
}

async fn lan_interface(name: Option<&str>) -> Result<Interface, HostError> {
    let netlink = Netlink::connect()?;
    let interface = match name {
        Some(name) => netlink.interface(name).await?,
        None => netlink.default_interface().await?,
    };
    match interface.up {
        true => Ok(interface),
        false => Err(HostError::InterfaceDown(interface.name)),
    }
}

/// Checks whether `who` forwards, or can be configured to, by the setting `path`.
fn forwarding(name: &'static str, who: &str, path: &str) -> Check {
    if sysctl::read(path).as_deref() == Some("1") {
        return ok(name, format!("{who} forwards"));
    }
    match sysctl::is_possible(path, "1") {
        true => ok(name, format!("{who} will forward while the endpoint runs")),
        false => fail(
            name,
            format!("{who} does not forward, and {path} cannot be written"),
            format!(
                "sysctl -w {}=1; container: {}",
                sysctl::dotted(path),
                sysctl::for_container(path, "1")
            ),
        ),
    }
}
