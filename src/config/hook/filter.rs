//! Parses commands of packet filters. Only rules that are known to restrict nothing are harmless.

use super::Concern;
use ipnet::IpNet;

/// The relevant parts of a rule of iptables or ip6tables.
#[derive(Default)]
struct Rule<'a> {
    table: &'a str,
    chain: &'a str,
    target: &'a str,
    in_interface: Option<&'a str>,
    out_interface: Option<&'a str>,
    protocol: Option<&'a str>,
    port: Option<&'a str>,
    destination: Option<&'a str>,
    /// Whether it matches on more than interfaces and established connections.
    is_narrow: bool,
}

/// Parses a command of iptables(8) and iptables-extensions(8).
pub(super) fn iptables(arguments: &[&str], tunnel: &[IpNet]) -> Option<Concern> {
    let mut rule = Rule {
        table: "filter",
        ..Rule::default()
    };
    let mut words = arguments.iter().copied().peekable();
    let mut is_added = false;
    while let Some(word) = words.next() {
        // Consumes the value of an option.
        let mut value = || words.next().unwrap_or_default();
        match word {
            // These only remove or list rules.
            "-D" | "--delete" | "-F" | "--flush" | "-X" | "--delete-chain" | "-Z" | "--zero"
            | "-C" | "--check" | "-L" | "--list" | "-S" | "--list-rules" | "-N" | "--new-chain" => {
                return None;
            }
            "-P" | "--policy" => {
                value();
                return (value() != "ACCEPT").then_some(Concern::Restricts);
            }
            "-A" | "--append" | "-I" | "--insert" => {
                rule.chain = value();
                is_added = true;
                if words.peek().is_some_and(|next| next.parse::<u32>().is_ok()) {
                    words.next();
                }
            }
            "-t" | "--table" => rule.table = value(),
            "-j" | "--jump" => rule.target = value(),
            "-i" | "--in-interface" => rule.in_interface = Some(value()),
            "-o" | "--out-interface" => rule.out_interface = Some(value()),
            "-s" | "--source" | "--src" => rule.is_narrow |= !covers(value(), tunnel),
            "-p" | "--protocol" => rule.protocol = Some(value()).filter(|name| *name != "all"),
            "--dport" | "--destination-port" => rule.port = Some(value()),
            "--to-source" => drop(value()),
            "--to-destination" => rule.destination = Some(value()),
            "-m" | "--match" => {
                let known = ["conntrack", "state", "comment", "tcp", "udp"];
                rule.is_narrow |= !known.contains(&value());
            }
            "--ctstate" | "--state" => rule.is_narrow |= !is_established(value()),
            "--comment" => drop(value()),
            "-w" | "--wait" | "-v" | "--verbose" => {
                if words.peek().is_some_and(|next| next.parse::<u32>().is_ok()) {
                    words.next();
                }
            }
            _ => rule.is_narrow = true,
        }
    }
    match is_added {
        true => rule.concern(),
        false => Some(Concern::Unreadable),
    }
}

impl Rule<'_> {
    fn concern(&self) -> Option<Concern> {
        let by_service = self.protocol.is_some() || self.port.is_some();
        let is_narrow = self.is_narrow || by_service;
        match (self.table, self.chain, self.target) {
            ("nat", "POSTROUTING", "MASQUERADE") if !is_narrow => None,
            // vcgate clamps the MSS by itself.
            (_, _, "TCPMSS") => None,
            ("filter", "FORWARD", "ACCEPT") if !is_narrow => None,
            // Opens ports of the host, which vcgate does not close to clients.
            ("filter", "INPUT" | "OUTPUT", "ACCEPT") => None,
            // Clients do not reach one another, unless client_to_client is set.
            ("filter", "FORWARD", "DROP" | "REJECT")
                if self.in_interface.is_some() && self.in_interface == self.out_interface =>
            {
                None
            }
            ("nat", "POSTROUTING", "SNAT") if !is_narrow => Some(Concern::Translates),
            ("nat", _, "DNAT" | "REDIRECT") => Some(Concern::Forwards(self.forward())),
            _ => Some(Concern::Restricts),
        }
    }

    /// Returns the arguments of `vcgate forward add`, if the rule only forwards one port to one address
    /// and port.
    fn forward(&self) -> Option<String> {
        let protocol = self.protocol.filter(|name| ["tcp", "udp"].contains(name))?;
        let port: u16 = self.port?.parse().ok()?;
        let to = self.destination?;
        let to = match to.parse() {
            Ok(address) => std::net::SocketAddr::new(address, port).to_string(),
            Err(_) => to.parse::<std::net::SocketAddr>().ok()?.to_string(),
        };
        (!self.is_narrow).then(|| format!("{protocol}/{port} {to}"))
    }
}

