//! Conflicts about an IPv4 address, by ARP (RFC 5227).

use super::{Interface, PROBE_INTERVAL};
use ipnet::IpNet;
use smoltcp::wire::{ArpOperation, ArpRepr, EthernetAddress};
use std::io;
use std::net::Ipv4Addr;
use tokio::time::sleep;
use vcgate_io::arp::Arp;

/// RFC 5227 section 1.1: ANNOUNCE_NUM.
const ANNOUNCE_COUNT: usize = 2;

const NO_STATION: EthernetAddress = EthernetAddress([0; 6]);

/// Announces that the address is at this machine.
pub(super) async fn announce(
    interface: u32,
    ours: EthernetAddress,
    address: Ipv4Addr,
) -> io::Result<()> {
    let arp = Arp::open(interface)?;
    for _ in 0..ANNOUNCE_COUNT {
        arp.send(&request(ours, address, address)).await?;
    }
    Ok(())
}

/// Repeats the announcement once, to defend the address (RFC 5227 section 2.4).
pub(in crate::host) async fn defend(
    arp: &Arp,
    ours: EthernetAddress,
    address: Ipv4Addr,
) -> io::Result<()> {
    arp.send(&request(ours, address, address)).await
}

/// Returns the station that uses the address according to this packet (RFC 5227 section 2.4).
pub(in crate::host) fn used_by(
    arp: &ArpRepr,
    ours: EthernetAddress,
    address: Ipv4Addr,
) -> Option<EthernetAddress> {
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

/// Answers a probe for the address by another station (RFC 5227 section 2.1.1), which Linux does not
/// answer for proxied addresses. Returns whether the packet is one.
pub(in crate::host) async fn answer_probe(
    arp: &Arp,
    packet: &ArpRepr,
    ours: EthernetAddress,
    address: Ipv4Addr,
) -> io::Result<bool> {
    let Some(answer) = answer_to_probe(packet, ours, address) else {
        return Ok(false);
    };
    arp.send(&answer).await.map(|()| true)
}

fn answer_to_probe(arp: &ArpRepr, ours: EthernetAddress, address: Ipv4Addr) -> Option<ArpRepr> {
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: station,
        source_protocol_addr: Ipv4Addr::UNSPECIFIED,
        target_protocol_addr: target,
        ..
    } = *arp
    else {
        return None;
    };
    (station != ours && target == address).then_some(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: ours,
        source_protocol_addr: address,
        target_hardware_addr: station,
        target_protocol_addr: Ipv4Addr::UNSPECIFIED,
    })
}

/// Probes for the address and returns the station that has it, or is about to take it.
pub(super) async fn probe(
    interface: &Interface,
    ours: EthernetAddress,
    address: Ipv4Addr,
) -> io::Result<Option<String>> {
    // Linux answers an ARP probe only for addresses that it has. For a proxied address, as that of
    // another vcgate, it answers only a request that has a sender address.
    let own = interface.addresses.iter().find_map(|net| match net {
        IpNet::V4(net) if net.contains(&address) => Some(net.addr()),
        _ => None,
    });
    let own = own.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let arp = Arp::open(interface.index)?;
    let answer = async {
        loop {
            if let Some(station) = claims(&arp.receive().await?, ours, address) {
                return Ok(station);
            }
        }
    };
    let probes = async {
        for sender in [Ipv4Addr::UNSPECIFIED, own, Ipv4Addr::UNSPECIFIED] {
            arp.send(&request(ours, sender, address)).await?;
            sleep(PROBE_INTERVAL).await;
        }
        Ok(())
    };
    tokio::select! {
        station = answer => station.map(|station| Some(station.to_string())),
        sent = probes => sent.map(|()| None),
    }
}

/// Returns the station that claims the address by this packet, or is about to take it (RFC 5227
/// section 2.1.1).
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
    fn rfc5227_section_2_1_1_only_probes_of_other_stations_are_answered() {
        let answer = |arp: ArpRepr| answer_to_probe(&arp, OURS, IP);
        let probe = request(THEIRS, Ipv4Addr::UNSPECIFIED, IP);
        let reply = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: OURS,
            source_protocol_addr: IP,
            target_hardware_addr: THEIRS,
            target_protocol_addr: Ipv4Addr::UNSPECIFIED,
        };
        assert_eq!(answer(probe), Some(reply));
        assert_eq!(answer(request(OURS, Ipv4Addr::UNSPECIFIED, IP)), None);
        assert_eq!(answer(request(THEIRS, Ipv4Addr::UNSPECIFIED, OTHER)), None);
        assert_eq!(answer(request(THEIRS, OTHER, IP)), None);
        assert_eq!(answer(reply), None);
    }

    #[test]
    fn rfc5227_section_2_1_1_claims_and_probes_are_conflicts() {
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
