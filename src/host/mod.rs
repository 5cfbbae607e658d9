//! Sets up the host: addresses, routes, forwarding, proxy neighbours, nftables rules.
//!
//! It is never on the data path. Everything that it changes is undone by [`Setup::undo`], or by the
//! next run if this one is killed.

mod claim;
pub(crate) mod conflict;
mod defence;
mod dnat;
mod egress;
mod further;
mod lan_view;
pub(crate) mod listening;
mod monitor;
mod netlink;
pub(crate) mod nft;
pub mod programs;
mod reconciler;
mod resolv_conf;
mod routes;
pub(crate) mod setup;
pub(crate) mod sysctl;
mod transit;
mod undo_log;

pub use defence::{Defence, Sighting};
pub use dnat::DnatRules;
pub use egress::Egress;
pub use further::FurtherAddresses;
pub use lan_view::lan_view;
pub use monitor::NetlinkMonitor;
pub use netlink::{Interface, Netlink};
pub use reconciler::Reconciler;
pub use resolv_conf::ResolvConf;
pub use routes::Routes;
pub use setup::{Plan, Setup};
pub use undo_log::file_of;

use crate::config::Port;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// An error while setting up the host. Each message names the remedy.
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
    /// No interface was named, and there is no default route to take it from.
    #[error("cannot find the LAN interface: this machine has no IPv4 default route; set [lan] interface to one of: {}", .0.join(", "))]
    NoDefaultRoute(Vec<String>),
    /// The LAN interface is down.
    #[error("the LAN interface {0} is down: `ip link set {0} up`")]
    InterfaceDown(String),
    /// Another station on the LAN has the address.
    #[error(
        "the LAN address {address} is taken: {station} on {interface} answers for it; {}",
        setup::remedy(*address, peer.as_deref(), " or to \"auto\"")
    )]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The station that answered.
        station: String,
        /// The interface that it was found on.
        interface: String,
        /// The only peer that was to use it.
        peer: Option<String>,
    },
    /// The address is assigned to this machine.
    #[error(
        "the LAN address {address} is assigned to this machine (on {interface}): {}",
        setup::remedy(*address, peer.as_deref(), ", or to \"auto\" to share the machine's address")
    )]
    OwnAddress {
        /// The address.
        address: IpAddr,
        /// The interface that has it.
        interface: String,
        /// The only peer that was to use it.
        peer: Option<String>,
    },
    /// The LAN interface is missing.
    #[error("cannot use another LAN address: {0}")]
    NoLan(String),
    /// The endpoint has given up the right to announce addresses.
    #[error(
        "cannot use another LAN address while vcgate runs: it was started without one of its own, and keeps no right to announce one; restart vcgate with lan_address in the configuration"
    )]
    OnlyAtStart,
    /// IPv6 is switched off on the LAN interface.
    #[error(
        "IPv6 is switched off on {0}: take [lan] address6 out, or `sysctl net.ipv6.conf.{0}.disable_ipv6=0`; in a container, start it with `--sysctl net.ipv6.conf.all.disable_ipv6=0`"
    )]
    NoIpv6(String),
    /// All candidates for the transit address between the TUN device and the host are in use.
    #[error("no private transit address is free: set [lan] address to a free address of the LAN")]
    NoTransitAddress,
    /// The process may not change the network.
    #[error("no permission to {0}: run as root or grant CAP_NET_ADMIN and CAP_NET_RAW")]
    NotPermitted(String),
    /// The kernel rejected a change.
    #[error("cannot {what}: {source}")]
    Refused {
        /// The change, as a verb and its object.
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A kernel setting could not be written.
    #[error(
        "cannot set {path} to {value}: {source}; in a container, start it with `{}`",
        sysctl::for_container(path, value)
    )]
    Sysctl {
        /// The file under /proc/sys.
        path: String,
        /// The required value.
        value: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A forward would take over a port on which a program of this machine listens.
    #[error(
        "cannot forward {0}: a program on this machine listens on it and would become unreachable from the LAN; choose another LAN port"
    )]
    OwnPort(Port),
    /// The `nft` program is missing.
    #[error(
        "cannot translate addresses: nft is not installed; `apt-get install nftables`, or set [lan] address to a free address of the LAN and networks to those that are reached over its interface"
    )]
    NoNft,
    /// `nft` rejected the rules.
    #[error("cannot set up nftables: {0}")]
    Nft(String),
    /// The undo log could not be written.
    #[error("cannot write {}: {source}", path.display())]
    UndoLog {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

impl HostError {
    /// Makes a permission error from EPERM and EACCES, and a refusal from any other error.
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
