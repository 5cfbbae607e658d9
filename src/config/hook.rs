//! Finds access rules in the hooks of a wg-quick file (PreUp, PostUp, PreDown, PostDown).
//!
//! vcgate translates, forwards and routes by itself, so MASQUERADE and unrestricted forwarding need no
//! replacement; access rules do, and are reported. Every command that is not known to be harmless is
//! reported, since it may contain a rule. It runs no command and reads no other file.

mod filter;
mod shell;

use super::problem::Diagnostic;
use ipnet::IpNet;
use shell::Command;

/// A command of a hook that must be reported.
pub(super) struct Finding {
    /// The command, shortened.
    command: String,
    concern: Concern,
}

/// The reason to report a command.
#[derive(Debug, PartialEq, Eq)]
enum Concern {
    /// It restricts traffic of clients.
    Restricts,
    /// It forwards a port. The arguments of `vcgate forward add`, if they can be derived.
    Forwards(Option<String>),
    /// It translates clients to a certain address.
    Translates,
    /// Its effect is unknown.
    Unreadable,
}

/// Maximum length of a command in a report, in characters.
const MAX_SHOWN: usize = 160;

/// Returns the commands of a hook that are not known to be harmless. `tunnel` are the addresses of the
/// interface: a rule for all of their networks applies to all clients.
pub(super) fn findings(hook: &str, tunnel: &[IpNet]) -> Vec<Finding> {
    let commands = shell::commands(hook);
    let findings = commands.iter().filter_map(|command| {
        Some(Finding {
            concern: concern(command, tunnel)?,
            command: shortened(&command.text),
        })
    });
    findings.collect()
}

impl Finding {
    /// Returns the problem to report.
    pub(super) fn wrong(&self, key: &str) -> Diagnostic {
        let command = &self.command;
        let (what, remedy) = match &self.concern {
            Concern::Restricts => (
                "restricts access and is not imported",
                "import with --force, then write what each client may reach as reach in its \
                 [[peer]] before you start vcgate"
                    .to_owned(),
            ),
            Concern::Forwards(None) => (
                "forwards a port and is not imported",
                "import with --force, then \"vcgate forward add\"".to_owned(),
            ),
            Concern::Forwards(Some(forward)) => (
                "forwards a port and is not imported",
                format!("import with --force, then \"vcgate forward add {forward}\""),
            ),
            Concern::Translates => (
                "gives clients a certain address on the LAN and is not imported",
                "import with --force, then set address under [lan] if it matters".to_owned(),
            ),
            Concern::Unreadable => (
                "may contain access rules, which are not imported",
                "look through it, import with --force, then write its rules as reach and \
                 [[forward]] before you start vcgate"
                    .to_owned(),
            ),
        };
        Diagnostic::new(format!("{key}: `{command}` {what}"), remedy)
    }
}

/// Returns the reason to report a command, unless it is known to be harmless.
fn concern(command: &Command, tunnel: &[IpNet]) -> Option<Concern> {
    let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
    let words = match words.as_slice() {
        ["sudo", rest @ ..] => rest,
        all => all,
    };
    let (program, arguments) = words.split_first()?;
    let known = matches!(
        program.rsplit_once('/'),
        None | Some(("/sbin" | "/usr/sbin" | "/bin" | "/usr/bin", _))
    );
    let name = program.rsplit('/').next().unwrap_or(program);
    match name {
        _ if !known => Some(Concern::Unreadable),
        "iptables" | "iptables-nft" | "iptables-legacy" | "ip6tables" | "ip6tables-nft"
        | "ip6tables-legacy" => filter::iptables(arguments, tunnel),
        "nft" => filter::nft(arguments, tunnel),
        "ufw" => filter::ufw(arguments),
        "sysctl" | "true" | ":" | "sleep" | "logger" | "modprobe" | "resolvectl" | "resolvconf" => {
            None
        }
        "echo" | "printf" => writes_elsewhere(command).then_some(Concern::Unreadable),
        "ip" => is_blocking_route(arguments).then_some(Concern::Restricts),
        _ => Some(Concern::Unreadable),
    }
}

/// Whether it writes to a file other than a kernel setting.
fn writes_elsewhere(command: &Command) -> bool {
    let setting = |file: &String| file.starts_with("/proc/sys/") || file == "/dev/null";
    !command.written.iter().all(setting)
}

/// Whether it adds a route or rule that rejects packets.
fn is_blocking_route(arguments: &[&str]) -> bool {
    let refuses = |word: &&str| ["blackhole", "prohibit", "unreachable", "throw"].contains(word);
    arguments.iter().any(refuses)
}

fn shortened(command: &str) -> String {
    match command.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command.to_owned(),
    }
}
