//! Connects the TUN device with the LAN, and undoes it.

mod ipv6;
mod steps;

use super::claim::{ClaimFile, RENEW_INTERVAL};
use super::dnat::DnatRules;
use super::further::{FurtherAddresses, HeldAddresses};
use super::netlink::is_shared;
use super::nft::{Family, Table};
use super::reconciler::Reconciler;
use super::undo_log::{Change, UndoLog};
use super::{Defence, Egress, HostError, Interface, Netlink, Routes, conflict};
use crate::config::{Forward, FurtherAddress, LanAddress};
use ipnet::IpNet;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::SystemTime;
use tracing::warn;

/// Effect of the kernel's default delay of proxy answers.
pub(in crate::host) const SLOW_ANSWERS_EFFECT: &str =
    "answers to ARP for the LAN address are delayed by up to 0.8 s";

/// Description of the set-up.
#[derive(Debug, Clone)]
pub struct Plan {
    /// TUN device. It must exist.
    pub tun: String,
    /// The MTU of the tunnel.
    pub mtu: u16,
    /// The gateway's addresses in the tunnel, where its services answer. The kernel's ICMP errors for
    /// clients (time exceeded, host unreachable) have the first one of their family as their source,
    /// which clients accept from the tunnel.
    pub tunnel_addresses: Vec<IpAddr>,
    /// LAN interface; `None` is that of the default route.
    pub lan_interface: Option<String>,
    /// IPv4 address that clients share on the LAN.
    pub lan_address: LanAddress,
    /// IPv6 address that clients share on the LAN, if IPv6 is translated.
    pub lan_address6: Option<LanAddress<Ipv6Addr>>,
    /// Further IPv4 addresses of clients on the LAN: of a pool, and of single peers.
    pub further_addresses: Vec<FurtherAddress>,
    /// Destinations of clients besides the networks of the LAN interface.
    pub destinations: Vec<IpNet>,
    /// Ports of the machine's own address that lead to clients.
    pub forwards: Vec<Forward>,
    /// Directory of the undo log: /run/vcgate for the endpoint itself.
    pub run_directory: PathBuf,
}

impl Plan {
    /// The tables in which clients share the machine's own address.
    fn shared_tables(&self) -> Vec<Table> {
        let ip = (self.lan_address == LanAddress::Auto).then_some(Family::Ip);
        let ip6 = (self.lan_address6 == Some(LanAddress::Auto)).then_some(Family::Ip6);
        let families = [ip, ip6].into_iter().flatten();
        families
            .map(|family| Table::of(&self.tun, family))
            .collect()
    }
}

/// The set-up of the host. It persists until [`undo`](Self::undo), or until the next run after a kill.
#[derive(Debug)]
#[must_use = "the host stays changed until `undo` is called"]
pub struct Setup {
    pub(in crate::host) netlink: Netlink,
    pub(in crate::host) undo_log: Rc<RefCell<UndoLog>>,
    pub(in crate::host) lan: Interface,
    address: Ipv4Addr,
    pub(in crate::host) address6: Option<Ipv6Addr>,
    dnat_rules: Vec<DnatRules>,
    egress: Egress,
    tun: u32,
    mtu: u32,
    /// The gateway's own addresses on the TUN device.
    pub(in crate::host) tun_addresses: Vec<IpAddr>,
    /// Kernel settings that clients need: file and value.
    pub(in crate::host) required_sysctls: Vec<(String, &'static str)>,
    held: HeldAddresses,
    claim: ClaimFile,
    /// Addresses that the last run had until moments ago.
    recent: Vec<IpAddr>,
}

impl Setup {
    /// Checks that the LAN interface exists and is up, without changing anything.
    ///
    /// # Errors
    /// Fails if it does not, or if the kernel lists no interfaces.
    pub async fn check(plan: &Plan) -> Result<(), HostError> {
        lan_interface(&Netlink::connect()?, plan).await.map(drop)
    }

