//! The system calls that each kind of thread may make (seccomp(2)). Any other fails with EPERM and
//! does not end the process: a C library that tries a new call must not cost the clients their
//! connections.
//!
//! No list has execve, ptrace, mount, or memory that can be both written and executed.

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// The remedy for a kernel without seccomp.
pub(crate) const REMEDY: &str = "use a kernel with CONFIG_SECCOMP_FILTER";

/// The system calls of a kind of thread, in parts that several lists share.
#[derive(Debug)]
pub(super) struct List {
    parts: &'static [&'static [c_long]],
    /// Whether it may make sockets.
    sockets: bool,
}

/// The threads of the data plane.
pub(super) const DATA_PLANE: List = List {
    parts: &[THREAD, PACKETS],
    sockets: false,
};
/// The thread that writes the log.
pub(super) const LOG: List = List {
    parts: &[THREAD, OTHERS, &[libc::SYS_clock_nanosleep]],
    sockets: false,
};
/// The threads that write the port log and the flow journal.
pub(super) const FILES: List = List {
    parts: &[THREAD, OTHERS, FILE_CALLS],
    sockets: false,
};
/// The thread of the control plane.
pub(super) const CONTROL: List = List {
    parts: &[THREAD, OTHERS, PACKETS, FILE_CALLS, SOCKETS],
    sockets: true,
};

/// The thread that serves the administration page.
pub(super) const ADMIN_SERVER: List = List {
    parts: &[THREAD, OTHERS, PACKETS, SERVER],
    sockets: false,
};
/// The thread that edits the configuration for the administration page.
pub(super) const ADMIN_WORKER: List = List {
    parts: &[THREAD, OTHERS, PACKETS, FILE_CALLS, SOCKETS, NEW_FILES],
    sockets: true,
};

/// The calls that each thread needs besides its work.
const THREAD: &[c_long] = &[
    // Pipes, sockets and event counters that are open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    // Memory; mmap and mprotect have conditions.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Locks and queues.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    // The time, on machines whose kernel has no vDSO clock, and keys.
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // A signal: the runtime's handler, which may run in any thread, wakes the control plane with sendto.
    libc::SYS_rt_sigreturn,
    libc::SYS_sendto,
    libc::SYS_restart_syscall,
    // A stack overflow: the handler restores the default, which ends the process.
    libc::SYS_rt_sigaction,
    // An abort: the signal is sent to the thread itself, with tgkill.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit_group,
    // The end of the thread.
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
];

/// The calls that threads outside the data plane need as well.
const OTHERS: &[c_long] = &[
    libc::SYS_fcntl,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
];

/// Packets of the TUN device and of UDP sockets.
const PACKETS: &[c_long] = &[
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_ppoll,
    libc::SYS_recvmmsg,
    libc::SYS_sendmsg,
];

/// Files in the folders that landlock allows.
const FILE_CALLS: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_readlinkat,
    libc::SYS_fchmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// Control sockets, netlink, and the runtime's wait for all of them.
const SOCKETS: &[c_long] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
    libc::SYS_clock_nanosleep,
    // The helper process is waited for when it ends.
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// Connections of a listener that is open, and the runtime's wait for them.
const SERVER: &[c_long] = &[
    libc::SYS_recvmsg,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_shutdown,
];

/// Files of peers, which get the owner of their folder, and a runtime for each look at the host.
const NEW_FILES: &[c_long] = &[
    libc::SYS_linkat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
];

/// A condition for one argument of a call: its place, its size, and the comparison.
type Condition = (u8, Len, Op, u64);

/// Calls that are allowed with certain arguments only.
fn conditional(list: &List) -> Vec<(c_long, Vec<Condition>)> {
    let not_executable = |call| {
        let exec = libc::PROT_EXEC as u64;
        (call, vec![(2, Len::Dword, Op::MaskedEq(exec), 0)])
    };
    let mut calls = vec![
        not_executable(libc::SYS_mmap),
        not_executable(libc::SYS_mprotect),
        // A panic that aborts sends the signal to the process itself.
        (
            libc::SYS_tgkill,
            vec![(0, Len::Dword, Op::Eq, u64::from(std::process::id()))],
        ),
    ];
    if list.sockets {
        let families = [
            libc::AF_UNIX,
            libc::AF_INET,
            libc::AF_INET6,
            libc::AF_NETLINK,
            libc::AF_PACKET,
        ];
        calls.extend(families.map(|family| {
            let family = family as u64;
            (libc::SYS_socket, vec![(0, Len::Dword, Op::Eq, family)])
        }));
        // FIONBIO, and the numbers of interfaces. The size differs between C libraries.
        let requests = [libc::FIONBIO as u32, libc::SIOCGIFINDEX as u32].map(u64::from);
        calls.extend(
            requests.map(|request| (libc::SYS_ioctl, vec![(1, Len::Dword, Op::Eq, request)])),
        );
    }
    calls
}

