//! The TUN device: packets and super-packets to and from the kernel, each with its virtio header.
//!
//! tun-tap makes the device; the offloads are asked for under it, by opening it a second time with
//! room for the header. Where that is refused the plain device serves: slower, with every header
//! empty. It never looks into a packet.

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
/// Between two tries to open a device that is busy.
const MOMENT: Duration = Duration::from_millis(1);
/// Pieces of a packet that are written without an allocation.
const PIECES: usize = 64;

/// What the kernel's side of the device does for us; each level includes those before.
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

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// A name that no interface can have.
    #[error("{0:?} is no name for an interface: 1 to 15 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// The kernel has no TUN driver, or the container does not show it.
    #[error(
        "{DEVICE} is missing: run `modprobe tun`; in a container, start it with `--device {DEVICE}`"
    )]
    NoDevice,
    /// The process may not make interfaces.
    #[error(
        "no permission to make the interface {0}: run as root or grant CAP_NET_ADMIN \
             (systemd: AmbientCapabilities=CAP_NET_ADMIN; container: `--cap-add NET_ADMIN`)"
    )]
    NotPermitted(String),
    /// An interface of this name exists.
    #[error("the interface name {name} is taken{}: choose another [interface] name, or free it", by(.holder))]
    Taken {
        /// The name.
        name: String,
        /// Who holds it, if that could be found out.
        holder: Option<String>,
    },
    /// Anything else.
    #[error("cannot make the interface {name}: {source}")]
    Other {
        /// The name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A TUN device, non-blocking. It vanishes with this value, its addresses and routes with it.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    offloads: Offload,
}

impl Tun {
    /// Makes the device `name` with as many of the offloads as the kernel grants, at most `wanted`.
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

    /// Another hold on the same device, for another thread. Only one of them is to read.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            name: self.name.clone(),
            offloads: self.offloads,
        })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel granted. Without any, nothing but single packets may be written.
    pub fn offloads(&self) -> Offload {
        self.offloads
    }

    /// Reads one packet into the memory of `buffer`, as much of it as that holds; nothing when none
    /// waits. A packet whose header does not fit it is skipped.
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

    /// Writes one packet that lies in pieces, without a copy.
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
            _ if pieces.len() <= PIECES => {
                let mut all = [header; PIECES + 1];
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
            sys::read_behind(&self.file, &mut [], buffer)?;
            return Ok(Some(Header::default()));
        }
        let mut header = [0; virtio_net::LEN];
        sys::read_behind(&self.file, &mut header, buffer)?;
        Ok(Header::decode(&header, buffer).ok())
    }

    fn write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        // The driver takes a packet whole or not at all.
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

/// Whether the kernel takes it as the name of an interface, and nobody reads it as a path, a
/// pattern or an option.
pub fn is_interface_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=sys::NAME_MAX).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with(['.', '-'])
}

/// Gives up the plain device and opens it again with a header before each packet. It is kept
/// alive over the gap; where the header is refused, the plain device comes back.
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
            warn!(%error, "no TUN offloads: every packet goes alone, which is slower");
            let iface = retry_briefly(|| Iface::without_packet_info(name, Mode::Tun))?;
            (sys::own(iface), Offload::None)
        }
    };
    sys::tun_persist(&file, false)?;
    Ok((file, offloads))
}

/// Tries again while the device is busy: a child that another thread starts holds a copy of the
/// old descriptor for the moment between fork and exec.
fn retry_briefly<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..200 {
        match open() {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => thread::sleep(MOMENT),
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
    // The kernel takes these two together or not at all.
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
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(name.into()),
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

/// The process that holds the TUN device `name`, as its open files tell.
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
    fn names() {
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
    fn where_the_header_is_refused_the_plain_device_serves_and_vanishes_with_its_holder() {
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
    fn each_refusal_names_its_remedy() {
        let says = |errno| refused("vcg0", io::Error::from_raw_os_error(errno)).to_string();
        assert!(says(libc::ENOENT).contains("modprobe tun"));
        assert!(says(libc::EPERM).contains("CAP_NET_ADMIN"));
        assert!(says(libc::EBUSY).contains("vcg0 is taken"));
        let by_whom = TunError::Taken {
            name: "vcg0".into(),
            holder: Some("process 7 (vcgate)".into()),
        };
        assert!(by_whom.to_string().contains("taken by process 7 (vcgate)"));
    }
}
