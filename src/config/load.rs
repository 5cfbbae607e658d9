//! Reads a file into a [`Config`], section by section.

mod nat;
mod peer;

use super::check::{ParsedFile, ParsedForward, ParsedPeer};
use super::document::Section;
use super::lan_fit::{HostLan, LanLines, LanSection};
use super::problem::{Collector, Diagnostic, Problem, Problems};
use super::syntax;
use super::value::{DEFAULT_PORT, choice, flag, inner, number, text};
use super::*;
use crate::keys::{KeyFile, reason};
use ipnet::Ipv4Net;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use toml::Spanned;
use toml::de::DeTable;
use vcgate_core::ids::ShardId;

/// A configuration with its warnings.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Problems with which the configuration is valid.
    pub warnings: Vec<Problem>,
    /// The lines of values that depend on the machine.
    pub(super) lan_lines: LanLines,
}

impl Loaded {
    /// Reports the values in `[lan]` that do not fit this machine. They are warnings, since the
    /// configuration may be for another machine, or for an interface that does not exist yet.
    pub fn check_lan(&self, host: &HostLan) -> Vec<Problem> {
        let (config, lines) = (&self.config, &self.lan_lines);
        LanSection { config, lines }.check(host)
    }
}

/// The default of `interface.private_key_file`.
pub(super) const SERVER_KEY: &str = "keys/server.key";
/// The default of `interface.name`.
pub const DEFAULT_NAME: &str = "vcg0";
const DEFAULT_MTU: u16 = 1420;
/// Maximum inner MTU in bytes: the maximum size of a packet without 40 bytes of IPv6, 8 of UDP and 32 of
/// WireGuard.
const MAX_MTU: i64 = 65535 - 80;
const DEFAULT_ADDRESS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 8, 0, 1), 24);

/// Maximum size of a configuration in bytes: some 100,000 peers.
const MAX_FILE: u64 = 32 << 20;

/// Reads a configuration and the key files it names.
///
/// # Errors
/// All problems of the file, if any is an error.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    parse(&read(path, MISSING)?, path)
}

/// The remedy for a missing configuration.
pub(super) const MISSING: &str = "\"vcgate init\" makes one";

/// Reads a text file; `missing` is the remedy if it does not exist.
pub(super) fn read(path: &Path, missing: &'static str) -> Result<String, Problems> {
    let bytes = read_bounded(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => missing,
            ErrorKind::PermissionDenied => {
                "run as the user who owns it, or let the user of the service own it"
            }
            ErrorKind::FileTooLarge => "name another file",
            _ => "name the file with --config",
        };
        let what = format!("cannot read it: {}", reason(&error));
        Problems::one(path, Diagnostic::new(what, remedy))
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let end = error.utf8_error().valid_up_to();
        let valid = error.as_bytes().iter().take(end);
        let line = valid.filter(|byte| **byte == b'\n').count() + 1;
        let wrong = Diagnostic::new("this line is not UTF-8", "save the file as UTF-8");
        Problems::at(path, Some(line), wrong)
    })
}

/// Reads a regular file, at most [`MAX_FILE`] bytes. A FIFO would wait for a writer, and a device
/// may never end.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    // Opening a FIFO without this waits, too.
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        let error = format!("larger than {} MiB", MAX_FILE >> 20);
        return Err(io::Error::new(ErrorKind::FileTooLarge, error));
    }
    Ok(bytes)
}

