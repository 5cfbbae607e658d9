//! Safe wrappers of the system calls that neither std nor a dependency wraps. It contains all
//! `unsafe` code of the project.

#![allow(unsafe_code)]

use socket2::{SockAddr, Socket};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Maximum length of an interface name in bytes, without the terminating zero.
pub(crate) const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Takes ownership of a descriptor.
pub(crate) fn own(owner: impl IntoRawFd) -> File {
    // SAFETY: into_raw_fd passes on the ownership of an open descriptor.
    unsafe { File::from_raw_fd(owner.into_raw_fd()) }
}

/// Makes a descriptor non-blocking.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let mut on: libc::c_int = 1;
    // SAFETY: FIONBIO reads one int through a valid pointer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONBIO, &mut on) })
}

/// Attaches an open /dev/net/tun to the device `name`.
pub(crate) fn tun_attach(fd: impl AsFd, name: &str, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: ifreq is plain old data, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(NAME_MAX).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq through a valid pointer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETIFF, &mut request) })
}

/// Sets whether a TUN device outlives its descriptor.
pub(crate) fn tun_persist(fd: impl AsFd, on: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe {
        libc::ioctl(
            fd.as_fd().as_raw_fd(),
            libc::TUNSETPERSIST,
            libc::c_ulong::from(on),
        )
    })
}

/// Sets the offloads that the reader of a TUN device supports (`TUN_F_*`).
pub(crate) fn tun_offload(fd: impl AsFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe {
        libc::ioctl(
            fd.as_fd().as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(flags),
        )
    })
}

/// Reads into `head` and then into the spare capacity of `tail`, whose old content is dropped. The
/// memory need not be initialized. Returns the number of bytes read in total.
pub(crate) fn read_split(fd: impl AsFd, head: &mut [u8], tail: &mut Vec<u8>) -> io::Result<usize> {
    tail.clear();
    let space = tail.spare_capacity_mut();
    let parts = [
        libc::iovec {
            iov_base: head.as_mut_ptr().cast(),
            iov_len: head.len(),
        },
        libc::iovec {
            iov_base: space.as_mut_ptr().cast(),
            iov_len: space.len(),
        },
    ];
    // SAFETY: both parts are memory of these lengths to write to, borrowed until the call returns.
    let read = unsafe { libc::readv(fd.as_fd().as_raw_fd(), parts.as_ptr(), 2) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel fills `head` first and wrote the rest there, at most the space's length.
    unsafe { tail.set_len(read.saturating_sub(head.len())) };
    Ok(read)
}

/// Sets a socket option whose value is an int.
pub(crate) fn set_option(
    fd: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
}

/// An instruction of classic BPF.
pub(crate) fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    let code = code as u16;
    libc::sock_filter { code, jt, jf, k }
}

/// Attaches a program that chooses the socket for each datagram by number, among those that share
/// a port.
pub(crate) fn attach_steering(fd: impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the pointer and the length describe `program`, whose instructions outlive the call;
    // the kernel copies them and writes nothing.
    check(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    })
}

/// A descriptor and the event to wait for.
pub(crate) struct Interest<'a>(BorrowedFd<'a>, libc::c_short);

impl<'a> Interest<'a> {
    /// Waits until the descriptor is readable.
    pub(crate) fn read(fd: &'a impl AsFd) -> Self {
        Self(fd.as_fd(), libc::POLLIN)
    }

    /// Waits until the descriptor is writable.
    pub(crate) fn write(fd: &'a impl AsFd) -> Self {
        Self(fd.as_fd(), libc::POLLOUT)
    }
}

/// Waits until a descriptor is ready or has an error, at most `timeout`. A signal ends the wait
/// early.
pub(crate) fn wait<const N: usize>(
    interests: [Interest<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut fds = interests.map(|Interest(fd, events)| libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    });
    let timeout = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` holds N entries, whose descriptors are borrowed for the call; `timeout` is
    // null or points to a timespec that outlives the call; a null mask leaves the mask alone.
    let result = unsafe {
        libc::ppoll(
            fds.as_mut_ptr(),
            N as libc::nfds_t,
            timeout,
            std::ptr::null(),
        )
    };
    match check(result) {
        Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e),
        _ => Ok(fds.map(|fd| fd.revents != 0)),
    }
}

/// Wakes a thread that waits in [`wait`].
#[derive(Debug)]
pub(crate) struct Waker(File);

impl Waker {
    /// Creates a waker.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer; the descriptor that it returns belongs to us alone.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        check(fd)?;
        // SAFETY: see above; it is open, as checked.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Wakes the thread. The only failure, a full counter, means that a wake-up is pending.
    pub(crate) fn wake(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Clears pending wake-ups.
    pub(crate) fn reset(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Registers a socket with the tokio runtime.
pub(crate) fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a Socket returns the same descriptor always and closes it only when dropped, which
    // AsyncFd does after it stopped watching; no other value has the descriptor.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}

/// The number of the interface `name` in this network namespace.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the pointer is a string that ends in zero and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// Returns the address of an AF_PACKET socket: an interface, an EtherType, and the station to send to.
pub(crate) fn packet_address(
    interface: u32,
    ethertype: u16,
    station: [u8; 6],
) -> io::Result<SockAddr> {
    // SAFETY: the storage is larger than sockaddr_ll and aligned for any socket address; the
    // whole of it is written, and the length is set to its size.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let mut link: libc::sockaddr_ll = std::mem::zeroed();
            link.sll_family = libc::AF_PACKET as libc::c_ushort;
            link.sll_protocol = ethertype.to_be();
            link.sll_ifindex = interface as libc::c_int;
            link.sll_halen = 6;
            link.sll_addr[..6].copy_from_slice(&station);
            storage.cast::<libc::sockaddr_ll>().write(link);
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Moves the calling thread, and the threads that it starts, to a new network namespace with only a
/// loopback interface. Returns false, after a message, if the tests must run without root.
#[cfg(any(test, feature = "test-support"))]
pub fn enter_new_network() -> bool {
    if std::env::var_os("VCGATE_NO_ROOT").is_some() {
        eprintln!("VCGATE_NO_ROOT is set: skipped");
        return false;
    }
    // SAFETY: unshare takes no pointer; only the calling thread changes its network.
    let result = check(unsafe { libc::unshare(libc::CLONE_NEWNET) });
    result.expect("this test needs root for a network of its own; or set VCGATE_NO_ROOT=1");
    true
}

/// Waits for an effect of closing a descriptor. Child processes of other tests hold a copy of every
/// descriptor between fork and exec.
#[cfg(any(test, feature = "test-support"))]
pub fn until(done: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "timed out");
        std::thread::yield_now();
    }
}
