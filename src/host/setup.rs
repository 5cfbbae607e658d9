//! Connects the TUN device with the LAN, and takes it apart again.

use super::dnat::DnatRules;
use super::listening::listens;
use super::netlink::is_shared;
use super::nft::{Family, Table};
use super::reconciler::Reconciler;
use super::undo_log::{Change, Journal};
use super::{
    Defence, Egress, HostError, Interface, Netlink, Routes, conflict, nft, setup6, sysctl, transit,
};
use crate::config::{Forward, LanAddress};
use ipnet::IpNet;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::rc::Rc;
use tracing::{info, warn};

/// Packets that wait for the TUN device; super-packets count once.
pub(super) const QUEUE: u32 = 1000;

/// By default the kernel holds its answers for other stations' addresses back.
pub(super) const SLOW_ANSWERS: &str = "neighbours get answers for the LAN address up to 0.8 s late";

/// What is to be set up.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The TUN device; it must exist.
    pub tun: String,
    /// The MTU of the tunnel.
    pub mtu: u16,
    /// The gateway's address in the tunnel: the kernel's ICMP errors for clients (time exceeded,
    /// host unreachable) come from it, an address that they accept from the tunnel.
    pub tunnel_address: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub tunnel_address6: Option<Ipv6Addr>,
    /// The LAN's interface; the default route's if none is named.
    pub lan_interface: Option<String>,
    /// The address that clients share on the LAN.
    pub lan_address: LanAddress,
    /// The same for IPv6, if that is translated.
    pub lan_address6: Option<LanAddress<Ipv6Addr>>,
    /// What clients may reach beside the networks of the LAN's interface.
    pub destinations: Vec<IpNet>,
    /// Clients' own networks, where the LAN is to reach them without translation.
    pub routed: Vec<IpNet>,
    /// What of the machine's own address leads to the clients' transit address.
    pub forwards: Vec<Forward>,
    /// Where the list of changes is kept, /run/vcgate for the endpoint itself.
    pub run_directory: PathBuf,
}

