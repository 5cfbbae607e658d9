//! A host with smoltcp's TCP/IP stack in virtual time.

use mock_instant::MockClock;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A host with one address and one link.
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
            capacity: 0,
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

    /// Runs the stack; returns the packets that it sends.
    pub fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let now = self.virtual_time(now);
        self.link.capacity = MAX_PACKETS_PER_POLL;
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
    // Timestamps in milliseconds (RFC 7323), as common stacks send them.
    socket.set_tsval_generator(Some(|| MockClock::time().as_millis() as u32));
    socket
}

/// Maximum number of packets per poll; otherwise one poll would send a whole window.
const MAX_PACKETS_PER_POLL: usize = 64;

struct Link {
    mtu: usize,
    inbox: VecDeque<Vec<u8>>,
    outbox: Vec<Vec<u8>>,
    /// Number of packets that may still be sent in this poll. Immediate responses do not count:
    /// smoltcp 0.14 loses a fast retransmission that the device does not accept, and then waits
    /// forever.
    capacity: usize,
}

struct Received(Vec<u8>);
struct Outbox<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Outbox<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Outbox<'_>)> {
        Some((Received(self.inbox.pop_front()?), Outbox(&mut self.outbox)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Outbox<'_>> {
        self.capacity = self.capacity.checked_sub(1)?;
        Some(Outbox(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outbox<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}
