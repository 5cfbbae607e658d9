//! `vcgate doctor`: checks this machine, explains each finding, and names the command that fixes it.
//!
//! It tries operations instead of deducing from versions, and leaves no change.

use crate::config::{FurtherAddress, LanAddress, Problem};
use crate::control::listener::Listener;
use crate::control::{socket, uapi};
use crate::host::{nft, sysctl};
use serde::Serialize;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};
use vcgate_io::tun::{Offload, Tun, TunError};
use vcgate_io::udp::{Settings, Udp, UdpError};

mod confinement;
mod dns;
mod filters;
mod firewall;
mod lan;

pub use confinement::checks as confinement_checks;
pub use filters::warn_of_drops;

/// Receive buffer in bytes for bursts at 1 Gbit/s. A smaller one loses packets of fast clients.
const RECEIVE_BUFFER: usize = 4 << 20;
/// 2025-01-01. An earlier clock was never set.
const CLOCK_FLOOR: Duration = Duration::from_secs(1_735_689_600);
/// linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// No problem.
    Ok,
    /// Works, but slower or with fewer features.
    Warn,
    /// Does not work.
    Fail,
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Check {
    /// Name of the check; stable, for scripts.
    pub name: &'static str,
    /// Severity.
    pub verdict: Verdict,
    /// The finding and its meaning.
    pub meaning: String,
    /// The command or setting that fixes it.
    pub remedy: Option<String>,
}

/// Settings of the endpoint that is checked.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The name of the TUN device.
    pub tun: String,
    /// The UDP port.
    pub listen_port: u16,
    /// LAN interface; `None` is that of the default route.
    pub lan_interface: Option<String>,
    /// IPv4 address that clients share on the LAN.
    pub lan_address: LanAddress,
    /// Further LAN addresses of clients.
    pub further_addresses: Vec<FurtherAddress>,
    /// IPv6 address that clients share on the LAN, if IPv6 is translated.
    pub lan_address6: Option<LanAddress<Ipv6Addr>>,
    /// Problems of `[lan]` on this machine.
    pub lan_problems: Vec<Problem>,
    /// Names of peers with a default route in `allowed_ips`.
    pub peers_with_everything: Vec<String>,
    /// The addresses in the tunnel at which clients look up names; `None` if they do not.
    pub dns: Option<Vec<IpAddr>>,
}

/// Runs all checks. If the endpoint is `running`, it occupies the name and the port, which are not
/// tried then.
pub async fn checks(subject: &Subject, running: bool) -> Vec<Check> {
    let shares6 = matches!(subject.lan_address6, None | Some(LanAddress::Auto));
    let shares =
        subject.lan_address == LanAddress::Auto && shares6 && subject.further_addresses.is_empty();
    let mut checks = vec![kernel(), permission(!shares), clock(), ipv6()];
    checks.extend(DIRECTORIES.map(directory));
    let tun = Tun::create(&probe_name(), Offload::TcpAndUdp);
    checks.extend(tun_device(&tun));
    drop(tun);
    checks.extend(udp());
    if !running {
        checks.push(name(&subject.tun));
        checks.push(port(subject.listen_port));
    }
    checks.extend(lan::checks(subject).await);
    let auto6 = subject.lan_address6 == Some(LanAddress::Auto);
    if subject.lan_address == LanAddress::Auto || auto6 {
        checks.push(nftables().await);
    }
    checks.extend(dns::checks(subject));
    checks.extend(filters::checks(subject).await);
    checks.extend(
        subject
            .peers_with_everything
            .iter()
            .map(|name| peer_with_everything(name)),
    );
    checks
}

/// Runs the checks of the surroundings of a running endpoint, which need no device, port or folder of
/// their own: a confined thread of the endpoint can run them.
pub async fn surroundings(subject: &Subject) -> Vec<Check> {
    let mut checks = vec![kernel(), clock(), ipv6()];
    checks.extend(lan::surroundings(subject).await);
    checks.extend(filters::checks(subject).await);
    let everything = subject.peers_with_everything.iter();
    checks.extend(everything.map(|name| peer_with_everything(name)));
    checks
}

fn ok(name: &'static str, meaning: impl Into<String>) -> Check {
    Check {
        name,
        verdict: Verdict::Ok,
        meaning: meaning.into(),
        remedy: None,
    }
}

fn warn(name: &'static str, meaning: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check {
        verdict: Verdict::Warn,
        remedy: Some(remedy.into()),
        ..ok(name, meaning)
    }
}

