//! Whether a firewall of this machine drops what the endpoint lives on: datagrams to its port, and
//! packets between the tunnel and the LAN.
//!
//! The rules are read and played through with three answers, for not every match can be judged
//! without a packet: yes, no, unknown. It changes nothing and sends nothing.

mod iptables;
mod nftables;

use crate::host::nft;
use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;

/// A chain calls another one at most this deep (the kernel's limit is 16).
const MAX_DEPTH: usize = 16;

/// A packet that has to pass.
#[derive(Debug, Clone)]
pub(super) struct Probe<'p> {
    pub hook: &'static str,
    pub ipv6: bool,
    /// The interface that it comes in by; `None` is any that leads to others.
    pub input: Option<&'p str>,
    /// The interface that it leaves by.
    pub output: Option<&'p str>,
    /// The UDP port that it is for; `None` is any packet.
    pub port: Option<u16>,
    /// Whether it is an answer.
    pub established: bool,
}

/// A chain that does not let a packet pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// The command that the table belongs to: `nft`, `iptables` and its kin.
    pub tool: &'static str,
    /// The family and the name of the table, for nft.
    pub table: String,
    pub chain: String,
    /// Whether a rule that cannot be judged may accept it.
    pub unless: bool,
}

/// A table of rules.
#[derive(Debug, Default)]
struct Table {
    tool: &'static str,
    /// The family and the name.
    name: String,
    chains: BTreeMap<String, Chain>,
}

#[derive(Debug, Default)]
struct Chain {
    /// The hook of a base chain.
    hook: Option<String>,
    /// Whether a base chain drops what no rule decides on.
    drops: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    matches: Vec<Match>,
    action: Action,
}

#[derive(Debug, Clone)]
struct Match {
    negated: bool,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Names of interfaces, each with or without a wildcard at its end.
    Input(Vec<String>),
    Output(Vec<String>),
    Protocol(Vec<String>),
    UdpPort(Vec<RangeInclusive<u16>>),
    /// States of connection tracking, in lower case.
    State(Vec<String>),
    Ipv6(bool),
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// It decides nothing, as a counter.
    Continue,
}

/// The outcome of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accept,
    /// Dropped, unless a rule that cannot be judged accepts it.
    Drop {
        unless: bool,
    },
    Undecided {
        unless: bool,
    },
}

/// All rules of this machine that can be read.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    tables: Vec<Table>,
    /// Families, `ip` or `ip6`, whose legacy tables are in use and cannot be listed.
    pub unreadable: Vec<&'static str>,
}

impl Firewall {
    /// Lists the rules, with `nft` and the commands of iptables that this machine has.
    pub(super) async fn read() -> Self {
        let mut firewall = Self::default();
        if let Ok(json) = nft::list_ruleset().await {
            firewall.tables = nftables::parse(json.as_bytes());
        }
        for (family, tool, names) in [
            ("ip", "iptables", "/proc/net/ip_tables_names"),
            ("ip6", "ip6tables", "/proc/net/ip6_tables_names"),
        ] {
            // nft does not show what the matches of iptables compare.
            if firewall
                .tables
                .iter()
                .any(|table| table.name == format!("{family} filter"))
                && let Ok(text) = nft::tool(&format!("{tool}-nft-save")).await
            {
                let table = iptables::parse(&text, tool, family);
                firewall.tables.retain(|other| other.name != table.name);
                firewall.tables.push(table);
            }
            let legacy = fs::read_to_string(names).unwrap_or_default();
            if !legacy.lines().any(|name| name == "filter") {
                continue;
            }
            let legacy = match family {
                "ip" => "iptables-legacy",
                _ => "ip6tables-legacy",
            };
            match nft::tool(&format!("{legacy}-save")).await {
                Ok(text) => firewall.tables.push(iptables::parse(&text, legacy, family)),
                Err(_) => firewall.unreadable.push(family),
            }
        }
        firewall
    }