/// Whether a source contains the tunnel's networks of its address family.
fn covers(source: &str, tunnel: &[IpNet]) -> bool {
    let Ok(source) = source.parse::<IpNet>() else {
        return false;
    };
    let is_v4 = source.addr().is_ipv4();
    let mut own = tunnel.iter().filter(|net| net.addr().is_ipv4() == is_v4);
    own.all(|net| source.contains(&net.trunc()))
}

/// Whether the states are those of answers to clients, which vcgate allows as well.
fn is_established(states: &str) -> bool {
    let mut states = states.split(',');
    states.all(|state| {
        state.eq_ignore_ascii_case("related") || state.eq_ignore_ascii_case("established")
    })
}

/// Parses a command of nft(8). Rules that accept or masquerade whole interfaces are harmless.
pub(super) fn nft(arguments: &[&str], tunnel: &[IpNet]) -> Option<Concern> {
    let text = arguments.join(" ");
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["delete" | "flush" | "destroy" | "list" | "reset", ..] => None,
        ["add" | "create", "table", rest @ ..] if !rest.contains(&"{") => None,
        ["add" | "create", "chain", rest @ ..] => {
            let drops = rest.iter().any(|word| word.starts_with("drop"));
            drops.then_some(Concern::Restricts)
        }
        ["add" | "insert", "rule", rest @ ..] => nft_rule(rest, tunnel),
        [option, ..] if option.starts_with('-') => Some(Concern::Unreadable),
        _ => Some(Concern::Unreadable),
    }
}

fn nft_rule(words: &[&str], tunnel: &[IpNet]) -> Option<Concern> {
    let words = match words {
        ["ip" | "ip6" | "inet", _table, _chain, rest @ ..] => rest,
        [_table, _chain, rest @ ..] => rest,
        _ => return Some(Concern::Unreadable),
    };
    if words.contains(&"dnat") || words.contains(&"redirect") {
        return Some(Concern::Forwards(None));
    }
    let mut words = words;
    loop {
        words = match words {
            [] | ["accept" | "masquerade"] => return None,
            ["iifname" | "oifname" | "iif" | "oif", name, rest @ ..] if *name != "!=" => rest,
            ["ct", "state", states, rest @ ..] if is_established(states) => rest,
            ["ip" | "ip6", "saddr", net, rest @ ..] if covers(net, tunnel) => rest,
            ["counter", rest @ ..] => rest,
            _ => return Some(Concern::Restricts),
        };
    }
}

/// Parses a command of ufw(8). Forwarding between interfaces and open ports of the host are harmless.
pub(super) fn ufw(arguments: &[&str]) -> Option<Concern> {
    let arguments: Vec<&str> = arguments
        .iter()
        .copied()
        .filter(|w| *w != "delete")
        .collect();
    match arguments.as_slice() {
        ["route", "allow", "in", "on", _] | ["route", "allow", "in", "on", _, "out", "on", _] => {
            None
        }
        ["allow", ..] => None,
        _ => Some(Concern::Restricts),
    }
}

#[cfg(test)]
mod tests {
    use super::super::findings;

    /// Returns the reports about a hook.
    fn said(hook: &str) -> Vec<String> {
        let tunnel = ["10.9.0.1/24", "fd00:9::1/64"].map(|net| net.parse().unwrap());
        let findings = findings(hook, &tunnel);
        findings
            .iter()
            .map(|f| f.wrong("PostUp").to_string())
            .collect()
    }

    #[test]
    fn translation_and_open_forwarding_are_harmless() {
        for hook in [
            "iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
            "iptables -w -t nat -I POSTROUTING 1 -s 10.9.0.0/24 -o eth0 -j MASQUERADE",
            "iptables -t nat -A POSTROUTING -o $(ip route show default | awk '{print $5}') -j MASQUERADE",
            "ip6tables -t nat -A POSTROUTING -s fd00:9::/64 -o eth0 -j MASQUERADE",
            "/sbin/iptables -A FORWARD -i %i -o eth0 -j ACCEPT",
            "sudo iptables -I FORWARD -i eth0 -o %i -m state --state RELATED,ESTABLISHED -j ACCEPT",
            "iptables -A FORWARD -i %i -m comment --comment 'a; -d b' -j ACCEPT",
            "iptables -I INPUT -p udp --dport 51820 -j ACCEPT",
            "iptables -A FORWARD -i %i -o %i -j REJECT",
            "iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
            "iptables -P FORWARD ACCEPT",
            "iptables -D FORWARD -d 10.1.1.1 -j DROP",
            "iptables -C FORWARD -i wg0 -j ACCEPT || iptables -A FORWARD -i wg0 -j ACCEPT",
            "nft add table inet wg",
            "nft add chain ip nat post '{ type nat hook postrouting priority 100 ; }'",
            "nft add rule ip nat post oifname \"eth0\" counter masquerade",
            "nft add rule inet filter forward iifname wg0 accept",
            "nft 'add rule inet filter forward ct state established,related accept'",
            "nft delete table inet wg",
            "ip route add 10.20.0.0/16 dev %i",
        ] {
            assert_eq!(said(hook), [""; 0], "{hook}");
        }
    }

