//! Detects other stations that use a LAN address of this endpoint while it runs, and defends the
//! address: RFC 5227 section 2.4 (c) for IPv4, and likewise for IPv6, where advertisements are
//! received. It also answers the probes of stations that look for a free address.
//!
//! It never gives up the address, because the clients' connections depend on it.

use super::{HostError, Interface, conflict};
use smoltcp::wire::EthernetAddress;
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use vcgate_io::arp::Arp;
use vcgate_io::ndp::Ndp;

/// RFC 5227 section 1.1: an address is defended at most once in this interval.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// Another station uses an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// The address.
    pub address: IpAddr,
    /// The station.
    pub station: EthernetAddress,
}

/// Listens on the LAN interface.
#[derive(Debug)]
pub struct Defence {
    /// Without a station address there is no ARP and no conflict.
    ours: Option<EthernetAddress>,
    arp: Option<Arp>,
    ipv6: Option<(Ndp, Ipv6Addr)>,
    /// Watched addresses, which can change.
    watched: Rc<RefCell<Vec<IpAddr>>>,
    defended: HashMap<IpAddr, Instant>,
}

impl Defence {
    /// Listens for conflicts about `addresses`, at most one of them IPv6. Addresses of IPv4 may be added
    /// and removed later, unless there is none at all.
    pub(super) fn open(
        interface: &Interface,
        watched: Rc<RefCell<Vec<IpAddr>>>,
    ) -> Result<Self, HostError> {
        let addresses = watched.borrow().clone();
        let mut defence = Self {
            ours: interface.ethernet,
            arp: None,
            ipv6: None,
            watched,
            defended: HashMap::new(),
        };
        let refused = |e| HostError::refused("listen for conflicts about LAN addresses", e);
        if !addresses.is_empty() {
            defence.arp = Some(Arp::open(interface.index).map_err(refused)?);
        }
        for address in addresses {
            if let IpAddr::V6(ip) = address {
                defence.ipv6 = Some((Ndp::open(interface.index).map_err(refused)?, ip));
            }
        }
        Ok(defence)
    }

    /// Waits for the next packet of another station that uses a watched address, and defends the
    /// address if that is due.
    ///
    /// # Errors
    /// Fails if a packet socket fails.
    pub async fn next(&mut self) -> io::Result<Sighting> {
        let Some(ours) = self.ours else {
            return pending().await;
        };
        let sighting = tokio::select! {
            sighting = next_arp_conflict(self.arp.as_ref(), &self.watched, ours) => sighting?,
            sighting = next_ndp_conflict(self.ipv6.as_ref(), ours) => sighting?,
        };
        if self.is_due(sighting.address, Instant::now()) {
            match (&self.arp, &self.ipv6, sighting.address) {
                (Some(arp), _, IpAddr::V4(ip)) => conflict::arp::defend(arp, ours, ip).await?,
                (_, Some((ndp, ip)), IpAddr::V6(_)) => {
                    conflict::ndp::defend(ndp, ours, *ip).await?
                }
                _ => {}
            }
        }
        Ok(sighting)
    }

    /// Whether an address is to be defended now. If so, the defence is recorded.
    fn is_due(&mut self, address: IpAddr, now: Instant) -> bool {
        let recent = |then: &Instant| now.duration_since(*then) < DEFEND_INTERVAL;
        if self.defended.get(&address).is_some_and(recent) {
            return false;
        }
        self.defended.insert(address, now);
        true
    }
}

async fn next_arp_conflict(
    arp: Option<&Arp>,
    watched: &RefCell<Vec<IpAddr>>,
    ours: EthernetAddress,
) -> io::Result<Sighting> {
    let Some(arp) = arp else {
        return pending().await;
    };
    loop {
        let packet = arp.receive().await?;
        let used = |address: &IpAddr| match *address {
            IpAddr::V4(ip) => Some((*address, conflict::arp::used_by(&packet, ours, ip)?)),
            IpAddr::V6(_) => None,
        };
        if let Some((address, station)) = watched.borrow().iter().find_map(used) {
            return Ok(Sighting { address, station });
        }
        let addresses = watched.borrow().clone();
        for address in addresses {
            if let IpAddr::V4(ip) = address
                && conflict::arp::answer_probe(arp, &packet, ours, ip).await?
            {
                break;
            }
        }
    }
}

async fn next_ndp_conflict(
    watched: Option<&(Ndp, Ipv6Addr)>,
    ours: EthernetAddress,
) -> io::Result<Sighting> {
    let Some((ndp, address)) = watched else {
        return pending().await;
    };
    let used =
        |message: &vcgate_io::ndp::Message<'_>| conflict::ndp::used_by(message, ours, *address);
    let station = ndp.find(used).await?;
    let address = IpAddr::V6(*address);
    Ok(Sighting { address, station })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_defended_once_in_ten_seconds() {
        let mut defence = Defence {
            ours: None,
            arp: None,
            ipv6: None,
            watched: Rc::default(),
            defended: HashMap::new(),
        };
        let (one, other) = (
            IpAddr::from([192, 168, 77, 2]),
            IpAddr::from([192, 168, 77, 3]),
        );
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(defence.is_due(one, start));
        assert!(!defence.is_due(one, after(9)));
        assert!(defence.is_due(other, after(9)));
        assert!(defence.is_due(one, after(10)));
        assert!(!defence.is_due(one, after(19)));
    }
}
