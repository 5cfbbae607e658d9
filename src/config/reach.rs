//! A rule for the destinations that a client may reach, and its notation.
//!
//! ```text
//! 192.168.77.0/24                a network, everything in it
//! 192.168.77.10/32:445           one port there, TCP and UDP
//! 10.1.0.0/16:tcp/80-443         a range of ports of one protocol
//! [fd00::/64]:udp/53, icmp       brackets are optional; a rule without a network means all
//! gateway:tcp/22, gateway        services of the gateway machine, which no other rule includes
//! ```

use super::problem::Diagnostic;
use super::value;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Services that a client may reach. `None` matches anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// The hosts.
    pub hosts: Hosts,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// The ports, of TCP and UDP without `protocol`; never with ICMP.
    pub ports: Option<RangeInclusive<u16>>,
}

/// The hosts of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// All hosts but the gateway.
    All,
    /// A network.
    Net(IpNet),
    /// The gateway machine at its own tunnel addresses.
    Gateway,
}

/// The word for [`Hosts::Gateway`].
const GATEWAY: &str = "gateway";

/// A protocol in a rule. ICMP is that of the address's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
}

impl FromStr for Rule {
    type Err = Diagnostic;

    fn from_str(text: &str) -> Result<Self, Diagnostic> {
        let of_gateway = text.strip_prefix(GATEWAY);
        let (hosts, service) = match of_gateway.map(|rest| (rest, rest.strip_prefix(':'))) {
            Some(("", _)) => (Hosts::Gateway, None),
            Some((_, Some(service))) => (Hosts::Gateway, Some(service)),
            _ => {
                let (net, service) = split(text);
                let net = net.map(value::prefix).transpose()?;
                (net.map_or(Hosts::All, Hosts::Net), service)
            }
        };
        let (protocol, ports) = match service {
            Some(service) => parse_service(service)?,
            None => (None, None),
        };
        Ok(Self {
            hosts,
            protocol,
            ports,
        })
    }
}

/// Reads a service of the gateway machine, such as `tcp/22`.
pub(super) fn gateway_service(text: &str) -> Result<Rule, Diagnostic> {
    let (protocol, ports) = parse_service(text)?;
    Ok(Rule {
        hosts: Hosts::Gateway,
        protocol,
        ports,
    })
}

impl TryFrom<String> for Rule {
    type Error = Diagnostic;

