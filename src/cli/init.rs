//! `vcgate init`: makes keys, a configuration and a first client.
//!
//! On a terminal it asks for choices that were not given. Otherwise it makes those that are certain and
//! never guesses the others. It never overwrites a file, and sends no packets but the query to the DNS
//! for the endpoint's name.

use super::candidates::{self, Candidate};
use super::{SYSTEM_CONFIG, Usage, output, peer};
use clap::Args;
use ipnet::IpNet;
use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use vcgate::config::{self, Endpoint, FirstRun, Settings};
use vcgate::operate::host_network;

/// The choices for a first configuration.
#[derive(Args, Default)]
pub(super) struct Choices {
    /// The LAN interface, where the file servers are
    #[arg(long, value_name = "IF")]
    lan: Option<String>,
    /// The name or address that clients connect to [default port: 51820]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = config::endpoint_argument)]
    endpoint: Option<Endpoint>,
    /// The network of the tunnel [default: 10.8.0.0/24, or another one if the LAN has that]
    #[arg(long, value_name = "NET", value_parser = config::tunnel_argument)]
    address: Option<IpNet>,
}

impl Choices {
    /// Whether no choice was made.
    pub(super) fn is_empty(&self) -> bool {
        self.lan.is_none() && self.endpoint.is_none() && self.address.is_none()
    }
}

/// The service of systemd that `make install` installs.
const UNIT: &str = "/etc/systemd/system/vcgate.service";

/// Makes a configuration in `dir`, and prints the next steps.
pub(super) fn run(given: Option<&Path>, dir: &Path, choices: Choices) -> anyhow::Result<()> {
    if given.is_some() {
        let remedy = "name its folder with --dir instead of --config";
        return Err(Usage(format!(
            "cannot choose the name of the file: it is vcgate.toml; {remedy}"
        ))
        .into());
    }
    refuse_existing(dir)?;
    let settings = complete(choices)?;
    let first = make(dir, &settings)?;
    let is_for_service = first.config == Path::new(SYSTEM_CONFIG) && Path::new(UNIT).exists();
    let start = match dir == Path::new("") {
        _ if is_for_service => "sudo systemctl enable --now vcgate".to_owned(),
        true => "sudo vcgate up".to_owned(),
        false => format!("sudo vcgate up --config {}", first.config.display()),
    };
    output::print(&format!(
        "{}\nStart the endpoint with: {start}\n",
        welcome(&first)
    ))
}

/// Returns an error if `dir` has a configuration, before any question is asked.
fn refuse_existing(dir: &Path) -> anyhow::Result<()> {
    let config = dir.join(config::FILE_NAME);
    let shown = config.display();
    anyhow::ensure!(
        !config.exists(),
        "cannot make {shown}: it exists already and is never overwritten; start it with `vcgate up \
         --config {shown}`, or move it away"
    );
    Ok(())
}

/// Completes the choices that were not given: from the machine if they are certain, else by questions
/// on the terminal.
///
/// # Errors
/// The LAN is in doubt and there is no terminal, or the machine has no LAN.
pub(super) fn complete(choices: Choices) -> anyhow::Result<Settings> {
    let candidates = candidates::candidates()?;
    let mut terminal = Terminal::open();
    let lan = match (choices.lan, candidates.as_slice()) {
        (Some(name), _) => candidates::check_exists(&name).map(|()| name)?,
        (None, [only]) => only.name.clone(),
        (None, []) => anyhow::bail!(
            "cannot find a LAN: no network card of this machine has an address; connect one, or name \
             another interface with --lan"
        ),
        (None, several) => match &mut terminal {
            Some(terminal) => terminal.choose(several)?,
            None => anyhow::bail!(
                "cannot tell which interface is the LAN: {}; name it with --lan",
                several
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        },
    };
    let endpoint = match (choices.endpoint, &mut terminal) {
        (Some(endpoint), _) => Some(endpoint),
        (None, Some(terminal)) => Some(terminal.endpoint(suggestion(&candidates, &lan))?),
        (None, None) => None,
    };
    Ok(Settings {
        lan: Some(lan),
        endpoint,
        address: choices.address,
    })
}

/// Makes the files, and prints warnings.
pub(super) fn make(dir: &Path, settings: &Settings) -> anyhow::Result<FirstRun> {
    let host = host_network::look(settings.lan.as_deref(), settings.endpoint.as_ref());
    let first = config::first_run(dir, settings, &host)?;
    output::warnings(&first.warnings);
    if let (None, Some(address)) = (&settings.endpoint, host.addresses.first()) {
        output::warning(&format!(
            "no --endpoint was given: client files name {}, which clients reach from the LAN only; for \
             clients elsewhere set endpoint in {}",
            address.addr(),
            first.config.display()
        ));
    }
    Ok(first)
}

/// Returns the address that clients most likely connect to: the first public one, else that of an
/// interface other than the LAN's, else that on the LAN.
fn suggestion(candidates: &[Candidate], lan: &str) -> Option<IpAddr> {
    let of = |wanted: &dyn Fn(&Candidate, IpAddr) -> bool| {
        let all = candidates.iter().flat_map(|candidate| {
            let addresses = candidate.addresses.iter();
            addresses.map(move |net| (candidate, net.addr()))
        });
        let mut ipv4 = all.filter(|(_, address)| address.is_ipv4());
        ipv4.find(|(candidate, address)| wanted(candidate, *address))
            .map(|(_, address)| address)
    };
    of(&|_, address| is_public(address))
        .or_else(|| of(&|candidate, _| candidate.name != lan && candidate.is_default))
        .or_else(|| of(&|candidate, _| candidate.name != lan))
        .or_else(|| of(&|_, _| true))
}

/// Whether it is a public address (RFC 1918, RFC 6598).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared)
        }
        IpAddr::V6(_) => false,
    }
}

