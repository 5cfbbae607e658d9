//! The restrictions in force, read from /proc/self/task: what the kernel does, not what was asked
//! of it.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use utoipa::ToSchema;

/// Names of capabilities by number, of those that vcgate may have (linux/capability.h).
const NAMES: [(u32, &str); 4] = [
    (1, "CAP_DAC_OVERRIDE"),
    (10, "CAP_NET_BIND_SERVICE"),
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
];

/// The restrictions of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Confinement {
    /// Number of the user that it runs as.
    pub user: u32,
    /// Version of landlock; null if files are not restricted.
    pub landlock: Option<u8>,
    /// Its threads.
    pub threads: Vec<ThreadConfinement>,
}

/// The restrictions of a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ThreadConfinement {
    /// The thread's name.
    pub name: String,
    /// Its capabilities.
    pub capabilities: Vec<String>,
    /// Whether it can gain no privileges.
    pub no_new_privs: bool,
    /// Whether it is restricted to a list of system calls.
    pub seccomp: bool,
}

impl Confinement {
    /// Reads the restrictions of this process.
    pub(super) fn read(landlock: Option<u8>) -> Self {
        let mut threads = tasks().unwrap_or_default();
        threads.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            user: rustix::process::geteuid().as_raw(),
            landlock,
            threads,
        }
    }

    /// Returns the capabilities that any thread has.
    pub fn capabilities(&self) -> Vec<&str> {
        let all = self.threads.iter().flat_map(|thread| &thread.capabilities);
        let mut all: Vec<_> = all.map(String::as_str).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether all threads have a list of system calls and can gain no privileges.
    pub fn is_complete(&self) -> bool {
        let confined = |thread: &ThreadConfinement| thread.seccomp && thread.no_new_privs;
        !self.threads.is_empty() && self.threads.iter().all(confined)
    }
}

/// The restrictions of the control thread, for the log: other threads may still be confining themselves.
pub(super) fn of_control_thread(landlock: Option<u8>) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let user = rustix::process::geteuid().as_raw();
    describe(user, &parse(&status), landlock)
}

fn describe(user: u32, thread: &ThreadConfinement, landlock: Option<u8>) -> String {
    let mut parts = vec![format!("user {user}")];
    parts.extend(thread.capabilities.iter().cloned());
    parts.extend(landlock.map(|version| format!("landlock {version}")));
    parts.extend(thread.seccomp.then(|| "seccomp".to_owned()));
    parts.join(", ")
}

fn tasks() -> io::Result<Vec<ThreadConfinement>> {
    let read = |entry: io::Result<fs::DirEntry>| {
        fs::read_to_string(entry?.path().join("status")).map(|status| parse(&status))
    };
    // A thread may end while its file is read.
    Ok(fs::read_dir("/proc/self/task")?
        .filter_map(|entry| read(entry).ok())
        .collect())
}

/// Parses a status file of proc(5).
fn parse(status: &str) -> ThreadConfinement {
    let field = |name: &str| {
        let mut fields = status.lines().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(key, _)| *key == name);
        found.map_or("", |(_, value)| value.trim())
    };
    let effective = u64::from_str_radix(field("CapEff"), 16).unwrap_or(0);
    ThreadConfinement {
        name: field("Name").to_owned(),
        capabilities: names(effective),
        no_new_privs: field("NoNewPrivs") == "1",
        seccomp: field("Seccomp") == "2",
    }
}

fn names(capabilities: u64) -> Vec<String> {
    let numbers = (0..u64::BITS).filter(|number| capabilities & (1 << number) != 0);
    let name = |number: u32| {
        let known = NAMES.iter().find(|(known, _)| *known == number);
        known.map_or_else(
            || format!("capability {number}"),
            |(_, name)| (*name).to_owned(),
        )
    };
    numbers.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_names_restrictions_of_each_thread() {
        let status = "Name:\tshard\nUid:\t997\t997\t997\t997\nCapEff:\t0000000000003001\n\
                      NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let shard = parse(status);
        assert_eq!(shard.name, "shard");
        assert!(shard.no_new_privs && shard.seccomp);
        assert_eq!(
            shard.capabilities,
            ["capability 0", "CAP_NET_ADMIN", "CAP_NET_RAW"]
        );
        let free = parse("Name:\tmain\nCapEff:\t0\nNoNewPrivs:\t0\nSeccomp:\t0\n");
        assert!(!free.no_new_privs && !free.seccomp && free.capabilities.is_empty());
        let both = Confinement {
            user: 997,
            landlock: Some(7),
            threads: vec![shard, free],
        };
        assert!(!both.is_complete());
        assert_eq!(
            describe(997, &both.threads[0], both.landlock),
            "user 997, capability 0, CAP_NET_ADMIN, CAP_NET_RAW, landlock 7, seccomp"
        );
        assert_eq!(describe(0, &both.threads[1], None), "user 0");
    }
}
