//! The outer UDP socket: datagrams in bursts, with their paths and ECN bits.
//!
//! quinn-udp makes the system calls (GSO, GRO, recvmmsg, ECN, pktinfo). Here are the choices that
//! WireGuard needs: one port for IPv4 and IPv6, no DF, answers from the address that was written
//! to, and fallbacks when the kernel or a device refuses. Several shards have a socket each on the
//! one port (`group.rs`). It never looks into a datagram.

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

/// Datagrams (with GRO: bursts of them) that are taken with one system call.
pub const BATCH: usize = 16;
/// The longest datagram or burst in bytes.
const BURST: usize = 65_536;
/// The most bytes that one UDP send carries over IPv4: 65,535 less both headers.
const SEND: usize = 65_507;
/// The most segments that every kernel with GSO takes in one send.
pub const SEGMENTS: usize = 64;
/// Room for about 50 ms at 1 Gbit/s. With the kernel's default, bursts are lost.
const SOCKET_BUFFER: usize = 8 << 20;
/// How long a send waits for room before the burst is lost. Longer would hold up all peers of the
/// shard for the sake of one slow link.
const PATIENCE: Duration = Duration::from_millis(2);

/// How long an address that the kernel refuses to send from is left out.
const WHILE: Duration = Duration::from_secs(1);

