//! Connects the TUN device with the LAN, and takes it apart again.

use super::journal::{Change, Journal};
use super::{HostError, Interface, Netlink, conflict, nft, sysctl, transit};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tracing::{info, warn};

/// Packets that wait for the TUN device; super-packets count once.
const QUEUE: u32 = 1000;

/// The address that clients share on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanAddress {
    /// The machine's own: it translates once more, from a private transit address.
    Auto,
    /// An address that nobody else has.
    Given(Ipv4Addr),
}

/// What is to be set up.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The TUN device; it must exist.
    pub tun: String,
    /// The MTU of the tunnel.
    pub mtu: u16,
    /// The LAN's interface; the default route's if none is named.
    pub lan_interface: Option<String>,
    /// The address that clients share on the LAN.
    pub lan_address: LanAddress,
    /// Where the list of changes is kept, /run/vcgate for the endpoint itself.
    pub run_directory: PathBuf,
}

/// What was set up. It stays until [`undo`](Self::undo), or until the next run after a kill.
#[derive(Debug)]
#[must_use = "the host stays changed until `undo` is called"]
pub struct Setup {
    netlink: Netlink,
    journal: Journal,
    lan: Interface,
    address: Ipv4Addr,
}

impl Setup {
    /// Carries out the plan, after whatever a killed run left was undone. On failure nothing
    /// stays changed.
    pub async fn apply(plan: &Plan) -> Result<Self, HostError> {
        let netlink = Netlink::connect()?;
        let leftovers = Journal::open(&plan.run_directory, &plan.tun)?;
        if !leftovers.is_empty() {
            warn!("an earlier run was killed: undoing what it left");
            leftovers.undo(&netlink).await?;
        }
        let tun = netlink.interface(&plan.tun).await?;
        let lan = match &plan.lan_interface {
            Some(name) => netlink.interface(name).await?,
            None => netlink.default_interface().await?,
        };
        if !lan.up {
            return Err(HostError::InterfaceDown(lan.name));
        }
        let mut setup = Self {
            journal: Journal::open(&plan.run_directory, &plan.tun)?,
            address: Ipv4Addr::UNSPECIFIED,
            netlink,
            lan,
        };
        let done = match plan.lan_address {
            LanAddress::Given(address) => setup.own_address(&tun, plan, address).await,
            LanAddress::Auto => setup.shared_address(&tun, plan).await,
        };
        match done {
            Ok(()) => Ok(setup),
            Err(error) => {
                // The reason counts, not what came after; that is in the log.
                let _ = setup.undo().await;
                Err(error)
            }
        }
    }

    /// The address that clients have on the TUN device: the LAN address, or the transit address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The LAN's interface.
    pub fn lan_interface(&self) -> &str {
        &self.lan.name
    }

    /// The networks that are directly on the LAN's interface.
    pub fn lan_networks(&self) -> Vec<Ipv4Net> {
        self.lan.addresses.iter().map(Ipv4Net::trunc).collect()
    }

    /// Puts the host back as it was, as far as it is still as we left it.
    pub async fn undo(self) -> Result<(), HostError> {
        self.journal.undo(&self.netlink).await
    }

    async fn own_address(
        &mut self,
        tun: &Interface,
        plan: &Plan,
        address: Ipv4Addr,
    ) -> Result<(), HostError> {
        self.address = address;
        for other in self.netlink.interfaces().await? {
            if other.addresses.iter().any(|net| net.addr() == address) {
                let interface = other.name;
                return Err(HostError::OwnAddress { address, interface });
            }
        }
        if !self.lan.addresses.iter().any(|net| net.contains(&address)) {
            warn!(%address, interface = self.lan.name, "the LAN address is in no network of the \
                   LAN interface: the LAN's routers must route it to this machine");
        }
        if let Some(station) = conflict::holder(&self.lan, address).await? {
            let interface = self.lan.name.clone();
            return Err(HostError::AddressTaken {
                address,
                station,
                interface,
            });
        }
        self.connect(tun, plan).await?;
        if self.lan.ethernet.is_some() {
            // By default the kernel holds its answers back for up to 0.8 seconds.
            self.set(sysctl::proxy_delay(&self.lan.name), "0")?;
            self.answer_arp().await?;
            conflict::announce(&self.lan, address).await?;
        }
        info!(%address, interface = self.lan.name, "clients share this LAN address");
        Ok(())
    }

    async fn shared_address(&mut self, tun: &Interface, plan: &Plan) -> Result<(), HostError> {
        let mut in_use = self.netlink.destinations().await?;
        in_use.extend(
            self.netlink
                .interfaces()
                .await?
                .into_iter()
                .flat_map(|i| i.addresses),
        );
        self.address = transit::choose(&in_use).ok_or(HostError::NoTransitAddress)?;
        let name = nft::table(&plan.tun);
        self.journal.record(Change::Table { name: name.clone() })?;
        nft::masquerade(&name, self.address, &self.lan.name).await?;
        self.connect(tun, plan).await?;
        let transit = self.address;
        info!(%transit, interface = self.lan.name, "clients share this machine's own LAN address");
        Ok(())
    }

    /// Switches the TUN device on and lets packets pass between it and the LAN. Reverse path
    /// filters, even strict ones, let them pass: the only route to the address is over the device.
    async fn connect(&mut self, tun: &Interface, plan: &Plan) -> Result<(), HostError> {
        // Else the kernel would send router solicitations and multicast reports into the tunnel.
        let ipv6_off = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tun.name);
        if sysctl::read(&ipv6_off).is_some() {
            sysctl::write(&ipv6_off, "1")?;
        }
        self.netlink
            .switch_on(tun.index, plan.mtu.into(), QUEUE)
            .await?;
        self.netlink.add_route(self.address, tun.index).await?;
        sysctl::write(&sysctl::ipv4(&tun.name, "forwarding"), "1")?;
        self.set(sysctl::ipv4(&self.lan.name, "forwarding"), "1")
    }

    async fn answer_arp(&mut self) -> Result<(), HostError> {
        let (address, interface) = (self.address, self.lan.name.clone());
        if self.netlink.has_proxy(address, self.lan.index).await? {
            return Ok(());
        }
        self.journal.record(Change::Proxy { interface, address })?;
        self.netlink.add_proxy(address, self.lan.index).await
    }

    fn set(&mut self, path: String, value: &str) -> Result<(), HostError> {
        let old = sysctl::read(&path).unwrap_or_default();
        if old == value {
            return Ok(());
        }
        let new = value.to_owned();
        self.journal.record(Change::Sysctl {
            path: path.clone(),
            old,
            new,
        })?;
        sysctl::write(&path, value)
    }
}
