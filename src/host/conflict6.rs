//! Whether an IPv6 address is free (RFC 4862 section 5.4), and the word to all that it is now
//! ours (RFC 4861 section 7.2.6).

use super::{HostError, Interface};
use smoltcp::wire::{EthernetAddress, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress};
use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;
use tokio::time::sleep;
use vcgate_io::ndp::{Message, Ndp};

/// RFC 4861 section 10: MAX_NEIGHBOR_ADVERTISEMENT.
const ANNOUNCEMENTS: usize = 3;
/// One probe is the RFC's default; one can get lost.
const PROBES: usize = 3;
/// The RFC would wait for a second after each. A wired station answers within milliseconds.
const INTERVAL: Duration = Duration::from_millis(250);

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);

/// Who on the LAN has the address, if anybody. Interfaces without neighbour discovery have no
/// such conflicts.
pub async fn holder(interface: &Interface, address: Ipv6Addr) -> Result<Option<String>, HostError> {
    if interface.ethernet.is_none() {
        return Ok(None);
    }
    let probed = probe(interface.index, address).await;
    probed.map_err(|e| HostError::refused(format!("probe for {address} by NDP"), e))
}

/// Tells all on the LAN that the address is at this machine, so that nobody asks an old holder.
pub async fn announce(interface: &Interface, address: Ipv6Addr) -> Result<(), HostError> {
    let Some(ours) = interface.ethernet else {
        return Ok(());
    };
    let announced = async {
        let ndp = Ndp::open(interface.index)?;
        for _ in 0..ANNOUNCEMENTS {
            ndp.send(&advertisement(ours, address)).await?;
        }
        Ok(())
    };
    announced
        .await
        .map_err(|e| HostError::refused(format!("announce {address} by NDP"), e))
}

/// Repeats once that the address is at this machine.
pub async fn defend(ndp: &Ndp, ours: EthernetAddress, address: Ipv6Addr) -> io::Result<()> {
    ndp.send(&advertisement(ours, address)).await
}

/// The station that has the address by this advertisement, if it is another one (RFC 4862 section
/// 5.4.4).
pub fn used_by(
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

async fn probe(interface: u32, address: Ipv6Addr) -> io::Result<Option<String>> {
    let ndp = Ndp::open(interface)?;
    let heard = ndp.find(|message| claims(message, address));
    let asked = async {
        for _ in 0..PROBES {
            ndp.send(&solicitation(address)).await?;
            sleep(INTERVAL).await;
        }
        Ok(())
    };
    tokio::select! {
        station = heard => station.map(Some),
        done = asked => done.map(|()| None),
    }
}

/// Who says by this message that the address is theirs, or that they are about to take it (RFC
/// 4862 sections 5.4.3 and 5.4.4).
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
        None => "a station that tells no name".to_owned(),
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
    fn rfc4862_who_claims_an_address() {
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
        // Somebody who asks for it does not have it.
        let asks = Message {
            src: other,
            ..probe
        };
        assert_eq!(claims(&asks, address), None);
    }
}
