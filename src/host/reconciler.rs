//! Restores the set-up of the host while the endpoint runs. The kernel deletes proxy entries when
//! their interface goes down or loses its last address (a DHCP client that restarts); `sysctl
//! --system` switches off forwarding; a firewall that is reloaded flushes all tables.
//!
//! It compares the whole state, so it can be called at any time. It never changes settings that
//! the set-up did not need.

use super::conflict::announce;
use super::further::HeldAddresses;
use super::nft::has_rules;
use super::{DnatRules, HostError, Interface, Netlink, NetlinkMonitor, Routes, sysctl};
use crate::config::Forward;
use ipnet::IpNet;
use std::net::IpAddr;

/// Length of the transmit queue of the TUN device in packets; super-packets count once.
pub(super) const TX_QUEUE_LENGTH: u32 = 1000;

/// State that must persist while the endpoint runs.
#[derive(Debug)]
pub struct Reconciler {
    pub(super) netlink: Netlink,
    pub(super) lan: String,
    pub(super) tun: u32,
    pub(super) mtu: u32,
    /// The gateway's own addresses on the TUN device.
    pub(super) tun_addresses: Vec<IpAddr>,
    /// First addresses of the clients on the TUN device.
    pub(super) addresses: Vec<IpAddr>,
    /// Kernel settings: file and value.
    pub(super) settings: Vec<(String, &'static str)>,
    /// Further addresses, and those with a proxy neighbour entry on the LAN.
    pub(super) held: HeldAddresses,
    pub(super) dnat_rules: Vec<DnatRules>,
    /// The name with which the names of all tables of this endpoint begin.
    pub(super) table: String,
}

impl Reconciler {
    /// Opens the monitor that reports when to compare.
    ///
    /// # Errors
    /// Fails if the kernel grants no netlink socket.
    pub fn monitor(&self) -> Result<NetlinkMonitor, HostError> {
        let is_needed = !self.dnat_rules.is_empty();
        NetlinkMonitor::open(self.tun, &self.table, is_needed)
    }

    /// Whether the state that the kernel does not report is complete: proxy entries and most settings.
    pub async fn is_complete(&self) -> bool {
        let differs =
            |(path, value): &(String, &str)| sysctl::read(path).is_some_and(|now| now != **value);
        if self.settings.iter().any(differs) {
            return false;
        }
        let Some(lan) = vcgate_io::interface_index(&self.lan) else {
            return true;
        };
        let proxies = self.held.proxies.borrow().clone();
        for address in &proxies {
            // An entry that cannot be read cannot be restored either.
            if !self.netlink.has_proxy(*address, lan).await.unwrap_or(true) {
                return false;
            }
        }
        true
    }

    /// Rules for a forward, where clients share the machine's own address of its family.
    pub fn dnat_rules_for(&self, forward: &Forward) -> Option<&DnatRules> {
        self.dnat_rules
            .iter()
            .find(|dnat_rules| dnat_rules.leads_to(forward))
    }

    /// Current networks of the LAN interface; empty while it is down or missing.
    pub async fn lan_networks(&self) -> Vec<IpNet> {
        match self.netlink.interface(&self.lan).await {
            Ok(lan) if lan.up => lan.networks(),
            _ => Vec::new(),
        }
    }

    /// Broadcast and anycast addresses that this machine's kernel delivers to its own sockets.
    ///
    /// # Errors
    /// If the kernel does not list its routes.
    pub async fn broadcasts(&self) -> Result<Vec<IpAddr>, HostError> {
        self.netlink.broadcasts().await
    }

    /// Restores missing state. Returns a description of each restored item, or the error.
    ///
    /// Does nothing while the LAN interface is down or missing: the kernel reports its return. The
    /// TUN device belongs to the endpoint, so it is switched on again.
    pub async fn restore_missing(
        &self,
        forwards: &[Forward],
        routes: &Routes,
    ) -> Vec<Result<String, HostError>> {
        let interfaces = match self.netlink.interfaces().await {
            Ok(interfaces) => interfaces,
            Err(error) => return vec![Err(error)],
        };
        let lan = interfaces.iter().find(|i| i.up && i.name == self.lan);
        let tun = interfaces.iter().find(|i| i.index == self.tun);
        let (Some(lan), Some(tun)) = (lan, tun) else {
            return Vec::new();
        };
        let mut missing = Vec::new();
        let mut note = |was_missing, what| match was_missing {
            Ok(false) => {}
            Ok(true) => missing.push(Ok(what)),
            Err(error) => missing.push(Err(error)),
        };
        for (path, value) in &self.settings {
            note(
                set(path, value),
                format!("{}={value}", sysctl::dotted(path)),
            );
        }
        if !tun.up || tun.mtu != self.mtu {
            let on = self
                .netlink
                .switch_on(self.tun, self.mtu, TX_QUEUE_LENGTH)
                .await;
            let what = format!("the interface {}, up with MTU {}", tun.name, self.mtu);
            note(on.map(|()| true), what);
        }
        for address in &self.tun_addresses {
            note(
                self.netlink.restore_address(*address, self.tun).await,
                format!("the address {address} of {}", tun.name),
            );
        }
        let addresses = self.addresses.iter().copied();
        for net in addresses
            .chain(self.held.routed())
            .map(IpNet::from)
            .chain(routes.present().iter().copied())
        {
            note(
                self.netlink.restore_route(net, self.tun).await,
                format!("the route to {net}"),
            );
        }
        let proxies = self.held.proxies.borrow().clone();
        for address in &proxies {
            note(
                self.add_proxy_neighbour(lan, *address).await,
                format!("the answers for {address} on {}", self.lan),
            );
        }
        for dnat_rules in &self.dnat_rules {
            note(
                open(dnat_rules, forwards).await,
                format!("the nftables table {}", dnat_rules.table()),
            );
        }
        missing
    }

    async fn add_proxy_neighbour(
        &self,
        lan: &Interface,
        address: IpAddr,
    ) -> Result<bool, HostError> {
        if self.netlink.has_proxy(address, lan.index).await? {
            return Ok(false);
        }
        self.netlink.add_proxy(address, lan.index).await?;
        announce(lan, address).await?;
        Ok(true)
    }
}

/// Sets a value and returns whether it was different. A missing setting belongs to an interface that
/// was recreated without IPv6.
fn set(path: &str, value: &str) -> Result<bool, HostError> {
    match sysctl::read(path) {
        Some(now) if now != value => sysctl::write(path, value).map(|()| true),
        _ => Ok(false),
    }
}

async fn open(dnat_rules: &DnatRules, forwards: &[Forward]) -> Result<bool, HostError> {
    let forwards_any = forwards.iter().any(|forward| dnat_rules.leads_to(forward));
    match has_rules(dnat_rules.table(), forwards_any).await {
        true => Ok(false),
        false => dnat_rules.replace_table(forwards).await.map(|()| true),
    }
}