/// Reads a configuration from a text that is or will be the file at `path`, and the key files it
/// names.
///
/// # Errors
/// All problems of the text, if any is an error.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, Problems> {
    let mut problems = Collector::new(path, text);
    let (root, errors) = DeTable::parse_recoverable(text);
    syntax::report(&errors, &mut problems);
    if !errors.is_empty() {
        // Other errors would follow from these.
        return Err(problems.into_errors());
    }

    let mut root = Section::root(root.get_ref());
    let mut reader = Reader {
        dir: path.parent().unwrap_or(Path::new("")),
        parsed: ParsedFile::default(),
        problems,
    };
    let section = root.section("interface", &mut reader.problems);
    let interface = reader.interface(section);
    let section = root.section("lan", &mut reader.problems);
    let lan_section = section.offset();
    let lan = reader.lan(section);
    let section = root.section("smb", &mut reader.problems);
    let smb = reader.smb(section);
    let section = root.section("nat", &mut reader.problems);
    let nat = reader.nat(section);
    let section = root.section("dns", &mut reader.problems);
    let (dns, servers) = dns::read(section, &mut reader.problems);
    reader.parsed.dns_servers = servers;
    let section = root.section("admin", &mut reader.problems);
    let admin = admin::read(section, reader.dir, &mut reader.problems);
    let section = root.section("metrics", &mut reader.problems);
    let metrics = admin::read_metrics(section, &mut reader.problems);
    let section = root.section("offload", &mut reader.problems);
    let offload = reader.offload(section);
    let section = root.section("client", &mut reader.problems);
    let (client, full_tunnel) = profile::read(section, &mut reader.problems);
    reader.parsed.full_tunnels.extend(full_tunnel);
    let mut section = root.section("audit", &mut reader.problems);
    let audit = nat::log_file(&mut section, reader.dir, &mut reader.problems);
    section.finish(&mut reader.problems);
    let mut forwards = Vec::new();
    for section in root.sections("forward", &mut reader.problems) {
        forwards.extend(reader.forward(section));
    }
    for section in root.sections("group", &mut reader.problems) {
        reader.group(section);
    }
    let mut peers = Vec::new();
    for section in root.sections("peer", &mut reader.problems) {
        peers.push(reader.peer(section));
    }
    root.finish(&mut reader.problems);

    let Reader {
        parsed,
        mut problems,
        ..
    } = reader;
    parsed.check(&mut problems);
    let network = |net: &Spanned<IpNet>| (problems.line(net.span().start), *net.get_ref());
    let lan_lines = LanLines {
        section: problems.line(lan_section),
        interface: parsed.lan_interface.map(|place| problems.line(place)),
        networks: parsed.networks.iter().map(network).collect(),
    };
    // A missing part has reported an error.
    let (Some(interface), Some(peers)) = (interface, peers.into_iter().collect()) else {
        return Err(problems.into_errors());
    };
    let warnings = problems.into_warnings()?;
    let mut config = Config {
        path: path.to_owned(),
        interface,
        lan,
        smb,
        nat,
        dns,
        admin,
        metrics,
        offload,
        client,
        audit: audit.map(|(_, log)| log),
        peers,
        forwards,
    };
    config.assign_lan_addresses();
    Ok(Loaded {
        config,
        warnings,
        lan_lines,
    })
}

/// Reads the sections, and collects the values for the checks across sections.
struct Reader<'p> {
    dir: &'p Path,
    parsed: ParsedFile,
    problems: Collector<'p>,
}