fn fail(name: &'static str, meaning: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check {
        verdict: Verdict::Fail,
        ..warn(name, meaning, remedy)
    }
}

/// A failure whose error text ends with its remedy.
fn failed(name: &'static str, error: impl ToString) -> Check {
    Check {
        verdict: Verdict::Fail,
        ..ok(name, error.to_string())
    }
}

fn kernel() -> Check {
    let release = sysctl::read("/proc/sys/kernel/osrelease").unwrap_or_default();
    match version(&release) {
        Some(v) if v >= (6, 2) => ok("kernel", format!("Linux {release}: all offloads")),
        Some(v) if v >= (5, 4) => warn(
            "kernel",
            format!("Linux {release}: no UDP offload on TUN, so bulk UDP is slower"),
            "Linux 6.2 or later",
        ),
        _ => warn(
            "kernel",
            format!("Linux {release}: older than vcgate supports"),
            "Linux 5.4 or later; 6.2 for all offloads",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// `raw`: packet sockets are needed, because the LAN address is vcgate's own.
fn permission(raw: bool) -> Check {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    permission_by(effective_capabilities(&status).unwrap_or(0), raw)
}

fn permission_by(capabilities: u64, raw: bool) -> Check {
    let has = |capability: u32| capabilities & (1 << capability) != 0;
    let lack = match (has(CAP_NET_ADMIN), has(CAP_NET_RAW)) {
        (true, true) => return ok("permission", "CAP_NET_ADMIN and CAP_NET_RAW are granted"),
        (true, false) if !raw => return ok("permission", "CAP_NET_ADMIN is granted"),
        (false, _) => "CAP_NET_ADMIN is missing: cannot create the interface and its routes",
        (true, false) => "CAP_NET_RAW is missing: cannot probe for the LAN address or announce it",
    };
    fail(
        "permission",
        lack,
        "run as root; systemd: packaging/vcgate.service grants both; container: --cap-add NET_ADMIN --cap-add NET_RAW",
    )
}

/// Directories of sockets, each with the name of its check.
const DIRECTORIES: [(&str, &str); 2] = [
    ("control-socket", socket::DIRECTORY),
    ("wg-socket", uapi::DIRECTORY),
];

/// Creates a socket in the directory, as the endpoint does.
fn directory((name, directory): (&'static str, &'static str)) -> Check {
    let directory = Path::new(directory);
    let made = !directory.exists();
    let bound = Listener::bind(directory, &probe_name()).map(drop);
    if made {
        // Fails if another process has put a file there meanwhile.
        let _ = fs::remove_dir(directory);
    }
    match bound {
        Ok(()) => ok(
            name,
            format!("sockets can be created in {}", directory.display()),
        ),
        Err(error) => fail(
            name,
            error.to_string(),
            "run as root; systemd: RuntimeDirectory=vcgate wireguard",
        ),
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn clock() -> Check {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    if now >= CLOCK_FLOOR {
        return ok("clock", "the clock was set");
    }
    fail(
        "clock",
        "the clock was never set: peers reject handshakes with an older time stamp",
        "timedatectl set-ntp true",
    )
}

fn ipv6() -> Check {
    match sysctl::read("/proc/sys/net/ipv6/conf/all/disable_ipv6").as_deref() {
        Some("0") => ok("ipv6", "clients can connect over IPv6 too"),
        _ => warn(
            "ipv6",
            "IPv6 is off: clients can connect over IPv4 only",
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0; container: --sysctl net.ipv6.conf.all.disable_ipv6=0",
        ),
    }
}

/// Unique name for a short-lived device.
fn probe_name() -> String {
    format!("vcgd{}", std::process::id())
}

fn tun_device(tun: &Result<Tun, TunError>) -> Vec<Check> {
    let tun = match tun {
        Ok(tun) => tun,
        Err(error) => return vec![failed("tun-device", error)],
    };
    let offloads = match tun.offloads() {
        Offload::TcpAndUdp => ok(
            "tun-offloads",
            "TCP and UDP super-packets pass the TUN device",
        ),
        Offload::Tcp => warn(
            "tun-offloads",
            "only TCP super-packets pass the TUN device: bulk UDP is slower",
            "Linux 6.2 or later",
        ),
        Offload::None => warn(
            "tun-offloads",
            "every packet passes the TUN device separately: about half the speed",
            "Linux 6.2 or later, with the tun driver's offloads",
        ),
    };
    vec![ok("tun-device", "TUN devices can be created"), offloads]
}

fn udp() -> Vec<Check> {
    let udp = match Udp::bind(Settings::on_port(0)) {
        Ok(udp) => udp,
        Err(error) => return vec![failed("udp-socket", error)],
    };
    let offloads = if udp.gso() && udp.gro() {
        ok(
            "udp-offloads",
            "datagrams are sent and received in bursts (GSO, GRO)",
        )
    } else {
        warn(
            "udp-offloads",
            format!("UDP GSO: {}, GRO: {}: slower", udp.gso(), udp.gro()),
            "Linux 5.4 or later",
        )
    };
    let buffer = if udp.receive_buffer() >= RECEIVE_BUFFER {
        ok("receive-buffer", "large enough for bursts")
    } else {
        warn(
            "receive-buffer",
            format!(
                "{} bytes of receive buffer: fast clients lose packets",
                udp.receive_buffer()
            ),
            "sysctl -w net.core.rmem_max=8388608",
        )
    };
    vec![offloads, buffer]
}

fn name(tun: &str) -> Check {
    match Tun::create(tun, Offload::None) {
        Err(error @ (TunError::Taken { .. } | TunError::Name(_))) => failed("name", error),
        // Other errors belong to other checks.
        _ => ok("name", format!("the interface name {tun} is free")),
    }
}

fn port(port: u16) -> Check {
    match Udp::bind(Settings::on_port(port)) {
        Err(error @ (UdpError::PortTaken(_) | UdpError::NotPermitted(_))) => failed("port", error),
        _ => ok("port", format!("UDP port {port} is free")),
    }
}

fn peer_with_everything(name: &str) -> Check {
    fail(
        "peer-prefixes",
        format!(
            "peer {name:?} has 0.0.0.0/0 or ::/0 in allowed_ips: it owns all addresses that \
             no other peer has, and no client reaches the LAN"
        ),
        "write only its own addresses there, as 10.8.0.11/32; for a full tunnel, put 0.0.0.0/0 \
         in lan.networks here, and in AllowedIPs in the client's configuration",
    )
}

async fn nftables() -> Check {
    match nft::version().await {
        Ok(version) => ok("nft", version),
        Err(error) => failed("nft", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate_io::{enter_new_network, until};

    #[test]
    fn reads_kernel_versions_and_capabilities() {
        assert_eq!(version("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(version("6.18.44-fc-v445"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
        let status = "Name:\tx\nCapEff:\t0000000000001000\n";
        assert_eq!(effective_capabilities(status), Some(1 << CAP_NET_ADMIN));
        assert_eq!(effective_capabilities(""), None);
    }

    #[test]
    fn an_own_lan_address_needs_both_capabilities() {
        let shared = permission_by(1 << CAP_NET_ADMIN, false);
        assert_eq!(shared.verdict, Verdict::Ok);
        let verdict = |capabilities| permission_by(capabilities, true).verdict;
        assert_eq!(verdict(1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW), Verdict::Ok);
        assert_eq!(verdict(1 << CAP_NET_ADMIN), Verdict::Fail);
        assert_eq!(verdict(1 << CAP_NET_RAW), Verdict::Fail);
    }

    #[test]
    fn reports_problems_and_leaves_nothing_behind() {
        if !enter_new_network() {
            return;
        }
        let held = Udp::bind(Settings::on_port(0)).unwrap();
        let subject = Subject {
            tun: "lo".into(),
            listen_port: held.port(),
            lan_interface: None,
            lan_address: LanAddress::Auto,
            further_addresses: Vec::new(),
            lan_address6: None,
            lan_problems: Vec::new(),
            peers_with_everything: Vec::new(),
            dns: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let checks = runtime.block_on(checks(&subject, false));
        let verdict = |name| checks.iter().find(|c| c.name == name).map(|c| c.verdict);
        for bad in ["name", "port", "lan-interface"] {
            assert_eq!(verdict(bad), Some(Verdict::Fail), "{bad}");
        }
        for good in ["permission", "tun-device", "clock"] {
            assert_eq!(verdict(good), Some(Verdict::Ok), "{good}");
        }
        assert!(
            checks
                .iter()
                .all(|c| c.verdict == Verdict::Ok || c.meaning.len() > 20)
        );
        until(|| vcgate_io::interface_index(&probe_name()).is_none());
        println!("{}", serde_json::to_string_pretty(&checks).unwrap());
    }
}
