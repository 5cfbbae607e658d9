//! The machine's own resolvers and search domains, from resolv.conf(5). Its stub of systemd-resolved
//! is a resolver like any other. It never changes the file.

use super::programs;
use crate::config::DomainName;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

const PORT: u16 = 53;

/// The resolvers of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Its servers, in order of preference.
    pub servers: Vec<SocketAddr>,
    /// Its search domains.
    pub search: Vec<DomainName>,
}

impl ResolvConf {
    /// Reads the file of this machine, also in an endpoint that has given up the right to it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn read() -> io::Result<Self> {
        let text = programs::read_resolv_conf().await?;
        Ok(Self::parse(&text))
    }

    /// Reads a text. Lines that it does not know are ignored, as by the C library.
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(server)),
                // The last line counts; a search domain "." means none.
                Some("search" | "domain") => {
                    let names = words.filter_map(|word| DomainName::new(word).ok());
                    conf.search = names.collect();
                }
                _ => {}
            }
        }
        conf
    }
}

/// Reads the address of a server; a link-local one names its interface.
fn server(text: &str) -> Option<SocketAddr> {
    let (address, scope) = text.split_once('%').unwrap_or((text, ""));
    match (address.parse().ok()?, scope) {
        (IpAddr::V6(address), scope) if !scope.is_empty() => {
            let index = scope.parse().ok();
            let index = index.or_else(|| vcgate_io::interface_index(scope))?;
            Some(SocketAddrV6::new(address, PORT, 0, index).into())
        }
        (address, _) => Some(SocketAddr::new(address, PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn servers_and_search_domains_are_read() {
        let conf = ResolvConf::parse(
            "# made by hand\ndomain old.example\nsearch LAN.example. b.example\n\
             nameserver 192.168.77.10\nnameserver  fd00::1 # comment\nnameserver fe80::1%lo\n\
             nameserver nonsense\nnameserver\noptions edns0 trust-ad\n",
        );
        let servers: Vec<_> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            servers,
            ["192.168.77.10:53", "[fd00::1]:53", "[fe80::1%1]:53"]
        );
        let search: Vec<_> = conf.search.iter().map(DomainName::as_str).collect();
        assert_eq!(search, ["lan.example", "b.example"]);
        assert_eq!(ResolvConf::parse("search .\n"), ResolvConf::default());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text: String) {
            let _ = ResolvConf::parse(&text);
        }
    }
}
