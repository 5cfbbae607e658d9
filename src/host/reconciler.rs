//! Sees to it that what was set up stays. The kernel forgets proxy entries when their interface is
//! switched off or loses its last address, as when a DHCP client begins anew; `sysctl --system`
//! switches forwarding off; a firewall that is loaded again flushes everybody's tables.
//!
//! It compares what is with what has to be, so it can be asked at any time, and as often as
//! somebody likes.

use super::conflict::announce;
use super::nft::has_rules;
use super::setup::QUEUE;
use super::{DnatRules, HostError, Interface, Netlink, NetlinkMonitor, Routes, conflict6, sysctl};
use crate::config::Forward;
use ipnet::IpNet;
use std::net::IpAddr;

/// What has to stay as it is while the endpoint runs.
#[derive(Debug)]
pub struct Reconciler {
    pub(super) netlink: Netlink,
    pub(super) lan: String,
    pub(super) tun: u32,
    pub(super) mtu: u32,
    /// The gateway's own addresses on the TUN device.
    pub(super) tun_addresses: Vec<IpAddr>,
    /// What clients have on the TUN device.
    pub(super) addresses: Vec<IpAddr>,
    /// Settings by their files, with their values.
    pub(super) settings: Vec<(String, &'static str)>,
    /// What is answered for on the LAN.
    pub(super) proxies: Vec<IpAddr>,
    pub(super) doors: Vec<DnatRules>,
}

impl Reconciler {
    /// Hears when it is time to look.
    pub fn notices(&self) -> Result<NetlinkMonitor, HostError> {
        let table = self.doors.first().map(|doors| doors.table().name());
        NetlinkMonitor::open(self.tun, table)
    }

    /// Whether all is there that the kernel gives no notice of: proxy entries, and most settings.
    pub async fn is_complete(&self) -> bool {
        let differs =
            |(path, value): &(String, &str)| sysctl::read(path).is_some_and(|now| now != **value);
        if self.settings.iter().any(differs) {
            return false;
        }
        let Some(lan) = vcgate_io::interface_index(&self.lan) else {
            return true;
        };
        for address in &self.proxies {
            // Where it cannot be seen, it cannot be put back.
            if !self.netlink.has_proxy(*address, lan).await.unwrap_or(true) {
                return false;
            }
        }
        true
    }

    /// How a forward passes where clients share the machine's own address of its family.
    pub fn doors_of(&self, forward: &Forward) -> Option<&DnatRules> {
        self.doors.iter().find(|doors| doors.leads_to(forward))
    }

    /// The networks that are on the LAN's interface now; none while it is off or gone.
    pub async fn lan_networks(&self) -> Vec<IpNet> {
        match self.netlink.interface(&self.lan).await {
            Ok(lan) if lan.up => lan.networks(),
            _ => Vec::new(),
        }
    }

    /// The addresses of several hosts that this machine's kernel delivers to its own sockets.
    ///
    /// # Errors
    /// If the kernel does not list its routes.
    pub async fn broadcasts(&self) -> Result<Vec<IpAddr>, HostError> {
        self.netlink.broadcasts().await
    }

    /// Puts back what is missing, and names each such thing, or says why it cannot be put back.
    ///
    /// Nothing is missing while the LAN's interface is off or gone: it comes back with a notice.
    /// The TUN device is the endpoint's own, so it is switched on again.
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
            let on = self.netlink.switch_on(self.tun, self.mtu, QUEUE).await;
            let what = format!("the interface {}, up with MTU {}", tun.name, self.mtu);
            note(on.map(|()| true), what);
        }
        for address in &self.tun_addresses {
            note(
                self.netlink.restore_address(*address, self.tun).await,
                format!("the address {address} of {}", tun.name),
            );
        }
        for net in self
            .addresses
            .iter()
            .map(|ip| IpNet::from(*ip))
            .chain(routes.present().iter().copied())
        {
            note(
                self.netlink.restore_route(net, self.tun).await,
                format!("the route to {net}"),
            );
        }
        for address in &self.proxies {
            note(
                self.add_proxy_neighbour(lan, *address).await,
                format!("the answers for {address} on {}", self.lan),
            );
        }
        for doors in &self.doors {
            note(
                open(doors, forwards).await,
                format!("the nftables table {}", doors.table()),
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
        match address {
            IpAddr::V4(address) => announce(lan, address).await?,
            IpAddr::V6(address) => conflict6::announce(lan, address).await?,
        }
        Ok(true)
    }
}

/// A setting that is not there belongs to an interface that was made anew without IPv6.
fn set(path: &str, value: &str) -> Result<bool, HostError> {
    match sysctl::read(path) {
        Some(now) if now != value => sysctl::write(path, value).map(|()| true),
        _ => Ok(false),
    }
}

async fn open(doors: &DnatRules, forwards: &[Forward]) -> Result<bool, HostError> {
    let forwards_any = forwards.iter().any(|forward| doors.leads_to(forward));
    match has_rules(doors.table(), forwards_any).await {
        true => Ok(false),
        false => doors.make(forwards).await.map(|()| true),
    }
}
