//! The outer UDP socket: datagrams in bursts, with their paths and ECN bits.
//!
//! quinn-udp makes the system calls (GSO, GRO, recvmmsg, ECN, pktinfo). This file makes the choices
//! that WireGuard needs: one port for IPv4 and IPv6, no DF, replies from the address that the peer
//! sent to, and fallbacks when the kernel or a device refuses an offload. Each shard has its own
//! socket on the port (`group.rs`). It never looks into a datagram.

mod group;
mod gso_blocklist;

use super::sys::{self, Interest};
use group::Sharing;
use gso_blocklist::GsoBlocklist;
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};
use vcgate_core::tunnel::{Ecn, Path};

/// Datagrams (with GRO: bursts) received with one system call.
pub const BATCH: usize = 16;
/// Maximum length of a datagram or burst, in bytes.
const MAX_BURST_LEN: usize = 65_536;
/// Maximum length of one UDP send over IPv4, in bytes: 65,535 less both headers.
const MAX_SEND_LEN: usize = 65_507;
/// Maximum number of segments in one send that every kernel with GSO accepts.
pub const MAX_SEGMENTS: usize = 64;
/// Size of the socket buffers in bytes: about 50 ms at 1 Gbit/s. The kernel's default loses bursts.
const SOCKET_BUFFER_SIZE: usize = 8 << 20;
/// Time for which a send waits for buffer space before the burst is dropped. A longer one would
/// delay all peers of the shard because of one slow link.
const SEND_TIMEOUT: Duration = Duration::from_millis(2);

/// Time for which a source address is not used after the kernel refused it.
const SOURCE_BLOCK_TIME: Duration = Duration::from_secs(1);

/// The settings of a socket.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The port; 0 lets the kernel choose.
    pub port: u16,
    /// Send many datagrams with one call, where the kernel can.
    pub gso: bool,
    /// Receive many datagrams in one buffer, where the kernel can.
    pub gro: bool,
}

impl Settings {
    /// Returns settings for a port with all offloads.
    pub fn on_port(port: u16) -> Self {
        Self {
            port,
            gso: true,
            gro: true,
        }
    }
}

/// The reason why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// Another socket has the port.
    #[error(
        "UDP port {0} is taken: choose another [interface] listen_port, or stop the program that has it \
             (`ss -ulpn sport = :{0}`; the kernel's WireGuard: `wg show all listen-port`)"
    )]
    PortTaken(u16),
    /// The process may not use the port.
    #[error("no permission for UDP port {0}: choose one above 1023 or grant CAP_NET_BIND_SERVICE")]
    NotPermitted(u16),
    /// Any other error.
    #[error("cannot listen on UDP port {port}: {source}")]
    Other {
        /// The port.
        port: u16,
        /// The cause.
        source: io::Error,
    },
}

/// A non-blocking UDP socket.
///
/// ```
/// use vcgate_io::udp::{Inbox, Settings, Udp};
///
/// let mut udp = Udp::bind(Settings::on_port(0))?;
/// let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
/// client.send_to(b"hello", ("127.0.0.1", udp.port())).unwrap();
/// let mut inbox = Inbox::new();
/// while udp.receive(&mut inbox).unwrap() == 0 {}
/// let burst = inbox.bursts().next().unwrap();
/// assert_eq!(burst.path.remote, client.local_addr().unwrap());
/// assert_eq!(burst.bytes, b"hello");
/// # Ok::<(), vcgate_io::udp::UdpError>(())
/// ```
#[derive(Debug)]
pub struct Udp {
    socket: Socket,
    state: UdpSocketState,
    port: u16,
    /// Whether it also receives over IPv6.
    v6: bool,
    gso: bool,
    gro: bool,
    /// A source address that the kernel refused, and the time until which it is not used.
    refused_source: Option<(IpAddr, Instant)>,
    gso_blocklist: GsoBlocklist,
    /// Whether a socket on the port has logged that the device refuses GSO.
    warned: Arc<AtomicBool>,
}

impl Udp {
    /// Listens on all IPv6 and IPv4 addresses, or on IPv4 only if IPv6 is disabled.
    ///
    /// # Errors
    /// If the port is taken or the process may not use it.
    pub fn bind(settings: Settings) -> Result<Self, UdpError> {
        Self::bind_as(settings, Sharing::Alone)
    }

