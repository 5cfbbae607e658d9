//! The DNS server for clients: its settings follow the configuration, the peers, the LAN interface and
//! the machine's resolv.conf. It answers nothing itself.

use super::active_config::ActiveConfig;
use crate::config::{Config, DomainName};
use crate::host::ResolvConf;
use crate::host::programs::RESOLV_CONF;
use ipnet::IpNet;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use vcgate_dns::{Counters, Netbios, Peer, Server, Settings, Sockets};

/// The DNS server for clients.
pub(super) struct NameService {
    /// `None` if it is switched off.
    server: Option<Server>,
    lan_interface: String,
    resolv_conf: RefCell<ResolvConf>,
    settings: RefCell<Settings>,
}

impl NameService {
    /// Opens the sockets at the endpoint's tunnel addresses, and makes the server.
    pub(super) async fn open(active: &ActiveConfig, lan_interface: &str) -> (Self, Sockets) {
        let mut sockets = Sockets::default();
        let resolv_conf = read_resolv_conf().await.unwrap_or_default();
        let mut names = Self {
            server: None,
            lan_interface: lan_interface.to_owned(),
            resolv_conf: RefCell::new(resolv_conf),
            settings: RefCell::default(),
        };
        if let Some(addresses) = active.config.dns_addresses() {
            open(&mut sockets, &active.config.interface.name, &addresses);
            let settings = names.settings(active);
            if settings.servers.is_empty() {
                tracing::warn!(
                    "clients can look up only the names of [dns] and of the LAN: {RESOLV_CONF} names \
                     no server; set servers under [dns]"
                );
            }
            names.settings.replace(settings.clone());
            names.server = Some(Server::new(settings).await);
        }
        (names, sockets)
    }

    /// Answers clients until the endpoint stops.
    pub(super) async fn serve(&self, sockets: Sockets) -> Infallible {
        match &self.server {
            Some(server) => server.serve(sockets).await,
            None => pending().await,
        }
    }

    /// Returns the number of questions so far, by outcome. `None` if it is switched off.
    pub(super) fn counters(&self) -> Option<Counters> {
        self.server.as_ref().map(Server::counters)
    }

    /// Applies what has changed since the last call.
    pub(super) async fn update(&self, active: &ActiveConfig) {
        let Some(server) = &self.server else { return };
        let settings = self.settings(active);
        if *self.settings.borrow() != settings {
            self.settings.replace(settings.clone());
            server.set(settings).await;
        }
    }

    /// Reads the machine's resolv.conf again. Returns whether it has changed; call
    /// [`update`](Self::update) then.
    pub(super) async fn reread_resolv_conf(&self) -> bool {
        let Some(new) = read_resolv_conf().await else {
            return false;
        };
        self.resolv_conf.replace(new.clone()) != new
    }

    /// Returns the servers that are asked.
    pub(super) fn servers(&self, active: &ActiveConfig) -> Vec<SocketAddr> {
        servers(&active.config, &self.resolv_conf.borrow())
    }

    fn settings(&self, active: &ActiveConfig) -> Settings {
        let config = &active.config;
        let resolv_conf = self.resolv_conf.borrow();
        let search = config.dns.search(&resolv_conf.search);
        let records = config.dns.records.iter();
        let records = records.map(|(name, addresses)| (name.to_string(), addresses.clone()));
        let peers = config.peers.iter().map(|peer| Peer {
            name: peer.name.clone(),
            prefixes: peer.allowed_ips.clone(),
        });
        Settings {
            servers: servers(config, &resolv_conf),
            search: search.iter().map(DomainName::to_string).collect(),
            records: records.collect(),
            peers: peers.collect(),
            tunnel: config.interface.address.iter().map(IpNet::trunc).collect(),
            reveal_peers: config.interface.client_to_client,
            netmap: config.lan.netmap.clone(),
            netbios: config.dns.netbios.then(|| Netbios {
                interface: self.lan_interface.clone(),
                networks: active.on_lan.clone(),
                wins: config.dns.wins.clone(),
            }),
        }
    }
}

/// Returns the servers to ask: those of the configuration, or else those of the machine, except for
/// the endpoint itself.
fn servers(config: &Config, resolv_conf: &ResolvConf) -> Vec<SocketAddr> {
    let is_own = |server: &SocketAddr| {
        let mut own = config.interface.address.iter();
        own.any(|net| net.addr() == server.ip())
    };
    match config.dns.servers.is_empty() {
        false => config.dns.servers.clone(),
        true => {
            let servers = resolv_conf.servers.iter().copied();
            servers.filter(|server| !is_own(server)).collect()
        }
    }
}

/// Opens the sockets at each address. Another program that has the port answers clients itself.
fn open(sockets: &mut Sockets, device: &str, addresses: &[IpAddr]) {
    for address in addresses {
        if let Err(error) = sockets.open(device, *address) {
            tracing::warn!(
                %error,
                "cannot answer DNS at {address}: if another program of this machine answers there, \
                 set enabled = false under [dns]"
            );
        }
    }
}

async fn read_resolv_conf() -> Option<ResolvConf> {
    let read = ResolvConf::read().await;
    read.inspect_err(|error| tracing::debug!(%error, "cannot read {RESOLV_CONF}"))
        .ok()
}
