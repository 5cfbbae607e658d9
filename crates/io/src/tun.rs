//! The TUN device: packets and super-packets to and from the kernel, each with its virtio header.
//!
//! tun-tap creates the device. For the offloads it is opened a second time with the header enabled.
//! If the kernel refuses that, the plain device is used: slower, with every header empty. It never
//! looks into a packet.

use super::sys;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::Duration;
use tracing::{debug, warn};
use tun_tap::{Iface, Mode};
use vcgate_wire::virtio_net::{self, Gso, Header};

const DEVICE: &str = "/dev/net/tun";
/// Time between two attempts to open a busy device.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);
/// Maximum number of pieces of a packet that are written without an allocation.
const MAX_INLINE_PIECES: usize = 64;

/// The offloads of the kernel's side of the device; each level includes those before.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// Single packets with complete checksums.
    None,
    /// TCP super-packets and partial checksums.
    Tcp,
    /// UDP super-packets too (Linux 6.2).
    TcpAndUdp,
}

/// The reason why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name is not valid for an interface.
    #[error("{0:?} is not a name for an interface; use 1 to 15 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// The kernel has no TUN driver, or the container does not show it.
    #[error(
        "{DEVICE} is missing: run `modprobe tun`; in a container, start it with `--device {DEVICE}`"
    )]
    NoDevice,
    /// The process may not create interfaces.
    #[error(
        "no permission to create the interface {0}: run as root or grant CAP_NET_ADMIN \
             (systemd: AmbientCapabilities=CAP_NET_ADMIN; container: `--cap-add NET_ADMIN`)"
    )]
    NotPermitted(String),
    /// This user may not open the TUN driver's file.
    #[error(
        "no permission to open /dev/net/tun: run as root, or `chmod 666 /dev/net/tun`, as udev does"
    )]
    Denied,
    /// An interface of this name exists.
    #[error("the interface name {name} is taken{}: choose another [interface] name, or free it", by(.holder))]
    Taken {
        /// The name.
        name: String,
        /// The process that holds it, if it was found.
        holder: Option<String>,
    },
    /// Any other error.
    #[error("cannot create the interface {name}: {source}")]
    Other {
        /// The name.
        name: String,
        /// The cause.
        source: io::Error,
    },
}

/// A non-blocking TUN device. Dropping it removes the device with its addresses and routes.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    offloads: Offload,
}

impl Tun {
    /// Creates the device `name` with the offloads that the kernel supports, at most `wanted`.
    ///
    /// # Errors
    /// If the name is invalid or taken, or if the kernel refuses the device.
    pub fn create(name: &str, wanted: Offload) -> Result<Self, TunError> {
        if !is_interface_name(name) {
            return Err(TunError::Name(name.into()));
        }
        if sys::interface_index(name).is_some() {
            return Err(taken(name));
        }
        let iface = Iface::without_packet_info(name, Mode::Tun).map_err(|e| refused(name, e))?;
        let other = |source| TunError::Other {
            name: name.into(),
            source,
        };
        let plain = sys::own(iface);
        let (file, offloads) = match wanted {
            Offload::None => (plain, Offload::None),
            _ => with_header(plain, name, || {
                let file = reopen(name)?;
                let offloads = grant(&file, wanted)?;
                Ok((file, offloads))
            })
            .map_err(other)?,
        };
        sys::set_nonblocking(&file).map_err(other)?;
        debug!(interface = name, ?offloads, "TUN device ready");
        Ok(Self {
            file,
            name: name.into(),
            offloads,
        })
    }

    /// Returns another handle to the same device for another thread. Only one of them may read.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            name: self.name.clone(),
            offloads: self.offloads,
        })
    }

    /// Returns the interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the offloads in use. Without any, only single packets may be written.
    pub fn offloads(&self) -> Offload {
        self.offloads
    }

    /// Reads one packet into the capacity of `buffer`, truncated to it. Returns `None` if no packet
    /// waits. A packet with an invalid header is skipped.
    ///
    /// # Errors
    /// If the device fails, for instance because it was deleted.
    pub fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<Option<Header>> {
        loop {
            match self.read_one(buffer) {
                Ok(Some(read)) => return Ok(Some(read)),
                Ok(None) => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes one packet, given in pieces, without a copy.
    ///
    /// # Errors
    /// If the device does not accept the packet.
    pub fn write(&self, header: &Header, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        if self.offloads == Offload::None {
            return match header.gso {
                Gso::None if !header.needs_csum => self.write_vectored(pieces),
                _ => Err(io::Error::other("this device takes no unfinished packets")),
            };
        }
        let header = header.encode();
        let header = IoSlice::new(&header);
        match pieces {
            [packet] => self.write_vectored(&[header, *packet]),
            _ if pieces.len() <= MAX_INLINE_PIECES => {
                let mut all = [header; MAX_INLINE_PIECES + 1];
                all[1..=pieces.len()].copy_from_slice(pieces);
                self.write_vectored(&all[..=pieces.len()])
            }
            _ => {
                let all: Vec<_> = std::iter::once(header)
                    .chain(pieces.iter().copied())
                    .collect();
                self.write_vectored(&all)
            }
        }
    }

    fn read_one(&self, buffer: &mut Vec<u8>) -> io::Result<Option<Header>> {
        if self.offloads == Offload::None {
            sys::read_split(&self.file, &mut [], buffer)?;
            return Ok(Some(Header::default()));
        }
        let mut header = [0; virtio_net::LEN];
        sys::read_split(&self.file, &mut header, buffer)?;
        Ok(Header::decode(&header, buffer).ok())
    }

    fn write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        // The driver accepts a packet as a whole or not at all.
        loop {
            match (&self.file).write_vectored(parts) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => return result.map(drop),
            }
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Returns whether the kernel accepts this name of an interface, and no program mistakes it for a
/// path, a pattern or an option.
pub fn is_interface_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=sys::NAME_MAX).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with(['.', '-'])
}

/// Closes the plain device and opens it again with a header before each packet. The device persists
/// meanwhile. If the header is refused, the plain device is opened again.
fn with_header(
    plain: File,
    name: &str,
    open: impl Fn() -> io::Result<(File, Offload)>,
) -> io::Result<(File, Offload)> {
    sys::tun_persist(&plain, true)?;
    drop(plain);
    let (file, offloads) = match retry_briefly(open) {
        Ok(done) => done,
        Err(error) => {
            warn!(%error, "cannot use TUN offloads: every packet is sent alone, which is slower");
            let iface = retry_briefly(|| Iface::without_packet_info(name, Mode::Tun))?;
            (sys::own(iface), Offload::None)
        }
    };
    sys::tun_persist(&file, false)?;
    Ok((file, offloads))
}

/// Retries while the device is busy: a child process of another thread holds a copy of the old
/// descriptor between fork and exec.
fn retry_briefly<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..200 {
        match open() {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => thread::sleep(RETRY_INTERVAL),
            result => return result,
        }
    }
    open()
}

