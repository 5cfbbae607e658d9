//! Detects other stations that use a LAN address of this endpoint while it runs, and defends the
//! address: RFC 5227 section 2.4 (c) for IPv4, and likewise for IPv6, where advertisements are
//! received.
//!
//! It never gives up the address, because the clients' connections depend on it.

use super::{HostError, Interface, conflict};
use smoltcp::wire::EthernetAddress;
use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
    ipv4: Option<(Arp, Vec<Ipv4Addr>)>,
    ipv6: Option<(Ndp, Ipv6Addr)>,
    defended: HashMap<IpAddr, Instant>,
}

impl Defence {
    /// Listens for conflicts about `addresses`, at most one of them IPv6.
    pub(super) fn open(interface: &Interface, addresses: &[IpAddr]) -> Result<Self, HostError> {
        let mut defence = Self {
            ours: interface.ethernet,
            ipv4: None,
            ipv6: None,
            defended: HashMap::new(),
        };
        for address in addresses {
            let opened = match *address {
                IpAddr::V4(ip) => match &mut defence.ipv4 {
                    Some((_, watched)) => {
                        watched.push(ip);
                        Ok(())
                    }
                    None => {
                        Arp::open(interface.index).map(|arp| defence.ipv4 = Some((arp, vec![ip])))
                    }
                },
                IpAddr::V6(ip) => {
                    Ndp::open(interface.index).map(|ndp| defence.ipv6 = Some((ndp, ip)))
                }
            };
            opened.map_err(|e| {
                HostError::refused(format!("listen for conflicts about {address}"), e)
            })?;
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
            sighting = next_arp_conflict(self.ipv4.as_ref(), ours) => sighting?,
            sighting = next_ndp_conflict(self.ipv6.as_ref(), ours) => sighting?,
        };
        if self.is_due(sighting.address, Instant::now()) {
            match (&self.ipv4, &self.ipv6, sighting.address) {
                (Some((arp, _)), _, IpAddr::V4(ip)) => conflict::arp::defend(arp, ours, ip).await?,
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
    watched: Option<&(Arp, Vec<Ipv4Addr>)>,
    ours: EthernetAddress,
) -> io::Result<Sighting> {
    let Some((arp, addresses)) = watched else {
        return pending().await;
    };
    loop {
        let packet = arp.receive().await?;
        let used = |address| Some((address, conflict::arp::used_by(&packet, ours, address)?));
        if let Some((address, station)) = addresses.iter().copied().find_map(used) {
            let address = IpAddr::V4(address);
            return Ok(Sighting { address, station });
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
            ipv4: None,
            ipv6: None,
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