    /// Carries out the plan. Changes that a killed run has left are undone first.
    ///
    /// # Errors
    /// Fails if a change is not possible; all changes are undone then.
    pub async fn apply(plan: &Plan) -> Result<Self, HostError> {
        let netlink = Netlink::connect()?;
        let mut leftovers = UndoLog::open(&plan.run_directory, &plan.tun)?;
        // This run replaces them at once. Without them the kernel would take segments of continuing
        // connections for its own and reset the connections.
        let replaced = plan.shared_tables();
        let replaced = leftovers.take_tables(|table| replaced.contains(table));
        if !leftovers.is_empty() || !replaced.is_empty() {
            warn!("an earlier run was killed: undoing what it left");
            leftovers.undo(&netlink).await?;
        }
        let mut undo_log = UndoLog::open(&plan.run_directory, &plan.tun)?;
        for table in &replaced {
            undo_log.record(Change::Table(table.clone()))?;
        }
        let tun = netlink.interface(&plan.tun).await?;
        let lan = lan_interface(&netlink, plan).await?;
        let undo_log = Rc::new(RefCell::new(undo_log));
        let claim = ClaimFile::of(&plan.run_directory, &plan.tun);
        let mut setup = Self {
            recent: claim.recent(&lan, SystemTime::now()),
            claim,
            egress: Egress {
                netlink: netlink.clone(),
                undo_log: Rc::clone(&undo_log),
                tun: plan.tun.clone(),
                lan: lan.name.clone(),
                sources: Vec::new(),
                further: Vec::new(),
                translated: BTreeMap::new(),
                known: BTreeSet::new(),
            },
            undo_log,
            address: Ipv4Addr::UNSPECIFIED,
            address6: None,
            dnat_rules: Vec::new(),
            tun: tun.index,
            mtu: plan.mtu.into(),
            tun_addresses: Vec::new(),
            required_sysctls: Vec::new(),
            held: HeldAddresses::default(),
            netlink,
            lan,
        };
        let done = match setup.set_up(&tun, plan).await {
            Ok(()) => setup.delete_unused(&replaced).await,
            failed => failed,
        };
        match done {
            Ok(()) => Ok(setup),
            Err(error) => {
                // The first error matters. Errors while undoing are in the log.
                let _ = setup.undo().await;
                Err(error)
            }
        }
    }

    /// IPv4 address of the clients on the TUN device: the LAN address or the transit address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// IPv6 address of the clients on the TUN device, if IPv6 was set up.
    pub fn address6(&self) -> Option<Ipv6Addr> {
        self.address6
    }

    /// IPv4 address of the clients as hosts on the LAN see it.
    pub fn external_address(&self) -> Ipv4Addr {
        let own = self.lan.addresses.iter().find_map(|net| match net {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        });
        match self.shares(self.address.into()) {
            true => own.unwrap_or(self.address),
            false => self.address,
        }
    }

    /// IPv6 address of the clients as hosts on the LAN see it, if IPv6 was set up.
    pub fn external_address6(&self) -> Option<Ipv6Addr> {
        let address = self.address6?;
        let mut nets = self.lan.addresses.iter().filter(|net| is_shared(net));
        let own = nets.find_map(|net| match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(net.addr()),
        });
        match self.shares(address.into()) {
            true => own.or(self.address6),
            false => self.address6,
        }
    }

    /// DNAT rules, one for each family in which clients share the machine's own address.
    pub fn dnat_rules(&self) -> Vec<DnatRules> {
        self.dnat_rules.clone()
    }

    /// Routes to clients' own networks: none yet.
    pub fn routes(&self) -> Routes {
        let ipv6 = self.address6.is_some();
        Routes::new(self.netlink.clone(), self.tun, ipv6)
    }

    /// Keeps the LAN addresses of this endpoint on record for a quick restart, and probes for those
    /// that were used without a probe: the defence, which must be open, finds stations that answer.
    pub async fn keep_claim(&self) -> Infallible {
        self.renew_claim();
        let mut untested = self.held.proxies.borrow().clone();
        untested.retain(|address| self.recent.contains(address));
        for address in untested {
            if let Err(error) = conflict::holder(&self.lan, address).await {
                warn!("{error}; another station that has the address is not noticed");
            }
        }
        loop {
            tokio::time::sleep(RENEW_INTERVAL).await;
            self.renew_claim();
        }
    }

