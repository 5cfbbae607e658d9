//! Conflicts about an IPv6 address, by neighbour discovery (RFC 4861, RFC 4862).

use super::{PROBE_COUNT, PROBE_INTERVAL};
use smoltcp::wire::{EthernetAddress, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress};
use std::io;
use std::net::Ipv6Addr;
use tokio::time::sleep;
use vcgate_io::ndp::{Message, Ndp};

/// RFC 4861 section 10: MAX_NEIGHBOR_ADVERTISEMENT.
const ANNOUNCE_COUNT: usize = 3;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);

/// Announces that the address is at this machine (RFC 4861 section 7.2.6).
pub(super) async fn announce(
    interface: u32,
    ours: EthernetAddress,
    address: Ipv6Addr,
) -> io::Result<()> {
    let ndp = Ndp::open(interface)?;
    for _ in 0..ANNOUNCE_COUNT {
        ndp.send(&advertisement(ours, address)).await?;
    }
    Ok(())
}

/// Repeats the announcement once, to defend the address.
pub(in crate::host) async fn defend(
    ndp: &Ndp,
    ours: EthernetAddress,
    address: Ipv6Addr,
) -> io::Result<()> {
    ndp.send(&advertisement(ours, address)).await
}

/// Returns the other station that has the address according to this advertisement (RFC 4862
/// section 5.4.4).
pub(in crate::host) fn used_by(
    message: &Message<'_>,
    ours: EthernetAddress,
    address: Ipv6Addr,
) -> Option<EthernetAddress> {
    let NdiscRepr::NeighborAdvert {
        target_addr,
        lladdr,
        ..
    } = message.said
    else {
        return None;
    };
    let station = EthernetAddress::from_bytes(lladdr?.as_bytes().get(..6)?);
    (station != ours && target_addr == address).then_some(station)
}

/// Probes for the address and returns the station that has it, or is about to take it (RFC 4862
/// section 5.4).
pub(super) async fn probe(interface: u32, address: Ipv6Addr) -> io::Result<Option<String>> {
    let ndp = Ndp::open(interface)?;
    let answer = ndp.find(|message| claims(message, address));
    let probes = async {
        for _ in 0..PROBE_COUNT {
            ndp.send(&solicitation(address)).await?;
            sleep(PROBE_INTERVAL).await;
        }
        Ok(())
    };
    tokio::select! {
        station = answer => station.map(Some),
        sent = probes => sent.map(|()| None),
    }
}

/// Returns the station that claims the address by this message, or is about to take it (RFC 4862
/// sections 5.4.3 and 5.4.4).
fn claims(message: &Message<'_>, address: Ipv6Addr) -> Option<String> {
    let (target, station) = match message.said {
        NdiscRepr::NeighborAdvert {
            target_addr,
            lladdr,
            ..
        } => (target_addr, lladdr),
        NdiscRepr::NeighborSolicit {
            target_addr,
            lladdr,
        } if message.src.is_unspecified() => (target_addr, lladdr),
        _ => return None,
    };
    let name = || match station {
        Some(station) => station.to_string(),
        None => "a station without a link-layer address".to_owned(),
    };
    (target == address).then(name)
}

fn solicitation(address: Ipv6Addr) -> Message<'static> {
    let [.., a, b, c] = address.octets();
    Message {
        src: Ipv6Addr::UNSPECIFIED,
        // The solicited-node group (RFC 4291 section 2.7.1).
        dst: Ipv6Addr::new(
            0xFF02,
            0,
            0,
            0,
            0,
            1,
            0xFF00 | u16::from(a),
            u16::from_be_bytes([b, c]),
        ),
        said: NdiscRepr::NeighborSolicit {
            target_addr: address,
            lladdr: None,
        },
    }
}

fn advertisement(ours: EthernetAddress, address: Ipv6Addr) -> Message<'static> {
    Message {
        src: address,
        dst: ALL_NODES,
        said: NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::OVERRIDE,
            target_addr: address,
            lladdr: Some(RawHardwareAddress::from(ours)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc4862_claims_and_probes_are_conflicts() {
        let address = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0x12, 0x3456);
        let other = Ipv6Addr::new(0xFD00, 0x77, 0, 0, 0, 0, 0, 9);
        let station = EthernetAddress([2, 0, 0, 0, 0, 2]);
        let defended = advertisement(station, address);
        assert_eq!(claims(&defended, address), Some("02:00:00:00:00:02".into()));
        assert_eq!(claims(&defended, other), None);
        let ours = EthernetAddress([2, 0, 0, 0, 0, 1]);
        assert_eq!(used_by(&defended, ours, address), Some(station));
        assert_eq!(used_by(&defended, station, address), None);
        assert_eq!(used_by(&defended, ours, other), None);
        let probe = solicitation(address);
        assert_eq!(used_by(&probe, ours, address), None);
        assert_eq!(probe.dst, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert!(claims(&probe, address).is_some());
        // A station that asks for the address does not have it.
        let asks = Message {
            src: other,
            ..probe
        };
        assert_eq!(claims(&asks, address), None);
    }
}
