//! What the endpoint needs of its host: addresses, routes, forwarding, proxy neighbours, `doctor`.
//!
//! Never on the data path. Everything set here is undone by [`Setup::undo`], or by the next run
//! when this one is killed.

mod conflict;
mod conflict6;
mod defence;
mod dnat;
pub mod doctor;
mod egress;
mod firewall;
mod lan_view;
mod listening;
mod monitor;
mod netlink;
mod nft;
mod reconciler;
mod routes;
mod setup;
mod setup6;
mod sysctl;
mod transit;
mod undo_log;

pub use defence::{Defence, Sighting};
pub use dnat::DnatRules;
pub use egress::Egress;
pub use lan_view::lan_view;
pub use monitor::NetlinkMonitor;
pub use netlink::{Interface, Netlink};
pub use reconciler::Reconciler;
pub use routes::Routes;
pub use setup::{Plan, Setup};
pub use undo_log::file_of;

use crate::config::Port;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why the host could not be set up. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No interface has this name.
    #[error("[lan] interface: there is no {name:?}; choose one of {}", existing.join(", "))]
    UnknownInterface {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        existing: Vec<String>,
    },
    /// No interface was named, and no default route tells one.
    #[error("this machine has no IPv4 default route that would tell the LAN interface: set [lan] interface; there are: {}", .0.join(", "))]
    NoDefaultRoute(Vec<String>),
    /// The LAN interface is down.
    #[error("the LAN interface {0} is down: `ip link set {0} up`")]
    InterfaceDown(String),
    /// Somebody on the LAN has the address.
    #[error(
        "the LAN address {address} is taken: {station} on {interface} answers for it; set [lan] {} to a free one or to \"auto\"",
        setup::key(*address)
    )]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who answered.
        station: String,
        /// Where.
        interface: String,
    },
    /// This machine has the address itself.
    #[error(
        "the LAN address {address} is this machine's own (on {interface}): set [lan] {} to a free one, or to \"auto\" to share the machine's",
        setup::key(*address)
    )]
    OwnAddress {
        /// The address.
        address: IpAddr,
        /// The interface that has it.
        interface: String,
    },
    /// The LAN's interface has no IPv6.
    #[error(
        "IPv6 is switched off on {0}: take [lan] address6 out, or `sysctl net.ipv6.conf.{0}.disable_ipv6=0`; in a container, start it with `--sysctl net.ipv6.conf.all.disable_ipv6=0`"
    )]
    NoIpv6(String),
    /// Every address that could be used between the TUN device and the host is in use.
    #[error("no private transit address is free: set [lan] address to a free address of the LAN")]
    NoTransitAddress,
    /// The process may not change the network.
    #[error("no permission to {0}: run as root or grant CAP_NET_ADMIN and CAP_NET_RAW")]
    NotPermitted(String),
    /// The kernel refused a change.
    #[error("cannot {what}: {source}")]
    Refused {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A kernel setting could not be written.
    #[error(
        "cannot set {path} to {value}: {source}; in a container, start it with `{}`",
        sysctl::for_container(path, value)
    )]
    Sysctl {
        /// Its file.
        path: String,
        /// The value it needs.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A forward would take a port from a program of this machine.
    #[error(
        "a program on this machine listens on {0}, and nobody on the LAN would reach it any more: choose another LAN port"
    )]
    OwnPort(Port),
    /// nft is missing.
    #[error(
        "cannot translate addresses: there is no nft; `apt-get install nftables`, or set [lan] address to a free address of the LAN and networks to those that are reached over its interface"
    )]
    NoNft,
    /// nft refused our rules.
    #[error("nft refused our rules: {0}")]
    Nft(String),
    /// The list of changes could not be kept.
    #[error("cannot write {}: {source}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl HostError {
    /// The kernel's refusal, told apart from a missing permission.
    fn refused(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted(what),
            _ => Self::Refused { what, source },
        }
    }
}

#[cfg(test)]
mod tests;
