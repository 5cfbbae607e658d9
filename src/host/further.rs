//! The further LAN addresses of clients, those of a pool and those of single peers: connects and
//! disconnects them, at the start and while the endpoint runs.
//!
//! The first address of each family is the set-up's. It decides nothing about peers and flows.

use super::setup::{SLOW_ANSWERS_EFFECT, check_not_own};
use super::undo_log::{Change, UndoLog};
use super::{HostError, Interface, Netlink, conflict, sysctl};
use crate::config::FurtherAddress;
use futures::future::join_all;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use tracing::{info, warn};

/// The LAN addresses that this endpoint holds now. The set-up, the defence and the reconciler share
/// one list.
#[derive(Debug, Clone, Default)]
pub(super) struct HeldAddresses {
    /// Addresses with a proxy neighbour entry on the LAN, the first ones included.
    pub proxies: Rc<RefCell<Vec<IpAddr>>>,
    pub further: Rc<RefCell<Vec<FurtherAddress>>>,
}

impl HeldAddresses {
    /// Further addresses, all of which have a route over the TUN device.
    pub(super) fn routed(&self) -> Vec<IpAddr> {
        let further = self.further.borrow();
        further.iter().map(|f| f.address.into()).collect()
    }
}

/// The further LAN addresses of an endpoint.
#[derive(Debug, Clone)]
pub struct FurtherAddresses {
    pub(super) netlink: Netlink,
    pub(super) undo_log: Rc<RefCell<UndoLog>>,
    /// Name of the LAN interface.
    pub(super) lan: String,
    /// Index of the TUN device.
    pub(super) tun: u32,
    pub(super) held: HeldAddresses,
}

impl FurtherAddresses {
    /// Connects addresses, after probes for all of them at the same time, except for `recent` ones.
    /// Returns the error of each that is not connected.
    pub async fn add(
        &self,
        addresses: &[FurtherAddress],
        recent: &[IpAddr],
    ) -> Vec<(Ipv4Addr, HostError)> {
        let lan = match self.netlink.interface(&self.lan).await {
            Ok(lan) => lan,
            Err(error) => {
                let fault = |f: &FurtherAddress| (f.address, HostError::NoLan(error.to_string()));
                return addresses.iter().map(fault).collect();
            }
        };
        let checks = addresses.iter().map(|f| self.check(&lan, f, recent));
        let checked = join_all(checks).await;
        let mut failed = Vec::new();
        for (further, checked) in addresses.iter().zip(checked) {
            let done = match checked {
                Ok(()) => self.connect(&lan, further).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                failed.push((further.address, error));
            }
        }
        failed
    }

    /// Disconnects an address. Nothing happens if it is not connected.
    ///
    /// # Errors
    /// Continues after a failure and returns the first one.
    pub async fn remove(&self, address: Ipv4Addr) -> Result<(), HostError> {
        let HeldAddresses { proxies, further } = &self.held;
        further.borrow_mut().retain(|f| f.address != address);
        let ip = IpAddr::V4(address);
        let mut done = Ok(());
        if proxies.borrow().contains(&ip) {
            proxies.borrow_mut().retain(|proxy| *proxy != ip);
            let interface = self.lan.clone();
            if let Some(index) = vcgate_io::interface_index(&interface) {
                done = self.netlink.remove_proxy(ip, index).await;
            }
            let address = ip;
            let change = Change::Proxy { interface, address };
            done = done.and(self.undo_log.borrow_mut().forget(&change));
        }
        done = done.and(self.netlink.remove_route(ip.into(), self.tun).await);
        info!(%address, interface = self.lan, "clients do not use this LAN address any more");
        done
    }

    /// Further addresses that are connected now.
    pub fn list(&self) -> Vec<FurtherAddress> {
        self.held.further.borrow().clone()
    }

    /// Notes the owners of addresses that are connected.
    pub fn set_owners(&self, wanted: &[FurtherAddress]) {
        for held in self.held.further.borrow_mut().iter_mut() {
            if let Some(wanted) = wanted.iter().find(|w| w.address == held.address) {
                held.peer.clone_from(&wanted.peer);
            }
        }
    }

    /// Fails if this machine or another station on the LAN has the address.
    async fn check(
        &self,
        lan: &Interface,
        further: &FurtherAddress,
        recent: &[IpAddr],
    ) -> Result<(), HostError> {
        let address = IpAddr::V4(further.address);
        let peer = || further.peer.clone();
        check_not_own(&self.netlink, address, peer()).await?;
        if !lan.addresses.iter().any(|net| net.contains(&address)) {
            warn!(%address, interface = lan.name, "the LAN address is in no network of the \
                   LAN interface: the LAN's routers must route it to this machine");
        }
        if recent.contains(&address) {
            return Ok(());
        }
        match conflict::holder(lan, address).await? {
            None => Ok(()),
            Some(station) => Err(HostError::AddressTaken {
                address,
                station,
                interface: lan.name.clone(),
                peer: peer(),
            }),
        }
    }

    async fn connect(&self, lan: &Interface, further: &FurtherAddress) -> Result<(), HostError> {
        let address = IpAddr::V4(further.address);
        self.netlink.add_route(address.into(), self.tun).await?;
        self.held.further.borrow_mut().push(further.clone());
        if lan.ethernet.is_some()
            && let Err(error) = self.answer(lan, address).await
        {
            // The first error matters.
            let _ = self.remove(further.address).await;
            return Err(error);
        }
        let interface = &lan.name;
        match &further.peer {
            Some(peer) => info!(%address, interface, peer, "one peer has this LAN address"),
            None => info!(%address, interface, "clients also use this LAN address"),
        }
        Ok(())
    }

    /// Answers ARP for an address.
    async fn answer(&self, lan: &Interface, address: IpAddr) -> Result<(), HostError> {
        self.answer_at_once(lan);
        self.held.proxies.borrow_mut().push(address);
        if !self.netlink.has_proxy(address, lan.index).await? {
            let interface = lan.name.clone();
            let change = Change::Proxy { interface, address };
            self.undo_log.borrow_mut().record_once(change)?;
            self.netlink.add_proxy(address, lan.index).await?;
        }
        conflict::announce(lan, address).await
    }

    /// Switches off the kernel's delay of proxy answers, which the first address may not need.
    fn answer_at_once(&self, lan: &Interface) {
        let path = sysctl::proxy_delay(&lan.name);
        let now = sysctl::read(&path).unwrap_or_default();
        if now == "0" {
            return;
        }
        let recorded = self.undo_log.borrow_mut().record_setting(&path, &now, "0");
        if recorded.and_then(|()| sysctl::write(&path, "0")).is_err() {
            let setting = sysctl::dotted(&path);
            info!("cannot set {setting} to 0: {SLOW_ANSWERS_EFFECT}");
        }
    }
}