/// What was set up. It stays until [`undo`](Self::undo), or until the next run after a kill.
#[derive(Debug)]
#[must_use = "the host stays changed until `undo` is called"]
pub struct Setup {
    pub(super) netlink: Netlink,
    pub(super) journal: Rc<RefCell<Journal>>,
    pub(super) lan: Interface,
    address: Ipv4Addr,
    pub(super) address6: Option<Ipv6Addr>,
    doors: Vec<DnatRules>,
    egress: Egress,
    tun: u32,
    mtu: u32,
    /// The gateway's own addresses on the TUN device.
    pub(super) tun_addresses: Vec<IpAddr>,
    routed: Vec<IpNet>,
    /// Settings, and the values that clients cannot do without.
    pub(super) needed: Vec<(String, &'static str)>,
    proxies: Vec<IpAddr>,
}

impl Setup {
    /// Whether the LAN's interface is there and up; asked before anything is made.
    pub async fn check(plan: &Plan) -> Result<(), HostError> {
        lan_interface(&Netlink::connect()?, plan).await.map(drop)
    }

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
        let lan = lan_interface(&netlink, plan).await?;
        let journal = Journal::open(&plan.run_directory, &plan.tun)?;
        let journal = Rc::new(RefCell::new(journal));
        let mut setup = Self {
            egress: Egress {
                netlink: netlink.clone(),
                journal: Rc::clone(&journal),
                tun: plan.tun.clone(),
                lan: lan.name.clone(),
                sources: Vec::new(),
                known: BTreeSet::new(),
            },
            journal,
            address: Ipv4Addr::UNSPECIFIED,
            address6: None,
            doors: Vec::new(),
            tun: tun.index,
            mtu: plan.mtu.into(),
            tun_addresses: Vec::new(),
            routed: plan.routed.clone(),
            needed: Vec::new(),
            proxies: Vec::new(),
            netlink,
            lan,
        };
        match setup.set_up(&tun, plan).await {
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

    /// The same for IPv6, if that was set up.
    pub fn address6(&self) -> Option<Ipv6Addr> {
        self.address6
    }

    /// The address that the LAN sees: the LAN address, or the machine's own.
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

    /// The same for IPv6, if that was set up.
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

    /// How forwards pass where clients share the machine's own address: one for each such family.
    pub fn doors(&self) -> Vec<DnatRules> {
        self.doors.clone()
    }

    /// The routes to clients' own networks.
    pub fn routes(&self) -> Routes {
        let ipv6 = self.address6.is_some();
        Routes::new(self.netlink.clone(), self.tun, ipv6, &self.routed)
    }

    /// What watches and defends the LAN addresses that are no other station's.
    ///
    /// # Errors
    /// The kernel grants no packet socket.
    pub fn defence(&self) -> Result<Defence, HostError> {
        Defence::open(&self.lan, &self.proxies)
    }

    /// What translates where clients' packets leave by other interfaces.
    pub fn egress(&self) -> Egress {
        self.egress.clone()
    }

    /// What sees to it that all this stays.
    pub fn guard(&self) -> Reconciler {
        let addresses = [Some(self.address.into()), self.address6.map(IpAddr::V6)];
        Reconciler {
            netlink: self.netlink.clone(),
            lan: self.lan.name.clone(),
            tun: self.tun,
            mtu: self.mtu,
            tun_addresses: self.tun_addresses.clone(),
            addresses: addresses.into_iter().flatten().collect(),
            settings: self.needed.clone(),
            proxies: self.proxies.clone(),
            doors: self.doors(),
        }
    }

    /// Whether this is a transit address, behind which clients share the machine's own.
    fn shares(&self, address: IpAddr) -> bool {
        self.doors.iter().any(|doors| doors.transit() == address)
    }

    /// The LAN's interface.
    pub fn lan_interface(&self) -> &str {
        &self.lan.name
    }

    /// The networks that are directly on the LAN's interface.
    pub fn lan_networks(&self) -> Vec<IpNet> {
        self.lan.networks()
    }

    /// Puts the host back as it was, as far as it is still as we left it.
    pub async fn undo(self) -> Result<(), HostError> {
        let journal = self.journal.borrow().clone();
        journal.undo(&self.netlink).await
    }

    async fn set_up(&mut self, tun: &Interface, plan: &Plan) -> Result<(), HostError> {
        let _alone = self.journal.borrow().alone()?;
        let plan = &Plan {
            lan_address6: self.check_ipv6(plan).await?,
            ..plan.clone()
        };
        match plan.lan_address {
            LanAddress::Fixed(address) => self.own_address(tun, plan, address).await?,
            LanAddress::Auto => self.shared_address(tun, plan).await?,
        }
        match plan.lan_address6 {
            Some(LanAddress::Fixed(address)) => self.own_address6(tun, plan, address).await?,
            Some(LanAddress::Auto) => self.shared_address6(tun, plan).await?,
            None => {}
        }
        let address6 = self.address6.map(IpAddr::from);
        for source in [Some(self.address.into()), address6].into_iter().flatten() {
            let table = (!self.shares(source)).then(|| Table::of(&plan.tun, family_of(source)));
            self.egress.sources.push((source, table));
        }
        self.egress.follow(&plan.destinations).await.map(drop)
    }

    async fn own_address(
        &mut self,
        tun: &Interface,
        plan: &Plan,
        address: Ipv4Addr,
    ) -> Result<(), HostError> {
        self.address = address;
        self.check_free(address.into()).await?;
        if let Some(station) = conflict::holder(&self.lan, address).await? {
            let interface = self.lan.name.clone();
            return Err(HostError::AddressTaken {
                address: address.into(),
                station: station.to_string(),
                interface,
            });
        }
        self.connect(tun, plan).await?;
        if self.lan.ethernet.is_some() {
            self.want(sysctl::proxy_delay(&self.lan.name), "0", SLOW_ANSWERS);
            self.add_proxy_neighbour(address.into()).await?;
            conflict::announce(&self.lan, address).await?;
        }
        info!(%address, interface = self.lan.name, "clients share this LAN address");
        Ok(())
    }

    /// Without nft nothing is written down that could not be undone without it either.
    async fn shared_address(&mut self, tun: &Interface, plan: &Plan) -> Result<(), HostError> {
        let in_use = self.in_use().await?;
        self.address = transit::choose(&in_use).ok_or(HostError::NoTransitAddress)?;
        nft::version().await?;
        let table = Table::of(&plan.tun, Family::Ip);
        self.journal
            .borrow_mut()
            .record(Change::Table(table.clone()))?;
        self.open_doors(table, self.address.into(), plan).await?;
        self.connect(tun, plan).await?;
        let transit = self.address;
        info!(%transit, interface = self.lan.name, "clients share this machine's own LAN address");
        Ok(())
    }

    /// Switches the TUN device on and lets packets pass between it and the LAN. Reverse path
    /// filters, even strict ones, let them pass: the only route to the address is over the device.
    async fn connect(&mut self, tun: &Interface, plan: &Plan) -> Result<(), HostError> {
        setup6::prepare(&tun.name, plan.lan_address6.is_some())?;
        self.netlink
            .switch_on(tun.index, plan.mtu.into(), QUEUE)
            .await?;
        if let Some(address) = plan.tunnel_address {
            self.netlink.add_address(address.into(), tun.index).await?;
            self.tun_addresses.push(address.into());
        }
        self.route(tun, plan, self.address.into()).await?;
        let on_tun = sysctl::ipv4(&tun.name, "forwarding");
        sysctl::ensure(&on_tun, "1")?;
        self.needed.push((on_tun, "1"));
        self.need(sysctl::ipv4(&self.lan.name, "forwarding"), "1")
    }

    /// Leads what is for clients into the TUN device: their LAN address, and their own networks of
    /// its family.
    pub(super) async fn route(
        &self,
        tun: &Interface,
        plan: &Plan,
        address: IpAddr,
    ) -> Result<(), HostError> {
        let same_family = |net: &&IpNet| net.addr().is_ipv4() == address.is_ipv4();
        let routed = plan.routed.iter().filter(same_family).copied();
        for net in routed.chain([IpNet::from(address)]) {
            self.netlink.add_route(net, tun.index).await?;
        }
        Ok(())
    }

    /// Lets clients out by the machine's own address, and forwards in by it, to the transit address.
    pub(super) async fn open_doors(
        &mut self,
        table: Table,
        transit: IpAddr,
        plan: &Plan,
    ) -> Result<(), HostError> {
        let doors = DnatRules::new(table, transit, self.lan.name.clone(), plan.tun.clone());
        for forward in plan.forwards.iter().filter(|f| doors.leads_to(f)) {
            let port = forward.port();
            if listens(port) {
                warn!(%port, "a program on this machine listens on this port: nobody on the LAN \
                       reaches it while the port is forwarded");
            }
        }
        doors.make(&plan.forwards).await?;
        self.doors.push(doors);
        Ok(())
    }

    /// Whether the machine itself has the address; and a word if nobody will look for it here.
    pub(super) async fn check_free(&self, address: IpAddr) -> Result<(), HostError> {
        check_not_own(&self.netlink, address).await?;
        if !self.lan.addresses.iter().any(|net| net.contains(&address)) {
            warn!(%address, interface = self.lan.name, "the LAN address is in no network of the \
                   LAN interface: the LAN's routers must route it to this machine");
        }
        Ok(())
    }

    /// Every network that this machine has to do with.
    pub(super) async fn in_use(&self) -> Result<Vec<IpNet>, HostError> {
        let mut in_use = self.netlink.destinations().await?;
        let interfaces = self.netlink.interfaces().await?;
        in_use.extend(interfaces.into_iter().flat_map(|i| i.addresses));
        Ok(in_use)
    }

    /// Answers ARP or neighbour discovery for an address on the LAN.
    pub(super) async fn add_proxy_neighbour(&mut self, address: IpAddr) -> Result<(), HostError> {
        let interface = self.lan.name.clone();
        self.proxies.push(address);
        if self.netlink.has_proxy(address, self.lan.index).await? {
            return Ok(());
        }
        self.journal
            .borrow_mut()
            .record(Change::Proxy { interface, address })?;
        self.netlink.add_proxy(address, self.lan.index).await
    }

    /// Sets what has to stay so while the endpoint runs.
    pub(super) fn need(&mut self, path: String, value: &'static str) -> Result<(), HostError> {
        self.needed.push((path.clone(), value));
        self.set(path, value)
    }

    /// Sets what helps; where that cannot be, `effect` says what comes of it.
    pub(super) fn want(&mut self, path: String, value: &'static str, effect: &str) {
        match self.set(path.clone(), value) {
            Ok(()) => self.needed.push((path, value)),
            Err(_) => {
                let setting = sysctl::dotted(&path);
                info!("cannot set {setting} to {value}: {effect}");
            }
        }
    }

    pub(super) fn set(&mut self, path: String, value: &str) -> Result<(), HostError> {
        let now = sysctl::read(&path).unwrap_or_default();
        self.journal
            .borrow_mut()
            .record_setting(&path, &now, value)?;
        match now == value {
            true => Ok(()),
            false => sysctl::write(&path, value),
        }
    }
}

/// Whether the machine itself has the address.
pub(super) async fn check_not_own(netlink: &Netlink, address: IpAddr) -> Result<(), HostError> {
    for other in netlink.interfaces().await? {
        if other.addresses.iter().any(|net| net.addr() == address) {
            let interface = other.name;
            return Err(HostError::OwnAddress { address, interface });
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

/// The key of the configuration that an address comes from.
pub(super) fn key(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "address",
        IpAddr::V6(_) => "address6",
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