    fn bind_as(settings: Settings, sharing: Sharing) -> Result<Self, UdpError> {
        let port = settings.port;
        let bound = listen(settings, sharing, Domain::IPV6).or_else(|e| match e.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
                info!("IPv6 is disabled on this machine: listening on IPv4 only");
                listen(settings, sharing, Domain::IPV4)
            }
            _ => Err(e),
        });
        bound.map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => UdpError::PortTaken(port),
            Some(libc::EACCES | libc::EPERM) => UdpError::NotPermitted(port),
            _ => UdpError::Other { port, source },
        })
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether sends use GSO; false once a device refused it.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// Returns whether the kernel coalesces received datagrams into bursts.
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Returns the size of the receive buffer, in bytes as the kernel counts them.
    pub fn receive_buffer(&self) -> usize {
        self.socket.recv_buffer_size().unwrap_or(0)
    }

    /// Receives the waiting bursts, at most [`BATCH`], and returns their number. An ICMP error in
    /// response to an earlier send is ignored.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn receive(&mut self, inbox: &mut Inbox) -> io::Result<usize> {
        inbox.filled = 0;
        let mut memory = inbox.memory.chunks_exact_mut(MAX_BURST_LEN);
        let mut buffers: [_; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(memory.next().unwrap_or_default()));
        match self
            .state
            .recv((&self.socket).into(), &mut buffers, &mut inbox.meta)
        {
            Ok(filled) => inbox.filled = filled,
            Err(e) if is_transient(&e) => {}
            Err(e) => return Err(e),
        }
        Ok(inbox.filled)
    }

    /// Sends datagrams of `segment` bytes each (the last may be shorter). Returns the number of bytes
    /// that could not be sent.
    pub fn send(&mut self, path: &Path, ecn: Ecn, segment: usize, bytes: &[u8]) -> usize {
        let segment = segment.clamp(1, MAX_SEND_LEN);
        let max = segment * MAX_SEGMENTS.min(MAX_SEND_LEN / segment);
        let bursts = bytes.chunks(max);
        bursts
            .map(|burst| self.send_burst(path, ecn, segment, burst))
            .sum()
    }

    fn send_burst(&mut self, path: &Path, ecn: Ecn, segment: usize, burst: &[u8]) -> usize {
        let (remote, is_many) = (path.remote.ip(), burst.len() > segment);
        if is_many && (!self.gso || self.gso_blocklist.refuses(remote, segment, Instant::now())) {
            return self.send_one_by_one(path, ecn, segment, burst);
        }
        let source = self.source(path);
        match self.transmit(path, ecn, segment, burst) {
            Ok(()) => 0,
            Err(e) if is_many && self.is_gso_refusal(&e) => {
                let lost = self.send_one_by_one(path, ecn, segment, burst);
                // Otherwise the cause was the device or the source address.
                if lost == 0 && self.gso && self.source(path) == source {
                    self.gso_blocklist.note(remote, segment, Instant::now());
                }
                lost
            }
            Err(error) => {
                debug!(remote = %path.remote, %error, "cannot send");
                burst.len()
            }
        }
    }

    fn send_one_by_one(&mut self, path: &Path, ecn: Ecn, segment: usize, burst: &[u8]) -> usize {
        for (n, datagram) in burst.chunks(segment).enumerate() {
            if let Err(error) = self.transmit(path, ecn, segment, datagram) {
                debug!(remote = %path.remote, %error, "cannot send");
                // The remaining datagrams would fail, too.
                return burst.len() - n * segment;
            }
        }
        0
    }

    fn transmit(&mut self, path: &Path, ecn: Ecn, segment: usize, bytes: &[u8]) -> io::Result<()> {
        let mut transmit = Transmit {
            destination: path.remote,
            ecn: EcnCodepoint::from_bits(ecn as u8),
            contents: bytes,
            segment_size: Some(segment),
            src_ip: self.source(path),
        };
        match (self.send_or_wait(&transmit), transmit.src_ip) {
            // For a burst, `send_burst` handles the length first.
            (Err(e), Some(source)) if bytes.len() <= segment && may_be_source_error(&e) => {
                transmit.src_ip = None;
                let result = self.send_or_wait(&transmit);
                if result.is_ok() {
                    self.refused_source = Some((source, Instant::now() + SOURCE_BLOCK_TIME));
                }
                result
            }
            (result, _) => result,
        }
    }

    fn source(&self, path: &Path) -> Option<IpAddr> {
        path.local.filter(|source| !self.is_refused(*source))
    }

    fn is_refused(&self, source: IpAddr) -> bool {
        self.refused_source
            .is_some_and(|(refused, until)| refused == source && Instant::now() < until)
    }

    fn send_or_wait(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut result = self.state.try_send((&self.socket).into(), transmit);
        if matches!(&result, Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
            sys::wait([Interest::write(&self.socket)], Some(SEND_TIMEOUT))?;
            result = self.state.try_send((&self.socket).into(), transmit);
        }
        if matches!(&result, Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EIO))) {
            // quinn-udp treats these as signs of an old kernel and stops writing ECN bits, but they
            // concern one path only. A new state writes them again.
            self.state = state(&self.socket, self.v6, self.gro)?;
        }
        result
    }

    /// Returns whether the error may be caused by GSO. EIO means that the device does not support
    /// it. The other errors mean that the segments do not fit this path, which does not affect
    /// other paths, or have another cause, which single sends will show.
    fn is_gso_refusal(&mut self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EIO) => {
                self.gso = false;
                if !self.warned.swap(true, Relaxed) {
                    warn!(
                        "the network device refuses UDP GSO: datagrams are sent one by one, which is slower"
                    );
                }
                true
            }
            Some(libc::EMSGSIZE) => true,
            _ => may_be_source_error(error),
        }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The memory for a received batch. It is separate from the socket, so that replies can be sent
