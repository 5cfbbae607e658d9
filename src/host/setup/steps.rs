//! The steps of the set-up, and its checks of the LAN: each change of the host is recorded before it
//! is made.

use super::{Plan, SLOW_ANSWERS_EFFECT, Setup, check_not_own, family_of};
use crate::config::LanAddress;
use crate::host::dnat::DnatRules;
use crate::host::listening::listens;
use crate::host::nft::{Family, Table};
use crate::host::reconciler::TX_QUEUE_LENGTH;
use crate::host::undo_log::Change;
use crate::host::{HostError, Interface, conflict, nft, sysctl, transit};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};
use tracing::{info, warn};

impl Setup {
    pub(super) async fn set_up(&mut self, tun: &Interface, plan: &Plan) -> Result<(), HostError> {
        let _alone = self.undo_log.borrow().lock_directory()?;
        let plan = &Plan {
            lan_address6: self.check_ipv6(plan).await?,
            ..plan.clone()
        };
        match plan.lan_address {
            LanAddress::Fixed(address) => self.set_up_own_address(tun, plan, address).await?,
            LanAddress::Auto => self.set_up_shared_address(tun, plan).await?,
        }
        self.add_further_addresses(plan).await?;
        match plan.lan_address6 {
            Some(LanAddress::Fixed(address)) => {
                self.set_up_own_address6(tun, plan, address).await?
            }
            Some(LanAddress::Auto) => self.set_up_shared_address6(tun, plan).await?,
            None => {}
        }
        let address6 = self.address6.map(IpAddr::from);
        for source in [Some(self.address.into()), address6].into_iter().flatten() {
            let table = (!self.shares(source)).then(|| Table::of(&plan.tun, family_of(source)));
            self.egress.sources.push((vec![source], table));
        }
        self.egress.set_further(self.held.routed());
        self.egress.follow(&plan.destinations).await.map(drop)
    }

    /// Deletes the tables of a killed run that this one has not replaced, as without IPv6.
    pub(super) async fn delete_unused(&self, tables: &[Table]) -> Result<(), HostError> {
        for table in tables {
            if !self.dnat_rules.iter().any(|rules| rules.table() == table) {
                nft::delete(table).await?;
            }
        }
        Ok(())
    }

    async fn set_up_own_address(
        &mut self,
        tun: &Interface,
        plan: &Plan,
        address: Ipv4Addr,
    ) -> Result<(), HostError> {
        self.address = address;
        self.check_free(address.into()).await?;
        self.check_unclaimed(address.into()).await?;
        self.connect(tun, plan).await?;
        if self.lan.ethernet.is_some() {
            self.prefer_sysctl(
                sysctl::proxy_delay(&self.lan.name),
                "0",
                SLOW_ANSWERS_EFFECT,
            );
            self.add_proxy_neighbour(address.into()).await?;
            conflict::announce(&self.lan, address.into()).await?;
        }
        info!(%address, interface = self.lan.name, "clients share this LAN address");
        Ok(())
    }

    /// Connects further addresses. IPv4 must be set up.
    async fn add_further_addresses(&mut self, plan: &Plan) -> Result<(), HostError> {
        if plan.further_addresses.is_empty() {
            return Ok(());
        }
        if self.lan.ethernet.is_some() {
            let delay = sysctl::proxy_delay(&self.lan.name);
            self.prefer_sysctl(delay, "0", SLOW_ANSWERS_EFFECT);
        }
        let further = self.further();
        let failed = further.add(&plan.further_addresses, &self.recent).await;
        failed.into_iter().next().map_or(Ok(()), |(_, e)| Err(e))
    }

    /// Records nothing if nft is missing, since undoing would need it as well.
    async fn set_up_shared_address(
        &mut self,
        tun: &Interface,
        plan: &Plan,
    ) -> Result<(), HostError> {
        let in_use = self.in_use().await?;
        self.address = transit::choose(&in_use).ok_or(HostError::NoTransitAddress)?;
        nft::version().await?;
        let table = Table::of(&plan.tun, Family::Ip);
        self.undo_log
            .borrow_mut()
            .record_once(Change::Table(table.clone()))?;
        self.add_dnat_rules(table, self.address.into(), plan)
            .await?;
        self.connect(tun, plan).await?;
        let transit = self.address;
        info!(%transit, interface = self.lan.name, "clients share this machine's own LAN address");
        Ok(())
    }

    /// Switches on the TUN device and forwarding between it and the LAN. Even strict reverse path
    /// filters accept the packets, because the only route to the address is over the device.
    async fn connect(&mut self, tun: &Interface, plan: &Plan) -> Result<(), HostError> {
        super::ipv6::prepare(&tun.name, plan.lan_address6.is_some())?;
        self.netlink
            .switch_on(tun.index, plan.mtu.into(), TX_QUEUE_LENGTH)
            .await?;
        self.add_tunnel_addresses(tun, plan, IpAddr::is_ipv4)
            .await?;
        let to_clients = IpNet::from(IpAddr::from(self.address));
        self.netlink.add_route(to_clients, tun.index).await?;
        let on_tun = sysctl::ipv4(&tun.name, "forwarding");
        sysctl::ensure(&on_tun, "1")?;
        self.required_sysctls.push((on_tun, "1"));
        self.require_sysctl(sysctl::ipv4(&self.lan.name, "forwarding"), "1")
    }

