//! Checks whether `[lan]` fits this machine: an interface that exists, and networks that are reached
//! over it.
//!
//! It looks nothing up. The caller passes the interfaces and routes in as [`HostLan`].

use super::Config;
use super::problem::{Diagnostic, Problem};
use ipnet::IpNet;

/// The interfaces and routes of this machine, without the endpoint's own device.
#[derive(Debug, Clone, Default)]
pub struct HostLan {
    /// The interfaces by name, each with its own networks.
    pub interfaces: Vec<(String, Vec<IpNet>)>,
    /// The destinations of the routes, each with the name of its interface; the preferred one of
    /// several to one destination comes first.
    pub routes: Vec<(IpNet, String)>,
}

/// Lines of the file that `[lan]` depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct LanLines {
    /// The line of `[lan]`, or of the file's beginning without it.
    pub section: usize,
    /// The line of `lan.interface`.
    pub interface: Option<usize>,
    /// The networks as the file writes them, with their lines.
    pub networks: Vec<(usize, IpNet)>,
}

impl HostLan {
    fn names(&self) -> String {
        let names = self.interfaces.iter().map(|(name, _)| &**name);
        let names: Vec<&str> = names.filter(|name| *name != "lo").collect();
        names.join(", ")
    }

    fn networks_of(&self, name: &str) -> &[IpNet] {
        let found = self.interfaces.iter().find(|(n, _)| n == name);
        found.map_or(&[], |(_, networks)| networks)
    }

    /// Returns the interface for packets to a network: that of the longest matching prefix.
    fn leaves_by(&self, network: &IpNet) -> Option<&str> {
        let around = self.routes.iter().filter(|(to, _)| to.contains(network));
        // `max_by_key` returns the last of equals, and the first is preferred.
        let longest = around.rev().max_by_key(|(to, _)| to.prefix_len());
        longest.map(|(_, name)| &**name)
    }

    /// Returns the interface of the IPv4 default route.
    fn default_interface(&self) -> Option<&str> {
        self.leaves_by(&IpNet::V4(ipnet::Ipv4Net::default()))
    }
}

/// The `[lan]` section of a file, with its lines.
pub(super) struct LanSection<'a> {
    pub config: &'a Config,
    pub lines: &'a LanLines,
}

