//! An inbound forward from a port of the LAN address to a client, and its notation.

use super::problem::Diagnostic;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// `[[forward]]`: a static forward from a port of the LAN address to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The protocol.
    pub proto: Transport,
    /// The port of the LAN address.
    pub lan_port: u16,
    /// The client's inner address and port.
    pub to: SocketAddr,
    /// The IPv4 address on the LAN; `None` is the first one that clients share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lan_address: Option<Ipv4Addr>,
}

impl Forward {
    /// Returns the port with its protocol.
    pub fn port(&self) -> Port {
        Port {
            proto: self.proto,
            number: self.lan_port,
        }
    }
}

/// A protocol whose ports can be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the LAN address, `tcp/8443`. The default protocol is TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Port {
    /// The protocol.
    pub proto: Transport,
    /// From 1 to 65535.
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.proto, self.number)
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

impl TryFrom<String> for Port {
    type Error = Diagnostic;

    fn try_from(text: String) -> Result<Self, Diagnostic> {
        text.parse()
    }
}

impl FromStr for Port {
    type Err = Diagnostic;

    fn from_str(text: &str) -> Result<Self, Diagnostic> {
        let (proto, number) = match text.split_once('/') {
            None => (Transport::Tcp, text),
            Some(("tcp", number)) => (Transport::Tcp, number),
            Some(("udp", number)) => (Transport::Udp, number),
            Some((other, _)) => {
                let what = format!("{other:?} has no ports to forward");
                return Err(Diagnostic::new(what, "write tcp/8443 or udp/5060"));
            }
        };
        match number.parse() {
            Ok(number) if number != 0 => Ok(Self { proto, number }),
            _ => {
                let what = format!("{text:?} is not a port");
                Err(Diagnostic::new(what, "write tcp/8443 or udp/5060"))
            }
        }
    }
}

/// Parses a client's address and port, `10.8.0.11:443` or `[fd00:8::11]:443`.
///
/// # Errors
/// If the text is not an address with a port.
pub fn target(text: &str) -> Result<SocketAddr, Diagnostic> {
    let remedy = "write the client's inner address and port, as \"10.8.0.11:443\" or \
                  \"[fd00:8::11]:443\"";
    match text.parse::<SocketAddr>() {
        Ok(to) if to.port() == 0 => Err(Diagnostic::new(format!("{text:?} has no port"), remedy)),
        Ok(to) => Ok(to),
        Err(_) => Err(Diagnostic::new(
            format!("{text:?} is not an address with a port"),
            remedy,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_parsed_and_formatted() {
        for (text, shown) in [
            ("8443", "tcp/8443"),
            ("tcp/1", "tcp/1"),
            ("udp/65535", "udp/65535"),
        ] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), shown);
        }
        for (text, said) in [
            (
                "icmp/1",
                "\"icmp\" has no ports to forward; write tcp/8443 or udp/5060",
            ),
            ("0", "\"0\" is not a port; write tcp/8443 or udp/5060"),
            (
                "tcp/65536",
                "\"tcp/65536\" is not a port; write tcp/8443 or udp/5060",
            ),
            ("", "\"\" is not a port; write tcp/8443 or udp/5060"),
        ] {
            assert_eq!(text.parse::<Port>().unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn targets_have_an_address_and_a_port() {
        for text in ["10.8.0.11:443", "[fd00:8::11]:443"] {
            assert_eq!(target(text).unwrap().to_string(), text);
        }
        for (text, said) in [
            (
                "10.8.0.11",
                "\"10.8.0.11\" is not an address with a port; \
              write the client's inner address and port, as \"10.8.0.11:443\" or \
              \"[fd00:8::11]:443\"",
            ),
            (
                "10.8.0.11:0",
                "\"10.8.0.11:0\" has no port; \
              write the client's inner address and port, as \"10.8.0.11:443\" or \
              \"[fd00:8::11]:443\"",
            ),
            (
                "fd00:8::11:443",
                "\"fd00:8::11:443\" is not an address with a port; \
              write the client's inner address and port, as \"10.8.0.11:443\" or \
              \"[fd00:8::11]:443\"",
            ),
        ] {
            assert_eq!(target(text).unwrap_err().to_string(), said);
        }
    }
}
