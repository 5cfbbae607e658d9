//! Packets of one EtherType to and from one interface, below IP.

use super::sys;
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use std::io::{self, Read};
use tokio::io::unix::AsyncFd;

/// A socket for the packets of one EtherType on one interface, without their Ethernet headers.
#[derive(Debug)]
pub(super) struct Link {
    socket: AsyncFd<Socket>,
    interface: u32,
    ethertype: u16,
}

impl Link {
    /// Listens on an interface. It needs CAP_NET_RAW and a tokio runtime.
    pub(super) fn open(interface: u32, ethertype: u16) -> io::Result<Self> {
        let protocol = Protocol::from(libc::c_int::from(ethertype.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind(&sys::packet_address(interface, ethertype, [0; 6])?)?;
        Ok(Self {
            socket: sys::watch(socket)?,
            interface,
            ethertype,
        })
    }

    /// Receives only the packets that a classic BPF program accepts.
    pub(super) fn filter(&self, program: &[SockFilter]) -> io::Result<()> {
        self.socket.get_ref().attach_filter(program)
    }

    /// Sends a packet to a unicast or multicast station address.
    pub(super) async fn send(&self, packet: &[u8], station: [u8; 6]) -> io::Result<()> {
        let to: SockAddr = sys::packet_address(self.interface, self.ethertype, station)?;
        loop {
            let mut ready = self.socket.writable().await?;
            if let Ok(result) = ready.try_io(|s| s.get_ref().send_to(packet, &to)) {
                return result.map(drop);
            }
        }
    }

    /// Waits for the next packet and reads it, truncated to the size of `buffer`.
    pub(super) async fn receive<'r>(&self, buffer: &'r mut [u8]) -> io::Result<&'r [u8]> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(result) = ready.try_io(|s| s.get_ref().read(buffer)) {
                return Ok(buffer.get(..result?).unwrap_or_default());
            }
        }
    }
}