fn reopen(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(DEVICE)?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    sys::tun_attach(&file, name, flags)?;
    Ok(file)
}

fn grant(file: &File, wanted: Offload) -> io::Result<Offload> {
    const TCP: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    // The kernel accepts these two together or not at all.
    const UDP: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    if wanted == Offload::TcpAndUdp {
        match sys::tun_offload(file, TCP | UDP) {
            Ok(()) => return Ok(Offload::TcpAndUdp),
            Err(error) => debug!(%error, "no UDP offload on TUN (needs Linux 6.2)"),
        }
    }
    sys::tun_offload(file, TCP).map(|()| Offload::Tcp)
}

fn refused(name: &str, error: io::Error) -> TunError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDevice,
        Some(libc::EPERM) => TunError::NotPermitted(name.into()),
        Some(libc::EACCES) => TunError::Denied,
        Some(libc::EBUSY) => taken(name),
        _ => TunError::Other {
            name: name.into(),
            source: error,
        },
    }
}

fn taken(name: &str) -> TunError {
    TunError::Taken {
        name: name.into(),
        holder: holder(name),
    }
}

/// Returns the process that holds the TUN device `name`, according to its open files.
fn holder(name: &str) -> Option<String> {
    let line = format!("iff:\t{name}");
    let holds = |process: &std::path::Path| {
        std::fs::read_dir(process.join("fdinfo")).is_ok_and(|files| {
            files.flatten().any(|file| {
                std::fs::read_to_string(file.path())
                    .is_ok_and(|info| info.lines().any(|l| l == line))
            })
        })
    };
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            holds(&entry.path()).then(|| {
                let command =
                    std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                format!("process {pid} ({})", command.trim_end())
            })
        })
}

fn by(holder: &Option<String>) -> String {
    holder
        .as_ref()
        .map_or_else(String::new, |h| format!(" by {h}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_and_invalid_names_of_interfaces() {
        for good in ["vcg0", "a", "eth0.100", "exactly15bytes_"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "-x",
            "a/b",
            "tun%d",
            "a b",
            "a:1",
            "sixteen_bytes_xx",
            "é",
        ] {
            assert!(!is_interface_name(bad), "{bad}");
            assert!(matches!(
                Tun::create(bad, Offload::None),
                Err(TunError::Name(_))
            ));
        }
    }

    #[test]
    fn if_the_header_is_refused_the_plain_device_is_used_and_removed_with_its_handle() {
        if !sys::enter_new_network() {
            return;
        }
        let name = "viotu0";
        let plain = sys::own(Iface::without_packet_info(name, Mode::Tun).unwrap());
        let refusal = || Err(io::Error::from_raw_os_error(libc::EPERM));
        let (file, offloads) = with_header(plain, name, refusal).unwrap();
        assert_eq!(offloads, Offload::None);
        assert!(sys::interface_index(name).is_some());
        drop(file);
        sys::until(|| sys::interface_index(name).is_none());
    }

    #[test]
    fn each_error_names_its_remedy() {
        let message = |errno| refused("vcg0", io::Error::from_raw_os_error(errno)).to_string();
        assert!(message(libc::ENOENT).contains("modprobe tun"));
        assert!(message(libc::EPERM).contains("CAP_NET_ADMIN"));
        assert!(message(libc::EBUSY).contains("vcg0 is taken"));
        let by_whom = TunError::Taken {
            name: "vcg0".into(),
            holder: Some("process 7 (vcgate)".into()),
        };
        assert!(by_whom.to_string().contains("taken by process 7 (vcgate)"));
    }
}