/// Renders the files that were made and the steps to connect the first client.
pub(super) fn welcome(first: &FirstRun) -> String {
    let client = &first.client;
    let (name, file) = (&client.name, client.path.display());
    let mut text = output::made(&first.created);
    let sudo = output::sudo();
    let flag = match super::existing(None) {
        Some(found) if found == first.config => String::new(),
        _ => format!(" --config {}", first.config.display()),
    };
    if let Some(lack) = client.lacks.first() {
        text += &peer::advice(*lack, client);
    } else {
        text += &format!(
            "\nWith the WireGuard app of a phone, scan: {sudo}vcgate peer show {name} --qr{flag}\n"
        );
    }
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\
On a computer, import {file} in the WireGuard app, or: wg-quick up ./{name}.conf
Add more clients with: {sudo}vcgate peer add NAME{flag}
"
    );
    text
}

/// The terminal on which questions are asked.
struct Terminal;

impl Terminal {
    /// Opens the terminal, if stdin and stderr are one.
    fn open() -> Option<Self> {
        let person = io::stdin().is_terminal() && io::stderr().is_terminal();
        person.then_some(Self)
    }

    fn choose(&mut self, candidates: &[Candidate]) -> anyhow::Result<String> {
        let mut question = "Which interface is the LAN, where the file servers are?\n".to_owned();
        for (at, candidate) in candidates.iter().enumerate() {
            let _ = writeln!(question, "  {}  {candidate}", at + 1);
        }
        question += "Its number or name: ";
        loop {
            let answer = ask(&question)?;
            let numbered = answer.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
            let chosen = numbered.and_then(|at| candidates.get(at));
            let named = || candidates.iter().find(|candidate| candidate.name == answer);
            if let Some(candidate) = chosen.or_else(named) {
                return Ok(candidate.name.clone());
            }
            output::warning(&format!("{answer:?} is not one of them"));
        }
    }

    fn endpoint(&mut self, suggestion: Option<IpAddr>) -> anyhow::Result<Endpoint> {
        let mut question =
            "To which name or address do clients connect? For clients on the internet \
                            it is the router's public name or address.\n"
                .to_owned();
        question += &match suggestion {
            Some(address) => format!("HOST[:PORT] [{address}]: "),
            None => "HOST[:PORT]: ".to_owned(),
        };
        loop {
            let answer = match (ask(&question)?, suggestion) {
                (empty, Some(address)) if empty.is_empty() => address.to_string(),
                (answer, _) => answer,
            };
            match config::endpoint_argument(&answer) {
                Ok(endpoint) => return Ok(endpoint),
                Err(wrong) => output::warning(&wrong.to_string()),
            }
        }
    }
}

/// Asks a question, and returns the trimmed answer.
fn ask(question: &str) -> anyhow::Result<String> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut line = String::new();
    let length = io::stdin().lock().read_line(&mut line)?;
    anyhow::ensure!(length > 0, "no answer: the terminal was closed");
    Ok(line.trim().to_owned())
}

/// Returns the folder of `--dir`, with the current folder as the empty path.
pub(super) fn folder(dir: Option<PathBuf>) -> PathBuf {
    match dir {
        Some(dir) if dir != Path::new(".") => dir,
        _ => PathBuf::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, address: &str, is_default: bool) -> Candidate {
        Candidate {
            name: name.to_owned(),
            addresses: vec![address.parse().unwrap()],
            is_default,
        }
    }

    #[test]
    fn the_suggested_endpoint_is_public_or_else_outside_the_lan() {
        let lan = candidate("lan", "192.168.77.1/24", true);
        let dmz = candidate("dmz", "10.1.0.2/24", false);
        let wan = candidate("wan", "203.0.113.1/24", false);
        let shared = candidate("shared", "100.64.0.9/10", true);
        let suggested = |candidates: &[&Candidate]| {
            let candidates: Vec<_> = candidates.iter().map(|c| (*c).clone()).collect();
            suggestion(&candidates, "lan").map(|address| address.to_string())
        };
        assert_eq!(suggested(&[&lan, &dmz, &wan]).unwrap(), "203.0.113.1");
        assert_eq!(suggested(&[&lan, &dmz, &shared]).unwrap(), "100.64.0.9");
        assert_eq!(suggested(&[&lan, &dmz]).unwrap(), "10.1.0.2");
        assert_eq!(suggested(&[&lan]).unwrap(), "192.168.77.1");
        assert_eq!(suggested(&[]), None);
    }
}
