//! The command line: parses the arguments and runs the command.
//!
//! Results go to stdout, everything else to stderr. The exit code is 0 for success, 1 for an error or
//! a negative result, 2 for wrong usage.

mod admin;
mod candidates;
mod capture;
mod check;
mod diagnose;
mod doctor;
mod flows;
mod follow;
mod forward;
mod generate;
mod human;
mod import;
mod init;
mod keys;
mod log;
mod metrics;
mod output;
mod peer;
mod qr;
mod reload;
mod smb;
mod status;
mod table;
mod up;
mod who;
mod why;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use vcgate::config::{self, Port};
use vcgate::control::client::Client;
use vcgate::control::time::Timestamp;
use vcgate::keys::PublicKey;

/// The heading, in each command's help, of the options that all of them have.
const GLOBAL: &str = "Global options";

/// A WireGuard endpoint whose clients share one LAN address, and whose SMB users do not cut one
/// another off.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Arguments {
    /// The configuration [default: ./vcgate.toml, else /etc/vcgate/vcgate.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    config: Option<PathBuf>,
    #[command(flatten)]
    log: log::LogArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make keys, a configuration and a first client, and do not run: asks on a terminal
    Init {
        #[command(flatten)]
        choices: init::Choices,
        /// The folder for all of it, made if it is missing [default: the current one]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Run the endpoint in the foreground; without a configuration, first do what init does
    Up(init::Choices),
    /// Check the configuration, and print the line and the remedy of each problem
    Check {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Set up the administration page
    #[command(subcommand)]
    Admin(Admin),
    /// Print a new private key
    Genkey,
    /// Read a private key from stdin and print its public key
    Pubkey,
    /// Print a new preshared key
    Genpsk,
    /// Add, list, change, remove and show clients
    #[command(subcommand)]
    Peer(Peer),
    /// Add, list and remove forwards of LAN ports to clients
    #[command(subcommand)]
    Forward(Forward),
    /// Print which client has or had a port of the LAN address, from the port log
    Who {
        /// The port of the LAN address
        port: u16,
        /// The time: 2026-11-22T20:19:36Z, a local time such as "2026-11-22 21:19", or Unix seconds
        /// [default: now]
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_local)]
        at: Option<Timestamp>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the running endpoint read its configuration again, and print the changes
    Reload(Report),
    /// Print or set the log level of the running endpoint
    #[command(subcommand)]
    Log(Log),
    /// Show the running endpoint
    Status {
        #[command(flatten)]
        selection: status::Selection,
        #[command(flatten)]
        report: Report,
    },
    /// Print the counters of the running endpoint in Prometheus' text format
    Metrics {
        /// As OpenMetrics 1.0
        #[arg(long)]
        openmetrics: bool,
        #[command(flatten)]
        endpoint: Endpoint,
    },
    /// Show the translated flows of the running endpoint
    Flows(Report),
    /// Show the SMB sessions of the running endpoint
    Smb {
        #[command(flatten)]
        report: Report,
        /// Print events as they occur (with --json: an object a line)
        #[arg(long)]
        follow: bool,
    },
    /// Capture packets of the running endpoint, before and after translation, with comments
    Capture {
        #[command(flatten)]
        capture: capture::Arguments,
        #[command(flatten)]
        endpoint: Endpoint,
    },
    /// Find in a capture whether users cut one another off, and print the remedy
    Diagnose {
        /// A pcap or pcapng file, plain or gzip, taken between the clients' NAT and the server; - is
        /// stdin
        file: PathBuf,
        /// A capture of the same time from the other side of the NAT, to name the clients by: it
        /// needs the same stretch of a connection, and a NAT that leaves TCP's sequence numbers
        /// and the server's address as they are
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Check whether this machine can run an endpoint, and print remedies
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Convert the configuration of wg-quick, pivpn, wg-easy or wg-portal
    Import {
        /// The file of wg-quick or pivpn (wg0.conf), of wg-easy (wg0.json, wg-easy.db), or of
        /// wg-portal (sqlite.db)
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The interface to import, if a database has several
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
        /// Import without the access rules of its hooks (DROP, REJECT, DNAT, scripts), which stop
        /// the import otherwise
        #[arg(long)]
        force: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print completions for a shell, as in: source <(vcgate completions bash)
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Run nft for an endpoint that may execute nothing: requests on stdin, answers on stdout
    #[command(hide = true)]
    RunPrograms,
    /// Write the manual pages
    Man {
        /// The folder to write to, such as /usr/local/share/man/man1
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Subcommand)]
enum Peer {
    /// Add a client: keys, an address, and a configuration to hand to it
    Add {
        /// The client's name
        name: String,
        /// The key that the client has already [default: a new one is made for it]
        #[arg(long, value_name = "KEY")]
        public_key: Option<PublicKey>,
        /// The inner addresses it may use, with commas between [default: the next free one]
        #[arg(long, value_name = "PREFIXES", value_delimiter = ',', value_parser = config::prefix)]
        allowed_ips: Vec<IpNet>,
        #[command(flatten)]
        details: peer::Details,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List the clients
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a client, and the files that were made for it
    Remove {
        /// The client's name
        name: String,
        /// Do not ask on a terminal
        #[arg(short, long)]
        yes: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Change keys of a client, as in: vcgate peer set anna expires=30d groups=staff note=
    Set {
        /// The client's name
        name: String,
        /// Keys of [[peer]] with their values; without a value, the key is removed
        #[arg(value_name = "KEY=VALUE", required = true)]
        assignments: Vec<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a client, and its files, another name
    Rename {
        /// The client's name
        name: String,
        /// Its new name
        #[arg(value_name = "NEW_NAME")]
        to: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a client new keys: its present configuration can no longer connect
    Rekey {
        /// The client's name
        name: String,
        /// The key that the client has made itself [default: a new one is made for it]
        #[arg(long, value_name = "KEY")]
        public_key: Option<PublicKey>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Switch a client off: it cannot connect, and its sessions and flows end
    Disable {
        /// The client's name
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a client connect again that was switched off
    Enable {
        /// The client's name
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a client's configuration as of now
    Show {
        /// The client's name
        name: String,
        /// As a QR code that the WireGuard app scans
        #[arg(long)]
        qr: bool,
        /// As a QR code in an SVG image, as in: vcgate peer show anna --svg > anna.svg
        #[arg(long, conflicts_with = "qr")]
        svg: bool,
        /// Write the QR code as a PNG image, which only its owner can read; - is stdout
        #[arg(long, value_name = "FILE", conflicts_with_all = ["qr", "svg"])]
        png: Option<PathBuf>,
    },
    /// Make a link by which the client's file can be fetched once, without a login
    Link {
        /// The client's name
        name: String,
        /// The time for which it is valid, at most 30d
        #[arg(long, value_name = "TIME", default_value = "1d", value_parser = config::span)]
        valid: Duration,
        /// As a QR code of the link
        #[arg(long, conflicts_with = "json")]
        qr: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say why a client cannot connect, and what mends it; exit code 1 if it is not connected
    Why {
        /// The client's name
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum Forward {
    /// Forward a port of the LAN address to a client
    Add {
        /// The port of the LAN address: 8443, tcp/8443 or udp/5060
        #[arg(value_name = "PORT")]
        port: Port,
        /// The client's inner address and port, as 10.8.0.11:443 or [fd00:8::11]:443
        #[arg(value_name = "TO", value_parser = config::target)]
        to: SocketAddr,
    },
    /// List the forwards
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a forward and end its connections
    Remove {
        /// The port of the LAN address: 8443, tcp/8443 or udp/5060
        #[arg(value_name = "PORT")]
        port: Port,
        /// Only the forward to this address: a port can have one in each address family
        #[arg(value_name = "TO", value_parser = config::target)]
        to: Option<SocketAddr>,
    },
}

#[derive(Subcommand)]
enum Admin {
    /// Read a password from the terminal, or a line of stdin, and print its hash
    Password,
}

#[derive(Subcommand)]
enum Log {
    /// Print the log level, or set it until the endpoint stops
    Level {
        /// error, warn, info, debug, trace, or as "info,vcgate_core::tunnel=debug"
        level: Option<String>,
        #[command(flatten)]
        endpoint: Endpoint,
    },
}

/// The options of commands that print a report of a running endpoint.
#[derive(Args)]
struct Report {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// The option that selects one of the running endpoints.
#[derive(Args)]
struct Endpoint {
    /// The endpoint's interface [default: the configuration's, else the only one that runs]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

impl Endpoint {
    /// Finds the endpoint of the interface that was named, else the one that reads the configuration,
    /// else the only one that runs. A configuration with errors leads to the endpoint that was
    /// started with it.
    fn client(&self, given: Option<&Path>) -> anyhow::Result<Client> {
        if let Some(name) = &self.interface {
            let endpoint = Client::new(Some(name))?;
            if let Some(path) = given {
                endpoint.must_read(path)?;
            }
            return Ok(endpoint);
        }
        let Some(path) = existing(given) else {
            return Ok(Client::new(None)?);
        };
        match config::load(&path) {
            Ok(loaded) => Ok(Client::of(&loaded.config)?),
            Err(problems) => match Client::reading(&path)? {
                Some(endpoint) => Ok(endpoint),
                None => Err(problems.into()),
            },
        }
    }
}

/// An error in the arguments: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Parses the arguments, runs the command, and reports errors.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let code = match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::errors(&error);
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    };
    output::flush_log();
    code
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let log = log::start(&arguments.log, matches!(arguments.command, Command::Up(_)))?;
    let given = arguments.config.as_deref();
    match arguments.command {
        Command::Init { choices, dir } => init::run(given, &init::folder(dir), choices),
        Command::Up(choices) => up::run(given, choices, log),
        Command::Check { json } => check::run(&path(given)?, json),
        Command::Admin(Admin::Password) => admin::hash(),
        Command::Genkey => keys::genkey(),
        Command::Pubkey => keys::pubkey(),
        Command::Genpsk => keys::genpsk(),
        Command::Peer(Peer::Add {
            name,
            public_key,
            allowed_ips,
            details,
            json,
        }) => {
            let new = config::NewPeer {
                name,
                public_key,
                allowed_ips,
                assignments: details.assignments()?,
            };
            peer::add(&path(given)?, &new, json)
        }
        Command::Peer(Peer::List { json }) => peer::list(&path(given)?, json),
        Command::Peer(Peer::Remove { name, yes, json }) => {
            peer::remove(&path(given)?, &name, yes, json)
        }
        Command::Peer(Peer::Set {
            name,
            assignments,
            json,
        }) => peer::set(&path(given)?, &name, &assignments, json),
        Command::Peer(Peer::Rename { name, to, json }) => {
            peer::rename(&path(given)?, &name, &to, json)
        }
        Command::Peer(Peer::Rekey {
            name,
            public_key,
            json,
        }) => peer::rekey(&path(given)?, &name, public_key, json),
        Command::Peer(Peer::Disable { name, json }) => {
            peer::disable(&path(given)?, &name, true, json)
        }
        Command::Peer(Peer::Enable { name, json }) => {
            peer::disable(&path(given)?, &name, false, json)
        }
        Command::Peer(Peer::Show { name, qr, svg, png }) => {
            peer::show(&path(given)?, &name, peer::Form::of(qr, svg, png))
        }
        Command::Peer(Peer::Link {
            name,
            valid,
            qr,
            json,
        }) => admin::link(&path(given)?, &name, valid, qr, json),
        Command::Peer(Peer::Why { name, json }) => {
            why::run(&config::load(&path(given)?)?, &name, json)
        }
        Command::Forward(Forward::Add { port, to }) => forward::add(&path(given)?, port, to),
        Command::Forward(Forward::List { json }) => forward::list(&path(given)?, json),
        Command::Forward(Forward::Remove { port, to }) => forward::remove(&path(given)?, port, to),
        Command::Who { port, at, json } => who::run(&path(given)?, port, at, json),
        Command::Import {
            file,
            interface,
            force,
            json,
        } => {
            let to = given.unwrap_or(Path::new(config::FILE_NAME));
            import::run(&file, interface.as_deref(), to, force, json)
        }
        Command::Log(Log::Level { level, endpoint }) => log::level(&endpoint.client(given)?, level),
        Command::Completions { shell } => generate::completions(shell),
        Command::RunPrograms => up::run_programs(),
        Command::Man { dir } => generate::man(&dir),
        Command::Reload(Report { json, endpoint }) => reload::run(&endpoint.client(given)?, json),
        Command::Status { selection, report } => {
            status::run(&report.endpoint.client(given)?, &selection, report.json)
        }
        Command::Metrics {
            openmetrics,
            endpoint,
        } => metrics::run(&endpoint.client(given)?, openmetrics),
        Command::Flows(Report { json, endpoint }) => flows::run(&endpoint.client(given)?, json),
        Command::Smb { report, follow } => {
            let run = if follow { follow::run } else { smb::run };
            run(&report.endpoint.client(given)?, report.json)
        }
        Command::Capture { capture, endpoint } => capture::run(&endpoint.client(given)?, capture),
        Command::Diagnose {
            file,
            against,
            json,
        } => diagnose::run(&file, against.as_deref(), json),
        Command::Doctor { json } => doctor::run(existing(given).as_deref(), json),
    }
}

/// The configuration that is used if the current folder has none.
const SYSTEM_CONFIG: &str = "/etc/vcgate/vcgate.toml";

/// Returns the configuration's path: the given one, or the first that exists.
fn path(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    existing(given).with_context(|| missing_config(Path::new(SYSTEM_CONFIG)))
}

/// Returns the reason why there is no configuration. An ordinary user cannot see into the folder of the
/// service.
fn missing_config(system: &Path) -> String {
    let shown = system.display();
    match system.try_exists() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            format!("cannot read {shown}: Permission denied; run the command with sudo")
        }
        Ok(_) | Err(_) => format!(
            "there is no configuration, neither ./{} nor {shown}; name one with --config, or make one \
             with \"vcgate init\"",
            config::FILE_NAME
        ),
    }
}

/// Returns the given path, or the first default that exists.
fn existing(given: Option<&Path>) -> Option<PathBuf> {
    let default = || {
        let defaults = [config::FILE_NAME, SYSTEM_CONFIG].map(Path::new);
        defaults.into_iter().find(|path| path.exists())
    };
    given.or_else(default).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_configuration_in_a_folder_of_another_user_is_not_called_missing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("folder/vcgate.toml");
        assert!(missing_config(&file).starts_with("there is no configuration"));
        // Root sees into every folder, and has nothing to test.
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let none = std::fs::Permissions::from_mode(0o000);
        std::fs::set_permissions(dir.path().join("folder"), none).unwrap();
        if file.try_exists().is_err() {
            assert_eq!(
                missing_config(&file),
                format!(
                    "cannot read {}: Permission denied; run the command with sudo",
                    file.display()
                )
            );
        }
    }

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
