//! Checks the restrictions of a running endpoint, as the kernel reports them.

use super::{Check, ok, warn};
use crate::confine::{self, Confinement};

/// Checks the user, the capabilities, the system calls and the files of the process.
pub fn checks(confinement: &Confinement) -> Vec<Check> {
    vec![
        user(confinement),
        capabilities(confinement),
        calls(confinement),
        files(confinement),
    ]
}

fn user(confinement: &Confinement) -> Check {
    let meaning = match confinement.user {
        0 => "the process runs as root, without root's rights; the systemd unit has a user of its own"
            .to_owned(),
        user => format!("the process runs as user {user}"),
    };
    ok("process-user", meaning)
}

fn capabilities(confinement: &Confinement) -> Check {
    let all = confinement.capabilities().join(", ");
    let threads = confinement.threads.iter();
    let mut shards = threads.filter(|thread| thread.name == "shard");
    match shards.all(|shard| shard.capabilities.is_empty()) {
        true => ok(
            "process-capabilities",
            format!("{all} for the control plane, none for the data plane"),
        ),
        false => warn(
            "process-capabilities",
            format!("{all}, for the data plane as well"),
            "restart the endpoint, and see its log",
        ),
    }
}

fn calls(confinement: &Confinement) -> Check {
    let count = confinement.threads.len();
    match confinement.is_complete() {
        true => ok(
            "process-calls",
            format!(
                "each of its {count} threads has a list of system calls (seccomp) and gains no privileges"
            ),
        ),
        false => warn(
            "process-calls",
            "not all of its threads have a list of system calls (seccomp)",
            confine::SECCOMP_REMEDY,
        ),
    }
}

fn files(confinement: &Confinement) -> Check {
    match confinement.landlock {
        Some(version) => ok(
            "process-files",
            format!(
                "it reads its configuration and writes its own folders only (landlock {version})"
            ),
        ),
        None => warn(
            "process-files",
            "the files that it may use are not restricted: this kernel has no landlock",
            confine::LANDLOCK_REMEDY,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::confine::ThreadConfinement;

    fn thread(name: &str, capabilities: &[&str], confined: bool) -> ThreadConfinement {
        ThreadConfinement {
            name: name.into(),
            capabilities: capabilities.iter().map(|&name| name.to_owned()).collect(),
            no_new_privs: confined,
            seccomp: confined,
        }
    }

    fn verdicts(confinement: &Confinement) -> Vec<(&'static str, Verdict)> {
        let checks = checks(confinement).into_iter();
        checks.map(|check| (check.name, check.verdict)).collect()
    }

    #[test]
    fn each_missing_restriction_is_a_warning() {
        let confined = Confinement {
            user: 997,
            landlock: Some(7),
            threads: vec![
                thread("shard", &[], true),
                thread("vcgate", &["CAP_NET_ADMIN"], true),
            ],
        };
        assert!(verdicts(&confined).iter().all(|(_, v)| *v == Verdict::Ok));
        let free = Confinement {
            user: 0,
            landlock: None,
            threads: vec![thread("shard", &["CAP_NET_ADMIN"], false)],
        };
        assert_eq!(
            verdicts(&free),
            [
                ("process-user", Verdict::Ok),
                ("process-capabilities", Verdict::Warn),
                ("process-calls", Verdict::Warn),
                ("process-files", Verdict::Warn),
            ]
        );
    }
}