    #[test]
    fn other_commands_are_reported() {
        let (restricts, translates, forwards, unreadable) = (
            "restricts access and is not imported",
            "gives clients a certain address on the LAN",
            "forwards a port and is not imported",
            "may contain access rules",
        );
        for (hook, expected) in [
            ("iptables -A FORWARD -d 192.168.77.9 -j DROP", restricts),
            ("iptables -A FORWARD -s 10.9.0.2 -j ACCEPT", restricts),
            ("iptables -A FORWARD -i %i ! -o eth0 -j ACCEPT", restricts),
            ("iptables -A FORWARD -i %i -o eth0 -j DROP", restricts),
            (
                "iptables -A FORWARD -i %i -p tcp --dport 445 -j ACCEPT",
                restricts,
            ),
            (
                "iptables -A FORWARD -m mac --mac-source 00:11 -j ACCEPT",
                restricts,
            ),
            (
                "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP",
                restricts,
            ),
            ("iptables -A FORWARD -j CLIENTS", restricts),
            ("iptables -A CLIENTS -j ACCEPT", restricts),
            ("iptables -A INPUT -i %i -j DROP", restricts),
            ("iptables -P FORWARD DROP", restricts),
            ("iptables -t raw -A PREROUTING -i %i -j DROP", restricts),
            (
                "iptables -t nat -A POSTROUTING -d 192.168.77.0/24 -j MASQUERADE",
                restricts,
            ),
            (
                "iptables -t nat -A POSTROUTING -j SNAT --to-source 192.0.2.1",
                translates,
            ),
            (
                "iptables -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to 10.9.0.2",
                forwards,
            ),
            ("iptables -R FORWARD 1 -j ACCEPT", unreadable),
            ("iptables-restore < /etc/rules", unreadable),
            (
                "nft add rule inet filter forward iifname wg0 drop",
                restricts,
            ),
            (
                "nft add rule inet filter forward iifname wg0 tcp dport 22 accept",
                restricts,
            ),
            (
                "nft add rule inet filter forward iifname != wg0 accept",
                restricts,
            ),
            (
                "nft add chain inet wg fwd '{ type filter hook forward priority 0; policy drop; }'",
                restricts,
            ),
            (
                "nft add rule ip nat pre tcp dport 80 dnat to 10.9.0.2",
                forwards,
            ),
            ("nft -f /etc/wg.nft", unreadable),
            ("nft 'add table inet x { chain y { } }'", unreadable),
            ("ufw route deny in on wg0", restricts),
            ("ufw route allow in on wg0 to 192.168.77.9", restricts),
            ("ip rule add from 10.9.0.5 prohibit", restricts),
            ("/etc/wireguard/up.sh", unreadable),
            ("./iptables -A FORWARD -j ACCEPT", unreadable),
            ("bash -c 'iptables -A FORWARD -j DROP'", unreadable),
            (
                "for c in 2 3; do iptables -A FORWARD -s 10.9.0.$c -j DROP; done",
                unreadable,
            ),
            ("echo x > /etc/nftables.conf", unreadable),
        ] {
            let said = said(hook);
            assert!(
                said.iter().any(|line| line.contains(expected)),
                "{hook}: {said:?}"
            );
        }
    }

    #[test]
    fn a_forwarded_port_comes_with_its_command() {
        let rule =
            "iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 8443 -j DNAT --to-destination";
        for (to, forward) in [
            ("10.9.0.2:443", "10.9.0.2:443"),
            ("10.9.0.2", "10.9.0.2:8443"),
        ] {
            let said = said(&format!("{rule} {to}"));
            let end = format!("then \"vcgate forward add tcp/8443 {forward}\"");
            assert!(said[0].ends_with(&end), "{said:?}");
        }
    }
}