    /// Gives the TUN device the gateway's addresses of one family.
    pub(in crate::host) async fn add_tunnel_addresses(
        &mut self,
        tun: &Interface,
        plan: &Plan,
        of_family: impl Fn(&IpAddr) -> bool,
    ) -> Result<(), HostError> {
        for address in plan.tunnel_addresses.iter().filter(|a| of_family(a)) {
            self.netlink.add_address(*address, tun.index).await?;
            self.tun_addresses.push(*address);
        }
        Ok(())
    }

    /// Adds masquerade and DNAT rules between the machine's own address and the transit address.
    pub(in crate::host) async fn add_dnat_rules(
        &mut self,
        table: Table,
        transit: IpAddr,
        plan: &Plan,
    ) -> Result<(), HostError> {
        let dnat_rules = DnatRules::new(
            table,
            transit,
            self.lan.name.clone(),
            plan.tun.clone(),
            plan.tunnel_addresses.clone(),
        );
        for forward in plan.forwards.iter().filter(|f| dnat_rules.leads_to(f)) {
            let port = forward.port();
            if listens(port, &plan.tunnel_addresses) {
                warn!(%port, "a program on this machine listens on this port and is not reachable \
                       from the LAN while the port is forwarded");
            }
        }
        dnat_rules.replace_table(&plan.forwards).await?;
        self.dnat_rules.push(dnat_rules);
        Ok(())
    }

    /// Fails if this machine has the address. Warns if it is in no network of the LAN interface.
    pub(in crate::host) async fn check_free(&self, address: IpAddr) -> Result<(), HostError> {
        check_not_own(&self.netlink, address, None).await?;
        if !self.lan.addresses.iter().any(|net| net.contains(&address)) {
            warn!(%address, interface = self.lan.name, "the LAN address is in no network of the \
                   LAN interface: the LAN's routers must route it to this machine");
        }
        Ok(())
    }

    /// Fails if another station on the LAN has the address. An address of a run that has just ended
    /// is probed for later ([`keep_claim`](Self::keep_claim)).
    pub(super) async fn check_unclaimed(&self, address: IpAddr) -> Result<(), HostError> {
        if self.recent.contains(&address) {
            return Ok(());
        }
        match conflict::holder(&self.lan, address).await? {
            None => Ok(()),
            Some(station) => Err(HostError::AddressTaken {
                address,
                station,
                interface: self.lan.name.clone(),
                peer: None,
            }),
        }
    }

    /// All networks in routes and interfaces of this machine.
    pub(in crate::host) async fn in_use(&self) -> Result<Vec<IpNet>, HostError> {
        let mut in_use = self.netlink.destinations().await?;
        let interfaces = self.netlink.interfaces().await?;
        in_use.extend(interfaces.into_iter().flat_map(|i| i.addresses));
        Ok(in_use)
    }

    /// Adds a proxy neighbour entry for an address on the LAN interface.
    pub(in crate::host) async fn add_proxy_neighbour(
        &mut self,
        address: IpAddr,
    ) -> Result<(), HostError> {
        let interface = self.lan.name.clone();
        self.held.proxies.borrow_mut().push(address);
        if self.netlink.has_proxy(address, self.lan.index).await? {
            return Ok(());
        }
        self.undo_log
            .borrow_mut()
            .record(Change::Proxy { interface, address })?;
        self.netlink.add_proxy(address, self.lan.index).await
    }

    /// Sets a value that the endpoint needs while it runs.
    pub(in crate::host) fn require_sysctl(
        &mut self,
        path: String,
        value: &'static str,
    ) -> Result<(), HostError> {
        self.required_sysctls.push((path.clone(), value));
        self.set(path, value)
    }

    /// Sets a value that is useful but not necessary. If that fails, logs the `effect`.
    pub(in crate::host) fn prefer_sysctl(
        &mut self,
        path: String,
        value: &'static str,
        effect: &str,
    ) {
        match self.set(path.clone(), value) {
            Ok(()) => self.required_sysctls.push((path, value)),
            Err(_) => {
                let setting = sysctl::dotted(&path);
                info!("cannot set {setting} to {value}: {effect}");
            }
        }
    }

    pub(in crate::host) fn set(&mut self, path: String, value: &str) -> Result<(), HostError> {
        let now = sysctl::read(&path).unwrap_or_default();
        self.undo_log
            .borrow_mut()
            .record_setting(&path, &now, value)?;
        match now == value {
            true => Ok(()),
            false => sysctl::write(&path, value),
        }
    }
}
