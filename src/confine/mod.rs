//! Takes rights away from the endpoint's threads once they have what they need, so that a defect in
//! one of them gives an attacker little: no new privileges, few capabilities, a list of system calls,
//! and only certain files.
//!
//! ```text
//! capabilities  capabilities of a thread
//! calls         the system calls of each kind of thread (seccomp)
//! files         the files of each kind of thread (landlock)
//! report        the restrictions in force, as the kernel reports them
//! ```
//!
//! Each thread confines itself; nothing can be taken back. What a kernel does not support is left out
//! and reported: it never stops the endpoint.

mod calls;
mod capabilities;
mod files;
mod report;

pub(crate) use calls::REMEDY as SECCOMP_REMEDY;
pub(crate) use files::REMEDY as LANDLOCK_REMEDY;
pub use report::{Confinement, ThreadConfinement};

use capabilities::CapabilitySet;
use files::{Access, Landlock};
use std::io;
use std::path::{Path, PathBuf};
use tracing::{debug, info, warn};

/// The needs of the control thread while the endpoint runs.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Files and folders to read: the configuration and keys, for a reload.
    pub read: Vec<PathBuf>,
    /// Folders to read and to make files in.
    pub write: Vec<PathBuf>,
    /// Whether it opens packet sockets, to announce a LAN address.
    pub packet_sockets: bool,
}

/// The restrictions of a thread.
#[derive(Debug)]
struct Restricted {
    capabilities: io::Result<()>,
    files: Result<Landlock, files::Error>,
    calls: Result<(), calls::Error>,
}

/// The confined process. It keeps the folders open that its rules name: files under /proc are others
/// after the kernel has forgotten them.
#[derive(Debug)]
pub struct Confined {
    landlock: Option<Landlock>,
}

impl Confined {
    /// Returns the restrictions in force.
    pub fn report(&self) -> Confinement {
        Confinement::read(self.landlock.as_ref().map(Landlock::version))
    }
}

/// Confines the thread of the control plane. Logs a warning for each kind of restriction that this
/// kernel does not support.
pub fn control(needs: &Needs) -> Confined {
    let foreign = [&needs.read, &needs.write]
        .into_iter()
        .flatten()
        .any(|path| is_foreign(path));
    let mut kept = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    kept.set(CapabilitySet::NET_RAW, needs.packet_sockets);
    // Root reads a configuration of another user only with this.
    kept.set(CapabilitySet::DAC_OVERRIDE, foreign);
    let rules = [
        (&*needs.read, Access::Read),
        (&needs.write, Access::Write),
        (&["/proc/self".into()], Access::Read),
        (&["/proc/sys/net".into()], Access::Write),
    ];
    let restricted = restrict(kept, &rules, &calls::CONTROL);
    if let Err(error) = &restricted.capabilities {
        warn!(
            "cannot drop capabilities: {error}; the process keeps those that it was started with"
        );
    }
    if let Err(error) = &restricted.files {
        warn!(
            "cannot restrict the files that the process may use: {error}; {}",
            files::REMEDY
        );
    }
    if let Err(error) = &restricted.calls {
        warn!(
            "cannot restrict the system calls of the process: {error}; {}",
            calls::REMEDY
        );
    }
    let confined = Confined {
        landlock: restricted.files.ok(),
    };
    let landlock = confined.landlock.as_ref().map(Landlock::version);
    info!("confined: {}", report::of_control_thread(landlock));
    confined
}

/// Confines a thread of the data plane. It has the device and its sockets already.
pub fn data_plane() {
    restrict_quietly(CapabilitySet::empty(), &[], &calls::DATA_PLANE);
}

/// Confines the thread that writes the log to stderr.
pub fn log() {
    restrict_quietly(CapabilitySet::empty(), &[], &calls::LOG);
}

/// Confines a thread that writes files in `folder`.
pub fn file_writer(folder: &Path) {
    let mut kept = CapabilitySet::empty();
    kept.set(CapabilitySet::DAC_OVERRIDE, is_foreign(folder));
    let rules = [(&[folder.to_owned()][..], Access::Write)];
    restrict_quietly(kept, &rules, &calls::FILES);
}

/// Confines the thread that serves the administration page. It has its sockets already, and opens
/// neither files nor further sockets.
pub fn admin_server() {
    restrict_quietly(CapabilitySet::empty(), &[], &calls::ADMIN_SERVER);
}

/// Confines the thread that edits the configuration for the administration page: it changes files in
/// the configuration's folder.
pub fn admin_worker(config: &Path) {
    let real = config.canonicalize().ok();
    let files = [Some(config), real.as_deref()];
    let folders = files.into_iter().flatten().filter_map(Path::parent);
    let folders: Vec<PathBuf> = folders.map(Path::to_owned).collect();
    let mut kept = CapabilitySet::empty();
    let foreign = folders.iter().any(|path| is_foreign(path));
    kept.set(CapabilitySet::DAC_OVERRIDE | CapabilitySet::CHOWN, foreign);
    let rules = [
        (&folders[..], Access::Write),
        (&["/proc/self".into(), "/proc/sys".into()], Access::Read),
    ];
    restrict_quietly(kept, &rules, &calls::ADMIN_WORKER);
}

/// Confines the process that runs nft and iptables: it and its programs write no file and gain no
/// rights. The legacy iptables reads its tables through a raw socket.
pub fn helper() {
    let kept = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    let capabilities = capabilities::keep_across_exec(kept);
    let files = files::restrict_writes();
    debug!(?capabilities, ?files, "confined");
}

/// The control thread warns of what a kernel lacks, once for all threads.
fn restrict_quietly(kept: CapabilitySet, rules: &[(&[PathBuf], Access)], list: &calls::List) {
    let restricted = restrict(kept, rules, list);
    debug!(?restricted, "confined");
}

fn restrict(kept: CapabilitySet, rules: &[(&[PathBuf], Access)], list: &calls::List) -> Restricted {
    Restricted {
        capabilities: capabilities::keep(kept),
        files: files::restrict(rules),
        // The last, because the others need calls that are not in any list.
        calls: calls::restrict(list),
    }
}

/// Whether a path belongs to another user, or cannot be seen.
fn is_foreign(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::geteuid().as_raw();
    path.metadata()
        .map_or(true, |metadata| metadata.uid() != user)
}
