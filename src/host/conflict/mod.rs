//! Address conflicts on the LAN: probes for an address before it is used, announces it, and
//! recognises other stations that use it (RFC 5227 for IPv4, RFC 4861 and RFC 4862 for IPv6).
//!
//! It never decides what follows from a conflict.

pub(super) mod arp;
pub(super) mod ndp;

use super::{HostError, Interface};
use std::net::IpAddr;
use std::time::Duration;

/// Pause after each probe. RFC 5227 takes up to 7 seconds in total, for links that are slow to come
/// up and hundreds of machines that start at once; a wired station answers within milliseconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// Probes for one address. RFC 4862 sends one by default, which can get lost.
const PROBE_COUNT: usize = 3;

/// Returns the station on the LAN that has the address, if there is one. Interfaces without ARP or
/// neighbour discovery have no conflicts.
///
/// # Errors
/// Fails if the kernel grants no packet socket.
pub(crate) async fn holder(
    interface: &Interface,
    address: IpAddr,
) -> Result<Option<String>, HostError> {
    let Some(ours) = interface.ethernet else {
        return Ok(None);
    };
    let probed = match address {
        IpAddr::V4(address) => arp::probe(interface, ours, address).await,
        IpAddr::V6(address) => ndp::probe(interface.index, address).await,
    };
    probed.map_err(|e| HostError::refused(format!("probe the LAN for {address}"), e))
}

/// Announces to the LAN that the address is at this machine, so that no station asks a former
/// holder.
///
/// # Errors
/// Fails if the kernel grants no packet socket.
pub(super) async fn announce(interface: &Interface, address: IpAddr) -> Result<(), HostError> {
    let Some(ours) = interface.ethernet else {
        return Ok(());
    };
    let announced = match address {
        IpAddr::V4(address) => arp::announce(interface.index, ours, address).await,
        IpAddr::V6(address) => ndp::announce(interface.index, ours, address).await,
    };
    announced.map_err(|e| HostError::refused(format!("announce {address} on the LAN"), e))
}