    fn try_from(text: String) -> Result<Self, Diagnostic> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        match self.hosts {
            Hosts::All => {}
            Hosts::Net(net) => write!(f, "{net}")?,
            Hosts::Gateway => f.write_str(GATEWAY)?,
        }
        if self.hosts != Hosts::All {
            separator = ":";
        }
        if let Some(protocol) = self.protocol {
            write!(f, "{separator}{protocol}")?;
            separator = "/";
        }
        if let Some(ports) = &self.ports {
            write!(f, "{separator}{}", ports.start())?;
            if ports.start() != ports.end() {
                write!(f, "-{}", ports.end())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// Splits a rule into its network and its service. Addresses have dots or colons, services have neither.
fn split(text: &str) -> (Option<&str>, Option<&str>) {
    if let Some((net, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return (
            Some(net),
            rest.strip_prefix(':')
                .or((!rest.is_empty()).then_some(rest)),
        );
    }
    if !text.contains(['.', ':']) {
        return (None, Some(text));
    }
    // An IPv6 address has colons itself: there the service comes after a prefix length.
    let dot = text.find('.').unwrap_or(text.len());
    let colon = match text.find(':').filter(|colon| *colon < dot) {
        None => text.find(':'),
        Some(_) => text
            .find('/')
            .and_then(|slash| Some(slash + text.get(slash..)?.find(':')?)),
    };
    match colon {
        Some(colon) => (Some(&text[..colon]), Some(&text[colon + 1..])),
        None => (Some(text), None),
    }
}

type Service = (Option<Protocol>, Option<RangeInclusive<u16>>);

fn parse_service(text: &str) -> Result<Service, Diagnostic> {
    let (protocol, ports) = match text.split_once('/') {
        Some((protocol, ports)) => (Some(protocol), Some(ports)),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => (None, Some(text)),
        None => (Some(text), None),
    };
    let protocol = match protocol {
        None => None,
        Some("tcp") => Some(Protocol::Tcp),
        Some("udp") => Some(Protocol::Udp),
        Some("icmp") => Some(Protocol::Icmp),
        Some(other) => {
            let what = format!("{other:?} is not a protocol");
            return Err(Diagnostic::new(what, "write tcp, udp or icmp"));
        }
    };
    if protocol == Some(Protocol::Icmp) && ports.is_some() {
        return Err(Diagnostic::new("icmp has no ports", "write icmp by itself"));
    }
    Ok((protocol, ports.map(parse_ports).transpose()?))
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, Diagnostic> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => {
            let what = format!("{text:?} is not a port or a range of ports");
            Err(Diagnostic::new(
                what,
                "write it like 445 or 80-443, from 1 to 65535",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(net: &str, protocol: Option<Protocol>, ports: Option<RangeInclusive<u16>>) -> Rule {
        Rule {
            hosts: match net {
                "" => Hosts::All,
                GATEWAY => Hosts::Gateway,
                net => Hosts::Net(net.parse().unwrap()),
            },
            protocol,
            ports,
        }
    }

    #[test]
    fn rules_are_read() {
        use Protocol::*;
        for (text, expected) in [
            (
                "192.168.77.10/32:445",
                rule("192.168.77.10/32", None, Some(445..=445)),
            ),
            (
                "10.1.0.0/16:tcp/80-443",
                rule("10.1.0.0/16", Some(Tcp), Some(80..=443)),
            ),
            ("10.1.0.0/16", rule("10.1.0.0/16", None, None)),
            ("10.1.0.1", rule("10.1.0.1/32", None, None)),
            (
                "10.1.0.1:udp/53",
                rule("10.1.0.1/32", Some(Udp), Some(53..=53)),
            ),
            ("10.1.0.1:icmp", rule("10.1.0.1/32", Some(Icmp), None)),
            ("icmp", rule("", Some(Icmp), None)),
            ("tcp", rule("", Some(Tcp), None)),
            ("tcp/443", rule("", Some(Tcp), Some(443..=443))),
            ("445", rule("", None, Some(445..=445))),
            ("fd00::/64", rule("fd00::/64", None, None)),
            ("fd00::1", rule("fd00::1/128", None, None)),
            (
                "fd00::1/128:tcp/445",
                rule("fd00::1/128", Some(Tcp), Some(445..=445)),
            ),
            ("[fd00::1]:445", rule("fd00::1/128", None, Some(445..=445))),
            ("[fd00::/64]:icmp", rule("fd00::/64", Some(Icmp), None)),
            ("[fd00::/64]", rule("fd00::/64", None, None)),
            ("gateway", rule(GATEWAY, None, None)),
            ("gateway:123", rule(GATEWAY, None, Some(123..=123))),
            ("gateway:tcp/22", rule(GATEWAY, Some(Tcp), Some(22..=22))),
        ] {
            assert_eq!(text.parse::<Rule>(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_have_remedies() {
        for (text, said) in [
            (
                "sctp/5",
                "\"sctp\" is not a protocol; write tcp, udp or icmp",
            ),
            ("", "\"\" is not a protocol; write tcp, udp or icmp"),
            (
                "[fd00::1]x",
                "\"x\" is not a protocol; write tcp, udp or icmp",
            ),
            (
                "gateways",
                "\"gateways\" is not a protocol; write tcp, udp or icmp",
            ),
            ("gateway:", "\"\" is not a protocol; write tcp, udp or icmp"),
            (
                "10.0.0.1:",
                "\"\" is not a protocol; write tcp, udp or icmp",
            ),
            ("10.0.0.1:icmp/8", "icmp has no ports; write icmp by itself"),
            (
                "10.0.0.1:0",
                "\"0\" is not a port or a range of ports; write it like 445 or 80-443, from 1 to 65535",
            ),
            (
                "tcp/443-80",
                "\"443-80\" is not a port or a range of ports; write it like 445 or 80-443, from 1 to 65535",
            ),
            (
                "10.0.0.1/33:445",
                "\"10.0.0.1/33\" is not an address with a prefix length; write it like \"10.8.0.11/32\" or \"fd00::11/128\"",
            ),
        ] {
            assert_eq!(
                text.parse::<Rule>().unwrap_err().to_string(),
                said,
                "{text}"
            );
        }
    }

    fn rules() -> impl Strategy<Value = Rule> {
        let net = any::<std::net::IpAddr>().prop_map(IpNet::from);
        let hosts = prop_oneof![
            Just(Hosts::All),
            net.prop_map(Hosts::Net),
            Just(Hosts::Gateway)
        ];
        let ports = (1u16.., 1u16..).prop_map(|(a, b)| a.min(b)..=a.max(b));
        let tcp_or_udp = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        let service = prop_oneof![
            (
                proptest::option::of(tcp_or_udp),
                proptest::option::of(ports)
            ),
            Just((Some(Protocol::Icmp), None)),
        ];
        (hosts, service)
            .prop_map(|(hosts, (protocol, ports))| Rule {
                hosts,
                protocol,
                ports,
            })
            .prop_filter("a rule says something", |rule| !rule.to_string().is_empty())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(rule in rules()) {
            prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
        }

        #[test]
        fn any_text_is_a_rule_or_an_error(text in "[0-9a-f.:/\\[\\]tcpudim-]{0,24}|\\PC*") {
            let _ = text.parse::<Rule>();
        }
    }
}