impl LanSection<'_> {
    /// Reports the values that do not fit this machine.
    pub(super) fn check(&self, host: &HostLan) -> Vec<Problem> {
        let lan = &self.config.lan;
        let problem = |line, wrong| Problem {
            file: self.config.path.clone(),
            line: Some(line),
            wrong,
        };
        let interface = match (&lan.interface, host.default_interface()) {
            (Some(name), _) if host.interfaces.iter().any(|(n, _)| n == name) => &**name,
            (Some(name), _) => {
                let what = format!("lan.interface: this machine has no interface {name:?}");
                let wrong = Diagnostic::new(what, format!("choose one of {}", host.names()));
                let line = self.lines.interface.unwrap_or(self.lines.section);
                return vec![problem(line, wrong)];
            }
            (None, Some(name)) => name,
            (None, None) => {
                let what = "lan.interface is missing, and this machine has no IPv4 default route \
                            that names it";
                let wrong = Diagnostic::new(what, format!("set it to one of {}", host.names()));
                return vec![problem(self.lines.section, wrong)];
            }
        };
        let networks = self.lines.networks.iter();
        let elsewhere = networks.filter_map(|(line, network)| {
            let network = network.trunc();
            let is_own = host.networks_of(interface).contains(&network);
            // A default route may use any interface.
            let other = host
                .leaves_by(&network)
                .filter(|_| network.prefix_len() > 0)?;
            (other != interface && !is_own).then(|| {
                let wrong = self.elsewhere(host, interface, &network, other);
                problem(*line, wrong)
            })
        });
        elsewhere.collect()
    }

    /// Returns the problem of a network that is reached over another interface.
    fn elsewhere(&self, host: &HostLan, lan: &str, network: &IpNet, other: &str) -> Diagnostic {
        let (which, remedy) = match self.config.lan.interface {
            Some(_) => {
                let own = host.networks_of(lan).iter();
                let own: Vec<_> = own.map(|net| format!("\"{net}\"")).collect();
                let remedy = match own.is_empty() {
                    true => "leave the key out for all networks of that interface".to_owned(),
                    false => format!("write [{}], or leave the key out", own.join(", ")),
                };
                (format!("over lan.interface {lan:?}"), remedy)
            }
            None => (
                format!("over {lan}, the interface of the default route"),
                format!("set lan.interface to {other:?} if the LAN is there, or take it out"),
            ),
        };
        let what = format!("lan.networks: {network} is reached over {other}, not {which}");
        Diagnostic::new(what, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::loaded;
    use super::*;

    /// A machine with a card on the internet and one on the LAN, which has a router to 10.1.0.0/16.
    fn two_cards() -> HostLan {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let route = |to, name: &str| (net(to), name.to_owned());
        HostLan {
            interfaces: vec![
                ("wan0".into(), vec![net("203.0.113.0/24")]),
                (
                    "lan0".into(),
                    vec![net("192.168.77.0/24"), net("fd00:77::/64")],
                ),
            ],
            routes: vec![
                route("0.0.0.0/0", "wan0"),
                route("0.0.0.0/0", "lan0"),
                route("203.0.113.0/24", "wan0"),
                route("192.168.77.0/24", "lan0"),
                route("10.1.0.0/16", "lan0"),
                route("fd00:77::/64", "lan0"),
            ],
        }
    }

    #[track_caller]
    fn assert_said(lan: &str, host: &HostLan, expected: &[&str]) {
        let (dir, loaded) = loaded(&format!("[lan]\n{lan}\n"));
        let folder = format!("{}/", dir.path().display());
        let said = loaded.check_lan(host);
        let said: Vec<_> = { said.iter() }
            .map(|problem| problem.to_string().replace(&folder, ""))
            .collect();
        assert_eq!(said, expected, "{lan}");
    }

    #[test]
    fn networks_on_another_interface_are_reported() {
        let host = two_cards();
        assert_said(
            "interface = \"lan0\"\nnetworks = [\"203.0.113.0/24\"]",
            &host,
            &[
                "vcgate.toml:3: lan.networks: 203.0.113.0/24 is reached over wan0, not over \
                 lan.interface \"lan0\"; write [\"192.168.77.0/24\", \"fd00:77::/64\"], or leave \
                 the key out",
            ],
        );
        assert_said(
            "networks = [\"192.168.77.0/24\"]",
            &host,
            &[
                "vcgate.toml:2: lan.networks: 192.168.77.0/24 is reached over lan0, not over wan0, \
                 the interface of the default route; set lan.interface to \"lan0\" if the LAN is \
                 there, or take it out",
            ],
        );
        for fits in [
            "interface = \"lan0\"",
            "interface = \"lan0\"\nnetworks = [\"192.168.77.0/24\", \"10.1.2.0/24\", \"fd00:77::/64\"]",
            "interface = \"lan0\"\nnetworks = [\"192.168.77.10/32\"]",
            "interface = \"lan0\"\nnetworks = [\"0.0.0.0/0\", \"::/0\"]",
            "networks = [\"203.0.113.0/24\"]",
        ] {
            assert_said(fits, &host, &[]);
        }
    }

    #[test]
    fn missing_interfaces_are_reported() {
        let mut host = two_cards();
        assert_said(
            "interface = \"eth9\"\nnetworks = [\"203.0.113.0/24\"]",
            &host,
            &[
                "vcgate.toml:2: lan.interface: this machine has no interface \"eth9\"; choose one \
                 of wan0, lan0",
            ],
        );
        host.routes.retain(|(to, _)| to.prefix_len() > 0);
        assert_said(
            "",
            &host,
            &[
                "vcgate.toml:1: lan.interface is missing, and this machine has no IPv4 default \
                 route that names it; set it to one of wan0, lan0",
            ],
        );
    }
}
