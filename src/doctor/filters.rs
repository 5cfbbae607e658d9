//! Checks for firewalls of this machine that drop the datagrams or packets of clients, for `vcgate
//! doctor` and for the warnings of `vcgate up`.

use super::firewall::{Firewall, Obstacle, Probe};
use super::{Check, Subject, Verdict, fail, ok, warn};
use crate::host::Netlink;

/// Checks the rules for forwarded packets and for the listen port.
pub(super) async fn checks(subject: &Subject) -> Vec<Check> {
    let firewall = Firewall::read().await;
    let lan = lan_name(subject).await;
    let mut checks = vec![
        forward(&firewall, subject, &lan),
        input(&firewall, subject.listen_port),
    ];
    if subject.dns.is_some() {
        checks.push(dns(&firewall, subject));
    }
    checks.extend(firewall.unreadable.iter().map(|family| {
        let tool = match *family {
            "ip" => "iptables-legacy-save",
            _ => "ip6tables-legacy-save",
        };
        warn(
            "legacy-filter",
            format!("cannot read the legacy iptables rules: they are in use, and {tool} is not installed"),
            "install iptables and run doctor again",
        )
    }));
    checks
}

/// Logs a warning for each kind of packets that a firewall drops, with the remedy.
pub async fn warn_of_drops(subject: &Subject) {
    let checks = checks(subject).await.into_iter();
    for check in checks.filter(|check| check.verdict == Verdict::Fail) {
        let remedy = check.remedy.unwrap_or_default();
        tracing::warn!("{}; {remedy}", check.meaning);
    }
}

/// Name of the LAN interface; empty if there is none, which no rule matches.
async fn lan_name(subject: &Subject) -> String {
    if let Some(name) = &subject.lan_interface {
        return name.clone();
    }
    let default = async { Netlink::connect()?.default_interface().await };
    default.await.map(|lan| lan.name).unwrap_or_default()
}

fn forward(firewall: &Firewall, subject: &Subject, lan: &str) -> Check {
    let tun = &*subject.tun;
    let (out, back) = ((tun, lan), (lan, tun));
    let families = [false, true].into_iter();
    let families = families.filter(|ipv6| !ipv6 || subject.lan_address6.is_some());
    let ways = families.flat_map(|ipv6| [(ipv6, out, false), (ipv6, back, true)]);
    let obstacles = ways.flat_map(|(ipv6, (input, output), established)| {
        firewall.obstacles(&Probe {
            hook: "forward",
            ipv6,
            input: Some(input),
            output: Some(output),
            port: None,
            established,
        })
    });
    let matches = [("iifname", "-i"), ("oifname", "-o")];
    let matches =
        matches.map(|(nft, iptables)| (format!("{nft} \"{tun}\""), format!("{iptables} {tun}")));
    let dropped = "packets between the tunnel and the LAN";
    check("forward-filter", dropped, obstacles.collect(), &matches)
}

fn input(firewall: &Firewall, port: u16) -> Check {
    let obstacles = [false, true].into_iter().flat_map(|ipv6| {
        firewall.obstacles(&Probe {
            hook: "input",
            ipv6,
            input: None,
            output: None,
            port: Some(port),
            established: false,
        })
    });
    let matches = [(
        format!("udp dport {port}"),
        format!("-p udp --dport {port}"),
    )];
    let dropped = format!("clients' datagrams to UDP port {port}");
    check("input-filter", &dropped, obstacles.collect(), &matches)
}

fn dns(firewall: &Firewall, subject: &Subject) -> Check {
    let (tun, port) = (&*subject.tun, super::dns::PORT);
    let families = [false, true].into_iter();
    let families = families.filter(|ipv6| !ipv6 || subject.lan_address6.is_some());
    let obstacles = families.flat_map(|ipv6| {
        firewall.obstacles(&Probe {
            hook: "input",
            ipv6,
            input: Some(tun),
            output: None,
            port: Some(port),
            established: false,
        })
    });
    let matches = ["udp", "tcp"].map(|proto| {
        (
            format!("iifname \"{tun}\" {proto} dport {port}"),
            format!("-i {tun} -p {proto} --dport {port}"),
        )
    });
    let dropped = "DNS questions of clients";
    check("dns-filter", dropped, obstacles.collect(), &matches)
}

fn check(
    name: &'static str,
    what: &str,
    mut obstacles: Vec<Obstacle>,
    matches: &[(String, String)],
) -> Check {
    // A chain may drop packets in both directions. It is reported once, with the worse verdict.
    obstacles.sort_by_key(|o| (o.name(), o.unless));
    obstacles.dedup_by_key(|o| o.name());
    let names: Vec<_> = obstacles.iter().map(Obstacle::name).collect();
    let names = names.join(", ");
    let remedies: Vec<_> = obstacles.iter().map(|o| o.remedy(matches)).collect();
    let remedy = remedies.join("; ");
    match obstacles.iter().all(|o| o.unless) {
        true if obstacles.is_empty() => ok(name, format!("no firewall rule drops {what}")),
        true => warn(
            name,
            format!("{names} drops {what}, unless one of its rules accepts them"),
            remedy,
        ),
        false => fail(name, format!("{names} drops {what}"), remedy),
    }
}