/// How the socket is made.
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
    /// A port of our own with everything that the kernel can do.
    pub fn on_port(port: u16) -> Self {
        Self {
            port,
            gso: true,
            gro: true,
        }
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// Somebody listens on the port.
    #[error(
        "UDP port {0} is taken: choose another [interface] listen_port, or stop who has it \
             (`ss -ulpn sport = :{0}`; the kernel's WireGuard: `wg show all listen-port`)"
    )]
    PortTaken(u16),
    /// A port that this process may not use.
    #[error("no permission for UDP port {0}: choose one above 1023 or grant CAP_NET_BIND_SERVICE")]
    NotPermitted(u16),
    /// Anything else.
    #[error("cannot listen on UDP port {port}: {source}")]
    Other {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A UDP socket, non-blocking.
#[derive(Debug)]
pub struct Udp {
    socket: Socket,
    state: UdpSocketState,
    port: u16,
    /// It hears IPv6 too.
    v6: bool,
    gso: bool,
    gro: bool,
    /// An address of ours that the kernel would not send from, and until when it is not asked again.
    refused: Option<(IpAddr, Instant)>,
    narrow: GsoBlocklist,
    /// Somebody told that the device does no GSO; for all sockets on the port.
    told: Arc<AtomicBool>,
}

impl Udp {
    /// Listens on all addresses, IPv6 and IPv4, or IPv4 alone where IPv6 is off.
    pub fn bind(settings: Settings) -> Result<Self, UdpError> {
        Self::bind_as(settings, Sharing::Alone)
    }

    fn bind_as(settings: Settings, sharing: Sharing) -> Result<Self, UdpError> {
        let port = settings.port;
        let bound = listen(settings, sharing, Domain::IPV6).or_else(|e| match e.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
                info!("IPv6 is off on this machine: listening on IPv4 only");
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

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether sends carry many datagrams at once; no longer true once a device refused.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// Whether the kernel gathers datagrams into bursts.
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// The room for datagrams that wait to be received, in bytes as the kernel counts it.
    pub fn receive_buffer(&self) -> usize {
        self.socket.recv_buffer_size().unwrap_or(0)
    }

    /// Takes what waits, at most [`BATCH`] bursts, and says how many. What a peer's network
    /// answered to an earlier send is no failure of this socket.
    pub fn receive(&mut self, inbox: &mut Inbox) -> io::Result<usize> {
        inbox.filled = 0;
        let mut memory = inbox.memory.chunks_exact_mut(BURST);
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

    /// Sends datagrams of `segment` bytes each, the last may be shorter. Returns how many bytes
    /// were lost.
    pub fn send(&mut self, path: &Path, ecn: Ecn, segment: usize, bytes: &[u8]) -> usize {
        let segment = segment.clamp(1, SEND);
        let most = segment * SEGMENTS.min(SEND / segment);
        let bursts = bytes.chunks(most);
        bursts
            .map(|burst| self.send_burst(path, ecn, segment, burst))
            .sum()
    }

    fn send_burst(&mut self, path: &Path, ecn: Ecn, segment: usize, burst: &[u8]) -> usize {
        let (remote, is_many) = (path.remote.ip(), burst.len() > segment);
        if is_many && (!self.gso || self.narrow.refuses(remote, segment, Instant::now())) {
            return self.send_one_by_one(path, ecn, segment, burst);
        }
        let source = self.source(path);
        match self.transmit(path, ecn, segment, burst) {
            Ok(()) => 0,
            Err(e) if is_many && self.gso_refused(&e) => {
                let lost = self.send_one_by_one(path, ecn, segment, burst);
                // Else it was the device, or the source address.
                if lost == 0 && self.gso && self.source(path) == source {
                    self.narrow.note(remote, segment, Instant::now());
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
                // What one does not get through, the others do not either.
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
            // Of many the length is asked about first, in `send_burst`.
            (Err(e), Some(source)) if bytes.len() <= segment && may_be_the_source(&e) => {
                transmit.src_ip = None;
                let result = self.send_or_wait(&transmit);
                if result.is_ok() {
                    self.refused = Some((source, Instant::now() + WHILE));
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
        self.refused
            .is_some_and(|(refused, until)| refused == source && Instant::now() < until)
    }

    fn send_or_wait(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut result = self.state.try_send((&self.socket).into(), transmit);
        if matches!(&result, Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
            sys::wait([Interest::write(&self.socket)], Some(PATIENCE))?;
            result = self.state.try_send((&self.socket).into(), transmit);
        }
        if matches!(&result, Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EIO))) {
            // quinn-udp takes these for an old kernel and stops writing ECN bits for good; but
            // they came from one path. A new state begins anew.
            self.state = state(&self.socket, self.v6, self.gro)?;
        }
        result
    }

    /// Whether the error may come from sending many at once. EIO says that the device cannot do
    /// it; the others that the segments do not fit this path, which says nothing of other paths,
    /// or what one by one will show.
    fn gso_refused(&mut self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EIO) => {
                self.gso = false;
                if !self.told.swap(true, Relaxed) {
                    warn!(
                        "the network device refuses UDP GSO: datagrams go one by one, which is slower"
                    );
                }
                true
            }
            Some(libc::EMSGSIZE) => true,
            _ => may_be_the_source(error),
        }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where a batch is received. Apart from the socket, so that answers can be sent while the batch
/// is read.
pub struct Inbox {
    memory: Vec<u8>,
    meta: [RecvMeta; BATCH],
    filled: usize,
}

/// A burst of datagrams of one peer.
#[derive(Debug)]
pub struct Burst<'a> {
    /// Where it came from, and to which of our addresses.
    pub path: Path,
    /// The ECN bits of the outer header.
    pub ecn: Ecn,
    /// The length of each datagram in bytes; the last may be shorter.
    pub stride: usize,
    /// The datagrams, one behind the other.
    pub bytes: &'a mut [u8],
}

impl Inbox {
    /// Room for a batch. The kernel gives the memory once it is used.
    pub fn new() -> Self {
        Self {
            memory: vec![0; BATCH * BURST],
            meta: [RecvMeta::default(); BATCH],
            filled: 0,
        }
    }

    /// What was received last.
    pub fn bursts(&mut self) -> impl Iterator<Item = Burst<'_>> {
        let memory = self.memory.chunks_exact_mut(BURST);
        memory
            .zip(&self.meta)
            .take(self.filled)
            // Whoever has port 0 gets no answer; that the kernel refuses to send one costs most.
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
        refused: None,
        narrow: GsoBlocklist::default(),
        told: Arc::default(),
    })
}

/// Only with CAP_NET_ADMIN beyond the machine's limit, else up to it.
fn enlarge_buffers(socket: &Socket) {
    let wanted = SOCKET_BUFFER as libc::c_int;
    if sys::set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    if sys::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    }
}

/// quinn-udp's state, with those of its choices taken back that suit QUIC and not WireGuard.
fn state(socket: &Socket, v6: bool, gro: bool) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    // Like the kernel's endpoint: no DF, routers may fragment, so no ICMP error is needed to learn
    // of a narrow path. Unlike DONT, OMIT ignores such errors: a forged one, which needs no place on
    // the path, would make the kernel cut all datagrams to a client to 552 bytes for 10 minutes.
    let omit = libc::IP_PMTUDISC_OMIT;
    sys::set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, omit)?;
    if v6 {
        // No IPv6 router fragments, so without these errors full datagrams would vanish on a path
        // over PPPoE. The kernel heeds none below 1,280 bytes (RFC 8201 section 4).
        let dont = libc::IPV6_PMTUDISC_DONT;
        sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, dont)?;
        sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
    }
    // While one socket asks for timestamps, the kernel stamps every packet of the machine.
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0)?;
    if !gro {
        // A kernel that does not know the option does no GRO.
        let _ = sys::set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 0);
    }
    Ok(state)
}

/// IPv4 as IPv4, without the flow label, which is no part of where somebody is.
fn canonical(address: SocketAddr) -> SocketAddr {
    match (address.ip().to_canonical(), address) {
        (IpAddr::V6(_), SocketAddr::V6(mut v6)) => {
            v6.set_flowinfo(0);
            v6.into()
        }
        (ip, _) => SocketAddr::new(ip, address.port()),
    }
}

/// What the kernels say of a source address that is ours no longer. They say it of other things
/// too; then the send without it fails as well.
fn may_be_the_source(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(
        errno,
        Some(libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL)
    )
}

/// Errors that tell of a peer, of the network or of a moment, not of the socket.
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