    /// Records that this endpoint had its LAN addresses until now.
    pub fn renew_claim(&self) {
        self.claim.write(&self.lan, &self.held.proxies.borrow());
    }

    /// Opens the defence of the LAN addresses that only this endpoint has.
    ///
    /// # Errors
    /// Fails if the kernel grants no packet socket.
    pub fn defence(&self) -> Result<Defence, HostError> {
        Defence::open(&self.lan, Rc::clone(&self.held.proxies))
    }

    /// Whether this endpoint answers for a LAN address that no other host has. If not, it has neither
    /// announced nor defended one.
    pub fn answers(&self) -> bool {
        !self.held.proxies.borrow().is_empty()
    }

    /// The further LAN addresses.
    pub fn further(&self) -> FurtherAddresses {
        FurtherAddresses {
            netlink: self.netlink.clone(),
            undo_log: Rc::clone(&self.undo_log),
            lan: self.lan.name.clone(),
            tun: self.tun,
            held: self.held.clone(),
        }
    }

    /// Translation on interfaces other than the LAN's.
    pub fn egress(&self) -> Egress {
        self.egress.clone()
    }

    /// Reconciler that restores this set-up.
    pub fn reconciler(&self) -> Reconciler {
        let addresses = [Some(self.address.into()), self.address6.map(IpAddr::V6)];
        let addresses = addresses.into_iter().flatten();
        Reconciler {
            netlink: self.netlink.clone(),
            lan: self.lan.name.clone(),
            tun: self.tun,
            mtu: self.mtu,
            tun_addresses: self.tun_addresses.clone(),
            addresses: addresses.collect(),
            settings: self.required_sysctls.clone(),
            held: self.held.clone(),
            dnat_rules: self.dnat_rules(),
            table: Table::of(&self.egress.tun, Family::Ip).name().to_owned(),
        }
    }

    /// Whether this is a transit address, so that clients share the machine's own address.
    fn shares(&self, address: IpAddr) -> bool {
        self.dnat_rules
            .iter()
            .any(|dnat_rules| dnat_rules.transit() == address)
    }

    /// Name of the LAN interface.
    pub fn lan_interface(&self) -> &str {
        &self.lan.name
    }

    /// Networks that are directly connected to the LAN interface.
    pub fn lan_networks(&self) -> Vec<IpNet> {
        self.lan.networks()
    }

    /// Restores the host, except for settings that other programs have changed since.
    ///
    /// # Errors
    /// Continues after a failure and returns the first one.
    pub async fn undo(self) -> Result<(), HostError> {
        let undo_log = self.undo_log.borrow().clone();
        undo_log.undo(&self.netlink).await
    }
}

/// Fails if this machine has the address, which only `peer` is to use if there is one.
pub(crate) async fn check_not_own(
    netlink: &Netlink,
    address: IpAddr,
    peer: Option<String>,
) -> Result<(), HostError> {
    for other in netlink.interfaces().await? {
        if other.addresses.iter().any(|net| net.addr() == address) {
            let interface = other.name;
            return Err(HostError::OwnAddress {
                address,
                interface,
                peer,
            });
        }
    }
    Ok(())
}

fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::Ip,
        IpAddr::V6(_) => Family::Ip6,
    }
}

/// Remedy for an address that cannot be used: the key in `[lan]`, with an alternative to a free one,
/// or that of the only peer that is to use the address.
pub(in crate::host) fn remedy(address: IpAddr, peer: Option<&str>, alternative: &str) -> String {
    let key = match address {
        IpAddr::V4(_) => "address",
        IpAddr::V6(_) => "address6",
    };
    match peer {
        Some(peer) => format!("set lan_address of peer {peer:?} to a free one"),
        None => format!("set [lan] {key} to a free one{alternative}"),
    }
}

async fn lan_interface(netlink: &Netlink, plan: &Plan) -> Result<Interface, HostError> {
    let lan = match &plan.lan_interface {
        Some(name) => netlink.interface(name).await?,
        None => netlink.default_interface().await?,
    };
    match lan.up {
        true => Ok(lan),
        false => Err(HostError::InterfaceDown(lan.name)),
    }
}
