//! ARP packets (RFC 826) to and from one interface.

use super::link::Link;
use smoltcp::wire::{ArpPacket, ArpRepr, EthernetAddress};
use std::io;

const ETHERTYPE: u16 = 0x0806;

/// A socket for the ARP packets of one interface.
#[derive(Debug)]
pub struct Arp(Link);

impl Arp {
    /// Listens on an interface.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(interface: u32) -> io::Result<Self> {
        Link::open(interface, ETHERTYPE).map(Self)
    }

    /// Broadcasts a packet.
    pub async fn send(&self, arp: &ArpRepr) -> io::Result<()> {
        let mut bytes = vec![0; arp.buffer_len()];
        arp.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        self.0.send(&bytes, EthernetAddress::BROADCAST.0).await
    }

    /// Waits for the next packet that is ARP for IPv4 over Ethernet.
    pub async fn receive(&self) -> io::Result<ArpRepr> {
        let mut buffer = [0; 128];
        loop {
            let received = self.0.receive(&mut buffer).await?;
            if let Ok(arp) = ArpPacket::new_checked(received).and_then(|p| ArpRepr::parse(&p)) {
                return Ok(arp);
            }
        }
    }
}
