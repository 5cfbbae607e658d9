//! A host with a real TCP/IP stack (smoltcp's), in virtual time: packets in, packets out.

use mock_instant::MockClock;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// One host with one address; everything else is behind its link.
pub struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    link: Link,
    start: Instant,
}

impl Host {
    pub fn new(address: IpAddr, mtu: usize, seed: u64, start: Instant) -> Self {
        let mut link = Link {
            mtu,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            room: 0,
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, SmolInstant::ZERO);
        interface.update_ip_addrs(|a| a.push(IpCidr::new(address.into(), 24)).unwrap());
        match address {
            IpAddr::V4(a) => drop(interface.routes_mut().add_default_ipv4_route(a)),
            IpAddr::V6(a) => drop(interface.routes_mut().add_default_ipv6_route(a)),
        }
        Self {
            interface,
            sockets: SocketSet::new(vec![]),
            link,
            start,
        }
    }

    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = socket();
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn connect(&mut self, from: u16, to: SocketAddr) -> SocketHandle {
        let handle = self.sockets.add(socket());
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, from).unwrap();
        handle
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn receive(&mut self, packet: Vec<u8>) {
        self.link.inbox.push_back(packet);
    }

    /// Runs the stack; the packets it wants to send.
    pub fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let now = self.virtual_time(now);
        self.link.room = ROOM;
        self.interface.poll(now, &mut self.link, &mut self.sockets);
        std::mem::take(&mut self.link.outbox)
    }

    pub fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        let delay = self
            .interface
            .poll_delay(self.virtual_time(now), &self.sockets)?;
        Some(now + Duration::from_micros(delay.total_micros()))
    }

    fn virtual_time(&self, now: Instant) -> SmolInstant {
        SmolInstant::from_micros((now - self.start).as_micros() as i64)
    }
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 256 * 1024]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    // As common stacks do: timestamps (RFC 7323), in milliseconds.
    socket.set_tsval_generator(Some(|| MockClock::time().as_millis() as u32));
    socket
}

/// A link takes some packets at a time, or one poll would send a whole window.
const ROOM: usize = 64;

struct Link {
    mtu: usize,
    inbox: VecDeque<Vec<u8>>,
    outbox: Vec<Vec<u8>>,
    /// For so many packets more. What answers a packet at once takes none: smoltcp 0.14 forgets a
    /// fast retransmission for which there is no room, and then waits for ever.
    room: usize,
}

struct In(Vec<u8>);
struct Out<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Link {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(In, Out<'_>)> {
        Some((In(self.inbox.pop_front()?), Out(&mut self.outbox)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Out<'_>> {
        self.room = self.room.checked_sub(1)?;
        Some(Out(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}
