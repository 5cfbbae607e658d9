//! Whether an address is free, and the word to all that it is now ours (RFC 5227).

use super::{HostError, Interface};
use ipnet::IpNet;
use smoltcp::wire::{ArpOperation, ArpRepr, EthernetAddress};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::sleep;
use vcgate_io::arp::Arp;

/// RFC 5227 section 1.1: ANNOUNCE_NUM; PROBE_NUM is 3.
const ANNOUNCEMENTS: usize = 2;
/// RFC 5227 would take up to 7 seconds, for links that are slow to come up and hundreds of
/// machines that start at once. A wired station answers within milliseconds.
const INTERVAL: Duration = Duration::from_millis(250);

const NO_STATION: EthernetAddress = EthernetAddress([0; 6]);

/// Who on the LAN has the address, if anybody. Interfaces without ARP have no such conflicts.
pub async fn holder(
    interface: &Interface,
    address: Ipv4Addr,
) -> Result<Option<EthernetAddress>, HostError> {
    let Some(ours) = interface.ethernet else {
        return Ok(None);
    };
    let probed = probe(interface, ours, address).await;
    probed.map_err(|e| HostError::refused(format!("probe for {address} by ARP"), e))
}

/// Tells all on the LAN that the address is at this machine, so that nobody asks an old holder.
pub async fn announce(interface: &Interface, address: Ipv4Addr) -> Result<(), HostError> {
    let Some(ours) = interface.ethernet else {
        return Ok(());
    };
    let announced = async {
        let arp = Arp::open(interface.index)?;
        for _ in 0..ANNOUNCEMENTS {
            arp.send(&request(ours, address, address)).await?;
        }
        Ok(())
    };
    announced
        .await
        .map_err(|e| HostError::refused(format!("announce {address} by ARP"), e))
}

/// Repeats once that the address is at this machine (RFC 5227 section 2.4).
pub async fn defend(arp: &Arp, ours: EthernetAddress, address: Ipv4Addr) -> io::Result<()> {
    arp.send(&request(ours, address, address)).await
}

/// The station that uses the address by this packet (RFC 5227 section 2.4).
pub fn used_by(arp: &ArpRepr, ours: EthernetAddress, address: Ipv4Addr) -> Option<EthernetAddress> {
    let ArpRepr::EthernetIpv4 {
        source_hardware_addr: station,
        source_protocol_addr: sender,
        ..
    } = *arp
    else {
        return None;
    };
    (station != ours && sender == address).then_some(station)
}

async fn probe(
    interface: &Interface,
    ours: EthernetAddress,
    address: Ipv4Addr,
) -> io::Result<Option<EthernetAddress>> {
    let nobody = Ipv4Addr::UNSPECIFIED;
    // Linux answers probes for its own addresses only. One for which it stands in, as another
    // endpoint of our kind does, it tells to those who ask under an address of theirs.
    let own = interface.addresses.iter().find_map(|net| match net {
        IpNet::V4(net) if net.contains(&address) => Some(net.addr()),
        _ => None,
    });
    let own = own.unwrap_or(nobody);
    let arp = Arp::open(interface.index)?;
    let heard = async {
        loop {
            if let Some(station) = claims(&arp.receive().await?, ours, address) {
                return Ok(station);
            }
        }
    };
    let asked = async {
        for sender in [nobody, own, nobody] {
            arp.send(&request(ours, sender, address)).await?;
            sleep(INTERVAL).await;
        }
        Ok(())
    };
    tokio::select! {
        station = heard => station.map(Some),
        done = asked => done.map(|()| None),
    }
}

/// Who says by this packet that the address is theirs, or that they are about to take it (RFC
/// 5227 section 2.1.1).
fn claims(arp: &ArpRepr, ours: EthernetAddress, address: Ipv4Addr) -> Option<EthernetAddress> {
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: station,
        source_protocol_addr: sender,
        target_protocol_addr: target,
        ..
    } = *arp
    else {
        return None;
    };
    let probes = operation == ArpOperation::Request && sender.is_unspecified() && target == address;
    (station != ours && (sender == address || probes)).then_some(station)
}

fn request(ours: EthernetAddress, sender: Ipv4Addr, target: Ipv4Addr) -> ArpRepr {
    ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: ours,
        source_protocol_addr: sender,
        target_hardware_addr: NO_STATION,
        target_protocol_addr: target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
    const THEIRS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);
    const IP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 3);

    #[test]
    fn rfc5227_section_2_4_packets_of_the_address_are_conflicts_and_probes_are_not() {
        let used = |arp: ArpRepr| used_by(&arp, OURS, IP);
        assert_eq!(used(request(THEIRS, IP, OTHER)), Some(THEIRS));
        assert_eq!(used(request(OURS, IP, IP)), None);
        assert_eq!(used(request(THEIRS, Ipv4Addr::UNSPECIFIED, IP)), None);
        assert_eq!(used(request(THEIRS, OTHER, IP)), None);
    }

    #[test]
    fn rfc5227_section_2_1_1_who_claims_an_address() {
        let claimed = |arp: ArpRepr| claims(&arp, OURS, IP);
        assert_eq!(claimed(request(THEIRS, IP, OTHER)), Some(THEIRS));
        assert_eq!(claimed(request(THEIRS, IP, IP)), Some(THEIRS));
        assert_eq!(
            claimed(request(THEIRS, Ipv4Addr::UNSPECIFIED, IP)),
            Some(THEIRS)
        );
        assert_eq!(claimed(request(THEIRS, OTHER, IP)), None);
        assert_eq!(claimed(request(THEIRS, Ipv4Addr::UNSPECIFIED, OTHER)), None);
        assert_eq!(claimed(request(OURS, Ipv4Addr::UNSPECIFIED, IP)), None);
    }
}
