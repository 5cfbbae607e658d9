//! The hooks of a wg-quick file (PreUp, PostUp, PreDown, PostDown), judged command by command:
//! whether one may restrict or grant access. vcgate translates, forwards and routes by itself, so
//! MASQUERADE and unrestricted forwarding have their counterpart; access rules are security, and
//! are reported. It judges by what it knows to be harmless, never by what it knows to be a rule: a
//! command that it cannot read may contain one. It runs nothing and reads no other file.

mod filter;
mod shell;

use super::problem::Diagnostic;
use ipnet::IpNet;
use shell::Command;

/// A hook's command that has to be looked at.
pub(super) struct Finding {
    /// The command, shortened.
    command: String,
    concern: Concern,
}

/// Why it has to be.
#[derive(Debug, PartialEq, Eq)]
enum Concern {
    /// A rule narrows what clients reach, or what reaches them.
    Restricts,
    /// A port is forwarded; the arguments of `vcgate forward add`, if they are clear.
    Forwards(Option<String>),
    /// Clients are translated to a certain address.
    Translates,
    /// What it does is not in this file, or not understood.
    Unreadable,
}

/// The longest command that is repeated in full, in characters.
const MAX_SHOWN: usize = 160;

/// The commands of a hook that are not known to be harmless. `tunnel` are the addresses of the
/// interface: a rule for all of their networks is none for a part of the clients.
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
    /// What to report of it.
    pub(super) fn wrong(&self, key: &str) -> Diagnostic {
        let command = &self.command;
        let (what, remedy) = match &self.concern {
            Concern::Restricts => (
                "restricts access and is not taken over",
                "import with --force, then write what each client may reach as reach in its \
                 [[peer]] before you start vcgate"
                    .to_owned(),
            ),
            Concern::Forwards(None) => (
                "forwards a port and is not taken over",
                "import with --force, then \"vcgate forward add\"".to_owned(),
            ),
            Concern::Forwards(Some(forward)) => (
                "forwards a port and is not taken over",
                format!("import with --force, then \"vcgate forward add {forward}\""),
            ),
            Concern::Translates => (
                "gives clients a certain address on the LAN and is not taken over",
                "import with --force, then set address under [lan] if it matters".to_owned(),
            ),
            Concern::Unreadable => (
                "may contain access rules, which are not taken over",
                "look through it, import with --force, then write its rules as reach and \
                 [[forward]] before you start vcgate"
                    .to_owned(),
            ),
        };
        Diagnostic::new(format!("{key}: `{command}` {what}"), remedy)
    }
}

/// Why this command has to be looked at, unless it is known to be harmless.
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

/// Whether it writes to a file that is not a setting of the kernel.
fn writes_elsewhere(command: &Command) -> bool {
    let setting = |file: &String| file.starts_with("/proc/sys/") || file == "/dev/null";
    !command.written.iter().all(setting)
}

/// Routes and rules that refuse packets.
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
