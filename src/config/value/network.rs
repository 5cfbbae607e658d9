//! Parses values that are addresses, networks, names or endpoints, from a text to a typed value or a
//! [`Diagnostic`]. It never looks a name up.

use crate::config::problem::Diagnostic;
use crate::config::{Endpoint, LanAddress, host_prefix};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use vcgate_core::netmap::{NetMapError, PrefixMap};
use vcgate_wire::ip;

/// The default of `interface.listen_port`.
pub const DEFAULT_PORT: u16 = 51820;
/// Maximum length of a label and of a name in bytes (RFC 1035 section 2.3.4).
const MAX_LABEL_LEN: usize = 63;
const MAX_NAME_LEN: usize = 253;

/// Parses a prefix, `10.8.0.0/24`. An address without a length is one of full length.
///
/// # Errors
/// If the text is neither.
pub fn prefix(text: &str) -> Result<IpNet, Diagnostic> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(host_prefix(address));
    }
    text.parse().map_err(|_| {
        let what = format!("{text:?} is not an address with a prefix length");
        Diagnostic::new(what, "write it like \"10.8.0.11/32\" or \"fd00::11/128\"")
    })
}

/// Parses a network of the LAN, `192.168.1.0/24`, and the prefix by which clients know it if that is
/// another one, `192.168.1.0/24 as 10.77.1.0/24`.
pub(in crate::config) fn lan_network(text: &str) -> Result<(IpNet, Option<PrefixMap>), Diagnostic> {
    let mut words = text.split_ascii_whitespace();
    let (lan, client) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(lan), Some("as"), Some(client), None) => (prefix(lan)?, prefix(client)?),
        _ => return Ok((prefix(text)?, None)),
    };
    let map = PrefixMap::new(lan, client).map_err(|error| {
        let remedy = match error {
            NetMapError::Length(..) => {
                let example = IpNet::new(client.addr(), lan.prefix_len());
                match example.map(|net| net.trunc()) {
                    Ok(net) if net.addr().is_ipv4() == lan.addr().is_ipv4() => {
                        format!("write one of the same length, as \"{net}\"")
                    }
                    _ => "write one of the same address family and length".to_owned(),
                }
            }
            NetMapError::Overlap(..) => {
                "choose a prefix that neither the LAN nor clients use elsewhere".to_owned()
            }
        };
        Diagnostic::new(format!("cannot map {}: {error}", lan.trunc()), remedy)
    })?;
    Ok((lan, Some(map)))
}

/// Parses an address of the endpoint with its prefix length, `10.8.0.1/24`.
pub(in crate::config) fn own_address(text: &str) -> Result<IpNet, Diagnostic> {
    if text.parse::<IpAddr>().is_ok() {
        let what = format!("{text:?} has no prefix length");
        return Err(Diagnostic::new(
            what,
            format!("write \"{text}/24\" or the like"),
        ));
    }
    let net = prefix(text)?;
    if !ip::is_forwardable(net.addr()) || net.prefix_len() == 0 {
        let what = format!("{net} cannot be the address of a host that others reach");
        let remedy =
            "choose one of a private network that is used nowhere else, as \"10.8.0.1/24\"";
        return Err(Diagnostic::new(what, remedy));
    }
    let short = net.max_prefix_len() - net.prefix_len() >= 2;
    if short && net.addr().is_ipv4() && net.addr() == net.broadcast() {
        let what = format!("{net} is the broadcast address of its network");
        return Err(Diagnostic::new(what, "choose another address in it"));
    }
    if short && net.addr() == net.network() {
        let what = format!("{net} is the network, not an address in it");
        let first = net.hosts().find(|host| *host != net.network());
        let example = first.map_or_else(String::new, |host| {
            format!("write \"{host}/{}\"", net.prefix_len())
        });
        return Err(Diagnostic::new(what, example));
    }
    Ok(net)
}

/// Parses the LAN address: `"auto"` or a free IPv4 address.
pub(in crate::config) fn lan_address(text: &str) -> Result<LanAddress, Diagnostic> {
    match fixed_address(text)? {
        None => Ok(LanAddress::Auto),
        Some(IpAddr::V4(address)) => Ok(LanAddress::Fixed(address)),
        Some(IpAddr::V6(address)) => Err(Diagnostic::new(
            format!("{address} is IPv6"),
            "write it as address6, and here a free IPv4 address of the LAN, or \"auto\"",
        )),
    }
}

/// Parses the LAN address for IPv6: `"auto"` or a free IPv6 address.
pub(in crate::config) fn lan_address6(text: &str) -> Result<LanAddress<Ipv6Addr>, Diagnostic> {
    match fixed_address(text)? {
        None => Ok(LanAddress::Auto),
        Some(IpAddr::V6(address)) => Ok(LanAddress::Fixed(address)),
        Some(IpAddr::V4(address)) => Err(Diagnostic::new(
            format!("{address} is IPv4"),
            "write it as address, and here a free IPv6 address of the LAN, or \"auto\"",
        )),
    }
}

