//! Neighbour discovery (RFC 4861) to and from one interface.

use super::link::Link;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr};
use socket2::SockFilter;
use std::io;
use std::net::Ipv6Addr;

const ETHERTYPE: u16 = 0x86DD;
/// The hop limit of a packet that no router has forwarded (RFC 4861 section 11.2).
const HOP_LIMIT: u8 = 255;

/// A socket for the neighbour discovery of one interface.
#[derive(Debug)]
pub struct Ndp(Link);

/// A message with its addresses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Message<'p> {
    /// The sender; unspecified while it has no address.
    pub src: Ipv6Addr,
    /// The receivers, a multicast group.
    pub dst: Ipv6Addr,
    /// The content.
    pub said: NdiscRepr<'p>,
}

impl Ndp {
    /// Listens on an interface.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(interface: u32) -> io::Result<Self> {
        let link = Link::open(interface, ETHERTYPE)?;
        link.filter(&only_neighbour_discovery())?;
        Ok(Self(link))
    }

    /// Sends a message to its multicast group.
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
        // RFC 2464 section 7: the last four bytes of a group are those of its station address.
        let [.., a, b, c, d] = dst.octets();
        self.0.send(&bytes, [0x33, 0x33, a, b, c, d]).await
    }

    /// Waits for a solicitation or advertisement for which `select` returns a value.
    pub async fn find<T>(&self, select: impl Fn(&Message<'_>) -> Option<T>) -> io::Result<T> {
        let mut buffer = [0; 1500];
        loop {
            let received = self.0.receive(&mut buffer).await?;
            if let Some(found) = parse(received).as_ref().and_then(&select) {
                return Ok(found);
            }
        }
    }
}

/// Returns a filter that accepts solicitations and advertisements only, so that other IPv6 traffic
/// costs nothing.
fn only_neighbour_discovery() -> [SockFilter; 7] {
    // linux/bpf_common.h: a byte at an offset of the IPv6 header, a comparison, a return.
    const LOAD: u16 = 0x30;
    const IS: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NEXT_HEADER: u32 = 6;
    const ICMPV6: u32 = 58;
    const ICMP_TYPE: u32 = 40;
    const SOLICITATION: u32 = 135;
    const ADVERTISEMENT: u32 = 136;
    [
        SockFilter::new(LOAD, 0, 0, NEXT_HEADER),
        SockFilter::new(IS, 0, 3, ICMPV6),
        SockFilter::new(LOAD, 0, 0, ICMP_TYPE),
        SockFilter::new(IS, 2, 0, SOLICITATION),
        SockFilter::new(IS, 1, 0, ADVERTISEMENT),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
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
