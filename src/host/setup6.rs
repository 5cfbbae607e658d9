//! The part of the set-up that is IPv6's.
//!
//! The kernel forwards IPv6 for all of the machine's interfaces or for none, and a machine that
//! forwards no longer configures itself by router advertisements, unless each interface is told
//! to go on with it.

use super::nft::{Family, Table};
use super::setup::{Plan, SLOW_ANSWERS, Setup};
use super::undo_log::Change;
use super::{HostError, Interface, conflict6, nft, sysctl, transit};
use crate::config::LanAddress;
use std::net::Ipv6Addr;
use tracing::{debug, info, warn};

impl Setup {
    /// Whether what is wanted can be had: asked before anything is made. `None` where IPv6 is not
    /// translated.
    pub(super) async fn check_ipv6(
        &self,
        plan: &Plan,
    ) -> Result<Option<LanAddress<Ipv6Addr>>, HostError> {
        let interface = self.lan.name.clone();
        let off = sysctl::read(&sysctl::ipv6(&interface, "disable_ipv6"));
        match (plan.lan_address6, off.as_deref() == Some("0")) {
            (Some(LanAddress::Fixed(address)), true) => {
                self.check_free(address.into()).await?;
                match conflict6::holder(&self.lan, address).await? {
                    None => Ok(plan.lan_address6),
                    Some(station) => Err(HostError::AddressTaken {
                        address: address.into(),
                        station,
                        interface,
                    }),
                }
            }
            (Some(LanAddress::Fixed(_)), false) => Err(HostError::NoIpv6(interface)),
            (Some(LanAddress::Auto), false) => {
                warn!(
                    interface,
                    "IPv6 is not translated: the LAN interface has it switched off"
                );
                Ok(None)
            }
            (Some(LanAddress::Auto), true) => match self.missing_for_ipv6(&plan.tun) {
                Some(setting) => {
                    let remedy = sysctl::for_container(&setting.0, setting.1);
                    let path = setting.0;
                    warn!(
                        "IPv6 is not translated: {path} cannot be written; in a container, start it with `{remedy}`"
                    );
                    Ok(None)
                }
                None => Ok(plan.lan_address6),
            },
            (None, _) => Ok(None),
        }
    }

    /// A setting that IPv6 needs and that cannot be made here.
    fn missing_for_ipv6(&self, tun: &str) -> Option<(String, &'static str)> {
        let needed = [
            (sysctl::ipv6("all", "forwarding"), "1"),
            (sysctl::ipv6(tun, "disable_ipv6"), "0"),
        ];
        needed
            .into_iter()
            .find(|(path, value)| !sysctl::is_possible(path, value))
    }

    /// Connects IPv6 with an address of its own; the TUN device is on.
    pub(super) async fn own_address6(
        &mut self,
        tun: &Interface,
        plan: &Plan,
        address: Ipv6Addr,
    ) -> Result<(), HostError> {
        self.connect6(tun, plan, address).await?;
        if self.lan.ethernet.is_some() {
            let lan = self.lan.name.clone();
            self.want(sysctl::proxy_delay6(&lan), "0", SLOW_ANSWERS);
            // A solicitation to the address itself, as of a neighbour that asks again (RFC 4861
            // section 7.3), Linux answers only if this is set for all interfaces; those without an
            // entry of their own still answer for nobody.
            self.need(sysctl::ipv6("all", "proxy_ndp"), "1")?;
            self.add_proxy_neighbour(address.into()).await?;
            conflict6::announce(&self.lan, address).await?;
        }
        info!(%address, interface = self.lan.name, "clients share this LAN address for IPv6");
        Ok(())
    }

    /// Connects IPv6 by the machine's own address; the TUN device is on.
    pub(super) async fn shared_address6(
        &mut self,
        tun: &Interface,
        plan: &Plan,
    ) -> Result<(), HostError> {
        let in_use = self.in_use().await?;
        let transit = transit::choose6(&in_use).ok_or(HostError::NoTransitAddress)?;
        nft::version().await?;
        let table = Table::of(&tun.name, Family::Ip6);
        self.journal
            .borrow_mut()
            .record(Change::Table(table.clone()))?;
        self.open_doors(table, transit.into(), plan).await?;
        self.connect6(tun, plan, transit).await?;
        info!(%transit, interface = self.lan.name, "clients share this machine's own IPv6 address");
        Ok(())
    }

    /// Lets packets pass between the TUN device and the LAN.
    async fn connect6(
        &mut self,
        tun: &Interface,
        plan: &Plan,
        address: Ipv6Addr,
    ) -> Result<(), HostError> {
        self.address6 = Some(address);
        if let Some(address) = plan.tunnel_address6 {
            self.netlink.add_address(address.into(), tun.index).await?;
            self.tun_addresses.push(address.into());
        }
        self.route(tun, plan, address.into()).await?;
        self.forward6().await
    }

    async fn forward6(&mut self) -> Result<(), HostError> {
        let all = sysctl::ipv6("all", "forwarding");
        self.needed.push((all.clone(), "1"));
        if sysctl::read(&all).as_deref() == Some("1") {
            return self.journal.borrow_mut().record_forwarding6();
        }
        let mut on = Vec::new();
        let interfaces = self.netlink.interfaces().await?;
        let names = interfaces.into_iter().map(|i| i.name);
        for name in names.chain(["default".to_owned()]) {
            match sysctl::read(&sysctl::ipv6(&name, "forwarding")).as_deref() {
                Some("1") => on.push(name),
                // 1 is "unless I forward", 2 is "even though" (ip-sysctl.rst).
                _ if sysctl::read(&sysctl::ipv6(&name, "accept_ra")).as_deref() == Some("1") => {
                    self.set(sysctl::ipv6(&name, "accept_ra"), "2")?;
                }
                _ => {}
            }
        }
        self.journal
            .borrow_mut()
            .record(Change::Forwarding6 { on })?;
        sysctl::write(&all, "1")?;
        info!("this machine forwards IPv6 between all its interfaces now");
        Ok(())
    }
}

/// Makes a TUN device ready, before it is switched on. Without IPv6, and with it without a
/// link-local address, the kernel sends no router solicitations into the tunnel.
pub(super) fn prepare(tun: &str, ipv6: bool) -> Result<(), HostError> {
    let path = |key: &str| sysctl::ipv6(tun, key);
    if sysctl::read(&path("disable_ipv6")).is_none() {
        return Ok(()); // a kernel without IPv6
    }
    const NO_LINK_LOCAL: &str = "1"; // IN6_ADDR_GEN_MODE_NONE
    let quiet: &[_] = match ipv6 {
        true => &[("addr_gen_mode", NO_LINK_LOCAL), ("accept_ra", "0")],
        false => &[("disable_ipv6", "1")],
    };
    let ensure = |(key, value): &(&str, &str)| sysctl::ensure(&path(key), value);
    if let Some(error) = quiet.iter().map(ensure).find_map(Result::err) {
        // The engine drops what comes of it: nothing is lost.
        debug!(%error, "the kernel sends router solicitations into the tunnel");
    }
    match ipv6 {
        true => sysctl::ensure(&path("disable_ipv6"), "0"),
        false => Ok(()),
    }
}