/// Parses an address that a host on the LAN can have; `None` is `"auto"`.
fn fixed_address(text: &str) -> Result<Option<IpAddr>, Diagnostic> {
    if text == "auto" {
        return Ok(None);
    }
    match text.parse::<IpAddr>() {
        Ok(address) if !ip::is_forwardable(address) => Err(Diagnostic::new(
            format!("{address} cannot be the address of a host that others reach"),
            "choose a free address of the LAN, or \"auto\"",
        )),
        Ok(address) => Ok(Some(address)),
        Err(_) => {
            let bare = text
                .split('/')
                .next()
                .and_then(|a| a.parse::<IpAddr>().ok());
            let remedy = match bare {
                Some(address) => format!("write \"{address}\", without a prefix length"),
                None => "write a free address of the LAN, or \"auto\"".to_owned(),
            };
            Err(Diagnostic::new(
                format!("{text:?} is not an address"),
                remedy,
            ))
        }
    }
}

/// Parses the value of `--endpoint`, with the default port.
///
/// # Errors
/// If the text is neither a name nor an address.
pub fn endpoint_argument(text: &str) -> Result<Endpoint, Diagnostic> {
    endpoint(text, DEFAULT_PORT)
}

/// Parses the value of `--address`, the endpoint's address in the tunnel. A network means its first
/// address.
///
/// # Errors
/// If the text is not a prefix, or an endpoint cannot have that address.
pub fn tunnel_argument(text: &str) -> Result<IpNet, Diagnostic> {
    let net = prefix(text)?;
    let is_network = net.addr() == net.network() && net.max_prefix_len() - net.prefix_len() >= 2;
    let first = net.hosts().find(|host| *host != net.network());
    match first {
        Some(first) if is_network => own_address(&format!("{first}/{}", net.prefix_len())),
        _ => own_address(text),
    }
}

/// Parses the address that clients connect to: `vpn.example.com:51820`, `[2001:db8::1]:51820`. The port
/// is optional.
pub(in crate::config) fn endpoint(text: &str, default_port: u16) -> Result<Endpoint, Diagnostic> {
    let wrong = || {
        Diagnostic::new(
            format!("{text:?} is not a host and a port"),
            "write it like \"vpn.example.com:51820\" or \"[2001:db8::1]:51820\"",
        )
    };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => {
            host.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            (host, rest)
        }
        None if text.parse::<Ipv6Addr>().is_ok() => (text, ""),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(wrong)?,
        None if port.is_empty() => default_port,
        None => return Err(wrong()),
    };
    let in_name = |c: char| c.is_alphanumeric() || c == '-' || c == '.' || c == '_';
    let is_host = host.parse::<IpAddr>().is_ok() || host.chars().all(in_name);
    if host.is_empty() || !is_host {
        return Err(wrong());
    }
    let host = host.to_owned();
    Ok(Endpoint { host, port })
}

/// A domain name in lower case, without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(pub(in crate::config) String);

impl DomainName {
    /// Reads a name of letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// If it is not a name.
    pub fn new(given: &str) -> Result<Self, Diagnostic> {
        let name = given.strip_suffix('.').unwrap_or(given);
        let character = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let label = |label: &str| {
            (1..=MAX_LABEL_LEN).contains(&label.len()) && label.chars().all(character)
        };
        if name.len() <= MAX_NAME_LEN && name.split('.').all(label) {
            return Ok(Self(name.to_ascii_lowercase()));
        }
        let remedy = "write it like \"lan.example\": labels of letters, digits, \"-\" and \"_\"";
        let what = format!("{given:?} is not a domain name");
        Err(Diagnostic::new(what, remedy))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn endpoints_are_names_or_addresses() {
        let shown = |text: &str| endpoint(text, 51820).map(|endpoint| endpoint.to_string());
        for (text, result) in [
            ("vpn.example.com:1", "vpn.example.com:1"),
            ("vpn.example.com", "vpn.example.com:51820"),
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("2001:db8::1", "[2001:db8::1]:51820"),
            ("[2001:db8::1]", "[2001:db8::1]:51820"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(result));
        }
        for text in [
            "", ":1", "a:0", "a:65536", "a:b", "a:1:2", "a b", "[x]:1", "[::1]1", "a/b",
        ] {
            assert!(shown(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_prefix_is_read_back(address: IpAddr, length in 0u8..=128) {
            if let Ok(net) = IpNet::new(address, length) {
                prop_assert_eq!(prefix(&net.to_string()), Ok(net));
                let _ = own_address(&net.to_string());
            }
        }
    }
}
