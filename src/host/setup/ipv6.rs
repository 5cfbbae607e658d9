//! The IPv6 part of the set-up.
//!
//! The kernel forwards IPv6 for all interfaces of the machine or for none, and a machine that
//! forwards ignores router advertisements unless each interface is configured to accept them.

use super::{Plan, SLOW_ANSWERS_EFFECT, Setup};
use crate::config::LanAddress;
use crate::host::nft::{Family, Table};
use crate::host::undo_log::Change;
use crate::host::{HostError, Interface, conflict, nft, sysctl, transit};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr};
use tracing::{debug, info, warn};

impl Setup {
    /// Checks whether the planned IPv6 address is possible, without changing anything. Returns `None`
    /// if IPv6 is not translated.
    pub(super) async fn check_ipv6(
        &self,
        plan: &Plan,
    ) -> Result<Option<LanAddress<Ipv6Addr>>, HostError> {
        let interface = self.lan.name.clone();
        let off = sysctl::read(&sysctl::ipv6(&interface, "disable_ipv6"));
        match (plan.lan_address6, off.as_deref() == Some("0")) {
            (Some(LanAddress::Fixed(address)), true) => {
                self.check_free(address.into()).await?;
                self.check_unclaimed(address.into()).await?;
                Ok(plan.lan_address6)
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

    /// A setting that IPv6 needs and that cannot be written.
    fn missing_for_ipv6(&self, tun: &str) -> Option<(String, &'static str)> {
        let required_sysctls = [
            (sysctl::ipv6("all", "forwarding"), "1"),
            (sysctl::ipv6(tun, "disable_ipv6"), "0"),
        ];
        required_sysctls
            .into_iter()
            .find(|(path, value)| !sysctl::is_possible(path, value))
    }

    /// Connects IPv6 with an address of vcgate's own. The TUN device must be up.
    pub(super) async fn set_up_own_address6(
        &mut self,
        tun: &Interface,
        plan: &Plan,
        address: Ipv6Addr,
    ) -> Result<(), HostError> {
        self.connect6(tun, plan, address).await?;
        if self.lan.ethernet.is_some() {
            let lan = self.lan.name.clone();
            self.prefer_sysctl(sysctl::proxy_delay6(&lan), "0", SLOW_ANSWERS_EFFECT);
            // Linux answers a unicast solicitation (RFC 4861 section 7.3) only if this is set for all
            // interfaces. Interfaces without a proxy entry still answer for no other address.
            self.require_sysctl(sysctl::ipv6("all", "proxy_ndp"), "1")?;
            self.add_proxy_neighbour(address.into()).await?;
            conflict::announce(&self.lan, address.into()).await?;
        }
        info!(%address, interface = self.lan.name, "clients share this LAN address for IPv6");
        Ok(())
    }

    /// Connects IPv6 with the machine's own address. The TUN device must be up.
    pub(super) async fn set_up_shared_address6(
        &mut self,
        tun: &Interface,
        plan: &Plan,
    ) -> Result<(), HostError> {
        let in_use = self.in_use().await?;
        let transit = transit::choose6(&in_use).ok_or(HostError::NoTransitAddress)?;
        nft::version().await?;
        let table = Table::of(&tun.name, Family::Ip6);
        self.undo_log
            .borrow_mut()
            .record_once(Change::Table(table.clone()))?;
        self.add_dnat_rules(table, transit.into(), plan).await?;
        self.connect6(tun, plan, transit).await?;
        info!(%transit, interface = self.lan.name, "clients share this machine's own IPv6 address");
        Ok(())
    }

    /// Adds addresses and routes, and switches on forwarding.
    async fn connect6(
        &mut self,
        tun: &Interface,
        plan: &Plan,
        address: Ipv6Addr,
    ) -> Result<(), HostError> {
        self.address6 = Some(address);
        self.add_tunnel_addresses(tun, plan, IpAddr::is_ipv6)
            .await?;
        let to_clients = IpNet::from(IpAddr::from(address));
        self.netlink.add_route(to_clients, tun.index).await?;
        self.forward6().await
    }

    async fn forward6(&mut self) -> Result<(), HostError> {
        let all = sysctl::ipv6("all", "forwarding");
        self.required_sysctls.push((all.clone(), "1"));
        if sysctl::read(&all).as_deref() == Some("1") {
            return self.undo_log.borrow_mut().record_forwarding6();
        }
        let mut on = Vec::new();
        let interfaces = self.netlink.interfaces().await?;
        let names = interfaces.into_iter().map(|i| i.name);
        for name in names.chain(["default".to_owned()]) {
            match sysctl::read(&sysctl::ipv6(&name, "forwarding")).as_deref() {
                Some("1") => on.push(name),
                // 1 accepts advertisements unless the machine forwards, 2 always (ip-sysctl.rst).
                _ if sysctl::read(&sysctl::ipv6(&name, "accept_ra")).as_deref() == Some("1") => {
                    self.set(sysctl::ipv6(&name, "accept_ra"), "2")?;
                }
                _ => {}
            }
        }
        self.undo_log
            .borrow_mut()
            .record(Change::Forwarding6 { on })?;
        sysctl::write(&all, "1")?;
        info!("IPv6 forwarding is on for all interfaces of this machine");
        Ok(())
    }
}

/// Prepares a TUN device before it is switched on: without IPv6, or without a link-local address, so
/// that the kernel sends no router solicitations into the tunnel.
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
        // Harmless: the engine drops the solicitations.
        debug!(%error, "the kernel sends router solicitations into the tunnel");
    }
    match ipv6 {
        true => sysctl::ensure(&path("disable_ipv6"), "0"),
        false => Ok(()),
    }
}
