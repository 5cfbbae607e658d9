//! Neighbour discovery (RFC 4861) to and from one interface.

use super::link::Link;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr};
use std::io;
use std::net::Ipv6Addr;

const ETHERTYPE: u16 = 0x86DD;
/// What tells a neighbour's packet from one that came through a router (RFC 4861 section 11.2).
const HOP_LIMIT: u8 = 255;

/// A socket for the neighbour discovery of one interface.
#[derive(Debug)]
pub struct Ndp(Link);

/// A message, and who sent it to whom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Message<'p> {
    /// The sender; unspecified while it has no address yet.
    pub src: Ipv6Addr,
    /// The receivers, a multicast group.
    pub dst: Ipv6Addr,
    /// What it says.
    pub said: NdiscRepr<'p>,
}

impl Ndp {
    /// Listens on an interface. Needs CAP_NET_RAW and a tokio runtime.
    pub fn open(interface: u32) -> io::Result<Self> {
        Link::open(interface, ETHERTYPE).map(Self)
    }

    /// Sends a message to its group.
    pub async fn send(&self, message: &Message<'_>) -> io::Result<()> {
        let Message { src, dst, said } = *message;
        let icmp = Icmpv6Repr::Ndisc(said);
        let ip = Ipv6Repr {
            src_addr: src,
            dst_addr: dst,
            next_header: IpProtocol::Icmpv6,
            payload_len: icmp.buffer_len(),
            hop_limit: HOP_LIMIT,
        };
        let mut bytes = vec![0; ip.buffer_len() + icmp.buffer_len()];
        let mut packet = Ipv6Packet::new_unchecked(&mut bytes[..]);
        ip.emit(&mut packet);
        let mut payload = Icmpv6Packet::new_unchecked(packet.payload_mut());
        icmp.emit(&src, &dst, &mut payload, &ChecksumCapabilities::default());
        // RFC 2464 section 7: a group's station is its last four bytes.
        let [.., a, b, c, d] = dst.octets();
        self.0.send(&bytes, [0x33, 0x33, a, b, c, d]).await
    }

    /// The next solicitation or advertisement that `like` takes something from.
    pub async fn find<T>(&self, like: impl Fn(&Message<'_>) -> Option<T>) -> io::Result<T> {
        let mut room = [0; 1500];
        loop {
            let received = self.0.receive(&mut room).await?;
            if let Some(found) = parse(received).as_ref().and_then(&like) {
                return Ok(found);
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Message<'_>> {
    let ip = Ipv6Packet::new_checked(bytes).ok()?;
    if ip.next_header() != IpProtocol::Icmpv6 || ip.hop_limit() != HOP_LIMIT {
        return None;
    }
    let (src, dst) = (ip.src_addr(), ip.dst_addr());
    let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    match Icmpv6Repr::parse(&src, &dst, &icmp, &ChecksumCapabilities::default()).ok()? {
        Icmpv6Repr::Ndisc(said) => Some(Message { src, dst, said }),
        _ => None,
    }
}