/// The reason why calls are not restricted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The list is not valid for this processor.
    #[error(transparent)]
    Filter(#[from] BackendError),
    /// The kernel refused it.
    #[error(transparent)]
    Kernel(#[from] seccompiler::Error),
}

/// Restricts the calling thread, and those that it starts, to a list. It sets no_new_privs.
pub(super) fn restrict(list: &List) -> Result<(), Error> {
    seccompiler::apply_filter(&program(list)?)?;
    Ok(())
}

fn program(list: &List) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in list.parts.iter().copied().flatten() {
        rules.insert(*call, Vec::new());
    }
    for (call, conditions) in conditional(list) {
        let conditions = conditions
            .into_iter()
            .map(|(place, len, op, value)| SeccompCondition::new(place, len, op, value));
        let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
        rules.entry(call).or_default().push(rule);
    }
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let processor = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, processor)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{ErrorKind, Write};
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// Runs a test in a thread with this list.
    fn confined(list: &'static List, test: impl FnOnce() + Send + 'static) {
        let thread = thread::spawn(move || {
            restrict(list).unwrap();
            test();
        });
        thread.join().unwrap();
    }

    #[track_caller]
    fn refused<T>(result: std::io::Result<T>) {
        let error = result.err().expect("the call was allowed");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn the_data_plane_opens_nothing_and_runs_nothing() {
        let [socket, peer] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let peer = peer.local_addr().unwrap();
        confined(&DATA_PLANE, move || {
            refused(File::open("/etc/passwd"));
            refused(UdpSocket::bind("127.0.0.1:0"));
            refused(Command::new("/bin/true").spawn());
            refused(thread::Builder::new().spawn(|| {}));
            refused(socket.set_broadcast(true));
            refused(socket.local_addr());
            // The memory, the sockets and the locks that packets need.
            let large = vec![7_u8; 4 << 20];
            assert_eq!(large.iter().filter(|byte| **byte == 7).count(), 4 << 20);
            socket.send_to(b"data", peer).unwrap();
            let (sender, receiver) = mpsc::channel::<()>();
            assert!(receiver.recv_timeout(Duration::from_millis(1)).is_err());
            drop(sender);
        });
    }

    #[test]
    fn the_log_only_writes() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        confined(&LOG, move || {
            refused(File::open("/etc/passwd"));
            refused(UdpSocket::bind("127.0.0.1:0"));
            refused(Command::new("/bin/true").spawn());
            thread::sleep(Duration::from_millis(1));
            writer.write_all(b"line").unwrap();
        });
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "line");
    }

    #[test]
    fn the_port_log_makes_files_and_no_sockets() {
        let dir = tempfile::tempdir().unwrap();
        confined(&FILES, move || {
            let path = dir.path().join("ports.jsonl");
            std::fs::write(&path, "line").unwrap();
            std::fs::rename(&path, dir.path().join("ports.jsonl.1")).unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
            refused(UdpSocket::bind("127.0.0.1:0"));
            refused(Command::new("/bin/true").spawn());
            std::fs::remove_file(dir.path().join("ports.jsonl.1")).unwrap();
            std::fs::remove_dir(dir.path()).unwrap();
        });
    }

    #[test]
    fn the_control_plane_runs_nothing_and_makes_only_sockets_that_it_needs() {
        confined(&CONTROL, || {
            refused(Command::new("/bin/true").spawn());
            refused(thread::Builder::new().spawn(|| {}));
            UdpSocket::bind("127.0.0.1:0").unwrap();
            UnixDatagram::unbound().unwrap();
            let bluetooth = socket2::Domain::from(libc::AF_BLUETOOTH);
            refused(socket2::Socket::new(bluetooth, socket2::Type::RAW, None));
            // It needs no TCP.
            refused(TcpListener::bind("127.0.0.1:0"));
            assert!(File::open("/etc/passwd").is_ok(), "this is for landlock");
        });
    }

    #[test]
    fn the_server_of_the_page_answers_on_its_listener_and_opens_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        confined(&ADMIN_SERVER, move || {
            refused(File::open("/etc/passwd"));
            refused(UdpSocket::bind("127.0.0.1:0"));
            refused(TcpListener::bind("127.0.0.1:0"));
            refused(Command::new("/bin/true").spawn());
            refused(thread::Builder::new().spawn(|| {}));
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(b"page").unwrap();
        });
        let mut text = String::new();
        std::io::Read::read_to_string(&mut client, &mut text).unwrap();
        assert_eq!(text, "page");
    }

    #[test]
    fn the_worker_of_the_page_makes_files_and_runs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        confined(&ADMIN_WORKER, move || {
            let path = dir.path().join("anna.key");
            std::fs::write(&path, "key").unwrap();
            std::fs::hard_link(&path, dir.path().join("ben.key")).unwrap();
            assert!(
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .is_ok()
            );
            refused(Command::new("/bin/true").spawn());
            refused(thread::Builder::new().spawn(|| {}));
            refused(TcpListener::bind("127.0.0.1:0"));
        });
    }

    #[test]
    fn no_list_allows_memory_that_is_executable() {
        // The loader of a C library maps its code with PROT_EXEC.
        let exec = libc::PROT_EXEC as u64;
        for list in [
            &DATA_PLANE,
            &LOG,
            &FILES,
            &CONTROL,
            &ADMIN_SERVER,
            &ADMIN_WORKER,
        ] {
            for (call, conditions) in conditional(list) {
                if [libc::SYS_mmap, libc::SYS_mprotect].contains(&call) {
                    assert_eq!(conditions, [(2, Len::Dword, Op::MaskedEq(exec), 0)]);
                }
            }
            for never in [
                libc::SYS_mmap,
                libc::SYS_mprotect,
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_mount,
                libc::SYS_setns,
                libc::SYS_bpf,
            ] {
                assert!(!list.parts.iter().any(|part| part.contains(&never)));
            }
        }
    }
}
