//! ARP packets (RFC 826) to and from one interface.

use super::sys;
use smoltcp::wire::{ArpPacket, ArpRepr, EthernetAddress};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read};
use tokio::io::unix::AsyncFd;

const ETHERTYPE: u16 = 0x0806;

/// A socket for the ARP packets of one interface.
#[derive(Debug)]
pub struct Arp {
    socket: AsyncFd<Socket>,
    broadcast: SockAddr,
}

impl Arp {
    /// Listens on an interface. Needs CAP_NET_RAW and a tokio runtime.
    pub fn open(interface: u32) -> io::Result<Self> {
        let broadcast = sys::packet_address(interface, ETHERTYPE, EthernetAddress::BROADCAST.0)?;
        let protocol = Protocol::from(libc::c_int::from(ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind(&broadcast)?;
        Ok(Self {
            socket: sys::watch(socket)?,
            broadcast,
        })
    }

    /// Broadcasts a packet.
    pub async fn send(&self, arp: &ArpRepr) -> io::Result<()> {
        let mut bytes = vec![0; arp.buffer_len()];
        arp.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        loop {
            let mut ready = self.socket.writable().await?;
            if let Ok(result) = ready.try_io(|s| s.get_ref().send_to(&bytes, &self.broadcast)) {
                return result.map(drop);
            }
        }
    }

    /// The next packet that is ARP for IPv4 over Ethernet.
    pub async fn receive(&self) -> io::Result<ArpRepr> {
        let mut bytes = [0; 128];
        loop {
            let mut ready = self.socket.readable().await?;
            let Ok(result) = ready.try_io(|s| s.get_ref().read(&mut bytes)) else {
                continue;
            };
            let received = bytes.get(..result?).unwrap_or_default();
            if let Ok(arp) = ArpPacket::new_checked(received).and_then(|p| ArpRepr::parse(&p)) {
                return Ok(arp);
            }
        }
    }
}