    /// The base chains that do not let a packet pass.
    pub(super) fn obstacles(&self, probe: &Probe<'_>) -> Vec<Obstacle> {
        let family = if probe.ipv6 { "ip6 " } else { "ip " };
        let sees =
            |table: &&Table| table.name.starts_with(family) || table.name.starts_with("inet ");
        let tables = self.tables.iter().filter(sees);
        let obstacles = tables.flat_map(|table| {
            let chains = table.chains.iter();
            let chains = chains.filter(|(_, chain)| chain.hook.as_deref() == Some(probe.hook));
            chains.filter_map(|(name, chain)| {
                let dropped = match table.verdict(chain, probe, MAX_DEPTH) {
                    Verdict::Drop { unless } => Some(unless),
                    Verdict::Undecided { unless } => chain.drops.then_some(unless),
                    Verdict::Accept => None,
                };
                dropped.map(|unless| Obstacle {
                    tool: table.tool,
                    table: table.name.clone(),
                    chain: name.clone(),
                    unless,
                })
            })
        });
        obstacles.collect()
    }
}

impl Table {
    fn verdict(&self, chain: &Chain, probe: &Probe<'_>, depth: usize) -> Verdict {
        let mut unless = false;
        for rule in &chain.rules {
            let applies = rule.applies(probe);
            if applies == Some(false) {
                continue;
            }
            let (target, returns) = match &rule.action {
                Action::Jump(to) => (self.chains.get(to), true),
                Action::Goto(to) => (self.chains.get(to), false),
                _ => (None, true),
            };
            let verdict = match (&rule.action, target) {
                (Action::Accept, _) => Verdict::Accept,
                (Action::Drop, _) => Verdict::Drop { unless: false },
                (_, Some(target)) if depth > 0 => self.verdict(target, probe, depth - 1),
                (Action::Return, _) if applies == Some(true) => {
                    return Verdict::Undecided { unless };
                }
                _ => continue,
            };
            match (verdict, applies) {
                (Verdict::Accept, Some(true)) => return Verdict::Accept,
                (Verdict::Accept, _) => unless = true,
                (Verdict::Drop { unless: inner }, Some(true)) => {
                    return Verdict::Drop {
                        unless: unless || inner,
                    };
                }
                (Verdict::Drop { .. }, _) => {}
                (Verdict::Undecided { unless: inner }, _) => {
                    unless |= inner;
                    if !returns && applies == Some(true) {
                        return Verdict::Undecided { unless };
                    }
                }
            }
        }
        Verdict::Undecided { unless }
    }
}

impl Rule {
    /// Whether it applies to a packet; `None` is unknown.
    fn applies(&self, probe: &Probe<'_>) -> Option<bool> {
        let mut all = Some(true);
        for part in &self.matches {
            match part.kind.holds(probe).map(|holds| holds != part.negated) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => all = None,
            }
        }
        all
    }
}

impl Kind {
    fn holds(&self, probe: &Probe<'_>) -> Option<bool> {
        match self {
            Self::Input(names) => match probe.input {
                Some(input) => Some(names.iter().any(|name| is_named(name, input))),
                None => names.iter().all(|name| name == "lo").then_some(false),
            },
            Self::Output(names) => {
                let output = probe.output?;
                Some(names.iter().any(|name| is_named(name, output)))
            }
            Self::Protocol(names) => {
                probe.port?;
                Some(names.iter().any(|name| name == "udp" || name == "17"))
            }
            Self::UdpPort(ports) => {
                let port = probe.port?;
                Some(ports.iter().any(|range| range.contains(&port)))
            }
            Self::State(states) => {
                let state = if probe.established {
                    "established"
                } else {
                    "new"
                };
                Some(states.iter().any(|name| name == state))
            }
            Self::Ipv6(ipv6) => Some(*ipv6 == probe.ipv6),
            Self::Unknown => None,
        }
    }
}

fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix(['*', '+']) {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

impl Obstacle {
    /// The chain as its tool names it.
    pub(super) fn name(&self) -> String {
        match self.tool {
            "nft" => format!("{} {}", self.table, self.chain),
            tool => format!("{} of {tool}", self.chain),
        }
    }

    /// The commands that let packets of these matches pass, each in the words of nft and of
    /// iptables.
    pub(super) fn remedy(&self, matches: &[(String, String)]) -> String {
        let command = |(nft, iptables): &(String, String)| match self.tool {
            "nft" => format!("nft insert rule {} {} {nft} accept", self.table, self.chain),
            tool => format!("{tool} -I {} {iptables} -j ACCEPT", self.chain),
        };
        let commands: Vec<_> = matches.iter().map(command).collect();
        commands.join("; ")
    }
}

#[cfg(test)]
mod tests;