/// while the batch is processed.
pub struct Inbox {
    memory: Vec<u8>,
    meta: [RecvMeta; BATCH],
    filled: usize,
}

/// A burst of datagrams of one peer.
#[derive(Debug)]
pub struct Burst<'a> {
    /// The remote address, and the local address that it was sent to.
    pub path: Path,
    /// The ECN bits of the outer header.
    pub ecn: Ecn,
    /// The length of each datagram in bytes; the last may be shorter.
    pub stride: usize,
    /// The datagrams, back to back.
    pub bytes: &'a mut [u8],
}

impl Inbox {
    /// Allocates memory for a batch. The kernel provides it on first use.
    pub fn new() -> Self {
        Self {
            memory: vec![0; BATCH * MAX_BURST_LEN],
            meta: [RecvMeta::default(); BATCH],
            filled: 0,
        }
    }

    /// Returns the bursts of the last receive.
    pub fn bursts(&mut self) -> impl Iterator<Item = Burst<'_>> {
        let memory = self.memory.chunks_exact_mut(MAX_BURST_LEN);
        memory
            .zip(&self.meta)
            .take(self.filled)
            // A reply to port 0 is impossible, and the failing send would be expensive.
            .filter(|(_, meta)| meta.addr.port() != 0)
            .filter_map(|(buffer, meta)| {
                Some(Burst {
                    path: Path {
                        remote: canonical(meta.addr),
                        local: meta.dst_ip.map(|ip| ip.to_canonical()),
                    },
                    ecn: Ecn::from_bits(meta.ecn.map_or(0, |ecn| ecn as u8)),
                    stride: meta.stride.max(1),
                    bytes: buffer.get_mut(..meta.len)?,
                })
            })
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

fn listen(settings: Settings, sharing: Sharing, domain: Domain) -> io::Result<Udp> {
    let v6 = domain == Domain::IPV6;
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    let any: IpAddr = if v6 {
        socket.set_only_v6(false)?;
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    if sharing == Sharing::Joins {
        socket.set_reuse_port(true)?;
    }
    enlarge_buffers(&socket);
    socket.bind(&SocketAddr::new(any, settings.port).into())?;
    let bound = socket.local_addr()?.as_socket();
    let state = state(&socket, v6, settings.gro)?;
    Ok(Udp {
        gso: settings.gso && state.max_gso_segments() > 1,
        gro: settings.gro && state.gro_segments() > 1,
        port: bound.map_or(settings.port, |bound| bound.port()),
        socket,
        state,
        v6,
        refused_source: None,
        gso_blocklist: GsoBlocklist::default(),
        warned: Arc::default(),
    })
}

/// Enlarges the socket buffers: with CAP_NET_ADMIN beyond the machine's limit, otherwise up to it.
fn enlarge_buffers(socket: &Socket) {
    let wanted = SOCKET_BUFFER_SIZE as libc::c_int;
    if sys::set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_SIZE);
    }
    if sys::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_SIZE);
    }
}

/// Creates quinn-udp's state and reverts its options that suit QUIC but not WireGuard.
fn state(socket: &Socket, v6: bool, gro: bool) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    // No DF, as in the kernel's WireGuard: routers may fragment, so no ICMP error is needed to
    // discover a small path MTU. Unlike DONT, OMIT ignores such errors: a forged one, which an
    // attacker off the path can send, would make the kernel fragment all datagrams to a client to
    // 552 bytes for 10 minutes.
    let omit = libc::IP_PMTUDISC_OMIT;
    sys::set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, omit)?;
    if v6 {
        // IPv6 routers do not fragment, so without these errors full datagrams would be lost on a
        // path over PPPoE. The kernel ignores values below 1,280 bytes (RFC 8201 section 4).
        let dont = libc::IPV6_PMTUDISC_DONT;
        sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, dont)?;
        sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
    }
    // If one socket requests timestamps, the kernel stamps every packet of the machine.
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0)?;
    if !gro {
        // A kernel that does not know the option does no GRO.
        let _ = sys::set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 0);
    }
    Ok(state)
}

/// Converts IPv4-mapped addresses to IPv4 and drops the flow label, which is not part of an address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match (address.ip().to_canonical(), address) {
        (IpAddr::V6(_), SocketAddr::V6(mut v6)) => {
            v6.set_flowinfo(0);
            v6.into()
        }
        (ip, _) => SocketAddr::new(ip, address.port()),
    }
}

/// Returns whether the error may mean that the source address is not local any more. If it has
/// another cause, the send without a source address fails, too.
fn may_be_source_error(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(
        errno,
        Some(libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL)
    )
}

/// Returns whether an error concerns a peer, the network or a moment, and not the socket.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        WouldBlock
            | Interrupted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkUnreachable
            | NetworkDown
            | PermissionDenied
            | OutOfMemory
    ) || matches!(
        error.raw_os_error(),
        Some(libc::ENOBUFS | libc::EMSGSIZE | libc::EPROTO | libc::ENOPROTOOPT | libc::EHOSTDOWN)
    )
}

#[cfg(test)]
mod tests;