impl Reader<'_> {
    fn interface(&mut self, mut section: Section<'_, '_>) -> Option<Interface> {
        let problems = &mut self.problems;
        let name = section.get("name", problems, text(value::interface_name));
        let file = section.get("private_key_file", problems, text(value::file(SERVER_KEY)));
        let (place, file) = match file {
            Some(file) => (file.span().start, file.into_inner()),
            None => (section.offset(), SERVER_KEY.to_owned()),
        };
        let private_key_file = self.dir.join(file);
        let private_key = PrivateKey::read(&private_key_file).map_err(|error| {
            let wrong = Diagnostic::key_file(&error, "vcgate genkey");
            problems.error(place, wrong.within("interface.private_key_file"));
        });
        let listen_port = section.get("listen_port", problems, number(1..=65535));
        let listen_port = listen_port.map_or(DEFAULT_PORT, Spanned::into_inner);
        let remedy = "give the endpoint an address in the tunnel, as [\"10.8.0.1/24\"]";
        let parse = text(value::own_address);
        let address = section.filled_list("address", problems, parse, remedy);
        let mtu = section.get("mtu", problems, number(576..=MAX_MTU));
        let endpoint = section.get(
            "endpoint",
            problems,
            text(|text| value::endpoint(text, listen_port)),
        );
        let meet = section.get("client_to_client", problems, flag);
        let services = section.list("services", problems, text(reach::gateway_service));
        let on_deny = section.get("on_deny", problems, choice);
        let shards = section.get("shards", problems, number(1..=i64::from(ShardId::MAX)));
        section.finish(problems);

        let address =
            address.unwrap_or_else(|| vec![Spanned::new(0..0, IpNet::V4(DEFAULT_ADDRESS))]);
        let mtu_place = mtu.as_ref().map_or(0, |mtu| mtu.span().start);
        let mtu = mtu.map_or(DEFAULT_MTU, Spanned::into_inner);
        self.parsed.mtu = (mtu_place, mtu);
        self.parsed.own_key = private_key.as_ref().ok().map(PrivateKey::public_key);
        self.parsed.addresses = address.clone();
        self.parsed.shards = shards.clone();
        self.parsed.listen_port = listen_port;
        self.parsed.client_to_client = meet.as_ref().is_some_and(|meet| *meet.get_ref());
        Some(Interface {
            name: name.map_or(DEFAULT_NAME.to_owned(), Spanned::into_inner),
            private_key: private_key.ok()?,
            private_key_file,
            listen_port,
            address: inner(address),
            mtu,
            endpoint: endpoint.map(Spanned::into_inner),
            client_to_client: meet.is_some_and(Spanned::into_inner),
            services: inner(services.unwrap_or_default()),
            on_deny: on_deny.map_or(OnDeny::default(), Spanned::into_inner),
            shards: shards.map(Spanned::into_inner),
        })
    }

    fn lan(&mut self, mut section: Section<'_, '_>) -> Lan {
        let problems = &mut self.problems;
        let interface = section.get("interface", problems, text(value::interface_name));
        let pool = section.get("address", problems, pool::lan_pool);
        let address = pool
            .as_ref()
            .map(|pool| Spanned::new(pool.span(), pool.get_ref().first));
        let further = pool.map_or_else(Vec::new, |pool| pool.into_inner().further);
        let address6 = section.get("address6", problems, text(value::lan_address6));
        let networks = section.list("networks", problems, text(value::lan_network));
        section.finish(problems);

        self.parsed.lan_interface = interface.as_ref().map(|name| name.span().start);
        self.parsed.lan_address = address.clone();
        self.parsed.lan_pool.clone_from(&further);
        self.parsed.lan_address6 = address6.clone();
        for network in networks.unwrap_or_default() {
            let (span, (net, map)) = (network.span(), network.into_inner());
            let map = map.map(|map| Spanned::new(span.clone(), map));
            self.parsed.maps.extend(map);
            self.parsed.networks.push(Spanned::new(span, net));
        }
        Lan {
            interface: interface.map(Spanned::into_inner),
            address: address.map_or(LanAddress::Auto, Spanned::into_inner),
            pool: further,
            address6: address6.map_or_else(|| self.implied_address6(), |a| Some(a.into_inner())),
            networks: inner(self.parsed.networks.clone())
                .iter()
                .map(IpNet::trunc)
                .collect(),
            // The check reports overlaps.
            netmap: NetMap::new(inner(self.parsed.maps.clone())).unwrap_or_default(),
        }
    }

    /// Returns the default of `lan.address6`: the host's address if the tunnel has IPv6 and the IPv4
    /// address is shared too. A free address cannot be guessed.
    fn implied_address6(&self) -> Option<LanAddress<Ipv6Addr>> {
        let fixed = |address: &Spanned<LanAddress>| *address.get_ref() != LanAddress::Auto;
        let shared = !self.parsed.lan_address.as_ref().is_some_and(fixed);
        (shared && self.parsed.has_ipv6()).then_some(LanAddress::Auto)
    }

    fn smb(&mut self, mut section: Section<'_, '_>) -> smb::Settings {
        let problems = &mut self.problems;
        let mode = section.get("hook", problems, choice);
        let remedy = "leave it out for 445 and 139, or set hook = \"off\"";
        let ports = section.filled_list("ports", problems, number(1..=65535), remedy);
        let stale = section.get("stale", problems, choice);
        let unreadable = section.get("unreadable", problems, choice);
        section.finish(problems);
        let default = smb::Settings::default();
        smb::Settings {
            mode: mode.map_or(default.mode, Spanned::into_inner),
            ports: ports.map_or(default.ports, inner),
            stale: stale.map_or(default.stale, Spanned::into_inner),
            unreadable: unreadable.map_or(default.unreadable, Spanned::into_inner),
        }
    }

    fn offload(&mut self, mut section: Section<'_, '_>) -> Offload {
        let problems = &mut self.problems;
        let tun = section.get("tun", problems, choice);
        let gso = section.get("gso", problems, flag);
        let gro = section.get("gro", problems, flag);
        section.finish(problems);
        Offload {
            tun: tun.map_or(tun::Offload::TcpAndUdp, Spanned::into_inner),
            gso: gso.is_none_or(Spanned::into_inner),
            gro: gro.is_none_or(Spanned::into_inner),
        }
    }

    fn nat(&mut self, mut section: Section<'_, '_>) -> Nat {
        let problems = &mut self.problems;
        let filtering = section.get("filtering", problems, choice);
        let on_unsolicited = section.get("on_unsolicited", problems, choice);
        let udp_inbound_refresh = section.get("udp_inbound_refresh", problems, flag);
        let no_nat = section.list("no_nat", problems, text(value::prefix));
        let (log_file, log) = nat::log_file(&mut section, self.dir, problems).unzip();
        let timeouts = nat::timeouts(section.section("timeouts", problems), problems);
        let limits = nat::limits(section.section("limits", problems), problems);
        section.finish(problems);
        self.parsed.no_nat = no_nat.unwrap_or_default();
        self.parsed.log_file = log_file;
        self.parsed.limits = limits.clone();
        Nat {
            filtering: filtering.map_or(Filtering::default(), Spanned::into_inner),
            on_unsolicited: on_unsolicited.map_or(OnUnsolicited::default(), Spanned::into_inner),
            udp_inbound_refresh: udp_inbound_refresh.is_some_and(Spanned::into_inner),
            timeouts,
            limits,
            no_nat: inner(self.parsed.no_nat.clone())
                .iter()
                .map(IpNet::trunc)
                .collect(),
            log,
        }
    }

    fn forward(&mut self, mut section: Section<'_, '_>) -> Option<Forward> {
        let problems = &mut self.problems;
        let proto = section.get("proto", problems, choice);
        let proto = proto.map_or(Transport::Tcp, Spanned::into_inner);
        let remedy = "add the port of the LAN address, as lan_port = 8443";
        section.require("lan_port", problems, remedy);
        let lan_port = section.get("lan_port", problems, number(1..=65535));
        if let Some(port) = &lan_port {
            let number = *port.get_ref();
            section.set_label(format!("forward {}: ", Port { proto, number }));
        }
        let remedy = "add the client's inner address and port, as to = \"10.8.0.11:443\"";
        section.require("to", problems, remedy);
        let to = section.get("to", problems, text(forward::target));
        let lan_address = section.get("lan_address", problems, text(pool::own_address));
        section.finish(problems);

        let (lan_port, to) = (lan_port?, to?);
        let fact = ParsedForward {
            port: lan_port.span().start,
            target: to.span().start,
            forward: Forward {
                proto,
                lan_port: lan_port.into_inner(),
                to: to.into_inner(),
                lan_address: lan_address.map(Spanned::into_inner),
            },
        };
        let forward = fact.forward;
        self.parsed.forwards.push(fact);
        Some(forward)
    }
}
